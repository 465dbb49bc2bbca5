//! The examples of `fixtures/examples`: each folder without a Dockerfile is recognized, built from
//! its template, and answers.

use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::json;

use crate::{
    cli::ran,
    python::app,
    support::{base_image, ignite::Ignite},
};

fn folder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fixtures/examples").join(name)
}

/// Deploys an example on bases of this machine, and returns what it answers on a path.
async fn deployed(name: &str, found: &str, bases: &[(&str, &'static str)], path: &str) -> String {
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let folder = folder(name);
    assert!(!folder.join("Dockerfile").exists(), "{name} has a template");
    let folder = folder.to_str().expect("text");
    let mut args = vec!["app", "deploy", "example", "--code", folder, "--follow"];
    let mut images = Vec::new();
    for (option, kind) in bases {
        images.push((*option, base_image(kind).await));
    }
    for (option, image) in &images {
        args.extend([*option, image.as_str()]);
    }
    let ran = ran(ignite.cli(&args));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(found), "no {found:?} in {}", ran.err);
    // The image's user is numeric, and the app is healthy where the cloud asks.
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    let app = app(&ignite, "example");
    let answer = app.request(&ignite, Method::GET, path).send().await;
    let answer = answer.expect("an answer");
    assert!(answer.status.is_success(), "{}", answer.status);
    answer.text().await
}

async fn greets(name: &str, found: &str, bases: &[(&str, &'static str)]) {
    let text = deployed(name, found, bases, "/?name=you").await;
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer, json!({ "message": "Hello, you!" }), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flask() {
    let found = "this is Flask (requirements.txt names flask, and app.py has `app = Flask(…)`)";
    greets("flask", found, &[("--base", "web")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi() {
    greets("fastapi", "this is FastAPI", &[("--base", "web")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn django() {
    greets(
        "django",
        "manage.py, and hello/wsgi.py",
        &[("--base", "web")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    let found = "this is Node (package.json starts it with `node server.js`)";
    greets("node", found, &[("--base", "node")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go() {
    greets("go", "main.go has `func main()`", &[("--base", "go")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    let bases = [("--base", "rust"), ("--run-base", "run")];
    greets("rust", "whose program is hello", &bases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deno() {
    greets("deno", "main.ts calls Deno.serve", &[("--base", "deno")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_files() {
    let bases = [("--base", "busybox")];
    let text = deployed("static", "this is static files", &bases, "/style.css").await;
    assert!(text.contains("font-family"), "{text}");
}

#[test]
fn a_template_is_shown_and_written_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = |name: &str| {
        std::fs::copy(folder("flask").join(name), dir.path().join(name)).expect("copied");
    };
    copy("app.py");
    copy("requirements.txt");
    let at = dir.path().to_str().expect("text");
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ignite"));
        ran(command
            .args([&["init", at], more].concat())
            .output()
            .expect("it runs"))
    };
    let shown = run(&["--show", "--base", "mine:1"]);
    assert!(shown.out.contains("\nFROM mine:1\n"), "{}", shown.out);
    assert!(shown.out.contains("\nUSER 65532:65532\n"), "{}", shown.out);
    let told: serde_json::Value = serde_json::from_str(&run(&["-o", "json"]).out).expect("JSON");
    assert_eq!(told["found"], "flask");
    let wrote = run(&["--write"]);
    assert_eq!(wrote.code, 0, "{}", wrote.err);
    let written = std::fs::read_to_string(dir.path().join("Dockerfile")).expect("written");
    assert_eq!(told["dockerfile"], written);
    assert!(dir.path().join(".dockerignore").exists());
    let again = run(&["--write"]);
    assert_eq!(again.code, 2, "{}", again.err);
    assert!(again.err.contains("is not overwritten"), "{}", again.err);
}
