//! Published versions, and rolling back to them.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, instance},
    contract::{BOTH, Via, acme_app, prebuilt, with},
    engine, eventually_ok,
    ignite::Ignite,
    load::Load,
    probe,
};

fn numbers(page: &Value) -> Vec<u64> {
    let versions = page["versions"].as_array().cloned().unwrap_or_default();
    let number = |v: &Value| v["version"].as_u64().expect("a number");
    versions.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_newest_first_read_and_their_code_told() {
    let ignite = Ignite::builder().start().await;
    let image = probe::image().await;
    let other = probe::image_with(&[("PROBE_VERSION", "2")]).await;
    let app = App::deploy(
        &ignite,
        "acme/a",
        json!({ "resourceTier": "RESOURCE_TIER_SMALL" }),
    )
    .await;
    app.update(&ignite, json!({ "resourceTier": "RESOURCE_TIER_LARGE" }))
        .await;
    for image in [&other, &image] {
        let (status, answer) = app.publish_image(&ignite, image).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let token = &app.token;
    for via in BOTH {
        let all = ignite
            .ok(via, "ListAppVersions", token, acme_app("a"))
            .await;
        assert_eq!(numbers(&all), [3, 2, 1]);
        assert!(all.get("nextCursor").is_none(), "{all}");
        let states: Vec<_> = all["versions"].as_array().expect("some").iter().collect();
        assert_eq!(states[0]["status"], "VERSION_STATUS_ACTIVE");
        assert_eq!(states[1]["status"], "VERSION_STATUS_SUPERSEDED");
        assert_eq!(states[0]["resourceTier"], "RESOURCE_TIER_LARGE");
        assert_eq!(states[2]["resourceTier"], "RESOURCE_TIER_SMALL");
        assert_eq!(states[0]["codeHash"], states[2]["codeHash"]);
        assert_ne!(states[0]["codeHash"], states[1]["codeHash"]);

        let first = with(acme_app("a"), json!({ "limit": 2 }));
        let first = ignite.ok(via, "ListAppVersions", token, first).await;
        assert_eq!(numbers(&first), [3, 2]);
        let next = with(
            acme_app("a"),
            json!({ "limit": 2, "cursor": first["nextCursor"] }),
        );
        let next = ignite.ok(via, "ListAppVersions", token, next).await;
        assert_eq!(numbers(&next), [1]);
        assert!(next.get("nextCursor").is_none(), "{next}");

        let one = with(acme_app("a"), json!({ "version": 2 }));
        let got = ignite.ok(via, "GetAppVersion", token, one.clone()).await;
        assert_eq!(&got["version"], states[1]);
        assert_eq!(got["version"]["imageRef"], other.as_str());
        assert!(got["version"].get("runtime").is_none(), "{got}");
        let first = with(acme_app("a"), json!({ "version": 1 }));
        let first = ignite.ok(via, "GetAppVersion", token, first).await["app"].clone();
        assert_eq!(first["resourceTier"], "RESOURCE_TIER_SMALL", "{first}");
        assert_eq!(
            (&first["version"], &first["activeVersion"]),
            (&json!(1), &json!(3))
        );
        assert_eq!(first["updatedAtMs"], states[2]["createdAtMs"]);
        let now = ignite.ok(via, "GetApp", token, acme_app("a")).await["app"].clone();
        assert_eq!(now["resourceTier"], "RESOURCE_TIER_LARGE", "{now}");
        assert_eq!(first["publicUrls"], now["publicUrls"]);

        let code = ignite.ok(via, "GetAppCode", token, acme_app("a")).await;
        let expected = json!({ "image": { "prebuilt": { "imageRef": image } } });
        assert_eq!(code["code"], expected, "the draft");
        assert_eq!(code["codeKind"], "CODE_KIND_IMAGE");
        assert!(code.get("version").is_none(), "{code}");
        let code = match via {
            Via::Grpc => ignite.ok(via, "GetAppCode", token, one).await,
            Via::Json => {
                let (status, code) = app
                    .api(&ignite, Method::GET, "/code/versions/2", Value::Null)
                    .await;
                assert_eq!(status, StatusCode::OK, "{code}");
                code
            }
        };
        assert_eq!(code["version"], 2);
        assert_eq!(code["codeHash"], states[1]["codeHash"]);
        assert_eq!(
            code["code"]["image"]["prebuilt"]["imageRef"],
            other.as_str()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_versions_cursors_and_callers_are_refused() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let bare = json!({ "organization_name": "acme", "name": "bare" });
    ignite.ok(Via::Json, "CreateApp", &app.token, bare).await;
    let (token, stranger) = (&app.token, ignite.token("other"));
    for via in BOTH {
        for rpc in ["GetAppVersion", "RollbackApp"] {
            let zero = with(acme_app("a"), json!({ "version": 0 }));
            let zero = ignite.refused(via, rpc, token, zero).await;
            zero.is(3, 400, "INVALID_ARGUMENT", &["from 1"]);
            assert_eq!(zero.fields, ["version"]);
            let seven = with(acme_app("a"), json!({ "version": 7 }));
            let seven = ignite.refused(via, rpc, token, seven).await;
            seven.is(5, 404, "NOT_FOUND", &["no version 7", "newest is 1"]);
            let none = with(acme_app("bare"), json!({ "version": 1 }));
            let none = ignite.refused(via, rpc, token, none).await;
            none.is(
                5,
                404,
                "NOT_FOUND",
                &["acme/bare", "nothing has been published"],
            );
        }
        for rpc in [
            "GetAppVersion",
            "RollbackApp",
            "ListAppVersions",
            "GetAppCode",
        ] {
            let fields = |name| match rpc {
                "ListAppVersions" | "GetAppCode" => acme_app(name),
                _ => with(acme_app(name), json!({ "version": 1 })),
            };
            let gone = ignite.refused(via, rpc, token, fields("nope")).await;
            gone.is(5, 404, "NOT_FOUND", &["acme/nope"]);
            let foreign = ignite.refused(via, rpc, &stranger, fields("a")).await;
            foreign.is(7, 403, "PERMISSION_DENIED", &["acme"]);
            let nobody = ignite.refused(via, rpc, "", fields("a")).await;
            nobody.is(16, 401, "UNAUTHENTICATED", &[]);
        }
        for (wrong, field) in [
            (json!({ "cursor": "x!" }), "cursor"),
            (json!({ "limit": -1 }), "limit"),
        ] {
            let wrong = with(acme_app("a"), wrong);
            let wrong = ignite.refused(via, "ListAppVersions", token, wrong).await;
            wrong.is(3, 400, "INVALID_ARGUMENT", &[]);
            assert_eq!(wrong.fields, [field]);
        }
        let none = ignite
            .refused(via, "GetAppCode", token, acme_app("bare"))
            .await;
        none.is(5, 404, "NOT_FOUND", &["no draft"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_restores_code_and_settings_but_not_who_may_call() {
    let ignite = Ignite::builder().start().await;
    for (via, name) in [(Via::Grpc, "grpc"), (Via::Json, "json")] {
        let settings = json!({ "env": { "PROBE_VERSION": "one" }, "allowUnauthenticated": true });
        let app = App::deploy(&ignite, &format!("acme/{name}"), settings).await;
        let next = probe::image_with(&[("PROBE_LOG", "two")]).await;
        let change = json!({
            "env": { "PROBE_VERSION": "two" }, "allowUnauthenticated": false, "description": "new",
            "limits": { "memoryMb": 100 },
        });
        app.update(&ignite, change).await;
        let (status, answer) = app.publish_image(&ignite, &next).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let two = app.get_ok(&ignite, "/").await;
        assert_eq!(two.header("x-probe-version"), Some("two"));

        let back = with(acme_app(name), json!({ "version": 1 }));
        let done = ignite.ok(via, "RollbackApp", &app.token, back).await;
        assert_eq!(done, json!({ "activeVersion": 1, "previousVersion": 2 }));
        let one = app.get_ok(&ignite, "/").await;
        assert_eq!(one.header("x-probe-version"), Some("one"));
        let meta = ignite.ok(via, "GetApp", &app.token, acme_app(name)).await["app"].clone();
        assert_eq!(meta["activeVersion"], 1);
        assert_eq!(meta["limits"]["memoryMb"], 512);
        assert!(meta.get("description").is_none(), "{meta}");
        assert!(
            meta.get("allowUnauthenticated").is_none(),
            "it stays closed: {meta}"
        );

        // A rollback to the active version reverts later configuration.
        app.update(&ignite, json!({ "limits": { "memoryMb": 90 } }))
            .await;
        let again = with(acme_app(name), json!({ "version": 1 }));
        let done = ignite.ok(via, "RollbackApp", &app.token, again).await;
        assert_eq!(done, json!({ "activeVersion": 1, "previousVersion": 1 }));
        let meta = ignite.ok(via, "GetApp", &app.token, acme_app(name)).await["app"].clone();
        assert_eq!(meta["limits"]["memoryMb"], 512);

        // Versions count on from the newest, not from the active one.
        let (_, answer) = app.publish(&ignite).await;
        assert_eq!(answer["version"]["version"], 3, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_survives_a_crash_of_the_platform() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let app = App::deploy(
        &ignite,
        "acme/kept",
        json!({ "env": { "PROBE_VERSION": "one" } }),
    )
    .await;
    app.update(&ignite, json!({ "env": { "PROBE_VERSION": "two" } }))
        .await;
    app.publish(&ignite).await;
    let back = with(acme_app("kept"), json!({ "version": 1 }));
    ignite.ok(Via::Json, "RollbackApp", &app.token, back).await;
    ignite.kill9();
    ignite.start().await;
    let answer = app.get_ok(&ignite, "/").await;
    assert_eq!(answer.header("x-probe-version"), Some("one"));
    let list = ignite
        .ok(Via::Json, "ListAppVersions", &app.token, acme_app("kept"))
        .await;
    assert_eq!(
        list["versions"][1]["status"], "VERSION_STATUS_ACTIVE",
        "{list}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_a_version_that_cannot_run_is_refused_and_nothing_changes() {
    let ignite = Ignite::builder().start().await;
    let base = probe::image().await;
    let docker = engine::docker().await;
    let tag = |name: &'static str| bollard::query_parameters::TagImageOptions {
        repo: Some("ignite-it-moved".to_owned()),
        tag: Some(name.to_owned()),
    };
    let doomed = probe::image_with(&[("PROBE_LOG", &format!("{}", std::process::id()))]).await;
    docker
        .tag_image(&doomed, Some(tag("1")))
        .await
        .expect("a tag");
    let app = App::deploy(
        &ignite,
        "acme/a",
        json!({ "code": prebuilt("ignite-it-moved:1") }),
    )
    .await;
    let (status, answer) = app.publish_image(&ignite, &base).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let serving = instance(&app.get_ok(&ignite, "/").await);
    // The image is removed, then its name refers to another one.
    let force = bollard::query_parameters::RemoveImageOptions {
        force: true,
        ..Default::default()
    };
    for name in ["ignite-it-moved:1", doomed.as_str()] {
        docker
            .remove_image(name, Some(force.clone()), None)
            .await
            .expect("removed");
    }
    let back = || with(acme_app("a"), json!({ "version": 1 }));
    for via in BOTH {
        let gone = ignite.refused(via, "RollbackApp", &app.token, back()).await;
        gone.is(9, 400, "IMAGE_UNAVAILABLE", &["ignite-it-moved:1"]);
    }
    docker
        .tag_image(&base, Some(tag("1")))
        .await
        .expect("a tag");
    let moved = ignite
        .refused(Via::Json, "RollbackApp", &app.token, back())
        .await;
    moved.is(9, 400, "IMAGE_UNAVAILABLE", &["names another one now"]);
    docker
        .remove_image("ignite-it-moved:1", Some(force), None)
        .await
        .expect("removed");
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), serving);
    assert_eq!(app.figure(&ignite, "activeVersion").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_rolling_back_twenty_times_under_load_loses_no_request() {
    let ignite = Arc::new(Ignite::builder().start().await);
    // One replica, so that the load's own scaling does not blur the picture.
    let settings = json!({ "env": { "PROBE_VERSION": "0" }, "scaling": { "maxReplicas": 1 } });
    let app = App::deploy(&ignite, "acme/live", settings).await;
    app.get_ok(&ignite, "/").await;
    let load = Load::on(&ignite, &app);
    for round in 1..=10_u32 {
        // A publish captures the code and the settings at that moment.
        let image = probe::image_with(&[("PROBE_LOG", &format!("round {round}"))]).await;
        let (status, answer) = app.publish_image(&ignite, &image).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let published = answer["version"]["version"].as_u64().expect("a number");
        assert_eq!(published, u64::from(round) + 1);
        load.more(10).await;
        let back = json!({ "version": published - 1 });
        let (status, answer) = app.api(&ignite, Method::POST, "/rollback", back).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["activeVersion"], published - 1);
        load.more(10).await;
    }
    println!("{} requests", load.end().await);
    eventually_ok(crate::support::app::ENGINE_LIMIT, || async {
        match ignite.containers().await.len() {
            1 => Ok(()),
            n => Err(format!("{n} containers")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_shows_and_rolls_back() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    app.publish(&ignite).await;
    let run = |args: &[&str]| {
        let output = ignite.cli(args);
        let out = String::from_utf8(output.stdout).expect("text");
        let err = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), out, err)
    };
    let (code, out, err) = run(&["version", "list", "acme:a"]);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert!(
        lines[1].starts_with('2') && lines[1].contains("active"),
        "{out}"
    );
    assert!(
        lines[2].starts_with('1') && lines[2].contains("superseded"),
        "{out}"
    );
    let (_, out, _) = run(&["version", "list", "acme:a", "--limit", "1", "-o", "json"]);
    let page: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(numbers(&page), [2]);
    let (code, out, _) = run(&["version", "get", "acme:a", "1"]);
    assert!(code == Some(0) && out.contains("superseded"), "{out}");
    let (code, out, _) = run(&["version", "rollback", "acme:a", "1"]);
    assert!(code == Some(0) && out.contains("active version"), "{out}");
    assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
    let (code, out, _) = run(&["version", "code", "acme:a", "2", "-o", "json"]);
    let answer: Value = serde_json::from_str(&out).expect("json");
    assert!(code == Some(0) && answer["version"] == 2, "{out}");
    let (code, _, err) = run(&["version", "rollback", "acme:a", "9"]);
    assert!(code == Some(5) && err.contains("no version 9"), "{err}");
}
