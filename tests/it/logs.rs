//! Logs of apps: the newest lines, and lines as they arrive.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use ignite::api::proto::v1;
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    contract::{BOTH, Refusal, Via, acme_app, with},
    eventually_ok, grpc_client,
    http::Answer,
    ignite::Ignite,
};

fn lines(answer: &Value) -> Vec<Value> {
    answer["lines"].as_array().cloned().unwrap_or_default()
}

fn messages(answer: &Value) -> Vec<String> {
    let message = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
    lines(answer).iter().map(message).collect()
}

/// Waits until the log has these lines, and returns it.
async fn wait_for(ignite: &Ignite, app: &App, wanted: &[&str]) -> Value {
    eventually_ok(ENGINE_LIMIT, || async {
        let log = ignite
            .ok(Via::Json, "GetAppLogs", &app.token, acme_app(&app.name))
            .await;
        if messages(&log) == wanted {
            Ok(log)
        } else {
            Err(log.to_string())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_lines_come_by_time_with_replica_output_and_version() {
    let ignite = Ignite::builder()
        .env("IGNITE_LOG_MAX_LINES", "3")
        .start()
        .await;
    let settings = json!({ "env": { "PROBE_LOG": "begin" } });
    let app = App::deploy(&ignite, "acme/a", settings).await;
    let nothing = ignite
        .ok(Via::Grpc, "GetAppLogs", &app.token, acme_app("a"))
        .await;
    assert_eq!(nothing, json!({}), "no replica, no log");
    app.get_ok(&ignite, "/log/one").await;
    // The engine reads the two streams separately, and its times are those of reading.
    wait_for(&ignite, &app, &["begin", "one"]).await;
    app.get_ok(&ignite, "/log/two/err").await;
    let log = wait_for(&ignite, &app, &["begin", "one", "two"]).await;
    for via in BOTH {
        let again = ignite
            .ok(via, "GetAppLogs", &app.token, acme_app("a"))
            .await;
        assert_eq!(again, log);
        let all = lines(&log);
        let streams: Vec<_> = all.iter().map(|l| l["stream"].clone()).collect();
        let (out, err) = ("LOG_STREAM_STDOUT", "LOG_STREAM_STDERR");
        assert_eq!(streams, [err, out, err]);
        let replica = all[0]["replicaId"].as_str().expect("a replica");
        assert_eq!(replica.len(), 10);
        assert!(
            all.iter()
                .all(|l| l["replicaId"] == replica && l["version"] == 1)
        );
        let at = |line: &Value| line["timestampMs"].as_str().expect("a time").to_owned();
        assert!(
            at(&all[0]).len() == 13 && at(&all[0]) <= at(&all[2]),
            "{log}"
        );

        let ask = |more| with(acme_app("a"), more);
        let get = async |more| {
            let answer = ignite.ok(via, "GetAppLogs", &app.token, ask(more)).await;
            messages(&answer)
        };
        assert_eq!(get(json!({ "limit": 1 })).await, ["two"]);
        assert_eq!(
            get(json!({ "replica_id": replica, "limit": 2 })).await,
            ["one", "two"]
        );
        let later = all[2]["timestampMs"].as_str().expect("a time");
        let expected: Vec<_> = all.iter().filter(|l| at(l).as_str() >= later).collect();
        let since = get(json!({ "since_ms": later })).await;
        assert!(
            since.len() == expected.len() && since.contains(&"two".to_owned()),
            "{since:?}"
        );

        for rpc in ["GetAppLogs"] {
            let unknown = ask(json!({ "replica_id": "0123456789" }));
            let unknown = ignite.refused(via, rpc, &app.token, unknown).await;
            unknown.is(5, 404, "NOT_FOUND", &["no replica 0123456789", "acme/a"]);
            for (wrong, field) in [
                (json!({ "replica_id": "noid" }), "replica_id"),
                (json!({ "limit": -1 }), "limit"),
                (json!({ "since_ms": -1 }), "since_ms"),
            ] {
                let wrong = ignite.refused(via, rpc, &app.token, ask(wrong)).await;
                wrong.is(3, 400, "INVALID_ARGUMENT", &[]);
                assert_eq!(wrong.fields, [field]);
            }
            let gone = ignite.refused(via, rpc, &app.token, acme_app("nope")).await;
            gone.is(5, 404, "NOT_FOUND", &["acme/nope"]);
            let foreign = ignite.token("other");
            let foreign = ignite.refused(via, rpc, &foreign, acme_app("a")).await;
            foreign.is(7, 403, "PERMISSION_DENIED", &[]);
        }
    }
    // The platform's cap holds.
    app.get_ok(&ignite, "/log/three").await;
    wait_for(&ignite, &app, &["one", "two", "three"]).await;
    let capped = with(acme_app("a"), json!({ "limit": 1000 }));
    let capped = ignite.ok(Via::Grpc, "GetAppLogs", &app.token, capped).await;
    assert_eq!(messages(&capped), ["one", "two", "three"]);
}

/// One log stream over either transport.
enum Lines {
    Grpc(tonic::Streaming<v1::LogLine>),
    Json(Box<Answer>, Vec<u8>),
}

impl Lines {
    async fn open(via: Via, ignite: &Ignite, app: &App, replica: &str, tail: i32) -> Self {
        match via {
            Via::Grpc => {
                let request = v1::StreamAppLogsRequest {
                    organization_name: app.org.clone(),
                    app_name: app.name.clone(),
                    replica_id: replica.to_owned(),
                    tail,
                };
                let mut client = grpc_client(ignite, &app.token).await;
                let answer = client.stream_app_logs(request).await;
                Self::Grpc(answer.expect("a stream").into_inner())
            }
            Via::Json => {
                let path = format!(
                    "/v1/ignite/app/{}/{}/logs/stream?replicaId={replica}&tail={tail}",
                    app.org, app.name
                );
                let request = ignite.request(Method::GET, &path).token(&app.token);
                let answer = request.send().await.expect("an answer");
                assert_eq!(answer.status, StatusCode::OK);
                Self::Json(Box::new(answer), Vec::new())
            }
        }
    }

    /// The next line's message and version; `None` at a clean end.
    async fn next(&mut self) -> Result<Option<(String, u64)>, Refusal> {
        let next = tokio::time::timeout(ENGINE_LIMIT, self.wait());
        next.await.expect("a line in time")
    }

    async fn wait(&mut self) -> Result<Option<(String, u64)>, Refusal> {
        match self {
            Self::Grpc(stream) => match stream.message().await {
                Ok(line) => Ok(line.map(|l| (l.message, l.version.into()))),
                Err(status) => Err(Refusal::of_status(&status)),
            },
            Self::Json(answer, buffer) => loop {
                if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let line: Value = serde_json::from_slice(&line).expect("a line of JSON");
                    if let Some(error) = line.get("error") {
                        let mut headers = hyper::HeaderMap::new();
                        let reason = error["details"][0]["reason"].as_str().expect("a reason");
                        headers.insert("x-ignite-error", reason.parse().expect("a value"));
                        return Err(Refusal::of_http(StatusCode::OK, &headers, error));
                    }
                    let text = line["message"].as_str().unwrap_or_default();
                    let version = line["version"].as_u64().unwrap_or_default();
                    return Ok(Some((text.to_owned(), version)));
                }
                match answer.chunk().await {
                    Some(chunk) => buffer.extend_from_slice(&chunk.expect("a chunk")),
                    None => return Ok(None),
                }
            },
        }
    }

    async fn expect(&mut self, message: &str, version: u64) {
        let next = self.next().await.expect("no error");
        assert_eq!(next, Some((message.to_owned(), version)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_replicas_as_they_come_and_go() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "env": { "PROBE_LOG": "begin" } });
    let app = App::deploy(&ignite, "acme/a", settings).await;
    // Before there is any replica.
    let mut early = Lines::open(Via::Json, &ignite, &app, "", 5).await;
    app.get_ok(&ignite, "/log/one").await;
    early.expect("begin", 1).await;
    early.expect("one", 1).await;
    let log = wait_for(&ignite, &app, &["begin", "one"]).await;
    let replica = lines(&log)[0]["replicaId"]
        .as_str()
        .expect("one")
        .to_owned();

    // Of all replicas, and of this one only.
    let (mut all, mut single) = (vec![early], Vec::new());
    for via in BOTH {
        let mut tail = Lines::open(via, &ignite, &app, "", 1).await;
        tail.expect("one", 1).await;
        all.push(tail);
        all.push(Lines::open(via, &ignite, &app, "", 0).await);
        single.push(Lines::open(via, &ignite, &app, &replica, 0).await);
    }
    app.get_ok(&ignite, "/log/two").await;
    for stream in all.iter_mut().chain(&mut single) {
        stream.expect("two", 1).await;
    }
    // The next version's replica is followed from its first line on; the old one ends.
    app.publish(&ignite).await;
    app.get_ok(&ignite, "/log/three/err").await;
    for stream in &mut all {
        stream.expect("begin", 2).await;
        stream.expect("three", 2).await;
    }
    for stream in &mut single {
        assert_eq!(stream.next().await.expect("a good end"), None);
    }
    // Concurrent replicas are merged.
    app.update(&ignite, json!({ "scaling": { "reservedCapacity": 2 } }))
        .await;
    for stream in &mut all {
        stream.expect("begin", 2).await;
    }
    let log = wait_for(&ignite, &app, &["begin", "three", "begin"]).await;
    let replicas: BTreeSet<_> = lines(&log)
        .iter()
        .map(|l| l["replicaId"].to_string())
        .collect();
    assert_eq!(replicas.len(), 2);

    // The end of the app ends them.
    let (status, answer) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for stream in &mut all {
        let ended = stream.next().await.expect_err("it is deleted");
        ended.is(5, 200, "APP_DELETED", &["acme/a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_when_a_replica_wakes_from_standby() {
    for (standby, kept) in [
        ("pause", vec!["begin", "one", "two"]),
        // Its first process is gone, and the log with it.
        ("prepared", vec!["begin", "two"]),
    ] {
        let ignite = Ignite::builder()
            .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
            .env("IGNITE_STANDBY", standby)
            .start()
            .await;
        let settings = json!({
            "env": { "PROBE_LOG": "begin" },
            "scaling": { "scaledownPeriodSecs": 1 },
        });
        let app = App::deploy(&ignite, "acme/a", settings).await;
        let mut stream = Lines::open(Via::Json, &ignite, &app, "", 5).await;
        app.get_ok(&ignite, "/log/one").await;
        stream.expect("begin", 1).await;
        stream.expect("one", 1).await;
        app.wait_for(&ignite, "standbyReplicas", 1).await;
        app.get_ok(&ignite, "/log/two").await;
        if standby == "prepared" {
            stream.expect("begin", 1).await;
        }
        stream.expect("two", 1).await;
        // While requests come, its process stays, and with it the log.
        let busy = app.get_ok(&ignite, "/stream/1000000/100").await;
        wait_for(&ignite, &app, &kept).await;
        drop(busy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_streams_and_wrong_ones_are_refused() {
    let mut ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let refused = async |replica: &str, tail: i32| {
        let request = v1::StreamAppLogsRequest {
            organization_name: "acme".to_owned(),
            app_name: "a".to_owned(),
            replica_id: replica.to_owned(),
            tail,
        };
        let mut client = grpc_client(&ignite, &app.token).await;
        let status = client.stream_app_logs(request).await.expect_err("refused");
        let grpc = Refusal::of_status(&status);
        let path = format!("/v1/ignite/app/acme/a/logs/stream?replica_id={replica}&tail={tail}");
        let (status, headers, body) = ignite
            .api(Method::GET, &path, &app.token, &Value::Null)
            .await;
        let json = Refusal::of_http(status, &headers, &body);
        assert_eq!((&grpc.message, &grpc.fields), (&json.message, &json.fields));
        assert_eq!(status.as_u16(), if grpc.code == 5 { 404 } else { 400 });
        grpc
    };
    assert_eq!(refused("noid", 0).await.fields, ["replica_id"]);
    assert_eq!(refused("", -1).await.fields, ["tail"]);
    let unknown = refused("0123456789", 0).await;
    unknown.is(5, 404, "NOT_FOUND", &["no replica 0123456789"]);

    app.get_ok(&ignite, "/log/one").await;
    let mut streams = Vec::new();
    for via in BOTH {
        let mut stream = Lines::open(via, &ignite, &app, "", 5).await;
        stream.expect("one", 1).await;
        streams.push(stream);
    }
    ignite.signal(rustix::process::Signal::TERM);
    for stream in &mut streams {
        let ended = stream.next().await.expect_err("the platform stops");
        ended.is(14, 200, "SHUTTING_DOWN", &["stopping"]);
    }
    drop(streams);
    assert!(ignite.wait(ENGINE_LIMIT).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_and_follows_the_log() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let run = |args: &[&str]| {
        let output = ignite.cli(args);
        let out = String::from_utf8(output.stdout).expect("text");
        let err = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), out, err)
    };
    let (code, out, err) = run(&["app", "logs", "acme:a"]);
    assert!(
        code == Some(0) && out.is_empty() && err.contains("goes with its replica"),
        "{err}"
    );
    app.get_ok(&ignite, "/log/one").await;
    wait_for(&ignite, &app, &["one"]).await;
    app.get_ok(&ignite, "/log/two/err").await;
    wait_for(&ignite, &app, &["one", "two"]).await;
    let (code, out, _) = run(&["app", "logs", "acme:a", "--limit", "1", "-o", "wide"]);
    assert!(
        code == Some(0) && out.ends_with(" v1 stderr two\n"),
        "{out}"
    );
    assert!(out.starts_with("20"), "{out}");
    let (_, out, _) = run(&["app", "logs", "acme:a", "--since", "1h", "-o", "json"]);
    let log: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(messages(&log), ["one", "two"]);
    // Ended by its time limit, since the app does not end it; a slow machine needs a longer one.
    let mut told = Vec::new();
    for limit in ["2s", "20s", "120s"] {
        let follow = ["app", "logs", "acme:a", "-f", "-o", "json", "--timeout"];
        let (code, out, _) = run(&[&follow[..], &[limit]].concat());
        assert_eq!(code, Some(8));
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("json");
        told = out.lines().map(line).collect();
        if told.len() >= 2 {
            break;
        }
    }
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["message"], "two");
    let (code, _, err) = run(&["app", "logs", "acme:a", "--replica", "0123456789"]);
    assert!(code == Some(5) && err.contains("no replica"), "{err}");
}
