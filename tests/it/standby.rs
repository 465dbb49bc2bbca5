//! Warm standby against a real engine: its depths, the way back, restarts and crashes.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, is_cold},
    engine, eventually_ok,
    ignite::{Builder, Ignite},
};

/// A server on which apps go to zero after a second, into this standby.
fn server(standby: &str) -> Builder {
    Ignite::builder()
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_STANDBY", standby)
}

async fn deploy(ignite: &Ignite, id: &str) -> App {
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 1 } });
    App::deploy(ignite, id, settings).await
}

/// Waits until the app has one replica in this state.
async fn wait_for(app: &App, ignite: &Ignite, state: &str) -> Value {
    eventually_ok(ENGINE_LIMIT, || async {
        let (_, listed) = app.api(ignite, Method::GET, "/replicas", Value::Null).await;
        match &listed["replicas"] {
            Value::Array(all) if all.len() == 1 && all[0]["state"] == state => Ok(all[0].clone()),
            other => Err(format!("{other} instead of one that is {state}")),
        }
    })
    .await
}

/// Waits until the app has had this many events of a kind.
async fn happened(app: &App, ignite: &Ignite, kind: &str, times: usize) {
    eventually_ok(ENGINE_LIMIT, || async {
        let path = "/events?limit=1000";
        let (_, told) = app.api(ignite, Method::GET, path, Value::Null).await;
        let all = told["events"].as_array().cloned().unwrap_or_default();
        match all.iter().filter(|e| e["type"] == kind).count() {
            n if n >= times => Ok(()),
            _ => Err(format!("no {kind} for the {times}. time in {told}")),
        }
    })
    .await;
}

/// Whether a container keeps the network of another one.
fn is_holder(c: &bollard::models::ContainerSummary) -> bool {
    let names = c.names.iter().flatten();
    names.into_iter().any(|name| name.ends_with("-net"))
}

/// What the engine says of each container.
async fn states(ignite: &Ignite) -> Vec<String> {
    let mut states: Vec<_> = ignite
        .containers()
        .await
        .into_iter()
        .map(|c| c.state.map(|s| s.to_string()).unwrap_or_default())
        .collect();
    states.sort_unstable();
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_frozen_at_zero_and_the_same_process_answers_again() {
    for freezer in ["engine", "cgroup"] {
        let ignite = server("pause").env("IGNITE_FREEZER", freezer).start().await;
        let app = deploy(&ignite, "acme/frozen").await;
        let first = instance(&app.get_ok(&ignite, "/").await);
        for _ in 0..3 {
            let at_zero = wait_for(&app, &ignite, "paused").await;
            assert_eq!(at_zero["depth"], "paused");
            assert_eq!(app.figure(&ignite, "runningReplicas").await, 0);
            assert_eq!(app.figure(&ignite, "standbyReplicas").await, 1);
            let known = match freezer {
                "engine" => "paused",
                // The engine does not know the state set behind its back.
                _ => "running",
            };
            assert_eq!(states(&ignite).await, [known]);
            let began = Instant::now();
            let woken = app.get_ok(&ignite, "/").await;
            println!("woken by {freezer} in {:.1?}", began.elapsed());
            assert_eq!(instance(&woken), first);
            assert!(!is_cold(&woken), "nothing was started");
        }
        assert_eq!(engine::created(&ignite).await, 1);
        // Servers keep the text of the time, which a freeze makes old.
        wait_for(&app, &ignite, "paused").await;
        let old = "Thu,01Jan2026";
        let path = format!("/with-headers?date={old}");
        let woken = app.get_ok(&ignite, &path).await;
        assert_ne!(woken.header("date"), Some(old));
        // Once the engine has said that it is awake, the app's word counts.
        eventually_ok(ENGINE_LIMIT, || async {
            let warm = app.get_ok(&ignite, &path).await;
            match warm.header("date") {
                Some(date) if date == old => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        // A body that streams is sent once the replica is awake, and arrives whole.
        wait_for(&app, &ignite, "paused").await;
        let (body, chunks) = tokio::sync::mpsc::channel(1);
        let upload = app
            .request(&ignite, Method::POST, "/upload")
            .body_from(chunks);
        let upload = tokio::spawn(upload.send());
        body.send("0123456789".into()).await.expect("it is read");
        drop(body);
        let answer = upload.await.expect("no panic").expect("an answer");
        assert_eq!(answer.json().await["bytes"], 10);
        // Deleted while frozen, it leaves nothing behind.
        wait_for(&app, &ignite, "paused").await;
        let (status, _) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        engine::wait_for_none(&ignite).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_app_keeps_a_container_and_its_network_and_starts_in_it() {
    for reach in ["auto", "published"] {
        // A relay would be one container more where ports are published.
        let ignite = server("prepared").env("IGNITE_APP_CALLS", "false");
        let ignite = ignite.env("IGNITE_REACH", reach).start().await;
        let app = deploy(&ignite, "acme/prepared").await;
        let mut last = instance(&app.get_ok(&ignite, "/").await);
        let mut address = Value::Null;
        for round in 0..3 {
            let at_zero = wait_for(&app, &ignite, "prepared").await;
            assert_eq!(at_zero["depth"], "prepared");
            assert_eq!(app.figure(&ignite, "runningReplicas").await, 0);
            assert_eq!(states(&ignite).await, ["created", "running"]);
            let began = Instant::now();
            let woken = app.get_ok(&ignite, "/").await;
            println!("started from prepared in {:.1?}", began.elapsed());
            assert!(is_cold(&woken));
            assert_ne!(instance(&woken), last, "another process");
            last = instance(&woken);
            // The replica stays up for as long as a client listens.
            let stream = app.get_ok(&ignite, "/stream/1000000/100").await;
            let now = wait_for(&app, &ignite, "ready").await["address"].clone();
            drop(stream);
            if round > 0 {
                assert_eq!(now, address, "the network is kept");
            }
            address = now;
        }
        let (status, _) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        engine::wait_for_none(&ignite).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_app_is_prepared_later_and_torn_down_when_long_idle() {
    let ignite = server("pause")
        .env("IGNITE_STANDBY_PAUSE_FOR", "2s")
        .env("IGNITE_TEARDOWN_AFTER", "6s")
        .start()
        .await;
    let app = deploy(&ignite, "acme/deeper").await;
    app.get_ok(&ignite, "/").await;
    // Each state ends after a while, so the events are checked.
    happened(&app, &ignite, "REPLICA_PAUSED", 1).await;
    happened(&app, &ignite, "REPLICA_PREPARED", 1).await;
    let woken = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&woken));
    happened(&app, &ignite, "REPLICA_PREPARED", 2).await;
    engine::wait_for_none(&ignite).await;
    assert!(
        is_cold(&app.get_ok(&ignite, "/").await),
        "provisioned again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_fails_falls_through_within_the_held_request() {
    // Frozen, then killed behind the platform's back, unobserved.
    for freezer in ["engine", "cgroup"] {
        let ignite = server("pause")
            .env("IGNITE_FREEZER", freezer)
            .env("IGNITE_RECONCILE_INTERVAL", "1h")
            .start()
            .await;
        let app = deploy(&ignite, "acme/lost").await;
        let first = instance(&app.get_ok(&ignite, "/").await);
        wait_for(&app, &ignite, "paused").await;
        let id = ignite.containers().await[0].id.clone().expect("an id");
        let remove = bollard::query_parameters::RemoveContainerOptionsBuilder::new()
            .force(true)
            .build();
        // On cgroup v1 the engine cannot kill a container that it does not know to be frozen: it
        // waits.
        let kill = tokio::spawn(async move {
            engine::docker()
                .await
                .remove_container(&id, Some(remove))
                .await
        });
        if freezer == "engine" {
            kill.await.expect("no panic").expect("removed");
            let woken = app.get_ok(&ignite, "/").await;
            assert_ne!(instance(&woken), first);
            assert!(is_cold(&woken), "started from nothing");
        } else {
            app.get_ok(&ignite, "/").await;
            kill.await
                .expect("no panic")
                .expect("removed once it was thawed");
        }
    }
    // Prepared, and its container removed.
    let ignite = server("prepared")
        .env("IGNITE_RECONCILE_INTERVAL", "1h")
        .start()
        .await;
    let app = deploy(&ignite, "acme/lost").await;
    app.get_ok(&ignite, "/").await;
    wait_for(&app, &ignite, "prepared").await;
    // Podman removes no container in whose network another one is.
    let mut all = ignite.containers().await;
    all.sort_by_key(is_holder);
    for c in all {
        let remove = bollard::query_parameters::RemoveContainerOptionsBuilder::new()
            .force(true)
            .build();
        let docker = engine::docker().await;
        docker
            .remove_container(&c.id.expect("an id"), Some(remove))
            .await
            .expect("removed");
    }
    assert!(is_cold(&app.get_ok(&ignite, "/").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_what_is_frozen_is_adopted_and_serves() {
    for freezer in ["engine", "cgroup"] {
        let mut ignite = server("pause").env("IGNITE_FREEZER", freezer).start().await;
        let app = deploy(&ignite, "acme/crashed").await;
        let first = instance(&app.get_ok(&ignite, "/").await);
        wait_for(&app, &ignite, "paused").await;
        ignite.kill9();
        ignite.start().await;
        // Frozen by the engine, it still is; frozen by its cgroup, it is thawed and frozen again
        // later.
        wait_for(&app, &ignite, "paused").await;
        assert_eq!(instance(&app.get_ok(&ignite, "/").await), first);
        assert_eq!(engine::created(&ignite).await, 1);
        assert!(ignite.terminate(ENGINE_LIMIT).await.success());
        assert!(ignite.containers().await.is_empty());
    }
    // A prepared container is removed; one that was started from prepared is adopted.
    let mut ignite = server("prepared").start().await;
    let app = deploy(&ignite, "acme/crashed").await;
    app.get_ok(&ignite, "/").await;
    wait_for(&app, &ignite, "prepared").await;
    ignite.kill9();
    ignite.start().await;
    engine::wait_for_none(&ignite).await;
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 600 } });
    app.get_ok(&ignite, "/").await;
    wait_for(&app, &ignite, "prepared").await;
    app.update(&ignite, settings).await;
    let running = instance(&app.get_ok(&ignite, "/").await);
    ignite.kill9();
    ignite.start().await;
    wait_for(&app, &ignite, "ready").await;
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), running);
    assert_eq!(states(&ignite).await, ["running", "running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_environment_drops_standby() {
    let ignite = server("pause").start().await;
    let app = deploy(&ignite, "acme/changed").await;
    let first = instance(&app.get_ok(&ignite, "/").await);
    wait_for(&app, &ignite, "paused").await;
    app.update(&ignite, json!({ "env": { "A": "1" } })).await;
    engine::wait_for_none(&ignite).await;
    assert_ne!(instance(&app.get_ok(&ignite, "/").await), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_which_the_holder_is_gone_has_no_network_and_is_replaced_at_once() {
    let ignite = server("prepared")
        .env("IGNITE_RECONCILE_INTERVAL", "1h")
        .env("IGNITE_LIVENESS_INTERVAL", "0s")
        .start()
        .await;
    let app = deploy(&ignite, "acme/cut").await;
    app.get_ok(&ignite, "/").await;
    wait_for(&app, &ignite, "prepared").await;
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 600 } });
    app.update(&ignite, settings).await;
    let first = instance(&app.get_ok(&ignite, "/").await);
    let all = ignite.containers().await;
    let holder = all.into_iter().find(is_holder).expect("it was prepared");
    // Requests in flight, which no packet tells of the end: one that waits, one that reads.
    let waiting = app.request(&ignite, Method::POST, "/sleep/86400000");
    let waiting = tokio::spawn(waiting.body("once").send());
    let mut stream = app.get_ok(&ignite, "/stream/1000000/100").await;
    stream.chunk().await.expect("it begins").expect("a chunk");
    eventually_ok(ENGINE_LIMIT, || async {
        match app.figure(&ignite, "inFlight").await {
            2 => Ok(()),
            n => Err(format!("{n} requests are in flight")),
        }
    })
    .await;
    let docker = engine::docker().await;
    docker
        .kill_container(&holder.id.expect("an id"), None)
        .await
        .expect("killed");
    happened(&app, &ignite, "REPLICA_FAILED", 1).await;
    let began = Instant::now();
    let told = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(told.status, StatusCode::BAD_GATEWAY);
    assert_eq!(told.header("x-ignite-error"), Some("REPLICA_BROKE"));
    let message = told.text().await;
    assert!(message.contains("kept its network has ended"), "{message}");
    println!("answered {:.1?} after the event", began.elapsed());
    while let Some(Ok(_)) = stream.chunk().await {}
    println!("and the stream ended after {:.1?}", began.elapsed());
    assert_ne!(instance(&app.get_ok(&ignite, "/").await), first);
    eventually_ok(ENGINE_LIMIT, || async {
        match states(&ignite).await {
            left if left == ["running"] => Ok(()),
            left => Err(format!("{left:?} instead of the new one alone")),
        }
    })
    .await;
}
