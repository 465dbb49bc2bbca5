//! Python handlers, from the code to answers, over the command line and the API.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, response::Html, routing::get};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::{
    cli::ran,
    support::{
        app::App,
        base_image,
        code::{tar_gz, write, zip},
        contract::BOTH,
        http,
        ignite::{Builder, Ignite},
    },
};

pub(crate) async fn server(more: impl FnOnce(Builder) -> Builder) -> Ignite {
    let builder = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .env("IGNITE_PYTHON_BASE", base_image("python").await);
    more(builder).start().await
}

pub(crate) fn app(ignite: &Ignite, name: &str) -> App {
    App {
        org: "acme".into(),
        name: name.into(),
        token: ignite.token("acme"),
    }
}

/// A package index with one package, which counts how often it is asked.
struct Index {
    url: String,
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Index {
    async fn serve() -> Self {
        let wheel = zip(&[
            ("tiny.py", b"VERSION = '1.2.3'\n"),
            ("tiny-1.2.3.dist-info/METADATA", b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.2.3\n"),
            ("tiny-1.2.3.dist-info/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("tiny-1.2.3.dist-info/RECORD", b"tiny.py,,\ntiny-1.2.3.dist-info/METADATA,,\ntiny-1.2.3.dist-info/WHEEL,,\ntiny-1.2.3.dist-info/RECORD,,\n"),
        ]);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let file = "tiny-1.2.3-py3-none-any.whl";
        let router = Router::new()
            .route(
                "/simple/tiny/",
                get(move || {
                    count.fetch_add(1, Ordering::Relaxed);
                    async move { Html(format!("<a href=\"/{file}\">{file}</a>")) }
                }),
            )
            .route(&format!("/{file}"), get(move || async move { wheel }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let url = format!(
            "http://{}/simple",
            listener.local_addr().expect("an address")
        );
        let serve = async move { axum::serve(listener, router).await };
        Self {
            url,
            asked,
            task: tokio::spawn(serve).abort_handle(),
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A handler that evaluates the expression it is sent.
const EVAL: &[u8] = b"
import os, threading
import tiny
from helpers.more import double

barrier = threading.Barrier(50)

def write(path):
    with open(path, 'w') as f: f.write('x')
    return True

def handler(payload: bytes, ctx: dict):
    print('called with', payload.decode())
    return eval(payload.decode())
";

pub(crate) async fn call(ignite: &Ignite, app: &App, payload: &str) -> http::Answer {
    let request = app.request(ignite, Method::POST, "/");
    let answer = request.body(payload.to_owned()).send().await;
    answer.unwrap_or_else(|e| panic!("{payload}: {e}"))
}

/// Checks what the handler gets as its context.
async fn has_context(ignite: &Ignite, app: &App) {
    let ctx = call(ignite, app, "ctx").await.json().await;
    let keys: BTreeSet<_> = ctx.as_object().expect("an object").keys().collect();
    assert_eq!(
        Vec::from_iter(keys),
        ["execution_id", "function_id", "organization_id"]
    );
    assert_eq!(ctx["function_id"], "acme/py");
    assert!(
        ctx["execution_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("exec_")),
        "{ctx}"
    );
}

/// Checks the answer to a call that raises: writing to the code, which is read-only.
async fn reports_failures(ignite: &Ignite, app: &App) {
    let failed = call(ignite, app, "write('/app/f')").await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        failed.header("x-ignite-error"),
        None,
        "it is the app's answer"
    );
    let failed = failed.json().await;
    assert_eq!(failed["type"], "OSError", "the code is read-only: {failed}");
    assert!(
        failed["error"]
            .as_str()
            .is_some_and(|e| e.contains("Read-only")),
        "{failed}"
    );
    assert!(
        failed["traceback"]
            .as_str()
            .is_some_and(|t| t.contains("/app/handler.py")),
        "{failed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_deployed_in_one_command_and_answers_as_the_contract_has_it() {
    let index = Index::serve().await;
    let ignite = server(|b| {
        b.env("IGNITE_PIP_INDEX_URL", index.url.as_str())
            .env("IGNITE_BUILD_NETWORK", "host")
    })
    .await;
    let folder = tempfile::tempdir().expect("a directory");
    write(
        folder.path(),
        &[
            ("handler.py", EVAL),
            ("helpers/more.py", b"def double(x): return 2 * x\n"),
            ("requirements.txt", b"tiny==1.2.3\n"),
        ],
    );
    let path = folder.path().to_str().expect("text");
    let deploy = || {
        let deployed = ran(ignite.cli(&[
            "app",
            "deploy",
            "py",
            "--code",
            path,
            "--runtime",
            "python",
            "--tier",
            "large",
            "--follow",
        ]));
        assert_eq!(deployed.code, 0, "{}", deployed.err);
        deployed
    };
    let deployed = deploy();
    assert!(
        deployed.out.starts_with("http://py-acme."),
        "{}",
        deployed.out
    );
    let app = app(&ignite, "py");

    for (payload, kind, body) in [
        ("{'twice': double(2)}", "application/json", "{\"twice\": 4}"),
        ("tiny.VERSION", "text/plain; charset=utf-8", "1.2.3"),
        ("b'\\x41'", "application/octet-stream", "A"),
        (
            "(str(n) for n in range(3))",
            "text/plain; charset=utf-8",
            "012",
        ),
        ("os.getuid()", "application/json", "65532"),
        (
            "write(os.environ['HOME'] + '/f')",
            "application/json",
            "true",
        ),
    ] {
        let answer = call(&ignite, &app, payload).await;
        assert_eq!(answer.status, StatusCode::OK, "{payload}");
        assert_eq!(answer.header("content-type"), Some(kind), "{payload}");
        assert_eq!(answer.text().await, body, "{payload}");
    }
    has_context(&ignite, &app).await;
    reports_failures(&ignite, &app).await;

    // Fifty calls that all have to run at once, on one replica.
    let calls = (0..50).map(|_| call(&ignite, &app, "[barrier.wait(60), os.uname().nodename][1]"));
    let mut replicas = BTreeSet::new();
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, StatusCode::OK);
        replicas.insert(answer.text().await);
    }
    assert_eq!(replicas.len(), 1, "{replicas:?}");
    let logs = ran(ignite.cli(&["app", "logs", "py"]));
    assert!(
        logs.out.contains("called with tiny.VERSION"),
        "{}",
        logs.out
    );

    // Changed code with the same list: nothing is installed again.
    let asked = || index.asked.load(Ordering::Relaxed);
    assert!(asked() > 0, "the requirement came from the index");
    // The engine continues from the newest matching layers, and a concurrent build of another test
    // may have created the first of them again; then the list is installed there too.
    let mut installed = Vec::new();
    for round in ["one", "two", "three"] {
        let before = asked();
        let code = format!("def double(x): return {round:?}\n");
        write(folder.path(), &[("helpers/more.py", code.as_bytes())]);
        deploy();
        let answer = call(&ignite, &app, "double(2)").await;
        assert_eq!(answer.text().await, round);
        installed.push(asked() - before);
        if installed.ends_with(&[0]) {
            break;
        }
    }
    assert!(installed.ends_with(&[0]), "each time: {installed:?}");
    let asked = asked();

    // A changed list is.
    write(folder.path(), &[("requirements.txt", b"tiny>=1\n")]);
    deploy();
    assert!(index.asked.load(Ordering::Relaxed) > asked);
    let (_, meta) = app.api(&ignite, Method::GET, "", Value::Null).await;
    assert_eq!(meta["app"]["runtime"], json!({ "python": {} }), "{meta}");
}

/// CreateApp with code of the Python runtime.
pub(crate) async fn create(ignite: &Ignite, name: &str, code: &[u8]) -> App {
    let source = json!({ "runtime": { "python": {} }, "sourceCode": STANDARD.encode(code) });
    App::create(
        ignite,
        &format!("acme/{name}"),
        json!({ "code": { "compile": source } }),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_enough_and_wheels_may_come_with_the_code() {
    let ignite = server(|b| b).await;
    let single = b"async def handler(payload, ctx):\n    return payload[::-1]\n";
    let app = create(&ignite, "single", single).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(call(&ignite, &app, "abc").await.text().await, "cba");

    // A list that reads files of the source is installed with the source at hand.
    let wheel = zip(&[
        ("own.py", b"NAME = 'own'\n"),
        ("own-1.dist-info/METADATA", b"Metadata-Version: 2.1\nName: own\nVersion: 1\n"),
        ("own-1.dist-info/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("own-1.dist-info/RECORD", b"own.py,,\nown-1.dist-info/METADATA,,\nown-1.dist-info/WHEEL,,\nown-1.dist-info/RECORD,,\n"),
    ]);
    let archive = tar_gz(&[
        (
            "handler.py",
            b"import own\ndef handler(payload, ctx): return own.NAME\n",
        ),
        ("requirements.txt", b"-r more/list.txt\n"),
        (
            "more/list.txt",
            b"--no-index\n--find-links wheels\nown==1\n",
        ),
        ("wheels/own-1-py3-none-any.whl", &wheel),
    ]);
    let app = create(&ignite, "wheels", &archive).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(call(&ignite, &app, "").await.text().await, "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_built_or_started_says_why() {
    let ignite = server(|b| b).await;
    let nested = tar_gz(&[("src/handler.py", b"def handler(payload, ctx): pass\n")]);
    let app = create(&ignite, "nested", &nested).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let text = answer.to_string();
    assert!(
        text.contains("BUILD_FAILED") && text.contains("src/handler.py"),
        "{text}"
    );

    let broken = create(&ignite, "broken", b"import not_there\n").await;
    let (status, answer) = broken.publish(&ignite).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let text = answer["message"].as_str().expect("a message");
    for part in [
        "exit code 1",
        "No module named 'not_there'",
        "handler.py",
        "add not_there to requirements.txt",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_start_is_refused_and_the_one_before_serves_on() {
    let ignite = server(|b| b).await;
    for (via, name) in BOTH.into_iter().zip(["grpc", "json"]) {
        let app = create(
            &ignite,
            name,
            // Called by position, whatever its parameters are called.
            b"def handler(event, context): return event[::-1]\n",
        )
        .await;
        let id = json!({ "organization_name": "acme", "app_name": name });
        ignite.ok(via, "PublishDraft", &app.token, id.clone()).await;
        assert_eq!(call(&ignite, &app, "abc").await.text().await, "cba");
        let mut broken = id.clone();
        broken["code"] = json!({ "compile": {
            "runtime": { "python": {} }, "source_code": STANDARD.encode("import not_there\n"),
        }});
        ignite.ok(via, "SaveDraft", &app.token, broken).await;
        let refused = ignite.refused(via, "PublishDraft", &app.token, id).await;
        assert!(refused.message.contains("not_there"), "{refused:?}");
        assert_eq!(call(&ignite, &app, "abc").await.text().await, "cba");
    }
}
