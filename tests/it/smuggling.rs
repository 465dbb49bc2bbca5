//! Ambiguous requests, sent as raw bytes. What a recording app receives is parsed by a strict
//! parser that accepts one spelling only: each request has one end, and there is no request that
//! was not sent. The classes are those of RFC 9112 (6.3, 11.2) and of the published research on
//! request smuggling and header injection.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{contract::Published, ignite::Ignite};

const RAW_PORT: u16 = 8081;
/// A case without an answer by then has none.
pub(crate) const LIMIT: Duration = crate::support::HANGS;

/// The expected outcome of a case.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fate {
    /// 400 or an end of the connection; the app sees nothing.
    Refused,
    /// The app sees this one request, spelled so that it has one reading.
    Framed,
    /// The client is refused for what followed a request; the app may have seen that request, whole
    /// and without a body.
    Bare,
}
use Fate::{Bare, Framed, Refused};

/// Name of the class, head after the request line and Host, body, and expected outcome.
const CASES: &[(&str, &str, &str, Fate)] = &[
    // Two lengths.
    (
        "two content-lengths that differ",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "hello!",
        Refused,
    ),
    (
        "two content-lengths in one line",
        "content-length: 5, 6\r\n",
        "hello!",
        Refused,
    ),
    (
        "two content-lengths that agree",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "hello",
        Framed,
    ),
    (
        "a signed content-length",
        "content-length: +5\r\n",
        "hello",
        Refused,
    ),
    (
        "a negative content-length",
        "content-length: -1\r\n",
        "",
        Refused,
    ),
    (
        "a content-length in hex",
        "content-length: 0x5\r\n",
        "hello",
        Refused,
    ),
    (
        "a content-length with a blank in it",
        "content-length: 1 5\r\n",
        "hello",
        Refused,
    ),
    (
        "a content-length that overflows",
        "content-length: 18446744073709551621\r\n",
        "hello",
        Refused,
    ),
    // CL.TE and TE.CL: the length and the coding disagree about the end.
    (
        "CL.TE",
        "content-length: 40\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        Framed,
    ),
    (
        "TE.CL",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    // TE.TE: a coding that one of two parsers does not recognise.
    (
        "xchunked",
        "transfer-encoding: xchunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "chunked, then identity",
        "transfer-encoding: chunked, identity\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "identity, then chunked",
        "transfer-encoding: identity, chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "gzip, then chunked",
        "transfer-encoding: gzip, chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "chunked twice",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "chunked and something else",
        "transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "chunked in quotes",
        "transfer-encoding: \"chunked\"\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a vertical tab before chunked",
        "transfer-encoding: \x0bchunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a tab before chunked",
        "transfer-encoding:\tchunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    (
        "blanks before chunked",
        "transfer-encoding:   chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    (
        "chunked in capitals",
        "Transfer-Encoding: CHUNKED\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    (
        "an underscore for the dash",
        "transfer_encoding: chunked\r\ncontent-length: 5\r\n",
        "0\r\n\r\n",
        Framed,
    ),
    // Lines that some parsers read as a new line, others as part of the previous one.
    (
        "a blank before the colon",
        "transfer-encoding : chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a blank before a name",
        " transfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a folded line",
        "x-a: b\r\n transfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a folded coding",
        "transfer-encoding:\r\n chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    ("a NUL in a value", "x-a: b\0c\r\n", "", Refused),
    ("a NUL in a name", "x\0a: b\r\n", "", Refused),
    (
        "a bare CR in a value",
        "x-a: b\rtransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused,
    ),
    (
        "a line without a colon",
        "transfer-encoding\r\n",
        "",
        Refused,
    ),
    ("bare LF between lines", "x-a: b\nx-c: d\r\n", "", Framed),
    // Chunks.
    (
        "a chunk size that overflows",
        "transfer-encoding: chunked\r\n",
        "1000000000000000005\r\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a chunk size with a sign",
        "transfer-encoding: chunked\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a chunk size as 0x5",
        "transfer-encoding: chunked\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a chunk longer than its size",
        "transfer-encoding: chunked\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a chunk size that ends in a bare LF",
        "transfer-encoding: chunked\r\n",
        "5\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a bare LF in a chunk extension",
        "transfer-encoding: chunked\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a chunk extension",
        "transfer-encoding: chunked\r\n",
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    // Hop-by-hop tricks: asking the proxy to drop a header.
    (
        "content-length named in Connection",
        "connection: content-length\r\ncontent-length: 5\r\n",
        "hello",
        Framed,
    ),
    (
        "transfer-encoding named in Connection",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Framed,
    ),
    (
        "host named in Connection",
        "connection: host, x-forwarded-for\r\ncontent-length: 0\r\n",
        "",
        Framed,
    ),
    // Hosts.
    ("a third Host", "host: a\r\nhost: b\r\n", "", Refused),
    ("a second Host", "host: else.where\r\n", "", Refused),
];

pub(crate) async fn recorder() -> (Ignite, Published) {
    let ignite = Ignite::builder().start().await;
    let settings = json!({
        "allow_unauthenticated": true,
        "ports": [80, RAW_PORT],
        "env": { "PROBE_RAW_PORT": RAW_PORT.to_string() },
        "limits": { "timeout_secs": 10 },
        "scaling": { "max_replicas": 1 },
    });
    let app = ignite.publish("acme", "app", settings).await;
    (ignite, app)
}

/// Sends bytes on a new connection and returns the status line of the first answer, if any.
async fn send(ignite: &Ignite, bytes: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    let mut seen = Vec::new();
    let first = async {
        while !seen.contains(&b'\n') && stream.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {}
    };
    let _ = timeout(LIMIT, first).await;
    let text = String::from_utf8_lossy(&seen);
    text.lines().next().map(str::to_owned)
}

pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The body came to its end.
    pub(crate) whole: bool,
}

/// Parses requests strictly: CRLF, and one length or one `chunked`.
fn strictly(mut bytes: &str) -> Result<Vec<Seen>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (head, mut rest) = bytes.split_once("\r\n\r\n").ok_or("no end of the head")?;
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines {
            if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
                return Err(format!("the line {line:?}"));
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("no colon in {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let of = |name: &str| -> Vec<_> {
            headers
                .iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
                .collect()
        };
        if of("host").len() != 1 {
            return Err(format!("hosts {:?}", of("host")));
        }
        let mut whole = true;
        match (&of("content-length")[..], &of("transfer-encoding")[..]) {
            ([], []) => {}
            ([length], []) => {
                let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
                whole = length <= rest.len();
                rest = rest.get(length..).unwrap_or_default();
            }
            ([], [coding]) if coding == "chunked" => loop {
                let Some((size, after)) = rest.split_once("\r\n") else {
                    (whole, rest) = (false, "");
                    break;
                };
                let size = usize::from_str_radix(size, 16).map_err(|_| format!("size {size:?}"))?;
                let Some(next) = after.get(size..).and_then(|a| a.strip_prefix("\r\n")) else {
                    (whole, rest) = (false, "");
                    break;
                };
                rest = next;
                if size == 0 {
                    break;
                }
            },
            both => return Err(format!("lengths and codings {both:?}")),
        }
        bytes = rest;
        all.push(Seen {
            line,
            headers,
            whole,
        });
    }
    Ok(all)
}

/// What is wrong with the outcome of a case, judged by whether it went `through`, the answer, and
/// everything the app has seen. A body that breaks in the middle may have begun, but must not seem
/// whole.
pub(crate) fn judge(
    class: &str,
    fate: Fate,
    through: bool,
    answer: &dyn std::fmt::Debug,
    seen: &[Seen],
    target: &str,
) -> Option<String> {
    let mine: Vec<_> = seen.iter().filter(|s| s.line.contains(target)).collect();
    let as_it_should = match fate {
        Refused => !through && mine.iter().all(|s| !s.whole),
        Framed => through && mine.len() == 1 && mine[0].whole,
        Bare => {
            let empty = ("content-length".to_owned(), "0".to_owned());
            !through && mine.iter().all(|s| s.headers.contains(&empty))
        }
    };
    let smuggled = seen.iter().any(|s| {
        s.line.contains("smuggled") || s.headers.iter().any(|(_, v)| v.contains("else.where"))
    });
    let mine = mine.iter().map(|s| (&s.line, &s.headers, s.whole));
    (!as_it_should || smuggled).then(|| {
        let mine: Vec<_> = mine.collect();
        format!("{class}: {fate:?}, but {answer:?}, seen {mine:?}, smuggled {smuggled}")
    })
}

pub(crate) async fn recorded(ignite: &Ignite, app: &Published) -> Vec<Seen> {
    let asked = ignite.request(Method::GET, "/recorded").host(app.host());
    let echo = asked.send().await.expect("an answer").json().await;
    let all = echo["connections"].as_array().expect("a list").iter();
    let all = all.map(|bytes| bytes.as_str().expect("text"));
    all.flat_map(|bytes| strictly(bytes).unwrap_or_else(|e| panic!("{e} in {bytes:?}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_readings_is_refused_or_gets_one() {
    let (ignite, app) = recorder().await;
    let mut wrong = Vec::new();
    for (n, (class, head, body, fate)) in CASES.iter().enumerate() {
        // A parser that ends this request too soon would read the rest as another request.
        let bytes = format!(
            "POST /case-{n}- HTTP/1.1\r\nhost: {}\r\n{head}\r\n{body}",
            app.hosts[1]
        );
        let bytes = if body.is_empty() {
            bytes
        } else {
            format!(
                "{bytes}GET /smuggled HTTP/1.1\r\nhost: {}\r\nx-token: 1\r\n\r\n",
                "no.where"
            )
        };
        let status = send(&ignite, bytes.as_bytes()).await;
        let refused = status
            .as_deref()
            .is_none_or(|s| s.starts_with("HTTP/1.1 400"));
        let seen = recorded(&ignite, &app).await;
        let target = format!("/case-{n}-");
        wrong.extend(judge(class, *fate, !refused, &status, &seen, &target));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_said_once_and_the_one_that_was_routed_by_is_the_one_that_the_app_sees() {
    let (ignite, app) = recorder().await;
    let host = app.hosts[1].as_str();
    let name = host.split(':').next().expect("a name");
    for (line, host_line, expected) in [
        // RFC 9112, 3.2.2: the target in absolute form counts.
        (
            format!("GET http://{host}/a HTTP/1.1"),
            "else.where".to_owned(),
            Some(host),
        ),
        (
            "GET http://else.where/b HTTP/1.1".to_owned(),
            host.to_owned(),
            None,
        ),
        (
            format!("GET http://user@{host}/c HTTP/1.1"),
            host.to_owned(),
            None,
        ),
        ("GET /d HTTP/1.1".to_owned(), format!("user@{host}"), None),
        ("GET /e HTTP/1.1".to_owned(), format!("{name}:80:90"), None),
        (
            "GET /f HTTP/1.1".to_owned(),
            format!("{name}, else.where"),
            None,
        ),
        (
            "GET /g HTTP/1.1".to_owned(),
            format!("else.where/{name}"),
            None,
        ),
        ("GET /h HTTP/1.1".to_owned(), format!("{name}:"), Some("")),
    ] {
        let before = recorded(&ignite, &app).await.len();
        let bytes = format!("{line}\r\nhost: {host_line}\r\n\r\n");
        let status = send(&ignite, bytes.as_bytes()).await.unwrap_or_default();
        let seen = recorded(&ignite, &app).await;
        match expected {
            None => {
                assert!(!status.contains(" 200"), "{bytes:?}: {status}");
                assert_eq!(seen.len(), before, "{bytes:?}");
            }
            Some(expected) => {
                assert!(status.contains(" 200"), "{bytes:?}: {status}");
                let last = seen.last().expect("a request");
                let shown = last.headers.iter().find(|(n, _)| n == "host");
                assert!(
                    shown.is_some_and(|(_, v)| v.contains(expected)),
                    "{shown:?}"
                );
                assert!(
                    !format!("{:?}", last.headers).contains("else.where"),
                    "{bytes:?}"
                );
            }
        }
    }
}
