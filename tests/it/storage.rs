//! How long the files of an app live.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, read, write},
    contract::{BOTH, merge},
    engine::{self, PruneGuard, volumes},
    eventually_ok,
    ignite::Ignite,
    probe,
};

const FILE: &str = "/home/ignite/note";

fn persistent() -> Value {
    json!({ "storageMode": "STORAGE_MODE_PERSISTENT" })
}

async fn wait_for_volumes(ignite: &Ignite, wanted: usize) {
    eventually_ok(ENGINE_LIMIT, || async {
        match volumes(ignite).await {
            now if now.len() == wanted => Ok(()),
            now => Err(format!("{now:?} instead of {wanted}")),
        }
    })
    .await;
}

async fn delete(ignite: &Ignite, app: &App) {
    let (status, answer) = app.api(ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_files_outlive_replicas_publishes_standby_and_crashes_until_the_app_goes() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", persistent()).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    assert_eq!(write(&ignite, &app, "/tmp/note", "lost").await, Ok(()));
    let kept = Ok("kept".to_owned());
    for depth in ["paused", "prepared", "absent"] {
        for step in ["idle", "wait"] {
            let output = ignite.cli(&["app", step, "acme:a", "--depth", depth]);
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(read(&ignite, &app, FILE).await, kept, "{depth}");
    }
    // A surge replica uses the volume at the same time as the serving one.
    let next = probe::image_with(&[("PROBE_VERSION", "next")]).await;
    let (status, answer) = app.publish_image(&ignite, &next).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(read(&ignite, &app, FILE).await, kept);
    assert!(read(&ignite, &app, "/tmp/note").await.is_err());
    // A test of the draft neither sees nor changes it.
    let test = json!({ "http": { "method": "HTTP_METHOD_GET", "path": format!("/read{FILE}") } });
    let (status, answer) = app.api(&ignite, Method::POST, "/draft/test", test).await;
    assert_eq!(
        (status, &answer["result"]["statusCode"]),
        (StatusCode::OK, &json!(409)),
        "{answer}"
    );

    ignite.kill9();
    ignite.start().await;
    assert_eq!(read(&ignite, &app, FILE).await, kept);
    ignite.terminate(ENGINE_LIMIT).await;
    assert_eq!(volumes(&ignite).await.len(), 1);
    ignite.start().await;
    assert_eq!(read(&ignite, &app, FILE).await, kept);
    assert_eq!(write(&ignite, &app, FILE, "changed").await, Ok(()));

    delete(&ignite, &app).await;
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
    // A new app of the same name starts empty.
    let app = App::deploy(&ignite, "acme/a", persistent()).await;
    assert!(read(&ignite, &app, FILE).await.is_err());
    assert_eq!(write(&ignite, &app, FILE, "new").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_image_fill_a_new_volume_and_never_an_old_one() {
    let ignite = Ignite::builder().start().await;
    let app = App::create(&ignite, "acme/a", persistent()).await;
    let home = [("HOME", "/home/app")];
    for (content, expected) in [("one", "one"), ("two", "one changed")] {
        let image = probe::image_with_files(&[("/home/app/seed", content)], &home).await;
        let (status, answer) = app.publish_image(&ignite, &image).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let found = read(&ignite, &app, "/home/app/seed").await;
        assert_eq!(found, Ok(expected.to_owned()));
        let changed = write(&ignite, &app, "/home/app/seed", "one changed").await;
        assert_eq!(changed, Ok(()));
    }
    // An image without a home shares the same files.
    let (status, answer) = app.publish_image(&ignite, &probe::image().await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let found = read(&ignite, &app, "/home/ignite/seed").await;
    assert_eq!(found, Ok("one changed".to_owned()));
    assert_eq!(write(&ignite, &app, FILE, "new").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_volume_and_a_change_of_mode_takes_effect_at_once() {
    let ignite = Ignite::builder().start().await;
    for via in BOTH {
        let name = format!("{via:?}").to_lowercase();
        let token = ignite.token("acme");
        let id = json!({ "organization_name": "acme", "app_name": name });
        let settings = json!({ "scaling": { "maxReplicas": 2, "reservedCapacity": 2 } });
        let app = App::deploy(&ignite, &format!("acme/{name}"), settings).await;
        let mut change = id.clone();
        merge(
            &mut change,
            json!({ "storage_mode": "STORAGE_MODE_PERSISTENT" }),
        );
        let changed = ignite.ok(via, "UpdateAppConfig", &token, change).await;
        assert_eq!(changed["app"]["storageMode"], "STORAGE_MODE_PERSISTENT");
        eventually_ok(ENGINE_LIMIT, || async {
            write(&ignite, &app, FILE, "shared").await?;
            match volumes(&ignite).await.len() {
                1 => Ok(()),
                n => Err(format!("{n} volumes")),
            }
        })
        .await;
        // Both replicas with the new storage are up, and each reads what one wrote.
        eventually_ok(ENGINE_LIMIT, || async {
            let (_, listed) = app
                .api(&ignite, Method::GET, "/replicas", Value::Null)
                .await;
            let ready = |r: &&Value| r["state"] == "ready";
            let all = listed["replicas"].as_array().cloned().unwrap_or_default();
            match all.iter().filter(ready).count() {
                2 if all.len() == 2 => Ok(()),
                _ => Err(listed.to_string()),
            }
        })
        .await;
        assert_eq!(write(&ignite, &app, FILE, "shared").await, Ok(()));
        // Concurrent requests go to different replicas.
        let slow = app.request(&ignite, Method::GET, "/sleep/1000");
        let slow = tokio::spawn(slow.send());
        eventually_ok(ENGINE_LIMIT, || async {
            match app.figure(&ignite, "inFlight").await {
                1 => Ok(()),
                n => Err(format!("{n} in flight")),
            }
        })
        .await;
        let answer = app.get_ok(&ignite, &format!("/read{FILE}")).await;
        let other = instance(&answer);
        assert_eq!(answer.text().await, "shared");
        let busy = slow.await.expect("no panic").expect("an answer");
        assert_ne!(instance(&busy), other);
        delete(&ignite, &app).await;
        wait_for_volumes(&ignite, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_a_time_to_live_goes_when_the_app_is_not_used_for_it() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "pause")
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_STORAGE_TTL_SECS", "3")
        .env("IGNITE_UPKEEP_INTERVAL", "200ms")
        .start()
        .await;
    let scaling = json!({ "scaledownPeriodSecs": 1 });
    let ttl = json!({ "storageMode": "STORAGE_MODE_TTL", "scaling": scaling });
    let app = App::deploy(&ignite, "acme/ttl", ttl).await;
    let mut forever = persistent();
    merge(&mut forever, json!({ "scaling": scaling }));
    let keeper = App::deploy(&ignite, "acme/keeper", forever).await;
    for app in [&app, &keeper] {
        assert_eq!(write(&ignite, app, FILE, "kept").await, Ok(()));
    }
    assert_eq!(volumes(&ignite).await.len(), 2);
    // While in use it stays beyond its time to live. A machine that stalled for so long has not
    // used it.
    let time_to_live = Duration::from_secs(3);
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < time_to_live + Duration::from_secs(1) {
        let asked = Instant::now();
        match read(&ignite, &app, FILE).await {
            Ok(found) => assert_eq!(found, "kept"),
            Err(why) => {
                assert!(last.elapsed() >= time_to_live, "{why}");
                assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
            }
        }
        last = asked;
    }
    // Then its frozen replica lets go of it.
    wait_for_volumes(&ignite, 1).await;
    assert!(volumes(&ignite).await[0].contains("keeper"));
    assert!(read(&ignite, &app, FILE).await.is_err());
    let used = Instant::now();
    assert_eq!(write(&ignite, &app, FILE, "again").await, Ok(()));
    // The time to live also runs while the platform is down.
    ignite.terminate(ENGINE_LIMIT).await;
    let left = volumes(&ignite).await.len();
    assert!(left == 2 || used.elapsed() >= time_to_live, "{left}");
    ignite.start().await;
    wait_for_volumes(&ignite, 1).await;
    assert_eq!(read(&ignite, &keeper, FILE).await, Ok("kept".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_may_have_a_time_to_live_of_its_own() {
    let _guard = PruneGuard::no_prune().await;
    let ignite = Ignite::builder()
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_UPKEEP_INTERVAL", "200ms")
        .start()
        .await;
    let settings = |ttl: u32| {
        json!({
            "storageMode": "STORAGE_MODE_TTL", "storageTtlSecs": ttl,
            "scaling": { "scaledownPeriodSecs": 1 },
        })
    };
    let short = App::deploy(&ignite, "acme/short", settings(1)).await;
    let long = App::deploy(&ignite, "acme/long", settings(0)).await;
    for app in [&short, &long] {
        assert_eq!(write(&ignite, app, FILE, "kept").await, Ok(()));
    }
    wait_for_volumes(&ignite, 1).await;
    assert!(volumes(&ignite).await[0].contains("long"));
    // It goes with the mode that it is for.
    let id = json!({ "organization_name": "acme", "app_name": "short" });
    for via in BOTH {
        let ttl = ignite.ok(via, "GetApp", &short.token, id.clone()).await;
        assert_eq!(ttl["app"]["storageTtlSecs"], 1, "{ttl}");
        for (change, word) in [
            (json!({ "storage_ttl_secs": 400_000_000 }), "ten years"),
            (
                json!({ "storage_ttl_secs": 5, "storage_mode": "STORAGE_MODE_EPHEMERAL" }),
                "STORAGE_MODE_TTL",
            ),
        ] {
            let mut update = id.clone();
            merge(&mut update, change);
            let refused = ignite.refused(via, "UpdateAppConfig", &short.token, update);
            let refused = refused.await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[word]);
            assert_eq!(refused.fields, ["storage_ttl_secs"]);
        }
    }
    short.update(&ignite, persistent()).await;
    let now = ignite.ok(BOTH[0], "GetApp", &short.token, id).await;
    assert!(now["app"].get("storageTtlSecs").is_none(), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_leaves_files_that_somebody_can_come_back_to() {
    let _guard = PruneGuard::prune().await;
    let other = tempfile::tempdir().expect("a directory");
    let mut ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/a", persistent()).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    ignite.kill9();
    let dir = ignite.data_dir().to_owned();
    let instance = std::fs::read_to_string(dir.join("instance")).expect("it has one");
    let instance = instance.trim();
    let prune = |args: &[&str]| {
        let output = ignite.cli(&[&["prune"], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    prune(&[]);
    assert_eq!(ignite.containers().await.len(), 0);
    assert_eq!(volumes(&ignite).await.len(), 1);
    // Nor does an unreadable identity turn the files into leftovers.
    let moved = other.path().join("moved");
    std::fs::rename(dir.join("instance"), &moved).expect("it moves");
    let hint = format!("ignite prune --volumes {instance}");
    let said = prune(&[]);
    assert!(said.contains(&hint), "{said}");
    assert_eq!(volumes(&ignite).await.len(), 1);
    let said = prune(&["--volumes", instance]);
    assert!(said.contains("removed 1 volume of"), "{said}");
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
    assert!(engine::networks(&ignite).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_not_to_be_kept_any_more_are_found_on_the_way_back() {
    let ignite = Ignite::builder()
        .env("IGNITE_UPKEEP_INTERVAL", "50ms")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", persistent()).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    for (mode, there) in [("EPHEMERAL", false), ("PERSISTENT", true)] {
        let mode = json!({ "storageMode": format!("STORAGE_MODE_{mode}") });
        app.update(&ignite, mode).await;
        eventually_ok(ENGINE_LIMIT, || async {
            match read(&ignite, &app, FILE).await {
                found if found.is_ok() == there => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }
    assert_eq!(volumes(&ignite).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_loses_no_files() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_UPKEEP_INTERVAL", "50ms")
        .env("IGNITE_LOG", "info,ignite::gc=debug")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", persistent()).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    ignite.terminate(ENGINE_LIMIT).await;
    let store = ignite.data_dir().join("store");
    let aside = ignite.data_dir().join("store-aside");
    std::fs::rename(&store, &aside).expect("it moves");
    ignite.start().await;
    // The upkeep has seen it more than once.
    eventually_ok(ENGINE_LIMIT, || async {
        match ignite.log().matches("is left alone").count() {
            0 | 1 => Err("it was not looked at"),
            _ => Ok(()),
        }
    })
    .await;
    ignite.terminate(ENGINE_LIMIT).await;
    std::fs::remove_dir_all(&store).expect("it goes");
    std::fs::rename(&aside, &store).expect("it moves back");
    ignite.start().await;
    assert_eq!(read(&ignite, &app, FILE).await, Ok("kept".to_owned()));
    // After a crash the next start removes a volume that the delete could not.
    let docker = engine::docker().await;
    let held = hold_volume(&docker, &volumes(&ignite).await[0]).await;
    delete(&ignite, &app).await;
    assert_eq!(volumes(&ignite).await.len(), 1, "somebody has it");
    ignite.kill9();
    let force = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true);
    let removed = docker.remove_container(&held, Some(force.build())).await;
    removed.expect("it goes");
    ignite.start().await;
    wait_for_volumes(&ignite, 0).await;
}

/// Runs a foreign container that uses a volume and returns its id.
async fn hold_volume(docker: &bollard::Docker, volume: &str) -> String {
    let mount = bollard::models::Mount {
        source: Some(volume.to_owned()),
        target: Some("/held".to_owned()),
        typ: Some(bollard::models::MountType::VOLUME),
        ..Default::default()
    };
    let body = bollard::models::ContainerCreateBody {
        image: Some(probe::image().await),
        host_config: Some(bollard::models::HostConfig {
            mounts: Some(vec![mount]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let none = None::<bollard::query_parameters::CreateContainerOptions>;
    let made = docker.create_container(none, body).await;
    made.expect("a container").id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_platform_leaves_no_volume() {
    let mut ignite = Ignite::builder().arg("--ephemeral").start().await;
    let output = ignite.cli(&["app", "create", "local:a", "--storage", "persistent"]);
    assert!(output.status.success(), "{output:?}");
    let app = App {
        org: "local".to_owned(),
        name: "a".to_owned(),
        token: ignite.token("local"),
    };
    let (status, answer) = app.publish_image(&ignite, &probe::image().await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    assert_eq!(volumes(&ignite).await.len(), 1);
    ignite.terminate(ENGINE_LIMIT).await;
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
}
