//! The containers of this instance, and those that only claim to be.

use std::{collections::HashSet, net::IpAddr};

use bollard::{models::ContainerSummary, query_parameters::ListContainersOptions};
use futures_util::future;
use parking_lot::Mutex;

use super::{
    Client, Config, Container, ContainerId, Docker, Error,
    labels::{self, Claims, Origin},
    read, states,
};
use crate::{engine::Engine as _, model::AppId};

/// The running containers with the instance's label, proven or not.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn running(
    client: &Client,
    config: &Config,
) -> Result<Vec<ContainerSummary>, Error> {
    let options = ListContainersOptions {
        filters: Some(labels::filter(&config.instance)),
        ..ListContainersOptions::default()
    };
    client
        .run("list containers", |docker| async move {
            states::in_dockers_words(docker.list_containers(Some(options)).await)
        })
        .await
}

/// The containers with this instance's label but without proof that the log has named already.
#[derive(Debug, Default)]
pub(super) struct UnprovenContainers(Mutex<HashSet<ContainerId>>);

impl UnprovenContainers {
    /// Those among `all`, the engine's current ones, that the log has not named yet.
    fn new_ones<'a>(&self, all: &'a [ContainerSummary]) -> Vec<&'a ContainerSummary> {
        let id = |c: &ContainerSummary| ContainerId(c.id.clone().unwrap_or_default());
        let mut known = self.0.lock();
        let new = all.iter().filter(|c| !known.contains(&id(c))).collect();
        // Only existing containers are remembered.
        *known = all.iter().map(id).collect();
        new
    }
}

impl Docker {
    /// All containers that an `ignite` made for this instance, in any state, except this process's
    /// helpers. No label is believed of those that an `ignite` before seals, or one with another
    /// key, made. Others that carry this instance's label are logged once and left alone.
    pub(super) async fn list_ours(&self) -> Result<Vec<Container>, Error> {
        let facts = self.facts().await?;
        let options = ListContainersOptions {
            all: true,
            filters: Some(labels::filter(&self.config.instance)),
            ..ListContainersOptions::default()
        };
        let answer = self
            .client
            .run("list containers", |docker| async move {
                states::in_dockers_words(docker.list_containers(Some(options)).await)
            })
            .await?;
        let attached = self.attached().await?;
        let network = self.network_name();
        let is_placed_by_us = |found: &ContainerSummary| {
            let host = found.host_config.as_ref();
            let mode = host.and_then(|host| host.network_mode.as_deref());
            labels::is_placed_by(&self.config.instance, mode)
        };
        let mut unproven = Vec::new();
        let (mut containers, mut ended) = (Vec::new(), Vec::new());
        for found in answer {
            let names = found.names.as_deref().unwrap_or_default();
            let origin = found
                .labels
                .as_ref()
                .map(|l| labels::origin(&self.config, names, l));
            let mut claims = match origin {
                Some(Origin::Ours(claims)) => claims,
                Some(Origin::Unsealed) => Claims::default(),
                Some(Origin::OtherSeal) if is_placed_by_us(&found) => Claims::default(),
                Some(Origin::OtherSeal | Origin::Unproven) | None => {
                    unproven.push(found);
                    continue;
                }
            };
            if claims.helper_of.as_deref() == Some(self.homes.run_id()) {
                continue;
            }
            claims.owner = claims.owner.map(|owner| attached.unmarked(owner));
            match read::listed(found, claims, facts.via, &network) {
                (_, Some(known)) => containers.push(known),
                (id, None) => ended.push(id),
            }
        }
        for container in self.unproven.new_ones(&unproven) {
            tracing::warn!(
                container = container.id,
                names = ?container.names.as_deref().unwrap_or_default(),
                image = container.image,
                "A container has the label {} of this instance, and nothing proves that ignite made it: an image can bring that label. It is neither used nor removed; if it is of no use, remove it with `docker rm`",
                labels::INSTANCE
            );
        }
        // The list has no exit codes, so the few ended ones are inspected one by one.
        for found in future::join_all(ended.iter().map(|id| self.inspect(id))).await {
            match found {
                Ok(container) => containers.push(container),
                Err(Error::NoSuchContainer(_)) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(containers)
    }

    /// The app whose container has an address on the instance's network, as its sealed labels say;
    /// `None` for any other address.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn app_at(&self, address: IpAddr) -> Result<Option<AppId>, Error> {
        let running = running(&self.client, &self.config).await?;
        let network = self.network_name();
        Ok(running.into_iter().find_map(|found| {
            let networks = found.network_settings?.networks?;
            let here: IpAddr = networks.get(&network)?.ip_address.as_ref()?.parse().ok()?;
            if here != address {
                return None;
            }
            let names = found.names.unwrap_or_default();
            match labels::origin(&self.config, &names, &found.labels?) {
                Origin::Ours(claims) => Some(claims.owner?.app),
                Origin::Unsealed | Origin::OtherSeal | Origin::Unproven => None,
            }
        }))
    }
}
