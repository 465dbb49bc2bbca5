//! The command line against a real server: what it prints, where, and its exit codes.

use std::process::Output;

use hyper::Method;
use serde_json::{Value, json};

use crate::support::{ignite::Ignite, probe};

/// One run of the command line.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a command that must succeed and returns stdout.
#[track_caller]
pub(crate) fn ok(ignite: &Ignite, args: &[&str]) -> String {
    let ran = ran(ignite.cli(args));
    assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs a command that must fail, with this code, these words on stderr, and nothing on stdout.
#[track_caller]
pub(crate) fn fails(ignite: &Ignite, args: &[&str], code: i32, words: &[&str]) {
    let ran = ran(ignite.cli(args));
    assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
    assert_eq!(ran.out, "", "{args:?}: data only on stdout");
    for word in words {
        assert!(
            ran.err.contains(word),
            "{args:?}: no {word:?} in {}",
            ran.err
        );
    }
}

pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Whether a value has all that another one has: the command line also prints what the API leaves out,
/// zeros and empty lists.
pub(crate) fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| has(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| has(w, p))
        }
        (whole, part) => whole == part,
    }
}

/// The values of a table's rows by name.
pub(crate) fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no row {name} in\n{table}"))
        .trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_lives_from_create_to_delete_by_the_command_line_alone() {
    let image = probe::image().await;
    // Endpoint, token and organization are found through the data directory.
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let created = ok(
        &ignite,
        &[
            "app",
            "create",
            "tool",
            "--tier",
            "small",
            "--memory",
            "300",
            "--env",
            "A=b=c",
            "--description",
            "a tool",
            "--max-replicas",
            "2",
        ],
    );
    assert_eq!(row(&created, "app"), "acme/tool");
    assert_eq!(row(&created, "state"), "created");
    assert_eq!(row(&created, "limits"), "300 MB, 250 millicores");
    assert_eq!(
        row(&ok(&ignite, &["fn", "get", "acme:tool"]), "env"),
        "A=b=c"
    );

    ok(
        &ignite,
        &[
            "app",
            "update",
            "tool",
            "--clear-env",
            "--env",
            "C=d",
            "--reserved",
            "0",
        ],
    );
    let got = parsed(&ok(&ignite, &["app", "get", "tool", "-o", "json"]));
    assert_eq!(got["app"]["env"], json!({ "C": "d" }));
    assert_eq!(got["app"]["description"], "a tool");
    assert_eq!(got["app"]["scaling"]["maxReplicas"], 2);

    let saved = ok(&ignite, &["draft", "save", "tool", "--image-ref", &image]);
    assert!(saved.contains(&image), "{saved}");
    let info = ok(&ignite, &["draft", "info", "tool"]);
    assert!(info.contains(&image) && info.contains("draft"), "{info}");
    let published = ok(&ignite, &["draft", "publish", "tool"]);
    assert!(
        published.contains("tool-acme.ignite.localhost"),
        "{published}"
    );
    let state = ok(&ignite, &["app", "state", "tool"]);
    assert_eq!(row(&state, "active version"), "1");
    assert_eq!(row(&state, "state"), "running");

    let echo = parsed(&ok(&ignite, &["invoke", "tool", "-p", r#"{"a":1}"#]));
    assert_eq!(
        (&echo["method"], &echo["uri"], &echo["body"]),
        (&json!("POST"), &json!("/"), &json!("{\"a\":1}"))
    );
    assert!(
        echo["headers"].to_string().contains("application/json"),
        "{echo}"
    );
    let file = ignite.data_dir().with_extension("payload");
    std::fs::write(&file, b"\x00\xffraw").expect("written");
    let echo = parsed(&ok(
        &ignite,
        &[
            "invoke",
            "acme:tool",
            "--payload-file",
            file.to_str().expect("text"),
            "--method",
            "put",
            "--path",
            "/x?y=z",
        ],
    ));
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(
        (&echo["method"], &echo["uri"], &echo["body_bytes"]),
        (&json!("PUT"), &json!("/x?y=z"), &json!(5))
    );
    let state = parsed(&ok(&ignite, &["app", "state", "tool", "-o", "json"]));
    assert_eq!(state["runningReplicas"], 1);
    assert_eq!(state["deploymentState"], "DEPLOYMENT_STATE_RUNNING");

    let deleted = ok(&ignite, &["app", "delete", "tool", "--yes"]);
    assert_eq!(row(&deleted, "deleted"), "acme/tool");
    fails(
        &ignite,
        &["app", "get", "tool"],
        5,
        &["acme/tool", "NOT_FOUND"],
    );
    assert!(ignite.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_goes_from_an_image_to_a_url_and_prints_that_alone() {
    let image = probe::image().await;
    let ignite = Ignite::builder().start().await;
    let deploy = [
        "app",
        "deploy",
        "acme:site",
        "--image-ref",
        &image,
        "--allow-unauthenticated",
    ];
    let first = ran(ignite.cli(&deploy));
    let port = ignite.http_addr().port();
    let url = format!("http://site-acme.ignite.localhost:{port}\n");
    assert_eq!((first.code, &first.out), (0, &url), "{}", first.err);
    assert!(
        first.err.contains("Creating acme/site") && first.err.contains("version 1"),
        "{}",
        first.err
    );
    let host = url.trim().trim_start_matches("http://").to_owned();
    let answer = ignite.request(Method::GET, "/").host(&host).send().await;
    assert_eq!(answer.expect("an answer").status, 200);

    let again = [&deploy[..], &["--env", "PROBE_VERSION=two", "-o", "json"]].concat();
    let again = parsed(&ok(&ignite, &again));
    assert_eq!(
        (&again["version"]["version"], &again["publicUrls"]),
        (&json!(2), &json!([url.trim()]))
    );
    let answer = ignite
        .request(Method::GET, "/")
        .host(&host)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.header("x-probe-version"), Some("two"));
    // Flags that are left out change nothing.
    let app = parsed(&ok(&ignite, &["app", "get", "acme:site", "-o", "json"]));
    assert_eq!(app["app"]["allowUnauthenticated"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_the_apis_own_and_yaml_and_tables_say_the_same() {
    let ignite = Ignite::builder().start().await;
    for name in ["one", "two"] {
        ok(
            &ignite,
            &["app", "create", name, "--org", "acme", "--env", "K=v"],
        );
    }
    let token = ignite.token("acme");
    for (args, path) in [
        (&["app", "get", "acme:one"][..], "/v1/ignite/app/acme/one"),
        (&["app", "list", "--org", "acme"], "/v1/ignite/app/acme"),
        (
            &["app", "state", "acme:one"],
            "/v1/ignite/app/acme/one/state",
        ),
    ] {
        let json = ok(&ignite, &[args, &["-o", "json"]].concat());
        let (_, _, api) = ignite.api(Method::GET, path, &token, &Value::Null).await;
        assert!(has(&parsed(&json), &api), "{args:?}: {json} {api}");
        let yaml = ok(&ignite, &[args, &["--output", "yaml"]].concat());
        let yaml: Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
        assert!(has(&yaml, &api), "{args:?}: {yaml} {api}");
    }
    let table = ok(&ignite, &["app", "list", "--org", "acme"]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["APP", "STATE", "VERSION", "TIER", "URL"]);
    assert_eq!(lines[1], ["acme/one", "created", "-", "medium", "-"]);
    assert_eq!(lines.len(), 3, "{table}");
    let wide = ok(&ignite, &["app", "list", "--org", "acme", "-o", "wide"]);
    assert!(
        wide.starts_with("APP") && wide.contains("REPLICAS"),
        "{wide}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_follow_the_contract_and_words_go_to_stderr() {
    let image = probe::image().await;
    let ignite = Ignite::builder().start().await;
    let other = ignite.token("other");
    let grpc = ignite.grpc_addr().to_string();
    ok(&ignite, &["app", "create", "acme:app"]);
    ok(
        &ignite,
        &[
            "app",
            "create",
            "acme:broken",
            "--env",
            "PROBE_EXIT_AT_START=3",
            "--env",
            "PROBE_LOG=no database",
        ],
    );
    for (args, code, words) in [
        (&["app", "create", "acme:A"][..], 2, &["'A'"][..]),
        (
            &["app", "create", "acme:b", "--memory", "1"],
            2,
            &["limits.memory_mb", "INVALID_ARGUMENT"],
        ),
        (
            &["app", "create", "acme:b", "--tier", "huge"],
            2,
            &["huge", "small"],
        ),
        (&["app", "update", "acme:app"], 2, &["nothing to change"]),
        (&["app", "nonsense"], 2, &["nonsense"]),
        (
            &["invoke", "acme:app", "-p", "{"],
            2,
            &["not JSON", "--payload-file"],
        ),
        (
            &["--token", "garbage", "app", "get", "acme:app"],
            3,
            &["malformed", "UNAUTHENTICATED"],
        ),
        (
            &["--token", &other, "app", "get", "acme:app"],
            4,
            &["acme", "PERMISSION_DENIED"],
        ),
        (
            &["app", "get", "acme:nobody"],
            5,
            &["acme/nobody", "NOT_FOUND"],
        ),
        (
            &["invoke", "acme:app"],
            1,
            &["no published version", "NOT_PUBLISHED"],
        ),
        (
            &["app", "create", "acme:app"],
            6,
            &["acme/app", "ALREADY_EXISTS"],
        ),
        (
            &["draft", "publish", "acme:app"],
            1,
            &["no draft", "FAILED_PRECONDITION"],
        ),
        (
            &["--api-endpoint", "127.0.0.1:1", "app", "list"],
            9,
            &["not running at 127.0.0.1:1", "--api-endpoint"],
        ),
        (
            &["--api-endpoint", "ftp://x", "app", "list"],
            2,
            &["ftp://x", "http://127.0.0.1:50051"],
        ),
    ] {
        fails(&ignite, args, code, words);
    }
    // An app that does not start: unavailable, with the reason for its owner.
    ok(
        &ignite,
        &["draft", "save", "acme:broken", "--image-ref", &image],
    );
    fails(
        &ignite,
        &["draft", "publish", "acme:broken"],
        9,
        &["CONTAINER_EXITED", "exit code 3", "no database"],
    );
    ok(&ignite, &["draft", "publish", "acme:broken", "--no-wait"]);
    fails(
        &ignite,
        &["invoke", "acme:broken"],
        9,
        &["CONTAINER_EXITED", "3", "no database"],
    );
    // An app that answers with an error, and one that is too slow.
    ok(
        &ignite,
        &["app", "deploy", "acme:app", "--image-ref", &image],
    );
    let failed = ran(ignite.cli(&["invoke", "acme:app", "--path", "/status/418"]));
    assert_eq!(
        (failed.code, failed.out.trim()),
        (1, r#"{"status":418}"#),
        "{}",
        failed.err
    );
    assert!(failed.err.contains("418"), "{}", failed.err);
    fails(
        &ignite,
        &[
            "invoke",
            "acme:app",
            "--path",
            "/sleep/60000",
            "--timeout",
            "300ms",
        ],
        8,
        &["300ms"],
    );
    // An explicit token and endpoint.
    let list = ok(
        &ignite,
        &[
            "--api-endpoint",
            &grpc,
            "--token",
            &ignite.token("acme"),
            "app",
            "ls",
        ],
    );
    assert!(list.contains("acme/app"), "{list}");
}
