//! App URLs beyond plain requests: early answers, `Expect`, upgrades, trailers, gRPC, CORS.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Method, Request, StatusCode, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::support::{app::App, contract::Published, ignite::Ignite};

/// Longer than the timeout of any part, so whatever takes this long hangs.
const HANGS: Duration = crate::support::HANGS;

async fn open_app(settings: Value) -> (Ignite, Published) {
    let ignite = Ignite::builder().start().await;
    let mut all = json!({ "allow_unauthenticated": true });
    crate::support::contract::merge(&mut all, settings);
    let app = ignite.publish("acme", "app", all).await;
    let warm = ignite.request(Method::GET, "/").host(app.host());
    warm.send().await.expect("an answer").bytes().await;
    (ignite, app)
}

async fn connect(ignite: &Ignite) -> TcpStream {
    TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection")
}

/// Reads until `mark` is in what was read.
async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    let mut seen = Vec::new();
    let all = async {
        while !String::from_utf8_lossy(&seen).contains(mark) {
            let n = stream.read_buf(&mut seen).await.expect("read");
            assert_ne!(n, 0, "it ended: {:?}", String::from_utf8_lossy(&seen));
        }
    };
    timeout(HANGS, all).await.expect("it came");
    String::from_utf8(seen).expect("text")
}

/// hyper's client treats the failed write of the body as the end of the connection, so the caller
/// used to get REPLICA_BROKE.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_answers_without_reading_the_body_is_heard() {
    let (ignite, app) = open_app(json!({})).await;
    let piece = vec![b'x'; 1 << 16];
    for round in 0..10 {
        let mut stream = connect(&ignite).await;
        let chunked = round % 2 == 1;
        let framing = if chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {}", 64 << 20)
        };
        let head = format!(
            "POST /early/413 HTTP/1.1\r\nhost: {}\r\n{framing}\r\n\r\n",
            app.host()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let (mut read, mut write) = stream.into_split();
        let send = async {
            for _ in 0..1024 {
                let piece = if chunked {
                    [b"10000\r\n", &piece[..], b"\r\n"].concat()
                } else {
                    piece.clone()
                };
                if write.write_all(&piece).await.is_err() {
                    return;
                }
            }
        };
        let receive = async {
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains("\"early\":413}") {
                match read.read_buf(&mut seen).await {
                    Ok(1..) => {}
                    end => panic!("{end:?} after {:?}", String::from_utf8_lossy(&seen)),
                }
            }
            String::from_utf8(seen).expect("text")
        };
        let both = async { tokio::join!(send, receive).1 };
        let answer = timeout(HANGS, both).await.expect("no deadlock");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(!answer.contains("x-ignite-error"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_client_is_told_to_go_on_is_the_apps_decision() {
    let (ignite, app) = open_app(json!({})).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
            app.host()
        )
    };
    let mut stream = connect(&ignite).await;
    stream
        .write_all(head("/early/417").as_bytes())
        .await
        .expect("sent");
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");

    let mut stream = connect(&ignite).await;
    stream
        .write_all(head("/upload").as_bytes())
        .await
        .expect("sent");
    let interim = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("sent");
    let answer = read_until(&mut stream, "\"bytes\":5").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_come_before_the_answer_to_clients_that_can_be_told() {
    let settings = json!({ "ports": [80, 8081], "env": { "PROBE_RAW_PORT": "8081" } });
    let (ignite, app) = open_app(settings).await;
    let mut stream = connect(&ignite).await;
    let ask = |version: &str| {
        let host = &app.hosts[1];
        format!("GET /hints HTTP/{version}\r\nhost: {host}\r\n\r\n")
    };
    // Twice, because the second request reuses a connection.
    for _ in 0..2 {
        stream.write_all(ask("1.1").as_bytes()).await.expect("sent");
        let answer = read_until(&mut stream, "content-length: 0").await;
        let hint =
            |to: &str| format!("HTTP/1.1 103 Early Hints\r\nlink: <{to}>; rel=preload\r\n\r\n");
        let hints = format!("{}{}HTTP/1.1 200 OK\r\n", hint("/a.css"), hint("/b.js"));
        assert!(answer.starts_with(&hints), "{answer}");
        if !answer.ends_with("\r\n\r\n") {
            read_until(&mut stream, "\r\n\r\n").await;
        }
    }
    // HTTP/1.0 has no interim answers, and the gateway sends none over HTTP/2.
    let mut old = connect(&ignite).await;
    old.write_all(ask("1.0").as_bytes()).await.expect("sent");
    let answer = read_until(&mut old, "content-length: 0").await;
    assert!(!answer.contains("103"), "{answer}");
    let (_, body) = mpsc::channel(1);
    let mut request = call(&app.hosts[1], "/hints", body);
    *request.method_mut() = Method::GET;
    request.headers_mut().clear();
    let answer = http2_client(&ignite).await.send_request(request).await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_bytes_both_ways_until_one_side_ends_it() {
    let (ignite, app) = open_app(json!({})).await;
    let mut stream = connect(&ignite).await;
    let head = format!(
        "GET /upgrade HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        app.host()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    for word in ["one", "two", "three"] {
        stream.write_all(word.as_bytes()).await.expect("sent");
        assert_eq!(read_until(&mut stream, word).await, word);
    }
    stream.shutdown().await.expect("closed");
    let mut rest = Vec::new();
    let end = timeout(HANGS, stream.read_to_end(&mut rest)).await;
    end.expect("the other side ends too").expect("in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_reach_the_app_but_the_platforms_own() {
    let (ignite, app) = open_app(json!({})).await;
    let mut stream = connect(&ignite).await;
    let request = format!(
        "POST /upload HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\
         trailer: x-sum, x-ignite-function-id\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sum: 7\r\nx-ignite-function-id: evil\r\n\r\n",
        app.host()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.contains(r#""trailers":[["x-sum","7"]]"#), "{answer}");
}

type Sender = http2::SendRequest<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

async fn http2_client(ignite: &Ignite) -> Sender {
    let io = TokioIo::new(connect(ignite).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("HTTP/2");
    // It ends with the sender.
    tokio::spawn(connection);
    sender
}

/// A gRPC call whose messages come from a channel.
fn call(
    host: &str,
    path: &str,
    messages: mpsc::Receiver<Bytes>,
) -> Request<UnsyncBoxBody<Bytes, std::convert::Infallible>> {
    let frames = ReceiverStream::new(messages).map(|bytes| Ok(Frame::data(bytes)));
    Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-timeout", "9S")
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_reach_the_app_in_http_2_stream_both_ways_and_keep_their_trailers() {
    let (ignite, app) = open_app(json!({})).await;
    let mut sender = http2_client(&ignite).await;
    let (messages, body) = mpsc::channel(1);
    messages.send(Bytes::from("one")).await.expect("taken");
    let answer = sender.send_request(call(app.host(), "/probe.Echo/Chat", body));
    let answer = timeout(HANGS, answer)
        .await
        .expect("in time")
        .expect("an answer");
    let header = |name: &str| answer.headers().get(name).cloned().expect("set");
    assert_eq!(header("x-probe-http"), "HTTP/2.0");
    assert_eq!(header("x-probe-grpc-timeout"), "9S");
    assert_eq!(header("content-type"), "application/grpc");
    let mut body = answer.into_body();
    let mut next = async || body.frame().await.expect("a frame").expect("whole");
    assert_eq!(next().await.into_data().expect("data"), "one");
    for word in ["two", "three"] {
        messages.send(Bytes::from(word)).await.expect("taken");
        assert_eq!(next().await.into_data().expect("data"), word);
    }
    drop(messages);
    let trailers = next().await.into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");

    // More calls at once than one connection takes.
    let calls = (0..150).map(|_| {
        let (messages, body) = mpsc::channel(1);
        let answer = sender.send_request(call(app.host(), "/probe.Echo/Chat", body));
        async move {
            let mut body = answer.await.expect("an answer").into_body();
            messages.send(Bytes::from("x")).await.expect("taken");
            assert!(
                body.frame()
                    .await
                    .expect("a frame")
                    .expect("whole")
                    .is_data()
            );
            drop(messages);
            let last = body.frame().await.expect("a frame").expect("whole");
            let trailers = last.into_trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
        }
    });
    let mut all = tokio::task::JoinSet::from_iter(calls);
    while let Some(one) = timeout(HANGS, all.join_next()).await.expect("in time") {
        one.expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_platform_is_told_to_grpc_callers_in_grpc() {
    let ignite = Ignite::builder().start().await;
    let closed = ignite.publish("acme", "closed", json!({})).await;
    let open = ignite
        .publish("acme", "open", json!({ "allow_unauthenticated": true }))
        .await;
    let mut sender = http2_client(&ignite).await;
    let mut fail = async |host: &str, path: &str| {
        let (_, body) = mpsc::channel(1);
        let answer = sender.send_request(call(host, path, body));
        timeout(HANGS, answer)
            .await
            .expect("in time")
            .expect("an answer")
    };
    let nobody = closed.host().replace("closed", "nobody");
    // Callers without a token do not learn whether it exists.
    for (host, code, reason) in [
        (closed.host(), "16", "UNAUTHENTICATED"),
        (&nobody, "16", "UNAUTHENTICATED"),
    ] {
        let answer = fail(host, "/probe.Echo/Say").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert_eq!(answer.headers()["grpc-status"], code);
        assert!(answer.headers().contains_key("grpc-message"));
        assert_eq!(answer.headers()["x-ignite-error"], reason);
    }
    // In the middle of an answer it ends in trailers as well.
    let answer = fail(open.host(), "/break/1000?how=close").await;
    let whole = answer.into_body().collect().await.expect("an end in order");
    let trailers = whole.trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["x-ignite-error"], "REPLICA_BROKE");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_can_ask_for_http_2_or_for_none_of_it() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(
        &ignite,
        "acme/two",
        json!({ "protocol": "APP_PROTOCOL_H2C" }),
    )
    .await;
    let version = async || app.get_ok(&ignite, "/x").await.json().await["version"].clone();
    assert_eq!(
        version().await,
        "HTTP/2.0",
        "also for the health path, which came first"
    );
    let (_, meta) = app.api(&ignite, Method::GET, "", Value::Null).await;
    assert_eq!(meta["app"]["protocol"], "APP_PROTOCOL_H2C");
    // A body, both ways, and an upgrade, which is HTTP/1.1's.
    let echo = app.request(&ignite, Method::POST, "/raw").body("hello");
    assert_eq!(echo.send().await.expect("an answer").text().await, "hello");
    app.update(&ignite, json!({ "protocol": "APP_PROTOCOL_HTTP1" }))
        .await;
    assert_eq!(version().await, "HTTP/1.1", "without a new container");
}

/// It used to be asked in HTTP/1.1 until its start had taken too long.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_has_http_2_alone_needs_no_setting_for_it() {
    let (ignite, app) = open_app(json!({ "env": { "PROBE_HTTP2_ONLY": "1" } })).await;
    let get = || ignite.request(Method::GET, "/x").host(app.host()).send();
    let answer = get().await.expect("an answer").json().await;
    assert_eq!(answer["version"], "HTTP/2.0", "{answer}");
    let mut sender = http2_client(&ignite).await;
    let (_, body) = mpsc::channel(1);
    let answer = sender.send_request(call(app.host(), "/probe.Echo/Say", body));
    let answer = timeout(HANGS, answer).await.expect("in time");
    let whole = answer.expect("an answer").into_body().collect().await;
    let trailers = whole.expect("whole").trailers().cloned();
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
}

/// Clients of HTTP/1.0 know the end of an answer without a length by the end of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_is_told_which_answers_end_with_its_connection() {
    let (ignite, app) = open_app(json!({})).await;
    let ask = |path: &str| {
        let host = app.host();
        format!("GET {path} HTTP/1.0\r\nhost: {host}\r\nconnection: keep-alive\r\n\r\n")
    };
    let mut stream = connect(&ignite).await;
    // With a length the connection goes on.
    for _ in 0..2 {
        let sent = stream.write_all(ask("/bytes/3").as_bytes()).await;
        sent.expect("sent");
        let answer = read_until(&mut stream, "abc").await;
        assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
    }
    let sent = stream.write_all(ask("/chunked/3").as_bytes()).await;
    sent.expect("sent");
    let mut rest = String::new();
    let end = timeout(HANGS, stream.read_to_string(&mut rest)).await;
    end.expect("it ends").expect("in order");
    assert!(rest.contains("connection: close\r\n"), "{rest}");
    assert!(!rest.contains("keep-alive"), "{rest}");
    assert!(rest.ends_with("\r\n\r\nabc"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_may_call_apps_that_ask_for_no_token_and_those_that_name_their_origin() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/web", json!({})).await;
    let host = "web-acme.ignite.localhost";
    let preflight = async || {
        let request = ignite
            .request(Method::OPTIONS, "/x")
            .host(host)
            .header("origin", "https://a.example")
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "authorization, x-own");
        request.send().await.expect("an answer")
    };
    let allowed = |answer: &crate::support::http::Answer| {
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    let answer = preflight().await;
    assert_eq!(
        answer.status,
        StatusCode::UNAUTHORIZED,
        "it asks for a token"
    );
    assert_eq!(allowed(&answer), None);

    app.update(&ignite, json!({ "allow_unauthenticated": true }))
        .await;
    let answer = preflight().await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(allowed(&answer).as_deref(), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("authorization, x-own")
    );
    assert_eq!(
        app.figure(&ignite, "runningReplicas").await,
        0,
        "nobody was woken"
    );
    for (path, own) in [
        ("/", "*"),
        ("/with-headers?access-control-allow-origin=own", "own"),
    ] {
        let request = app
            .request(&ignite, Method::GET, path)
            .header("origin", "https://a.example");
        let answer = request.send().await.expect("an answer");
        assert_eq!(allowed(&answer).as_deref(), Some(own), "{path}");
    }
    let plain = app.get_ok(&ignite, "/").await;
    assert_eq!(allowed(&plain), None, "no page asked");

    app.update(
        &ignite,
        json!({ "allow_unauthenticated": false, "cors_origins": ["https://a.example"] }),
    )
    .await;
    let answer = preflight().await;
    assert_eq!(allowed(&answer).as_deref(), Some("https://a.example"));
    let other = app
        .request(&ignite, Method::GET, "/")
        .header("origin", "https://b.example");
    assert_eq!(allowed(&other.send().await.expect("an answer")), None);

    app.update(
        &ignite,
        json!({ "allow_unauthenticated": true, "cors_origins": ["none"] }),
    )
    .await;
    let echo = preflight().await.json().await;
    assert_eq!(echo["method"], "OPTIONS", "the app's own business: {echo}");
}
