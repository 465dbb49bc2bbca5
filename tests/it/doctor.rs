//! `ignite doctor` as a process: against the engine, without one, and without a port.

use std::{net::TcpListener, process::Output};

use serde_json::Value;

use crate::support::ignite::Ignite;

/// Runs it for a server's data directory with free ports, and returns its output as JSON.
fn examined(ignite: &Ignite, more: &[&str]) -> (Output, Value) {
    let mut args = vec!["doctor", "-o", "json"];
    args.extend([
        "--set",
        "http_addr=127.0.0.1:0",
        "--set",
        "grpc_addr=127.0.0.1:0",
    ]);
    args.extend(more);
    let output = ignite.cli(&args);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, json)
}

fn checks<'a>(json: &'a Value, name: &str) -> Vec<&'a Value> {
    let all = json["checks"].as_array().expect("a list").iter();
    all.filter(|check| check["name"] == name).collect()
}

#[tokio::test]
async fn a_healthy_machine_is_said_to_be_and_each_warning_has_its_remedy() {
    let ignite = Ignite::builder().start().await;
    let (output, json) = examined(&ignite, &[]);
    assert!(output.status.success(), "{json:#}");
    assert_eq!(json["healthy"], true);
    for name in [
        "engine", "api", "cgroups", "limits", "swap", "freezer", "init", "clock", "ports",
        "data_dir", "disk", "names",
    ] {
        assert!(!checks(&json, name).is_empty(), "{name} in {json:#}");
    }
    for check in json["checks"].as_array().expect("a list") {
        let has_remedy = check["remedy"] != "";
        assert_eq!(has_remedy, check["outcome"] != "ok", "{check:#}");
    }
    let found = checks(&json, "data_dir")[0]["found"].to_string();
    assert!(found.contains("in use by a server"), "{found}");
    // The same for people.
    let plain = ignite.cli(&[
        "doctor",
        "--set",
        "http_addr=127.0.0.1:0",
        "--set",
        "grpc_addr=127.0.0.1:0",
    ]);
    let text = String::from_utf8(plain.stdout).expect("text");
    assert!(
        text.lines().any(|line| line.starts_with("ok    engine")),
        "{text}"
    );
}

#[tokio::test]
async fn an_absent_engine_and_a_taken_port_fail_with_what_to_do() {
    let ignite = Ignite::builder().start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = format!("http_addr={}", taken.local_addr().expect("bound"));
    let gone = [
        "--docker-host",
        "unix:///nonexistent/engine.sock",
        "--set",
        &addr,
    ];
    let (output, json) = examined(&ignite, &gone);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json["healthy"], false);
    let engine = checks(&json, "engine")[0];
    assert_eq!(engine["outcome"], "fail");
    assert!(
        engine["found"].to_string().contains("DOCKER_HOST"),
        "{engine:#}"
    );
    assert!(
        checks(&json, "limits").is_empty(),
        "nothing is known of them"
    );
    let failed: Vec<_> = checks(&json, "ports")
        .into_iter()
        .filter(|check| check["outcome"] == "fail")
        .collect();
    assert_eq!(failed.len(), 1, "{json:#}");
    assert!(failed[0]["remedy"].to_string().contains("ss -ltnp"));
}
