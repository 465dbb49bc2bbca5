// The HTTP server around a handler.
//
// Every request but those of the platform for the container's health goes to the handler. A panic
// before the answer has begun is a 500 with `error`.

package ignite

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// The platform's lines are not those of the handler, which may set up its own log.
var logger = log.New(os.Stderr, "", 0)

const (
	healthPath = "/healthz"
	execution  = "X-Ignite-Execution-Id"
)

// listen serves calls on $PORT until SIGTERM, then until every one has its answer.
func listen(call http.HandlerFunc) {
	port := os.Getenv("PORT")
	if port == "" {
		port = "80"
	}
	listener, err := net.Listen("tcp", "0.0.0.0:"+port)
	if err != nil {
		logger.Fatalf("ignite: cannot listen on port %s: %v", port, err)
	}
	server := &http.Server{Handler: serve(call)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	drained := make(chan struct{})
	go func() {
		<-ended
		// Until every call has its answer; how long that may take is for the platform to say.
		_ = server.Shutdown(context.Background())
		close(drained)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		logger.Fatalf("ignite: %v", err)
	}
	<-drained
}

// serve keeps the platform's questions and panics from a handler.
func serve(call http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if isHealth(r) {
			fmt.Fprintln(w, "ok")
			return
		}
		answer := &answer{ResponseWriter: w}
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause != http.ErrAbortHandler {
				report(r, fmt.Sprintf("%v\n%s", cause, debug.Stack()))
			}
			// An answer that breaks off must not look whole.
			if answer.begun || cause == http.ErrAbortHandler {
				panic(http.ErrAbortHandler)
			}
			for name := range w.Header() {
				w.Header().Del(name)
			}
			fail(w, http.StatusInternalServerError, fmt.Sprint(cause))
		}()
		call(answer, r)
	}
}

// fail answers with an error.
func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// report writes why a call failed into the app's log.
func report(r *http.Request, cause any) {
	logger.Printf("ignite: execution %s failed: %v", r.Header.Get(execution), cause)
}

// isHealth tells whether the platform asks for the container's health: at the usual path, or at
// one that the app set, where only the platform's own questions name no execution.
func isHealth(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return r.URL.Path == healthPath ||
		r.Header.Get(execution) == "" && strings.HasPrefix(r.UserAgent(), "ignite-health")
}

// answer knows whether an answer has begun, and can all that the server's own can.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) WriteHeader(status int) {
	// Those of the 100s come before the answer.
	a.begun = a.begun || status >= 200
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(body []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(body)
}

func (a *answer) Flush() {
	a.begun = true
	a.ResponseWriter.(http.Flusher).Flush()
}

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.begun = true
	return a.ResponseWriter.(http.Hijacker).Hijack()
}

func (a *answer) Unwrap() http.ResponseWriter {
	return a.ResponseWriter
}
