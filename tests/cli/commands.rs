//! Every command as a process: what it says to an option that it does not have, and when no server
//! answers. The list of commands is the program's own, so that a new one without a row fails.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Ran, ignite, run};

const EXECUTION: &str = "exec_01J9ZQ4Z6WQX8V5T2R7K3M1N0P";

/// A command by its words, and further words with which it is valid.
type Row = (&'static str, &'static str);

/// Commands that call a server.
const REMOTE: &[Row] = &[
    ("status", ""),
    ("top", "--once"),
    ("whoami", ""),
    ("open", "a"),
    ("curl", "a"),
    ("apply", "-f FILE"),
    ("app create", "a"),
    ("app get", "a"),
    ("app list", ""),
    ("app update", "a --tier small"),
    ("app delete", "a --yes"),
    ("app state", "a"),
    ("app logs", "a"),
    ("app replicas", "a"),
    ("app events", "a"),
    ("app scale", "a 1"),
    ("app idle", "a"),
    ("app wait", "a"),
    ("app host add", "a shop.example.com"),
    ("app host list", "a"),
    ("app host remove", "a shop.example.com"),
    ("app deploy", "a --image-ref r"),
    ("draft save", "a --image-ref r"),
    ("draft info", "a"),
    ("draft compile", "a"),
    ("draft compile-logs", "a"),
    ("draft cancel", "a"),
    ("draft test", "a"),
    ("draft publish", "a"),
    ("version list", "a"),
    ("version get", "a 1"),
    ("version rollback", "a 1"),
    ("version test", "a 1"),
    ("version prune", "a --keep 1"),
    ("version code", "a"),
    ("invoke", "a"),
    ("execution get", EXECUTION),
    ("execution list", ""),
    ("execution watch", EXECUTION),
    ("execution stream", EXECUTION),
    ("execution logs", EXECUTION),
    ("execution cancel", EXECUTION),
    ("execution stats", "a"),
    ("secret create", "s --password p"),
    ("secret get", "s"),
    ("secret list", ""),
    ("secret delete", "s"),
];

/// Commands that need none, or start one; `app exec` and `dev` have tests of their own.
const LOCAL: &[&str] = &[
    "serve",
    "token create",
    "token keys",
    "token rotate-key",
    "token revoke-key",
    "service-account create",
    "service-account list",
    "service-account rotate",
    "service-account delete",
    "service-account grant-role",
    "service-account revoke-role",
    "audit",
    "ca trust",
    "ca print",
    "ca path",
    "ready",
    "prune",
    "doctor",
    "df",
    "docs",
    "store check",
    "store compact",
    "store repair",
    "store export",
    "config set",
    "config view",
    "context list",
    "context use",
    "context add",
    "context remove",
    "completion",
    "man",
    "login",
    "app exec",
    "init",
    "dev",
];

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn every_command_is_in_the_tables_and_has_a_manual_page() {
    let home = tempfile::tempdir().expect("a directory");
    let pages = home.path().join("man1");
    let made = run(ignite(home.path(), &["man", pages.to_str().expect("text")]));
    assert_eq!(made.code, Some(0), "{}", made.err);
    let mut all = BTreeSet::new();
    for page in std::fs::read_dir(&pages).expect("the folder") {
        let page = page.expect("an entry").path();
        let text = std::fs::read_to_string(&page).expect("a page");
        let name = page
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !text.contains(".SH SUBCOMMANDS") {
            all.insert(name.trim_start_matches("ignite-").to_owned());
        }
    }
    let rows = REMOTE
        .iter()
        .map(|(name, _)| *name)
        .chain(LOCAL.iter().copied());
    let rows: BTreeSet<String> = rows.map(|name| name.replace(' ', "-")).collect();
    assert_eq!(all, rows);
}

#[test]
fn no_command_takes_an_option_that_it_does_not_have() {
    let home = tempfile::tempdir().expect("a directory");
    let remote = REMOTE.iter().map(|(name, more)| format!("{name} {more}"));
    let local = LOCAL.iter().map(|name| (*name).to_owned());
    for line in remote.chain(local) {
        if line.starts_with("curl") {
            // Whatever follows the app is curl's.
            continue;
        }
        let mut args = words(&line);
        args.push("--no-such-option");
        let ran = run(ignite(home.path(), &args));
        assert_eq!(ran.code, Some(2), "{line}: {}", ran.err);
        assert!(
            ran.err.contains("--no-such-option") && ran.err.contains("--help"),
            "{line}: {}",
            ran.err
        );
        assert_eq!(ran.out, "", "{line}");
    }
}

/// A home with a file for `apply`.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("apps.toml");
    std::fs::write(file, "[apps.a]\nimage-ref = \"r\"\n").expect("written");
    home
}

fn without_server(home: &std::path::Path, line: &str, more: &[&str]) -> Ran {
    let file = home.join("apps.toml");
    let line = line.replace("FILE", file.to_str().expect("text"));
    let mut args = vec!["--api-endpoint", "127.0.0.1:1"];
    args.extend(more);
    args.extend(words(&line));
    run(ignite(home, &args))
}

#[test]
fn every_command_says_that_no_server_answers_and_how_to_start_one() {
    let home = home();
    for (name, more) in REMOTE {
        let line = format!("{name} {more}");
        let ran = without_server(home.path(), &line, &[]);
        assert_eq!(ran.code, Some(9), "{line}: {}{}", ran.out, ran.err);
        for word in ["127.0.0.1:1", "`ignite serve`", "--api-endpoint"] {
            assert!(ran.err.contains(word), "{line}: no {word} in {}", ran.err);
        }
        assert_eq!(ran.out, "", "{line}");
    }
}

#[test]
fn errors_are_json_where_answers_are() {
    let home = home();
    let error = |ran: &Ran| {
        let last = ran.err.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
        value["error"].clone()
    };
    for (name, more) in REMOTE.iter().filter(|(name, _)| *name != "curl") {
        let ran = without_server(home.path(), &format!("{name} {more}"), &["-o", "json"]);
        let error = error(&ran);
        assert_eq!(error["code"], "UNAVAILABLE", "{name}: {}", ran.err);
        assert_eq!(error["exitCode"], 9, "{name}");
        assert_eq!(ran.out, "", "{name}");
    }
    for (args, code) in [
        (&["app", "get", "-o", "json"][..], 2),
        (&["app", "create", "a", "--memory", "x", "--output=json"], 2),
        (&["app", "list", "--timeout", "5", "-ojson"], 2),
        (&["serve", "--http-addr", "x", "-o", "json"], 64),
        (&["context", "use", "none", "-o", "yaml"], 2),
    ] {
        let ran = run(ignite(home.path(), args));
        let error = error(&ran);
        assert_eq!(error["code"], "INVALID_ARGUMENT", "{args:?}");
        assert_eq!(
            (error["exitCode"].as_i64(), ran.code),
            (Some(i64::from(code)), Some(code)),
            "{args:?}"
        );
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.contains("Usage:"),
            "{args:?}: {message}"
        );
    }
}

#[test]
fn alone_it_says_what_to_do_next() {
    let home = home();
    let ran = run(ignite(home.path(), &["--api-endpoint", "127.0.0.1:1"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for word in [
        "serverless platform",
        "127.0.0.1:1",
        "ignite doctor",
        "ignite serve",
        "--help",
    ] {
        assert!(ran.out.contains(word), "no {word} in {}", ran.out);
    }
    let json = run(ignite(
        home.path(),
        &["--api-endpoint", "127.0.0.1:1", "-o", "json"],
    ));
    let value: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["server"]["answers"], false);
    assert_eq!(value["next"].as_array().map(Vec::len), Some(3));
}

#[test]
fn completions_name_every_command() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(ignite(home.path(), &["completion", shell]));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        for word in ["whoami", "apply", "rollback", "dry-run"] {
            assert!(ran.out.contains(word), "{shell}: no {word}");
        }
    }
}
