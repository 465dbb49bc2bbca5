//! `ignite dev` as a process beside the server: how changes in a folder show at its URL.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use hyper::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    python::{app, call, server},
    support::{
        app::App,
        base_image,
        code::{dockerfile, write},
        contract::{Via, merge},
        eventually, eventually_ok, http,
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

    /// The URL that it has printed.
    async fn url(&self) -> String {
        eventually(ROUND, || {
            let out = self.out.text();
            let line = out.lines().find(|line| line.starts_with("http://"));
            std::future::ready(line.map(str::to_owned))
        })
        .await
    }

    /// Waits until it has published one more version than this.
    async fn is_past(&self, rounds: usize) {
        // The app serves before the command line learns of it.
        eventually(ROUND, || {
            std::future::ready((self.rounds() > rounds).then_some(()))
        })
        .await
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

/// Opens a URL as a browser does, without a token.
async fn open(url: &str) -> http::Answer {
    let uri: hyper::Uri = url.parse().expect("a URL");
    let host = uri.authority().expect("a host").to_string();
    let found = tokio::net::lookup_host(&host).await;
    let addr = found
        .unwrap_or_else(|e| panic!("{url} cannot be opened here: {e}"))
        .next()
        .expect("an address");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::request(addr, Method::GET, path).host(&host);
    request.send().await.expect("an answer")
}

/// The numbers of an app's versions.
async fn versions(ignite: &Ignite, app: &App) -> Vec<u64> {
    let of = json!({ "organization_name": app.org, "app_name": app.name });
    let listed = ignite
        .ok(Via::Json, "ListAppVersions", &app.token, of)
        .await;
    let versions = listed["versions"].as_array().expect("versions").iter();
    versions
        .map(|v| v["version"].as_u64().expect("a number"))
        .collect()
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
    // Open to a browser of this machine, whatever resolves here.
    assert_eq!(open(&dev.url().await).await.status, StatusCode::OK);
    answers(&ignite, &app, "one").await;
    dev.says(&dev.out, "called").await;
    let built = ignite.images().await;

    let rounds = dev.rounds();
    handler(folder, "two");
    let took = answers(&ignite, &app, "two").await;
    println!("a changed handler answered after {took:?}");
    dev.is_past(rounds).await;
    assert_eq!(ignite.images().await, built, "changed files need no build");
    // What it superseded goes; the code of the one that is left is what was saved last.
    eventually_ok(ROUND, || async {
        let versions = versions(&ignite, &app).await;
        (versions == [2])
            .then_some(())
            .ok_or_else(|| format!("{versions:?}"))
    })
    .await;

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
    dev.is_past(rounds).await;

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
    dev.is_past(rounds).await;
    assert_eq!(dev.rounds(), rounds + 1);

    let out = dev.out.text();
    assert_eq!(out.matches("http://").count(), 1, "{out}");
    assert_eq!(dev.interrupt().await, Some(0));
    // Its replicas end with it, and the app serves what was saved last when it is called again.
    eventually_ok(ROUND, || async {
        let left = ignite.containers().await;
        left.is_empty().then_some(()).ok_or(left.len())
    })
    .await;
    answers(&ignite, &app, "four").await;
    assert_eq!(versions(&ignite, &app).await.len(), 1);
    // A publish builds what was only laid over the image.
    let published = crate::cli::ok(&ignite, &["draft", "publish", "acme:live"]);
    assert!(published.contains("acme/live"), "{published}");
    answers(&ignite, &app, "four").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_while_the_server_is_away_is_made_up_and_files_survive_its_crash() {
    let mut ignite = server(|b| b).await;
    let app = app(&ignite, "live");
    let folder = tempfile::tempdir().expect("a directory");
    handler(folder.path(), "one");
    let dev = Dev::start(&ignite, folder.path(), &["--closed"]);
    let url = dev.url().await;
    assert_eq!(open(&url).await.status, StatusCode::UNAUTHORIZED);
    let rounds = dev.rounds();
    handler(folder.path(), "two");
    answers(&ignite, &app, "two").await;
    dev.is_past(rounds).await;

    ignite.kill9();
    let rounds = dev.rounds();
    handler(folder.path(), "three");
    dev.says(&dev.err, "Waiting for the server").await;
    ignite.start().await;
    // What was laid over the image is there again, and then what was saved meanwhile.
    eventually_ok(ROUND, || async {
        let answer = call(&ignite, &app, "").await;
        assert_eq!(answer.status, StatusCode::OK);
        let text = answer.text().await;
        (text == "three").then_some(()).ok_or(text)
    })
    .await;
    // It has another port now, which is in a new URL.
    eventually_ok(ROUND, || async {
        let out = dev.out.text();
        let urls = out.matches("http://").count();
        (urls == 2).then_some(()).ok_or(out)
    })
    .await;
    assert!(dev.rounds() > rounds);
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_laid_over_an_image_only_in_a_sandbox_that_is_not_strict() {
    let ignite = server(|b| b.arg("--strict")).await;
    let app = App::create(&ignite, "acme/live", json!({})).await;
    let of = |more: Value| {
        let mut of = json!({ "organization_name": "acme", "app_name": "live" });
        merge(&mut of, more);
        of
    };
    let token = &app.token;
    let support = ignite.ok(Via::Json, "GetDevSupport", token, of(json!({})));
    assert_ne!(support.await["syncs"], true);
    let sync = of(json!({ "version": 1, "path": "/app", "changes": "" }));
    let refused = ignite.refused(Via::Grpc, "SyncDraft", token, sync).await;
    let refused = format!("{refused:?}");
    assert!(refused.contains("trust level is sandbox"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_dropped_unless_it_serves_or_its_number_would_be_given_again() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/live", json!({})).await;
    let (status, answer) = app.publish_unchecked(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let of = |version: u32| json!({ "organization_name": "acme", "app_name": "live", "version": version });
    let stays = async |version, why: &str| {
        let refused = ignite.refused(Via::Json, "DropVersion", &app.token, of(version));
        let refused = format!("{:?}", refused.await);
        assert!(refused.contains(why), "{refused}");
    };
    stays(2, "is active").await;
    let mut back = of(1);
    merge(&mut back, json!({ "skip_ready_check": true }));
    ignite.ok(Via::Json, "RollbackApp", &app.token, back).await;
    stays(1, "is active").await;
    stays(2, "is the newest").await;
    stays(3, "no version 3").await;
    let mut back = of(2);
    merge(&mut back, json!({ "skip_ready_check": true }));
    ignite.ok(Via::Json, "RollbackApp", &app.token, back).await;
    ignite.ok(Via::Grpc, "DropVersion", &app.token, of(1)).await;
    assert_eq!(versions(&ignite, &app).await, [2]);
    stays(1, "no version 1").await;
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
        let log = Via::Json;
        let info = json!({ "organization_name": "acme", "app_name": "live" });
        // Refused until the app exists.
        let info = ignite.call(log, "GetDraftInfo", &app.token, &info).await;
        let text = format!("{info:?}");
        text.contains("COMPILING").then_some(()).ok_or(text)
    })
    .await;
    fs::write(&at, dockerfile("quick").await).expect("written");
    dev.url().await;
    assert_eq!(app.version(&ignite).await, "quick");
    assert!(dev.err.text().contains("starting again"));
    assert_eq!(dev.rounds(), 1, "{}", dev.err.text());
    assert_eq!(dev.interrupt().await, Some(0));
}
