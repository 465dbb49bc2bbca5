//! The networks of build steps where builds are isolated from this host: one per running build,
//! behind rules for builds (`firewall/`).
//!
//! A step has the engine's default capabilities, `NET_RAW` among them, so it can send any frame. On
//! a bridge with other builds it could answer for the gateway or for another build; alone on its
//! bridge it reaches the rules and nothing else. A build therefore takes a network from a pool for
//! as long as it runs, and a returned network is used again once the engine has taken its last
//! container off. The rules know each network by its bridge and its addresses before any container
//! is on it; an unknown bridge reaches nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bollard::models::{Network, NetworkCreateRequest};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Config, Error,
    client::{Client, has_status},
    firewall::{self, Firewall},
    labels, network, ranges,
};
use crate::model::InstanceId;

/// Most networks ever made: as many as two digits at the end of a bridge's name can count.
const MAX_NETWORKS: u8 = 100;
/// What the engine is asked to do, as a verb.
const CALL: &str = "make a network for the build";
/// How long the engine may take to remove the containers of a build that was ended.
const REMOVAL: Duration = Duration::from_secs(15);
/// Time between two attempts to remove the network.
const PAUSE: Duration = Duration::from_millis(100);

/// The networks of an instance's builds.
#[derive(Debug)]
pub(super) struct BuildNetworks {
    firewall: Arc<Firewall>,
    in_use: Arc<Mutex<BTreeSet<u8>>>,
}

/// A network that one build has for itself; dropping it returns it to the pool.
#[derive(Debug)]
pub(super) struct PooledNetwork {
    /// The engine's id of it: a name may belong to two networks.
    pub(super) id: String,
    _slot: Slot,
}

#[derive(Debug)]
struct Slot {
    number: u8,
    in_use: Arc<Mutex<BTreeSet<u8>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.in_use.lock().remove(&self.number);
    }
}

impl BuildNetworks {
    pub(super) fn new(firewall: Arc<Firewall>) -> Self {
        Self {
            firewall,
            in_use: Arc::default(),
        }
    }

    /// Takes an unused network, with its rules in place.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn acquire(
        &self,
        client: &Client,
        config: &Config,
    ) -> Result<PooledNetwork, Error> {
        for number in 0..MAX_NETWORKS {
            let Some(slot) = self.take_slot(number) else {
                continue;
            };
            let name = network_name(&config.instance, number);
            let bridge = firewall::build_bridge(&config.instance, number);
            let id = match find(client, config, &name, &bridge).await? {
                Some(id) => id,
                None => create(client, config, &name, &bridge).await?,
            };
            let found = client
                .run(CALL, |docker| {
                    let id = id.clone();
                    async move { docker.inspect_network(&id, None).await }
                })
                .await?;
            if found.containers.is_some_and(|on_it| !on_it.is_empty()) {
                // A build that has just been ended still uses it.
                continue;
            }
            let subnets = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
            let mut subnets = subnets.into_iter().filter_map(|one| one.subnet);
            let subnet = subnets.find_map(|subnet| subnet.parse::<Ipv4Net>().ok());
            let subnet = subnet.ok_or_else(|| refused(format!("{name} has no IPv4 addresses")))?;
            firewall::check_bridge(&bridge)?;
            self.firewall.admit_network(&bridge, subnet).await?;
            return Ok(PooledNetwork { id, _slot: slot });
        }
        Err(refused(format!(
            "all {MAX_NETWORKS} networks for builds are in use"
        )))
    }

    fn take_slot(&self, number: u8) -> Option<Slot> {
        self.in_use.lock().insert(number).then(|| Slot {
            number,
            in_use: Arc::clone(&self.in_use),
        })
    }
}

fn refused(message: String) -> Error {
    Error::Refused {
        call: CALL,
        status: 0,
        message,
    }
}

fn network_name(instance: &InstanceId, number: u8) -> String {
    format!("{}{number}", prefix(instance))
}

fn prefix(instance: &InstanceId) -> String {
    format!("ignite-{instance}-build-")
}

/// Whether this is the name of a network for builds.
fn is_named_so(network: &Network, instance: &InstanceId) -> bool {
    let name = network.name.as_deref().unwrap_or_default();
    let number = name.strip_prefix(&prefix(instance));
    number.is_some_and(|n| n.parse::<u8>().is_ok())
}

async fn find(
    client: &Client,
    config: &Config,
    name: &str,
    bridge: &str,
) -> Result<Option<String>, Error> {
    let found = network::list(client, labels::filter(&config.instance)).await?;
    let is_it = |network: &Network| {
        network.name.as_deref() == Some(name) && network::bridge_of(network) == Some(bridge)
    };
    Ok(found.into_iter().find(is_it).and_then(|network| network.id))
}

async fn create(
    client: &Client,
    config: &Config,
    name: &str,
    bridge: &str,
) -> Result<String, Error> {
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".into()),
        enable_ipv6: Some(false),
        options: Some(network::options_of_bridge(Some(bridge.to_owned()), false)),
        labels: Some(labels::of_instance(config)),
        ..NetworkCreateRequest::default()
    };
    let free = config.free_ranges.clone();
    let made = ranges::create_network(client, free, CALL, request).await?;
    tracing::info!(network = name, "Created a network for builds");
    Ok(made.id)
}

/// Removes the networks of an instance's builds, whatever `trust` they were made under. Waits for
/// steps of builds that have just been ended.
pub(super) async fn remove_all(client: &Client, config: &Config) -> Result<(), Error> {
    let mut found = network::list(client, labels::filter(&config.instance)).await?;
    found.retain(|network| is_named_so(network, &config.instance));
    let deadline = Instant::now() + REMOVAL;
    for id in found.into_iter().filter_map(|network| network.id) {
        loop {
            match network::remove(client, &id).await {
                // A container is still on it.
                Err(err) if has_status(&err, 403) && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => break other?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::docker::names,
        model::{Trust, egress::Ceiling},
    };

    #[test]
    fn no_two_builds_have_one_network() {
        let instance = InstanceId::from_random(7);
        let ceiling = Ceiling::of(Trust::Team, &"none".parse().expect("none")).expect("one");
        let firewall = Firewall::new(instance.clone(), ceiling, None);
        let networks = BuildNetworks::new(Arc::new(firewall));
        let first = networks.take_slot(0).expect("free");
        assert!(networks.take_slot(0).is_none());
        let second = networks.take_slot(1).expect("free");
        drop(first);
        assert!(networks.take_slot(0).is_some() && networks.take_slot(1).is_none());
        drop(second);
        let named = |name: &str| Network {
            name: Some(name.to_owned()),
            ..Network::default()
        };
        for number in [0, MAX_NETWORKS - 1] {
            let name = network_name(&instance, number);
            assert!(is_named_so(&named(&name), &instance), "{name}");
            assert!(firewall::build_bridge(&instance, number).len() < 16);
        }
        for name in names::network_names(&instance) {
            assert!(!is_named_so(&named(&name), &instance), "{name}");
        }
    }
}
