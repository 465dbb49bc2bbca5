//! `Invoke` as HTTP: in process, and on the wire, where hyper adds its own rules.

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response},
};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt as _;

use super::{APP, gateway, gateway_to, json_of, reason, send, service};

async fn invoke(path: &str) -> Response<Body> {
    let body = json!({"http": {"path": path}, "body": "cGF5bG9hZA=="}).to_string();
    send(Method::POST, &format!("{APP}/invoke"), body).await
}

#[tokio::test]
async fn invoke_is_the_apps_own_answer() {
    let response = invoke("/teapot").await;
    assert_eq!(response.status(), 418);
    let headers: HeaderMap = response.headers().clone();
    assert_eq!(headers["x-ignite-execution-id"], "exec_1");
    assert_eq!(headers["content-type"], "text/plain");
    assert_eq!(headers["trailer"], "total_body_bytes, duration_ms, x-sum");
    let both: Vec<_> = headers.get_all("x-twice").iter().collect();
    assert_eq!(both, ["a", "b"]);
    // Headers that a browser would remember for the API's host used to pass, above all cookies.
    for gone in [
        "content-length",
        "connection",
        "x-ignite-error",
        "set-cookie",
        "strict-transport-security",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    let whole = response.into_body().collect().await.unwrap();
    let trailers = whole.trailers().unwrap().clone();
    assert_eq!(trailers["total_body_bytes"], "7");
    assert_eq!(trailers["duration_ms"], "12");
    assert_eq!(trailers["x-sum"], "9");
    assert!(!trailers.contains_key("set-cookie"));
    assert_eq!(whole.to_bytes(), "payload");
}

#[tokio::test]
async fn invoke_that_fails_before_its_head_is_an_error_answer() {
    for path in ["/refused", "/fails-first", "/204-dies"] {
        let response = invoke(path).await;
        assert_eq!(reason(&response), "REPLICA_BROKE", "{path}");
        assert_eq!(json_of(response).await.0, 502);
    }
}

#[tokio::test]
async fn invoke_that_fails_in_mid_answer_breaks_the_body_off() {
    let mut body = invoke("/dies").await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "half", "what was delivered is kept");
    assert!(body.frame().await.unwrap().is_err());

    let unfinished = invoke("/no-trailer").await.into_body().collect().await;
    assert!(
        unfinished.is_err(),
        "an answer without its trailer is not whole"
    );
}

#[tokio::test]
async fn invoke_without_content_has_no_body_and_announces_no_trailers() {
    let response = invoke("/204").await;
    assert_eq!(response.status(), 204);
    assert!(!response.headers().contains_key("trailer"));
    assert_eq!(response.headers()["x-ignite-execution-id"], "exec_1");
    let whole = response.into_body().collect().await.unwrap();
    assert!(whole.trailers().is_none() && whole.to_bytes().is_empty());
}

#[tokio::test]
async fn chunks_are_pulled_as_they_are_read_and_leaving_ends_the_call() {
    let probe = service::Probe::default();
    let body = json!({"http": {"path": "/endless"}}).to_string();
    let request = Request::post(format!("{APP}/invoke"))
        .body(Body::from(body))
        .unwrap();
    let response = gateway_to(probe.clone()).oneshot(request).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..5 {
        let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(chunk.len(), service::ENDLESS_CHUNK);
    }
    let pulled = probe.pulled();
    assert!((5..=7).contains(&pulled), "{pulled} chunks made for 5 read");
    assert!(probe.streaming());
    drop(body);
    assert!(
        !probe.streaming(),
        "the service's stream is dropped with the body"
    );
}

/// `Invoke` of one of the probe's paths over a socket, as it was on the wire.
async fn on_the_wire(probe_path: &str, more_headers: &str) -> String {
    let body = json!({"http": {"path": probe_path}, "body": "cGF5bG9hZA=="}).to_string();
    exchange(more_headers, body.len(), &body).await
}

/// One HTTP/1 exchange over a socket: a body of `announced` bytes, of which `body` is sent.
async fn exchange(more_headers: &str, announced: usize, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut servers = JoinSet::new();
    servers.spawn(async move { axum::serve(listener, gateway()).await });
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {APP}/invoke HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more_headers}\
         content-length: {announced}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn over_http_1_trailers_need_te_and_a_broken_answer_has_no_end() {
    let whole = on_the_wire("/", "te: trailers\r\n").await;
    assert!(whole.contains("transfer-encoding: chunked\r\n"), "{whole}");
    let (_, trailers) = whole.split_once("\r\n0\r\n").unwrap();
    for line in ["total_body_bytes: 7", "duration_ms: 12", "x-sum: 9"] {
        assert!(trailers.contains(line), "{whole}");
    }
    let plain = on_the_wire("/", "").await;
    assert!(plain.ends_with("\r\n0\r\n\r\n"), "{plain}");
    let broken = on_the_wire("/dies", "").await;
    assert!(broken.ends_with("\r\nhalf\r\n"), "{broken}");
    let empty = on_the_wire("/204", "te: trailers\r\n").await;
    assert!(empty.starts_with("HTTP/1.1 204 ") && empty.ends_with("\r\n\r\n"));
    assert!(!empty.contains("transfer-encoding"), "{empty}");
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_sees_why_it_is_refused() {
    let body = " ".repeat(8 << 20);
    let sends = exchange("", body.len(), &body).await;
    let waits = exchange("expect: 100-continue\r\n", 8 << 20, "").await;
    for answer in [sends, waits] {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}
