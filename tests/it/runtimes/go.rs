//! Go: a package with `Handler`, and a program as the manual has it.

use hyper::{Method, StatusCode};

use super::{AT_ONCE, Handler, TEXT, server};

const GO: &str = r#"package handler

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"example.com/fn/more"
)

var meeting sync.WaitGroup

func init() { meeting.Add(MANY) }

func Handler(w http.ResponseWriter, r *http.Request) {
	payload, _ := io.ReadAll(r.Body)
	fmt.Println("called with", string(payload))
	switch string(payload) {
	case "ctx":
		json.NewEncoder(w).Encode(map[string]string{
			"execution_id":    r.Header.Get("X-Ignite-Execution-Id"),
			"function_id":     r.Header.Get("X-Ignite-Function-Id"),
			"organization_id": r.Header.Get("X-Ignite-Organization-Id"),
		})
	case "twice":
		fmt.Fprint(w, more.Twice(2))
	case "stream":
		fmt.Fprint(w, "a")
		w.(http.Flusher).Flush()
		fmt.Fprint(w, "b")
	case "status":
		w.WriteHeader(http.StatusTeapot)
	case "panic":
		panic("no luck")
	case "late":
		fmt.Fprint(w, "a")
		w.(http.Flusher).Flush()
		panic("too late")
	case "meet":
		meeting.Done()
		meeting.Wait()
		fmt.Fprint(w, "met")
	default:
		w.Write(payload)
	}
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_go_handler_answers_as_the_contract_has_it() {
    let images = [("IGNITE_GO_BUILDER", "go"), ("IGNITE_GO_BASE", "run")];
    let ignite = server(&images).await;
    let code = GO.replace("MANY", &AT_ONCE.to_string());
    let files: &[(&str, &[u8])] = &[
        ("handler.go", code.as_bytes()),
        ("go.mod", b"module example.com/fn\n\ngo 1.19\n"),
        (
            "more/more.go",
            b"package more\n\nfunc Twice(n int) int { return 2 * n }\n",
        ),
    ];
    let handler = Handler::new(ignite, files, &["--runtime", "go"]);
    handler.deploy_ok();
    handler.answers("twice", TEXT, "4").await;
    handler.answers("stream", TEXT, "ab").await;
    assert_eq!(handler.call("status").await.status, StatusCode::IM_A_TEAPOT);
    let code = "package one\n\nimport (\n\"fmt\"\n\"net/http\"\n)\n\nfunc Handler(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, \"alone\") }\n";
    handler.can_be_one_file("go", code, "alone").await;
    // The platform may see the end before it has passed on the beginning.
    let late = handler.app.request(&handler.ignite, Method::POST, "/");
    if let Ok(late) = late.body("late").send().await {
        assert!(late.whole().await.is_err(), "it must not look whole");
    }
    handler.keeps_the_contract("panic").await;
}

const GO_PROGRAM: &str = r#"package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"example.com/twice"
	"ignite"
)

var meeting sync.WaitGroup

func handler(payload []byte, ctx *ignite.Context) ([]byte, error) {
	fmt.Println("called with", string(payload))
	switch string(payload) {
	case "ctx":
		return json.Marshal(map[string]string{
			"execution_id":    ctx.ExecutionID,
			"function_id":     ctx.FunctionID,
			"organization_id": ctx.OrganizationID,
		})
	case "header":
		return []byte(ctx.Headers.Get("x-ignite-function-id")), nil
	case "twice":
		return []byte(fmt.Sprint(twice.Twice(2))), nil
	case "error":
		return nil, errors.New("no luck")
	case "panic":
		panic("no hope")
	case "meet":
		meeting.Done()
		meeting.Wait()
		return []byte("met"), nil
	}
	return payload, nil
}

func main() {
	meeting.Add(MANY)
	ignite.Start(handler)
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_go_program_answers_as_the_manual_has_it() {
    let images = [("IGNITE_GO_BUILDER", "go"), ("IGNITE_GO_BASE", "run")];
    let ignite = server(&images).await;
    let code = GO_PROGRAM.replace("MANY", &AT_ONCE.to_string());
    // With the modules that it needs, since builds have no way to others here.
    let files: &[(&str, &[u8])] = &[
        ("main.go", code.as_bytes()),
        (
            "go.mod",
            b"module example.com/fn\n\ngo 1.19\n\nrequire example.com/twice v1.0.0\n",
        ),
        (
            "vendor/modules.txt",
            b"# example.com/twice v1.0.0\n## explicit; go 1.19\nexample.com/twice\n",
        ),
        (
            "vendor/example.com/twice/twice.go",
            b"package twice\n\nfunc Twice(n int) int { return 2 * n }\n",
        ),
    ];
    let handler = Handler::new(ignite, files, &[]);
    let log = handler.deploy_ok();
    assert!(log.contains("go.mod makes this a handler"), "{log}");
    let bytes = "application/octet-stream";
    handler.answers("hello", bytes, "hello").await;
    handler.answers("twice", bytes, "4").await;
    handler.answers("header", bytes, "acme/fn").await;
    handler.fails("error", "no luck").await;
    handler.fails("panic", "no hope").await;
    handler.has_context().await;
    handler.takes_many_at_once().await;

    // Without a go.mod, and with nothing but the standard library and the platform's module.
    let code = "package main\n\nimport \"ignite\"\n\nfunc main() {\n\tignite.Start(func([]byte, *ignite.Context) ([]byte, error) { return []byte(\"alone\"), nil })\n}\n";
    handler.can_be_one_file("go", code, "alone").await;
}
