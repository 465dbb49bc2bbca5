//! What must not leak: environments, into logs and onto the disk, and text by which apps try to
//! deceive a terminal or a reader of logs.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
};

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::support::{HANGS, app::App, contract::Via, eventually, ignite::Ignite};

/// A value that is easy to find wherever it leaks.
const SECRET: &str = "hunter2-of-the-environment";

/// What an app writes to impersonate another source.
const FORGED: &str = "2026-01-01T00:00:00Z FORGED";

fn hostile() -> String {
    format!("x\r\n{FORGED} \u{1b}]0;owned\u{7}\u{9b}2J\u{202e}z")
}

/// No line of it passes for another source's, and none acts on the terminal.
fn is_harmless(text: &str, what: &str) {
    for line in text.lines() {
        assert!(!line.starts_with(FORGED), "{what}: {text}");
        assert!(
            !line.replace('\t', " ").contains(char::is_control),
            "{what}: {line:?}"
        );
        assert!(!line.contains('\u{202e}'), "{what}: {line:?}");
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Whether any file below has these bytes in it.
fn on_disk(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            on_disk(&path, needle)
        } else if !path.is_file() {
            // The socket on which the server hears of changed accounts.
            false
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            bytes.windows(needle.len()).any(|w| w == needle)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_in_no_log_at_any_level_and_on_no_disk_of_the_platform() {
    let mut ignite = Ignite::builder()
        .env(
            "IGNITE_LOG",
            "trace,hyper=trace,bollard::docker=trace,h2=trace,log=trace",
        )
        .start()
        .await;
    let settings = json!({ "env": { "PASSWORD": SECRET } });
    let app = App::deploy(&ignite, "acme/app", settings).await;
    app.get_ok(&ignite, "/").await;
    let registry = json!({
        "name": "reg",
        "value": { "registry_secret": { "username": "u", "password": SECRET } },
    });
    ignite
        .ok(Via::Grpc, "CreateSecret", &app.token, registry)
        .await;
    let id = json!({ "organization_name": "acme", "app_name": "app" });
    let seen = ignite.ok(Via::Grpc, "GetApp", &app.token, id).await;
    assert!(seen.to_string().contains(SECRET), "who owns it may see it");
    ignite.terminate(HANGS).await;
    let log = ignite.log();
    assert!(log.contains("Serving"), "{log}");
    for leaked in [SECRET, &app.token] {
        assert!(!log.contains(leaked), "{leaked} is in the log");
    }
    assert!(!on_disk(ignite.data_dir(), SECRET.as_bytes()));
    // A backup that includes the key is complete.
    let exported = ignite.cli(&["store", "export", "--data-dir", dir(&ignite)]);
    assert!(exported.status.success());
    assert!(text(&exported).contains(SECRET), "{}", text(&exported));
    ignite.start().await;
    let again = app.get_ok(&ignite, "/").await;
    assert_eq!(again.status, StatusCode::OK);
}

fn dir(ignite: &Ignite) -> &str {
    ignite.data_dir().to_str().expect("a path of text")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_moves_no_cursor_and_forges_no_line_in_what_the_command_line_shows() {
    for format in ["plain", "json"] {
        let ignite = Ignite::builder()
            .env("IGNITE_LOG_FORMAT", format)
            .start()
            .await;
        let endpoint = format!("http://{}", ignite.grpc_addr());
        let says = json!({ "env": { "PROBE_LOG": hostile() } });
        let app = App::deploy(&ignite, "acme/says", says).await;
        app.get_ok(&ignite, "/").await;
        let client = |args: &[&str]| {
            let more = ["--api-endpoint", &endpoint, "--token", &app.token];
            ignite.cli(&[args, &more].concat())
        };
        let log = eventually(HANGS, || async {
            let log = text(&client(&["app", "logs", "acme:says"]));
            log.contains("FORGED").then_some(log)
        });
        is_harmless(&log.await, "app logs");
        for output in ["json", "yaml"] {
            let log = text(&client(&["app", "logs", "acme:says", "-o", output]));
            is_harmless(&log, output);
            if output == "json" {
                let log: Value = serde_json::from_str(&log).expect("JSON still");
                let said = log["lines"].to_string();
                assert!(said.contains(r"\u001b]0;owned"), "{said}");
            }
        }
        // The last lines of a replica that ends while starting appear in errors, events and the
        // server's log.
        let ends = json!({ "env": { "PROBE_LOG": hostile(), "PROBE_EXIT_AT_START": "3" } });
        App::create(&ignite, "acme/ends", ends).await;
        let refused = client(&["draft", "publish", "acme:ends"]);
        assert!(!refused.status.success());
        let refused = text(&refused);
        assert!(refused.contains("FORGED"), "{refused}");
        is_harmless(&refused, "draft publish");
        for args in [
            &["app", "events", "acme:ends"][..],
            &["app", "events", "acme:ends", "-o", "json"],
            &["app", "state", "acme:ends"],
        ] {
            let shown = text(&client(args));
            is_harmless(&shown, &args.join(" "));
        }
        let log = ignite.log();
        assert!(log.contains("FORGED"), "{log}");
        is_harmless(&log, "the server's log");
        if format == "json" {
            for line in log.lines() {
                let event: Result<Value, _> = serde_json::from_str(line);
                assert!(event.is_ok(), "{line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_need_not_be_on_the_command_line() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let endpoint = format!("http://{}", ignite.grpc_addr());
    let list = |more: &[&str]| {
        let args = ["app", "list", "--org", "acme", "--api-endpoint", &endpoint];
        // Not where the key is, so that no token is minted for the command.
        let mut command = ignite.client(&[&args[..], more].concat());
        command.env("IGNITE_DATA_DIR", "/nowhere");
        command
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file.as_file(), "{token}").expect("written");
    let path = file.path().to_str().expect("text");
    let output = list(&["--token-file", path]).output().expect("runs");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(list(&[]).output().expect("runs").status.code(), Some(3));

    let mut command = list(&["--token", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    // While it waits, every user can see its command line.
    let seen = std::fs::read(format!("/proc/{}/cmdline", child.id())).expect("Linux");
    writeln!(stdin, "{token}").expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", text(&output));
    assert!(!String::from_utf8_lossy(&seen).contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_others_get_into_is_closed_or_refused() {
    let parent = tempfile::tempdir().expect("a directory");
    let mode = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("ours");
    };
    let data = parent.path().join("data");
    std::fs::create_dir(&data).expect("made");
    mode(&data, 0o777);
    let ignite = Ignite::builder().data_dir(&data).start().await;
    let now = std::fs::metadata(&data)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(now & 0o777, 0o700);
    drop(ignite);
    let shared = parent.path().join("shared");
    std::fs::create_dir(&shared).expect("made");
    std::fs::write(shared.join("of-others"), "x").expect("written");
    mode(&shared, 0o755);
    let refused = Ignite::builder().data_dir(&shared).start_and_fail();
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused);
    assert!(
        said.contains("mode 755") && said.contains("chmod 700"),
        "{said}"
    );
}
