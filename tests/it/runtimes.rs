//! Handlers in Deno, Rust and Go, from a folder to answers.

use std::{collections::BTreeSet, process::Command};

use bollard::query_parameters::ListImagesOptions;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::ran,
    python::{app, call},
    support::{app::App, base_image, code::write, http, ignite::Ignite},
};

const TEXT: &str = "text/plain; charset=utf-8";
/// How many calls have to run on one replica at once.
const AT_ONCE: usize = 50;

/// A server whose handlers are built on these images.
async fn server(images: &[(&str, &'static str)]) -> Ignite {
    let mut builder = Ignite::builder().env("IGNITE_DEFAULT_ORG", "acme");
    for (setting, kind) in images {
        builder = builder.env(setting, base_image(kind).await);
    }
    builder.start().await
}

/// A handler in a folder, deployed by the command line.
struct Handler {
    ignite: Ignite,
    app: App,
    folder: TempDir,
    args: Vec<String>,
}

impl Handler {
    fn new(ignite: Ignite, language: &str, files: &[(&str, &[u8])], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        write(folder.path(), files);
        let path = folder.path().to_str().expect("text");
        let args = [
            "app",
            "deploy",
            "fn",
            "--code",
            path,
            "--runtime",
            language,
            "--follow",
        ];
        let args = args.iter().chain(more).map(|arg| (*arg).to_owned());
        Self {
            app: app(&ignite, "fn"),
            ignite,
            args: args.collect(),
            folder,
        }
    }

    /// Deploys, and returns stderr and the exit code.
    fn deploy(&self) -> (i32, String) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let ran = ran(self.ignite.cli(&args));
        assert_eq!(
            ran.code == 0,
            ran.out.starts_with("http://fn-acme."),
            "{}",
            ran.err
        );
        (ran.code, ran.err)
    }

    /// Deploys code that must build.
    fn deploy_ok(&self) -> String {
        let (code, log) = self.deploy();
        assert_eq!(code, 0, "{log}");
        log
    }

    /// Deploys code that must not build, and returns the log.
    fn deploy_fails(&self) -> String {
        let (code, log) = self.deploy();
        assert_eq!(code, 1, "{log}");
        log
    }

    async fn call(&self, payload: &str) -> http::Answer {
        call(&self.ignite, &self.app, payload).await
    }

    async fn answers(&self, payload: &str, kind: &str, body: &str) {
        let answer = self.call(payload).await;
        let status = answer.status;
        let found = answer.header("content-type").unwrap_or_default().to_owned();
        let text = answer.text().await;
        assert_eq!(status, StatusCode::OK, "{payload}: {text}");
        assert_eq!((&*found, &*text), (kind, body), "{payload}");
    }

    /// The answer for each kind of returned value.
    async fn gives_values(&self) {
        let json = "{\"twice\":4}";
        self.answers("twice", "application/json", json).await;
        self.answers("bytes", "application/octet-stream", "AB")
            .await;
    }

    /// A call that fails in the handler.
    async fn fails(&self, payload: &str, error: &str) {
        let answer = self.call(payload).await;
        assert_eq!(
            answer.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{payload}"
        );
        assert_eq!(
            answer.header("x-ignite-error"),
            None,
            "it is the app's answer"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json().await, json!({ "error": error }), "{payload}");
    }

    /// Checks what holds in every language; `failing` is a call that fails.
    async fn keeps_the_contract(&self, failing: &str) {
        self.answers("hello", TEXT, "hello").await;
        self.fails(failing, "no luck").await;
        self.has_context().await;
        self.takes_many_at_once().await;
        let logs = ran(self.ignite.cli(&["app", "logs", "fn"])).out;
        for wanted in ["called with hello", "no luck"] {
            assert!(logs.contains(wanted), "no {wanted:?} in {logs}");
        }
    }

    /// Build stages are useless once a build has ended, and take space.
    async fn left_no_stage(&self) {
        let images = self.ignite.images().await;
        let name = images.iter().find_map(|image| image.split_once("/fn:"));
        let (instance, _) = name.expect("the app's image");
        let label = format!("io.dodil.ignite.stage={instance}/fn");
        let options = ListImagesOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..ListImagesOptions::default()
        };
        let docker = ignite_kit::engine().await.expect("an engine");
        let found = docker.list_images(Some(options)).await.expect("a list");
        assert!(found.is_empty(), "{found:?}");
    }

    async fn has_context(&self) {
        let ctx: Value = self.call("ctx").await.json().await;
        let keys: BTreeSet<_> = ctx.as_object().expect("an object").keys().collect();
        let wanted = ["execution_id", "function_id", "organization_id"];
        assert_eq!(Vec::from_iter(keys), wanted, "{ctx}");
        assert_eq!(ctx["function_id"], "acme/fn");
        assert_ne!(ctx["organization_id"], "");
        let execution = ctx["execution_id"].as_str().unwrap_or_default();
        assert!(execution.starts_with("exec_"), "{ctx}");
    }

    /// Makes calls that end only once all of them have arrived.
    async fn takes_many_at_once(&self) {
        let calls = (0..AT_ONCE).map(|_| self.call("meet"));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.text().await, "met");
        }
    }

    /// A handler in a single file of any name.
    async fn can_be_one_file(&self, language: &str, code: &str, body: &str) {
        write(self.folder.path(), &[("single", code.as_bytes())]);
        let path = self.folder.path().join("single");
        let path = path.to_str().expect("text");
        let args = [
            "app",
            "deploy",
            "single",
            "--code",
            path,
            "--runtime",
            language,
        ];
        crate::cli::ok(&self.ignite, &args);
        let answer = call(&self.ignite, &app(&self.ignite, "single"), "").await;
        assert_eq!(answer.text().await, body);
    }
}

const DENO: &str = r#"
import { start } from "ignite";
import { twice } from "more";

let waiting: (() => void)[] = [];

start(async (payload, ctx) => {
  const text = new TextDecoder().decode(payload);
  console.log("called with", text);
  switch (text) {
    case "ctx": return ctx;
    case "twice": return { twice: twice(2) };
    case "bytes": return new Uint8Array([65, 66]);
    case "stream": return (async function* () { yield "a"; yield "b"; })();
    case "lines": return (function* () { yield { a: 1 }; yield [2]; })();
    case "response": return new Response("short and stout", { status: 418 });
    case "throw": throw new TypeError("no luck");
    case "home":
      await Deno.writeTextFile(Deno.env.get("HOME") + "/f", "x");
      return await Deno.readTextFile(Deno.env.get("HOME") + "/f");
    case "meet":
      await new Promise<void>((met) => {
        waiting.push(met);
        if (waiting.length === MANY) waiting.forEach((all) => all());
      });
      return "met";
    default: return text;
  }
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_deno_handler_answers_as_the_contract_has_it() {
    let ignite = server(&[("IGNITE_DENO_BASE", "deno")]).await;
    let code = DENO.replace("MANY", &AT_ONCE.to_string());
    let files: &[(&str, &[u8])] = &[
        ("handler.ts", code.as_bytes()),
        (
            "deno.jsonc",
            b"{\n  // where things are\n  \"imports\": { \"more\": \"./lib/more.ts\" },\n}\n",
        ),
        (
            "lib/more.ts",
            b"export const twice = (n: number): number => 2 * n;\n",
        ),
    ];
    let handler = Handler::new(ignite, "deno", files, &["--tier", "large"]);
    handler.deploy_ok();
    handler.gives_values().await;
    handler.answers("stream", TEXT, "ab").await;
    handler
        .answers("lines", "application/x-ndjson", "{\"a\":1}\n[2]\n")
        .await;
    handler.answers("home", TEXT, "x").await;
    assert_eq!(
        handler.call("response").await.status,
        StatusCode::IM_A_TEAPOT
    );
    handler.keeps_the_contract("throw").await;

    let code = "import { start } from 'ignite'; start(() => 'alone');";
    handler.can_be_one_file("deno", code, "alone").await;

    // A compile error is reported by the build, and the previous version keeps serving.
    write(
        handler.folder.path(),
        &[("handler.ts", b"import \"./nowhere.ts\";\n")],
    );
    let log = handler.deploy_fails();
    assert!(
        log.contains("nowhere.ts") && log.contains("deno cache"),
        "{log}"
    );
    handler.answers("hello", TEXT, "hello").await;
}

const RUST: &str = r#"
use std::sync::LazyLock;

use ignite::{json, Context, Error, IntoResponse, Json, Request, Result, StatusCode};

mod more;

static MEETING: LazyLock<tokio::sync::Barrier> = LazyLock::new(|| tokio::sync::Barrier::new(MANY));

#[ignite::main]
async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    let text = String::from_utf8(req.body().to_vec())?;
    println!("called with {text}");
    Ok(match &*text {
        "ctx" => Json(json!({
            "execution_id": ctx.execution_id,
            "function_id": ctx.function_id,
            "organization_id": ctx.organization_id,
        }))
        .into_response(),
        "twice" => Json(json!({ "twice": more::twice(2) })).into_response(),
        "bytes" => b"AB".to_vec().into_response(),
        "status" => (StatusCode::IM_A_TEAPOT, "short and stout").into_response(),
        "number" => text.parse::<u32>()?.to_string().into_response(),
        "error" => return Err(Error::msg("no luck")),
        "panic" => panic!("no hope"),
        "meet" => {
            MEETING.wait().await;
            "met".into_response()
        }
        _ => text.into_response(),
    })
}
"#;

const CARGO: &[u8] = b"[package]
name = \"my-fn\"
version = \"0.1.0\"
edition = \"2021\"

[dependencies]
ignite = \"*\"
tokio = { version = \"1\", features = [\"sync\"] }
";

/// The version of this machine's compiler, which is also the builder's.
fn of_rustc(what: &str) -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc");
    let text = String::from_utf8(output.stdout).expect("text");
    let said = text.lines().find_map(|line| line.strip_prefix(what));
    said.expect("a line").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_handler_answers_as_the_contract_has_it() {
    let images = [("IGNITE_RUST_BUILDER", "rust"), ("IGNITE_RUST_BASE", "run")];
    let ignite = server(&images).await;
    let code = RUST.replace("MANY", &AT_ONCE.to_string());
    let files: &[(&str, &[u8])] = &[
        ("Cargo.toml", CARGO),
        ("src/main.rs", code.as_bytes()),
        (
            "src/more.rs",
            b"pub fn twice(n: u32) -> u32 {\n    2 * n\n}\n",
        ),
    ];
    let (toolchain, target) = (of_rustc("release: "), of_rustc("host: "));
    let more = ["--toolchain", &toolchain, "--target", &target];
    let handler = Handler::new(ignite, "rust", files, &more);
    handler.deploy_ok();
    handler.gives_values().await;
    assert_eq!(handler.call("status").await.status, StatusCode::IM_A_TEAPOT);
    handler
        .fails("number", "invalid digit found in string")
        .await;
    handler
        .fails("panic", "the handler panicked: no hope")
        .await;
    handler.keeps_the_contract("error").await;

    // Only changed code is compiled.
    let more = (
        "src/more.rs",
        &b"pub fn twice(n: u32) -> u32 {\n    20 * n\n}\n"[..],
    );
    write(handler.folder.path(), &[more]);
    let log = handler.deploy_ok();
    assert!(
        log.contains("Compiling my-fn") && !log.contains("Compiling hyper"),
        "{log}"
    );
    handler
        .answers("twice", "application/json", "{\"twice\":40}")
        .await;

    write(
        handler.folder.path(),
        &[("src/more.rs", b"pub fn twice() {}\n")],
    );
    let log = handler.deploy_fails();
    handler.left_no_stage().await;
    assert!(log.contains("error[E0061]"), "{log}");
    handler
        .answers("twice", "application/json", "{\"twice\":40}")
        .await;
}

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
    let handler = Handler::new(ignite, "go", files, &[]);
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
