//! Invoke over gRPC and over HTTP: the same answer, framed as the contract says.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, Method, StatusCode};
use ignite::api::proto::v1::{
    self, HttpContext, HttpMethod, InvokeHead, InvokeRequest, InvokeTrailer, invoke_response::Frame,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Status;

use crate::support::{
    HANGS,
    contract::{Published, Refusal, Via},
    engine, eventually_ok,
    grpc::Client,
    grpc_client, http,
    ignite::Ignite,
};

struct World {
    ignite: Ignite,
    app: Published,
    token: String,
    grpc: Client,
}

impl World {
    async fn start(settings: Value) -> Self {
        let ignite = Ignite::builder().start().await;
        let app = ignite.publish("acme", "app", settings).await;
        let token = ignite.token("acme");
        let grpc = grpc_client(&ignite, &token).await;
        Self {
            ignite,
            app,
            token,
            grpc,
        }
    }

    fn request(&self, http: HttpContext, body: &'static [u8]) -> InvokeRequest {
        InvokeRequest {
            organization_name: self.app.org.clone(),
            app_name: self.app.name.clone(),
            http: Some(http),
            body: body.into(),
        }
    }

    /// Invokes a path over gRPC and reads the whole stream.
    async fn get(&self, path: &str) -> Frames {
        let http = HttpContext {
            method: HttpMethod::Get.into(),
            path: path.to_owned(),
            ..Default::default()
        };
        Frames::of(self.grpc.clone().invoke(self.request(http, b"")).await).await
    }

    /// Invokes over HTTP with this envelope.
    fn post(&self, envelope: &Value) -> http::Request {
        let path = "/v1/ignite/app/acme/app/invoke";
        self.ignite
            .request(Method::POST, path)
            .token(&self.token)
            .json(envelope)
    }

    async fn figure(&self, path: &str, name: &str) -> Value {
        let request = self.ignite.request(Method::GET, path).host(self.app.host());
        let answer = request.token(&self.token).send().await.expect("an answer");
        answer.json().await[name].clone()
    }
}

/// The parts of one stream; the order of its frames is checked during reading.
#[derive(Debug, Default)]
struct Frames {
    head: Option<InvokeHead>,
    chunks: Vec<bytes::Bytes>,
    trailer: Option<InvokeTrailer>,
    error: Option<Refusal>,
}

impl Frames {
    async fn of(
        answer: Result<tonic::Response<tonic::Streaming<v1::InvokeResponse>>, Status>,
    ) -> Self {
        let mut all = Self::default();
        let mut frames = answer.expect("a stream").into_inner();
        loop {
            match frames.message().await {
                Ok(None) => break,
                Ok(Some(message)) => match message.frame.expect("a frame") {
                    Frame::Head(head) => {
                        assert!(
                            all.head.is_none() && all.chunks.is_empty(),
                            "the head is first"
                        );
                        all.head = Some(head);
                    }
                    Frame::Chunk(chunk) => {
                        assert!(
                            all.head.is_some() && all.trailer.is_none(),
                            "chunks between"
                        );
                        all.chunks.push(chunk);
                    }
                    Frame::Trailer(trailer) => {
                        assert!(
                            all.head.is_some() && all.trailer.is_none(),
                            "one trailer, last"
                        );
                        all.trailer = Some(trailer);
                    }
                },
                Err(status) => {
                    assert!(all.trailer.is_none(), "an error instead of the trailer");
                    all.error = Some(Refusal::of_status(&status));
                    break;
                }
            }
        }
        all
    }

    fn head(&self) -> &InvokeHead {
        self.head.as_ref().expect("a head")
    }

    fn trailer(&self) -> &InvokeTrailer {
        self.trailer
            .as_ref()
            .unwrap_or_else(|| panic!("no trailer: {:?}", self.error))
    }

    fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body()).expect("JSON")
    }
}

fn seen(echo: &Value, name: &str) -> Vec<Value> {
    let pairs = echo["headers"].as_array().expect("headers").iter();
    pairs
        .filter(|pair| pair[0] == name)
        .map(|pair| pair[1].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn invoke_answers_head_chunks_and_trailer_in_this_order() {
    let world = World::start(json!({})).await;
    let all = world.get("/stream/3/5").await;
    assert_eq!(all.head().status_code, 200);
    assert_eq!(all.head().response_headers["content-type"], "text/plain");
    let id = &all.head().execution_id;
    assert!(id.starts_with("exec_") && id.len() == 31, "{id}");
    assert_eq!(all.chunks, ["chunk 1\n", "chunk 2\n", "chunk 3\n"]);
    assert_eq!(all.trailer().total_body_bytes, 24);

    // An answer of a known length up to 1 MiB is one chunk; others arrive as the app sends them.
    for (path, bytes, one) in [
        ("/bytes/1", 1, true),
        ("/bytes/1048576", 1 << 20, true),
        ("/bytes/1048577", (1 << 20) + 1, false),
        ("/chunked/300000", 300_000, false),
    ] {
        let all = world.get(path).await;
        assert_eq!(
            all.chunks.len() == 1,
            one,
            "{path}: {} chunks",
            all.chunks.len()
        );
        assert_eq!(
            (all.body().len(), all.trailer().total_body_bytes),
            (bytes, bytes as i64)
        );
        assert!(
            all.body()
                .iter()
                .enumerate()
                .all(|(i, b)| *b == b'a' + (i % 26) as u8)
        );
    }
    for (path, status) in [
        ("/bytes/0", 200),
        ("/status/204", 204),
        ("/status/304", 304),
    ] {
        let all = world.get(path).await;
        assert_eq!(
            (all.head().status_code, all.chunks.len()),
            (status, 0),
            "{path}"
        );
        assert_eq!(all.trailer().total_body_bytes, 0);
    }
    assert_eq!(
        world.get("/status/503").await.head().status_code,
        503,
        "the app's own"
    );

    let all = world.get("/trailers").await;
    assert_eq!(all.trailer().trailers["x-probe-trailer"], "done");
    let all = world
        .get("/with-headers?set-cookie=a&set-cookie=b&x-ignite-error=spoof")
        .await;
    assert_eq!(all.head().response_headers["set-cookie"], "a");
    let more = &all.head().repeated_headers;
    assert_eq!(
        (more.len(), more[0].name.as_str(), more[0].value.as_str()),
        (1, "set-cookie", "b")
    );
    assert!(!all.head().response_headers.contains_key("x-ignite-error"));
}

/// Such bytes used to arrive as U+FFFD, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn header_bytes_that_are_no_text_survive_both_ways() {
    let world = World::start(json!({})).await;
    let all = world.get("/header-bytes/x-name/63e966fe").await;
    assert_eq!(all.head().response_headers["x-name"], "c\u{e9}f\u{fe}");
    let raw = |of: &[v1::HeaderField]| {
        of.iter()
            .map(|h| (h.name.clone(), h.raw.to_vec()))
            .collect::<Vec<_>>()
    };
    let bytes = b"c\xe9f\xfe".to_vec();
    assert_eq!(
        raw(&all.head().raw_headers),
        [("x-name".to_owned(), bytes.clone())]
    );
    // Text is unchanged.
    let text = world.get("/header-bytes/x-name/63c3a9").await;
    assert_eq!(text.head().response_headers["x-name"], "c\u{e9}");
    assert!(text.head().raw_headers.is_empty());

    let path = "/header-bytes/x-name/63e966fe";
    let answer = world
        .post(&json!({ "http": { "path": path } }))
        .send()
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.headers["x-name"].as_bytes(), bytes);
    let url = world
        .ignite
        .request(Method::GET, path)
        .host(world.app.host())
        .token(&world.token);
    assert_eq!(
        url.send().await.expect("an answer").headers["x-name"].as_bytes(),
        bytes
    );

    // To the app, from gRPC and from JSON, and in an execution.
    let field = v1::HeaderField {
        name: "x-name".to_owned(),
        raw: bytes.clone().into(),
        ..Default::default()
    };
    let http = HttpContext {
        path: "/headers".to_owned(),
        raw_headers: vec![field],
        ..Default::default()
    };
    let echo = Frames::of(world.grpc.clone().invoke(world.request(http, b"")).await)
        .await
        .json();
    let has = |echo: &Value| echo.to_string().contains("[\"x-name\",\"c\u{e9}f\u{fe}\"]");
    assert!(has(&echo), "{echo}");
    let raw = STANDARD.encode(&bytes);
    let envelope = json!({ "http": {
        "path": "/headers", "raw_headers": [{ "name": "x-name", "raw": raw }],
    } });
    let echo = world
        .post(&envelope)
        .send()
        .await
        .expect("an answer")
        .json()
        .await;
    assert!(has(&echo), "{echo}");
    let submit = json!({
        "organization_name": "acme", "app_name": world.app.name,
        "http": { "path": path },
    });
    let submitted = world
        .ignite
        .ok(Via::Json, "InvokeAsync", &world.token, submit)
        .await;
    let id = submitted["executionId"].as_str().expect("an id");
    let done = crate::executions::ended(&world.ignite, Via::Json, &world.token, id).await;
    assert_eq!(
        done["rawHeaders"],
        json!([{ "name": "x-name", "raw": raw }]),
        "{done}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_is_honoured_and_defaults_to_post_and_the_root() {
    let world = World::start(json!({})).await;
    let request = InvokeRequest {
        http: None,
        ..world.request(HttpContext::default(), b"{}")
    };
    let echo = Frames::of(world.grpc.clone().invoke(request).await)
        .await
        .json();
    assert_eq!(
        (&echo["method"], &echo["uri"]),
        (&json!("POST"), &json!("/"))
    );
    assert_eq!(
        (&echo["body"], &echo["version"]),
        (&json!("{}"), &json!("HTTP/1.1"))
    );
    let echo = world
        .post(&json!({}))
        .send()
        .await
        .expect("an answer")
        .json()
        .await;
    assert_eq!(
        (&echo["method"], &echo["uri"]),
        (&json!("POST"), &json!("/"))
    );
    assert_eq!(echo["body_bytes"], 0);

    let sent = HashMap::from([
        ("X-Mine".to_owned(), "1".to_owned()),
        ("traceparent".to_owned(), "00-1-2-01".to_owned()),
        ("connection".to_owned(), "x-hop".to_owned()),
        ("x-hop".to_owned(), "1".to_owned()),
        ("content-length".to_owned(), "7".to_owned()),
        ("x-ignite-organization-id".to_owned(), "evil".to_owned()),
    ]);
    let headers: serde_json::Map<String, Value> =
        sent.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    let over_http = json!({
        "http": {
            "method": "HTTP_METHOD_PUT", "path": "/a%2Fb//c", "query": "x=1&y=%20&&",
            "headers": headers,
        },
        "body": STANDARD.encode(b"\x00\xff"),
    });
    let context = HttpContext {
        method: HttpMethod::Put.into(),
        path: "/a%2Fb//c".to_owned(),
        query: "x=1&y=%20&&".to_owned(),
        headers: sent.into_iter().collect(),
        ..Default::default()
    };
    let request = world.request(context, b"\x00\xff");
    let over_grpc = Frames::of(world.grpc.clone().invoke(request).await).await;
    let over_http = world.post(&over_http).send().await.expect("an answer");
    let id = over_http
        .header("x-ignite-execution-id")
        .expect("an id")
        .to_owned();
    let ids = [over_grpc.head().execution_id.clone(), id];
    for (echo, id) in [over_grpc.json(), over_http.json().await]
        .into_iter()
        .zip(ids)
    {
        assert_eq!(
            (&echo["method"], &echo["uri"]),
            (&json!("PUT"), &json!("/a%2Fb//c?x=1&y=%20&&"))
        );
        assert_eq!(
            (&echo["body_bytes"], &echo["body"]),
            (&json!(2), &Value::Null)
        );
        assert_eq!(seen(&echo, "x-mine"), ["1"]);
        assert_eq!(seen(&echo, "traceparent"), ["00-1-2-01"]);
        assert_eq!(seen(&echo, "content-length"), ["2"]);
        assert!(
            seen(&echo, "x-hop").is_empty() && seen(&echo, "connection").is_empty(),
            "{echo}"
        );
        assert_eq!(seen(&echo, "x-ignite-organization-id"), ["acme"]);
        assert_eq!(seen(&echo, "x-ignite-function-id"), ["acme/app"]);
        assert_eq!(seen(&echo, "x-ignite-execution-id"), [id]);
    }
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
        let envelope = json!({ "http": { "method": format!("HTTP_METHOD_{method}") } });
        let answer = world.post(&envelope).send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{method}");
        let body = answer.bytes().await;
        if method == "HEAD" {
            assert!(body.is_empty());
        } else {
            let echo: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(echo["method"], method);
        }
    }
    let wrong = json!({ "http": { "path": "x", "headers": { "a b": "c", "d": "e\n" } } });
    let answer = world.post(&wrong).send().await.expect("an answer");
    let (status, headers) = (answer.status, answer.headers.clone());
    let refused = Refusal::of_http(status, &headers, &answer.json().await);
    refused.is(3, 400, "INVALID_ARGUMENT", &["must start with '/'"]);
    assert_eq!(refused.fields.len(), 3, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_breaks_off_ends_the_stream_with_an_error_and_its_chunks_are_kept() {
    let world = World::start(json!({})).await;
    for (path, kept) in [
        ("/break/100000?how=close", 100_000),
        ("/break/100000", 100_000),
        ("/crash-after-headers", 0),
    ] {
        let before = engine::running(&world.ignite).await;
        let all = world.get(path).await;
        assert_eq!(
            (all.head().status_code, all.body().len()),
            (200, kept),
            "{path}"
        );
        let error = all
            .error
            .as_ref()
            .unwrap_or_else(|| panic!("{path}: {:?}", all.trailer));
        error.is(14, 502, "REPLICA_BROKE", &["broke off"]);
        if !path.ends_with("how=close") {
            engine::wait_for_end_of(&world.ignite, &before).await;
        }
    }
    // Over HTTP the client sees that the body is not whole.
    for path in [
        "/break/100000?how=close",
        "/break/100000",
        "/crash-after-headers",
    ] {
        let envelope = json!({ "http": { "path": path.split('?').next(), "query": path.split('?').nth(1).unwrap_or("") } });
        let before = engine::running(&world.ignite).await;
        let mut answer = world.post(&envelope).send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let mut kept = 0;
        let broken = loop {
            match answer.chunk().await {
                Some(Ok(chunk)) => kept += chunk.len(),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(broken, "{path} ended as if whole, after {kept} bytes");
        let expected = if path.starts_with("/crash") {
            0
        } else {
            100_000
        };
        assert_eq!(kept, expected, "{path}");
        if !path.ends_with("how=close") {
            engine::wait_for_end_of(&world.ignite, &before).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stream_disconnects_the_app() {
    let world = World::start(json!({})).await;
    let http = HttpContext {
        path: "/stream/100000/10".to_owned(),
        ..Default::default()
    };
    let stream = world.grpc.clone().invoke(world.request(http, b"")).await;
    let mut frames = stream.expect("a stream").into_inner();
    for _ in 0..3 {
        frames.message().await.expect("a frame").expect("one more");
    }
    let envelope = json!({ "http": { "path": "/stream/100000/10" } });
    let mut over_http = world.post(&envelope).send().await.expect("an answer");
    // The chunks arrive while the app is still writing.
    assert_eq!(
        over_http.chunk().await.expect("a chunk").expect("whole"),
        "chunk 1\n"
    );
    assert_eq!(world.figure("/concurrency", "current").await, 2);
    drop((frames, over_http));
    eventually_ok(HANGS, || async {
        match world.figure("/inflight-cancelled", "cancelled").await {
            two if two == 2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_an_invoke_is_not_found_by_get_execution() {
    let world = World::start(json!({})).await;
    let id = world.get("/").await.head().execution_id.clone();
    for via in [Via::Grpc, Via::Json] {
        let request = json!({ "execution_id": id });
        let answer = world
            .ignite
            .call(via, "GetExecution", &world.token, &request)
            .await;
        // The id of an Invoke has no record.
        let refused = answer.expect_err("no record");
        assert!([5, 12].contains(&refused.code), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_duration_of_a_cold_call_has_the_hold_in_it() {
    let delay = 400;
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": delay.to_string() } });
    let world = World::start(settings).await;
    let began = Instant::now();
    let cold = world.get("/").await;
    let took = began.elapsed().as_millis() as i64;
    let cold_ms = cold.trailer().duration_ms;
    assert!(
        (delay..=took + 1).contains(&cold_ms),
        "{cold_ms} ms of {took} ms"
    );
    assert_eq!(cold.head().response_headers["x-ignite-cold-start"], "true");
    let began = Instant::now();
    let warm = world.get("/sleep/50").await.trailer().duration_ms;
    let took = began.elapsed().as_millis() as i64;
    assert!((50..=took + 1).contains(&warm), "{warm} ms of {took} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_the_apps_status_headers_body_and_the_contracts_trailers_come() {
    let world = World::start(json!({})).await;
    let trailers = |answer: &Option<HeaderMap>, name: &str| -> Option<String> {
        let value = answer.as_ref()?.get(name)?;
        Some(value.to_str().expect("text").to_owned())
    };
    let envelope = json!({ "http": { "path": "/trailers" } });
    let answer = world
        .post(&envelope)
        .header("te", "trailers")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    let announced = answer.header("trailer").expect("announced").to_lowercase();
    assert!(announced.contains("total_body_bytes") && announced.contains("duration_ms"));
    let id = answer
        .header("x-ignite-execution-id")
        .expect("an id")
        .to_owned();
    assert!(id.starts_with("exec_"), "{id}");
    let (body, end) = answer.whole().await.expect("a whole answer");
    assert_eq!(body, "hello\n");
    assert_eq!(trailers(&end, "total_body_bytes").as_deref(), Some("6"));
    let ms = trailers(&end, "duration_ms").expect("a duration");
    assert!(ms.parse::<u64>().is_ok(), "{ms}");
    assert_eq!(trailers(&end, "x-probe-trailer").as_deref(), Some("done"));

    // HTTP/1.1 sends no trailers to a client that did not ask for them.
    let answer = world.post(&envelope).send().await.expect("an answer");
    let (body, end) = answer.whole().await.expect("a whole answer");
    assert_eq!((&body[..], end), (&b"hello\n"[..], None));

    for status in [201, 204, 304, 404, 418, 500] {
        let envelope = json!({ "http": { "path": format!("/status/{status}") } });
        let answer = world.post(&envelope).header("te", "trailers").send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.header("x-ignite-error"), None, "it is the app's own");
        assert!(answer.header("x-probe-instance").is_some());
        answer.whole().await.expect("a whole answer");
    }
    let envelope = json!({ "http": { "path": "/bytes/1048577" } });
    let answer = world
        .post(&envelope)
        .header("te", "trailers")
        .send()
        .await
        .expect("an answer");
    let (body, end) = answer.whole().await.expect("a whole answer");
    assert_eq!(body.len(), 1_048_577);
    assert_eq!(
        trailers(&end, "total_body_bytes").as_deref(),
        Some("1048577")
    );
    // The host is the API's, so the app sets no cookies there; over gRPC they are in the head.
    let query = "x-own=a&x-own=b&set-cookie=a=1;Domain=localhost&set-cookie=b=2";
    let envelope = json!({ "http": { "path": "/with-headers", "query": query } });
    let answer = world.post(&envelope).send().await.expect("an answer");
    let own: Vec<_> = answer.headers.get_all("x-own").iter().collect();
    assert_eq!(own, ["a", "b"]);
    assert_eq!(answer.header("set-cookie"), None);
}
