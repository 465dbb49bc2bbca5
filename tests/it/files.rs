//! Which files apps can write: the hardening of the container contract, at every depth of standby.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, instance, read, write},
    contract::{BOTH, merge},
    engine::volumes,
    ignite::Ignite,
    probe,
};

pub(crate) async fn home(ignite: &Ignite, app: &App) -> String {
    let environment = read(ignite, app, "/proc/self/environ").await.expect("it");
    let home = environment
        .split('\0')
        .find_map(|v| v.strip_prefix("HOME="));
    home.expect("there is one").to_owned()
}

pub(crate) fn assert_read_only(outcome: Result<(), String>) {
    let why = outcome.expect_err("it was written");
    assert!(why.contains("Read-only file system"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_home_and_tmp_is_writable_and_a_process_has_no_privileges() {
    let ignite = Ignite::builder()
        .env("IGNITE_SCRATCH_PERCENT", "1")
        .start()
        .await;
    let settings = json!({ "limits": { "memoryMb": 64 }, "env": { "HOME": "/" } });
    let app = App::deploy(&ignite, "acme/a", settings).await;
    assert_eq!(home(&ignite, &app).await, "/home/ignite");
    assert_read_only(write(&ignite, &app, "/a", "x").await);
    assert_read_only(write(&ignite, &app, "/home/a", "x").await);
    for path in ["/tmp/a", "/home/ignite/a"] {
        assert_eq!(write(&ignite, &app, path, "kept").await, Ok(()));
        assert_eq!(read(&ignite, &app, path).await, Ok("kept".to_owned()));
        // A hundredth of 64 MB.
        let too_much = "x".repeat(1 << 20);
        let full = write(&ignite, &app, path, &too_much).await;
        let full = full.expect_err("it has an end");
        assert!(full.contains("No space left"), "{full}");
    }
    let status = read(&ignite, &app, "/proc/self/status").await.expect("it");
    let has = |field: &str, value: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        assert_eq!(line.map(str::trim), Some(value), "{field} in {status}");
    };
    has("NoNewPrivs:", "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        has(set, "0000000000000000");
    }
    has("Uid:", "65532\t65532\t65532\t65532");
    // It still serves on port 80.
    let urls = app.api(&ignite, Method::GET, "", Value::Null).await.1["app"]["ports"].clone();
    assert_eq!(urls, json!([80]));
    // A new container starts with new state.
    app.update(&ignite, json!({ "limits": { "memoryMb": 65 } }))
        .await;
    crate::support::eventually_ok(crate::support::app::ENGINE_LIMIT, || async {
        match read(&ignite, &app, "/tmp/a").await {
            Err(why) if why.contains("No such file") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_image_in_home_stay_and_can_be_changed() {
    let ignite = Ignite::builder().start().await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:65532:65532::/home/app:/bin/sh\n";
    let files = [("/home/app/seed", "of the image"), ("/etc/passwd", passwd)];
    let by_user = probe::image_with_files(&files, &[]).await;
    let by_env = probe::image_with_files(&files[..1], &[("HOME", "/home/app/")]).await;
    for image in [by_user, by_env] {
        let (status, answer) = app.publish_image(&ignite, &image).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(home(&ignite, &app).await, "/home/app");
        let seed = read(&ignite, &app, "/home/app/seed").await;
        assert_eq!(seed, Ok("of the image".to_owned()));
        for path in ["/home/app/seed", "/home/app/new", "/tmp/new"] {
            assert_eq!(
                write(&ignite, &app, path, "changed").await,
                Ok(()),
                "{path}"
            );
        }
        assert_read_only(write(&ignite, &app, "/etc/passwd", "x").await);
    }
    // Every replica starts with the image's files; changes are lost with it.
    let (status, _) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_root_is_chosen_per_app_and_said_to_be_refused_in_the_cloud() {
    let ignite = Ignite::builder().start().await;
    for via in BOTH {
        let name = format!("{via:?}").to_lowercase();
        let app = App::create(&ignite, &format!("acme/{name}"), Value::Null).await;
        let id = json!({ "organization_name": "acme", "app_name": name });
        let (status, answer) = app.publish_image(&ignite, &probe::root_image().await).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_read_only(write(&ignite, &app, "/a", "x").await);
        let before = instance(&app.get_ok(&ignite, "/").await);

        let mut change = id.clone();
        merge(&mut change, json!({ "writable_root_fs": true }));
        let changed = ignite.ok(via, "UpdateAppConfig", &app.token, change).await;
        assert_eq!(changed["app"]["writableRootFs"], true, "{changed}");
        // The replica is replaced.
        crate::support::eventually_ok(crate::support::app::ENGINE_LIMIT, || async {
            match instance(&app.get_ok(&ignite, "/").await) {
                now if now != before => Ok(()),
                _ => Err("the replica of before answers"),
            }
        })
        .await;
        assert_eq!(write(&ignite, &app, "/a", "x").await, Ok(()));
        let events = ignite.ok(via, "GetAppEvents", &app.token, id).await;
        let told = |word: &str| {
            let of = |e: &Value| {
                e["type"] == "REFUSED_IN_CLOUD"
                    && e["warning"] == true
                    && e["message"].as_str().is_some_and(|m| m.contains(word))
            };
            events["events"]
                .as_array()
                .is_some_and(|all| all.iter().any(of))
        };
        assert!(told("runs as root") && told("--writable-root"), "{events}");
    }
    let output = ignite.cli(&["app", "update", "acme:json", "--writable-root=false"]);
    assert!(output.status.success(), "{output:?}");
    let output = ignite.cli(&["app", "create", "acme:cli", "--writable-root", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let token = ignite.token("acme");
    for (name, expected) in [("json", Value::Null), ("cli", json!(true))] {
        let id = json!({ "organization_name": "acme", "app_name": name });
        let app = ignite.ok(BOTH[0], "GetApp", &token, id).await;
        assert_eq!(app["app"]["writableRootFs"], expected, "{app}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_dies_of_a_read_only_file_system_is_told_what_to_do() {
    let ignite = Ignite::builder().start().await;
    let env = json!({
        "PROBE_EXIT_AT_START": "3", "PROBE_LOG": "cannot open /app/x: Read-only file system",
    });
    let app = App::deploy(&ignite, "acme/a", json!({ "env": env })).await;
    let answer = app.get(&ignite, "/").await;
    assert_eq!(answer.header("x-ignite-error"), Some("CONTAINER_EXITED"));
    let text = answer.text().await;
    assert!(text.contains("--writable-root"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_platform_has_no_writable_root() {
    let ignite = Ignite::builder().arg("--strict").start().await;
    let token = ignite.token("acme");
    for via in BOTH {
        let create = json!({ "organization_name": "acme", "name": "a", "writable_root_fs": true });
        let refused = ignite.refused(via, "CreateApp", &token, create).await;
        refused.is(3, 400, "INVALID_ARGUMENT", &["strict"]);
        assert_eq!(refused.fields, ["writable_root_fs"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_asleep_is_as_hardened_as_before() {
    let ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    for (depth, kept) in [("paused", true), ("prepared", false), ("absent", false)] {
        assert_eq!(write(&ignite, &app, "/tmp/a", depth).await, Ok(()));
        let output = ignite.cli(&["app", "idle", "acme:a", "--depth", depth]);
        assert!(output.status.success(), "{output:?}");
        let output = ignite.cli(&["app", "wait", "acme:a", "--depth", depth]);
        assert!(output.status.success(), "{output:?}");
        let found = read(&ignite, &app, "/tmp/a").await;
        assert_eq!(found.is_ok(), kept, "{depth}: {found:?}");
        assert_read_only(write(&ignite, &app, "/a", "x").await);
        let written = write(&ignite, &app, "/home/ignite/a", "x").await;
        assert_eq!(written, Ok(()), "{depth}");
    }
}
