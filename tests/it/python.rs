//! A handler in Python: from a folder to answers.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    cli::ok,
    support::{
        app::App,
        code::{tar_gz, write, zip},
        contract::{BOTH, Via},
        eventually_ok,
        ignite::Ignite,
    },
};

/// Longest start of the little package index.
const INDEX_LIMIT: Duration = Duration::from_secs(20);
/// Calls at once on one replica.
const CALLS: usize = 50;

const HANDLER: &str = r#"
import json, threading
import greeting

together = threading.Barrier(50)

def handler(payload: bytes, ctx: dict):
    what = payload.decode()
    if what == "dict":
        return {"greeting": greeting.TEXT, "ctx": sorted(ctx), "function": ctx["function_id"],
                "organization": ctx["organization_id"], "execution": ctx["execution_id"]}
    if what == "str":
        return "h\u00e9"
    if what == "bytes":
        return b"\x00\xff"
    if what == "pieces":
        return (str(n) for n in range(3))
    if what == "together":
        together.wait(timeout=60)
        return "all"
    raise ValueError("not " + what)
"#;

/// The image with Python that this machine can make without a registry.
fn base() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python-base.sh");
    let made = Command::new(script).output().expect("bash runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// A package index on this machine, with one package in one version.
struct Index {
    server: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Index {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let wheel = zip(&[
            ("greeting/__init__.py", b"TEXT = 'hello from 1.2'\n"),
            (
                "greeting-1.2.dist-info/METADATA",
                b"Metadata-Version: 2.1\nName: greeting\nVersion: 1.2\n",
            ),
            (
                "greeting-1.2.dist-info/WHEEL",
                b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            ("greeting-1.2.dist-info/RECORD", b""),
        ]);
        write(
            folder.path(),
            &[("simple/greeting/greeting-1.2-py3-none-any.whl", &wheel)],
        );
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = free.local_addr().expect("an address");
        drop(free);
        let server = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1"])
            .arg(addr.port().to_string())
            .arg("--directory")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is installed; scripts/setup.sh does it");
        eventually_ok(INDEX_LIMIT, || TcpStream::connect(addr)).await;
        Self {
            server,
            url: format!("http://{addr}/simple"),
            _folder: folder,
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

async fn call(ignite: &Ignite, app: &App, what: &str) -> crate::support::http::Answer {
    let request = app.request(ignite, Method::POST, "/");
    request
        .body(what.to_owned())
        .send()
        .await
        .expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_goes_from_a_folder_to_the_answers_that_its_contract_has() {
    let (base, index) = (base(), Index::start().await);
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .env("IGNITE_PYTHON_BASE", &base)
        .env("IGNITE_PIP_INDEX_URL", &index.url)
        .env("IGNITE_BUILD_NETWORK", "host")
        .start()
        .await;
    let app = App {
        org: "acme".into(),
        name: "a".into(),
        token: ignite.token("acme"),
    };
    let folder = tempfile::tempdir().expect("a directory");
    write(
        folder.path(),
        &[
            ("handler.py", HANDLER.as_bytes()),
            ("requirements.txt", b"greeting==1.2\n"),
        ],
    );
    let path = folder.path().to_str().expect("text");
    let deploy = ["app", "deploy", "a", "--code", path, "--runtime", "python"];
    ok(&ignite, &deploy);

    let answer = call(&ignite, &app, "dict").await;
    let execution = answer.header("x-ignite-execution-id").map(str::to_owned);
    let expected = json!({
        "greeting": "hello from 1.2", "function": "acme/a", "organization": "acme",
        "ctx": ["execution_id", "function_id", "organization_id"], "execution": execution,
    });
    assert_eq!(answer.json().await, expected);
    assert_eq!(call(&ignite, &app, "str").await.text().await, "h\u{e9}");
    assert_eq!(
        &call(&ignite, &app, "bytes").await.bytes().await[..],
        b"\x00\xff"
    );
    assert_eq!(call(&ignite, &app, "pieces").await.text().await, "012");
    let raised = call(&ignite, &app, "sense").await;
    assert_eq!(raised.status, StatusCode::INTERNAL_SERVER_ERROR);
    let raised = raised.json().await;
    assert_eq!(
        (&raised["error"], &raised["type"]),
        (&json!("not sense"), &json!("ValueError"))
    );
    let trace = raised["traceback"].to_string();
    assert!(
        trace.contains("handler.py") && trace.contains("in handler"),
        "{trace}"
    );

    // Each waits for all the others, so one replica has to run them at once.
    let together = (0..CALLS).map(|_| async {
        let answer = call(&ignite, &app, "together").await;
        (answer.status, answer.text().await)
    });
    for answer in futures_util::future::join_all(together).await {
        assert_eq!(answer, (StatusCode::OK, "all".to_owned()));
    }

    // Other code with the same requirements: nothing is installed again, so the index is not asked.
    drop(index);
    fs::write(
        folder.path().join("handler.py"),
        HANDLER.replace("h\\u00e9", "new"),
    )
    .expect("written");
    ok(&ignite, &deploy);
    assert_eq!(call(&ignite, &app, "str").await.text().await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_a_handler_and_what_is_none_is_refused_with_the_reason() {
    let ignite = Ignite::builder()
        .env("IGNITE_PYTHON_BASE", base())
        .start()
        .await;
    let token = ignite.token("acme");
    for (via, name) in BOTH.into_iter().zip(["grpc", "json"]) {
        let id = json!({ "organization_name": "acme", "app_name": name });
        let create = json!({ "organization_name": "acme", "name": name });
        ignite.ok(via, "CreateApp", &token, create).await;
        let save = async |source: &[u8]| {
            let mut fields = id.clone();
            fields["code"] = json!({ "compile": {
                "runtime": { "python": {} }, "source_code": STANDARD.encode(source),
            }});
            ignite.ok(via, "SaveDraft", &token, fields).await;
        };
        save(b"def handler(payload, ctx):\n    return payload[::-1]\n").await;
        ignite.ok(via, "PublishDraft", &token, id.clone()).await;
        let app = App {
            org: "acme".into(),
            name: name.into(),
            token: token.clone(),
        };
        assert_eq!(call(&ignite, &app, "abc").await.text().await, "cba");
        let got = ignite.ok(via, "GetApp", &token, id.clone()).await;
        assert_eq!(got["app"]["runtime"], "python");

        save(&tar_gz(&[("src/handler.py", b"x")])).await;
        let refused = ignite
            .refused(via, "PublishDraft", &token, id.clone())
            .await;
        assert!(refused.message.contains("src/handler.py"), "{refused:?}");
        // One that cannot be imported never gets ready; the version before serves on.
        save(b"import nothing_of_that_name\n").await;
        let refused = ignite
            .refused(via, "PublishDraft", &token, id.clone())
            .await;
        assert!(
            refused.message.contains("nothing_of_that_name"),
            "{refused:?}"
        );
        assert_eq!(call(&ignite, &app, "abc").await.text().await, "cba");
        let _: Value = ignite.ok(Via::Json, "DeleteApp", &token, id).await;
    }
}
