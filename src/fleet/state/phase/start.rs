//! A replica on its way up.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    live::Live,
    remains::{Containers, Failed, Times},
};
use crate::{
    engine::{ContainerId, Prepared},
    fleet::{ports::Suspicion, probe::Progress, replica::Replica, start::Job},
    model::{ReplicaId, Revision},
};

/// A start that is under way.
pub(in crate::fleet::state) struct Start {
    /// Wakes its task when the engine reports that the container ended.
    pub(super) died: Arc<Notify>,
    /// Cancels it.
    pub(super) cancel: CancellationToken,
    /// How far it has come.
    pub(super) progress: Progress,
}

/// A start that has a container.
pub(in crate::fleet::state) struct Starting {
    pub(super) start: Start,
    pub(super) containers: Containers,
    pub(super) started: Option<SystemTime>,
    /// The engine reported the end of one of the containers before the replica was put into
    /// service.
    pub(super) ended: bool,
    /// That container was the holder of its network.
    pub(super) lost_network: bool,
}

impl Start {
    pub(in crate::fleet::state) fn new(progress: Progress) -> Self {
        Self {
            died: Arc::default(),
            cancel: CancellationToken::new(),
            progress,
        }
    }

    /// The job of the task that starts the replica.
    pub(in crate::fleet::state) fn job(
        &self,
        id: ReplicaId,
        revision: Arc<Revision>,
        suspicion: Suspicion,
    ) -> Job {
        Job {
            id,
            revision,
            died: self.died.clone(),
            cancel: self.cancel.clone(),
            progress: self.progress.clone(),
            suspicion,
        }
    }

    pub(in crate::fleet::state) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(in crate::fleet::state) fn call_off(&self) {
        self.cancel.cancel();
    }

    pub(in crate::fleet::state) fn is_called_off(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Its container was created and is being started.
    pub(in crate::fleet::state) fn created(self, container: ContainerId) -> Starting {
        let containers = Containers {
            app: container,
            holder: None,
        };
        self.of(containers, Some(SystemTime::now()))
    }

    /// Its container was started by an earlier run.
    pub(in crate::fleet::state) fn adopted(self, containers: Containers) -> Starting {
        self.of(containers, None)
    }

    /// A prepared container is being started.
    pub(in crate::fleet::state) fn of_prepared(self, prepared: Prepared) -> Starting {
        self.progress.starting();
        let containers = Containers::of_prepared(prepared);
        self.of(containers, Some(SystemTime::now()))
    }

    pub(super) fn of(self, containers: Containers, started: Option<SystemTime>) -> Starting {
        Starting {
            start: self,
            containers,
            started,
            ended: false,
            lost_network: false,
        }
    }
}

impl Starting {
    /// The engine reported the container's end: the task of the start finds out why, unless it has
    /// just seen the app ready and listens no more.
    pub(in crate::fleet::state) fn container_ended(&mut self) {
        self.ended = true;
        self.start.died.notify_one();
    }

    /// The holder of its network ended: the replica cannot become ready, so the start is cancelled
    /// and the next one need not wait for it.
    pub(in crate::fleet::state) fn network_ended(&mut self) {
        self.ended = true;
        self.lost_network = true;
        self.start.call_off();
    }

    /// Whether the holder of its network ended.
    pub(in crate::fleet::state) fn has_lost_network(&self) -> bool {
        self.lost_network
    }

    pub(in crate::fleet::state) fn is_called_off(&self) -> bool {
        self.start.is_called_off()
    }

    /// Whether one of the containers ended before the replica was put into service.
    pub(in crate::fleet::state) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether there was a container that only had to be started.
    pub(in crate::fleet::state) fn was_prepared(&self) -> bool {
        self.containers.holder.is_some()
    }

    /// Its app is ready.
    pub(in crate::fleet::state) fn ready(self, replica: Arc<Replica>) -> Live {
        Live {
            replica,
            holder: self.containers.holder,
            times: Times {
                started: self.started,
                ready: Some(SystemTime::now()),
            },
        }
    }

    /// It did not come up, and its container is still there.
    pub(in crate::fleet::state) fn failed(self) -> Failed {
        Failed {
            containers: self.containers,
            times: Times {
                started: self.started,
                ready: None,
            },
            examine: None,
            frozen: false,
        }
    }
}
