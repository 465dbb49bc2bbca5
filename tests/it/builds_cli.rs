//! Code from the command line, and its build log.

use std::time::Duration;

use futures_util::StreamExt as _;
use ignite::api::proto::v1;
use serde_json::{Value, json};

use crate::{
    cli::{Ran, fails, ok, parsed, ran, row},
    support::{
        app::App,
        code::{dockerfile, tar_gz, write, zip},
        contract::{Refusal, Via},
        eventually_ok, grpc_client,
        ignite::Ignite,
    },
};

const BUILD_LIMIT: Duration = crate::support::HANGS;

async fn server() -> (Ignite, App) {
    let ignite = Ignite::builder()
        .env("IGNITE_DEFAULT_ORG", "acme")
        .start()
        .await;
    let app = App {
        org: "acme".into(),
        name: "a".into(),
        token: ignite.token("acme"),
    };
    (ignite, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_and_an_archive_are_deployed_in_one_command_each() {
    let (ignite, app) = server().await;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().to_str().expect("text");
    let file = dockerfile("folder").await;
    write(
        folder.path(),
        &[
            ("docker/Mine", file.as_bytes()),
            ("node_modules/m/index.js", b"x"),
            ("src/main", b"x"),
        ],
    );
    let args = ["app", "deploy", "a", "--code", path];
    let more = [
        "--dockerfile-path",
        "docker/Mine",
        "--follow",
        "--tier",
        "small",
    ];
    let deployed = ran(ignite.cli(&[&args[..], &more].concat()));
    assert_eq!(deployed.code, 0, "{}", deployed.err);
    assert!(
        deployed.out.starts_with("http://a-acme."),
        "{}",
        deployed.out
    );
    assert_eq!(deployed.out.lines().count(), 1, "the URL alone");
    for words in ["Step 1/", "Built ignite-", "version 1"] {
        assert!(
            deployed.err.contains(words),
            "no {words:?} in {}",
            deployed.err
        );
    }
    assert_eq!(app.version(&ignite).await, "folder");

    // Without --follow the log is shown only for a failure.
    let archive = folder.path().join("a.zip");
    let file = dockerfile("zip").await;
    std::fs::write(&archive, zip(&[("Dockerfile", file.as_bytes())])).expect("written");
    let archive = archive.to_str().expect("text");
    let deployed = ran(ignite.cli(&["app", "deploy", "a", "-c", archive]));
    assert_eq!(deployed.code, 0, "{}", deployed.err);
    assert!(!deployed.err.contains("Step 1/"), "{}", deployed.err);
    assert_eq!(app.version(&ignite).await, "zip");
    let code = ok(&ignite, &["version", "code", "a", "1"]);
    assert_eq!(row(&code, "kind"), "image-from-code");
    let back = folder.path().join("back.zip");
    let to = [
        "version",
        "code",
        "a",
        "2",
        "--to",
        back.to_str().expect("text"),
    ];
    ok(&ignite, &to);
    let (sent, got) = (std::fs::read(archive), std::fs::read(&back));
    assert_eq!(got.expect("written"), sent.expect("there"));
    fails(&ignite, &to, 1, &["cannot write"]);

    let broken = format!("{}RUN [\"/none\"]\n", dockerfile("x").await);
    write(folder.path(), &[("Dockerfile", broken.as_bytes())]);
    let words = ["Step 5/", "/none", "the build failed"];
    fails(&ignite, &["app", "deploy", "a", "--code", path], 1, &words);
    assert_eq!(app.version(&ignite).await, "zip");

    // What the command line itself refuses, before anything is created.
    for (args, words) in [
        (
            &["app", "deploy", "new", "--code", "/none/there"][..],
            "/none/there",
        ),
        (
            &["app", "deploy", "new", "--code", "/bin/sh"],
            "neither a folder",
        ),
        (&["app", "deploy", "new"], "--image-ref"),
        (
            &[
                "app",
                "deploy",
                "new",
                "--code",
                path,
                "--git-url",
                "https://h/a",
            ],
            "cannot be used with",
        ),
        (
            &[
                "app",
                "deploy",
                "new",
                "--image-ref",
                "a:1",
                "--runtime",
                "python",
            ],
            "cannot be used with",
        ),
        (
            &["app", "deploy", "new", "--code", path, "--git-ref", "v1"],
            "cannot be used with",
        ),
    ] {
        fails(&ignite, args, 2, &[words]);
    }
    fails(&ignite, &["app", "get", "new"], 5, &[]);
}

/// Follows the log of the app's build in another process, interrupted after the first line.
fn interrupted_follower(ignite: &Ignite) -> Ran {
    let mut watching = std::process::Command::new(env!("CARGO_BIN_EXE_ignite"))
        .args(["draft", "compile-logs", "a"])
        .env("IGNITE_DATA_DIR", ignite.data_dir())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    let mut stdout = std::io::BufReader::new(watching.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut first).expect("a line");
    let pid = i32::try_from(watching.id()).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
    ran(watching.wait_with_output().expect("it ends"))
}

/// Waits until the build of the app's draft is at a step that runs a command.
async fn wait_until_a_step_runs(ignite: &Ignite, app: &App) {
    let started = parsed(&ok(ignite, &["draft", "info", "a", "-o", "json"]));
    let log = json!({ "organization_name": "acme", "app_name": "a", "build_id": started["draft"]["deployId"] });
    eventually_ok(BUILD_LIMIT, || async {
        let log = ignite
            .ok(Via::Grpc, "GetBuildLog", &app.token, log.clone())
            .await;
        if log["lines"].to_string().contains("Running in ") {
            Ok(())
        } else {
            Err(log.to_string())
        }
    })
    .await;
}

/// Waits until the engine has removed the container of the first step in this log.
async fn wait_until_the_step_is_gone(log: &[v1::CompileLogLine]) {
    let step = log
        .iter()
        .find_map(|line| line.message.split("Running in ").nth(1));
    let step = step.expect("the step was running").trim().to_owned();
    let docker = crate::support::engine::docker().await;
    eventually_ok(BUILD_LIMIT, || async {
        let options = None::<bollard::query_parameters::InspectContainerOptions>;
        match docker.inspect_container(&step, options).await {
            Err(_) => Ok(()),
            Ok(found) => Err(format!("{:?}", found.state)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_started_followed_and_cancelled() {
    let (ignite, app) = server().await;
    ok(&ignite, &["app", "create", "a"]);
    let folder = tempfile::tempdir().expect("a directory");
    let archive = folder.path().join("a.tar.gz");
    let file = dockerfile("one").await;
    std::fs::write(&archive, tar_gz(&[("Dockerfile", file.as_bytes())])).expect("written");
    let path = archive.to_str().expect("text");
    fails(&ignite, &["draft", "compile-logs", "a"], 5, &["no draft"]);
    let saved = ok(&ignite, &["draft", "save", "a", "-c", path]);
    assert_eq!(row(&saved, "status"), "draft");
    fails(
        &ignite,
        &["draft", "compile-logs", "a"],
        2,
        &["has not been built"],
    );
    let log = ok(&ignite, &["draft", "compile", "a", "--follow"]);
    let last = log.lines().last().expect("lines");
    assert!(
        log.contains("Step 1/") && last.starts_with("Built ignite-"),
        "{log}"
    );
    let info = parsed(&ok(&ignite, &["draft", "info", "a", "-o", "json"]));
    assert_eq!(info["draft"]["status"], "VERSION_STATUS_READY");
    // The whole log again, over all three ways.
    assert_eq!(ok(&ignite, &["draft", "compile-logs", "a"]), log);
    let id = info["draft"]["deployId"].as_str().expect("an id");
    let request = v1::StreamCompileLogsRequest {
        deploy_id: id.to_owned(),
    };
    let mut client = grpc_client(&ignite, &app.token).await;
    let stream = client.stream_compile_logs(request.clone()).await;
    let streamed: Vec<_> = stream
        .expect("a stream")
        .into_inner()
        .map(|line| line.expect("a line"))
        .collect()
        .await;
    let lines: Vec<&str> = streamed.iter().map(|l| &*l.message).collect();
    assert_eq!(lines, log.lines().collect::<Vec<_>>());
    let done: Vec<bool> = streamed.iter().map(|l| l.done).collect();
    assert_eq!(done.iter().filter(|d| **d).count(), 1);
    assert_eq!(done.last(), Some(&true));
    let over_json = ignite
        .request(hyper::Method::GET, &format!("/v1/ignite/compile/{id}/logs"))
        .token(&app.token)
        .send()
        .await
        .expect("an answer")
        .text()
        .await;
    let over_json: Vec<Value> = over_json.lines().map(parsed).collect();
    let messages: Vec<&str> = over_json
        .iter()
        .map(|l| l["message"].as_str().expect("text"))
        .collect();
    assert_eq!(messages, lines);
    // A build is visible only to its own organization.
    let mut stranger = grpc_client(&ignite, &ignite.token("other")).await;
    let status = stranger
        .stream_compile_logs(request)
        .await
        .expect_err("not theirs");
    Refusal::of_status(&status).is(5, 404, "NOT_FOUND", &["no build"]);

    // A build that never ends by itself.
    let endless = format!("{}USER 0\nRUN [\"/probe\"]\n", dockerfile("endless").await);
    std::fs::write(&archive, tar_gz(&[("Dockerfile", endless.as_bytes())])).expect("written");
    ok(&ignite, &["draft", "save", "a", "-c", path]);
    let started = ok(&ignite, &["draft", "compile", "a"]);
    assert_eq!(row(&started, "status"), "compiling");
    // A follower is connected when the build is cancelled.
    let draft = json!({ "organization_name": "acme", "app_name": "a" });
    let info = ignite
        .ok(Via::Json, "GetDraftInfo", &app.token, draft)
        .await;
    let request = v1::StreamCompileLogsRequest {
        deploy_id: info["draft"]["deployId"]
            .as_str()
            .expect("an id")
            .to_owned(),
    };
    let stream = client.stream_compile_logs(request).await.expect("a stream");
    let following = tokio::spawn(async move {
        let mut stream = stream.into_inner();
        let mut all = Vec::new();
        while let Some(line) = stream.message().await.expect("a line") {
            all.push(line);
        }
        all
    });
    wait_until_a_step_runs(&ignite, &app).await;
    // A follower that leaves does not stop the build.
    let watched = interrupted_follower(&ignite);
    assert_eq!(watched.code, 130, "{}", watched.err);
    assert!(
        watched.err.contains("ignite draft cancel acme:a"),
        "{}",
        watched.err
    );

    let cancelled = ok(&ignite, &["draft", "cancel", "a"]);
    assert_eq!(row(&cancelled, "status"), "failed");
    assert!(
        row(&cancelled, "error").contains("cancelled"),
        "{cancelled}"
    );
    let seen = tokio::time::timeout(BUILD_LIMIT, following).await;
    let seen = seen.expect("it ends").expect("no panic");
    let last = seen.last().expect("a line");
    assert!(last.done && last.message.contains("cancelled"), "{last:?}");
    fails(
        &ignite,
        &["draft", "cancel", "a"],
        1,
        &["no build", "under way"],
    );
    // The step does not continue in the engine.
    wait_until_the_step_is_gone(&seen).await;
}
