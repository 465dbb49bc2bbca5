//! The number of replicas against a real engine: up and down by the formula, through crashes, and
//! with thousands of requests on a cold app.

use std::collections::HashSet;

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    scale_to_zero::ignite,
    support::{
        app::{App, ENGINE_LIMIT, instance},
        contract::BOTH,
        engine, eventually_ok,
        ignite::Ignite,
    },
};

fn scaling(metric: &str, threshold: u32, max: u32, period: u32) -> Value {
    json!({ "scaling": {
        "scaleMetric": format!("SCALE_METRIC_{metric}"),
        "scaleThreshold": threshold,
        "maxReplicas": max,
        "scaledownPeriodSecs": period,
    } })
}

async fn events(app: &App, ignite: &Ignite, kind: &str) -> Vec<String> {
    let (status, answer) = app
        .api(ignite, Method::GET, "/events?limit=1000", Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let all = answer["events"].as_array().cloned().unwrap_or_default();
    all.iter()
        .filter(|e| e["type"] == kind)
        .map(|e| e["message"].as_str().expect("a message").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_concurrent_requests_is_followed_up_and_down() {
    let ignite = ignite().await;
    let app = App::deploy(&ignite, "acme/steps", scaling("CONCURRENCY", 2, 4, 2)).await;
    // Each counts for as long as its answer takes.
    let mut running = JoinSet::new();
    for _ in 0..7 {
        let request = app.request(&ignite, Method::GET, "/stream/1000000/100");
        running.spawn(async move { request.send().await.expect("an answer") });
    }
    app.wait_for(&ignite, "desiredReplicas", 4).await;
    app.wait_for(&ignite, "runningReplicas", 4).await;
    let (_, listed) = app
        .api(&ignite, Method::GET, "/replicas", Value::Null)
        .await;
    let listed = listed["replicas"].as_array().expect("replicas").clone();
    assert_eq!(listed.len(), 4);
    for r in &listed {
        assert_eq!(
            (&r["state"], &r["depth"]),
            (&json!("ready"), &json!("running"))
        );
        let address = r["address"].as_str().expect("an address");
        assert!(address.ends_with(":80"), "{address}");
    }
    let mut last = None;
    while let Some(answer) = running.join_next().await {
        let answer = answer.expect("no panic");
        assert_eq!(answer.status, StatusCode::OK);
        last = Some(answer);
    }
    // A single request from now on: one replica is enough after the period.
    app.wait_for(&ignite, "desiredReplicas", 1).await;
    drop(last);
    app.wait_for(&ignite, "runningReplicas", 0).await;
    engine::wait_for_none(&ignite).await;
    assert_eq!(engine::created(&ignite).await, 4);
    let said = events(&app, &ignite, "SCALED").await;
    // How many have arrived by the first sample depends on the machine.
    assert!(said[0].starts_with("0 → "), "{said:?}");
    let at_most = said
        .iter()
        .any(|m| m.contains("→ 4: ") && m.ends_with("/ 2 per replica, at most 4"));
    assert!(at_most, "{said:?}");
    assert!(
        said.last()
            .expect("one")
            .ends_with("→ 0: nothing was asked for 2s"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_request_rate_is_followed_up_and_down() {
    let ignite = ignite().await;
    let app = App::deploy(&ignite, "acme/rate", scaling("REQUEST_RATE", 1, 4, 3)).await;
    // 150 requests within a minute are 2.5 a second on average.
    for _ in 0..15 {
        let requests = (0..10).map(|_| app.request(&ignite, Method::GET, "/").send());
        for answer in join_all(requests).await {
            assert_eq!(answer.expect("an answer").status, StatusCode::OK);
        }
    }
    eventually_ok(ENGINE_LIMIT, || async {
        let said = events(&app, &ignite, "SCALED").await;
        if said.iter().any(|m| m.starts_with("2 → 3: 2.")) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    })
    .await;
    // No more requests: to zero after the period, although the minute is not over.
    app.wait_for(&ignite, "runningReplicas", 0).await;
    engine::wait_for_none(&ignite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_replicas_under_load_loses_only_what_was_in_them() {
    let ignite = ignite().await;
    let mut settings = scaling("CONCURRENCY", 4, 3, 5);
    settings["scaling"]["reservedCapacity"] = json!(3);
    let app = App::deploy(&ignite, "acme/killed", settings).await;
    app.wait_for(&ignite, "runningReplicas", 3).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (app, stopped) = (app.clone(), stopped.clone());
        let addr = ignite.http_addr();
        clients.spawn(async move {
            let mut ends = (0, 0);
            while !*stopped.borrow() {
                let request = crate::support::http::request(addr, Method::GET, "/sleep/20")
                    .host(&format!("{}-{}.ignite.localhost", app.name, app.org))
                    .token(&app.token);
                match request.send().await.expect("an answer") {
                    a if a.status == StatusCode::OK => ends.0 += 1,
                    a => {
                        assert_eq!(a.header("x-ignite-error"), Some("REPLICA_BROKE"), "{a:?}");
                        ends.1 += 1;
                    }
                }
            }
            ends
        });
    }
    let kills = 4;
    for _ in 0..kills {
        // One that still starts would fail as a start.
        app.wait_for(&ignite, "runningReplicas", 3).await;
        let victim = engine::running(&ignite).await[0].clone();
        engine::kill(&victim).await;
        eventually_ok(ENGINE_LIMIT, || async {
            let now = engine::running(&ignite).await;
            if now.len() == 3 && !now.contains(&victim) {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await;
    }
    stop.send_replace(true);
    let (mut good, mut lost) = (0, 0);
    while let Some(ends) = clients.join_next().await {
        let ends = ends.expect("no panic");
        good += ends.0;
        lost += ends.1;
    }
    println!("{good} answered, {lost} lost with {kills} replicas killed under 6 clients");
    // No more than were in flight when the kills happened.
    assert!(lost <= kills * 6 && good > lost, "{good} {lost}");
    assert_eq!(events(&app, &ignite, "REPLICA_FAILED").await.len(), kills);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_replicas_are_told_over_both_transports() {
    let ignite = ignite().await;
    let app = App::deploy(&ignite, "acme/told", scaling("CONCURRENCY", 10, 1, 600)).await;
    app.get_ok(&ignite, "/").await;
    let id = json!({ "organization_name": "acme", "app_name": "told" });
    let mut both = Vec::new();
    for via in BOTH {
        let told = ignite.ok(via, "GetAppEvents", &app.token, id.clone()).await;
        let replicas = ignite
            .ok(via, "ListAppReplicas", &app.token, id.clone())
            .await;
        assert_eq!(replicas["replicas"][0]["state"], "ready");
        both.push((told, replicas));
    }
    assert_eq!(both[0], both[1]);
    let kinds: Vec<_> = both[0].0["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|e| e["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        kinds,
        [
            "SCALED",
            "REPLICA_CREATING",
            "REPLICA_STARTING",
            "REPLICA_READY"
        ]
    );
    let stranger = ignite.token("other");
    for (via, rpc) in BOTH
        .into_iter()
        .flat_map(|v| ["GetAppEvents", "ListAppReplicas"].map(|r| (v, r)))
    {
        let refused = ignite.refused(via, rpc, &stranger, id.clone()).await;
        assert_eq!(refused.reason, "PERMISSION_DENIED");
    }
    // A follower gets the past events it asked for, then new ones, then the end of the app.
    let path = "/v1/ignite/app/acme/told/events/stream?tail=1";
    let mut stream = ignite
        .request(Method::GET, path)
        .token(&app.token)
        .send()
        .await
        .expect("an answer");
    let first = stream.chunk().await.expect("a line").expect("whole");
    assert!(
        String::from_utf8_lossy(&first).contains("REPLICA_READY"),
        "{first:?}"
    );
    engine::kill(&engine::running(&ignite).await[0]).await;
    let next = loop {
        let next = stream.chunk().await.expect("a line").expect("whole");
        let next = String::from_utf8_lossy(&next).into_owned();
        // The scaling is decided while the end of the replica is still being inspected.
        if !next.contains("SCALED") {
            break next;
        }
    };
    assert!(next.contains("REPLICA_FAILED"), "{next}");
    let (status, _) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    tokio::time::timeout(ENGINE_LIMIT, stream.text())
        .await
        .expect("it ends");

    let out = ignite.cli(&["app", "events", "acme:gone"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_held_requests_are_served_by_one_start_per_replica() {
    const REQUESTS: usize = 10_000;
    // A descriptor for each end; the server raises its own limit.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("a higher limit");
    let ignite = Ignite::builder()
        .env("IGNITE_HOLD_MAX_REQUESTS", "20000")
        .env("IGNITE_HOLD_MAX_REQUESTS_TOTAL", "10000")
        .env("IGNITE_HOLD_MAX_REQUESTS_PER_ORG", "10000")
        .env("IGNITE_MAX_IN_FLIGHT_PER_ORG", "10000")
        .start()
        .await;
    let mut settings = scaling("CONCURRENCY", 10, 3, 600);
    settings["env"] = json!({ "PROBE_START_DELAY_MS": "6000" });
    settings["maxConcurrency"] = json!(50);
    let app = App::deploy(&ignite, "acme/flood", settings).await;
    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS {
        let request = app.request(&ignite, Method::GET, "/");
        requests.spawn(async move {
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let by = instance(&answer);
            answer.bytes().await;
            by
        });
    }
    let mut instances = HashSet::new();
    while let Some(by) = requests.join_next().await {
        instances.insert(by.expect("served"));
    }
    assert_eq!(instances.len(), 3, "every wanted replica serves");
    assert_eq!(engine::created(&ignite).await, 3, "one start each");
    let status = std::fs::read_to_string(format!("/proc/{}/status", ignite.ready().pid))
        .expect("the process runs");
    let peak: u64 = status
        .lines()
        .find_map(|l| {
            l.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .expect("a figure");
    println!(
        "{REQUESTS} held requests, all served; most memory of ignite: {} MB",
        peak / 1024
    );
    // Futures and frames are larger without optimization.
    let bound = if cfg!(debug_assertions) { 450 } else { 300 };
    assert!(peak < bound * 1024, "{peak} kB");
}
