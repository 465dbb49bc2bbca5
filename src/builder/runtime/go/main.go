// The HTTP server around a handler: what a container of the Go runtime runs.
//
// Every request but those of the platform for the container's health goes to `Handler` of the
// code's own package. A panic before the answer has begun is a 500 with `error`.
package main

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

	handler "MODULE"
)

const (
	healthPath = "/healthz"
	execution  = "X-Ignite-Execution-Id"
)

func main() {
	log.SetFlags(0)
	port := os.Getenv("PORT")
	if port == "" {
		port = "80"
	}
	listener, err := net.Listen("tcp", "0.0.0.0:"+port)
	if err != nil {
		log.Fatalf("ignite: cannot listen on port %s: %v", port, err)
	}
	server := &http.Server{Handler: http.HandlerFunc(serve)}
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
		log.Fatalf("ignite: %v", err)
	}
	<-drained
}

func serve(w http.ResponseWriter, r *http.Request) {
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
			log.Printf("ignite: execution %s failed: %v\n%s", r.Header.Get(execution), cause, debug.Stack())
		}
		// An answer that breaks off must not look whole.
		if answer.begun || cause == http.ErrAbortHandler {
			panic(http.ErrAbortHandler)
		}
		for name := range w.Header() {
			w.Header().Del(name)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": fmt.Sprint(cause)})
	}()
	handler.Handler(answer, r)
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
