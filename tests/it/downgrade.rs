//! HTTP/2 requests, as raw frames, whose fields would change their meaning in HTTP/1.1.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    smuggling::{
        Fate::{self, Bare, Framed, Refused},
        LIMIT, judge, recorded, recorder,
    },
    support::ignite::Ignite,
};

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Header fields as HPACK literals, which carry any bytes.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(
                u8::try_from(text.len())
                    .ok()
                    .filter(|n| *n < 127)
                    .expect("short"),
            );
            out.extend(text.as_bytes());
        }
    }
    out
}

/// HTTP/2 frames its messages itself, so a framing field, or a line break in a field, gains a
/// meaning only when the request is rewritten to HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_on_the_way_from_http_2_to_http_1() {
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let (ignite, app) = recorder().await;
    let host = app.hosts[1].as_str();
    let injected = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: no.where\r\n\r\n";
    let path = "/case-?- HTTP/1.1\r\nx: y";
    let method = "GET /smuggled HTTP/1.1\r\nx: y\r\nGET";
    let odd_host = format!("user@{host}");
    // Each class with the fields that differ from those of a plain request, and a body.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, Fate);
    let cases: &[Case<'_>] = &[
        ("a plain request", &[], "hello", Framed),
        ("CRLF in a value", &[("x-a", injected)], "", Refused),
        ("LF in a value", &[("x-a", "b\nx-c: d")], "", Refused),
        ("CRLF in a name", &[("x-a: b\r\nx-c", "d")], "", Refused),
        (
            "a colon in a name",
            &[("transfer-encoding: chunked", "x")],
            "",
            Refused,
        ),
        ("a blank in a name", &[("x-a ", "x")], "", Refused),
        ("a name in capitals", &[("X-A", "x")], "", Refused),
        (
            "transfer-encoding",
            &[("transfer-encoding", "chunked")],
            "0\r\n\r\n",
            Refused,
        ),
        ("connection", &[("connection", "close")], "", Refused),
        ("keep-alive", &[("keep-alive", "1")], "", Refused),
        ("te other than trailers", &[("te", "gzip")], "", Refused),
        (
            "a content-length that is too short",
            &[("content-length", "1")],
            "hello",
            Refused,
        ),
        (
            "a content-length that is too long",
            &[("content-length", "99")],
            "hello",
            Refused,
        ),
        (
            "content-length 0 with a body",
            &[("content-length", "0")],
            injected,
            Bare,
        ),
        ("CRLF in the path", &[(":path", path)], "", Refused),
        ("CRLF in the method", &[(":method", method)], "", Refused),
        (
            "a userinfo in the authority",
            &[(":authority", &odd_host)],
            "",
            Refused,
        ),
        (
            "a Host that differs",
            &[("host", "else.where")],
            "hello",
            Framed,
        ),
        (
            "two paths",
            &[(":path", "/other"), (":path", "/case-?-")],
            "",
            Refused,
        ),
    ];
    let mut wrong = Vec::new();
    for (n, (class, changed, body, fate)) in cases.iter().enumerate() {
        let target = format!("/case-{n}-");
        let usual = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", host),
            (":path", target.as_str()),
        ];
        let mut fields: Vec<(&str, String)> = usual
            .into_iter()
            .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name))
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        fields.extend(
            changed
                .iter()
                .map(|(name, v)| (*name, v.replace('?', &n.to_string()))),
        );
        // Pseudo fields come first.
        fields.sort_by_key(|(name, _)| !name.starts_with(':'));
        let fields: Vec<_> = fields.iter().map(|(name, v)| (*name, v.as_str())).collect();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        let last = if body.is_empty() { END_STREAM } else { 0 };
        bytes.extend(frame(HEADERS, END_HEADERS | last, 1, &block(&fields)));
        if !body.is_empty() {
            bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
        }
        let status = http2_status(&ignite, &bytes).await;
        let good = status == Some(200);
        let seen = recorded(&ignite, &app).await;
        wrong.extend(judge(class, *fate, good, &status, &seen, &target));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The status of the answer on stream 1: `Some(0)` if it is not 200, `None` if the stream or the
/// connection was closed instead.
async fn http2_status(ignite: &Ignite, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection");
    // A server that refuses may close before everything is sent.
    let _ = stream.write_all(bytes).await;
    let answer = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; len];
            stream.read_exact(&mut payload).await.ok()?;
            match head[3] {
                // The static table's entry for `:status 200`, indexed.
                1 => {
                    return Some(if payload.first() == Some(&0x88) {
                        200
                    } else {
                        0
                    });
                }
                3 | 7 => return None,
                _ => {}
            }
        }
    };
    timeout(LIMIT, answer).await.expect("an answer or an end")
}
