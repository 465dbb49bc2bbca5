//! Scaling to zero without requests, never during one, and never below the reserved capacity.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, is_cold},
    engine, eventually_ok,
    ignite::Ignite,
};

/// A server on which apps may go to zero after a second.
pub(crate) async fn ignite() -> Ignite {
    Ignite::builder()
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_goes_to_zero_after_its_scaledown_period_and_wakes_again() {
    let ignite = ignite().await;
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 3 } });
    let app = App::deploy(&ignite, "acme/sleepy", settings).await;
    // Traffic during the period restarts it.
    let period = Duration::from_secs(3);
    let began = Instant::now();
    let mut last_sent = began;
    let mut last = instance(&app.get_ok(&ignite, "/").await);
    while began.elapsed() < period + Duration::from_secs(1) {
        let sent = Instant::now();
        let now = instance(&app.get_ok(&ignite, "/").await);
        // A machine that stalls for a whole period sends no traffic.
        assert!(now == last || last_sent.elapsed() >= period);
        (last, last_sent) = (now, sent);
    }
    app.wait_for(&ignite, "runningReplicas", 0).await;
    assert!(
        last_sent.elapsed() >= period,
        "it went to zero {:?} after a request, before its period",
        last_sent.elapsed()
    );
    engine::wait_for_none(&ignite).await;
    let (_, state) = app.api(&ignite, Method::GET, "/state", json!(null)).await;
    assert_eq!(
        state["deploymentState"], "DEPLOYMENT_STATE_SCALED_TO_ZERO",
        "{state}"
    );

    let woken = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&woken));
    assert_ne!(instance(&woken), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_scaledown_period_untouched() {
    let ignite = ignite().await;
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 1 } });
    let app = App::deploy(&ignite, "acme/stream", settings).await;
    let began = Instant::now();
    let answer = app.get_ok(&ignite, "/stream/32/100").await;
    let lines: String = (1..=32).map(|n| format!("chunk {n}\n")).collect();
    assert_eq!(answer.text().await, lines);
    app.wait_for(&ignite, "runningReplicas", 0).await;
    assert!(
        began.elapsed() >= Duration::from_millis(31 * 100 + 1000),
        "the period counts from the end of the stream, but it was at zero after {:?}",
        began.elapsed()
    );
    engine::wait_for_none(&ignite).await;
    assert_eq!(engine::created(&ignite).await, 1);
}

/// An open connection whose buffers are full keeps no replica up longer than its request may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_keeps_its_replica_until_the_deadline_and_no_longer() {
    let ignite = Ignite::builder()
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_COLD_START_BUDGET_SECS", "2")
        .start()
        .await;
    let settings = json!({
        "limits": { "timeoutSecs": 1 },
        "scaling": { "scaledownPeriodSecs": 600 },
    });
    let app = App::deploy(&ignite, "acme/stuck", settings).await;
    // A start may take longer than the budget.
    eventually_ok(ENGINE_LIMIT, || async {
        match app.get(&ignite, "/").await.status {
            StatusCode::OK => Ok(()),
            status => Err(status),
        }
    })
    .await;
    let began = Instant::now();
    // More than all buffers on the way can hold.
    let mut unread = app.get_ok(&ignite, "/bytes/200000000").await;
    app.wait_for(&ignite, "inFlight", 0).await;
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "the deadline is timeout and budget together, not {:?}",
        began.elapsed()
    );
    app.update(&ignite, json!({ "scaling": { "scaledownPeriodSecs": 1 } }))
        .await;
    app.wait_for(&ignite, "runningReplicas", 0).await;
    engine::wait_for_none(&ignite).await;
    // A truncated answer never looks complete.
    let broken = loop {
        match unread.chunk().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken, "the answer ended as if it were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_replicas_are_always_up_and_replaced_when_they_die() {
    let ignite = ignite().await;
    let settings = json!({
        "scaling": { "reservedCapacity": 2, "maxReplicas": 2, "scaledownPeriodSecs": 1 },
    });
    let app = App::deploy(&ignite, "acme/reserved", settings).await;
    app.wait_for(&ignite, "runningReplicas", 2).await;
    assert!(!is_cold(&app.get_ok(&ignite, "/").await), "nobody waits");

    let before = engine::running(&ignite).await;
    engine::kill(&before[0]).await;
    eventually_ok(ENGINE_LIMIT, || async {
        let now = engine::running(&ignite).await;
        let replaced = now.len() == 2 && now.contains(&before[1]) && !now.contains(&before[0]);
        if replaced && app.figure(&ignite, "runningReplicas").await == 2 {
            Ok(())
        } else {
            Err(format!("{now:?} run, {before:?} did"))
        }
    })
    .await;
    assert_eq!(app.get(&ignite, "/").await.status, StatusCode::OK);

    app.update(&ignite, json!({ "scaling": { "reservedCapacity": 0 } }))
        .await;
    app.wait_for(&ignite, "runningReplicas", 0).await;
    engine::wait_for_none(&ignite).await;
}
