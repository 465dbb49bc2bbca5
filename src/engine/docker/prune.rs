//! `ignite prune`: lists what instances have in the engine, and removes it.
//!
//! It lists the objects of every instance. The caller decides whether an instance is gone, since
//! the caller can see processes and directories.
//!
//! Seals do not help here: only the data directory of an instance has the key. Networks and volumes
//! have the labels that they were made with. A container may have its labels from its image, such
//! as an operator's own container of an image that a tenant wrote; so it counts only if its name
//! begins with our prefix. Images count by their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use bollard::query_parameters::ListContainersOptions;

use super::{
    Address, Client, Connector, ContainerId, DEFAULT_CALL_TIMEOUT, Error, build, engine_volumes,
    instance_lease, isolation, labels, network, relay, remove_container, standby, states,
};
use crate::model::{InstanceId, instance_lease::Lease};

/// An instance that has something in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceOfOthers {
    /// Its id, from the label.
    pub id: String,
    /// Its data directory on the machine where it ran; `None` when no label has it.
    pub data_dir: Option<PathBuf>,
    /// The processes that made its containers and networks; after a restart there are several.
    pub pids: BTreeSet<u32>,
    /// Its leases; a crash between two beats can leave two.
    pub leases: Vec<Lease>,
    /// Whether it has a lease that a newer `ignite` made and that cannot be read.
    pub unreadable_lease: bool,
    /// How many containers it has.
    pub containers: usize,
    /// How many networks it has.
    pub networks: usize,
    /// How many anonymous volumes of containers it has.
    pub volumes: usize,
    /// How many volumes with files of apps it has.
    pub kept_volumes: usize,
    /// How many names of images that it built exist.
    pub images: usize,
}

/// An instance and the names of its objects.
#[derive(Default)]
pub struct Remains {
    /// The instance.
    pub instance: InstanceOfOthers,
    containers: Vec<ContainerId>,
    networks: Vec<String>,
    volumes: Vec<String>,
    kept_volumes: Vec<String>,
    leases: Vec<String>,
    images: Vec<String>,
    /// Whether one of its networks is behind rules.
    has_rules: bool,
}

/// The client of `ignite prune`.
pub struct Pruner {
    client: Client,
}

impl Pruner {
    /// Finds the engine; `host` is as in [`super::Config::host`].
    ///
    /// # Errors
    /// When the address is bad.
    pub fn new(host: Option<&str>) -> Result<Self, Error> {
        let address = Address::find(host, |name| std::env::var(name).ok())?;
        let client = Client::new(
            Connector::new(address),
            DEFAULT_CALL_TIMEOUT,
            Default::default(),
        );
        Ok(Self { client })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the engine is on this machine, judged by its address.
    pub fn is_local(&self) -> bool {
        self.client.connector().address().is_unix()
    }

    /// Removes the images of relays that no container uses.
    pub async fn remove_relay_images(&self) {
        relay::remove_unused(&self.client, None).await;
    }

    /// The engine's time in Unix seconds; `None` when it does not report one.
    ///
    /// # Errors
    /// When the engine does not respond.
    pub async fn time(&self) -> Result<Option<i64>, Error> {
        instance_lease::time(&self.client).await
    }

    /// Everything that instances have in the engine, by their ids.
    ///
    /// # Errors
    /// When the engine does not list it.
    pub async fn find(&self) -> Result<BTreeMap<String, Remains>, Error> {
        find_all(&self.client).await
    }

    /// Removes an instance's containers, then its network, the volumes of its containers and its
    /// leases; with `files` also what an owner could come back to: the volumes of apps, and the
    /// images that were built. Returns what could not be removed, one sentence each; a failure does
    /// not stop the rest.
    pub async fn remove(&self, remains: &Remains, files: bool) -> Vec<String> {
        let client = &self.client;
        let mut failures = Vec::new();
        let id = &remains.instance.id;
        // Podman removes no container in whose network another one is, so some need a second turn.
        let mut left = Vec::new();
        for container in &remains.containers {
            standby::thaw_orphan(client, container).await;
            if remove_container(client, container).await.is_err() {
                left.push(container);
            }
        }
        for container in left {
            let outcome = remove_container(client, container).await;
            failures.extend(failure("container", &container.0, id, outcome));
        }
        failures.extend(self.remove_networks(remains).await);
        let mut note = |kind, name: &str, outcome| {
            failures.extend(failure(kind, name, id, outcome));
        };
        let kept = remains.kept_volumes.iter().filter(|_| files);
        for name in remains.volumes.iter().chain(kept).chain(&remains.leases) {
            note("volume", name, engine_volumes::remove(client, name).await);
        }
        for tag in remains.images.iter().filter(|_| files) {
            note("image", tag, build::remove(client, tag).await);
        }
        failures
    }

    /// Removes an instance's networks, and its rules once none is left. Returns what could not be
    /// removed, one sentence each.
    pub async fn remove_networks(&self, remains: &Remains) -> Vec<String> {
        let mut failures = Vec::new();
        let id = &remains.instance.id;
        for name in &remains.networks {
            let outcome = network::remove(&self.client, name).await;
            failures.extend(failure("network", name, id, outcome));
        }
        // A container that is still on a network, such as the step of a build that is being ended,
        // keeps the rules in place.
        if let Ok(instance) = id.parse::<InstanceId>()
            && remains.has_rules
            && failures.is_empty()
            && self.is_local()
        {
            let outcome = isolation::remove_rules_of(&instance).await;
            failures.extend(failure("table", &format!("ignite_{id}"), id, outcome));
        }
        failures
    }
}

/// A sentence about what could not be removed.
fn failure(kind: &str, name: &str, id: &str, outcome: Result<(), Error>) -> Option<String> {
    let cause = outcome.err()?;
    Some(format!("{kind} {name} of instance {id} stays: {cause}"))
}

impl InstanceOfOthers {
    /// Whether it has objects that only its running process needs.
    pub fn has_running_parts(&self) -> bool {
        self.containers + self.networks + self.volumes > 0
    }

    /// Whether it has files that an owner could come back to.
    pub fn has_files(&self) -> bool {
        self.kept_volumes + self.images > 0
    }
}

async fn find_all(client: &Client) -> Result<BTreeMap<String, Remains>, Error> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(instance_lease::all()),
        ..ListContainersOptions::default()
    };
    // Leases are listed last, so that an instance that starts meanwhile is seen to be alive.
    let containers = client
        .run("list containers", |docker| async move {
            states::in_dockers_words(docker.list_containers(Some(options)).await)
        })
        .await?;
    let networks = network::list(client, instance_lease::all()).await?;
    let built = build::all(client).await?;
    let volumes = engine_volumes::list_all(client, instance_lease::all()).await?;

    let mut all = BTreeMap::<String, Remains>::new();
    for container in containers {
        let names = container.names.as_deref().unwrap_or_default();
        let labels = container.labels.as_ref();
        let maker = labels.and_then(|l| labels::maker_of_container(names, l));
        if let (Some(found), Some(id)) = (entry(&mut all, maker), container.id) {
            found.instance.containers += 1;
            found.containers.push(ContainerId(id));
        }
    }
    for network in networks {
        let maker = network.labels.as_ref().and_then(labels::maker);
        let Some(found) = entry(&mut all, maker) else {
            continue;
        };
        let instance = found.instance.id.parse::<InstanceId>();
        found.has_rules |= instance.is_ok_and(|i| network::is_behind_rules(&network, &i));
        if let Some(id) = network.id {
            found.instance.networks += 1;
            found.networks.push(id);
        }
    }
    for (name, labels) in volumes {
        let Some(found) = entry(&mut all, labels::maker(&labels)) else {
            continue;
        };
        if labels::is_lease(&labels) {
            match labels::lease(&labels) {
                Some(lease) => found.instance.leases.push(lease),
                None => found.instance.unreadable_lease = true,
            }
            found.leases.push(name);
        } else if labels::kept_for(&labels).is_some() {
            found.instance.kept_volumes += 1;
            found.kept_volumes.push(name);
        } else {
            found.instance.volumes += 1;
            found.volumes.push(name);
        }
    }
    for (id, built) in built {
        let found = all.entry(id.clone()).or_default();
        found.instance.id = id;
        found.instance.data_dir = found.instance.data_dir.take().or(built.data_dir);
        found.instance.images = built.tags.len();
        found.images = built.tags;
    }
    Ok(all)
}

/// The entry of the instance that made something.
fn entry(
    all: &mut BTreeMap<String, Remains>,
    maker: Option<labels::Maker>,
) -> Option<&mut Remains> {
    let (id, data_dir, pid) = maker?;
    let found = all.entry(id.clone()).or_default();
    found.instance.id = id;
    found.instance.data_dir = found.instance.data_dir.take().or(data_dir);
    found.instance.pids.extend(pid);
    Some(found)
}
