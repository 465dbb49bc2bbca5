//! The command line as a user runs it: the real binary against a scripted server.
//!
//! These tests cover what the client sends, prints and exits with, not the server.

mod commands;
mod contexts;
mod descriptors;
mod executions;
mod fake;
mod login;
mod store;
mod vitals;
mod wrong_inputs;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use fake::Fake;

/// The binary with only a home in its environment.
fn ignite(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ignite"));
    command
        .env_clear()
        .env("HOME", home)
        .args(args)
        .stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(mut command: Command) -> Ran {
    let output = command.output().expect("the binary runs");
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A home with a server's `serve.json` and signing key in it, as on the machine that serves.
fn served(fake: &Fake) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join(".local/share/ignite");
    ignite::identity::SigningKey::open_or_create(&data).expect("a key");
    let serving = ignite::config::Serving {
        http: "http://127.0.0.1:1".to_owned(),
        grpc: fake.url(),
        pid: 1,
        default_org: "local".to_owned(),
        plain: None,
        tls: None,
        engine: None,
    };
    serving.write(&data).expect("written");
    home
}

#[test]
fn deploy_creates_or_updates_saves_publishes_and_prints_the_url_alone() {
    let fake = Fake::start();
    let home = served(&fake);
    let new = run(ignite(
        home.path(),
        &[
            "app",
            "deploy",
            "new",
            "--image-ref",
            "probe:1",
            "--max-replicas",
            "2",
        ],
    ));
    assert_eq!(
        (new.code, new.out.as_str()),
        (Some(0), "http://new-local.ignite.localhost:8080\n"),
        "{}",
        new.err
    );
    assert!(
        new.err.contains("Creating local/new")
            && new.err.contains("probe:1")
            && new.err.contains("version 1")
    );
    assert_eq!(
        fake.calls(),
        [
            "GetApp local/new",
            "CreateApp local/new",
            "SaveDraft local/new",
            "PublishDraft local/new"
        ]
    );

    let again = run(ignite(
        home.path(),
        &[
            "app",
            "deploy",
            "local:there",
            "--image-ref",
            "probe:2",
            "--env",
            "A=b",
            "-o",
            "json",
        ],
    ));
    assert_eq!(again.code, Some(0), "{}", again.err);
    let json: serde_json::Value = serde_json::from_str(&again.out).expect("JSON");
    assert_eq!(json["version"]["version"], 1);
    assert_eq!(
        fake.calls(),
        [
            "GetApp local/there",
            "UpdateAppConfig local/there",
            "SaveDraft local/there",
            "PublishDraft local/there"
        ]
    );

    let same = run(ignite(
        home.path(),
        &["app", "deploy", "there", "--image-ref", "probe:2"],
    ));
    assert_eq!(same.code, Some(0), "{}", same.err);
    assert_eq!(
        fake.calls(),
        [
            "GetApp local/there",
            "SaveDraft local/there",
            "PublishDraft local/there"
        ]
    );
}

#[test]
fn answers_are_the_apis_json_or_a_table() {
    let fake = Fake::start();
    let home = served(&fake);
    let json = run(ignite(home.path(), &["app", "get", "there", "-o", "json"]));
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    let app = &value["app"];
    assert_eq!(app["id"], "local/there");
    assert_eq!(app["deploymentState"], "DEPLOYMENT_STATE_RUNNING");
    assert_eq!(
        (&app["activeVersion"], &app["updatedAtMs"]),
        (&3.into(), &"1700000000000".into())
    );
    // Zeros and empty lists are there.
    assert_eq!(
        (&app["maxConcurrency"], &app["ports"]),
        (&0.into(), &serde_json::json!([]))
    );
    let yaml = run(ignite(home.path(), &["app", "get", "there", "-o", "yaml"]));
    assert!(
        yaml.out
            .contains("deploymentState: DEPLOYMENT_STATE_RUNNING\n"),
        "{}",
        yaml.out
    );
    // Two pages; a table has a header line and one line per app.
    let table = run(ignite(home.path(), &["app", "list"]));
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", table.out);
    assert!(
        lines[0].starts_with("APP")
            && lines[1].starts_with("local/a")
            && lines[3].starts_with("local/c"),
        "{}",
        table.out
    );
    let limited = run(ignite(
        home.path(),
        &["app", "list", "--limit", "2", "-o", "wide"],
    ));
    assert_eq!(limited.out.lines().count(), 3, "{}", limited.out);
}

#[test]
fn exit_codes_and_messages_say_what_went_wrong() {
    let fake = Fake::start();
    let home = served(&fake);
    let fails = |args: &[&str], code: i32, text: &str| {
        let ran = run(ignite(home.path(), args));
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(text), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    };
    fails(
        &["app", "get", "missing"],
        5,
        "error: there is no app local/missing (NOT_FOUND)",
    );
    fails(&["app", "get", "other:there"], 4, "not yours");
    fails(
        &["app", "get", "slow", "--timeout", "50ms"],
        8,
        "no answer within 50ms",
    );
    fails(&["app", "get", "A"], 2, "'A'");
    fails(
        &["--api-endpoint", "127.0.0.1:1", "app", "list"],
        9,
        "`ignite serve` is not running at 127.0.0.1:1",
    );
    // There is no terminal to ask on, so nothing is asked.
    let deleted = run(ignite(home.path(), &["app", "delete", "there"]));
    assert_eq!(deleted.code, Some(0), "{}", deleted.err);

    // Elsewhere there is neither key nor token, and the client says so.
    let bare = tempfile::tempdir().expect("a directory");
    let unknown = run(ignite(
        bare.path(),
        &["--api-endpoint", &fake.url(), "app", "get", "there"],
    ));
    assert_eq!(unknown.code, Some(3));
    assert!(
        unknown.err.contains("no token was given"),
        "{}",
        unknown.err
    );
    let mut given = ignite(
        bare.path(),
        &["--api-endpoint", &fake.url(), "app", "get", "there"],
    );
    given.env("IGNITE_TOKEN", "t");
    assert_eq!(run(given).code, Some(0));
}

#[test]
fn invoke_prints_the_body_as_it_comes_and_tells_a_cut_answer() {
    let fake = Fake::start();
    let home = served(&fake);
    let ok = run(ignite(
        home.path(),
        &[
            "invoke",
            "there",
            "-p",
            "{\"a\":1}",
            "--path",
            "/ok?x=y",
            "-X",
            "PUT",
            "-H",
            "X-A: b",
        ],
    ));
    assert_eq!(
        (ok.code, ok.out.as_str()),
        (Some(0), "onetwo"),
        "{}",
        ok.err
    );
    assert_eq!(
        fake.calls(),
        [
            "Invoke local/there PUT /ok?x=y {\"content-type\": \"application/json\", \"x-a\": \"b\"} {\"a\":1}"
        ]
    );

    let head = run(ignite(
        home.path(),
        &["invoke", "there", "--path", "/ok", "--include"],
    ));
    assert!(
        head.out.starts_with("HTTP 200\ncontent-type: text/plain\n")
            && head.out.ends_with("\n\nonetwo"),
        "{}",
        head.out
    );
    let json = run(ignite(
        home.path(),
        &["invoke", "there", "--path", "/ok", "-o", "json"],
    ));
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(
        (&value["head"]["statusCode"], &value["body"]),
        (&200.into(), &"b25ldHdv".into())
    );
    assert_eq!(value["trailer"]["totalBodyBytes"], "6");

    let failed = run(ignite(home.path(), &["invoke", "there", "--path", "/500"]));
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), "onetwo"));
    assert!(failed.err.contains("status 500"));
    let cut = run(ignite(home.path(), &["invoke", "there", "--path", "/cut"]));
    assert_eq!(
        (cut.code, cut.out.as_str()),
        (Some(9), "one"),
        "chunks that came are kept"
    );
    assert!(cut.err.contains("the app broke off"), "{}", cut.err);
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let fake = Fake::start();
    let home = served(&fake);
    for args in [
        &["app", "list"][..],
        &["invoke", "there", "--path", "/ok"],
        &["execution", "stream", fake::executions::STREAMING],
        &["serve", "--dump-config"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = ignite(home.path(), args);
        command.stdout(writer);
        let ran = run_with_stderr(command);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    }
}

fn run_with_stderr(mut command: Command) -> Ran {
    let child = command
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let output = child.wait_with_output().expect("the binary ends");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran {
        code: output.status.code(),
        out: String::new(),
        err,
    }
}

#[test]
fn a_bad_configuration_is_64_and_a_token_is_all_of_stdout() {
    let home = tempfile::tempdir().expect("a directory");
    let bad = run(ignite(
        home.path(),
        &["serve", "--http-addr", "x", "--set", "pids_limit=-1"],
    ));
    assert_eq!(bad.code, Some(64));
    assert!(
        bad.err.contains("--http-addr") && bad.err.contains("pids_limit"),
        "{}",
        bad.err
    );
    let open = ["serve", "--http-addr", "0.0.0.0:0"];
    let open = run(ignite(home.path(), &open));
    assert_eq!(open.code, Some(64));
    for remedy in ["--tls-cert", "--tls local", "--insecure-http"] {
        assert!(open.err.contains(remedy), "{}", open.err);
    }
    let data = home.path().join("data");
    let data_dir = data.to_str().expect("text");
    let nowhere = run(ignite(
        home.path(),
        &[
            "serve",
            "--docker-host",
            "ssh://x",
            "--data-dir",
            data_dir,
            "--http-addr",
            "127.0.0.1:0",
            "--grpc-addr",
            "127.0.0.1:0",
        ],
    ));
    assert_eq!(nowhere.code, Some(64), "{}", nowhere.err);
    assert!(nowhere.err.contains("docker_host"), "{}", nowhere.err);
    assert!(!data.exists(), "nothing is touched before");

    let data = home.path().join("data");
    let dir = data.to_str().expect("UTF-8");
    let token = run(ignite(
        home.path(),
        &[
            "token",
            "create",
            "--org",
            "acme",
            "--ttl",
            "1h",
            "--data-dir",
            dir,
        ],
    ));
    assert_eq!(token.code, Some(0), "{}", token.err);
    let keys = ignite::identity::SigningKey::open(&data).expect("made");
    let verifier = keys.verifier(ignite::identity::system_clock());
    let caller = verifier
        .verify(token.out.strip_suffix('\n').expect("one line"), || {
            std::net::Ipv4Addr::LOCALHOST.into()
        })
        .expect("verifies");
    assert!(caller.owns(&"acme".parse().expect("a name")));
}

#[test]
fn a_token_to_keep_comes_from_stdin_and_one_on_the_command_line_is_warned_of() {
    use std::io::Write as _;

    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("config.yaml");
    let name = file.to_str().expect("text");
    let set = |value: &str, sent: &str| {
        let mut command = ignite(
            home.path(),
            &["config", "set", "token", value, "--config", name],
        );
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(sent.as_bytes()).expect("written");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let kept = || std::fs::read_to_string(&file).unwrap_or_default();
    let (code, said) = set("-", "a.b.c\nmore\n");
    assert_eq!((code, said.contains("history")), (Some(0), false), "{said}");
    assert!(kept().contains("a.b.c") && !kept().contains("more"));
    let (code, said) = set("-", "\n");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("stdin") && kept().contains("a.b.c"), "{said}");
    let (code, said) = set("d.e.f", "");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("history") && kept().contains("d.e.f"),
        "{said}"
    );
    let (code, said) = set("", "");
    assert_eq!((code, said.contains("history")), (Some(0), false), "{said}");
    assert!(!kept().contains("d.e.f"));
}
