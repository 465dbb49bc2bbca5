//! The state of the scripted engine: containers, scripts and the timers that change them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    super::{Container, ContainerId, ContainerSpec, ContainerState, Error},
    script::{Counts, Script},
};

/// A container.
pub(super) struct Made {
    pub(super) spec: ContainerSpec,
    pub(super) state: ContainerState,
    pub(super) started: Instant,
    pub(super) holder: Option<ContainerId>,
    pub(super) is_holder: bool,
}

/// The engine behind [`super::Fake`].
#[derive(Default)]
pub(super) struct State {
    pub(super) scripts: HashMap<String, Script>,
    pub(super) containers: BTreeMap<String, Made>,
    pub(super) counts: Counts,
    pub(super) unreachable: bool,
    pub(super) no_descriptors: bool,
    pub(super) mute: bool,
    pub(super) next: usize,
    pub(super) most_running: usize,
    pub(super) listeners: Vec<mpsc::UnboundedSender<ContainerId>>,
    /// The timers of containers that end by themselves, and running calls in the engine.
    pub(super) timers: JoinSet<()>,
}

/// Why a call on a container that does not run fails.
pub(super) fn ended(id: &ContainerId, state: &ContainerState) -> Error {
    match state {
        ContainerState::Exited { code, oom_killed } => Error::Ended {
            id: id.clone(),
            code: *code,
            oom_killed: *oom_killed,
        },
        _ => Error::NoSuchContainer(id.clone()),
    }
}

impl State {
    pub(super) fn made(&mut self, id: &ContainerId) -> Result<&mut Made, Error> {
        self.containers
            .get_mut(&id.0)
            .ok_or_else(|| Error::NoSuchContainer(id.clone()))
    }

    pub(super) fn script_of(&self, image: &str) -> Script {
        self.scripts.get(image).cloned().unwrap_or_default()
    }

    pub(super) fn thaw(&mut self, id: &ContainerId, error: Option<Error>) -> Result<(), Error> {
        self.reachable()?;
        if let Some(error) = error {
            return Err(error);
        }
        let made = self.made(id)?;
        match made.state.clone() {
            ContainerState::Running(at) | ContainerState::Paused(at) => {
                made.state = ContainerState::Running(at);
                Ok(())
            }
            other => Err(ended(id, &other)),
        }
    }

    pub(super) fn reachable(&self) -> Result<(), Error> {
        if self.no_descriptors {
            return Err(Error::NoDescriptors);
        }
        if self.unreachable {
            return Err(Error::Unreachable {
                address: "fake://".into(),
                cause: "the test took it away".into(),
            });
        }
        Ok(())
    }

    pub(super) fn make(&mut self, spec: &ContainerSpec, state: ContainerState) -> ContainerId {
        // Padded, so that the map's order is the order of creation.
        let id = format!("{:012}", self.next);
        self.next += 1;
        self.containers.insert(
            id.clone(),
            Made {
                spec: spec.clone(),
                state,
                started: Instant::now(),
                holder: None,
                is_holder: false,
            },
        );
        ContainerId(id)
    }

    pub(super) fn all(&self) -> Vec<Container> {
        self.containers
            .iter()
            .map(|(id, made)| made.seen(id))
            .collect()
    }

    pub(super) fn end(&mut self, id: &ContainerId, code: i64, oom_killed: bool) {
        let Some(made) = self.containers.get_mut(&id.0) else {
            return;
        };
        if !matches!(
            made.state,
            ContainerState::Running(_) | ContainerState::Paused(_)
        ) {
            return;
        }
        made.state = ContainerState::Exited { code, oom_killed };
        self.listeners
            .retain(|listener| listener.send(id.clone()).is_ok());
    }
}

impl Made {
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        match &self.state {
            ContainerState::Running(Some(e)) | ContainerState::Paused(Some(e)) => {
                e.addr(at.port()) == Some(at)
            }
            _ => false,
        }
    }

    pub(super) fn seen(&self, id: &str) -> Container {
        Container {
            id: ContainerId(id.to_owned()),
            holder: self.holder.clone(),
            is_holder: self.is_holder,
            owner: Some(self.spec.owner.clone()),
            state: self.state.clone(),
        }
    }
}
