//! Images with forged platform labels, which claim to belong to other containers, apps or an
//! instance.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use bollard::{
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, Mount, MountType},
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use hyper::{Method, StatusCode};
use ignite_kit::owned;
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, is_cold},
    cleanup,
    engine::{self, PruneGuard},
    eventually_ok,
    ignite::Ignite,
    probe,
};

const PREFIX: &str = "io.dodil.ignite.";
const IN_NETWORK_OF: &str = "io.dodil.ignite.in-network-of";

/// Every label that the source names, for any purpose.
fn all_labels() -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source");
                let quoted = text.split("\"io.dodil.ignite.").skip(1);
                let ends = quoted.filter_map(|rest| Some(rest.split_once('"')?.0));
                labels.extend(ends.map(|end| format!("{PREFIX}{end}")));
            }
        }
    }
    assert!(
        labels.contains(IN_NETWORK_OF) && labels.len() > 15,
        "{labels:?}"
    );
    labels
}

/// All labels, set as an attacker would who knows the instance and a container.
fn hostile(ignite: &Ignite, container: &str) -> HashMap<String, String> {
    let dir = ignite.data_dir();
    let id = fs::read_to_string(dir.join("instance")).expect("it has one");
    let (id, dir) = (id.trim(), dir.to_str().expect("a path of text"));
    let value = |label: &str| match label.trim_start_matches(PREFIX) {
        "instance" | "built-by" => id.to_owned(),
        "data-dir" | "built-in" => dir.to_owned(),
        "pid" | "version" | "since" => "1".to_owned(),
        "org" => "rival".to_owned(),
        "app" => "victim".to_owned(),
        "replica" => "0123456789".to_owned(),
        "role" => "holder".to_owned(),
        "egress" => "allow".to_owned(),
        "stage" => format!("ignite-{id}/rival/victim"),
        "lease" => "{}".to_owned(),
        _ => container.to_owned(),
    };
    let pairs = all_labels().into_iter().map(|label| (value(&label), label));
    pairs.map(|(value, label)| (label, value)).collect()
}

/// An image of the probe with these labels, removed at the end.
async fn labelled(labels: &HashMap<String, String>) -> cleanup::Image {
    let mut lines = vec!["EXPOSE 80".to_owned(), "ENTRYPOINT [\"/probe\"]".to_owned()];
    lines.extend(labels.iter().map(|(k, v)| format!("LABEL {k}={v:?}")));
    lines.sort();
    cleanup::Image(probe::image_described(&lines.join("\n")).await)
}

async fn deploy(ignite: &Ignite, id: &str, image: &cleanup::Image) -> App {
    let code = json!({ "code": { "image": { "prebuilt": { "imageRef": image.0 } } } });
    App::deploy(ignite, id, code).await
}

async fn inspect(id: &str) -> ContainerInspectResponse {
    let found = engine::docker().await.inspect_container(id, None).await;
    found.unwrap_or_else(|e| panic!("{id}: {e}"))
}

async fn remove(id: &str) {
    let force = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    let docker = engine::docker().await;
    let removed = docker.remove_container(id, Some(force)).await;
    removed.expect("removed");
}

async fn only_running(ignite: &Ignite) -> String {
    let ids = engine::running(ignite).await;
    assert_eq!(ids.len(), 1, "one replica runs");
    ids[0].clone()
}

/// A container with a volume that a user runs beside the platform.
struct Beside {
    id: String,
    volume: String,
    since: Option<String>,
}

impl Beside {
    async fn start(image: &str, labels: HashMap<String, String>) -> Self {
        let volume = Mount {
            target: Some("/data".into()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            env: Some(vec!["PORT=8080".into()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                mounts: Some(vec![volume]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let docker = engine::docker().await;
        let unnamed = CreateContainerOptionsBuilder::new().build();
        let made = docker.create_container(Some(unnamed), body).await;
        let id = made.expect("made").id;
        docker.start_container(&id, None).await.expect("runs");
        let found = inspect(&id).await;
        let mounts = found.mounts.unwrap_or_default();
        Self {
            volume: mounts[0].name.clone().expect("a volume"),
            since: found.state.and_then(|s| s.started_at),
            id,
        }
    }

    /// A container of the probe's own image, removed with the directory's guard.
    async fn plain(dir: &Path) -> Self {
        let label = (owned::DATA_DIR_LABEL.to_owned(), dir.display().to_string());
        Self::start(&probe::image().await, [label].into()).await
    }

    async fn is_untouched(&self) {
        let state = inspect(&self.id).await.state.expect("a state");
        assert_eq!(state.running, Some(true));
        assert_eq!(state.started_at, self.since);
        let docker = engine::docker().await;
        let volume = docker.inspect_volume(&self.volume).await;
        volume.expect("its volume is there");
    }
}

fn directory() -> (tempfile::TempDir, PathBuf, cleanup::OnDrop) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().canonicalize().expect("there");
    (dir, path.clone(), cleanup::OnDrop(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_app_takes_no_container_with_it_that_its_image_names() {
    let _guard = PruneGuard::no_prune().await;
    let (_dir, path, _cleanup) = directory();
    let beside = Beside::plain(&path).await;
    let mut images = Vec::new();
    let mut ignite = Ignite::builder().start().await;
    let whole = hostile(&ignite, &beside.id);
    let one = |id: &str| HashMap::from([(IN_NETWORK_OF.to_owned(), id.to_owned())]);
    for labels in [whole, one(&beside.id), one(&beside.id[..12])] {
        images.push(labelled(&labels).await);
        let (n, image) = (images.len(), images.last().expect("just made"));
        let app = deploy(&ignite, &format!("evil/a{n}"), image).await;
        let before = instance(&app.get_ok(&ignite, "/").await);
        ignite.kill9();
        ignite.start().await;
        // It is adopted by the labels that the platform set.
        assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
        let (status, answer) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        engine::wait_for_none(&ignite).await;
        beside.is_untouched().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_never_prepared_in_a_network_that_its_image_names() {
    let _guard = PruneGuard::no_prune().await;
    let mut images = Vec::new();
    let mut ignite = Ignite::builder()
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .env("IGNITE_STANDBY", "prepared")
        .start()
        .await;
    let victim = App::deploy(&ignite, "rival/victim", Value::Null).await;
    let serving = instance(&victim.get_ok(&ignite, "/").await);
    let target = only_running(&ignite).await;
    for labels in [
        hostile(&ignite, &target),
        HashMap::from([(IN_NETWORK_OF.to_owned(), target.clone())]),
    ] {
        images.push(labelled(&labels).await);
        let (n, image) = (images.len(), images.last().expect("just made"));
        let evil = deploy(&ignite, &format!("evil/a{n}"), image).await;
        evil.get_ok(&ignite, "/").await;
        ignite.kill9();
        ignite.start().await;
        evil.get_ok(&ignite, "/").await;
        let to_zero = json!({ "scaling": { "scaledownPeriodSecs": 1 } });
        evil.update(&ignite, to_zero).await;
        let prepared = eventually_ok(ENGINE_LIMIT, || async {
            let (_, all) = evil
                .api(&ignite, Method::GET, "/replicas", Value::Null)
                .await;
            let all = all["replicas"].as_array().cloned().unwrap_or_default();
            let is_prepared = all.len() == 1 && all[0]["state"] == "prepared";
            let made = ignite.containers().await.into_iter();
            let mut made = made.filter(|c| c.state.is_some_and(|s| s.to_string() == "created"));
            match made.next().filter(|_| is_prepared) {
                Some(found) => Ok(found.id.expect("an id")),
                None => Err(format!("{all:?}")),
            }
        })
        .await;
        let network = inspect(&prepared)
            .await
            .host_config
            .and_then(|h| h.network_mode);
        let network = network.expect("it has one");
        let holder = network.strip_prefix("container:").expect("a holder's");
        assert_ne!(holder, target);
        assert!(engine::running(&ignite).await.iter().any(|id| id == holder));
        assert!(is_cold(&evil.get_ok(&ignite, "/").await));
        assert_eq!(instance(&victim.get_ok(&ignite, "/").await), serving);
        let (status, answer) = evil.api(&ignite, Method::DELETE, "", Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        eventually_ok(ENGINE_LIMIT, || async {
            match ignite.containers().await.len() {
                1 => Ok(()),
                n => Err(format!("{n} containers")),
            }
        })
        .await;
        assert_eq!(instance(&victim.get_ok(&ignite, "/").await), serving);
    }
}

/// Waits until the log has mentioned each this many times.
async fn told(ignite: &Ignite, beside: &[Beside], times: usize) {
    eventually_ok(ENGINE_LIMIT, || async {
        let log = ignite.log();
        let warnings = |b: &Beside| {
            let of_it = |l: &&str| l.contains("nothing proves") && l.contains(&b.id);
            log.lines().filter(of_it).count()
        };
        let counts: Vec<_> = beside.iter().map(warnings).collect();
        if counts.iter().all(|n| *n == times) {
            Ok(())
        } else {
            Err(format!("told {counts:?} times"))
        }
    })
    .await;
}

/// An image committed from one of our containers carries its labels and seal; a tenant's image can
/// copy them.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_runs_from_an_image_with_our_labels_is_neither_used_nor_removed() {
    let _guard = PruneGuard::prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_RECONCILE_INTERVAL", "100ms")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let serving = instance(&app.get_ok(&ignite, "/").await);
    let ours = only_running(&ignite).await;
    let labels = inspect(&ours).await.config.and_then(|c| c.labels);
    let copy = labelled(&labels.expect("labels")).await;
    let written = labelled(&hostile(&ignite, &ours)).await;
    let none = HashMap::new;
    let beside = [
        Beside::start(&copy.0, none()).await,
        Beside::start(&written.0, none()).await,
    ];
    told(&ignite, &beside, 1).await;
    ignite.kill9();
    ignite.start().await;
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), serving);
    told(&ignite, &beside, 2).await;
    for b in &beside {
        b.is_untouched().await;
    }
    // Nor on deletion of the app, at the server's end, or by `ignite prune`.
    let (status, answer) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(ignite.terminate(ENGINE_LIMIT).await.success());
    ignite.start().await;
    let again = App::deploy(&ignite, "acme/b", Value::Null).await;
    again.get_ok(&ignite, "/").await;
    ignite.kill9();
    assert_eq!(engine::running(&ignite).await.len(), 3);
    let pruned = ignite.cli(&["prune"]);
    assert!(pruned.status.success(), "{pruned:?}");
    let mut left = engine::running(&ignite).await;
    let mut expected: Vec<_> = beside.iter().map(|b| b.id.clone()).collect();
    left.sort_unstable();
    expected.sort_unstable();
    assert_eq!(left, expected);
    for b in &beside {
        b.is_untouched().await;
        remove(&b.id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_release_left_is_replaced_once_and_no_request_fails() {
    let _guard = PruneGuard::no_prune().await;
    let (_dir, path, _cleanup) = directory();
    let beside = Beside::plain(&path).await;
    let named = HashMap::from([(IN_NETWORK_OF.to_owned(), beside.id.clone())]);
    let image = labelled(&named).await;
    let mut ignite = Ignite::builder().start().await;
    let app = deploy(&ignite, "evil/a", &image).await;
    app.get_ok(&ignite, "/").await;
    let sealed = inspect(&only_running(&ignite).await).await;
    ignite.kill9();

    // That release set these labels, and the image's own showed through.
    let config = sealed.config.expect("one");
    let mut labels = config.labels.expect("labels");
    let set = [
        "instance",
        "data-dir",
        "pid",
        "org",
        "app",
        "version",
        "replica",
        "config-hash",
    ];
    labels.retain(|key, _| set.iter().any(|s| key.strip_prefix(PREFIX) == Some(s)));
    assert_eq!(labels.len(), set.len());
    remove(&sealed.id.expect("an id")).await;
    let body = ContainerCreateBody {
        image: config.image,
        env: config.env,
        labels: Some(labels),
        host_config: sealed.host_config,
        ..ContainerCreateBody::default()
    };
    let name = sealed.name.expect("a name");
    let options = CreateContainerOptionsBuilder::new()
        .name(name.trim_start_matches('/'))
        .build();
    let docker = engine::docker().await;
    let old = docker.create_container(Some(options), body).await;
    let old = old.expect("made").id;
    docker.start_container(&old, None).await.expect("runs");
    let shown = inspect(&old).await.config.and_then(|c| c.labels);
    assert_eq!(shown.expect("labels")[IN_NETWORK_OF], beside.id);

    ignite.start().await;
    let answer = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&answer));
    assert_ne!(only_running(&ignite).await, old);
    beside.is_untouched().await;
    ignite.kill9();
    ignite.start().await;
    let adopted = app.get_ok(&ignite, "/").await;
    assert_eq!(instance(&adopted), instance(&answer), "once");
    assert!(!is_cold(&adopted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_key_sealed_is_replaced_once_and_nobody_elses_container_is() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_STANDBY", "prepared")
        .env("IGNITE_MIN_SCALEDOWN_SECS", "1")
        .start()
        .await;
    // One serves; of another only the holder of its network and a container in that network are
    // left.
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    app.get_ok(&ignite, "/").await;
    let labels = inspect(&only_running(&ignite).await).await.config;
    let copy = labelled(&labels.and_then(|c| c.labels).expect("labels")).await;
    let idle = App::deploy(&ignite, "acme/idle", Value::Null).await;
    idle.get_ok(&ignite, "/").await;
    for step in ["idle", "wait"] {
        let output = ignite.cli(&["app", step, "acme:idle", "--depth", "prepared"]);
        assert!(output.status.success(), "{output:?}");
    }
    let ids = async |ignite: &Ignite| -> BTreeSet<String> {
        let all = ignite.containers().await.into_iter();
        all.filter_map(|c| c.id).collect()
    };
    let before = ids(&ignite).await;
    assert_eq!(before.len(), 3, "{before:?}");
    // A user runs an image committed from the app's container.
    let beside = Beside::start(&copy.0, HashMap::new()).await;
    ignite.kill9();
    let key = ignite.data_dir().join("identity/secrets.key");
    fs::remove_file(&key).expect("there is a key");

    ignite.start().await;
    let first = app.get_ok(&ignite, "/").await;
    assert!(is_cold(&first));
    eventually_ok(ENGINE_LIMIT, || async {
        let left = ids(&ignite).await;
        match before.intersection(&left).next() {
            None => Ok(()),
            Some(orphan) => Err(format!("{orphan} is left")),
        }
    })
    .await;
    beside.is_untouched().await;
    idle.get_ok(&ignite, "/").await;
    ignite.kill9();
    ignite.start().await;
    let adopted = app.get_ok(&ignite, "/").await;
    assert_eq!(instance(&adopted), instance(&first), "once");
    beside.is_untouched().await;
    remove(&beside.id).await;
}
