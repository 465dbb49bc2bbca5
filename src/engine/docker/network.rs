//! The instance's own bridge network: made on first use, made again when somebody removed it.
//!
//! Containers on it cannot talk to each other. The engine allows two networks of one name and
//! then refuses to start anything on either, so this process makes it once however many ask,
//! and removes surplus ones when it looks.

use std::{collections::HashMap, sync::Arc};

use bollard::{
    models::{Network, NetworkConnectRequest, NetworkCreateRequest},
    query_parameters::ListNetworksOptions,
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    Config, ContainerId, Error,
    client::{Client, gone_is_fine, has_status},
    labels,
    spec::network_name,
};

/// What is asked of the engine for `--network`, as a verb.
const JOIN_EXTRA: &str = "connect the container to the extra network";

/// Whether the instance's network is known to exist.
#[derive(Debug, Default)]
pub(super) struct InstanceNetwork {
    /// One cell per life of the network; its first user makes the network, the others wait.
    known: Mutex<Arc<OnceCell<()>>>,
}

impl InstanceNetwork {
    /// Makes the network unless it is known to exist.
    pub(super) async fn ensure(&self, client: &Client, config: &Config) -> Result<(), Error> {
        let known = Arc::clone(&self.known.lock());
        known
            .get_or_try_init(|| find_or_create(client, config))
            .await
            .copied()
    }

    /// Looks again on the next [`Self::ensure`].
    pub(super) fn forget(&self) {
        *self.known.lock() = Arc::default();
    }

    /// Removes the network.
    pub(super) async fn remove(&self, client: &Client, config: &Config) -> Result<(), Error> {
        self.forget();
        for id in find(client, config).await? {
            remove(client, &id).await?;
        }
        Ok(())
    }
}

/// Whether an error is about the instance's network not being there, or being there twice.
pub(super) fn is_to_blame(err: &Error, config: &Config) -> bool {
    let Error::Refused { message, .. } = err else {
        return false;
    };
    message.contains(&network_name(&config.instance))
        && (message.contains("not found")
            || message.contains("ambiguous")
            || message.contains("no such network"))
}

/// Makes sure that the extra network is there, which the engine itself looks for only at start.
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

/// Names the extra network in a start's error when it went away after the create.
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

/// Removes a network by id; gone is success.
pub(super) async fn remove(client: &Client, id: &str) -> Result<(), Error> {
    gone_is_fine(
        client
            .run("remove the network", |docker| async move {
                docker.remove_network(id).await
            })
            .await,
    )
}

/// Every network that passes the filter.
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

/// The ids of this instance's networks, by label and exact name, oldest first.
async fn find(client: &Client, config: &Config) -> Result<Vec<String>, Error> {
    let name = network_name(&config.instance);
    let mut found = list(client, labels::filter(&config.instance)).await?;
    found.retain(|network| network.name.as_deref() == Some(&name));
    found.sort_by(|a, b| a.created.cmp(&b.created));
    Ok(found.into_iter().filter_map(|network| network.id).collect())
}

async fn find_or_create(client: &Client, config: &Config) -> Result<(), Error> {
    let found = find(client, config).await?;
    if let Some((_, surplus)) = found.split_first() {
        for id in surplus {
            remove(client, id).await?;
        }
        return Ok(());
    }
    let request = NetworkCreateRequest {
        name: network_name(&config.instance),
        driver: Some("bridge".into()),
        options: Some(HashMap::from([(
            "com.docker.network.bridge.enable_icc".into(),
            "false".into(),
        )])),
        labels: Some(labels::of_instance(config)),
        ..NetworkCreateRequest::default()
    };
    let made = client
        .run("create the network", |docker| async move {
            docker.create_network(request).await
        })
        .await;
    match made {
        Ok(_) => {
            tracing::info!(
                network = network_name(&config.instance),
                "Created the instance's network"
            );
            Ok(())
        }
        // Refused, or answered in a way that cannot be read, and yet it is there: newer engines
        // refuse a second one of the name when a call that was given up has made the first.
        Err(Error::Refused { .. }) if !find(client, config).await?.is_empty() => Ok(()),
        Err(err) => Err(err),
    }
}
