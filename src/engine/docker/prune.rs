//! `ignite prune`: removes what instances that are gone have left in the engine.
//! Containers and networks first, then the images that they built.
//!
//! It looks at every instance's containers and networks, whoever made them; whether an instance
//! is gone is the caller's to say, who can try the lock on its data directory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use bollard::query_parameters::ListContainersOptions;

use super::{
    Address, Client, Connector, ContainerId, DEFAULT_CALL_TIMEOUT, Error, build, labels, network,
    remove_container, standby, volumes,
};

/// An instance that has something in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceOfOthers {
    /// Its id, as the label has it.
    pub id: String,
    /// Its data directory on the machine where it ran; `None` when no label says it.
    pub data_dir: Option<PathBuf>,
    /// The processes that made its containers and networks; after a restart there are several.
    pub pids: BTreeSet<u32>,
    /// How many containers it has.
    pub containers: usize,
    /// How many networks it has.
    pub networks: usize,
    /// How many volumes it has that go with containers.
    pub volumes: usize,
    /// How many volumes it has that apps keep their files in.
    pub kept_volumes: usize,
    /// How many names of images that it built there are.
    pub images: usize,
}

/// What [`prune`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// The instances whose things were removed.
    pub removed: Vec<InstanceOfOthers>,
    /// The instances that were left alone.
    pub kept: Vec<InstanceOfOthers>,
    /// What could not be removed, and why, one sentence each.
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Found {
    instance: InstanceOfOthers,
    containers: Vec<ContainerId>,
    networks: Vec<String>,
    volumes: Vec<String>,
    kept_volumes: Vec<String>,
    images: Vec<String>,
}

/// Removes the containers, then the networks, volumes and images, of every instance that `is_gone`
/// calls gone; volumes that apps keep their files in only if `is_forgotten` says that nobody can come
/// back to them. What cannot be removed is reported and does not keep the rest from being removed.
///
/// The images of those that `needs_images` says yes to stay: their next start runs them.
///
/// `host` is the engine's address as in [`super::Config::host`].
///
/// # Errors
/// When the address is bad or the engine cannot list what it has; nothing is removed then.
pub async fn prune(
    host: Option<String>,
    is_gone: impl Fn(&InstanceOfOthers) -> bool + Send,
    is_forgotten: impl Fn(&InstanceOfOthers) -> bool + Send,
    needs_images: impl Fn(&InstanceOfOthers) -> bool + Send,
) -> Result<PruneReport, Error> {
    let address = Address::find(host.as_deref(), |name| std::env::var(name).ok())?;
    let client = Client::new(Connector::new(address), DEFAULT_CALL_TIMEOUT);
    let mut report = PruneReport::default();
    for mut found in find_all(&client).await?.into_values() {
        let gone = is_gone(&found.instance);
        if gone && is_forgotten(&found.instance) {
            found.volumes.append(&mut found.kept_volumes);
            found.instance.volumes = found.volumes.len();
            found.instance.kept_volumes = 0;
        }
        if needs_images(&found.instance) {
            found.images.clear();
            found.instance.images = 0;
        }
        if !gone || found.has_nothing_to_remove() {
            report.kept.push(found.instance);
            continue;
        }
        for id in &found.containers {
            standby::thaw_orphan(&client, id).await;
            if let Err(cause) = remove_container(&client, id).await {
                report.failures.push(format!(
                    "container {id} of instance {} stays: {cause}",
                    found.instance.id
                ));
            }
        }
        for id in &found.networks {
            if let Err(cause) = network::remove(&client, id).await {
                report.failures.push(format!(
                    "network {id} of instance {} stays: {cause}",
                    found.instance.id
                ));
            }
        }
        for name in &found.volumes {
            if let Err(cause) = volumes::remove(&client, name).await {
                report.failures.push(format!(
                    "volume {name} of instance {} stays: {cause}",
                    found.instance.id
                ));
            }
        }
        for tag in &found.images {
            if let Err(cause) = build::remove(&client, tag).await {
                report.failures.push(format!(
                    "image {tag} of instance {} stays: {cause}",
                    found.instance.id
                ));
            }
        }
        report.removed.push(found.instance);
    }
    Ok(report)
}

impl Found {
    fn has_nothing_to_remove(&self) -> bool {
        [&self.networks, &self.volumes, &self.images]
            .iter()
            .all(|names| names.is_empty())
            && self.containers.is_empty()
    }
}

async fn find_all(client: &Client) -> Result<BTreeMap<String, Found>, Error> {
    let filters = HashMap::from([("label".to_owned(), vec![labels::INSTANCE.to_owned()])]);
    let options = ListContainersOptions {
        all: true,
        filters: Some(filters.clone()),
        ..ListContainersOptions::default()
    };
    let containers = client
        .run("list containers", |docker| async move {
            docker.list_containers(Some(options)).await
        })
        .await?;
    let networks = network::list(client, filters.clone()).await?;
    let volumes = volumes::list_all(client, filters).await?;

    let mut all = BTreeMap::<String, Found>::new();
    for container in containers {
        if let (Some(found), Some(id)) = (entry(&mut all, container.labels.as_ref()), container.id)
        {
            found.instance.containers += 1;
            found.containers.push(ContainerId(id));
        }
    }
    for network in networks {
        if let (Some(found), Some(id)) = (entry(&mut all, network.labels.as_ref()), network.id) {
            found.instance.networks += 1;
            found.networks.push(id);
        }
    }
    for (name, labels) in volumes {
        let kept = labels::kept_for(&labels).is_some();
        let Some(found) = entry(&mut all, Some(&labels)) else {
            continue;
        };
        if kept {
            found.instance.kept_volumes += 1;
            found.kept_volumes.push(name);
        } else {
            found.instance.volumes += 1;
            found.volumes.push(name);
        }
    }
    for (id, built) in build::all(client).await? {
        let found = all.entry(id.clone()).or_default();
        found.instance.id = id;
        found.instance.data_dir = found.instance.data_dir.take().or(built.data_dir);
        found.instance.images = built.tags.len();
        found.images = built.tags;
    }
    Ok(all)
}

/// The entry of the instance that these labels name.
fn entry<'a>(
    all: &'a mut BTreeMap<String, Found>,
    labels: Option<&HashMap<String, String>>,
) -> Option<&'a mut Found> {
    let (id, data_dir, pid) = labels::maker(labels?)?;
    let found = all.entry(id.clone()).or_default();
    found.instance.id = id;
    found.instance.data_dir = found.instance.data_dir.take().or(data_dir);
    found.instance.pids.extend(pid);
    Some(found)
}
