//! One container: what the engine knows of it, and where it is reached.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Container, ContainerId, ContainerState, Docker, Endpoints, Error,
    client::or_gone,
    labels::{self, Claims, Origin},
    read, states,
};
use crate::{backoff::Backoff, engine::Engine as _};

/// How long to wait for a started container's address or port mapping to appear; it is there
/// at once on Docker for Linux and late by some milliseconds on others.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(3);
/// First wait between two inspections for the address; doubles up to `ADDRESS_POLL_MAX`.
const ADDRESS_POLL_INITIAL: Duration = Duration::from_millis(1);
const ADDRESS_POLL_MAX: Duration = Duration::from_millis(100);

impl Docker {
    /// A container as its own inspection shows it.
    pub(super) async fn inspect_alone(&self, id: &ContainerId) -> Result<Container, Error> {
        let facts = self.facts().await?;
        let answer = self
            .client
            .run("inspect the container", |docker| async move {
                states::in_dockers_words(docker.inspect_container(&id.0, None).await)
            })
            .await;
        let answer = or_gone(answer, id)?;
        let labels = answer.config.as_ref().and_then(|c| c.labels.as_ref());
        let mut claims =
            match labels.map(|l| labels::origin(&self.config, answer.name.as_slice(), l)) {
                Some(Origin::Ours(claims)) => claims,
                Some(Origin::Unsealed | Origin::OtherSeal | Origin::Unproven) | None => {
                    Claims::default()
                }
            };
        let attached = self.attached().await?;
        claims.owner = claims.owner.map(|owner| attached.unmarked(owner));
        let network = self.network_name();
        Ok(read::inspected(&answer, claims, facts.via, &network))
    }

    /// The address of a container that was just started.
    pub(super) async fn address_of(&self, id: &ContainerId) -> Result<Endpoints, Error> {
        let deadline = Instant::now() + ADDRESS_PATIENCE;
        let mut backoff = Backoff::new(ADDRESS_POLL_INITIAL, ADDRESS_POLL_MAX);
        loop {
            match self.inspect(id).await?.state {
                ContainerState::Running(Some(endpoints)) => return Ok(endpoints),
                ContainerState::Exited { code, oom_killed } => {
                    return Err(Error::Ended {
                        id: id.clone(),
                        code,
                        oom_killed,
                    });
                }
                state if Instant::now() >= deadline => {
                    return Err(Error::Refused {
                        call: "give the container an address",
                        status: 0,
                        message: format!(
                            "the container is {state:?} and has none in network {} nor a published port",
                            self.network_name()
                        ),
                    });
                }
                _ => {}
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}
