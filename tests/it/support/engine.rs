//! What the engine itself reports about a server's containers, and changes behind the server's
//! back.

use std::{
    collections::HashMap,
    fs::File,
    sync::atomic::{AtomicU32, Ordering},
};

use bollard::{
    Docker,
    models::{EventMessage, EventMessageTypeEnum, VolumeCreateRequest},
    query_parameters::{EventsOptionsBuilder, RemoveVolumeOptions},
};
use futures_util::TryStreamExt;
use ignite_kit::owned;
use tokio::time::timeout;

use super::{app::ENGINE_LIMIT, eventually_ok, ignite::Ignite};

/// The engine, connected to directly.
pub(crate) async fn docker() -> Docker {
    ignite_kit::engine()
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// How many containers have ever been created for this server, including removed ones.
pub(crate) async fn created(ignite: &Ignite) -> usize {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let docker = docker().await;
    // Engines differ in what "until now" is, and Podman may leave out the last events before it; so
    // events are read until one that comes after all of them.
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let last = format!("ignite-it-events-{}-{n}", std::process::id());
    let volume = VolumeCreateRequest {
        name: Some(last.clone()),
        ..VolumeCreateRequest::default()
    };
    docker.create_volume(volume).await.expect("a volume");
    // Podman has types of events that the library does not know.
    let filters = HashMap::from([("type", vec!["container", "volume"])]);
    let options = EventsOptionsBuilder::new()
        .since("0")
        .filters(&filters)
        .build();
    let is_last = |event: &EventMessage| {
        let actor = event.actor.as_ref();
        let name = actor.and_then(|a| a.attributes.as_ref()?.get("name"));
        event.typ == Some(EventMessageTypeEnum::VOLUME)
            && (name == Some(&last) || actor.and_then(|a| a.id.as_ref()) == Some(&last))
    };
    let events = docker
        .events(Some(options))
        .try_take_while(|event| std::future::ready(Ok(!is_last(event))));
    let events: Result<Vec<_>, _> = timeout(ENGINE_LIMIT, events.try_collect())
        .await
        .expect("the engine tells its events");
    let removed = docker
        .remove_volume(&last, None::<RemoveVolumeOptions>)
        .await;
    removed.expect("the volume is removed");
    let data_dir = ignite.data_dir().display().to_string();
    // Containers that are only inspected belong to no app.
    let is_of_app = |event: &&EventMessage| {
        let labels = event.actor.as_ref().and_then(|a| a.attributes.as_ref());
        let label = |name| labels.and_then(|l| l.get(name)).filter(|v| !v.is_empty());
        event.typ == Some(EventMessageTypeEnum::CONTAINER)
            && event.action.as_deref() == Some("create")
            && label(owned::DATA_DIR_LABEL) == Some(&data_dir)
            && label("io.dodil.ignite.app").is_some()
    };
    let events = events.expect("the engine tells its events");
    events.iter().filter(is_of_app).count()
}

/// The ids of a server's running containers.
pub(crate) async fn running(ignite: &Ignite) -> Vec<String> {
    let found = owned::containers(&docker().await, ignite.data_dir(), false)
        .await
        .expect("the engine lists containers");
    let mut ids: Vec<_> = found.into_iter().filter_map(|c| c.id).collect();
    ids.sort_unstable();
    ids
}

/// Waits until none of these containers runs. A stopping process may still accept a connection and
/// not answer.
pub(crate) async fn wait_for_end_of(ignite: &Ignite, before: &[String]) {
    eventually_ok(ENGINE_LIMIT, || async {
        let now = running(ignite).await;
        if !now.iter().any(|c| before.contains(c)) {
            Ok(())
        } else {
            Err(format!("{now:?} run"))
        }
    })
    .await;
}

/// Waits until a server has no container left, running or not.
pub(crate) async fn wait_for_none(ignite: &Ignite) {
    eventually_ok(ENGINE_LIMIT, || async {
        match ignite.containers().await.len() {
            0 => Ok(()),
            n => Err(format!("{n} containers are left")),
        }
    })
    .await;
}

/// A server's networks.
pub(crate) async fn networks(ignite: &Ignite) -> Vec<String> {
    owned::networks(&docker().await, ignite.data_dir())
        .await
        .expect("the engine lists networks")
}

/// A server's volumes.
pub(crate) async fn volumes(ignite: &Ignite) -> Vec<String> {
    owned::volumes(&docker().await, ignite.data_dir())
        .await
        .expect("the engine lists volumes")
}

/// Kills a container behind the server's back.
pub(crate) async fn kill(id: &str) {
    docker()
        .await
        .kill_container(id, None)
        .await
        .expect("the container runs");
}

/// Keeps `ignite prune`, which covers the whole machine, away from tests whose server is dead for a
/// while, across processes.
pub(crate) struct PruneGuard(#[allow(dead_code, reason = "the lock goes with the file")] File);

impl PruneGuard {
    fn open() -> File {
        let path = std::env::temp_dir().join("ignite-it-prune.lock");
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .expect("a lock file")
    }

    /// No prune runs while this lives.
    pub(crate) async fn no_prune() -> Self {
        Self::wait(File::try_lock_shared).await
    }

    /// No dead server is still needed while this lives.
    pub(crate) async fn prune() -> Self {
        Self::wait(File::try_lock).await
    }

    async fn wait(lock: fn(&File) -> Result<(), std::fs::TryLockError>) -> Self {
        let file = Self::open();
        // As long as the longest of those tests may take.
        eventually_ok(ENGINE_LIMIT * 6, || std::future::ready(lock(&file))).await;
        Self(file)
    }
}
