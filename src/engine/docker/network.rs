//! The instance's bridge network: made on first use, and again after it was removed.
//!
//! Containers on it cannot talk to each other, and where rules isolate them from this host
//! (`firewall/`), its bridge has a name of our choice, by which the rules find it. The engine
//! allows two networks of one name and then refuses to start anything on either, so this process
//! makes it once however many callers ask, and removes surplus ones when it lists them.

use std::{collections::HashMap, sync::Arc};

use bollard::{
    models::{
        ContainerSummary, Network, NetworkConnectRequest, NetworkCreateRequest,
        NetworkDisconnectRequest,
    },
    query_parameters::{ListContainersOptions, ListNetworksOptions},
};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::{
    Attach, Attached, AttachedNetwork, Config, ContainerId, Error,
    client::{Client, gone_is_fine, has_status},
    firewall::{self, Admitted, Firewall, Mac},
    labels::{self, Origin, Role},
    names::{network_name, network_names},
    ranges, states,
};
use crate::model::{InstanceId, egress::Egress};

/// What the engine is asked to do for `--network`, as a verb.
const JOIN_EXTRA: &str = "connect the container to the extra network";

/// The engine's option for whether a network's containers reach each other.
const REACH_EACH_OTHER: &str = "com.docker.network.bridge.enable_icc";
/// The engine's option for the name of a network's bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// Whether the instance's network is known to exist.
#[derive(Debug, Default)]
pub(super) struct InstanceNetwork {
    /// One cell per lifetime of the network; its first user makes the network, the others wait.
    known: Mutex<Arc<OnceCell<Attached>>>,
    /// Held while the engine makes it, also when nobody waits for that any more: a removal waits.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// How containers on the network get to call apps.
pub(super) struct Calls<'a> {
    /// Says what they get.
    pub(super) attach: &'a Attach,
    /// Whether their addresses are reached from this process.
    pub(super) is_direct: bool,
}

impl InstanceNetwork {
    /// Makes the network unless it is known to exist, and the rules for its containers; returns what
    /// these get. This process's `own` container joins it.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        config: &Config,
        firewall: Option<&Firewall>,
        own: Option<&ContainerId>,
        calls: Option<Calls<'_>>,
    ) -> Result<Attached, Error> {
        let known = Arc::clone(&self.known.lock());
        let made = known.get_or_try_init(|| async {
            if let Some(firewall) = firewall {
                firewall.establish(admitted(client, config).await?).await?;
            }
            let turn = Arc::clone(&self.making).lock_owned().await;
            find_or_create(client, config, own.is_some(), turn).await?;
            if let Some(own) = own {
                join(client, config, own).await?;
            }
            if let Some(firewall) = firewall {
                firewall.check_enforced()?;
            }
            remove_other(client, config).await;
            let attached = match calls {
                Some(calls) => attach(client, config, own, calls).await,
                None => Attached::default(),
            };
            if let Some(firewall) = firewall {
                firewall.open(attached.doors.clone()).await?;
            }
            Ok(attached)
        });
        made.await.cloned()
    }

    /// Makes the next [`Self::ensure`] ask the engine again.
    pub(super) fn forget(&self) {
        *self.known.lock() = Arc::default();
    }

    /// Removes the network, and one that was made under another trust. This process's `own`
    /// container leaves it before.
    pub(super) async fn remove(
        &self,
        client: &Client,
        config: &Config,
        own: Option<&ContainerId>,
    ) -> Result<(), Error> {
        self.forget();
        let _turn = self.making.lock().await;
        for name in network_names(&config.instance) {
            for network in find(client, config, &name).await? {
                if let Some(own) = own {
                    leave(client, &network.id, own).await;
                }
                remove(client, &network.id).await?;
            }
        }
        Ok(())
    }
}

/// Asks what the network's containers get. One on which this process's address cannot be known, its
/// gateway or that of its `own` container, has nobody who serves them.
async fn attach(
    client: &Client,
    config: &Config,
    own: Option<&ContainerId>,
    calls: Calls<'_>,
) -> Attached {
    let name = network_name(config);
    let asked = name.as_str();
    let found = client
        .run("inspect the network", |docker| async move {
            docker.inspect_network(asked, None).await
        })
        .await;
    let gateway = found.as_ref().ok().and_then(|network| match own {
        Some(own) => {
            let place = network.containers.as_ref()?.get(&own.0)?;
            place.ipv4_address.as_ref()?.split('/').next()?.parse().ok()
        }
        None => {
            let ranges = network.ipam.as_ref()?.config.as_ref()?;
            ranges.iter().find_map(|r| r.gateway.as_ref()?.parse().ok())
        }
    });
    let Some(gateway) = gateway else {
        let cause = found.err().map(|e| e.to_string());
        tracing::warn!(
            network = name,
            cause,
            "The engine does not say where this host is on the instance's network: apps cannot call apps by their URLs"
        );
        return Attached::default();
    };
    let network = AttachedNetwork {
        name,
        gateway,
        is_direct: calls.is_direct,
    };
    calls.attach.ask(network).await
}

/// Whether the cause of an error is that the instance's network is missing, or exists twice.
pub(super) fn is_to_blame(err: &Error, config: &Config) -> bool {
    let Error::Refused { message, .. } = err else {
        return false;
    };
    message.contains(&network_name(config))
        && (message.contains("not found")
            || message.contains("ambiguous")
            || message.contains("no such network"))
}

/// Checks that the extra network exists, which the engine itself does only at a start.
pub(super) async fn check_extra(client: &Client, name: &str) -> Result<(), Error> {
    let found = client
        .run(JOIN_EXTRA, |docker| async move {
            docker.inspect_network(name, None).await
        })
        .await;
    match found {
        Err(err) if has_status(&err, 404) => Err(no_extra(name)),
        other => other.map(drop),
    }
}

/// Connects a created container to the extra network.
pub(super) async fn connect_extra(
    client: &Client,
    name: &str,
    id: &ContainerId,
) -> Result<(), Error> {
    let request = NetworkConnectRequest {
        container: id.0.clone(),
        endpoint_config: None,
    };
    let joined = client
        .run(JOIN_EXTRA, |docker| async move {
            docker.connect_network(name, request).await
        })
        .await;
    match joined {
        Err(err) if has_status(&err, 404) => Err(no_extra(name)),
        other => other,
    }
}

/// Names the extra network in a start's error when it was removed after the create.
pub(super) fn or_no_extra(err: Error, config: &Config) -> Error {
    match (&err, &config.extra_network) {
        (
            Error::Refused {
                status: 404,
                message,
                ..
            },
            Some(extra),
        ) if message.contains(&format!("network {extra} not found")) => no_extra(extra),
        _ => err,
    }
}

fn no_extra(name: &str) -> Error {
    Error::Refused {
        call: JOIN_EXTRA,
        status: 404,
        message: format!(
            "network {name:?} does not exist; make it with `docker network create {name}`, or leave out --network"
        ),
    }
}

/// Removes a network by id; a missing one is a success.
pub(super) async fn remove(client: &Client, id: &str) -> Result<(), Error> {
    gone_is_fine(
        client
            .run("remove the network", |docker| async move {
                docker.remove_network(id).await
            })
            .await,
    )
}

/// Every network that matches the filter.
pub(super) async fn list(
    client: &Client,
    filters: HashMap<String, Vec<String>>,
) -> Result<Vec<Network>, Error> {
    let options = ListNetworksOptions {
        filters: Some(filters),
    };
    client
        .run("list networks", |docker| async move {
            docker.list_networks(Some(options)).await
        })
        .await
}

/// Whether a network's containers, apps' or steps of builds, are behind our rules: its bridge has a
/// name that this instance's rules cover.
pub(super) fn is_behind_rules(network: &Network, instance: &InstanceId) -> bool {
    bridge_of(network).is_some_and(|bridge| firewall::is_bridge_of(bridge, instance))
}

/// The name that a network's bridge was given when it was made.
pub(super) fn bridge_of(network: &Network) -> Option<&str> {
    let options = network.options.as_ref();
    options.and_then(|o| o.get(BRIDGE_NAME)).map(String::as_str)
}

/// One of this instance's networks.
struct Found {
    id: String,
    /// Whether its containers reach each other.
    is_shared: bool,
}

/// This instance's networks of a name, by label and exact name, oldest first.
async fn find(client: &Client, config: &Config, name: &str) -> Result<Vec<Found>, Error> {
    let mut found = list(client, labels::filter(&config.instance)).await?;
    found.retain(|network| {
        network.name.as_deref() == Some(name)
            // A network of that name without our bridge would bypass the rules.
            && (config.egress.is_none()
                || name != network_name(config)
                || bridge_of(network) == Some(&firewall::bridge(&config.instance)))
    });
    found.sort_by(|a, b| a.created.cmp(&b.created));
    let found = found.into_iter().filter_map(|network| {
        let options = network.options.unwrap_or_default();
        Some(Found {
            id: network.id?,
            is_shared: options.get(REACH_EACH_OTHER).is_some_and(|v| v == "true"),
        })
    });
    Ok(found.collect())
}

/// Connects the server's own container to the instance's network.
async fn join(client: &Client, config: &Config, own: &ContainerId) -> Result<(), Error> {
    let name = network_name(config);
    let request = NetworkConnectRequest {
        container: own.0.clone(),
        endpoint_config: None,
    };
    let target = &name;
    let joined = client
        .run("join the instance's network", |docker| async move {
            docker.connect_network(target, request).await
        })
        .await;
    match joined {
        Ok(()) => {
            tracing::info!(network = name, container = %own, "This server's container joined the network of its apps");
            Ok(())
        }
        // It is on it already, since an earlier run of this container.
        Err(Error::Refused { message, .. }) if message.contains("already") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Disconnects the server's own container from a network, which can then be removed.
async fn leave(client: &Client, network: &str, own: &ContainerId) {
    let request = NetworkDisconnectRequest {
        container: own.0.clone(),
        force: None,
    };
    let left = client
        .run("leave the instance's network", |docker| async move {
            docker.disconnect_network(network, request).await
        })
        .await;
    if let Err(cause) = left {
        tracing::debug!(%cause, network, "This server's container was not on the network");
    }
}

/// Removes the network of an earlier run under another trust once no container is on it.
async fn remove_other(client: &Client, config: &Config) {
    let mut names = network_names(&config.instance).into_iter();
    let Some(other) = names.find(|name| *name != network_name(config)) else {
        return;
    };
    let removed = async {
        for network in find(client, config, &other).await? {
            remove(client, &network.id).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(cause) = removed.await {
        tracing::debug!(%cause, network = other, "The network of an earlier run stays until a stop");
    }
}

/// The containers of this instance that have an address on the network, and where they may connect
/// to. A container without a valid seal is not among them: anyone may have written its labels, so
/// it reaches nothing.
async fn admitted(client: &Client, config: &Config) -> Result<Vec<Admitted>, Error> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(labels::filter(&config.instance)),
        ..ListContainersOptions::default()
    };
    let found = client
        .run("list containers", |docker| async move {
            states::in_dockers_words(docker.list_containers(Some(options)).await)
        })
        .await?;
    let known = found
        .into_iter()
        .filter_map(|found| admission(config, found));
    Ok(known.collect())
}

/// The entry of one container in [`admitted`]; `None` lets it reach nothing.
fn admission(config: &Config, found: ContainerSummary) -> Option<Admitted> {
    let names = found.names.unwrap_or_default();
    let Origin::Ours(claims) = labels::origin(config, &names, &found.labels?) else {
        return None;
    };
    if claims.holder.is_some() {
        return None;
    }
    let is_holder = claims.role == Some(Role::Holder);
    let mac = Mac::of(&config.instance, &claims.owner?, is_holder);
    let egress = claims.egress.unwrap_or(Egress::Deny);
    let networks = found.network_settings.and_then(|s| s.networks);
    let place = networks.and_then(|mut n| n.remove(&network_name(config)));
    Some(Admitted {
        id: ContainerId(found.id?),
        mac,
        egress,
        address: place.and_then(|p| p.ip_address?.parse().ok()),
    })
}

/// Makes the network unless there is one. On one that is `shared`, containers reach each other, as
/// the server's own container and those of apps have to. `turn` ends when the engine has made it.
async fn find_or_create(
    client: &Client,
    config: &Config,
    shared: bool,
    turn: OwnedMutexGuard<()>,
) -> Result<(), Error> {
    let name = network_name(config);
    let found = find(client, config, &name).await?;
    let (usable, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|n| n.is_shared == shared);
    // Those of a run inside a container when this one is not, or the other way round.
    for network in other.iter().chain(usable.iter().skip(1)) {
        remove(client, &network.id).await?;
    }
    if !usable.is_empty() {
        return Ok(());
    }
    if shared {
        tracing::warn!(
            network = name,
            "This server runs in a container and shares a network with its apps, so they reach each other, and this server, without a token where they listen; where that matters, run it on the host, or in the host's network (--network host)"
        );
    }
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".into()),
        // The rules pass no IPv6, so containers get no such addresses.
        enable_ipv6: config.egress.as_ref().map(|_| false),
        options: Some(options_of_bridge(
            config
                .egress
                .as_ref()
                .map(|_| firewall::bridge(&config.instance)),
            shared,
        )),
        labels: Some(labels::of_instance(config)),
        ..NetworkCreateRequest::default()
    };
    // Whoever asked may be gone before the engine has finished, which a stop has to wait for.
    let (asking, free) = (client.clone(), config.free_ranges.clone());
    let making = tokio::spawn(async move {
        let made = ranges::create_network(&asking, free, "create the network", request).await;
        drop(turn);
        made
    });
    let made = making
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    match made {
        Ok(_) => {
            tracing::info!(network = name, "Created the instance's network");
            Ok(())
        }
        // The call failed or its response was unreadable, and yet the network exists: newer engines
        // refuse a second network of a name, which an abandoned call may have made.
        Err(Error::Refused { .. }) if !find(client, config, &name).await?.is_empty() => Ok(()),
        Err(err) => Err(err),
    }
}

/// The driver's options for a network on which containers reach each other only if it is `shared`.
pub(super) fn options_of_bridge(name: Option<String>, shared: bool) -> HashMap<String, String> {
    let mut options = HashMap::from([(REACH_EACH_OTHER.to_owned(), shared.to_string())]);
    options.extend(name.map(|name| (BRIDGE_NAME.to_owned(), name)));
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Owner, docker::Seal};

    #[test]
    fn only_containers_with_a_network_of_their_own_and_a_seal_that_holds_are_admitted() {
        let instance = InstanceId::from_random(7);
        let config = Config::new(instance, "/d".into(), Seal::new(&[7; 32]));
        let owner = Owner {
            app: "acme/a".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 1,
            config_hash: "abc".to_owned(),
        };
        let name = "ignite-000000000007-acme-a-0123456789";
        let found = |labels| {
            let summary = ContainerSummary {
                id: Some("id".to_owned()),
                names: Some(vec![format!("/{name}")]),
                labels: Some(labels),
                ..ContainerSummary::default()
            };
            let found = admission(&config, summary);
            found.map(|found| (found.mac, found.egress))
        };
        let sealed = |labels| labels::sealed(&config, name, labels);
        let mac = |is_holder| Mac::of(&config.instance, &owner, is_holder);
        let replica = labels::of_container(&config, &owner);
        let open = labels::with_egress(replica.clone(), &Egress::Allow);
        let holder = labels::with_egress(labels::of_holder(&config, &owner), &Egress::Unset);
        let prepared = labels::of_prepared(&config, &owner, &ContainerId("0".repeat(64)));
        for (labels, expected) in [
            (sealed(open.clone()), Some((mac(false), Egress::Allow))),
            (sealed(holder), Some((mac(true), Egress::Unset))),
            (sealed(replica.clone()), Some((mac(false), Egress::Deny))),
            (sealed(prepared), None),
            (sealed(labels::of_helper(&config, "me")), None),
            // Unsealed, as from an `ignite` before seals, and with a label changed after sealing.
            (open.clone(), None),
            (labels::with_egress(sealed(replica), &Egress::Allow), None),
        ] {
            assert_eq!(found(labels.clone()), expected, "{labels:?}");
        }
    }
}
