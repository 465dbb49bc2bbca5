//! A new version, a new configuration, the deletion of an app: no request fails.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance},
    eventually_ok,
    ignite::Ignite,
    load::Load,
    probe,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_under_load_loses_no_request() {
    let ignite = Arc::new(Ignite::builder().start().await);
    // One replica, so that the load's own scaling does not blur the picture.
    let settings = json!({ "scaling": { "maxReplicas": 1 } });
    let app = App::deploy(&ignite, "acme/live", settings).await;
    let old = instance(&app.get_ok(&ignite, "/").await);
    let load = Load::on(&ignite, &app);
    load.more(30).await;

    let next = probe::image_with(&[("PROBE_VERSION", "2")]).await;
    let (status, answer) = app.publish_image(&ignite, &next).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["version"]["version"], 2, "{answer}");
    let after = app.get_ok(&ignite, "/").await;
    assert_eq!(
        after.header("x-probe-version"),
        Some("2"),
        "live with the answer"
    );
    assert_ne!(instance(&after), old);
    load.more(30).await;
    println!("{} requests", load.end().await);
    // The replica of the previous version is removed.
    app.wait_for(&ignite, "runningReplicas", 1).await;
    eventually_ok(ENGINE_LIMIT, || async {
        match ignite.containers().await.len() {
            1 => Ok(()),
            n => Err(format!("{n} containers")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_never_gets_ready_is_refused_and_the_old_one_serves_on() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/careful", Value::Null).await;
    let old = instance(&app.get_ok(&ignite, "/").await);
    let broken = probe::image_with(&[("PROBE_EXIT_AT_START", "4"), ("PROBE_LOG", "no key")]).await;
    let (status, answer) = app.publish_image(&ignite, &broken).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let message = answer["message"].as_str().expect("a message");
    assert!(
        message.contains("exit code 4") && message.contains("no key"),
        "{message}"
    );
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), old);
    assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_environment_becomes_live_without_losing_a_request() {
    let ignite = Arc::new(Ignite::builder().start().await);
    let settings = json!({ "env": { "PROBE_VERSION": "before" } });
    let app = App::deploy(&ignite, "acme/tuned", settings).await;
    app.get_ok(&ignite, "/").await;
    let load = Load::on(&ignite, &app);
    load.more(30).await;
    app.update(&ignite, json!({ "env": { "PROBE_VERSION": "after" } }))
        .await;
    eventually_ok(ENGINE_LIMIT, || async {
        let answer = app.get_ok(&ignite, "/").await;
        match answer.header("x-probe-version") {
            Some("after") => Ok(()),
            other => Err(format!("{other:?} serves")),
        }
    })
    .await;
    load.more(30).await;
    println!("{} requests", load.end().await);
    assert_eq!(
        app.figure(&ignite, "activeVersion").await,
        1,
        "the version stays"
    );
}

/// Closing an app to strangers must not wait for a container that may never get ready.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_new_container_is_live_at_once_though_the_rest_never_gets_ready() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(
        &ignite,
        "acme/closing",
        json!({ "allowUnauthenticated": true }),
    )
    .await;
    let old = instance(&app.get_ok(&ignite, "/").await);
    let stranger = || async {
        let request = ignite.request(Method::GET, "/_app/acme/closing/").send();
        request.await.expect("an answer").status
    };
    assert_eq!(stranger().await, StatusCode::OK);
    let broken = json!({
        "env": { "PROBE_EXIT_AT_START": "3" },
        "allowUnauthenticated": false,
    });
    app.update(&ignite, broken).await;
    assert_eq!(stranger().await, StatusCode::UNAUTHORIZED);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), old);
    // The same while the roll-out is under way already.
    app.update(&ignite, json!({ "allowUnauthenticated": true }))
        .await;
    assert_eq!(stranger().await, StatusCode::OK);
}

/// Publishes a version beside the one that serves, which does not get ready.
async fn stuck_publish(ignite: &Ignite, app: &App) -> JoinHandle<Option<(StatusCode, Value)>> {
    app.get_ok(ignite, "/").await;
    let hangs = probe::image_with(&[("PROBE_HEALTH_STATUS", "500")]).await;
    let path = format!("/v1/ignite/app/{}/{}/draft", app.org, app.name);
    let draft = json!({ "code": { "image": { "prebuilt": { "imageRef": hangs } } } });
    ignite.api(Method::POST, &path, &app.token, &draft).await;
    let publish = ignite
        .request(Method::POST, &format!("{path}/publish"))
        .token(&app.token)
        .json(&json!({}));
    let publish = tokio::spawn(async move {
        let answer = publish.send().await.ok()?;
        Some((answer.status, answer.json().await))
    });
    app.wait_for(ignite, "startingReplicas", 1).await;
    publish
}

/// These calls used to wait behind a publish for as long as a start may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_does_not_get_ready_keeps_nobody_from_mending_or_deleting_the_app() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/mended", Value::Null).await;
    let overtaken = |ended: Option<(StatusCode, Value)>| {
        let (status, answer) = ended.expect("an answer");
        assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        assert!(answer.to_string().contains("came between"), "{answer}");
    };
    let stuck = stuck_publish(&ignite, &app).await;
    let (status, answer) = app.publish_image(&ignite, &probe::image().await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    overtaken(stuck.await.expect("no panic"));

    let stuck = stuck_publish(&ignite, &app).await;
    let back = json!({ "version": 1 });
    let (status, answer) = app.api(&ignite, Method::POST, "/rollback", back).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    overtaken(stuck.await.expect("no panic"));

    let stuck = stuck_publish(&ignite, &app).await;
    let (status, answer) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    overtaken(stuck.await.expect("no panic"));
    assert!(ignite.containers().await.is_empty());
}

/// A stop used to wait for a publish, and so for a start, which may take ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_publish_that_does_not_get_ready() {
    let mut ignite = Ignite::builder()
        .env("IGNITE_DRAIN_TIMEOUT_SECS", "1")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/stuck", Value::Null).await;
    let publish = stuck_publish(&ignite, &app).await;
    let status = ignite.terminate(ENGINE_LIMIT).await;
    assert!(status.success(), "{status}: {}", ignite.log());
    assert!(ignite.containers().await.is_empty());
    drop(publish);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_lets_a_request_in_flight_finish_and_leaves_nothing() {
    let ignite = Arc::new(Ignite::builder().start().await);
    let app = App::deploy(&ignite, "acme/leaving", Value::Null).await;
    // In flight for as long as its body is open.
    let (body, chunks) = mpsc::channel::<Bytes>(1);
    let upload = app.request(&ignite, Method::POST, "/upload");
    let upload = tokio::spawn(upload.body_from(chunks).send());
    app.wait_for(&ignite, "inFlight", 1).await;

    let delete = {
        let (ignite, app) = (ignite.clone(), app.clone());
        tokio::spawn(async move { app.api(&ignite, Method::DELETE, "", Value::Null).await })
    };
    // From here on new requests get NOT_FOUND, while the old one continues.
    eventually_ok(ENGINE_LIMIT, || async {
        match app.get(&ignite, "/").await.status {
            StatusCode::NOT_FOUND => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert!(!delete.is_finished(), "it waits for the request");
    body.send("the rest".into()).await.expect("it is read");
    drop(body);
    let answer = upload.await.expect("no panic").expect("an answer");
    assert_eq!(answer.json().await["bytes"], 8);

    let (status, answer) = delete.await.expect("no panic");
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(ignite.containers().await.is_empty());
    for rest in ["", "/state", "/draft"] {
        let (status, answer) = app.api(&ignite, Method::GET, rest, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{rest}: {answer}");
    }
    assert_eq!(app.get(&ignite, "/").await.status, StatusCode::NOT_FOUND);
}
