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
    remove_container, standby,
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
    images: Vec<String>,
}

/// Removes the containers, then the networks and the images, of every instance that `is_gone` calls gone.
/// What cannot be removed is reported and does not keep the rest from being removed.
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
    needs_images: impl Fn(&InstanceOfOthers) -> bool + Send,
) -> Result<PruneReport, Error> {
    let address = Address::find(host.as_deref(), |name| std::env::var(name).ok())?;
    let client = Client::new(Connector::new(address), DEFAULT_CALL_TIMEOUT);
    let mut report = PruneReport::default();
    for mut found in find_all(&client).await?.into_values() {
        if needs_images(&found.instance) {
            found.images.clear();
            found.instance.images = 0;
        }
        let left = found.containers.len() + found.networks.len() + found.images.len();
        if left == 0 {
            continue;
        }
        if !is_gone(&found.instance) {
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
    let networks = network::list(client, filters).await?;

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
