//! Warm standby on the engine: frozen containers, and containers created in a kept network.

use std::io::ErrorKind;

use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt as _;

use super::{
    Container, ContainerId, ContainerSpec, ContainerState, Docker, Error, Prepared,
    freezer::{self, Cgroup},
    info, names, network, or_gone, spec, states,
};
use crate::engine::Engine as _;

impl Docker {
    pub(super) async fn freeze(&self, id: &ContainerId) -> Result<(), Error> {
        if let Some(cgroup) = self.cgroup(id).await?
            && cgroup.allowed(self.config.freezer)
        {
            // Recorded before the write, so that a concurrent removal thaws it.
            self.frozen.lock().insert(id.clone(), cgroup.clone());
            return cgroup.freeze().await.map_err(|cause| {
                self.frozen.lock().remove(id);
                match cause.kind() {
                    // The cgroup was removed with the container.
                    _ if !cgroup.exists() => Error::NoSuchContainer(id.clone()),
                    ErrorKind::TimedOut => Error::TimedOut {
                        call: "freeze the container",
                        after: freezer::PATIENCE,
                    },
                    _ => refused("freeze the container", &cause),
                }
            });
        }
        if !self.facts().await?.info.abilities.freezes {
            return Err(Error::Refused {
                call: "freeze the container",
                status: 0,
                message: "it has no cgroups to freeze containers with".to_owned(),
            });
        }
        let paused = self
            .client
            .run("pause the container", |docker| async move {
                docker.pause_container(&id.0).await
            })
            .await;
        self.confirm_state(id, paused, |state| {
            matches!(state, ContainerState::Paused(_))
        })
        .await
    }

    pub(super) async fn thaw(&self, id: &ContainerId) -> Result<(), Error> {
        if self.thaw_known(id)? {
            return Ok(());
        }
        let resumed = self
            .client
            .run("unpause the container", |docker| async move {
                docker.unpause_container(&id.0).await
            })
            .await;
        self.confirm_state(id, resumed, |state| {
            matches!(state, ContainerState::Running(_))
        })
        .await
    }

    /// Thaws a container that this process froze through its cgroup; returns whether it was one.
    pub(super) fn thaw_known(&self, id: &ContainerId) -> Result<bool, Error> {
        let Some(cgroup) = self.frozen.lock().remove(id) else {
            return Ok(false);
        };
        match cgroup.thaw() {
            Ok(()) => Ok(true),
            // The cgroup was removed with the container.
            Err(_) if !cgroup.exists() => Err(Error::NoSuchContainer(id.clone())),
            Err(cause) => Err(refused("thaw the container", &cause)),
        }
    }

    /// Thaws a container that an earlier run may have left frozen, in either way.
    pub(super) async fn thaw_left(&self, id: &ContainerId) -> Result<(), Error> {
        match self.inspect(id).await?.state {
            ContainerState::Paused(_) => self.thaw(id).await,
            ContainerState::Running(_) => match self.cgroup(id).await? {
                Some(cgroup) => cgroup
                    .thaw_if_frozen()
                    .map_err(|cause| refused("thaw the container", &cause)),
                None => Ok(()),
            },
            ContainerState::Created | ContainerState::Exited { .. } => Ok(()),
        }
    }

    /// An error of the engine does not say whether the call took effect, nor whether it was
    /// superfluous; the container's state does.
    async fn confirm_state(
        &self,
        id: &ContainerId,
        outcome: Result<(), Error>,
        as_wanted: impl Fn(&ContainerState) -> bool,
    ) -> Result<(), Error> {
        let Err(err) = outcome else { return Ok(()) };
        match self.inspect(id).await?.state {
            state if as_wanted(&state) => Ok(()),
            ContainerState::Exited { code, oom_killed } => Err(Error::Ended {
                id: id.clone(),
                code,
                oom_killed,
            }),
            _ => Err(err),
        }
    }

    /// The container's cgroup, when the engine's processes are visible from here.
    async fn cgroup(&self, id: &ContainerId) -> Result<Option<Cgroup>, Error> {
        Ok(Cgroup::find(id, self.pid(id).await?))
    }

    /// The first process of a container in this machine's numbering; 0 when it is on another
    /// machine or not running.
    pub(super) async fn pid(&self, id: &ContainerId) -> Result<i64, Error> {
        if !self.client.connector().address().is_unix() {
            return Ok(0);
        }
        let answer = self
            .client
            .run("inspect the container", |docker| async move {
                states::in_dockers_words(docker.inspect_container(&id.0, None).await)
            })
            .await;
        Ok(or_gone(answer, id)?.state.and_then(|s| s.pid).unwrap_or(0))
    }

    pub(super) async fn memory_of(&self, id: &ContainerId) -> Result<Option<u64>, Error> {
        if !self.facts().await?.info.abilities.limits.memory {
            return Ok(None);
        }
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let answer = self
            .client
            .run("measure the container's memory", |docker| async move {
                docker.stats(&id.0, Some(options)).next().await.transpose()
            })
            .await;
        let memory = or_gone(answer, id)?.and_then(|s| s.memory_stats);
        // Nothing runs in no memory at all: engines say 0 for what they cannot measure.
        Ok(memory.and_then(|m| m.usage).filter(|bytes| *bytes > 0))
    }

    pub(super) async fn prepare_in(
        &self,
        spec: &ContainerSpec,
        holder: Option<&ContainerId>,
    ) -> Result<Prepared, Error> {
        let facts = self.facts().await?;
        let holder = match holder {
            Some(holder) => holder.clone(),
            None => self.start_holder(spec, &facts).await?,
        };
        let made = async {
            let endpoints = match self.inspect(&holder).await?.state {
                ContainerState::Running(Some(endpoints)) => endpoints,
                other => {
                    return Err(Error::Refused {
                        call: "keep a network for a prepared replica",
                        status: 0,
                        message: format!("its holder is {other:?}"),
                    });
                }
            };
            let attached = self.ensure_network_and_rules().await?;
            let spec = self.attach(spec, &attached).await?;
            let (spec, folder) = self.complete(&spec).await?;
            let name = names::container_name(&self.config.instance, &spec.owner);
            let mut body = spec::within(&self.config, facts.traits(), &spec, &holder);
            attached.put_certificates(&mut body);
            let body = self.bind_volume(body, &spec, folder.as_deref());
            let container = self.create_named(name, body, None).await?;
            self.lay_over(&container, &spec).await?;
            Ok((container, endpoints))
        };
        match made.await {
            Ok((container, endpoints)) => Ok(Prepared {
                container,
                holder,
                endpoints,
            }),
            Err(err) => {
                if let Err(cause) = self.remove(&holder).await {
                    tracing::debug!(%holder, %cause, "A holder stays until the next reconciliation");
                }
                Err(err)
            }
        }
    }

    async fn start_holder(
        &self,
        spec: &ContainerSpec,
        facts: &info::Facts,
    ) -> Result<ContainerId, Error> {
        let attached = self.ensure_network_and_rules().await?;
        let spec = &self.attach(spec, &attached).await?;
        let mut retried = false;
        let holder = loop {
            let architecture = &facts.architecture;
            let image = self.holder_image.ensure(&self.client, architecture).await?;
            let name = names::holder_name(&self.config.instance, &spec.owner);
            let mut body = spec::holder(&self.config, facts.traits(), spec, &image);
            attached.put_names(body.host_config.get_or_insert_default());
            match self.create_admitted(name, body, spec, true).await {
                Err(err) if !retried && self.holder_image.is_gone(&err) => retried = true,
                made => break made?,
            }
        };
        let started = async {
            if let Some(extra) = &self.config.extra_network {
                network::connect_extra(&self.client, extra, &holder).await?;
            }
            self.start(&holder).await
        };
        match started.await {
            Ok(_) => Ok(holder),
            Err(err) => {
                if let Err(cause) = self.remove(&holder).await {
                    tracing::debug!(%holder, %cause, "A holder stays until the next reconciliation");
                }
                Err(err)
            }
        }
    }

    pub(super) async fn start_in(&self, id: &ContainerId) -> Result<(), Error> {
        let started = self.start_once(id).await;
        or_gone(started, id)
    }

    /// A container in a holder's network is reached at the holder's address.
    pub(super) async fn reached_through(
        &self,
        mut container: Container,
    ) -> Result<Container, Error> {
        let unknown = matches!(
            container.state,
            ContainerState::Running(None) | ContainerState::Paused(None)
        );
        let Some(holder) = container.holder.clone().filter(|_| unknown) else {
            return Ok(container);
        };
        let found = match self.inspect_alone(&holder).await {
            Ok(Container {
                state: ContainerState::Running(endpoints),
                ..
            }) => endpoints,
            Ok(_) | Err(Error::NoSuchContainer(_)) => None,
            Err(err) => return Err(err),
        };
        match &mut container.state {
            ContainerState::Running(endpoints) | ContainerState::Paused(endpoints) => {
                *endpoints = found;
            }
            ContainerState::Created | ContainerState::Exited { .. } => {}
        }
        Ok(container)
    }

    /// Thaws a container before a stop or a removal: a frozen process reacts to no signal.
    pub(super) fn thaw_before_removal(&self, id: &ContainerId) {
        if let Err(cause) = self.thaw_known(id) {
            tracing::debug!(container = %id, %cause, "Could not thaw a container before its removal");
        }
    }
}

fn refused(call: &'static str, cause: &std::io::Error) -> Error {
    Error::Refused {
        call,
        status: 0,
        message: cause.to_string(),
    }
}

/// Thaws a container of an instance that is gone, so that it can be removed.
pub(super) async fn thaw_orphan(client: &super::client::Client, id: &ContainerId) {
    let answer = client
        .run("inspect the container", |docker| async move {
            states::in_dockers_words(docker.inspect_container(&id.0, None).await)
        })
        .await;
    let pid = answer
        .ok()
        .and_then(|a| a.state)
        .and_then(|s| s.pid)
        .unwrap_or(0);
    if let Some(cgroup) = Cgroup::find(id, pid)
        && let Err(cause) = cgroup.thaw_if_frozen()
    {
        tracing::debug!(container = %id, %cause, "Could not thaw a container before its removal");
    }
}
