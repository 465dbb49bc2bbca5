//! Apps that do not start, full queues, clients that leave: which answers callers get.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::support::{
    HANGS,
    app::{App, instance, is_cold},
    engine, eventually_ok, http,
    ignite::{Builder, Ignite},
    probe,
};

/// The reason and the message of an answer that the platform made, and its status.
async fn failure(answer: http::Answer) -> (u16, String, String) {
    let status = answer.status.as_u16();
    let reason = answer
        .header("x-ignite-error")
        .unwrap_or_else(|| panic!("the platform did not make this answer: {answer:?}"))
        .to_owned();
    let body = answer.json().await;
    let message = body["message"].as_str().expect("a message").to_owned();
    (status, reason, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_exits_at_start_fails_the_held_requests_with_its_code_and_log() {
    // After the second failure nothing is tried for an hour, so that a request's answer in the
    // meantime cannot come from its own start.
    let ignite = Ignite::builder()
        .env("IGNITE_START_RETRY_INITIAL", "1h")
        .env("IGNITE_START_RETRY_MAX", "1h")
        .start()
        .await;
    let app = App::create(&ignite, "public/broken", Value::Null).await;
    let log = "cannot reach the database at db:5432";
    let broken = probe::image_with(&[("PROBE_EXIT_AT_START", "3"), ("PROBE_LOG", log)]).await;
    app.save_image(&ignite, &broken).await;
    let (status, answer) = app.publish_unchecked(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // Any organization may call apps of `public`; the details are the owner's.
    let caller = App {
        token: ignite.token("acme"),
        ..app.clone()
    };

    let began = Instant::now();
    let both = [&app, &caller];
    let requests = (0..20).map(|n| both[n % 2].request(&ignite, Method::GET, "/").send());
    let answers = timeout(HANGS, join_all(requests))
        .await
        .expect("nobody waits for the next start");
    println!("failed after {:?}", began.elapsed());
    for (n, answer) in answers.into_iter().enumerate() {
        let (status, reason, message) = failure(answer.expect("an answer")).await;
        assert_eq!((status, reason.as_str()), (503, "CONTAINER_EXITED"));
        let detailed = message.contains("exit code 3") && message.contains(log);
        let bare = !message.contains("code 3") && !message.contains("db:5432");
        assert!(if n % 2 == 0 { detailed } else { bare }, "{n}: {message}");
    }

    let created = engine::created(&ignite).await;
    for app in both {
        let answer = app.get(&ignite, "/").await;
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        let (status, reason, message) = failure(answer).await;
        assert_eq!((status, reason.as_str()), (503, "CONTAINER_EXITED"));
        assert_eq!(message.contains(log), app.token != caller.token);
    }
    assert_eq!(
        engine::created(&ignite).await,
        created,
        "while it backs off the reason is told and nothing is started"
    );
    engine::wait_for_none(&ignite).await;

    let (status, answer) = app.publish_image(&ignite, &probe::image().await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = app.get_ok(&ignite, "/").await;
    assert!(!is_cold(&answer), "a good image is up already");
}

/// Deploys an app that never becomes ready within a second, and calls it until its refusal has all
/// these words: on a slow machine a process may not have got far after a second.
async fn never_ready(settings: Value, words: &[&str]) {
    let ignite = Ignite::builder()
        .env("IGNITE_STARTUP_TIMEOUT_SECS", "1")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/never", settings).await;
    eventually_ok(HANGS, || async {
        let (status, reason, message) = failure(app.get(&ignite, "/").await).await;
        assert_eq!((status, reason.as_str()), (503, "NOT_READY"), "{message}");
        match words.iter().find(|w| !message.contains(**w)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing:?} is not in {message:?}")),
        }
    })
    .await;
    engine::wait_for_none(&ignite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_health_path_that_never_answers_2xx_is_reported_with_its_answer() {
    let settings = json!({
        "healthPath": "/healthz",
        "env": { "PROBE_HEALTH_STATUS": "404", "PROBE_LOG": "here I am" },
    });
    let words = [
        "within 1s",
        "GET /healthz on port 80",
        "answered 404",
        "here I am",
    ];
    never_ready(settings, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_nobody_listens_on_is_reported_as_that() {
    let env = json!({ "env": { "PROBE_PORT": "9999" } });
    let words = ["on port 80", "nothing listens there", "0.0.0.0:$PORT (80)"];
    never_ready(env, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_outlasts_the_cold_start_budget_fails_the_request_with_a_timeout() {
    let ignite = Ignite::builder()
        .env("IGNITE_COLD_START_BUDGET_SECS", "1")
        .env("IGNITE_STARTUP_TIMEOUT_SECS", "60")
        .start()
        .await;
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": "60000" } });
    let app = App::deploy(&ignite, "acme/late", settings).await;
    let began = Instant::now();
    let (status, reason, message) = failure(app.get(&ignite, "/").await).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!((status, reason.as_str()), (504, "COLD_START_TIMEOUT"));
    assert!(message.contains("not ready yet"), "{message}");
    assert_eq!(app.figure(&ignite, "held").await, 0);
}

/// A server, and an app whose start begins with the first request and does not end in this test.
async fn starting_for_long(builder: Builder) -> (Ignite, App) {
    let ignite = builder.start().await;
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": "600000" } });
    let app = App::deploy(&ignite, "acme/long", settings).await;
    (ignite, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_for_the_hold_is_refused_with_a_time_to_come_back() {
    let builder = Ignite::builder().env("IGNITE_HOLD_MAX_REQUESTS", "2");
    let (ignite, app) = starting_for_long(builder).await;
    let held: Vec<_> = (0..2)
        .map(|_| tokio::spawn(app.request(&ignite, Method::GET, "/").send()))
        .collect();
    app.wait_for(&ignite, "held", 2).await;
    let answer = app.get(&ignite, "/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    let (status, reason, message) = failure(answer).await;
    assert_eq!((status, reason.as_str()), (429, "HOLD_QUEUE_FULL"));
    assert!(message.contains("IGNITE_HOLD_MAX_REQUESTS"), "{message}");

    // The others stay held: a version that starts answers them.
    app.update(&ignite, json!({ "env": { "PROBE_VERSION": "quick" } }))
        .await;
    for request in held {
        let answer = request.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("x-probe-version"), Some("quick"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_in_the_hold_is_forgotten() {
    let (ignite, app) = starting_for_long(Ignite::builder()).await;
    let leaver = tokio::spawn(
        app.request(&ignite, Method::POST, "/")
            .json(&json!(1))
            .send(),
    );
    app.wait_for(&ignite, "held", 1).await;
    let stayer = tokio::spawn(app.request(&ignite, Method::GET, "/stays").send());
    app.wait_for(&ignite, "held", 2).await;
    leaver.abort();
    app.wait_for(&ignite, "held", 1).await;

    app.update(&ignite, json!({ "env": { "PROBE_VERSION": "quick" } }))
        .await;
    let answer = stayer.await.expect("no panic").expect("an answer");
    let seen = answer.json().await;
    assert_eq!(
        (&seen["uri"], &seen["count"]),
        (&json!("/stays"), &json!(1)),
        "the app never saw the one that left"
    );
    assert_eq!(app.figure(&ignite, "held").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_in_the_hold_is_forgotten_whatever_of_its_body_is_unread() {
    let (ignite, app) = starting_for_long(Ignite::builder()).await;
    // The app has received nothing; the server has read what it may buffer and the rest waits in
    // the socket.
    for unread in [0, 3] {
        let (body, chunks) = mpsc::channel::<Bytes>(1);
        let request = app
            .request(&ignite, Method::POST, "/upload")
            .body_from(chunks);
        let leaver = tokio::spawn(request.send());
        app.wait_for(&ignite, "held", 1).await;
        for _ in 0..unread {
            let chunk = Bytes::from(vec![b'x'; 10_000]);
            body.send(chunk).await.expect("the client sends it");
        }
        leaver.abort();
        app.wait_for(&ignite, "held", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_one_thread_that_is_busy_with_a_legal_request_is_not_replaced() {
    let ignite = Ignite::builder()
        .env("IGNITE_LIVENESS_INTERVAL", "100ms")
        .env("IGNITE_LIVENESS_TIMEOUT", "100ms")
        .env("IGNITE_LIVENESS_FAILURES", "2")
        .start()
        .await;
    let app = App::create(&ignite, "acme/single", json!({ "maxConcurrency": 1 })).await;
    let image = probe::image_with(&[("PROBE_ONE_AT_A_TIME", "1")]).await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let before = instance(&app.get_ok(&ignite, "/").await);
    // Many times longer than the health path may be silent.
    let busy = app.get_ok(&ignite, "/sleep/3000").await;
    assert_eq!(instance(&busy), before);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
}
