//! App URLs: by host and by path, byte for byte, streamed both ways, with the right headers.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::support::{HANGS, contract::Published, engine, eventually_ok, http, ignite::Ignite};

/// A server with one open app, whose requests need no token.
async fn open_app(settings: Value) -> (Ignite, Published) {
    let ignite = Ignite::builder().start().await;
    let mut all = json!({ "allow_unauthenticated": true, "resource_tier": "RESOURCE_TIER_XLARGE" });
    crate::support::contract::merge(&mut all, settings);
    let app = ignite.publish("acme", "app", all).await;
    (ignite, app)
}

async fn send(request: http::Request) -> http::Answer {
    request.send().await.expect("an answer")
}

/// All values of a header that the app received.
fn seen(echo: &Value, name: &str) -> Vec<String> {
    let pairs = echo["headers"].as_array().expect("headers").iter();
    let of = pairs.filter(|pair| pair[0] == name);
    of.map(|pair| pair[1].as_str().expect("text").to_owned())
        .collect()
}

/// Sends raw bytes and reads until the connection ends.
async fn raw(ignite: &Ignite, request: &str) -> String {
    let mut stream = TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_reached_by_its_host_and_by_its_path_with_path_and_query_byte_for_byte() {
    let (ignite, app) = open_app(json!({})).await;
    for target in [
        "/",
        "/a%2Fb//c;x=1?q=%20&&",
        "//double/../dots/./x",
        "/?",
        "/%e2%82%ac/%E2%82%AC?a=b?c=/d&e=%00",
        "/:@!$&'()*+,=~_-.",
        "/_app/acme/app/inner",
        "/v1/ignite/health",
        "/a|b{c}",
    ] {
        // As a raw request line, because client libraries normalize paths.
        let by_host = format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            app.host()
        );
        let by_path = format!(
            "GET /_app/acme/app{target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            ignite.http_addr()
        );
        for request in [by_host, by_path] {
            let answer = raw(&ignite, &request).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 200"), "{request:?}: {answer}");
            let start = body.find('{').expect("JSON");
            let end = body.rfind('}').expect("JSON");
            let echo: Value = serde_json::from_str(&body[start..=end]).expect("JSON");
            assert_eq!(echo["uri"], target, "{request:?}");
        }
    }
    // An empty rest is the root; hosts are case-insensitive.
    for (path, host, uri) in [
        ("/_app/acme/app/", None, "/"),
        ("/_app/acme/app/?x=1", None, "/?x=1"),
        ("/x", Some(app.host().to_uppercase()), "/x"),
        ("/x", Some("app-acme.ignite.localhost".to_owned()), "/x"),
        ("/x", Some("app-acme.ignite.localhost.:1".to_owned()), "/x"),
    ] {
        let mut request = ignite.request(Method::PUT, path);
        if let Some(host) = &host {
            request = request.host(host);
        }
        let echo = send(request.body("hello")).await.json().await;
        assert_eq!(
            (&echo["uri"], &echo["method"]),
            (&json!(uri), &json!("PUT")),
            "{path}"
        );
        assert_eq!(echo["body"], "hello");
    }
    // The URI of a request in absolute form outranks its Host.
    let absolute = format!(
        "GET http://{}/abs HTTP/1.1\r\nhost: else.where\r\nconnection: close\r\n\r\n",
        app.host()
    );
    let answer = raw(&ignite, &absolute).await;
    assert!(answer.contains("\"/abs\""), "{answer}");
}

/// Relative links of a page at `/_app/acme/app` would lead beside the app.
#[tokio::test(flavor = "multi_thread")]
async fn by_path_an_app_knows_its_prefix_and_what_it_says_of_itself_is_put_below_it() {
    let (ignite, _) = open_app(json!({})).await;
    for method in [Method::GET, Method::POST, Method::HEAD] {
        for (path, to) in [
            ("/_app/acme/app", "/_app/acme/app/"),
            ("/_app/acme/app?x=1&y", "/_app/acme/app/?x=1&y"),
        ] {
            let answer = send(ignite.request(method.clone(), path).body("hello")).await;
            assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT, "{method}");
            assert_eq!(answer.header("location"), Some(to));
        }
    }
    let unknown = send(ignite.request(Method::GET, "/_app/acme/nobody")).await;
    // The redirect does not reveal whether the app exists.
    assert_eq!(unknown.status, StatusCode::PERMANENT_REDIRECT);

    // The tests count as a trusted proxy, like every client on this machine.
    for (said, prefix) in [
        (None, "/_app/acme/app"),
        (Some("/base"), "/base/_app/acme/app"),
    ] {
        let by_path = |rest: &str| {
            let request = ignite.request(Method::GET, &format!("/_app/acme/app{rest}"));
            match said {
                Some(said) => request.header("x-forwarded-prefix", said),
                None => request,
            }
        };
        let echo = send(by_path("/x")).await.json().await;
        assert_eq!(seen(&echo, "x-forwarded-prefix"), [prefix]);
        let host = ignite.http_addr();
        let headers = format!(
            "location=http://{host}/a?b&content-location=/c&set-cookie=a=1;Path=/d;Domain=localhost&set-cookie=e=2"
        );
        let answer = send(by_path(&format!("/with-headers?{headers}"))).await;
        let all = |name: &str| -> Vec<String> {
            let values = answer.headers.get_all(name).iter();
            values
                .map(|v| v.to_str().expect("text").to_owned())
                .collect()
        };
        assert_eq!(all("location"), [format!("http://{host}{prefix}/a?b")]);
        assert_eq!(all("content-location"), [format!("{prefix}/c")]);
        assert_eq!(
            all("set-cookie"),
            [format!("a=1; Path={prefix}/d"), "e=2".to_owned()]
        );
    }
    // By its host an app is at the root.
    let host = "app-acme.ignite.localhost";
    let by_host = send(
        ignite
            .request(Method::GET, "/with-headers?location=/a")
            .host(host),
    )
    .await;
    assert_eq!(by_host.header("location"), Some("/a"));
    let echo = send(ignite.request(Method::GET, "/x").host(host))
        .await
        .json()
        .await;
    assert_eq!(seen(&echo, "x-forwarded-prefix"), Vec::<String>::new());
}

/// hyper treats a GET without a length as one without a body, so the body used to get lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_arrives_whatever_the_method() {
    let (ignite, app) = open_app(json!({})).await;
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            app.host()
        );
        let answer = raw(&ignite, &request).await;
        assert!(answer.contains(r#""body":"hello""#), "{method}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_headers_are_set_and_neither_client_nor_app_can_say_them() {
    let (ignite, app) = open_app(json!({})).await;
    let request = ignite
        .request(Method::GET, "/headers")
        .host(app.host())
        .header("x-ignite-execution-id", "mine")
        .header("x-ignite-function-id", "evil/app")
        .header("X-Ignite-Organization-Id", "evil")
        .header("x-ignite-anything", "x");
    let answer = send(request).await;
    let id = answer
        .header("x-ignite-execution-id")
        .expect("an id")
        .to_owned();
    assert!(id.starts_with("exec_") && id.len() == 31, "{id}");
    let echo = answer.json().await;
    assert_eq!(seen(&echo, "x-ignite-execution-id"), [id]);
    assert_eq!(seen(&echo, "x-ignite-function-id"), ["acme/app"]);
    assert_eq!(seen(&echo, "x-ignite-organization-id"), ["acme"]);
    assert!(seen(&echo, "x-ignite-anything").is_empty());

    let spoof = "/with-headers?x-ignite-error=INTERNAL&x-ignite-cold-start=true\
                 &x-ignite-execution-id=mine&x-own=1&x-own=2&set-cookie=a&set-cookie=b";
    let answer = send(ignite.request(Method::GET, spoof).host(app.host())).await;
    assert_eq!(answer.header("x-ignite-error"), None);
    assert_eq!(
        answer.header("x-ignite-cold-start"),
        None,
        "the app is warm"
    );
    assert_ne!(answer.header("x-ignite-execution-id"), Some("mine"));
    for (name, values) in [("x-own", ["1", "2"]), ("set-cookie", ["a", "b"])] {
        let all: Vec<_> = answer.headers.get_all(name).iter().collect();
        assert_eq!(all, values, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_stay_on_their_hop_and_the_forwarded_ones_are_right() {
    let (ignite, app) = open_app(json!({})).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = ignite
        .request(Method::GET, "/headers")
        .host(app.host())
        .header("connection", "keep-alive, x-private")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-authorization", "Basic x")
        .header("te", "gzip")
        .header("traceparent", trace)
        .header("tracestate", "a=b")
        .header("cookie", "c=d");
    let echo = send(request).await.json().await;
    for gone in [
        "x-private",
        "keep-alive",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(seen(&echo, gone).is_empty(), "{gone} in {echo}");
    }
    assert_eq!(seen(&echo, "host"), [app.host()]);
    assert_eq!(seen(&echo, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen(&echo, "x-forwarded-proto"), ["http"]);
    assert_eq!(seen(&echo, "x-forwarded-host"), [app.host()]);
    assert_eq!(seen(&echo, "traceparent"), [trace]);
    assert_eq!(seen(&echo, "tracestate"), ["a=b"]);
    assert_eq!(seen(&echo, "cookie"), ["c=d"]);

    // A proxy on this machine is trusted.
    let request = ignite
        .request(Method::GET, "/headers")
        .host(app.host())
        .header("x-forwarded-for", "9.9.9.9")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "app.example.com");
    let echo = send(request).await.json().await;
    assert_eq!(seen(&echo, "x-forwarded-for"), ["9.9.9.9, 127.0.0.1"]);
    assert_eq!(seen(&echo, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(&echo, "x-forwarded-host"), ["app.example.com"]);

    // Several fields of one name form one list.
    let request = ignite
        .request(Method::GET, "/headers")
        .host(app.host())
        .header("connection", "x-one")
        .add_header("connection", "x-two")
        .header("x-one", "1")
        .header("x-two", "2")
        .header("x-forwarded-for", "8.8.8.8")
        .add_header("x-forwarded-for", "9.9.9.9");
    let echo = send(request).await.json().await;
    assert!(
        seen(&echo, "x-one").is_empty() && seen(&echo, "x-two").is_empty(),
        "{echo}"
    );
    assert_eq!(
        seen(&echo, "x-forwarded-for").join(", "),
        "8.8.8.8, 9.9.9.9, 127.0.0.1"
    );

    let hops =
        "/with-headers?keep-alive=timeout&proxy-authenticate=x&connection=x-hop&x-hop=1&x-kept=1";
    let answer = send(ignite.request(Method::GET, hops).host(app.host())).await;
    for gone in ["keep-alive", "proxy-authenticate", "x-hop"] {
        assert_eq!(answer.header(gone), None, "{answer:?}");
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_while_the_request_is_still_being_sent() {
    let (ignite, app) = open_app(json!({})).await;
    let (chunks, body) = mpsc::channel(1);
    let request = ignite
        .request(Method::POST, "/raw")
        .host(app.host())
        .body_from(body);
    chunks.send(Bytes::from("one")).await.expect("taken");
    let mut answer = send(request).await;
    assert_eq!(
        answer.chunk().await.expect("a chunk").expect("whole"),
        "one"
    );
    for word in ["two", "three"] {
        chunks.send(word.into()).await.expect("taken");
        assert_eq!(answer.chunk().await.expect("a chunk").expect("whole"), word);
    }
    drop(chunks);
    assert!(answer.chunk().await.is_none(), "the end follows the end");

    // The first chunk of an answer arrives while the app is still writing.
    let request = ignite
        .request(Method::GET, "/stream/100000/20")
        .host(app.host());
    let mut answer = send(request).await;
    for n in 1..=3 {
        let chunk = answer.chunk().await.expect("a chunk").expect("whole");
        assert_eq!(chunk, format!("chunk {n}\n"));
    }
    let busy = send(ignite.request(Method::GET, "/concurrency").host(app.host())).await;
    assert_eq!(busy.json().await["current"], 1);
    drop(answer);
    // When the client leaves, the app's connection is closed.
    eventually_ok(HANGS, || async {
        let busy = send(ignite.request(Method::GET, "/concurrency").host(app.host())).await;
        match busy.json().await {
            idle if idle["current"] == 0 => Ok(()),
            busy => Err(busy),
        }
    })
    .await;
}

/// The server's peak memory, in KiB.
fn peak_memory(ignite: &Ignite) -> u64 {
    let path = format!("/proc/{}/status", ignite.ready().pid);
    let status = std::fs::read_to_string(path).expect("the process is there");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let text = line.expect("VmHWM").trim().trim_end_matches(" kB");
    text.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_100_mib_takes_no_memory() {
    let (ignite, app) = open_app(json!({})).await;
    send(ignite.request(Method::GET, "/").host(app.host()))
        .await
        .bytes()
        .await;
    let before = peak_memory(&ignite);
    let (chunks, body) = mpsc::channel(1);
    let request = ignite
        .request(Method::POST, "/upload")
        .host(app.host())
        .body_from(body);
    let sending = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..100 {
            chunks.send(chunk.clone()).await.expect("taken");
        }
    });
    let answer = send(request).await.json().await;
    assert_eq!(answer["bytes"], 100 << 20);
    sending.await.expect("all was sent");
    let grown = peak_memory(&ignite) - before;
    assert!(grown < 30 * 1024, "{grown} KiB more than {before} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_reads_is_held_back_and_takes_no_memory() {
    let (ignite, app) = open_app(json!({})).await;
    send(ignite.request(Method::GET, "/").host(app.host()))
        .await
        .bytes()
        .await;
    let before = peak_memory(&ignite);
    let mut answer = send(
        ignite
            .request(Method::GET, "/bytes/200000000")
            .host(app.host()),
    )
    .await;
    answer.chunk().await.expect("a chunk").expect("whole");
    // Other requests are served meanwhile, so the server has had time to buffer more.
    for _ in 0..50 {
        send(ignite.request(Method::GET, "/").host(app.host()))
            .await
            .bytes()
            .await;
    }
    let grown = peak_memory(&ignite) - before;
    assert!(grown < 30 * 1024, "{grown} KiB more than {before} KiB");
    drop(answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_trailers_and_statuses_pass_as_the_app_sends_them() {
    let (ignite, app) = open_app(json!({})).await;
    let head = send(ignite.request(Method::HEAD, "/bytes/1000").host(app.host())).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, Some("1000"))
    );
    assert!(head.bytes().await.is_empty());

    for (te, expected) in [(Some("trailers"), true), (None, false)] {
        let mut request = ignite.request(Method::GET, "/trailers").host(app.host());
        if let Some(te) = te {
            request = request.header("te", te);
        }
        let (body, trailers) = send(request).await.whole().await.expect("a whole answer");
        assert_eq!(body, "hello\n");
        let done = trailers.as_ref().and_then(|t| t.get("x-probe-trailer"));
        assert_eq!(done.is_some_and(|v| v == "done"), expected, "{trailers:?}");
    }
    for status in [204, 304, 404, 418, 503, 599] {
        let path = format!("/status/{status}");
        let answer = send(ignite.request(Method::GET, &path).host(app.host())).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.header("x-ignite-error"), None, "it is the app's own");
        answer.whole().await.expect("a whole answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_app_breaks_off_is_never_ended_as_if_it_were_whole() {
    let (ignite, app) = open_app(json!({})).await;
    for (path, dies) in [
        ("/break/100000?how=close", false),
        ("/break/100000?how=reset", false),
        ("/break/100000", true),
        ("/crash-after-headers", true),
    ] {
        let answer = send(ignite.request(Method::GET, path).host(app.host())).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        let before = engine::running(&ignite).await;
        answer.whole().await.expect_err(path);
        if dies {
            engine::wait_for_end_of(&ignite, &before).await;
        }
    }
    // Until the app's head arrives, the platform answers.
    let answer = send(ignite.request(Method::GET, "/exit/3").host(app.host())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.header("x-ignite-error"), Some("REPLICA_BROKE"));
    assert!(answer.header("x-ignite-execution-id").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_port_has_a_url_of_its_own_in_the_order_of_ports() {
    let settings = json!({ "ports": [9090, 80, 7070], "env": { "PROBE_EXTRA_PORTS": "80,7070" } });
    let (ignite, app) = open_app(settings).await;
    let port = ignite.http_addr().port();
    let host = |label: &str| format!("{label}.ignite.localhost:{port}");
    let expected = [
        host("app-acme-9090"),
        host("app-acme"),
        host("app-acme-7070"),
    ];
    assert_eq!(app.hosts, expected);
    for (host, port) in app.hosts.iter().zip([9090, 80, 7070]) {
        let echo = send(ignite.request(Method::GET, "/").host(host))
            .await
            .json()
            .await;
        assert_eq!(echo["port"], port, "{host}");
    }
    let by_path = send(ignite.request(Method::GET, "/_app/acme/app/")).await;
    assert_eq!(by_path.json().await["port"], 9090, "the primary one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_answer_says_so_and_where_the_time_went() {
    let (ignite, app) = open_app(json!({})).await;
    let cold = send(ignite.request(Method::GET, "/").host(app.host())).await;
    assert_eq!(cold.header("x-ignite-cold-start"), Some("true"));
    let timing = cold.header("server-timing").expect("timing").to_owned();
    for part in ["queue;dur=", "create;dur=", "start;dur=", "ready;dur="] {
        assert!(timing.contains(part), "{timing}");
    }
    let warm = send(ignite.request(Method::GET, "/").host(app.host())).await;
    assert_eq!(warm.header("x-ignite-cold-start"), None);
    assert_eq!(warm.header("server-timing"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_reached_over_http_2_without_tls_as_well() {
    let (ignite, app) = open_app(json!({})).await;
    let stream = TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    // The authority is the host here.
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/a%2Fb?c", app.host()))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Full::new(Bytes::from("hello")))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .expect("whole");
    let echo: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    assert_eq!(
        (&echo["uri"], &echo["body"]),
        (&json!("/a%2Fb?c"), &json!("hello"))
    );
    assert_eq!(
        echo["version"], "HTTP/1.1",
        "replicas are spoken to in HTTP/1.1"
    );
    assert_eq!(seen(&echo, "host"), [app.host()]);
    assert_eq!(seen(&echo, "x-forwarded-host"), [app.host()]);
    // HTTP/2 may split cookies; HTTP/1.1 has one line of them (RFC 9113, 8.2.3).
    assert_eq!(seen(&echo, "cookie"), ["a=1; b=2"]);
    drop(sender);
    connection.await.expect("joined").expect("a clean end");
}
