//! What a publish checks before a version serves, and what it reports.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{
    app::{App, ENGINE_LIMIT, instance},
    contract::{BOTH, Via, acme_app, prebuilt, with},
    engine, eventually_ok,
    ignite::{Builder, Ignite},
    probe,
};

const LOG: &str = "cannot reach the database at db:5432";

/// An image that ends as soon as it is started.
async fn exits() -> String {
    probe::image_with(&[("PROBE_EXIT_AT_START", "3"), ("PROBE_LOG", LOG)]).await
}

/// An image that listens and never becomes ready.
async fn hangs() -> String {
    probe::image_with(&[("PROBE_HEALTH_STATUS", "500"), ("PROBE_LOG", "up")]).await
}

async fn events(ignite: &Ignite, app: &App) -> Vec<String> {
    let (status, answer) = app.api(ignite, Method::GET, "/events", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let events = answer["events"].as_array().cloned().unwrap_or_default();
    let line = |e: &Value| format!("{} {}", e["type"].as_str().unwrap_or(""), e["message"]);
    events.iter().map(line).collect()
}

/// Publishes without waiting for the end.
fn publishing(ignite: &Arc<Ignite>, app: &App) -> JoinHandle<(StatusCode, Value)> {
    let (ignite, app) = (ignite.clone(), app.clone());
    tokio::spawn(async move { app.publish(&ignite).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn at_zero_a_version_that_does_not_start_leaves_the_one_that_works() {
    let ignite = Ignite::builder().start().await;
    for (via, name) in [(Via::Grpc, "grpc"), (Via::Json, "json")] {
        let app = App::deploy(
            &ignite,
            &format!("acme/{name}"),
            json!({ "env": { "PROBE_VERSION": "one" } }),
        )
        .await;
        app.save_image(&ignite, &exits().await).await;
        let refused = ignite
            .refused(via, "PublishDraft", &app.token, acme_app(name))
            .await;
        refused.is(14, 503, "CONTAINER_EXITED", &["exit code 3", LOG]);
        assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
        assert_eq!(app.version(&ignite).await, "one");
        let list = ignite
            .ok(via, "ListAppVersions", &app.token, acme_app(name))
            .await;
        let versions = list["versions"].as_array().expect("some");
        assert_eq!(versions.len(), 1, "no version was made: {list}");
        let told = events(&ignite, &app).await;
        assert!(
            told.iter()
                .any(|e| e.starts_with("PUBLISH_FAILED") && e.contains("exit code 3")),
            "{told:?}"
        );

        // The number goes to the next version that becomes ready; its replica is up already.
        let good = probe::image_with(&[("PROBE_LOG", name)]).await;
        let (status, answer) = app.publish_image(&ignite, &good).await;
        assert_eq!(
            (status, &answer["version"]["version"]),
            (StatusCode::OK, &json!(2)),
            "{answer}"
        );
        let answer = app.get_ok(&ignite, "/").await;
        assert!(answer.header("x-ignite-cold-start").is_none(), "{answer:?}");

        // A rollback is checked in the same way.
        app.update(&ignite, json!({ "env": {} })).await;
        let (status, _) = app.publish_unchecked(&ignite).await;
        assert_eq!(status, StatusCode::OK);
        app.save_image(&ignite, &exits().await).await;
        let (status, _) = app.publish_unchecked(&ignite).await;
        assert_eq!(status, StatusCode::OK);
        let back = with(acme_app(name), json!({ "version": 1 }));
        ignite.ok(via, "RollbackApp", &app.token, back).await;
        let broken = with(acme_app(name), json!({ "version": 4 }));
        let refused = ignite
            .refused(via, "RollbackApp", &app.token, broken.clone())
            .await;
        refused.is(14, 503, "CONTAINER_EXITED", &["exit code 3"]);
        assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
        let anyway = with(broken, json!({ "skip_ready_check": true }));
        ignite.ok(via, "RollbackApp", &app.token, anyway).await;
        assert_eq!(app.figure(&ignite, "activeVersion").await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_version_that_does_not_start_leaves_the_app_unpublished() {
    let ignite = Ignite::builder().start().await;
    for (via, name) in [(Via::Grpc, "grpc"), (Via::Json, "json")] {
        let app = App::create(&ignite, &format!("acme/{name}"), Value::Null).await;
        app.save_image(&ignite, &exits().await).await;
        let refused = ignite
            .refused(via, "PublishDraft", &app.token, acme_app(name))
            .await;
        refused.is(14, 503, "CONTAINER_EXITED", &["exit code 3", LOG]);
        let meta = ignite.ok(via, "GetApp", &app.token, acme_app(name)).await["app"].clone();
        assert!(
            meta.get("activeVersion").is_none() && meta.get("publicUrls").is_none(),
            "{meta}"
        );
        ignite
            .ok(via, "GetDraftInfo", &app.token, acme_app(name))
            .await;
        assert_eq!(app.get(&ignite, "/").await.status, StatusCode::NOT_FOUND);
        let call = with(acme_app(name), json!({ "http": { "path": "/" } }));
        let unpublished = ignite.refused(via, "InvokeAsync", &app.token, call).await;
        unpublished.is(9, 400, "NOT_PUBLISHED", &[]);
        assert!(
            events(&ignite, &app)
                .await
                .iter()
                .any(|e| e.starts_with("PUBLISH_FAILED")),
            "it can be read why"
        );
        engine::wait_for_none(&ignite).await;

        // The opt-out makes it the active version anyway.
        let anyway = with(acme_app(name), json!({ "skip_ready_check": true }));
        ignite.ok(via, "PublishDraft", &app.token, anyway).await;
        assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
        let answer = app.get(&ignite, "/").await;
        assert_eq!(answer.header("x-ignite-error"), Some("CONTAINER_EXITED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_a_check_loses_no_request_of_replicas_that_are_up() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let old = instance(&app.get_ok(&ignite, "/").await);
    app.save_image(&ignite, &exits().await).await;
    let (status, answer) = app.publish_unchecked(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(app.figure(&ignite, "activeVersion").await, 2);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), old);
    // The version that fixes it takes over as soon as it is ready.
    let good = probe::image_with(&[("PROBE_VERSION", "mended")]).await;
    let (status, answer) = app.publish_image(&ignite, &good).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(app.version(&ignite).await, "mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_goes_on_when_its_caller_leaves() {
    let ignite = Ignite::builder().start().await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    let slow = probe::image_with(&[("PROBE_START_DELAY_MS", "1500")]).await;
    app.save_image(&ignite, &slow).await;
    let leaver = ignite
        .request(Method::POST, "/v1/ignite/app/acme/a/draft/publish")
        .token(&app.token)
        .json(&json!({}));
    let leaver = tokio::spawn(leaver.send());
    app.wait_for(&ignite, "startingReplicas", 1).await;
    leaver.abort();
    app.wait_for(&ignite, "activeVersion", 1).await;
    app.get_ok(&ignite, "/").await;
}

async fn begun(ignite: &Ignite, app: &App, times: usize) {
    eventually_ok(ENGINE_LIMIT, || async {
        let all = events(ignite, app).await;
        let n = all.iter().filter(|e| e.starts_with("REPLICA_STARTING"));
        match n.count() {
            n if n >= times => Ok(()),
            _ => Err(format!("{all:?}")),
        }
    })
    .await;
}

/// It used to wait behind the publish for as long as a start may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_settings_mends_a_publish_that_is_stuck() {
    let ignite = Arc::new(Ignite::builder().start().await);
    for (name, up) in [("first", false), ("next", true)] {
        let app = if !up {
            App::create(&ignite, &format!("acme/{name}"), Value::Null).await
        } else {
            App::deploy(&ignite, &format!("acme/{name}"), Value::Null).await
        };
        if up {
            app.get_ok(&ignite, "/").await;
        }
        app.save_image(&ignite, &hangs().await).await;
        let stuck = publishing(&ignite, &app);
        begun(&ignite, &app, 1 + usize::from(up)).await;
        // Settings that need no new container restart nothing and apply at once.
        app.update(
            &ignite,
            json!({ "description": "new", "allowUnauthenticated": true }),
        )
        .await;
        assert!(!stuck.is_finished());
        if up {
            let stranger = ignite.request(Method::GET, &format!("/_app/acme/{name}/"));
            assert_eq!(stranger.send().await.expect("an answer").status, 200);
        }
        let mended = json!({ "env": { "PROBE_HEALTH_STATUS": "200", "PROBE_VERSION": "mended" } });
        app.update(&ignite, mended).await;
        let (status, answer) = stuck.await.expect("no panic");
        assert_eq!(status, StatusCode::OK, "{answer}");
        let version = 1 + u64::from(up);
        assert_eq!(answer["version"]["version"], version, "{answer}");
        assert_eq!(app.version(&ignite).await, "mended");
        let all = events(&ignite, &app).await;
        let begun = all.iter().filter(|e| e.starts_with("PUBLISHING"));
        assert_eq!(begun.count(), 2, "{all:?}");
        let (_, got) = app.api(&ignite, Method::GET, "", Value::Null).await;
        assert_eq!(got["app"]["description"], "new", "{got}");
        let (_, kept) = app
            .api(
                &ignite,
                Method::GET,
                &format!("/versions/{version}"),
                Value::Null,
            )
            .await;
        assert_eq!(kept["version"]["status"], "VERSION_STATUS_ACTIVE", "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_were_changed_during_a_check_that_fails_reach_what_serves() {
    let ignite = Arc::new(Ignite::builder().start().await);
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    app.get_ok(&ignite, "/").await;
    app.save_image(&ignite, &hangs().await).await;
    let stuck = publishing(&ignite, &app);
    begun(&ignite, &app, 2).await;
    app.update(&ignite, json!({ "env": { "PROBE_VERSION": "changed" } }))
        .await;
    begun(&ignite, &app, 3).await;
    // Broken code ends the publish; the settings apply to the serving version.
    app.save_image(&ignite, &exits().await).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let (status, answer) = stuck.await.expect("no panic");
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    eventually_ok(ENGINE_LIMIT, || async {
        let answer = app.get_ok(&ignite, "/").await;
        match answer.header("x-probe-version") {
            Some("changed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_or_another_publish_ends_a_check_at_once() {
    let ignite = Arc::new(Ignite::builder().start().await);
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    for end in ["publish", "delete"] {
        app.save_image(&ignite, &hangs().await).await;
        let stuck = {
            let (ignite, token) = (ignite.clone(), app.token.clone());
            tokio::spawn(async move {
                ignite
                    .refused(Via::Grpc, "PublishDraft", &token, acme_app("a"))
                    .await
            })
        };
        app.wait_for(&ignite, "startingReplicas", 1).await;
        let (status, answer) = match end {
            "publish" => app.publish_image(&ignite, &probe::image().await).await,
            _ => app.api(&ignite, Method::DELETE, "", Value::Null).await,
        };
        assert_eq!(status, StatusCode::OK, "{end}: {answer}");
        let aborted = stuck.await.expect("no panic");
        aborted.is(10, 409, "ABORTED", &["came between", "acme/a"]);
    }
    assert!(ignite.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_it_a_version_is_refused_with_that() {
    let ignite = Ignite::builder()
        .env("IGNITE_REPLICA_BUDGET", "1")
        .env("IGNITE_ROOM_WAIT", "1s")
        .start()
        .await;
    let busy = json!({ "scaling": { "reservedCapacity": 1 } });
    let busy = App::deploy(&ignite, "acme/busy", busy).await;
    busy.wait_for(&ignite, "runningReplicas", 1).await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    for via in BOTH {
        let refused = ignite
            .refused(via, "PublishDraft", &app.token, acme_app("a"))
            .await;
        refused.is(8, 429, "NO_ROOM", &["acme/busy"]);
    }
    assert_eq!(app.figure(&ignite, "activeVersion").await, 0);
}

/// The same image, labelled as for another processor.
async fn foreign() -> String {
    let docker = engine::docker().await;
    ignite_kit::image::for_platform(&docker, &probe::image().await, "linux", "arm64", "v8")
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_processor_is_refused_by_both_names_unless_that_is_allowed() {
    let image = foreign().await;
    let ignite = Ignite::builder().start().await;
    let app = App::create(&ignite, "acme/a", json!({ "code": prebuilt(&image) })).await;
    for via in BOTH {
        for rpc in ["PublishDraft", "TestDraft"] {
            let refused = ignite.refused(via, rpc, &app.token, acme_app("a")).await;
            refused.is(
                9,
                400,
                "FAILED_PRECONDITION",
                &["linux/arm64/v8", "linux/amd64", "IGNITE_ALLOW_FOREIGN_ARCH"],
            );
        }
    }
    let ignite = Ignite::builder()
        .env("IGNITE_ALLOW_FOREIGN_ARCH", "true")
        .start()
        .await;
    let app = App::create(&ignite, "acme/a", json!({ "code": prebuilt(&image) })).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("linux/arm64/v8"), "{answer}");
}

/// Warnings used to go only to the server's log.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_should_know_comes_with_the_answer_and_is_shown() {
    let ignite = Ignite::builder().start().await;
    let image = probe::root_image().await;
    let settings = json!({
        "code": prebuilt(&image), "ports": [8080], "limits": { "cpuMillicores": 256_000 },
    });
    let words = ["runs as root", "exposes [80]", "256000 millicores"];
    for (via, name) in [(Via::Grpc, "grpc"), (Via::Json, "json")] {
        let app = App::create(&ignite, &format!("acme/{name}"), settings.clone()).await;
        let published = ignite
            .ok(via, "PublishDraft", &app.token, acme_app(name))
            .await;
        let warnings = published["warnings"].to_string();
        for word in words {
            assert!(warnings.contains(word), "no {word:?} in {published}");
        }
        let told = events(&ignite, &app).await;
        assert!(
            told.iter()
                .any(|e| e.starts_with("WARNING") && e.contains("256000")),
            "{told:?}"
        );
        // A change reports only new warnings.
        let change = with(
            acme_app(name),
            json!({ "limits": { "cpu_millicores": 100 } }),
        );
        let changed = ignite.ok(via, "UpdateAppConfig", &app.token, change).await;
        assert!(changed.get("warnings").is_none(), "{changed}");
        let change = with(
            acme_app(name),
            json!({ "limits": { "cpu_millicores": 300_000 } }),
        );
        let changed = ignite.ok(via, "UpdateAppConfig", &app.token, change).await;
        let warnings = changed["warnings"].as_array().expect("one");
        assert!(
            warnings.len() == 1 && warnings[0].to_string().contains("300000 millicores"),
            "{changed}"
        );
    }
    let deploy = [
        "app",
        "deploy",
        "acme:cli",
        "--image-ref",
        &image,
        "--cpu",
        "256000",
        "--port",
        "8080",
    ];
    let output = ignite.cli(&deploy);
    let err = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{err}");
    for word in words {
        let shown = err
            .lines()
            .any(|l| l.starts_with("warning: ") && l.contains(word));
        assert!(shown, "no {word:?} in {err}");
    }
}

async fn cli(ignite: &Arc<Ignite>, args: &[&str]) -> JoinHandle<(Option<i32>, String, String)> {
    let mut command = ignite.client(args);
    tokio::task::spawn_blocking(move || {
        let output = command.output().expect("the binary runs");
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("text"),
            String::from_utf8(output.stderr).expect("text"),
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_the_start_and_its_end() {
    let ignite = Arc::new(Ignite::builder().start().await);
    let slow = probe::image_with(&[
        ("PROBE_START_DELAY_MS", "1500"),
        ("PROBE_LOG", "loading the model"),
    ])
    .await;
    let deploy = ["app", "deploy", "acme:a", "--image-ref", &slow];
    let (code, out, err) = cli(&ignite, &deploy).await.await.expect("no panic");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("a-acme.ignite.localhost"), "{out}");
    for word in ["| loading the model", "is being started", "at version 1"] {
        assert!(err.contains(word), "no {word:?} in {err}");
    }
    let broken = exits().await;
    let deploy = ["app", "deploy", "acme:a", "--image-ref", &broken];
    let (code, out, err) = cli(&ignite, &deploy).await.await.expect("no panic");
    assert_eq!((code, out.as_str()), (Some(9), ""), "{err}");
    for word in ["CONTAINER_EXITED", "exit code 3", LOG] {
        assert!(err.contains(word), "no {word:?} in {err}");
    }
    let anyway = [&deploy[..], &["--no-wait"]].concat();
    let (code, _, err) = cli(&ignite, &anyway).await.await.expect("no panic");
    assert_eq!(code, Some(0), "{err}");
    let app = App {
        org: "acme".to_owned(),
        name: "a".to_owned(),
        token: ignite.token("acme"),
    };
    assert_eq!(app.figure(&ignite, "activeVersion").await, 2);
}

/// A server whose connections go through a proxy that can cut them.
fn patient() -> Builder {
    Ignite::builder().env("IGNITE_STARTUP_TIMEOUT_SECS", "60")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_hears_of_the_end_although_its_call_broke() {
    let ignite = Arc::new(patient().start().await);
    let cut = crate::support::cut::Cut::before(ignite.grpc_addr()).await;
    let endpoint = cut.addr().to_string();
    for (image, code, word) in [
        (
            probe::image_with(&[("PROBE_START_DELAY_MS", "4000")]).await,
            0,
            "at version 1",
        ),
        (
            probe::image_with(&[
                ("PROBE_START_DELAY_MS", "4000"),
                ("PROBE_EXIT_AT_START", "3"),
            ])
            .await,
            1,
            "exit code 3",
        ),
    ] {
        let deploy = [
            "--api-endpoint",
            &endpoint,
            "--debug",
            "app",
            "deploy",
            "acme:a",
            "--image-ref",
            &image,
        ];
        let running = cli(&ignite, &deploy).await;
        let app = App {
            org: "acme".to_owned(),
            name: "a".to_owned(),
            token: ignite.token("acme"),
        };
        eventually_ok(ENGINE_LIMIT, || async {
            let (_, state) = app.api(&ignite, Method::GET, "/state", Value::Null).await;
            match state["startingReplicas"].as_u64() {
                Some(1) => Ok(()),
                _ => Err(state),
            }
        })
        .await;
        cut.all();
        let ended = tokio::time::timeout(Duration::from_secs(120), running).await;
        let (ended, _, err) = ended.expect("it ends").expect("no panic");
        assert!(err.contains("The call broke"), "{err}");
        assert_eq!(ended, Some(code), "{err}");
        assert!(err.contains(word), "{err}");
    }
}
