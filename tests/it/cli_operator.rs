//! What shows and moves apps as a whole: status, top, whoami, open, curl, exec, apply, and the removal
//! of old versions, against a real server and engine.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    cli::{fails, ok, parsed, ran, row},
    support::{HANGS, eventually, ignite::Ignite, probe},
};

/// A server with a running app `acme/web` whose environment has `A`.
async fn with_app() -> (Ignite, String) {
    let image = probe::image().await;
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    ok(
        &ignite,
        &[
            "app",
            "deploy",
            "web",
            "--image-ref",
            &image,
            "--env",
            "A=a",
        ],
    );
    (ignite, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_all_is_seen_at_a_glance() {
    let (ignite, _) = with_app().await;
    let status = ok(&ignite, &["status"]);
    assert_eq!(row(&status, "health"), "ready");
    assert_eq!(row(&status, "apps  "), "1: 1 running");
    assert_eq!(row(&status, "executions"), "0 pending, 0 running");
    let status = parsed(&ok(&ignite, &["status", "-o", "json"]));
    assert_eq!(
        (&status["healthy"], &status["ready"]["ready"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        status["apps"]["byState"],
        json!({ "DEPLOYMENT_STATE_RUNNING": 1 })
    );
    let executed = ok(&ignite, &["invoke", "web", "--async", "--wait"]);
    assert!(!executed.is_empty());
    let status = parsed(&ok(&ignite, &["status", "-o", "json"]));
    assert_eq!(
        status["executions"]["EXECUTION_STATUS_COMPLETED"]["count"],
        1
    );

    let top = ok(&ignite, &["top"]);
    let lines: Vec<Vec<&str>> = top
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1][..4], ["acme/web", "running", "1", "1/1"], "{top}");
    assert_eq!(lines[2][1], "ready", "{top}");
    let top = parsed(&ok(&ignite, &["top", "web", "-o", "json"]));
    assert_eq!(top["apps"][0]["state"]["held"], 0);
    assert_eq!(top["apps"][0]["replicas"]["replicas"][0]["state"], "ready");

    let me = ok(&ignite, &["whoami"]);
    assert_eq!(
        (row(&me, "organization"), row(&me, "taken by the server")),
        ("acme", "yes")
    );
    let scoped = ok(
        &ignite,
        &["token", "create", "--org", "acme", "--scope", "InvokeApp"],
    );
    let me = ok(&ignite, &["--token", scoped.trim(), "whoami"]);
    assert!(
        row(&me, "taken by the server").contains("does not open the list"),
        "{me}"
    );
    fails_after_output(&ignite, &["--token", "a.b.c", "whoami"], 3);

    let start = ok(&ignite, &[]);
    assert!(
        start.contains("answers") && start.contains("ignite app deploy"),
        "{start}"
    );
}

/// Runs a command that prints something and fails all the same.
#[track_caller]
fn fails_after_output(ignite: &Ignite, args: &[&str], code: i32) {
    let ran = ran(ignite.cli(args));
    assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
    assert!(!ran.out.is_empty() && !ran.err.is_empty(), "{args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_works_is_opened_and_curl_gets_the_token_by_a_pipe() {
    let (ignite, _) = with_app().await;
    let url = ok(&ignite, &["open", "web", "/x?y=z", "--print"]);
    let by_path = format!("{}/_app/acme/web/x?y=z\n", ignite.http_url());
    let port = ignite.http_addr().port();
    let by_host = format!("http://web-acme.ignite.localhost:{port}/x?y=z\n");
    assert!([by_path, by_host].contains(&url), "{url}");

    let seen = parsed(&ok(
        &ignite,
        &["curl", "web", "/x?y=z", "-sS", "-X", "PUT", "-d", "body"],
    ));
    assert_eq!(
        (&seen["method"], &seen["uri"], &seen["body"]),
        (&json!("PUT"), &json!("/x?y=z"), &json!("body"))
    );
    // The app sees its own host, whether it resolves here or not.
    let host = seen["headers"].to_string();
    assert!(host.contains("web-acme.ignite.localhost"), "{host}");

    // While it waits, the token stands in no argument of the process that became curl.
    let mut client = ignite.client(&["curl", "web", "/x", "-sS", "-X", "POST", "-T", "-"]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = client.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    let pid = child.id();
    let is_curl = || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "curl")
    };
    eventually(HANGS, || async { is_curl().then_some(()) }).await;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("arguments");
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(
        line.contains("/dev/fd/") && !line.contains("eyJ") && !line.contains("Bearer"),
        "{line}"
    );
    stdin.write_all(b"sent").expect("written");
    drop(stdin);
    let mut out = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut out).expect("an answer");
    assert!(child.wait().expect("it ends").success());
    assert!(out.contains("sent"), "{out}");

    ok(&ignite, &["app", "create", "empty"]);
    fails(
        &ignite,
        &["open", "empty"],
        2,
        &["not published", "ignite app deploy"],
    );
    fails(&ignite, &["curl", "empty"], 2, &["not published"]);
    fails(&ignite, &["open", "none"], 5, &["acme/none"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_replica_with_its_own_exit_code() {
    let (ignite, _) = with_app().await;
    let dialled = ok(
        &ignite,
        &["exec", "web", "--", "/probe", "dial", "127.0.0.1:80"],
    );
    assert_eq!(dialled, "dial 127.0.0.1:80 connected\n");
    let failed = ran(ignite.cli(&["app", "exec", "acme:web", "--", "/probe", "dial", "x"]));
    assert_eq!(
        (failed.code, failed.err.as_str()),
        (64, ""),
        "{}",
        failed.out
    );
    fails(
        &ignite,
        &["exec", "web", "--replica", "none", "--", "x"],
        2,
        &["no replica none", "app replicas"],
    );
    fails(
        &ignite,
        &["exec", "web", "-t", "--", "x"],
        2,
        &["--tty", "terminal"],
    );
    let missing = ran(ignite.cli(&["exec", "web", "--", "/nothing"]));
    assert!(missing.code != 0 && format!("{}{}", missing.out, missing.err).contains("/nothing"));

    ok(&ignite, &["app", "idle", "web", "--depth", "absent"]);
    fails(
        &ignite,
        &["exec", "web", "--", "x"],
        9,
        &["no ready replica", "app scale"],
    );
    let elsewhere = ["--api-endpoint", "192.0.2.1:1", "exec", "web", "--", "x"];
    fails(&ignite, &elsewhere, 2, &["another machine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_apps_is_applied_once_and_changes_nothing_the_second_time() {
    let (ignite, image) = with_app().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("apps.toml");
    let name = file.to_str().expect("text");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write(&format!(
        "[apps.web]\nimage-ref = {image:?}\nmax-replicas = 2\nenv = {{ B = \"secret-value\" }}\n\
         [apps.new]\nimage-ref = {image:?}\nhost = [\"new.example\"]\nallow_unauthenticated = true\n"
    ));
    let plan = parsed(&ok(
        &ignite,
        &["apply", "-f", name, "--dry-run", "--prune", "-o", "json"],
    ));
    let of = |answer: &Value| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let apps = answer["apps"].as_array().expect("a list").iter();
        apps.map(|a| (text(&a["app"]), text(&a["action"])))
            .collect()
    };
    let pair = |app: &str, action: &str| (app.to_owned(), action.to_owned());
    assert_eq!(
        of(&plan),
        [pair("acme/new", "create"), pair("acme/web", "update")]
    );
    assert!(!plan.to_string().contains("secret-value"), "{plan}");
    fails(&ignite, &["app", "get", "new"], 5, &["acme/new"]);

    ok(&ignite, &["app", "create", "old"]);
    fails(
        &ignite,
        &["apply", "-f", name, "--prune"],
        2,
        &["acme/old", "--yes"],
    );
    ok(&ignite, &["apply", "-f", name, "--prune", "--yes"]);
    fails(&ignite, &["app", "get", "old"], 5, &["acme/old"]);
    let web = parsed(&ok(&ignite, &["app", "get", "web", "-o", "json"]));
    assert_eq!(web["app"]["env"], json!({ "B": "secret-value" }));
    assert_eq!(web["app"]["scaling"]["maxReplicas"], 2);
    let answer = ignite
        .request(Method::GET, "/")
        .host("new.example")
        .send()
        .await;
    assert_eq!(answer.expect("an answer").status, 200);

    let again = parsed(&ok(
        &ignite,
        &["apply", "-f", name, "--prune", "-o", "json"],
    ));
    assert_eq!(
        of(&again),
        [pair("acme/new", "unchanged"), pair("acme/web", "unchanged")],
        "{again}"
    );
    assert_eq!(ok(&ignite, &["version", "list", "new"]).lines().count(), 2);
    ok(&ignite, &["apply", "-f", name, "--republish"]);
    assert_eq!(ok(&ignite, &["version", "list", "new"]).lines().count(), 3);

    // Nothing is done when one of the apps is wrong.
    write(&format!(
        "[apps.more]\nimage-ref = {image:?}\n[apps.web]\ncode = \"missing\"\n"
    ));
    fails(&ignite, &["apply", "-f", name], 2, &["missing"]);
    fails(&ignite, &["app", "get", "more"], 5, &["acme/more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_go_and_the_active_one_stays_also_after_a_crash() {
    let (mut ignite, image) = with_app().await;
    for _ in 0..3 {
        ok(&ignite, &["app", "deploy", "web", "--image-ref", &image]);
    }
    ok(&ignite, &["version", "rollback", "web", "2"]);
    let numbers = |ignite: &Ignite| -> Vec<i64> {
        let all = parsed(&ok(ignite, &["version", "list", "web", "-o", "json"]));
        let all = all["versions"].as_array().expect("a list").clone();
        all.iter().filter_map(|v| v["version"].as_i64()).collect()
    };
    assert_eq!(numbers(&ignite), [4, 3, 2, 1]);
    let would = ok(
        &ignite,
        &["version", "prune", "web", "--keep", "1", "--dry-run"],
    );
    assert_eq!(row(&would, "would be removed"), "1, 3");
    assert_eq!(numbers(&ignite), [4, 3, 2, 1]);
    let done = parsed(&ok(
        &ignite,
        &["version", "prune", "web", "--keep", "1", "-o", "json"],
    ));
    assert_eq!(
        (&done["removed"], &done["kept"]),
        (&json!([1, 3]), &json!(2))
    );
    let again = parsed(&ok(
        &ignite,
        &["version", "prune", "web", "--keep", "1", "-o", "json"],
    ));
    assert_eq!((&again["removed"], &again["kept"]), (&json!([]), &json!(2)));
    ignite.kill9();
    ignite.start().await;
    assert_eq!(numbers(&ignite), [4, 2]);
    ok(&ignite, &["invoke", "web"]);
    fails(&ignite, &["version", "rollback", "web", "3"], 5, &["3"]);
    ok(&ignite, &["app", "deploy", "web", "--image-ref", &image]);
    assert_eq!(numbers(&ignite), [5, 4, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_added_and_taken_out_and_a_failed_first_deploy_leaves_nothing() {
    let (ignite, _) = with_app().await;
    let env = |ignite: &Ignite| {
        let got = parsed(&ok(ignite, &["app", "get", "web", "-o", "json"]));
        got["app"]["env"].clone()
    };
    ok(&ignite, &["app", "update", "web", "--env", "B=b"]);
    assert_eq!(env(&ignite), json!({ "A": "a", "B": "b" }));
    ok(&ignite, &["app", "update", "web", "--unset-env", "A"]);
    assert_eq!(env(&ignite), json!({ "B": "b" }));
    ok(&ignite, &["app", "update", "web", "--clear-env"]);
    assert_eq!(env(&ignite), json!({}));
    ok(&ignite, &["app", "update", "web", "--unset-env", "NONE"]);

    let failed = ran(ignite.cli(&["app", "deploy", "fresh", "--image-ref", "nowhere/none:1"]));
    assert_ne!(failed.code, 0);
    assert!(failed.err.contains("removed again"), "{}", failed.err);
    fails(&ignite, &["app", "get", "fresh"], 5, &["acme/fresh"]);
    // One that was there before stays.
    ok(&ignite, &["app", "create", "kept"]);
    assert_ne!(
        ran(ignite.cli(&["app", "deploy", "kept", "--image-ref", "nowhere/none:1"])).code,
        0
    );
    ok(&ignite, &["app", "get", "kept"]);

    let capped = ran(ignite.cli(&["app", "update", "web", "--scaledown-period-secs", "1"]));
    assert!(capped.err.contains("min_scaledown_secs"), "{}", capped.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_goes_on_after_the_server_was_started_again() {
    let (mut ignite, _) = with_app().await;
    ok(&ignite, &["invoke", "web", "--path", "/log/first"]);
    let mut client = ignite.client(&["app", "logs", "web", "-f"]);
    client.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut until = |word: &str| {
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(word)));
        assert!(found.is_some(), "no {word}");
    };
    until("first");
    ignite.kill9();
    ignite.start().await;
    ok(&ignite, &["invoke", "web", "--path", "/log/second"]);
    until("second");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("signalled");
    child.wait().expect("it ends");
}
