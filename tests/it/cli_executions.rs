//! Executions by the command line against a real server: each from `invoke --async` to its end.

use hyper::Method;
use serde_json::{Value, json};

use crate::{
    cli::{fails, has, ok, parsed, ran, row},
    support::{HANGS, eventually_ok, ignite::Ignite, probe},
};

/// A server of organization acme with the probe as `job`.
async fn served(settings: &[&str]) -> Ignite {
    let image = probe::image().await;
    // Ids of executions name no organization; the server's own is found through `serve.json`.
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let deploy = ["app", "deploy", "job", "--image-ref", &image];
    ok(&ignite, &[&deploy[..], settings].concat());
    ignite
}

/// Submits a request and returns the execution's id.
#[track_caller]
fn submit(ignite: &Ignite, args: &[&str]) -> String {
    let out = ok(ignite, &[&["invoke", "job", "--async"], args].concat());
    let id = out.strip_suffix('\n').expect("a line");
    assert!(id.starts_with("exec_") && !id.contains('\n'), "{out}");
    id.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_lives_from_invoke_async_to_its_result() {
    let ignite = served(&[]).await;
    let keyed = ["-p", r#"{"a":1}"#, "--idempotency-key", "one"];
    let id = submit(&ignite, &keyed);
    let watched = ok(&ignite, &["execution", "watch", &id]);
    let last = watched.lines().last().expect("lines");
    assert!(
        last.contains("completed  status 200"),
        "the last change is the end: {watched}"
    );
    let echo = parsed(&ok(&ignite, &["execution", "get", &id, "--result"]));
    assert_eq!(
        (&echo["method"], &echo["body"]),
        (&json!("POST"), &json!("{\"a\":1}"))
    );
    let table = ok(&ignite, &["execution", "get", &id]);
    for (name, value) in [
        ("app", "acme/job"),
        ("status", "completed"),
        ("attempt", "1"),
        ("http status", "200"),
        ("error", "-"),
    ] {
        assert_eq!(row(&table, name), value);
    }
    assert!(table.contains("\n\n{"), "the result is below: {table}");
    let json = parsed(&ok(&ignite, &["exec", "get", &id, "-o", "json"]));
    let path = format!("/v1/ignite/executions/{id}");
    let token = ignite.token("acme");
    let (_, _, api) = ignite.api(Method::GET, &path, &token, &Value::Null).await;
    assert!(has(&json, &api), "{json} {api}");

    // The same key: the same id, whose end is reported again; another body is refused.
    assert_eq!(submit(&ignite, &keyed), id);
    let other = ["-p", "2", "--idempotency-key", "one"];
    fails(
        &ignite,
        &[&["invoke", "job", "--async"], &other[..]].concat(),
        6,
        &["IDEMPOTENCY_CONFLICT"],
    );
    let lines = ok(&ignite, &["exec", "watch", &id, "-o", "json"]);
    let only = parsed(&lines);
    assert!(has(&only["execution"], &api["execution"]), "{only} {api}");
    fails(
        &ignite,
        &["exec", "get", &id, "--org", "other"],
        5,
        &[&id, "NOT_FOUND"],
    );

    // Larger than gRPC clients accept by default, and well within the server's limit.
    let wait = ["invoke", "job", "--async", "--wait", "--path"];
    let large = ok(&ignite, &[&wait[..], &["/bytes/6000000"]].concat());
    assert_eq!(large.len(), 6_000_000);
    let chunks = "chunk 1\nchunk 2\nchunk 3\n";
    let streamed = ran(ignite.cli(&[&wait[..], &["/stream/3/1", "-i"]].concat()));
    assert_eq!(streamed.code, 0, "{}", streamed.err);
    assert!(
        streamed.out.starts_with("HTTP 200\n") && streamed.out.ends_with(chunks),
        "{}",
        streamed.out
    );
    // What the app wrote while it ran, not what it wrote before.
    for line in ["before", "during"] {
        let id = submit(&ignite, &["--path", &format!("/log/{line}")]);
        ok(&ignite, &["exec", "watch", &id]);
        // The engine records lines with a delay.
        eventually_ok(HANGS, || async {
            let log = ok(&ignite, &["exec", "logs", &id]);
            let is_it = log.lines().count() == 1 && log.trim_end().ends_with(line);
            is_it.then_some(()).ok_or(log)
        })
        .await;
    }
    let id = submit(&ignite, &["--path", "/stream/3/50"]);
    assert_eq!(ok(&ignite, &["exec", "stream", &id]), chunks);
    assert_eq!(ok(&ignite, &["exec", "stream", &id]), chunks, "after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_that_fail_say_so_and_can_be_listed_counted_and_cancelled() {
    let ignite = served(&["--timeout-secs", "3600"]).await;
    let failed = submit(&ignite, &["--path", "/status/418"]);
    let watched = ran(ignite.cli(&["exec", "watch", &failed]));
    assert_eq!(watched.code, 1, "{}", watched.out);
    assert!(
        watched.out.contains("failed     APP_ERROR") && watched.err.contains("418 (APP_ERROR)"),
        "{}{}",
        watched.out,
        watched.err
    );
    let result = ran(ignite.cli(&["exec", "get", &failed, "--result"]));
    assert_eq!(
        (result.code, result.out.trim()),
        (1, r#"{"status":418}"#),
        "{}",
        result.err
    );
    // Long enough that the cancellation comes first, however busy the machine is.
    let sleeper = ["--path", "/sleep/600000"];
    let done = submit(&ignite, &[]);
    ok(&ignite, &["exec", "watch", &done]);
    let cancelled = submit(&ignite, &sleeper);
    fails(
        &ignite,
        &["exec", "get", &cancelled, "--result"],
        1,
        &["has not ended", &cancelled],
    );
    let table = ok(&ignite, &["exec", "cancel", &cancelled]);
    assert_eq!(row(&table, "reason"), "CANCELLED");
    let twice = ["exec", "cancel", &cancelled];
    fails(&ignite, &twice, 1, &["FAILED_PRECONDITION"]);
    let watched = ran(ignite.cli(&["exec", "watch", &cancelled]));
    assert_eq!(watched.code, 1, "{}", watched.out);
    assert!(watched.err.contains("CANCELLED"), "{}", watched.err);

    let ids = |args: &[&str]| -> Vec<String> {
        let out = ok(&ignite, &[&["exec", "list"], args].concat());
        let first = |line: &str| line.split_whitespace().next().expect("an id").to_owned();
        out.lines().skip(1).map(first).collect()
    };
    let all = ids(&[]);
    assert_eq!(
        (all.len(), &all[0], &all[2]),
        (3, &cancelled, &failed),
        "the newest first"
    );
    assert_eq!(ids(&["acme:job", "--since", "1h"]), all);
    assert_eq!(ids(&["job", "--status", "completed"]), all[1..2]);
    assert_eq!(ids(&["--limit", "1"]), all[..1]);
    fails(&ignite, &["exec", "list", "nobody"], 5, &["acme/nobody"]);

    let stats = ok(&ignite, &["exec", "stats", "job", "--bucket", "1h"]);
    let total: Vec<&str> = row(&stats, "total").split_whitespace().collect();
    assert_eq!(total, ["-", "1", "2", "0"], "{stats}");
    let stats = ["exec", "stats", "job", "--since", "3h", "-o", "json"];
    let buckets = parsed(&ok(&ignite, &stats))["buckets"].clone();
    let hours = buckets.as_array().expect("buckets").len();
    assert!(hours > 3, "empty ones too: {hours}");
}
