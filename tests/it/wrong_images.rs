//! Common faults of images: whoever deploys one, or calls the app, learns the cause before the
//! start times out.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::Instant};

use crate::support::{
    HANGS,
    app::{App, ENGINE_LIMIT},
    engine, eventually_ok,
    ignite::{Builder, Ignite},
    probe,
};

const LOG: &str = "I am up to no good";

/// The exit code and output of the command line.
struct Deployed {
    code: Option<i32>,
    err: String,
    took: Duration,
}

/// Deploys with these extra arguments and returns the result.
async fn deploy(ignite: &Arc<Ignite>, app: &App, image: &str, more: &[&str]) -> Deployed {
    let id = format!("{}:{}", app.org, app.name);
    let mut command = ignite.client(&["app", "deploy", &id, "--image-ref", image]);
    command.args(more);
    let began = Instant::now();
    let ran = spawn_blocking(move || command.output().expect("the binary runs"));
    let output = tokio::time::timeout(HANGS, ran)
        .await
        .expect("a deploy ends")
        .expect("no panic");
    Deployed {
        code: output.status.code(),
        err: String::from_utf8(output.stderr).expect("text"),
        took: began.elapsed(),
    }
}

fn named(ignite: &Ignite, name: &str) -> App {
    App {
        org: "public".to_owned(),
        name: name.to_owned(),
        token: ignite.token("public"),
    }
}

/// Any organization may call apps of `public`, but gets no details.
fn stranger(ignite: &Ignite, app: &App) -> App {
    App {
        token: ignite.token("acme"),
        ..app.clone()
    }
}

/// The budget of a start is longer than any row takes, so every cause is reported in time.
fn builder() -> Builder {
    Ignite::builder()
        .env("IGNITE_STARTUP_TIMEOUT_SECS", "60")
        .env("IGNITE_WRONG_PORT_TIMEOUT", "6s")
}

/// The events of an app, one per line.
async fn events(ignite: &Ignite, app: &App) -> String {
    let (status, answer) = app.api(ignite, Method::GET, "/events", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let events = answer["events"].as_array().cloned().unwrap_or_default();
    let line = |e: &Value| format!("{} {}\n", e["type"].as_str().unwrap_or(""), e["message"]);
    events.iter().map(line).collect()
}

#[track_caller]
fn says(row: &str, text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{row}: no {word:?} in {text}");
    }
}

/// One image that cannot become a version.
struct Wrong<'a> {
    row: &'a str,
    image: String,
    settings: &'a [&'a str],
    /// What the deploy says on stderr.
    words: &'a [&'a str],
}

async fn wrong<'a>() -> Vec<Wrong<'a>> {
    let docker = engine::docker().await;
    let base = probe::image().await;
    let foreign = ignite_kit::image::for_platform(&docker, &base, "linux", "arm64", "v8");
    let row = |row, image, settings, words| Wrong {
        row,
        image,
        settings,
        words,
    };
    vec![
        row(
            "wrong port",
            probe::image_with(&[("PROBE_PORT", "9999")]).await,
            &[],
            &["NOT_READY", "the app listens on 9999, and not on port 80"],
        ),
        row(
            "loopback only",
            probe::image_with(&[("PROBE_HOST", "127.0.0.1")]).await,
            &[],
            &["NOT_READY", "on 127.0.0.1:80 rather than on 0.0.0.0:80"],
        ),
        row(
            "development server",
            probe::image_with(&[("PROBE_HOST", "127.0.0.1"), ("PROBE_PORT", "5000")]).await,
            &[],
            &[
                "NOT_READY",
                "on 127.0.0.1:5000 rather than on 0.0.0.0:$PORT (80)",
                "flask run --host 0.0.0.0",
            ],
        ),
        row(
            "exits at start",
            probe::image_with(&[("PROBE_EXIT_AT_START", "3"), ("PROBE_LOG", LOG)]).await,
            &[],
            &["CONTAINER_EXITED", "exit code 3", LOG],
        ),
        row(
            "over its memory",
            probe::image_with(&[("PROBE_ALLOC_AT_START_MIB", "512")]).await,
            &["--memory", "128"],
            &[
                "CONTAINER_EXITED",
                "killed for its memory limit",
                "limits.memory_mb",
            ],
        ),
        row(
            "another processor",
            foreign.await.unwrap_or_else(|e| panic!("{e:#}")),
            &[],
            &["arm64"],
        ),
        row(
            "no shell",
            probe::image_described("EXPOSE 80\nENTRYPOINT [\"/bin/sh\", \"-c\", \"/probe\"]").await,
            &[],
            &["/bin/sh", "No such file", "the image has no such program"],
        ),
        row(
            "missing variable",
            probe::image_with(&[("PROBE_NEEDS", "DATABASE_URL")]).await,
            &[],
            &[
                "CONTAINER_EXITED",
                "exit code 64",
                "the variable DATABASE_URL is not set",
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_eleven_wrong_images_names_its_cause() {
    let ignite = Arc::new(builder().start().await);
    let mut table = Vec::new();

    for (n, wrong) in wrong().await.into_iter().enumerate() {
        let app = named(&ignite, &format!("wrong-{n}"));
        let ended = deploy(&ignite, &app, &wrong.image, wrong.settings).await;
        assert!(
            ended.code.is_some_and(|c| c != 0),
            "{}: {}",
            wrong.row,
            ended.err
        );
        says(wrong.row, &ended.err, wrong.words);
        // The app that was made for it is gone again.
        let (status, _) = app.api(&ignite, Method::GET, "", Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{}", wrong.row);
        table.push((wrong.row, "deploy fails", ended.took));
    }

    // A default health path may answer like this; the owner is warned how the cloud would treat it.
    let closed = probe::image_with(&[("PROBE_HEALTH_STATUS", "401")]).await;
    let app = named(&ignite, "closed");
    let ended = deploy(&ignite, &app, &closed, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let row = "401 on /healthz";
    says(row, &ended.err, &["answered 401 Unauthorized"]);
    table.push((row, "deploy warns", ended.took));
    app.get_ok(&ignite, "/").await;

    // A configured health path has to be right: its status is shown while the start lasts.
    let app = named(&ignite, "closed-chosen");
    let began = Instant::now();
    let waiting = {
        let (ignite, app) = (ignite.clone(), app.clone());
        tokio::spawn(async move {
            let chosen = ["--health-path", "/healthz"];
            deploy(&ignite, &app, &closed, &chosen).await
        })
    };
    let row = "401, path chosen";
    eventually_ok(ENGINE_LIMIT, || async {
        let cli = ignite.cli(&["app", "state", "public:closed-chosen"]);
        let text = String::from_utf8(cli.stdout).expect("text");
        if text.contains("answered 401 Unauthorized") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    table.push((row, "app state", began.elapsed()));
    let ended = waiting.await.expect("no panic");
    assert!(ended.code.is_some_and(|c| c != 0), "{}", ended.err);
    says(
        row,
        &ended.err,
        &["NOT_READY", "answered 401 Unauthorized", "--health-path"],
    );
    table.push((row, "deploy fails", ended.took));

    // A slow app is not broken: it gets its full time, and its progress is shown.
    let slow = probe::image_with(&[("PROBE_START_DELAY_MS", "8000"), ("PROBE_LOG", LOG)]).await;
    let app = named(&ignite, "slow");
    let row = "slow start of 8 s";
    let ended = deploy(&ignite, &app, &slow, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    says(
        row,
        &ended.err,
        &["nothing listens there (connection refused)", LOG],
    );
    table.push((row, "deploy succeeds", ended.took));

    // It fails on a request after becoming ready.
    let crashes = probe::image_with(&[("PROBE_LOG", LOG)]).await;
    let app = named(&ignite, "crashes");
    let row = "crashes later";
    let ended = deploy(&ignite, &app, &crashes, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let began = Instant::now();
    let answer = app.get(&ignite, "/exit/7").await;
    let took = began.elapsed();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    says(row, &answer.text().await, &["exit code 7", LOG]);
    table.push((row, "the request's 502", took));

    println!("{:<20} {:<20} {:>8}", "image", "told by", "after");
    for (row, by, took) in table {
        println!("{row:<20} {by:<20} {:>6.1} s", took.as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_replica_ended_is_told_to_its_owner_alone() {
    let ignite = builder()
        .env("IGNITE_EXECUTION_RETRY_INITIAL", "10ms")
        .start()
        .await;
    let app = named(&ignite, "ends");
    let settings = json!({ "limits": { "memoryMb": 128 }, "env": { "PROBE_LOG": LOG } });
    App::deploy(&ignite, "public/ends", settings).await;
    let other = stranger(&ignite, &app);
    for (path, words) in [
        ("/exit/7", vec!["exit code 7", LOG]),
        ("/alloc/512", vec!["killed for its memory limit", LOG]),
    ] {
        for (caller, is_owner) in [(&app, true), (&other, false)] {
            let answer = caller.get(&ignite, path).await;
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
            let text = answer.text().await;
            if is_owner {
                says(path, &text, &words)
            } else {
                assert!(
                    words.iter().all(|w| !text.contains(w)),
                    "{path}: another organization hears {text}"
                )
            }
        }
        says(path, &events(&ignite, &app).await, &words);

        let call = json!({ "http": { "path": path } });
        let (status, begun) = app.api(&ignite, Method::POST, "/invoke-async", call).await;
        assert_eq!(status, StatusCode::OK, "{begun}");
        let id = begun["executionId"].as_str().expect("an id").to_owned();
        let at = format!("/v1/ignite/executions/{id}");
        eventually_ok(ENGINE_LIMIT, || async {
            let (_, _, got) = ignite.api(Method::GET, &at, &app.token, &Value::Null).await;
            let text = got.to_string();
            if words.iter().all(|w| text.contains(w)) {
                Ok(())
            } else {
                Err(text)
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_single_port_that_an_image_exposes_is_followed_and_not_under_strict() {
    let image = probe::image_described("EXPOSE 8080\nENTRYPOINT [\"/probe\"]").await;
    let fixed =
        probe::image_described("EXPOSE 8080\nENV PROBE_PORT=8080\nENTRYPOINT [\"/probe\"]").await;
    let ignite = Arc::new(builder().start().await);
    for (name, image) in [("follows", &image), ("fixed", &fixed)] {
        let app = named(&ignite, name);
        let ended = deploy(&ignite, &app, image, &[]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        says(name, &ended.err, &["8080", "80"]);
        let seen = app.get_ok(&ignite, "/").await.json().await;
        assert_eq!(seen["port"], 8080, "{seen}");
        let (_, got) = app.api(&ignite, Method::GET, "", Value::Null).await;
        let ports = &got["app"]["ports"];
        assert!(ports.is_null() || *ports == json!([80]), "{got}");
    }
    drop(ignite);

    let strict = Arc::new(
        builder()
            .env("IGNITE_STARTUP_TIMEOUT_SECS", "8")
            .arg("--strict")
            .start()
            .await,
    );
    let app = named(&strict, "fixed");
    let ended = deploy(&strict, &app, &fixed, &[]).await;
    assert!(ended.code.is_some_and(|c| c != 0), "{}", ended.err);
    let words = ["the app listens on 8080, and not on port 80"];
    says("strict", &ended.err, &words);
}

/// A held caller fails as soon as this verdict is certain.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_port_ends_a_held_request_early_once_it_was_seen_before() {
    let ignite = Ignite::builder()
        .env("IGNITE_COLD_START_BUDGET_SECS", "170")
        .env("IGNITE_STARTUP_TIMEOUT_SECS", "8")
        .env("IGNITE_WRONG_PORT_TIMEOUT", "1s")
        .start()
        .await;
    let app = App::deploy(
        &ignite,
        "public/wrong",
        json!({ "env": { "PROBE_PORT": "9999" } }),
    )
    .await;
    let other = stranger(&ignite, &app);
    let hint = "the app listens on 9999, and not on port 80";
    // The first start gets its full time; a held caller waits for the next, which is known to fail.
    let text = app.get(&ignite, "/").await.text().await;
    says("the owner's answer", &text, &["will not get ready", hint]);
    let told = events(&ignite, &app).await;
    let first = ["REPLICA_NOT_READY", "did not get ready within 8s", hint];
    says("events", &told, &first);
    let text = other.get(&ignite, "/").await.text().await;
    assert!(!text.contains("9999"), "another organization hears {text}");
    says(
        "events",
        &events(&ignite, &app).await,
        &["REPLICA_NOT_READY", hint],
    );
}
