//! Moving replicas by hand, and a machine without free capacity, against a real engine.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    app::{App, instance, is_cold},
    engine,
    ignite::Ignite,
};

const LOCAL: &str = "/v1/ignite/local/app";

async fn call(ignite: &Ignite, app: &App, rest: &str, body: Value) -> (StatusCode, Value) {
    let path = format!("{LOCAL}/{}/{}/{rest}", app.org, app.name);
    let method = if rest == "standby" {
        Method::PUT
    } else {
        Method::POST
    };
    let (status, _, answer) = ignite.api(method, &path, &app.token, &body).await;
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_scaled_put_to_sleep_and_waited_for_by_hand() {
    let ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .start()
        .await;
    let settings = json!({ "scaling": { "maxReplicas": 3 } });
    let app = App::deploy(&ignite, "acme/moved", settings).await;
    let cli = |args: &[&str]| {
        let out = ignite.cli(args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (
            out.status.code(),
            format!("{text}{}", String::from_utf8_lossy(&out.stderr)),
        )
    };
    let (code, said) = cli(&["app", "scale", "acme:moved", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = cli(&[
        "app",
        "wait",
        "acme:moved",
        "--replicas",
        "2",
        "--within",
        "180s",
    ]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(engine::running(&ignite).await.len(), 2);
    assert!(
        !is_cold(&app.get_ok(&ignite, "/").await),
        "it is up already"
    );
    let (code, said) = cli(&["app", "scale", "acme:moved", "4"]);
    assert_eq!(code, Some(2), "{said}");

    for (depth, containers) in [("paused", 2), ("prepared", 4), ("absent", 0)] {
        let (code, said) = cli(&["app", "idle", "acme:moved", "--depth", depth]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = cli(&["app", "wait", "acme:moved", "--depth", depth, "-o", "json"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(
            ignite.containers().await.len(),
            containers,
            "{depth}: {said}"
        );
    }
    let (code, said) = cli(&["app", "idle", "acme:moved", "--depth", "paused"]);
    assert!(
        code != Some(0) && said.contains("scale it to 1 first"),
        "{said}"
    );
    let (code, said) = cli(&[
        "app",
        "wait",
        "acme:moved",
        "--replicas",
        "1",
        "--within",
        "1s",
    ]);
    assert_eq!(code, Some(8), "{said}");
    let (code, said) = cli(&["app", "replicas", "acme:moved"]);
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    let (code, said) = cli(&["app", "events", "acme:moved"]);
    assert!(code == Some(0) && said.contains("chosen by hand"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_autoscaler_holds_requests_and_standby_is_chosen_per_app() {
    let ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .start()
        .await;
    let settings = json!({ "scaling": { "scaledownPeriodSecs": 1 } });
    let app = App::deploy(&ignite, "acme/still", settings).await;
    let (status, answer) = call(&ignite, &app, "autoscaler/freeze", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["replicas"]["frozen"], true);
    let held = tokio::spawn(app.request(&ignite, Method::GET, "/").send());
    app.wait_for(&ignite, "held", 1).await;
    assert_eq!(engine::created(&ignite).await, 0);
    let (status, _) = call(&ignite, &app, "autoscaler/unfreeze", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let answer = held.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    // Only this app is torn down at zero, also after a restart of the platform.
    let (status, answer) = call(&ignite, &app, "standby", json!({ "depth": "DEPTH_ABSENT" })).await;
    assert_eq!(
        (status, &answer["depth"]),
        (StatusCode::OK, &json!("DEPTH_ABSENT"))
    );
    engine::wait_for_none(&ignite).await;
    let stranger = ignite.token("other");
    let path = format!("{LOCAL}/acme/still/scale");
    let (status, _, _) = ignite.api(Method::POST, &path, &stranger, &json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_machine_gives_standby_away_first_and_then_says_what_holds_the_room() {
    let ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_MEMORY_BUDGET", "129MiB")
        // Long enough for a frozen replica to be evicted on a busy machine.
        .env("IGNITE_ROOM_WAIT", "6s")
        .start()
        .await;
    let sized = |period: u32| json!({ "limits": { "memoryMb": 64 }, "scaling": { "scaledownPeriodSecs": period } });
    let first = App::deploy(&ignite, "acme/first", sized(1)).await;
    let process = instance(&first.get_ok(&ignite, "/").await);
    first.wait_for(&ignite, "standbyReplicas", 1).await;
    // Two more fill the machine; the memory of the frozen one is in the way of the second.
    let second = App::deploy(&ignite, "acme/second", sized(600)).await;
    let third = App::deploy(&ignite, "acme/third", sized(600)).await;
    second.get_ok(&ignite, "/").await;
    third.get_ok(&ignite, "/").await;
    let began = Instant::now();
    let refused = first.get(&ignite, "/").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(
        began.elapsed() >= Duration::from_secs(6),
        "it waits for room first"
    );
    assert_eq!(refused.header("x-ignite-error"), Some("NO_ROOM"));
    let text = refused.text().await;
    assert!(text.contains("acme/second 1 replicas with 64 MB"), "{text}");
    // A waiting start gets capacity that is given back.
    let waits = tokio::spawn(first.request(&ignite, Method::GET, "/").send());
    let (status, _) = second.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let answer = waits.await.expect("no panic").expect("an answer");
    // It waited, or was refused the moment before.
    if answer.status == StatusCode::OK {
        let now = instance(&answer);
        println!("the same process as before: {}", now == process);
    }
    first.get_ok(&ignite, "/").await;
}
