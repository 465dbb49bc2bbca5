//! In what order executions run, and how many at once.

use hyper::Method;
use serde_json::{Value, json};

use crate::{
    executions::{LIMIT, ended, get, served, submit},
    support::{
        contract::{Published, Via, merge},
        eventually_ok,
        ignite::Ignite,
    },
};

/// Waits until the app has no replica that runs.
async fn wait_until_at_zero(ignite: &Ignite, app: &Published, token: &str) {
    eventually_ok(LIMIT, || async {
        let state = ignite.ok(Via::Json, "GetAppState", token, app.id()).await;
        if state["runningReplicas"].is_null() {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_of_an_app_run_first_in_first_out_within_its_concurrency_and_wake_it() {
    let settings = json!({
        "max_concurrency": 1,
        "scaling": { "max_replicas": 1, "scaledown_period_secs": 1 },
    });
    let builder = Ignite::builder().env("IGNITE_MIN_SCALEDOWN_SECS", "1");
    let (ignite, app, token) = served(builder, settings).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let path = format!("/x?n={n}");
        ids.push(submit(&ignite, Via::Json, &app, &token, &path, b"").await);
    }
    let mut order = Vec::new();
    for id in &ids {
        let done = ended(&ignite, Via::Grpc, &token, id).await;
        assert_eq!(done["status"], "EXECUTION_STATUS_COMPLETED", "{done}");
        order.push(
            done["completedAtMs"]
                .as_str()
                .expect("a time")
                .parse::<i64>()
                .expect("a number"),
        );
    }
    assert!(order.is_sorted(), "{order:?}");
    let figure = |path| {
        ignite
            .request(Method::GET, path)
            .host(app.host())
            .token(&token)
            .send()
    };
    let answer = figure("/concurrency")
        .await
        .expect("an answer")
        .json()
        .await;
    assert_eq!(answer["max"], 1);
    // Back to nothing, and up again by an execution alone.
    wait_until_at_zero(&ignite, &app, &token).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/", b"").await;
    assert_eq!(
        ended(&ignite, Via::Json, &token, &id).await["status"],
        "EXECUTION_STATUS_COMPLETED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_a_long_queue_starves_no_other() {
    let builder = Ignite::builder()
        .env("IGNITE_EXECUTION_CONCURRENCY", "4")
        .env("IGNITE_EXECUTION_MAX_RUNNING", "4");
    let (ignite, busy, token) = served(builder, json!({})).await;
    let calm = ignite.publish("acme", "calm", json!({})).await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(submit(&ignite, Via::Grpc, &busy, &token, "/sleep/5000", b"").await);
    }
    let id = submit(&ignite, Via::Json, &calm, &token, "/", b"").await;
    ended(&ignite, Via::Json, &token, &id).await;
    let last: Value = get(&ignite, Via::Json, &token, &ids[199]).await;
    assert_eq!(
        last["status"], "EXECUTION_STATUS_PENDING",
        "the long queue is not through"
    );
    let figure = ignite
        .request(Method::GET, "/concurrency")
        .host(busy.host())
        .token(&token);
    let figure = figure.send().await.expect("an answer").json().await;
    assert!(figure["max"].as_u64().expect("a number") <= 4, "{figure}");
}

/// Only a running execution takes a permit, not one that waits for a replica, at first or again.
#[tokio::test(flavor = "multi_thread")]
async fn apps_that_cannot_start_delay_no_other_however_few_may_run_at_once() {
    let builder = Ignite::builder()
        .env("IGNITE_EXECUTION_MAX_RUNNING", "1")
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1");
    let scaling = json!({ "scaling": { "scaledown_period_secs": 1 } });
    let (ignite, calm, token) = served(builder, scaling.clone()).await;
    let mut waiting = Vec::new();
    // One app's container lives and never becomes ready; the other's ends at once.
    for (name, env) in [
        ("slow", json!({ "PROBE_START_DELAY_MS": "600000" })),
        ("broken", json!({ "PROBE_EXIT_AT_START": "3" })),
    ] {
        let app = ignite.publish("acme", name, scaling.clone()).await;
        wait_until_at_zero(&ignite, &app, &token).await;
        let mut change = app.id();
        merge(&mut change, json!({ "env": env }));
        ignite
            .ok(Via::Json, "UpdateAppConfig", &token, change)
            .await;
        for _ in 0..3 {
            waiting.push(submit(&ignite, Via::Grpc, &app, &token, "/", b"").await);
        }
    }
    for _ in 0..3 {
        let id = submit(&ignite, Via::Json, &calm, &token, "/", b"").await;
        let done = ended(&ignite, Via::Json, &token, &id).await;
        assert_eq!(done["status"], "EXECUTION_STATUS_COMPLETED", "{done}");
    }
    for id in waiting {
        let one = get(&ignite, Via::Json, &token, &id).await;
        assert_eq!(one["status"], "EXECUTION_STATUS_PENDING", "{one}");
    }
}
