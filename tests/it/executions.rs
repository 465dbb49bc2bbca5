//! Asynchronous executions through the API: every method over gRPC and JSON, each with its limits
//! and refusals. `execution_order.rs` tests their order, `execution_crash.rs` crashes.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    contract::{BOTH, Published, Refusal, Via, merge},
    eventually_ok, grpc_client, http,
    ignite::{Builder, Ignite},
};

/// Longer than any execution here takes on a busy machine, a cold start included.
pub(crate) const LIMIT: Duration = crate::support::HANGS;

/// A server with the probe published as acme/app, and a token for it.
pub(crate) async fn served(builder: Builder, settings: Value) -> (Ignite, Published, String) {
    let ignite = builder.start().await;
    let app = ignite.publish("acme", "app", settings).await;
    let token = ignite.token("acme");
    (ignite, app, token)
}

/// Waits until the app's reserved replica is up, so that no deadline includes a start.
async fn wait_until_up(ignite: &Ignite, app: &Published, token: &str) {
    eventually_ok(LIMIT, || async {
        let state = ignite.ok(Via::Json, "GetAppState", token, app.id()).await;
        if state["runningReplicas"] == 1 {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await;
}

/// Waits until the app is known to have failed with these words.
async fn wait_for_error(ignite: &Ignite, app: &Published, token: &str, words: &str) {
    eventually_ok(LIMIT, || async {
        let state = ignite.ok(Via::Json, "GetAppState", token, app.id()).await;
        match state["lastError"].as_str() {
            Some(error) if error.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Calls an app that cannot start until every call is refused at once.
async fn wait_until_known(ignite: &Ignite, app: &Published, token: &str, words: &str) {
    eventually_ok(LIMIT, || async {
        let request = ignite.request(Method::GET, "/").host(app.host());
        let answer = request.token(token).send().await.expect("an answer");
        match answer.header("x-ignite-error") {
            Some("CONTAINER_EXITED") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    wait_for_error(ignite, app, token, words).await;
}

/// An InvokeAsync of a path with this body.
pub(crate) fn envelope(app: &Published, path: &str, body: &[u8]) -> Value {
    let mut fields = app.id();
    let more = json!({ "http": { "path": path }, "body": STANDARD.encode(body) });
    merge(&mut fields, more);
    fields
}

/// Submits, and returns the id.
pub(crate) async fn submit(
    ignite: &Ignite,
    via: Via,
    app: &Published,
    token: &str,
    path: &str,
    body: &[u8],
) -> String {
    let fields = envelope(app, path, body);
    let answer = ignite.ok(via, "InvokeAsync", token, fields).await;
    let id = answer["executionId"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("exec_") && id.len() == 31, "{id}");
    id
}

fn by_id(id: &str) -> Value {
    json!({ "execution_id": id })
}

/// The updates that a watcher of an execution gets.
async fn watch(ignite: &Ignite, token: &str, id: &str) -> http::Answer {
    let path = format!("/v1/ignite/executions/{id}/watch");
    let watch = ignite.request(Method::GET, &path).token(token);
    watch.send().await.expect("an answer")
}

/// The execution now.
pub(crate) async fn get(ignite: &Ignite, via: Via, token: &str, id: &str) -> Value {
    let answer = ignite.ok(via, "GetExecution", token, by_id(id)).await;
    answer["execution"].clone()
}

/// The execution once it has ended.
pub(crate) async fn ended(ignite: &Ignite, via: Via, token: &str, id: &str) -> Value {
    eventually_ok(LIMIT, || async {
        let execution = get(ignite, via, token, id).await;
        if is_terminal(&execution) {
            Ok(execution)
        } else {
            Err(format!("{execution}"))
        }
    })
    .await
}

pub(crate) fn is_terminal(execution: &Value) -> bool {
    let status = execution["status"].as_str().expect("a status");
    matches!(
        status,
        "EXECUTION_STATUS_COMPLETED" | "EXECUTION_STATUS_FAILED" | "EXECUTION_STATUS_TIMEOUT"
    )
}

/// The app's answer.
fn result(execution: &Value) -> Vec<u8> {
    let text = execution["result"].as_str().unwrap_or_default();
    STANDARD.decode(text).expect("base64")
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().expect("a number"),
        other => other.as_i64().expect("a number"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_ends_with_every_field_of_the_contract_and_the_apps_answer() {
    let (ignite, app, token) = served(Ignite::builder(), json!({})).await;
    for via in BOTH {
        let mut fields = envelope(&app, "/x?y=1", b"{\"a\":1}");
        let http = json!({ "http": {
            "method": "HTTP_METHOD_PUT", "path": "/x", "query": "y=1",
            "headers": { "content-type": "application/json", "x-ignite-attempt": "77" },
        } });
        merge(&mut fields, http);
        let answer = ignite.ok(via, "InvokeAsync", &token, fields).await;
        let id = answer["executionId"].as_str().expect("an id");
        let done = ended(&ignite, via, &token, id).await;
        let text = |name: &str| done[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("id"), id);
        assert_eq!(text("appId"), "acme/app");
        assert_eq!(text("appName"), "app");
        assert_eq!(text("status"), "EXECUTION_STATUS_COMPLETED");
        assert_eq!(
            (done["statusCode"].as_i64(), done["attempt"].as_i64()),
            (Some(200), Some(1))
        );
        assert_eq!(done["functionVersion"], 1);
        let (created, started, completed) = (
            number(&done["createdAtMs"]),
            number(&done["startedAtMs"]),
            number(&done["completedAtMs"]),
        );
        assert!(
            0 < created && created <= started && started <= completed,
            "{done}"
        );
        let bytes = result(&done);
        assert_eq!(
            number(&done["metrics"]["resultSizeBytes"]),
            bytes.len() as i64
        );
        assert_eq!(done["metrics"]["resourceTier"], "Medium");
        assert!(
            done["error"].is_null() && done["errorReason"].is_null(),
            "{done}"
        );
        assert_eq!(done["responseHeaders"]["content-type"], "application/json");
        // What the app saw: the envelope, and the platform's headers, which no caller can forge.
        let echo: Value = serde_json::from_slice(&bytes).expect("the echo is JSON");
        assert_eq!(
            (&echo["method"], &echo["uri"]),
            (&json!("PUT"), &json!("/x?y=1"))
        );
        assert_eq!(echo["body"], "{\"a\":1}");
        let headers: Vec<_> = echo["headers"]
            .as_array()
            .expect("headers")
            .iter()
            .collect();
        let has = |name: &str, value: &str| headers.contains(&&json!([name, value]));
        assert!(has("x-ignite-execution-id", id), "{echo}");
        assert!(has("x-ignite-function-id", "acme/app") && has("x-ignite-attempt", "1"));
        assert!(!has("x-ignite-attempt", "77") && has("content-type", "application/json"));
        assert!(has("host", "app-acme.ignite.localhost"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_other_than_success_keep_the_apps_status_and_say_why() {
    let builder = Ignite::builder()
        .env("IGNITE_COLD_START_BUDGET_SECS", "20")
        .env("IGNITE_MAX_RESULT_BYTES", "200000");
    let (ignite, app, token) = served(builder, json!({})).await;
    for via in BOTH {
        for (path, status, code, reason, words) in [
            ("/status/404", "FAILED", 404, "APP_ERROR", "404"),
            ("/status/302", "COMPLETED", 302, "", ""),
            (
                "/bytes/200001",
                "FAILED",
                200,
                "RESULT_TOO_LARGE",
                "IGNITE_MAX_RESULT_BYTES",
            ),
            (
                "/chunked/300000",
                "FAILED",
                200,
                "RESULT_TOO_LARGE",
                "200000",
            ),
            (
                "/break/1000?how=reset",
                "FAILED",
                0,
                "REPLICA_BROKE",
                "broke off",
            ),
        ] {
            let id = submit(&ignite, via, &app, &token, path, b"").await;
            let done = ended(&ignite, via, &token, &id).await;
            assert_eq!(
                done["status"],
                format!("EXECUTION_STATUS_{status}"),
                "{path}: {done}"
            );
            assert_eq!(number(&done["statusCode"]), code, "{path}");
            // Only attempts without a whole answer are retried.
            let attempts = if reason == "REPLICA_BROKE" { 3 } else { 1 };
            assert_eq!(number(&done["attempt"]), attempts, "{path}: {done}");
            assert_eq!(
                done["errorReason"].as_str().unwrap_or_default(),
                reason,
                "{path}: {done}"
            );
            assert!(
                done["error"].as_str().unwrap_or_default().contains(words),
                "{path}: {done}"
            );
        }
        // Over 64 KiB: stored beside the database, request and result.
        let large: Vec<u8> = (0..150_000_u32).map(|n| n as u8).collect();
        let id = submit(&ignite, via, &app, &token, "/raw", &large).await;
        let done = ended(&ignite, via, &token, &id).await;
        assert_eq!(
            done["status"], "EXECUTION_STATUS_COMPLETED",
            "{}",
            done["error"]
        );
        assert!(result(&done) == large, "{} bytes", result(&done).len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_as_timeout_whether_the_app_is_slow_or_cannot_be_run() {
    // After the second failure nothing is tried for an hour, so the refusal comes at once.
    let builder = Ignite::builder()
        .env("IGNITE_COLD_START_BUDGET_SECS", "2")
        .env("IGNITE_START_RETRY_INITIAL", "1h")
        .env("IGNITE_START_RETRY_MAX", "1h");
    let settings =
        json!({ "limits": { "timeout_secs": 1 }, "scaling": { "reserved_capacity": 1 } });
    let (ignite, app, token) = served(builder, settings).await;
    wait_until_up(&ignite, &app, &token).await;
    let slow = submit(&ignite, Via::Json, &app, &token, "/sleep/60000", b"").await;
    let done = ended(&ignite, Via::Grpc, &token, &slow).await;
    assert_eq!(done["status"], "EXECUTION_STATUS_TIMEOUT");
    assert_eq!(done["errorReason"], "REQUEST_TIMEOUT");
    assert_eq!(
        (done["attempt"].as_i64(), number(&done["functionVersion"])),
        (Some(1), 1)
    );

    let env = json!({ "limits": { "timeout_secs": 1 }, "env": { "PROBE_EXIT_AT_START": "3", "PROBE_LOG": "no database" } });
    let broken = ignite.publish("acme", "broken", env).await;
    wait_until_known(&ignite, &broken, &token, "code 3").await;
    let ids = [
        submit(&ignite, Via::Json, &broken, &token, "/", b"").await,
        submit(&ignite, Via::Grpc, &broken, &token, "/", b"").await,
    ];
    for id in ids {
        let done = ended(&ignite, Via::Json, &token, &id).await;
        assert_eq!(done["status"], "EXECUTION_STATUS_TIMEOUT", "{done}");
        assert_eq!(done["errorReason"], "CONTAINER_EXITED", "{done}");
        let error = done["error"].as_str().expect("words");
        assert!(
            error.contains("code 3") && error.contains("no database"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_now_is_tried_again_until_the_app_is_mended() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let broken = json!({ "env": { "PROBE_EXIT_AT_START": "3" } });
    let app = ignite.publish("acme", "app", broken).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/", b"").await;
    wait_for_error(&ignite, &app, &token, "code 3").await;
    assert_eq!(
        get(&ignite, Via::Grpc, &token, &id).await["status"],
        "EXECUTION_STATUS_PENDING"
    );
    let mut mend = app.id();
    merge(&mut mend, json!({ "env": { "MENDED": "1" } }));
    ignite.ok(Via::Json, "UpdateAppConfig", &token, mend).await;
    let done = ended(&ignite, Via::Json, &token, &id).await;
    assert_eq!(done["status"], "EXECUTION_STATUS_COMPLETED", "{done}");
    assert_eq!(done["attempt"], 1, "nothing was sent before");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_limit_the_setting_and_the_remedy() {
    let builder = Ignite::builder()
        .env("IGNITE_EXECUTION_QUEUE_MAX", "2")
        .env("IGNITE_MAX_BODY_BYTES", "1000");
    let settings = json!({ "max_concurrency": 1, "scaling": { "max_replicas": 1 } });
    let (ignite, app, token) = served(builder, settings).await;
    let foreign = ignite.token("other");
    let first = submit(&ignite, Via::Json, &app, &token, "/sleep/600000", b"").await;
    submit(&ignite, Via::Grpc, &app, &token, "/", b"").await;
    for via in BOTH {
        let call = |fields| ignite.refused(via, "InvokeAsync", &token, fields);
        call(envelope(&app, "/", b"")).await.is(
            8,
            429,
            "EXECUTION_QUEUE_FULL",
            &["2 executions", "IGNITE_EXECUTION_QUEUE_MAX"],
        );
        call(envelope(&app, "/", &[0; 1001])).await.is(
            8,
            413,
            "BODY_TOO_LARGE",
            &["1001", "IGNITE_MAX_BODY_BYTES"],
        );
        call(json!({ "organization_name": "acme", "app_name": "nobody" }))
            .await
            .is(5, 404, "NOT_FOUND", &["acme/nobody"]);
        let wrong = call(envelope(&app, "no-slash", b"")).await;
        wrong.is(3, 400, "INVALID_ARGUMENT", &["http.path"]);
        let refused = ignite
            .refused(via, "InvokeAsync", &foreign, envelope(&app, "/", b""))
            .await;
        refused.is(7, 403, "PERMISSION_DENIED", &["acme/app"]);
        let unpublished = format!("unpublished-{via:?}").to_lowercase();
        let create = json!({ "organization_name": "acme", "name": unpublished });
        ignite.ok(via, "CreateApp", &token, create).await;
        call(json!({ "organization_name": "acme", "app_name": unpublished }))
            .await
            .is(9, 400, "NOT_PUBLISHED", &["no published version"]);

        // For one execution: strangers learn nothing, and an invalid id is refused as such.
        for method in ["GetExecution", "CancelExecution"] {
            let refuse = |token, id| ignite.refused(via, method, token, by_id(id));
            refuse(&foreign, &first)
                .await
                .is(5, 404, "NOT_FOUND", &[&first]);
            refuse(&token, "exec_01HZX9AAAAAAAAAAAAAAAAAAAA").await.is(
                5,
                404,
                "NOT_FOUND",
                &["does not exist"],
            );
            refuse(&token, "nonsense")
                .await
                .is(3, 400, "INVALID_ARGUMENT", &["exec_", "ULID"]);
            let nobody = refuse("", &first).await;
            nobody.is(16, 401, "UNAUTHENTICATED", &["bearer token"]);
        }
        let list = |more: Value| {
            let mut fields = json!({ "organization_name": "acme" });
            merge(&mut fields, more);
            ignite.refused(via, "ListExecutions", &token, fields)
        };
        let wrong = list(json!({ "limit": -1, "cursor": "x", "from_ms": -5 })).await;
        wrong.is(3, 400, "INVALID_ARGUMENT", &["next_cursor"]);
        assert_eq!(wrong.fields, ["limit", "cursor", "from_ms"]);
        list(json!({ "app_name": "nobody" }))
            .await
            .is(5, 404, "NOT_FOUND", &["acme/nobody"]);
        let mut stats = app.id();
        merge(&mut stats, json!({ "start_ms": 5, "end_ms": 4 }));
        let wrong = ignite
            .refused(via, "GetExecutionStats", &token, stats)
            .await;
        wrong.is(3, 400, "INVALID_ARGUMENT", &["after the end"]);
    }
    let full = ignite.request(Method::POST, "/v1/ignite/app/acme/app/invoke-async");
    let full = full
        .token(&token)
        .json(&json!({}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(full.header("retry-after"), Some("1"));
    for key in ["", "é", &"k".repeat(256)] {
        let request = ignite.request(Method::POST, "/v1/ignite/app/acme/app/invoke-async");
        let mut request = request.token(&token).json(&json!({}));
        if !key.is_ascii() {
            // The client's own types accept only visible characters.
            request = request.header("idempotency-key", "a\tb");
        } else {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status, answer.headers.clone());
        let refusal = Refusal::of_http(status, &headers, &answer.json().await);
        refusal.is(3, 400, "INVALID_ARGUMENT", &["1 to 255", "UUID"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_submit_with_one_key_is_one_execution_over_both_transports() {
    let (ignite, app, token) = served(Ignite::builder(), json!({})).await;
    let path = "/v1/ignite/app/acme/app/invoke-async";
    let post = |body: &[u8]| {
        let json = json!({ "http": { "path": "/" }, "body": STANDARD.encode(body) });
        let request = ignite.request(Method::POST, path).token(&token).json(&json);
        request.header("idempotency-key", "order-17").send()
    };
    let first = post(b"a").await.expect("an answer").json().await["executionId"].clone();
    let mut client = grpc_client(&ignite, &token).await;
    let mut again = tonic::Request::new(ignite::api::proto::v1::InvokeRequest {
        organization_name: app.org.clone(),
        app_name: app.name.clone(),
        body: "a".into(),
        ..Default::default()
    });
    again
        .metadata_mut()
        .insert("idempotency-key", "order-17".parse().expect("ASCII"));
    let second = client
        .invoke_async(again)
        .await
        .expect("accepted")
        .into_inner();
    assert_eq!(first, second.execution_id.as_str());
    let other = post(b"b").await.expect("an answer");
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.header("x-ignite-error"), Some("IDEMPOTENCY_CONFLICT"));
    ended(&ignite, Via::Json, &token, &second.execution_id).await;
    let count = ignite
        .request(Method::GET, "/count")
        .host(app.host())
        .token(&token);
    assert_eq!(
        count.send().await.expect("an answer").json().await["count"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_each_change_the_output_and_the_end_and_a_late_one_the_rest() {
    let (ignite, app, token) = served(Ignite::builder(), json!({})).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/stream/4/150", b"").await;
    let lines = |text: String| -> Vec<String> {
        let of = |line: &str| {
            let update: Value = serde_json::from_str(line).expect("an object a line");
            match update["execution"]["status"].as_str() {
                Some(status) => status.trim_start_matches("EXECUTION_STATUS_").to_owned(),
                None => String::from_utf8(
                    STANDARD
                        .decode(update["outputChunk"].as_str().expect("output"))
                        .expect("base64"),
                )
                .expect("text"),
            }
        };
        text.lines().map(of).collect()
    };
    let whole = watch(&ignite, &token, &id).await;
    assert_eq!(whole.header("content-type"), Some("application/json"));
    let heard = lines(whole.text().await);
    let output = ["chunk 1\n", "chunk 2\n", "chunk 3\n", "chunk 4\n"];
    let expected = [&["PENDING", "RUNNING"][..], &output, &["COMPLETED"]].concat();
    // The execution may have begun before the watcher connected.
    assert!(heard == expected || heard == expected[1..], "{heard:?}");
    // After the end: the end alone, with the result.
    let late = watch(&ignite, &token, &id).await;
    assert_eq!(lines(late.text().await), ["COMPLETED"]);

    // Over gRPC, late in the middle: what is kept, then what comes; as events for browsers.
    let id = submit(&ignite, Via::Grpc, &app, &token, "/sse/3/300", b"").await;
    let mut client = grpc_client(&ignite, &token).await;
    let request = ignite::api::proto::v1::WatchExecutionRequest {
        execution_id: id.clone(),
    };
    let mut early = client
        .watch_execution(request.clone())
        .await
        .expect("watched")
        .into_inner();
    while early
        .message()
        .await
        .expect("an update")
        .expect("not the end")
        .output_chunk
        .is_empty()
    {}
    let path = format!("/v1/ignite/executions/{id}/watch");
    let events = ignite
        .request(Method::GET, &path)
        .token(&token)
        .header("accept", "text/event-stream");
    let events = events.send().await.expect("an answer");
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    let events = events.text().await;
    let events: String = events
        .split("\n\n")
        .filter(|e| !e.is_empty())
        .map(|e| format!("{}\n", e.strip_prefix("data: ").expect("an event")))
        .collect();
    let heard = lines(events);
    assert_eq!(
        (
            heard.first().map(String::as_str),
            heard.last().map(String::as_str)
        ),
        (Some("RUNNING"), Some("COMPLETED"))
    );
    let said: String = heard[1..heard.len() - 1].concat();
    assert_eq!(
        said,
        "id: 1\ndata: event 1\n\nid: 2\ndata: event 2\n\nid: 3\ndata: event 3\n\n"
    );
    let mut last = None;
    while let Some(update) = early.message().await.expect("an update") {
        last = Some(update);
    }
    let last = last
        .and_then(|u| u.execution)
        .expect("ends with the execution");
    assert_eq!(String::from_utf8_lossy(&last.result), said);

    let stranger = ignite
        .request(Method::GET, &path)
        .token(&ignite.token("other"));
    assert_eq!(
        stranger.send().await.expect("an answer").status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_execution_ends_at_once_and_the_app_sees_the_client_leave() {
    // Executions run one at a time, and yet the app answers other requests.
    let builder = Ignite::builder().env("IGNITE_EXECUTION_CONCURRENCY", "1");
    let settings = json!({ "scaling": { "max_replicas": 1 } });
    let (ignite, app, token) = served(builder, settings).await;
    let figure = async |name: &str, path: &str| {
        let figures = ignite.request(Method::GET, path).host(app.host());
        let figures = figures.token(&token).send().await.expect("an answer");
        figures.json().await[name].clone()
    };
    for (round, via) in BOTH.into_iter().enumerate() {
        let running = submit(&ignite, via, &app, &token, "/sleep/600000", b"").await;
        let waiting = submit(&ignite, via, &app, &token, "/sleep/600000", b"").await;
        eventually_ok(LIMIT, || async {
            let now = get(&ignite, via, &token, &running).await;
            if now["status"] == "EXECUTION_STATUS_RUNNING" {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
        // It is RUNNING before it is sent.
        eventually_ok(LIMIT, || async {
            match figure("current", "/concurrency").await {
                n if n == 1 => Ok(()),
                n => Err(format!("{n} requests at the app")),
            }
        })
        .await;
        for id in [&waiting, &running] {
            let answer = ignite.ok(via, "CancelExecution", &token, by_id(id)).await;
            let now = &answer["execution"];
            assert_eq!(
                (&now["status"], &now["errorReason"]),
                (&json!("EXECUTION_STATUS_FAILED"), &json!("CANCELLED"))
            );
            let again = ignite
                .refused(via, "CancelExecution", &token, by_id(id))
                .await;
            again.is(9, 400, "FAILED_PRECONDITION", &["ended already"]);
        }
        assert_eq!(
            number(&get(&ignite, via, &token, &waiting).await["attempt"]),
            0,
            "never sent"
        );
        eventually_ok(LIMIT, || async {
            match figure("cancelled", "/inflight-cancelled").await {
                n if n == round + 1 => Ok(()),
                n => Err(format!("{n} clients left")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_filter_by_app_status_and_time_and_hold_one_organization() {
    let (ignite, app, token) = served(Ignite::builder(), json!({})).await;
    let other = ignite.publish("acme", "second", json!({})).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let (to, path) = if n % 2 == 0 {
            (&app, "/")
        } else {
            (&other, "/status/500")
        };
        let id = submit(&ignite, BOTH[n % 2], to, &token, path, b"").await;
        ended(&ignite, Via::Json, &token, &id).await;
        ids.push(id);
    }
    ids.reverse();
    for via in BOTH {
        let list = |more: Value| {
            let mut fields = json!({ "organization_name": "acme" });
            merge(&mut fields, more);
            ignite.ok(via, "ListExecutions", &token, fields)
        };
        let ids_of = |page: &Value| -> Vec<String> {
            let all = page["executions"].as_array().cloned().unwrap_or_default();
            assert!(
                all.iter().all(|e| e["result"].is_null()),
                "no results in lists"
            );
            all.iter()
                .map(|e| e["id"].as_str().expect("an id").to_owned())
                .collect()
        };
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = list(json!({ "limit": 3, "cursor": cursor })).await;
            seen.extend(ids_of(&page));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, ids);
        let failed = list(json!({ "status": "EXECUTION_STATUS_FAILED" })).await;
        assert_eq!(
            ids_of(&failed),
            [&ids[1], &ids[3], &ids[5]].map(String::clone)
        );
        let of_app = list(json!({ "app_name": "app" })).await;
        assert_eq!(ids_of(&of_app).len(), 4);
        let at = number(&get(&ignite, via, &token, &ids[2]).await["createdAtMs"]);
        let before = ids_of(&list(json!({ "to_ms": at })).await);
        let since = ids_of(&list(json!({ "from_ms": at })).await);
        assert_eq!([since, before].concat(), ids);
        let foreign = ignite.token("other");
        let fields = json!({ "organization_name": "acme" });
        let refused = ignite
            .refused(via, "ListExecutions", &foreign, fields)
            .await;
        refused.is(7, 403, "PERMISSION_DENIED", &["acme"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_have_all_three_ways_in_and_survive_a_restart() {
    let builder = Ignite::builder().env("IGNITE_COLD_START_BUDGET_SECS", "5");
    let settings =
        json!({ "limits": { "timeout_secs": 1 }, "scaling": { "reserved_capacity": 1 } });
    let (mut ignite, app, token) = served(builder, settings).await;
    wait_until_up(&ignite, &app, &token).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/", b"").await;
    ended(&ignite, Via::Json, &token, &id).await;
    for (path, status) in [("/", 200), ("/status/503", 503), ("/chunked/300000", 200)] {
        let url = ignite
            .request(Method::GET, path)
            .host(app.host())
            .token(&token);
        let answer = url.send().await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status);
        answer.bytes().await;
        let invoke = ignite
            .request(Method::POST, "/v1/ignite/app/acme/app/invoke")
            .token(&token);
        let invoke = invoke.json(&json!({ "http": { "path": path } }));
        invoke.send().await.expect("an answer").bytes().await;
    }
    let url = ignite
        .request(Method::GET, "/sleep/60000")
        .host(app.host())
        .token(&token);
    let late = url.send().await.expect("an answer");
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    // Refused before it reached the app: no invocation.
    let nobody = ignite
        .request(Method::GET, "/")
        .host(app.host())
        .send()
        .await
        .expect("an answer");
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);

    async fn counts(ignite: &Ignite, via: Via, app: &Published, token: &str) -> [i64; 3] {
        let mut fields = app.id();
        merge(&mut fields, json!({ "bucket_secs": 3600 }));
        let stats = ignite.ok(via, "GetExecutionStats", token, fields).await;
        assert_eq!(stats["bucketSecs"], 3600);
        let buckets = stats["buckets"].as_array().expect("buckets");
        // One more than the hours of a day, but in the last second of an hour.
        assert!(
            (24..=25).contains(&buckets.len()),
            "a day by the hour, empty ones too: {}",
            buckets.len()
        );
        let sum = |name: &str| buckets.iter().map(|b| number(&b[name])).sum();
        ["completed", "failed", "timeout"].map(sum)
    }
    eventually_ok(LIMIT, || async {
        let now = counts(&ignite, Via::Json, &app, &token).await;
        if now == [5, 2, 1] {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    assert!(ignite.terminate(LIMIT).await.success());
    ignite.start().await;
    for via in BOTH {
        assert_eq!(counts(&ignite, via, &app, &token).await, [5, 2, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_submits_to_a_public_app_reads_it_and_a_deleted_app_takes_its_executions_along() {
    let ignite = Ignite::builder()
        .env("IGNITE_COLD_START_BUDGET_SECS", "5")
        .env("IGNITE_START_RETRY_INITIAL", "1h")
        .env("IGNITE_START_RETRY_MAX", "1h")
        .start()
        .await;
    let (owner, caller) = (ignite.token("public"), ignite.token("acme"));
    let app = ignite
        .publish(
            "public",
            "shared",
            json!({ "max_concurrency": 1, "scaling": { "max_replicas": 1, "reserved_capacity": 1 } }),
        )
        .await;
    wait_until_up(&ignite, &app, &owner).await;
    let id = submit(&ignite, Via::Json, &app, &caller, "/", b"").await;
    for (via, token) in [(Via::Json, &caller), (Via::Grpc, &owner)] {
        assert_eq!(
            ended(&ignite, via, token, &id).await["status"],
            "EXECUTION_STATUS_COMPLETED"
        );
    }
    // A container's last words are only for the owner, whichever method reads the execution.
    let fatal = json!({ "limits": { "timeout_secs": 1 }, "env": { "PROBE_EXIT_AT_START": "3", "PROBE_LOG": "no database" } });
    let broken = ignite.publish("public", "broken", fatal).await;
    wait_until_known(&ignite, &broken, &owner, "code 3").await;
    let crashed = submit(&ignite, Via::Json, &broken, &caller, "/", b"").await;
    let watched = watch(&ignite, &caller, &crashed).await;
    let detailed = |text: &str| text.contains("code 3") || text.contains("no database");
    let told = watched.text().await;
    assert!(
        told.contains("CONTAINER_EXITED") && !detailed(&told),
        "{told}"
    );
    for via in BOTH {
        let bare = ended(&ignite, via, &caller, &crashed).await;
        assert_eq!(bare["errorReason"], "CONTAINER_EXITED", "{bare}");
        assert!(
            !bare["error"].is_null() && !detailed(&bare.to_string()),
            "{bare}"
        );
        let full = ended(&ignite, via, &owner, &crashed).await;
        assert!(detailed(full["error"].as_str().expect("words")), "{full}");
    }
    let stranger = ignite.token("third");
    ignite
        .refused(Via::Json, "GetExecution", &stranger, by_id(&id))
        .await
        .is(5, 404, "NOT_FOUND", &[&id]);

    let running = submit(&ignite, Via::Grpc, &app, &caller, "/sleep/60000", b"").await;
    let waiting = submit(&ignite, Via::Grpc, &app, &caller, "/", b"").await;
    let watched = watch(&ignite, &caller, &waiting).await;
    ignite.ok(Via::Json, "DeleteApp", &owner, app.id()).await;
    let last = watched.text().await;
    let last: Value = serde_json::from_str(last.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["execution"]["errorReason"], "APP_DELETED", "{last}");
    for id in [&id, &running, &waiting] {
        ignite
            .refused(Via::Grpc, "GetExecution", &caller, by_id(id))
            .await
            .is(5, 404, "NOT_FOUND", &[]);
    }
    // A new app of the same name starts without executions.
    let again = ignite.publish("public", "shared", json!({})).await;
    let fields = json!({ "organization_name": "public", "app_name": "shared" });
    let list = ignite.ok(Via::Json, "ListExecutions", &owner, fields).await;
    assert!(list["executions"].is_null(), "{list}");
    let id = submit(&ignite, Via::Json, &again, &owner, "/", b"").await;
    assert_eq!(ended(&ignite, Via::Json, &owner, &id).await["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_of_one_pending_execution_each_see_every_state_once_and_in_order() {
    const WATCHERS: usize = 1000;
    /// Fewer than an HTTP/2 server usually allows on one connection.
    const PER_CONNECTION: usize = 100;
    let settings = json!({ "max_concurrency": 1, "scaling": { "max_replicas": 1 } });
    let (ignite, app, token) = served(Ignite::builder(), settings).await;
    // It runs until all watchers have come, and is then cancelled.
    let first = submit(&ignite, Via::Json, &app, &token, "/sleep/600000", b"").await;
    let id = submit(&ignite, Via::Json, &app, &token, "/", b"").await;
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS / PER_CONNECTION {
        let mut client = grpc_client(&ignite, &token).await;
        for _ in 0..PER_CONNECTION {
            let request = ignite::api::proto::v1::WatchExecutionRequest {
                execution_id: id.clone(),
            };
            let watched = client.watch_execution(request).await;
            let mut stream = watched.expect("watched").into_inner();
            // A watcher is connected once it has received the current status.
            let now = stream.message().await.expect("an update");
            let mut seen = vec![now.and_then(|u| u.execution).expect("a state").status];
            watchers.spawn(async move {
                while let Some(update) = stream.message().await.expect("an update") {
                    seen.push(update.execution.expect("a state").status);
                }
                seen
            });
        }
    }
    ignite
        .ok(Via::Json, "CancelExecution", &token, by_id(&first))
        .await;
    let (pending, running, completed) = (1, 2, 3);
    let mut heard = 0;
    while let Some(seen) = watchers.join_next().await {
        assert_eq!(seen.expect("no panic"), [pending, running, completed]);
        heard += 1;
    }
    assert_eq!(heard, WATCHERS);
}
