//! Image files in the home directory: always present, and never at the cost of a start.

use std::time::SystemTime;

use bollard::models::ContainerInspectResponse;
use hyper::{Method, StatusCode};
use ignite_kit::image::Entry;
use serde_json::{Value, json};

use crate::{
    files::{assert_read_only, home},
    support::{
        app::{App, ENGINE_LIMIT, read, write},
        code::{from_code, tar_gz},
        engine::{docker, running, volumes},
        eventually_ok,
        ignite::Ignite,
        probe,
    },
};

const SEED: &str = "of the image";
const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:65532:65532::/home/app:/bin/sh\n";

/// A container of a server that runs an app.
async fn container(ignite: &Ignite) -> ContainerInspectResponse {
    let docker = docker().await;
    eventually_ok(ENGINE_LIMIT, || async {
        for id in running(ignite).await {
            // A container of an earlier version may disappear at any moment.
            let Ok(found) = docker.inspect_container(&id, None).await else {
                continue;
            };
            let labels = found.config.as_ref().and_then(|c| c.labels.as_ref());
            let role = labels.and_then(|l| l.get("io.dodil.ignite.role"));
            if role.is_some_and(|role| role == "replica") {
                return Ok(found);
            }
        }
        Err("no app runs")
    })
    .await
}

/// Whether the engine was asked to fill a volume for this container.
async fn has_volume(ignite: &Ignite) -> bool {
    let host = container(ignite).await.host_config.expect("it has one");
    host.mounts.is_some_and(|mounts| !mounts.is_empty())
}

async fn to_depth(ignite: &Ignite, app: &str, depth: &str) {
    for step in ["idle", "wait"] {
        let output = ignite.cli(&["app", step, app, "--depth", depth]);
        assert!(output.status.success(), "{output:?}");
    }
}

fn many(count: usize) -> Vec<(String, Entry<'static>)> {
    let file = |n: usize| format!("/home/app/d{}/f{n}", n / 100);
    (0..count).map(|n| (file(n), Entry::File(SEED))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_start_copies_the_twenty_thousand_files_of_a_home() {
    let image = probe::image_with_tree(&many(20_000), &[("HOME", "/home/app")]).await;
    let ignite = Ignite::builder().start().await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for depth in ["absent", "prepared"] {
        app.get_ok(&ignite, "/").await;
        to_depth(&ignite, "acme:a", depth).await;
        let began = SystemTime::now();
        let seed = read(&ignite, &app, "/home/app/d199/f19999").await;
        eprintln!("first answer from {depth}: {:?}", began.elapsed());
        assert_eq!(seed, Ok(SEED.to_owned()));
        assert!(!has_volume(&ignite).await, "{depth}");
        for path in ["/home/app/d0/f0", "/home/app/new", "/tmp/new"] {
            let written = write(&ignite, &app, path, "changed").await;
            assert_eq!(written, Ok(()), "{path}");
        }
        assert_read_only(write(&ignite, &app, "/probe", "x").await);
    }
    // Changes are lost with the replica.
    to_depth(&ignite, "acme:a", "absent").await;
    let seed = read(&ignite, &app, "/home/app/d0/f0").await;
    assert_eq!(seed, Ok(SEED.to_owned()));
    assert!(read(&ignite, &app, "/home/app/new").await.is_err());
    assert_eq!(volumes(&ignite).await, Vec::<String>::new());
    let events = app
        .api(&ignite, Method::GET, "/events", Value::Null)
        .await
        .1;
    assert!(events.to_string().contains("home_copy_files"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_names_the_home_the_files_of_the_image_are_there_and_can_be_changed() {
    let tree = |passwd: bool| {
        let seeds = ["seed", "a", "b", "c"].map(|n| (format!("/home/app/{n}"), Entry::File(SEED)));
        let links = [
            ("/link".to_owned(), Entry::Link("/home/app")),
            ("/parent".to_owned(), Entry::Link("home")),
            ("/etc/other".to_owned(), Entry::File("x")),
        ];
        let passwd = passwd.then(|| ("/etc/passwd".to_owned(), Entry::File(PASSWD)));
        let tree = seeds.into_iter().chain(links).chain(passwd);
        tree.collect::<Vec<_>>()
    };
    let plain = probe::image_with_tree(&tree(false), &[]).await;
    let by_user = probe::image_with_tree(&tree(true), &[]).await;
    let by_env = probe::image_with_tree(&tree(false), &[("HOME", "/home//app/")]).await;
    let by_link = probe::image_with_tree(&tree(false), &[("HOME", "/link")]).await;
    let by_parent = probe::image_with_tree(&tree(false), &[("HOME", "/parent/app")]).await;
    let ways = [
        (&by_user, json!({}), "/home/app"),
        (&by_env, json!({}), "/home/app"),
        (&plain, json!({ "HOME": "/home/app/" }), "/home/app"),
        (&by_link, json!({}), "/link"),
        (&by_parent, json!({}), "/parent/app"),
        (&by_env, json!({ "HOME": "/link" }), "/link"),
    ];
    // As many files as are copied, and one too many.
    for (bound, is_copied) in [("4", true), ("3", false)] {
        let ignite = Ignite::builder()
            .env("IGNITE_HOME_COPY_FILES", bound)
            .start()
            .await;
        let app = App::create(&ignite, "acme/a", Value::Null).await;
        for (image, env, path) in &ways {
            let what = format!("{path} in {image} by {env} within {bound}");
            let clear = env.as_object().is_some_and(|env| env.is_empty());
            app.update(&ignite, json!({ "env": env, "clearEnv": clear }))
                .await;
            let (status, answer) = app.publish_image(&ignite, image).await;
            assert_eq!(status, StatusCode::OK, "{what}: {answer}");
            assert_eq!(home(&ignite, &app).await, *path, "{what}");
            for seed in [format!("{path}/seed"), "/home/app/seed".to_owned()] {
                let text = read(&ignite, &app, &seed).await;
                assert_eq!(text, Ok(SEED.to_owned()), "{what}");
            }
            for name in ["seed", "new"] {
                let written = write(&ignite, &app, &format!("{path}/{name}"), "changed").await;
                assert_eq!(written, Ok(()), "{what}");
            }
            assert_eq!(has_volume(&ignite).await, is_copied, "{what}");
            for file in ["/etc/other", "/probe"] {
                assert_read_only(write(&ignite, &app, file, "x").await);
            }
        }
        // A home of `/` is the platform's own.
        app.update(&ignite, json!({ "env": { "HOME": "/" } })).await;
        let (status, answer) = app.publish_image(&ignite, &by_env).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(home(&ignite, &app).await, "/home/ignite");
        let written = write(&ignite, &app, "/home/ignite/new", "x").await;
        assert_eq!(written, Ok(()));
        let seed = read(&ignite, &app, "/home/app/seed").await;
        assert_eq!(seed, Ok(SEED.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_kept_gets_a_large_home_once() {
    let image = probe::image_with_tree(&many(5), &[("HOME", "/home/app")]).await;
    let ignite = Ignite::builder()
        .env("IGNITE_HOME_COPY_FILES", "3")
        .start()
        .await;
    let settings = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let app = App::create(&ignite, "acme/a", settings).await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let seed = read(&ignite, &app, "/home/app/d0/f4").await;
    assert_eq!(seed, Ok(SEED.to_owned()));
    assert_read_only(write(&ignite, &app, "/probe", "x").await);
    assert_eq!(
        write(&ignite, &app, "/home/app/d0/f4", "kept").await,
        Ok(())
    );
    to_depth(&ignite, "acme:a", "absent").await;
    let kept = read(&ignite, &app, "/home/app/d0/f4").await;
    assert_eq!(kept, Ok("kept".to_owned()));
    assert_eq!(volumes(&ignite).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_platform_changes_no_home_in_place_and_says_what_to_do() {
    let image = probe::image_with_tree(&many(5), &[("HOME", "/home/app")]).await;
    let ignite = Ignite::builder()
        .arg("--strict")
        .env("IGNITE_HOME_COPY_FILES", "3")
        .start()
        .await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    // Reported by the publish or by the first request.
    let text = match status {
        StatusCode::OK => app.get(&ignite, "/").await.text().await,
        _ => answer.to_string(),
    };
    assert!(text.contains("home_copy_files"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_the_image_that_every_start_would_copy_is_told_of() {
    let ignite = Ignite::builder()
        .env("IGNITE_HOME_COPY_FILES", "3")
        .start()
        .await;
    let base = probe::image().await;
    let file = format!("FROM {base}\nCOPY . /data/\nCOPY Dockerfile /few/\nVOLUME /data /few\n");
    let seeds = ["a", "b", "c", "d"].map(|name| (name, SEED.as_bytes()));
    let mut files = vec![("Dockerfile", file.as_bytes())];
    files.extend(seeds);
    let code = from_code(&tar_gz(&files), json!({}));
    let app = App::create(&ignite, "acme/a", json!({ "code": code })).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // The log comes through a pipe, which may be behind the answer.
    let warning = eventually_ok(ENGINE_LIMIT, || async {
        let log = ignite.log();
        let warning = log.lines().find(|line| line.contains("VOLUME"));
        warning.map(str::to_owned).ok_or(log)
    })
    .await;
    assert!(warning.contains("/data"), "{warning}");
    assert!(!warning.contains("/few"), "{warning}");
}
