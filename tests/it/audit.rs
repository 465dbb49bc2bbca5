//! `ignite audit` as a process, beside a server that writes the log.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    HANGS,
    contract::Via,
    eventually,
    ignite::{Ignite, Log},
};

/// An `ignite audit -f`, and the lines that it prints.
struct Following {
    process: Child,
    lines: Receiver<String>,
    log: Log,
}

impl Following {
    fn start(ignite: &Ignite, more: &[&str]) -> Self {
        let mut command = ignite.client(&[&["audit", "-f"], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the binary runs");
        let log = Log::default();
        log.collect(process.stderr.take().expect("piped"));
        let out = BufReader::new(process.stdout.take().expect("piped"));
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            lines,
            log,
        }
    }

    fn line(&self) -> String {
        let line = self.lines.recv_timeout(HANGS);
        line.unwrap_or_else(|e| panic!("no line: {e}; {}", self.log.text()))
    }

    /// The next entry, which has to be a line of JSON.
    fn entry(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn interrupt(mut self) -> ExitStatus {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::INT).expect("it runs");
        self.process.wait().expect("ours")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_reads_every_entry_once_while_the_files_rotate_until_it_is_interrupted() {
    let ignite = Ignite::builder()
        .env("IGNITE_AUDIT_MAX_BYTES", "64KiB")
        .start()
        .await;
    let token = ignite.token("acme");
    let following = Following::start(&ignite, &["-o", "json", "--org", "acme"]);
    // What there was.
    let entry = following.entry();
    assert_eq!([&entry["kind"], &entry["action"]], ["token", "create"]);
    let before = ignite.data_dir().join("audit/audit.1.jsonl");
    let mut rotated = std::collections::BTreeSet::new();
    for n in 0.. {
        let name = format!("s{n}");
        let secret = json!({ "name": name, "value": { "git_secret": { "token": "hidden" } } });
        ignite.ok(Via::Json, "CreateSecret", &token, secret).await;
        let entry = following.entry();
        assert_eq!(entry["action"], "CreateSecret", "{entry}");
        assert_eq!(entry["target"], format!("secret {name}"), "{entry}");
        let secret = json!({ "name": name });
        ignite.ok(Via::Json, "DeleteSecret", &token, secret).await;
        assert_eq!(following.entry()["action"], "DeleteSecret");
        // Another organization's is not wanted.
        if n % 20 == 0 {
            let other = ignite.token("other");
            let app = json!({ "organization_name": "acme", "app_name": "a" });
            ignite.refused(Via::Json, "DeleteApp", &other, app).await;
            let entry = following.entry();
            assert_eq!(entry["action"], "DeleteApp", "{entry}");
            assert_eq!(entry["subject"], "ignite:other", "{entry}");
        }
        if let Ok(file) = std::fs::metadata(&before) {
            use std::os::unix::fs::MetadataExt as _;
            rotated.insert(file.ino());
        }
        if rotated.len() == 2 {
            break;
        }
    }
    assert_eq!(following.log.text(), "");
    let status = following.interrupt();
    // A shell calls this 130.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(Signal::INT.as_raw()), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_is_for_people_too_and_waits_for_a_log_that_is_not_there_yet() {
    let ignite = Ignite::builder().start().await;
    let following = Following::start(&ignite, &[]);
    assert!(following.line().starts_with("TIME "));
    let waits = || async {
        following
            .log
            .text()
            .contains("no audit log yet")
            .then_some(())
    };
    eventually(HANGS, waits).await;
    ignite.token("acme");
    let line = following.line();
    let columns: Vec<_> = line.split_whitespace().collect();
    assert_eq!(columns[1], "local", "{line}");
    assert_eq!(columns[3..5], ["token", "create"], "{line}");
    let output = ignite.cli(&["audit", "-f", "-o", "yaml", "--timeout", "1s"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("---\n"), "{text}");
    assert!(text.contains("\naction: create\n"), "{text}");
    assert_eq!(output.status.code(), Some(8), "the time is up");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_of_the_audit_log_are_named() {
    let ignite = Ignite::builder().start().await;
    for (args, named) in [
        (&["--data-dir", "/nowhere/at/all"][..], "/nowhere/at/all"),
        (&["--org", "No Name"], "--org"),
        (&["--limit", "0"], "--limit"),
        (&["--since", "yesterday"], "--since"),
    ] {
        for follow in [&[][..], &["--follow"]] {
            let output = ignite.cli(&[&["audit"], args, follow].concat());
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
            assert!(err.contains(named), "{args:?}: {err}");
        }
    }
}
