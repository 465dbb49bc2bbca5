//! Hostile and clumsy clients: each is bounded, gets a clear refusal above its bound, and does not
//! affect others.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use ignite::api::proto::v1::HealthCheckRequest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use crate::support::{contract::Published, eventually_ok, grpc::grpc_client, http, ignite::Ignite};

/// Longer than any bound set here, with a margin for a busy machine.
const LIMIT: Duration = crate::support::HANGS;

async fn server(settings: &[(&str, &str)]) -> (Ignite, Published) {
    let mut builder = Ignite::builder();
    for (name, value) in settings {
        builder = builder.env(name, *value);
    }
    let ignite = builder.start().await;
    let app = publish(&ignite, "app").await;
    ignite
        .request(Method::GET, "/")
        .host(app.host())
        .send()
        .await
        .expect("warm");
    (ignite, app)
}

async fn publish(ignite: &Ignite, name: &str) -> Published {
    let settings = json!({ "allow_unauthenticated": true, "scaling": { "max_replicas": 1 } });
    ignite.publish("acme", name, settings).await
}

async fn connect(ignite: &Ignite) -> TcpStream {
    TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection")
}

/// Reads until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    // A reset is an end too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut seen))
        .await
        .expect("an end");
    String::from_utf8_lossy(&seen).into_owned()
}

/// One request on a connection that stays, and the head of its answer.
async fn ask(stream: &mut TcpStream, host: &str) -> String {
    let head = format!("GET /count HTTP/1.1\r\nhost: {host}\r\n\r\n");
    // A refused connection may be closed already.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut seen = Vec::new();
    let whole = async {
        while !String::from_utf8_lossy(&seen).contains('}') {
            match stream.read_buf(&mut seen).await {
                Ok(1..) => {}
                _ => break,
            }
        }
    };
    timeout(LIMIT, whole).await.expect("an answer or an end");
    String::from_utf8_lossy(&seen).into_owned()
}

/// Waits until a new connection is served.
async fn let_in(ignite: &Ignite, host: &str) {
    eventually_ok(LIMIT, || async {
        let mut stream = connect(ignite).await;
        match ask(&mut stream, host).await {
            answer if answer.starts_with("HTTP/1.1 200") => Ok(()),
            answer => Err(answer),
        }
    })
    .await;
}

fn is_overload(answer: &http::Answer, status: StatusCode, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("x-ignite-error"), Some(reason));
    let after = answer.header("retry-after").expect("Retry-After");
    assert!(after.parse::<u64>().is_ok_and(|s| s > 0), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_may_be_are_refused_and_told_so() {
    for setting in ["IGNITE_MAX_CONNECTIONS", "IGNITE_MAX_CONNECTIONS_PER_IP"] {
        // A trusted proxy, such as this machine, may open as many as the total allows.
        let trusted = match setting {
            "IGNITE_MAX_CONNECTIONS" => "127.0.0.0/8",
            _ => "none",
        };
        let settings = [(setting, "6"), ("IGNITE_TRUSTED_PROXIES", trusted)];
        let (ignite, app) = server(&settings).await;
        let mut open = Vec::new();
        // The server may not yet have noticed that the connections of the publish are closed.
        let_in(&ignite, app.host()).await;
        let mut refused = String::new();
        for _ in 0..20 {
            let mut stream = connect(&ignite).await;
            refused = ask(&mut stream, app.host()).await;
            if !refused.starts_with("HTTP/1.1 200") {
                break;
            }
            open.push(stream);
        }
        assert!((4..=6).contains(&open.len()), "{setting}: {}", open.len());
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused:?}");
        assert!(
            refused.contains("x-ignite-error: TOO_MANY_CONNECTIONS"),
            "{refused}"
        );
        assert!(refused.contains("retry-after: 1"), "{refused}");
        for stream in &mut open {
            assert!(
                ask(stream, app.host()).await.starts_with("HTTP/1.1 200"),
                "they stay"
            );
        }
        drop(open);
        let_in(&ignite, app.host()).await;
    }
}

/// Out of descriptors, the store and the engine used to fail with the connections.
#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_mean_few_connections_and_a_word_in_the_log() {
    let ignite = Ignite::builder().descriptors(200).start().await;
    let app = publish(&ignite, "app").await;
    assert!(
        ignite.log().contains("The limit of open files is 200"),
        "{}",
        ignite.log()
    );
    assert!(
        ignite.log().contains("max_connections 16384"),
        "{}",
        ignite.log()
    );
    let mut open = Vec::new();
    let refused = loop {
        assert!(open.len() < 200);
        let mut stream = connect(&ignite).await;
        match ask(&mut stream, app.host()).await {
            answer if answer.starts_with("HTTP/1.1 200") => open.push(stream),
            answer => break answer,
        }
    };
    assert!(
        refused.contains("x-ignite-error: TOO_MANY_CONNECTIONS"),
        "{refused:?}"
    );
    for stream in &mut open {
        assert!(ask(stream, app.host()).await.starts_with("HTTP/1.1 200"));
    }
    drop(open);
    let_in(&ignite, app.host()).await;
    // A descriptor is left for a write of the store.
    publish(&ignite, "other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_in_lines_and_bytes() {
    let settings = [
        ("IGNITE_MAX_HEADERS", "20"),
        ("IGNITE_MAX_HEADER_BYTES", "16KiB"),
    ];
    let (ignite, app) = server(&settings).await;
    let send = async |head: String| {
        let mut stream = connect(&ignite).await;
        let all = format!(
            "GET /count HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{head}\r\n",
            app.host()
        );
        let _ = stream.write_all(all.as_bytes()).await;
        rest(&mut stream).await
    };
    let lines = |n: usize| (0..n).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    assert!(send(lines(15)).await.starts_with("HTTP/1.1 200"));
    let answer = send(lines(30)).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = |n: usize| format!("x-long: {}\r\n", "a".repeat(n));
    assert!(send(long(10_000)).await.starts_with("HTTP/1.1 200"));
    let answer = send(long(40_000)).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_clients_lose_their_connection_and_streams_do_not() {
    let settings = [
        ("IGNITE_HEADER_READ_TIMEOUT", "1s"),
        ("IGNITE_KEEP_ALIVE_TIMEOUT", "1s"),
    ];
    let (ignite, app) = server(&settings).await;
    // Nothing at all, half a preface of HTTP/2, half a head, and silence after an answer.
    let mut silent = connect(&ignite).await;
    let mut preface = connect(&ignite).await;
    preface.write_all(b"PRI * HTTP/2").await.expect("sent");
    let mut slow = connect(&ignite).await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ")
        .await
        .expect("sent");
    let drips = async {
        while slow.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, drips)
        .await
        .expect("a drip by drip head ends");
    let mut idle = connect(&ignite).await;
    assert!(ask(&mut idle, app.host()).await.starts_with("HTTP/1.1 200"));
    for stream in [&mut silent, &mut preface, &mut idle] {
        assert_eq!(rest(stream).await, "");
    }
    // An answer may take longer than any of it, and its connection is as good as before; unless
    // this test itself is too slow to ask again, which another try finds out.
    eventually_ok(LIMIT, || async {
        let mut stream = connect(&ignite).await;
        let head = format!("GET /sse/3/1500 HTTP/1.1\r\nhost: {}\r\n\r\n", app.host());
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            let n = stream.read_buf(&mut seen).await;
            assert!(
                n.is_ok_and(|n| n > 0),
                "{:?}",
                String::from_utf8_lossy(&seen)
            );
        }
        assert!(String::from_utf8_lossy(&seen).contains("event 3"));
        match ask(&mut stream, app.host()).await {
            answer if answer.starts_with("HTTP/1.1 200") => Ok(()),
            answer => Err(answer),
        }
    })
    .await;
}

/// What an HTTP/2 client says first: the preface, and settings as they are.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn the_grpc_listener_has_the_same_bounds() {
    let settings = [
        ("IGNITE_MAX_CONNECTIONS", "6"),
        ("IGNITE_HEADER_READ_TIMEOUT", "1s"),
        ("IGNITE_KEEP_ALIVE_TIMEOUT", "1s"),
        ("IGNITE_MAX_HEADER_BYTES", "16KiB"),
    ];
    let (ignite, _) = server(&settings).await;
    let open = async |say: &[u8]| {
        let mut stream = TcpStream::connect(ignite.grpc_addr())
            .await
            .expect("a connection");
        stream.write_all(say).await.expect("sent");
        stream
    };
    let healthy = async |length: usize| {
        let mut client = grpc_client(&ignite, "").await;
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        let long = "a".repeat(length).parse().expect("ASCII");
        request.metadata_mut().insert("x-long", long);
        client.health_check(request).await
    };
    healthy(10_000).await.expect("a head that is not too long");
    healthy(40_000).await.expect_err("a head that is");
    // A client that sends nothing, or only part of the preface, is disconnected.
    for say in [&b""[..], b"PRI * HTTP/2"] {
        let mut silent = open(say).await;
        assert_eq!(rest(&mut silent).await, "");
    }
    let mut slow = open(b"GET / HTTP/1.1\r\nx-a: ").await;
    rest(&mut slow).await;
    // A client that speaks HTTP/1.1 is told which address to use.
    let mut other = open(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = rest(&mut other).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("IGNITE_HTTP_ADDR"), "{answer}");
    let mut crowd = Vec::new();
    for _ in 0..6 {
        crowd.push(open(PREFACE).await);
    }
    let mut refused = open(PREFACE).await;
    let answer = rest(&mut refused).await;
    assert!(answer.contains("IGNITE_MAX_CONNECTIONS"), "{answer:?}");
    drop(crowd);
    eventually_ok(LIMIT, || async {
        let answer = timeout(LIMIT, healthy(1)).await.expect("in time");
        answer.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_and_an_organization_have_so_many_requests_under_way_and_no_more() {
    let settings = [
        ("IGNITE_MAX_IN_FLIGHT_PER_APP", "2"),
        ("IGNITE_MAX_IN_FLIGHT_PER_ORG", "3"),
    ];
    let (ignite, app) = server(&settings).await;
    let other = publish(&ignite, "other").await;
    let get = async |host: &str, path: &str| {
        let request = ignite.request(Method::GET, path).host(host);
        request.send().await.expect("an answer")
    };
    get(other.host(), "/").await.bytes().await;
    // Their heads are here, their bodies go on.
    let one = get(app.host(), "/stream/100000/50").await;
    let two = get(app.host(), "/stream/100000/50").await;
    is_overload(
        &get(app.host(), "/").await,
        StatusCode::TOO_MANY_REQUESTS,
        "TOO_MANY_REQUESTS",
    );
    let three = get(other.host(), "/stream/100000/50").await;
    is_overload(
        &get(other.host(), "/").await,
        StatusCode::TOO_MANY_REQUESTS,
        "TOO_MANY_REQUESTS",
    );
    drop((one, two, three));
    for host in [app.host(), other.host()] {
        eventually_ok(LIMIT, || async {
            match get(host, "/").await {
                answer if answer.status == StatusCode::OK => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_bound_is_refused_whether_it_says_its_length_or_not() {
    let (ignite, app) = server(&[("IGNITE_MAX_REQUEST_BODY_BYTES", "1MiB")]).await;
    let post = || ignite.request(Method::POST, "/upload").host(app.host());
    let fits = post()
        .body(vec![b'x'; 1 << 20])
        .send()
        .await
        .expect("an answer");
    assert_eq!(fits.json().await["bytes"], 1 << 20);
    let chunked = |pieces: usize| {
        let (chunks, body) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..pieces {
                // It is refused in the middle.
                let _ = chunks.send(Bytes::from(vec![b'x'; 1 << 16])).await;
            }
        });
        post().body_from(body)
    };
    let fits = chunked(16).send().await.expect("an answer").json().await;
    assert_eq!(fits["bytes"], 1 << 20);
    for request in [post().body(vec![b'x'; (1 << 20) + 1]), chunked(17)] {
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.header("x-ignite-error"), Some("BODY_TOO_LARGE"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_gives_the_replica_back_and_who_waits_for_more_does_not() {
    let (ignite, app) = server(&[("IGNITE_CLIENT_STALL_TIMEOUT", "1s")]).await;
    let mut stalled = connect(&ignite).await;
    let head = format!(
        "GET /bytes/200000000 HTTP/1.1\r\nhost: {}\r\n\r\n",
        app.host()
    );
    stalled.write_all(head.as_bytes()).await.expect("sent");
    let figure = async |path, name| -> Value {
        let request = ignite.request(Method::GET, path).host(app.host());
        request.send().await.expect("an answer").json().await[name].clone()
    };
    eventually_ok(LIMIT, || async {
        match figure("/inflight-cancelled", "cancelled").await {
            one if one == 1 => Ok(()),
            now => Err(format!("{now} were cut off, not 1")),
        }
    })
    .await;
    assert_eq!(figure("/concurrency", "current").await, 0);
    // What was sent before arrives; the rest never does, nor an end that makes it look whole.
    let taken = rest(&mut stalled).await.len();
    assert!(taken < 200_000_000, "{taken}");
    // Half a body of a length, and silence.
    let mut half = connect(&ignite).await;
    let head = format!(
        "POST /upload HTTP/1.1\r\nhost: {}\r\ncontent-length: 10\r\n\r\nhello",
        app.host()
    );
    half.write_all(head.as_bytes()).await.expect("sent");
    let answer = rest(&mut half).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("CLIENT_TOO_SLOW"), "{answer}");
    let quiet = ignite.request(Method::GET, "/sse/2/3000").host(app.host());
    let text = quiet.send().await.expect("an answer").text().await;
    assert!(text.contains("event 2"), "{text}");
}

/// "Rapid reset": requests cancelled as fast as they are made cost the server, not the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_its_own_connection_and_nobody_elses() {
    let (ignite, app) = server(&[]).await;
    let mut frames = PREFACE.to_vec();
    // GET / of the static table, and the host as a literal.
    let mut block = vec![0x82, 0x84, 0x86, 0x01];
    block.push(u8::try_from(app.host().len()).expect("short"));
    block.extend(app.host().as_bytes());
    let len = u8::try_from(block.len()).expect("short");
    for stream in (1..4000u32).step_by(2) {
        frames.extend([0, 0, len, 1, 5]);
        frames.extend(stream.to_be_bytes());
        frames.extend(&block);
        frames.extend([0, 0, 4, 3, 0]);
        frames.extend(stream.to_be_bytes());
        frames.extend(8u32.to_be_bytes());
    }
    let mut flood = connect(&ignite).await;
    // It is cut off in the middle.
    let _ = flood.write_all(&frames).await;
    let mut answer = Vec::new();
    let end = timeout(LIMIT, flood.read_to_end(&mut answer))
        .await
        .expect("an end");
    // ENHANCE_YOUR_CALM, unless the reset came first.
    let calm = answer.windows(4).any(|w| w == 11u32.to_be_bytes());
    assert!(calm || end.is_err(), "{end:?} after {} bytes", answer.len());
    let count = ignite.request(Method::GET, "/count").host(app.host());
    let count = count.send().await.expect("others are served").json().await["count"].as_u64();
    assert!(
        count.is_some_and(|n| n < 1000),
        "most never reached the app: {count:?}"
    );
}

/// A SaveDraft whose body is announced with this length and does not come.
async fn announce(ignite: &Ignite, org: &str, bytes: usize) -> TcpStream {
    let mut stream = connect(ignite).await;
    let token = ignite.token(org);
    let head = format!(
        "POST /v1/ignite/app/{org}/app/draft HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_take_what_their_organization_may_have_and_end_in_time() {
    let settings = [
        ("IGNITE_MAX_CODE_BYTES", "1MiB"),
        ("IGNITE_MAX_BODY_BYTES", "1MiB"),
        ("IGNITE_API_BUFFER_BYTES", "4MiB"),
        ("IGNITE_API_BUFFER_BYTES_PER_ORG", "2MiB"),
        ("IGNITE_CLIENT_STALL_TIMEOUT", "3s"),
    ];
    let (ignite, app) = server(&settings).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(announce(&ignite, "acme", 500_000).await);
    }
    // Whichever is read first, calls above the bound are refused without being read.
    let mut refused = announce(&ignite, "acme", 500_000).await;
    let answer = rest(&mut refused).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(
        answer.contains("IGNITE_API_BUFFER_BYTES_PER_ORG"),
        "{answer}"
    );
    // Another organization is served, also over gRPC.
    let other = ignite.publish("other", "app", json!({})).await;
    assert_ne!(other.host(), app.host());
    for stream in &mut open {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("CLIENT_TOO_SLOW"), "{answer}");
    }
    ignite.publish("acme", "again", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_body_of_unknown_length_gives_the_apps_place_back() {
    let ignite = Ignite::builder()
        .env("IGNITE_CLIENT_STALL_TIMEOUT", "1s")
        .start()
        .await;
    let settings = json!({ "allow_unauthenticated": true, "max_concurrency": 1,
        "scaling": { "max_replicas": 1 } });
    let app = ignite.publish("acme", "app", settings).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&ignite).await;
        let head = format!(
            "POST /upload HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n",
            app.host()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        silent.push(stream);
    }
    for stream in &mut silent {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    let mut stream = connect(&ignite).await;
    let answer = ask(&mut stream, app.host()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_apps_are_flooded_the_api_answers() {
    let settings = [
        ("IGNITE_MAX_CONNECTIONS", "40"),
        ("IGNITE_RESERVED_CONNECTIONS", "5"),
    ];
    let (ignite, app) = server(&settings).await;
    let mut open = Vec::new();
    let refused = loop {
        assert!(open.len() <= 35, "{}", open.len());
        let mut stream = connect(&ignite).await;
        match ask(&mut stream, app.host()).await {
            answer if answer.starts_with("HTTP/1.1 200") => open.push(stream),
            answer => {
                assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                // Its connection is closed.
                break answer + &rest(&mut stream).await;
            }
        }
    };
    assert!(refused.contains("IGNITE_RESERVED_CONNECTIONS"), "{refused}");
    for path in ["/healthz", "/readyz"] {
        let answer = ignite.request(Method::GET, path).send().await;
        assert_eq!(answer.expect("an answer").status, StatusCode::OK);
    }
    publish(&ignite, "other").await;
    for stream in &mut open {
        assert!(ask(stream, app.host()).await.starts_with("HTTP/1.1 200"));
    }
}
