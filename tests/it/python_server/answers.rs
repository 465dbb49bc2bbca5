//! What a handler returns and raises, and how the wire carries it.

use hyper::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{LIMIT, Server};

/// A handler that evaluates the expression it is sent.
const EVAL: &str = r#"
import asyncio, json

class Named:
    def __str__(self): return "its text"

async def later(value):
    await asyncio.sleep(0)
    return value

async def pieces(*values):
    for value in values:
        await asyncio.sleep(0)
        yield value

def handler(payload: bytes, ctx: dict):
    return eval(payload.decode())
"#;

#[tokio::test]
async fn what_a_handler_returns_is_the_answer() {
    let server = Server::start(EVAL, &[]).await;
    let (octets, text, lines) = (
        "application/octet-stream",
        "text/plain; charset=utf-8",
        "application/x-ndjson",
    );
    for (returned, kind, body) in [
        ("b'\\x00\\xff'", octets, &b"\x00\xff"[..]),
        ("bytearray(b'ab')", octets, b"ab"),
        ("'h\u{e9}'", text, "h\u{e9}".as_bytes()),
        (
            "{'a': [1, None]}",
            "application/json",
            br#"{"a": [1, null]}"#,
        ),
        ("None", "application/json", b"null"),
        ("(1, 2)", "application/json", b"[1, 2]"),
        ("payload", octets, b"payload"),
        ("iter([b'a', b'', b'b'])", octets, b"ab"),
        ("(c for c in 'xyz')", text, b"xyz"),
        ("iter([{'a': 1}, 2])", lines, b"{\"a\": 1}\n2\n"),
        ("iter([])", octets, b""),
        ("later('slept')", text, b"slept"),
        ("later(iter('ab'))", text, b"ab"),
        ("pieces('a', 'b')", text, b"ab"),
        ("later(pieces('a'))", text, b"a"),
    ] {
        let answer = server.answer(returned).await;
        assert_eq!(answer.status, StatusCode::OK, "{returned}");
        assert_eq!(answer.header("content-type"), Some(kind), "{returned}");
        assert_eq!(answer.bytes().await, body, "{returned}");
    }
    let ctx = server.answer("ctx").await.json().await;
    let wanted =
        json!({"execution_id": "exec_1", "function_id": "acme/app", "organization_id": "org-1"});
    assert_eq!(ctx, wanted);
}

#[tokio::test]
async fn what_a_handler_raises_is_a_500_with_error_type_and_traceback() {
    let server = Server::start(EVAL, &[]).await;
    for (call, error, kind) in [
        ("{}['absent']", "'absent'", "KeyError"),
        ("exit('no')", "no", "SystemExit"),
        (
            "object()",
            "Object of type object is not JSON serializable",
            "TypeError",
        ),
        (
            "(1 // 0 for _ in 'a')",
            "integer division or modulo by zero",
            "ZeroDivisionError",
        ),
        (
            "later(1 // 0)",
            "integer division or modulo by zero",
            "ZeroDivisionError",
        ),
        (
            "pieces(object())",
            "Object of type object is not JSON serializable",
            "TypeError",
        ),
    ] {
        let answer = server.answer(call).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{call}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.json().await;
        let keys: Vec<_> = body.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["error", "traceback", "type"], "{call}");
        assert_eq!(
            (body["error"].as_str(), body["type"].as_str()),
            (Some(error), Some(kind))
        );
        let trace = body["traceback"].as_str().expect("text");
        assert!(
            trace.starts_with("Traceback (most recent call last)"),
            "{trace}"
        );
        assert!(!trace.contains("server.py"), "{trace}");
        server.logged(trace.lines().last().expect("a line")).await;
    }
    assert!(server.log().contains("execution exec_1 failed"));
    let missing = server.answer("__import__('nothing_here.at_all')").await;
    let missing = missing.json().await;
    assert_eq!(missing["error"], "No module named 'nothing_here'");
    let trace = missing["traceback"].as_str().expect("text");
    let last = trace.lines().last().expect("a line");
    assert!(
        last.contains("add nothing_here to requirements.txt"),
        "{last}"
    );
    assert_eq!(
        server.answer("'still here'").await.text().await,
        "still here"
    );
}

#[tokio::test]
async fn the_wire_is_http_as_the_gateway_and_other_clients_speak_it() {
    let server = Server::start(EVAL, &[("IGNITE_MAX_PAYLOAD_BYTES", "1000")]).await;
    // Several requests on one connection, the last two pipelined, each with another framing.
    let together = "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n'1'\
         HEAD / HTTP/1.1\r\ncontent-length: 3\r\n\r\n'2'\
         HEAD / HTTP/1.1\r\ncontent-length: 9\r\n\r\niter('2')\
         GET /healthz HTTP/1.1\r\n\r\n\
         POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\n'3\r\n1\r\n'\r\n0\r\nt: 1\r\n\r\n\
         GET /custom HTTP/1.1\r\nuser-agent: ignite-health/1\r\nconnection: close\r\n\r\n";
    let answers = server.raw(together).await;
    let heads = answers.matches("HTTP/1.1 200 OK\r\n").count();
    assert_eq!(heads, 6, "{answers}");
    let text = |body: &str| {
        format!(
            "content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n",
            body.len()
        )
    };
    for part in [
        format!("{}\r\n1HTTP", text("1")),
        // A HEAD answers as the same POST would, without the body.
        format!("{}\r\nHTTP", text("2")),
        "transfer-encoding: chunked\r\n\r\nHTTP".to_owned(),
        format!("{}\r\nok\nHTTP", text("ok\n")),
        format!("{}\r\n3HTTP", text("3")),
    ] {
        assert!(answers.contains(&part), "no {part:?} in {answers:?}");
    }
    let end = format!("{}connection: close\r\n\r\nok\n", text("ok\n"));
    assert!(answers.ends_with(&end), "{answers:?}");

    // The body comes once the server has asked for it.
    let mut socket = TcpStream::connect(server.addr).await.expect("connects");
    let head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    socket.write_all(head).await.expect("sends");
    let mut asked = [0; 25];
    timeout(LIMIT, socket.read_exact(&mut asked))
        .await
        .expect("in time")
        .expect("asked");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"'4'").await.expect("sends");
    let mut answer = [0; 15];
    timeout(LIMIT, socket.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");

    // An HTTP/1.0 client gets its stream until the end of the connection.
    let old = server
        .raw("POST / HTTP/1.0\r\ncontent-length: 10\r\n\r\niter('ab')")
        .await;
    assert!(
        old.ends_with("connection: close\r\n\r\nab") && !old.contains("chunked"),
        "{old:?}"
    );

    for (status, request) in [
        (
            "400",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "400",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1",
        ),
        ("400", "POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n1"),
        (
            "400",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        ),
        (
            "400",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n12\r\n0\r\n\r\n",
        ),
        ("400", "POST / HTTP/1.1\r\nname : value\r\n\r\n"),
        ("400", "nonsense\r\n\r\n"),
        ("501", "POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n"),
        ("413", "POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n"),
        (
            "413",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n",
        ),
        (
            "431",
            &format!("POST / HTTP/1.1\r\nlong: {}\r\n\r\n", "x".repeat(70_000)),
        ),
    ] {
        let answer = server.raw(request).await;
        let short = &request[..request.len().min(80)];
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{short:?}: {answer:?}"
        );
        assert!(
            answer.contains("connection: close") && answer.contains(r#"{"error": ""#),
            "{answer}"
        );
    }
}
