//! `ignite df` as a process: beside a server, without one, without an engine, and without a data
//! directory.

use std::process::Command;

use serde_json::{Value, json};

use crate::{
    builds::{bare, save},
    cli::{fails, ok, parsed, ran},
    support::{
        app::{App, ENGINE_LIMIT, write},
        code::{dockerfile, from_code, tar_gz},
        contract::Via,
        ignite::Ignite,
    },
};

const FILE: &str = "/home/ignite/note";
/// More than anything else that an app without files has.
const BYTES: usize = 1 << 20;

fn df(ignite: &Ignite) -> Value {
    parsed(&ok(ignite, &["df", "-o", "json"]))
}

/// The row of this kind and app.
#[track_caller]
fn row<'a>(usage: &'a Value, kind: &str, app: Option<&str>) -> Option<&'a Value> {
    let rows = usage["items"].as_array().expect("rows");
    let mut found = rows
        .iter()
        .filter(|row| row["kind"] == kind && row["app"] == json!(app));
    let row = found.next();
    assert!(
        found.next().is_none(),
        "one row of {kind} {app:?}: {usage:#}"
    );
    row
}

#[track_caller]
fn bytes(usage: &Value, kind: &str, app: Option<&str>) -> u64 {
    let row = row(usage, kind, app).unwrap_or_else(|| panic!("no {kind} {app:?}: {usage:#}"));
    row["bytes"].as_u64().expect("a size")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_shown_with_its_app_and_freed_by_the_command_that_is_named() {
    let mut ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .start()
        .await;
    let persistent = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let app = App::deploy(&ignite, "acme/filed", persistent).await;
    let content = "x".repeat(BYTES);
    assert_eq!(write(&ignite, &app, FILE, &content).await, Ok(()));
    let built = bare(&ignite, "built").await;
    let code = tar_gz(&[("Dockerfile", dockerfile("one").await.as_bytes())]);
    save(&ignite, Via::Json, &built, from_code(&code, json!({}))).await;
    let (_, answer) = built.publish(&ignite).await;
    assert_eq!(answer["version"]["version"], 1, "{answer}");

    let (filed, built) = (Some("acme/filed"), Some("acme/built"));
    let usage = df(&ignite);
    assert_eq!(usage["in_use"], true);
    assert_eq!(usage["engine_error"], Value::Null);
    let files = bytes(&usage, "files", filed);
    assert!(files >= BYTES as u64, "{usage:#}");
    assert!(bytes(&usage, "built_images", built) > 0);
    assert!(row(&usage, "containers", filed).is_some(), "{usage:#}");
    let table = ok(&ignite, &["df"]);
    let line = table.lines().find(|line| line.starts_with("files"));
    let line = line.unwrap_or_else(|| panic!("{table}"));
    for word in ["acme/filed", "1.0 MiB", "ignite app delete acme:filed"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    assert!(table.contains("in use by a server"), "{table}");

    // What is named frees it.
    let row_of_it = row(&usage, "containers", filed).expect("a row");
    let command = row_of_it["freed_by"].as_str().expect("a command");
    ok(&ignite, &command.split(' ').skip(1).collect::<Vec<_>>());
    ok(&ignite, &["app", "wait", "acme:filed", "--depth", "absent"]);
    let usage = df(&ignite);
    assert!(row(&usage, "containers", filed).is_none(), "{usage:#}");

    // The same without a server.
    ignite.terminate(ENGINE_LIMIT).await;
    let usage = df(&ignite);
    assert_eq!(usage["in_use"], false);
    assert_eq!(bytes(&usage, "files", filed), files);
    assert!(bytes(&usage, "built_images", built) > 0);
    // The parts and the whole are what another program finds, which counts the directory, too.
    let whole = usage["data_dir_bytes"].as_u64().expect("a size");
    let parts = usage["items"].as_array().expect("rows").iter();
    let parts = parts.filter(|row| !row["kind"].as_str().expect("a kind").ends_with("images"));
    let parts: u64 = parts.filter_map(|row| row["bytes"].as_u64()).sum();
    assert_eq!(parts, whole, "{usage:#}");
    let du = Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .arg(ignite.data_dir())
        .output()
        .expect("du is installed");
    let said = String::from_utf8_lossy(&du.stdout).into_owned();
    let other: u64 = said
        .split('\t')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!(
        (whole..=whole + (64 << 10)).contains(&other),
        "{other}: {usage:#}"
    );
    ignite.start().await;
    let delete = ["app", "delete", "acme:filed", "--yes"];
    ok(&ignite, &delete);
    assert!(row(&df(&ignite), "files", filed).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_the_data_directory_is_shown_and_without_one_nothing() {
    let ignite = Ignite::builder().start().await;
    let gone = [
        "df",
        "-o",
        "json",
        "--docker-host",
        "unix:///nonexistent/engine.sock",
    ];
    let ran = ran(ignite.cli(&gone));
    assert_eq!(ran.code, 9, "{}", ran.err);
    for word in ["are missing above", "/nonexistent/engine.sock"] {
        assert!(ran.err.contains(word), "{}", ran.err);
    }
    let usage = parsed(&ran.out);
    assert_eq!(usage["engine_bytes"], Value::Null);
    assert!(usage["engine_error"].is_string(), "{usage:#}");
    assert!(bytes(&usage, "store", None) > 0);

    let empty = tempfile::tempdir().expect("a directory");
    let empty = empty.path().to_str().expect("text");
    let file = ignite.data_dir().join("instance");
    for dir in [empty, "/nonexistent", file.to_str().expect("text")] {
        let words = ["is no data directory", "--data-dir"];
        fails(&ignite, &["df", "--data-dir", dir], 2, &words);
    }
    std::fs::write(format!("{empty}/instance"), "not an id").expect("written");
    let words = ["instance", "is damaged"];
    fails(&ignite, &["df", "--data-dir", empty], 2, &words);
    fails(
        &ignite,
        &["df", "--docker-host", "x://y"],
        64,
        &["docker_host"],
    );
}
