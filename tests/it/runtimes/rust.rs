//! Rust: a program as handlers have always been written, and a library as the manual has it.

use std::process::Command;

use hyper::{Method, StatusCode};
use serde_json::json;

use super::{AT_ONCE, Handler, server};
use crate::support::code::write;

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
    let more = [
        "--runtime",
        "rust",
        "--toolchain",
        &toolchain,
        "--target",
        &target,
    ];
    let handler = Handler::new(ignite, files, &more);
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

/// The manual's handler, and what else its page names.
const RUST_LIBRARY: &[u8] = br#"
use ignite::prelude::*;
use serde_json::json;

#[derive(Deserialize)]
struct Numbers {
    of: Vec<i64>,
}

#[ignite::main]
async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    match req.path() {
        "/sum" => {
            let numbers = req.body::<Numbers>()?;
            let store = ctx.temp_store();
            store.set("sum", numbers.of.iter().sum::<i64>())?;
            return Ok(json!({
                "sum": store.get::<i64>("sum")?,
                "bytes": req.raw().len(),
                "method": req.method(),
                "unit": req.query_param("unit"),
                "header": req.header("X-Test"),
                "home": ctx.env().get("HOME"),
            }));
        }
        "/stream" => {
            let out = ctx.stream();
            tokio::spawn(async move {
                for n in 0..2 {
                    out.send(json!({ "n": n })).await.expect("someone takes it");
                }
            });
            return Ok(json!({ "n": 2 }));
        }
        "/panic" => panic!("no hope"),
        "/need" => return Ok(json!(req.field::<u8>("message")?)),
        _ => {}
    }
    let message: String = req
        .field("message")
        .unwrap_or_else(|_| "Hello from Rust!".to_string());
    Ok(json!({
        "message": message,
        "execution_id": ctx.execution_id(),
        "function_id": ctx.function_id(),
    }))
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_library_answers_as_the_manual_has_it() {
    let images = [("IGNITE_RUST_BUILDER", "rust"), ("IGNITE_RUST_BASE", "run")];
    let ignite = server(&images).await;
    // It names no crate, and is made for other platforms, too.
    let cargo = b"[package]\nname = \"rust-hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n";
    let files: &[(&str, &[u8])] = &[("Cargo.toml", cargo), ("src/lib.rs", RUST_LIBRARY)];
    let handler = Handler::new(ignite, files, &[]);
    let log = handler.deploy_ok();
    assert!(log.contains("Cargo.toml makes this a handler"), "{log}");
    let answer = handler.call("").await.json().await;
    assert_eq!(answer["message"], "Hello from Rust!", "{answer}");
    assert_eq!(answer["function_id"], "acme/fn", "{answer}");
    let answer = handler.call("{\"message\":\"hi\"}").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json().await["message"], "hi");

    let to = |path: &str, body: &str| {
        let request = handler.app.request(&handler.ignite, Method::POST, path);
        request.header("x-test", "h").body(body.to_owned()).send()
    };
    let sum = to("/sum?a=1&unit=a%20b+c", "{\"of\":[1,2]}")
        .await
        .expect("an answer");
    let wanted = json!({
        "sum": 3, "bytes": 12, "method": "POST", "unit": "a b c", "header": "h", "home": "/home/ignite",
    });
    assert_eq!(sum.json().await, wanted);
    let stream = to("/stream", "").await.expect("an answer");
    assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(stream.text().await, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}");
    for (path, body, error) in [
        ("/panic", "", "the handler panicked: no hope"),
        ("/need", "{}", "the body's field \"message\" is missing"),
        (
            "/need",
            "[",
            "the body is not JSON: EOF while parsing a list at line 1 column 1",
        ),
    ] {
        let answer = to(path, body).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert_eq!(answer.json().await, json!({ "error": error }));
    }
}
