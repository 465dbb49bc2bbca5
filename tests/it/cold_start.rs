//! The first request to an app that has no replica: held, answered, and given the timings of its
//! wait.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use ignite_kit::cold::Like;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{
    app::{App, instance, is_cold},
    engine,
    ignite::Ignite,
};

/// The parts of a `Server-Timing` header and how many milliseconds each took.
fn timing(header: &str) -> Vec<(&str, f64)> {
    header
        .split(", ")
        .map(|entry| {
            let (name, ms) = entry
                .split_once(";dur=")
                .unwrap_or_else(|| panic!("no duration in {header:?}"));
            let ms = ms.split_once(';').map_or(ms, |(ms, _desc)| ms);
            (name, ms.parse().expect("a number of milliseconds"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_cold_requests_at_once_start_one_container_and_all_succeed() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "scaling": { "maxReplicas": 1 } });
    let app = App::deploy(&ignite, "acme/crowd", settings).await;
    assert_eq!(
        engine::created(&ignite).await,
        0,
        "a publish starts nothing"
    );

    let requests = (0..200).map(|_| app.request(&ignite, Method::GET, "/").send());
    let answers = join_all(requests).await;
    let mut instances = HashSet::new();
    let mut cold = 0;
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        instances.insert(instance(&answer));
        if is_cold(&answer) {
            cold += 1;
            let header = answer.header("server-timing").expect("the timing");
            let parts = timing(header);
            let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, ["queue", "create", "start", "ready"], "{header}");
            assert!(parts[1].1 > 0.0 && parts[2].1 > 0.0, "{header}");
        } else {
            assert_eq!(answer.header("server-timing"), None);
        }
    }
    assert!(cold >= 1, "nobody was told of the cold start");
    assert_eq!(instances.len(), 1, "one container answered");
    assert_eq!(engine::created(&ignite).await, 1, "one container was made");
    assert_eq!(ignite.containers().await.len(), 1);

    let warm = app.get_ok(&ignite, "/").await;
    assert!(!is_cold(&warm) && warm.header("server-timing").is_none());
    assert_eq!(warm.json().await["count"], 201, "each was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_is_waited_for_and_shows_as_time_to_ready() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": "1200" } });
    let app = App::deploy(&ignite, "acme/slow", settings).await;
    let answer = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&answer));
    let parts = timing(answer.header("server-timing").expect("the timing"));
    // The process begins to wait while the engine starts it.
    assert!(
        parts[3].0 == "ready" && parts[2].1 + parts[3].1 > 1199.0,
        "{parts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_path_that_nobody_chose_may_answer_404() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "env": { "PROBE_HEALTH_STATUS": "404" } });
    let app = App::deploy(&ignite, "acme/plain", settings).await;
    app.get_ok(&ignite, "/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_concurrency_1_sends_one_request_at_a_time_in_the_order_of_arrival() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({ "maxConcurrency": 1, "scaling": { "maxReplicas": 1 } });
    let app = App::deploy(&ignite, "acme/single", settings).await;
    // The first keeps the only replica busy for as long as its body is open.
    let (body, chunks) = mpsc::channel::<Bytes>(1);
    let first = app
        .request(&ignite, Method::POST, "/upload")
        .body_from(chunks);
    let first = tokio::spawn(first.send());
    app.wait_for(&ignite, "inFlight", 1).await;

    let mut others = Vec::new();
    for n in 1..=12 {
        others.push(tokio::spawn(app.request(&ignite, Method::GET, "/").send()));
        app.wait_for(&ignite, "held", n).await;
    }
    drop(body);
    assert_eq!(
        first.await.expect("no panic").expect("an answer").status,
        StatusCode::OK
    );
    for (n, other) in others.into_iter().enumerate() {
        let answer = other.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!is_cold(&answer), "it waited for its turn, not for a start");
        assert_eq!(answer.json().await["count"], n + 2, "the order is kept");
    }
    let concurrency = app.get_ok(&ignite, "/concurrency").await.json().await;
    assert_eq!(concurrency["max"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_can_be_reached_through_published_ports() {
    let ignite = Ignite::builder()
        .arg("--reach")
        .arg("published")
        .start()
        .await;
    // The engine's proxy accepts at once while the app does not listen yet: only an HTTP answer may
    // count as ready.
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": "700" } });
    let app = App::deploy(&ignite, "acme/published", settings).await;
    let answer = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&answer));
    let parts = timing(answer.header("server-timing").expect("the timing"));
    assert!(parts[2].1 + parts[3].1 > 699.0, "{parts:?}");
    let found = ignite.containers().await;
    let ports = found[0].ports.as_deref().unwrap_or_default();
    assert!(
        ports.iter().any(|p| p.private_port == 80
            && p.public_port.is_some()
            && p.ip.as_deref() == Some("127.0.0.1")),
        "{ports:?}"
    );
    let warm = app.get_ok(&ignite, "/").await;
    assert_eq!(instance(&warm), instance(&answer));
}

/// How many cold starts of each kind make one round.
const RUNS: usize = 10;
/// The bound on a cold request, relative to the time of the engine alone, measured alternately on
/// the same machine.
const SHARE: u32 = 2;

/// One round: alternates cold requests through the server and raw ones, so that other load on the
/// machine slows both alike.
async fn cold_round(ignite: &Ignite, round: usize) -> (Vec<Duration>, Vec<Duration>) {
    let docker = engine::docker().await;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let mut like = None;
    for n in 0..=RUNS {
        let app = App::deploy(ignite, &format!("acme/cold-{round}-{n}"), Value::Null).await;
        let began = tokio::time::Instant::now();
        let answer = app.get_ok(ignite, "/").await;
        let took = began.elapsed();
        assert!(is_cold(&answer));
        let like = match &like {
            Some(like) => like,
            None => {
                let running = engine::running(ignite).await;
                let copied = Like::container(&docker, &running[0]).await;
                like.insert(copied.expect("a container to copy"))
            }
        };
        let (status, answer) = app.api(ignite, Method::DELETE, "", Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let cold = like.cold_start(&docker, "/").await.expect("a cold start");
        // The first of each also pays for the network and for code that has not run yet.
        if n > 0 {
            ours.push(took);
            raw.push(cold.total());
        }
    }
    ours.sort_unstable();
    raw.sort_unstable();
    (ours, raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_request_takes_less_than_twice_as_long_as_the_engine_alone() {
    let ignite = Ignite::builder().start().await;
    let mut told = String::new();
    // A burst of load can spoil a whole round; the median of an undisturbed one counts.
    for round in 1..=3 {
        let (ours, raw) = cold_round(&ignite, round).await;
        let (ours, raw) = (ours[RUNS / 2], raw[RUNS / 2]);
        let line = format!(
            "round {round}, medians of {RUNS}: through ignite {ours:.1?}, raw {raw:.1?}, over by {:.1} ms",
            (ours.as_secs_f64() - raw.as_secs_f64()) * 1000.0
        );
        println!("{line}");
        if ours < SHARE * raw {
            return;
        }
        told = format!("{told}{line}\n");
    }
    panic!("{SHARE} times or more in every round:\n{told}");
}
