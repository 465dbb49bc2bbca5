//! Containers across a stop, a kill and a restart, and what `ignite prune` removes.

use std::time::Duration;

use hyper::{Method, StatusCode};
use ignite_kit::owned;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, is_cold},
    engine::{self, PruneGuard},
    eventually_ok,
    ignite::Ignite,
};

/// The longest clean stop of a server whose containers end at once.
const STOP_LIMIT: Duration = crate::support::HANGS;

async fn deployed(ignite: &Ignite, id: &str) -> App {
    App::deploy(ignite, id, Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_leaves_is_adopted_by_the_next_start() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let app = deployed(&ignite, "acme/stays").await;
    let before = instance(&app.get_ok(&ignite, "/").await);
    let containers = engine::running(&ignite).await;
    ignite.kill9();
    assert_eq!(
        engine::running(&ignite).await,
        containers,
        "nobody stops it"
    );

    ignite.start().await;
    // Sent at once: a request that arrives before the adoption is complete waits for it.
    let answer = app.get_ok(&ignite, "/").await;
    assert_eq!(instance(&answer), before);
    assert!(!is_cold(&answer));
    assert_eq!(engine::running(&ignite).await, containers);
    assert_eq!(engine::created(&ignite).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matches_no_app_or_an_old_configuration_is_removed_by_the_next_start() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let changed = deployed(&ignite, "acme/changed").await;
    changed.get_ok(&ignite, "/").await;
    let [old] = &engine::running(&ignite).await[..] else {
        panic!("one replica runs")
    };
    let old = old.clone();
    // The new configuration takes longer to start than this test: the old replica serves on.
    let slow = json!({ "env": { "PROBE_START_DELAY_MS": "600000" } });
    changed.update(&ignite, slow).await;
    changed.wait_for(&ignite, "startingReplicas", 1).await;
    let deleted = deployed(&ignite, "acme/deleted").await;
    // A request in flight delays the removal of the deleted app's container.
    let mut stream = deleted.get_ok(&ignite, "/stream/100000/100").await;
    stream.chunk().await.expect("a chunk").expect("whole");
    let mut delete = Box::pin(deleted.api(&ignite, Method::DELETE, "", Value::Null));
    let gone = eventually_ok(ENGINE_LIMIT, || async {
        match deleted.get(&ignite, "/").await.status {
            StatusCode::NOT_FOUND => Ok(()),
            status => Err(status),
        }
    });
    tokio::select! {
        answer = &mut delete => panic!("the delete did not wait: {answer:?}"),
        () = gone => {}
    }
    drop(delete);
    let left = eventually_ok(ENGINE_LIMIT, || async {
        match engine::running(&ignite).await {
            three if three.len() == 3 => Ok(three),
            other => Err(format!("{other:?} run")),
        }
    })
    .await;
    ignite.kill9();
    assert_eq!(engine::running(&ignite).await, left);

    ignite.start().await;
    eventually_ok(ENGINE_LIMIT, || async {
        match &ignite.containers().await[..] {
            [one] if one.id.as_ref() != Some(&old) => Ok(()),
            other => Err(format!("{} containers are left", other.len())),
        }
    })
    .await;
    assert_eq!(engine::running(&ignite).await.len(), 1);
    assert_eq!(
        changed.figure(&ignite, "startingReplicas").await,
        1,
        "the one that matches the new configuration is kept on its way"
    );
}

/// A container that lacks a network required since would keep serving without it.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_settings_of_the_platform_have_made_is_not_adopted() {
    let _guard = PruneGuard::no_prune().await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut first = Ignite::builder().data_dir(dir.path()).start().await;
    let app = deployed(&first, "acme/elsewhere").await;
    let before = instance(&app.get_ok(&first, "/").await);
    first.kill9();
    let next = Ignite::builder()
        .data_dir(dir.path())
        .env("IGNITE_PIDS_LIMIT", "77");
    let next = next.start().await;
    let answer = app.get_ok(&next, "/").await;
    assert_ne!(instance(&answer), before);
    assert!(is_cold(&answer));
    assert_eq!(engine::running(&next).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_replicas_leaves_them_running_for_the_next_start() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().arg("--keep-replicas").start().await;
    // Several apps, because the fault that once stopped them on shutdown was a race.
    let mut apps = Vec::new();
    for n in 1..=4 {
        let app = deployed(&ignite, &format!("acme/kept-{n}")).await;
        let serving = instance(&app.get_ok(&ignite, "/").await);
        apps.push((app, serving));
    }
    let containers = engine::running(&ignite).await;
    assert!(ignite.terminate(STOP_LIMIT).await.success());
    assert_eq!(engine::running(&ignite).await, containers);
    ignite.start().await;
    for (app, serving) in apps {
        let answer = app.get_ok(&ignite, "/").await;
        assert_eq!(instance(&answer), serving);
        assert!(!is_cold(&answer));
    }
    assert_eq!(engine::running(&ignite).await, containers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_finishes_what_is_in_flight_and_removes_containers_and_network() {
    let mut ignite = Ignite::builder().start().await;
    let app = deployed(&ignite, "acme/stopping").await;
    let mut stream = app.get_ok(&ignite, "/stream/15/100").await;
    stream.chunk().await.expect("a chunk").expect("whole");
    assert_eq!(engine::networks(&ignite).await.len(), 1);
    let new = app.request(&ignite, Method::GET, "/");
    ignite.signal(Signal::TERM);
    eventually_ok(STOP_LIMIT, || async {
        match tokio::net::TcpStream::connect(ignite.http_addr()).await {
            Ok(_) => Err("it still accepts"),
            Err(_) => Ok(()),
        }
    })
    .await;
    new.send().await.expect_err("nothing new is accepted");
    let rest: String = (2..=15).map(|n| format!("chunk {n}\n")).collect();
    assert_eq!(stream.text().await, rest);

    assert!(ignite.wait(STOP_LIMIT).await.success());
    assert!(ignite.containers().await.is_empty());
    assert!(engine::networks(&ignite).await.is_empty());
    // The apps are still there.
    ignite.start().await;
    assert!(is_cold(&app.get_ok(&ignite, "/").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_what_dead_instances_left_and_spares_the_others() {
    let _guard = PruneGuard::prune().await;
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().canonicalize().expect("it exists").join("data");
    let mut dead = Ignite::builder().data_dir(&data_dir).start().await;
    let app = deployed(&dead, "acme/orphan").await;
    app.get_ok(&dead, "/").await;
    dead.kill9();
    std::fs::remove_dir_all(&data_dir).expect("nobody uses it");

    let alive = Ignite::builder().start().await;
    let kept_app = deployed(&alive, "acme/alive").await;
    let serving = instance(&kept_app.get_ok(&alive, "/").await);
    let mut kept = Ignite::builder().arg("--keep-replicas").start().await;
    let waiting = deployed(&kept, "acme/waiting").await;
    waiting.get_ok(&kept, "/").await;
    assert!(kept.terminate(STOP_LIMIT).await.success());

    let output = alive.cli(&["prune"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let line = format!("of {}", data_dir.display());
    assert!(
        said.lines().any(
            |l| l.starts_with("removed 1 container and 1 network of instance ")
                && l.ends_with(&line)
        ),
        "{said}"
    );
    // What stays is reported with its reason.
    for (ignite, why) in [(&alive, "runs"), (&kept, "--keep-replicas")] {
        let dir = format!("of {}: ", ignite.data_dir().display());
        let told = |l: &&str| l.starts_with("kept ") && l.contains(&dir) && l.contains(why);
        assert!(said.lines().any(|l| told(&l)), "{said}");
    }
    let docker = engine::docker().await;
    let left = owned::leases(&docker, &data_dir).await;
    assert!(left.expect("a list").is_empty());
    let left = owned::containers(&docker, &data_dir, true).await;
    assert!(left.expect("a list").is_empty());
    let left = owned::networks(&docker, &data_dir).await;
    assert!(left.expect("a list").is_empty());
    assert_eq!(instance(&kept_app.get_ok(&alive, "/").await), serving);
    assert_eq!(engine::running(&kept).await.len(), 1, "left on purpose");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_a_data_directory_is_refused_with_the_pid_of_the_first() {
    let ignite = Ignite::builder().start().await;
    let dir = ignite.data_dir().to_owned();
    // Not through a builder, which would remove the first server's containers at its end.
    let mut second = tokio::process::Command::new(env!("CARGO_BIN_EXE_ignite"));
    second
        .args(["serve", "--http-addr", "127.0.0.1:0", "--grpc-addr"])
        .args(["127.0.0.1:0", "--data-dir"])
        .arg(&dir)
        .kill_on_drop(true);
    let output = second.output().await.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "no ready line");
    let pid = format!("process {}", ignite.ready().pid);
    assert!(
        said.contains(&pid) && said.contains(&dir.display().to_string()),
        "{said}"
    );
    let answer = ignite.request(Method::GET, "/healthz").send().await;
    assert_eq!(answer.expect("an answer").status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_leaves_no_container_network_or_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let data_dir = parent.path().join("run");
    let ignite = Ignite::builder().data_dir(&data_dir).arg("--ephemeral");
    let mut ignite = ignite.start().await;
    let app = deployed(&ignite, "acme/once").await;
    app.get_ok(&ignite, "/").await;
    assert!(data_dir.exists());
    assert_eq!(engine::networks(&ignite).await.len(), 1);
    assert!(ignite.terminate(STOP_LIMIT).await.success());
    assert!(!data_dir.exists());
    assert!(ignite.containers().await.is_empty());
    assert!(engine::networks(&ignite).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_right_after_the_start_leaves_no_network() {
    let mut ignite = Ignite::builder().start().await;
    // Kills during the network's creation, as near as steps of this size get.
    for ms in [20, 50, 80] {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        assert!(ignite.terminate(STOP_LIMIT).await.success());
        assert!(engine::networks(&ignite).await.is_empty(), "after {ms} ms");
        ignite.start().await;
    }
}
