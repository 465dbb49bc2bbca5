// Package ignite is what a handler is written with.
//
//	func handler(payload []byte, ctx *ignite.Context) ([]byte, error) { return payload, nil }
//
//	func main() { ignite.Start(handler) }
package ignite

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
)

// Longest payload, unless IGNITE_MAX_PAYLOAD_BYTES says otherwise.
const maxPayload = 64 << 20

// Context is whose call it is.
type Context struct {
	// ExecutionID names this call.
	ExecutionID string
	// FunctionID is the app, as org/name.
	FunctionID string
	// OrganizationID names the organization.
	OrganizationID string
	// Headers are those of the request.
	Headers http.Header
}

// Handler answers a call. The bytes are the answer as they are; an error is a 500 with `error`.
type Handler func(payload []byte, ctx *Context) ([]byte, error)

// Start serves the handler on $PORT until SIGTERM, then until every call has its answer.
func Start(handler Handler) {
	if handler == nil {
		logger.Fatal("ignite: Start needs a handler, func(payload []byte, ctx *ignite.Context) ([]byte, error)")
	}
	most := payloadLimit()
	listen(func(w http.ResponseWriter, r *http.Request) {
		payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the payload has more than %d bytes", most))
			return
		}
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		answer, err := handler(payload, &Context{
			ExecutionID:    r.Header.Get(execution),
			FunctionID:     r.Header.Get("X-Ignite-Function-Id"),
			OrganizationID: r.Header.Get("X-Ignite-Organization-Id"),
			Headers:        r.Header,
		})
		if err != nil {
			report(r, err)
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = w.Write(answer)
	})
}

// payloadLimit is a whole number of at least 1 from the environment.
func payloadLimit() int64 {
	const name = "IGNITE_MAX_PAYLOAD_BYTES"
	text := os.Getenv(name)
	if text == "" {
		return maxPayload
	}
	most, err := strconv.ParseInt(text, 10, 64)
	if err != nil || most < 1 || most == math.MaxInt64 {
		logger.Fatalf("ignite: %s=%q is not a whole number of at least 1", name, text)
	}
	return most
}
