//! Handlers in Deno, Rust and Go, from a folder to answers.

use std::collections::BTreeSet;

use bollard::query_parameters::ListImagesOptions;
use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::ran,
    python::{app, call},
    support::{app::App, base_image, code::write, http, ignite::Ignite},
};

mod deno;
mod go;
mod rust;

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
    fn new(ignite: Ignite, files: &[(&str, &[u8])], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        write(folder.path(), files);
        let path = folder.path().to_str().expect("text");
        let args = ["app", "deploy", "fn", "--code", path, "--follow"];
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
