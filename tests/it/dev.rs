//! `ignite dev` as a process beside the server: how changes in a folder show at its URL.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::{
    python::{app, call, server},
    support::{
        app::App,
        base_image,
        code::{dockerfile, write},
        eventually, eventually_ok,
        ignite::{Ignite, Log},
    },
};

/// The longest time for one round on a machine that is busy with tests.
const ROUND: Duration = crate::support::HANGS;

/// A running `ignite dev`, killed when dropped.
struct Dev {
    child: Child,
    out: Log,
    err: Log,
}

impl Dev {
    fn start(ignite: &Ignite, folder: &Path, more: &[&str]) -> Self {
        let folder = folder.to_str().expect("text");
        let mut command = ignite.client(&[&["dev", folder, "--app", "live"], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let (out, err) = (Log::default(), Log::default());
        out.collect(child.stdout.take().expect("piped"));
        err.collect(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    async fn says(&self, log: &Log, text: &str) {
        eventually_ok(ROUND, || async {
            let log = log.text();
            let found = log.contains(text);
            found
                .then_some(())
                .ok_or_else(|| format!("no {text:?} in {log}"))
        })
        .await;
    }

    /// The number of versions it has published.
    fn rounds(&self) -> usize {
        self.err.text().matches(" is at version ").count()
    }

    async fn interrupt(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::INT).expect("it runs");
        let child = &mut self.child;
        let mut ended = || child.try_wait().expect("a child");
        eventually(ROUND, || std::future::ready(ended()))
            .await
            .code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- ignite dev ---\n{}{}---",
                self.out.text(),
                self.err.text()
            );
        }
    }
}

/// The source of a handler that answers this.
fn handler(folder: &Path, answer: &str) {
    let code = format!("def handler(payload, ctx):\n    print('called')\n    return {answer:?}\n");
    write(folder, &[("handler.py", code.as_bytes())]);
}

/// Waits until the app answers this and returns how long it took. No call may fail meanwhile.
async fn answers(ignite: &Ignite, app: &App, wanted: &str) -> Duration {
    let begun = Instant::now();
    eventually_ok(ROUND, || async {
        let answer = call(ignite, app, "").await;
        assert_eq!(answer.status, StatusCode::OK);
        let text = answer.text().await;
        (text == wanted)
            .then_some(())
            .ok_or_else(|| format!("it is {text:?}"))
    })
    .await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_folder_is_live_and_what_fails_leaves_what_was() {
    let ignite = server(|b| b).await;
    let app = app(&ignite, "live");
    let folder = tempfile::tempdir().expect("a directory");
    let folder = folder.path();
    handler(folder, "one");
    write(folder, &[(".dockerignore", b"*.log\n")]);
    let dev = Dev::start(&ignite, folder, &["--runtime", "python", "--tier", "large"]);
    dev.says(&dev.out, "http://live-acme.").await;
    answers(&ignite, &app, "one").await;
    dev.says(&dev.out, "called").await;

    handler(folder, "two");
    let took = answers(&ignite, &app, "two").await;
    println!("a changed handler answered after {took:?}");

    // A build that fails, and one whose container cannot start.
    write(
        folder,
        &[("requirements.txt", b"--no-index\nnot-there==1\n")],
    );
    dev.says(&dev.err, "No matching distribution").await;
    dev.says(&dev.err, "Step ").await;
    dev.says(&dev.err, "the next change tries again").await;
    answers(&ignite, &app, "two").await;
    fs::remove_file(folder.join("requirements.txt")).expect("removed");
    write(folder, &[("handler.py", b"import nothing_of_this_name\n")]);
    dev.says(&dev.err, "No module named 'nothing_of_this_name'")
        .await;
    answers(&ignite, &app, "two").await;
    let rounds = dev.rounds();
    handler(folder, "three");
    answers(&ignite, &app, "three").await;
    // The app serves before the command line learns of it.
    eventually(ROUND, || {
        std::future::ready((dev.rounds() > rounds).then_some(()))
    })
    .await;

    // Unsent files and a save without a change start no round.
    let rounds = dev.rounds();
    write(
        folder,
        &[
            ("a.log", b"x"),
            (".git/index", b"x"),
            ("__pycache__/handler.pyc", b"x"),
            (".handler.py.swp", b"x"),
            ("handler.py~", b"x"),
        ],
    );
    handler(folder, "three");
    // Longer than a change takes to become quiet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    handler(folder, "four");
    answers(&ignite, &app, "four").await;
    eventually(ROUND, || {
        std::future::ready((dev.rounds() > rounds).then_some(()))
    })
    .await;
    assert_eq!(dev.rounds(), rounds + 1);

    let out = dev.out.text();
    assert_eq!(out.matches("http://").count(), 1, "{out}");
    assert_eq!(dev.interrupt().await, Some(0));
    answers(&ignite, &app, "four").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_middle_of_a_build_ends_it_and_the_latest_code_wins() {
    let ignite = server(|b| b).await;
    let app = app(&ignite, "live");
    let folder = tempfile::tempdir().expect("a directory");
    let slow = format!(
        "FROM {}\nRUN python3 -c 'import time; time.sleep(300)'\n",
        base_image("python").await
    );
    let at = folder.path().join("Dockerfile");
    fs::write(&at, slow).expect("written");
    let dev = Dev::start(&ignite, folder.path(), &[]);
    dev.says(&dev.err, "Building").await;
    eventually_ok(ROUND, || async {
        let log = crate::support::contract::Via::Json;
        let info = serde_json::json!({ "organization_name": "acme", "app_name": "live" });
        // Refused until the app exists.
        let info = ignite.call(log, "GetDraftInfo", &app.token, &info).await;
        let text = format!("{info:?}");
        text.contains("COMPILING").then_some(()).ok_or(text)
    })
    .await;
    fs::write(&at, dockerfile("quick").await).expect("written");
    dev.says(&dev.out, "http://live-acme.").await;
    assert_eq!(app.version(&ignite).await, "quick");
    assert!(dev.err.text().contains("starting again"));
    assert_eq!(dev.rounds(), 1, "{}", dev.err.text());
    assert_eq!(dev.interrupt().await, Some(0));
}
