//! `/metrics`: what happened is counted, in both formats, for those who may see it.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    contract::Via,
    eventually_ok, http,
    ignite::{Builder, Ignite},
};

fn with_listener() -> Builder {
    Ignite::builder().env("IGNITE_METRICS_ADDR", "127.0.0.1:0")
}

/// The value of every sample, by its name and labels as they stand in the text.
async fn samples(ignite: &Ignite) -> BTreeMap<String, f64> {
    let addr = ignite.ready().metrics.expect("a listener");
    let request = http::request(addr, Method::GET, "/metrics");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    let kind = answer.header("content-type").map(str::to_owned);
    assert!(kind.is_some_and(|k| k.starts_with("text/plain; version=0.0.4")));
    parsed(&answer.text().await)
}

fn parsed(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_owned(), value.parse().expect("a number"))
    };
    samples.map(sample).collect()
}

/// Waits for samples, given as they stand in the text.
async fn wait_for(ignite: &Ignite, wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    eventually_ok(ENGINE_LIMIT, || async {
        let all = samples(ignite).await;
        let wrong = wanted.iter().find(|(name, n)| all.get(*name) != Some(n));
        match wrong {
            None => Ok(all),
            Some((name, n)) => Err(format!("{name} is {:?}, not {n}", all.get(*name))),
        }
    })
    .await
}

#[tokio::test]
async fn what_happened_is_counted_and_what_is_is_shown() {
    let ignite = with_listener().start().await;
    let app = App::deploy(&ignite, "acme/web", json!({})).await;
    app.get_ok(&ignite, "/").await;
    let missing = app.get(&ignite, "/status/404").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let called = json!({"organization_name": "acme", "app_name": "web", "http": {"path": "/"}});
    ignite
        .ok(Via::Grpc, "InvokeAsync", &app.token, called)
        .await;
    let all = wait_for(
        &ignite,
        &[
            (
                r#"ignite_requests_total{org="acme",app="web",surface="url",code="2xx"}"#,
                1.0,
            ),
            (
                r#"ignite_requests_total{org="acme",app="web",surface="url",code="4xx"}"#,
                1.0,
            ),
            (
                r#"ignite_request_duration_seconds_count{org="acme",app="web",surface="url"}"#,
                2.0,
            ),
            (r#"ignite_wake_duration_seconds_count{depth="absent"}"#, 1.0),
            (
                r#"ignite_start_phase_duration_seconds_count{phase="create"}"#,
                1.0,
            ),
            (
                r#"ignite_replicas{org="acme",app="web",state="ready"}"#,
                1.0,
            ),
            (r#"ignite_requests_in_flight{org="acme",app="web"}"#, 0.0),
            (r#"ignite_events_total{kind="REPLICA_READY"}"#, 1.0),
            ("ignite_executions_accepted_total", 1.0),
            (r#"ignite_executions_ended_total{status="completed"}"#, 1.0),
            (r#"ignite_execution_attempts_total{outcome="ended"}"#, 1.0),
            ("ignite_apps", 1.0),
            ("ignite_engine_up", 1.0),
            ("ignite_store_writable", 1.0),
        ],
    )
    .await;
    // The first request was held for the start; how many others were is chance.
    for at_least_one in [
        "ignite_hold_duration_seconds_count",
        "ignite_journal_append_duration_seconds_count",
        r#"ignite_engine_calls_total{call="start the container",outcome="ok"}"#,
        "ignite_memory_reserved_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(
            all.get(at_least_one).is_some_and(|n| *n >= 1.0),
            "{at_least_one}: {all:#?}"
        );
    }
    let wake = all["ignite_wake_duration_seconds_sum{depth=\"absent\"}"];
    assert!(wake > 0.0, "{wake}");
}

#[tokio::test]
async fn an_organization_sees_its_apps_and_nothing_of_others_or_the_machine() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/web", json!({})).await;
    app.get_ok(&ignite, "/").await;
    let ask = |token: &str| {
        let request = ignite.request(Method::GET, "/metrics");
        let open = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let request = request.header("accept", open);
        let request = if token.is_empty() {
            request
        } else {
            request.token(token)
        };
        async { request.send().await.expect("an answer") }
    };
    let nobody = ask("").await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    let own = ask(&app.token).await;
    assert_eq!(own.status, StatusCode::OK);
    assert!(
        own.header("content-type")
            .is_some_and(|k| k.starts_with("application/openmetrics-text"))
    );
    let own = own.text().await;
    assert!(own.ends_with("# EOF\n"), "{own}");
    assert!(
        own.contains(r#"ignite_replicas{org="acme",app="web",state="ready"} 1"#),
        "{own}"
    );
    for of_the_machine in [
        "process_",
        "ignite_engine",
        "ignite_memory",
        "ignite_disk",
        "ignite_wake",
    ] {
        assert!(!own.contains(of_the_machine), "{own}");
    }
    let others = ask(&ignite.token("umbrella")).await.text().await;
    assert!(!others.contains("acme"), "{others}");
    assert!(others.contains("ignite_apps 0"), "{others}");
}

#[tokio::test]
async fn apps_beyond_the_bound_share_one_name() {
    let ignite = with_listener()
        .env("IGNITE_METRICS_APPS_MAX", "1")
        .start()
        .await;
    let first = App::deploy(&ignite, "acme/first", json!({})).await;
    let second = App::deploy(&ignite, "acme/second", json!({})).await;
    for app in [&first, &second] {
        app.get_ok(&ignite, "/").await;
    }
    let all = wait_for(
        &ignite,
        &[
            (
                r#"ignite_requests_total{org="acme",app="first",surface="url",code="2xx"}"#,
                1.0,
            ),
            (
                r#"ignite_requests_total{org="_other",app="_other",surface="url",code="2xx"}"#,
                1.0,
            ),
            (
                r#"ignite_replicas{org="_other",app="_other",state="ready"}"#,
                1.0,
            ),
            ("ignite_apps", 2.0),
        ],
    )
    .await;
    assert!(
        !all.keys().any(|name| name.contains(r#"app="second""#)),
        "{all:#?}"
    );
    // The name of a deleted app is free for another one.
    let (status, answer) = first.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let third = App::deploy(&ignite, "acme/third", json!({})).await;
    third.get_ok(&ignite, "/").await;
    let of_third = r#"ignite_requests_total{org="acme",app="third",surface="url",code="2xx"}"#;
    wait_for(&ignite, &[(of_third, 1.0)]).await;
}

#[tokio::test]
async fn the_listener_has_metrics_alone() {
    let ignite = with_listener().start().await;
    let addr = ignite.ready().metrics.expect("a listener");
    let at = |method, path| http::request(addr, method, path).send();
    let other = at(Method::GET, "/v1/ignite/app/acme")
        .await
        .expect("an answer");
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    let posted = at(Method::POST, "/metrics").await.expect("an answer");
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
}
