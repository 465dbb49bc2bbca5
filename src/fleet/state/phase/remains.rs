//! What a replica leaves behind, and how it is removed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    engine::{ContainerId, Prepared},
    fleet::replica::Replica,
};

/// The containers of a replica.
#[derive(Debug, Clone)]
pub(in crate::fleet) struct Containers {
    /// The container that has, had or will have its process.
    pub(in crate::fleet) app: ContainerId,
    /// The holder of its network, once it was prepared.
    pub(in crate::fleet) holder: Option<ContainerId>,
}

/// When a container was started, and when its app was ready.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::fleet::state) struct Times {
    /// Unknown for an adopted replica.
    pub(super) started: Option<SystemTime>,
    /// Unknown for a replica that was adopted frozen.
    pub(super) ready: Option<SystemTime>,
}

/// Containers to stop and remove, and how.
pub(in crate::fleet) struct Removal {
    pub(in crate::fleet) containers: Containers,
    /// The app's container is frozen, and has to be thawed before it can stop.
    pub(in crate::fleet) frozen: bool,
    /// How long the container may take to end; zero kills it.
    pub(in crate::fleet) grace: Duration,
    /// The replica, if it ended by itself: the postmortem is made before its container is removed.
    pub(in crate::fleet) examine: Option<Arc<Replica>>,
}

/// The containers of a replica that is about to be prepared.
pub(in crate::fleet) struct Vacated {
    pub(in crate::fleet) containers: Containers,
    /// The app's container is frozen, and has to be thawed before it can stop.
    pub(in crate::fleet) frozen: bool,
}

/// The remains of a replica that ended by itself, or did not come up.
pub(in crate::fleet::state) struct Failed {
    pub(super) containers: Containers,
    pub(super) times: Times,
    /// Set if it is not known yet how it ended.
    pub(super) examine: Option<Arc<Replica>>,
    /// It did not wake, or ended while it was frozen: its socket holds requests that were sent
    /// elsewhere since, or that their callers gave up. It must not run again, not even for an
    /// orderly stop, so it is killed.
    pub(super) frozen: bool,
}

/// A container that is being stopped and removed.
pub(in crate::fleet::state) struct Stopping {
    pub(super) container: ContainerId,
    pub(super) times: Times,
}

impl Containers {
    /// The cause of a replica's end by the end of its holder: the app may keep running, but cannot
    /// be reached.
    pub(in crate::fleet) const LOST_NETWORK: &str = "the container that kept its network has ended";

    pub(super) fn of_prepared(prepared: Prepared) -> Self {
        Self {
            app: prepared.container,
            holder: Some(prepared.holder),
        }
    }
}

impl Failed {
    pub(super) fn stop(self, grace: Duration) -> (Stopping, Removal) {
        let removal = Removal {
            containers: self.containers,
            frozen: false,
            grace: if self.frozen { Duration::ZERO } else { grace },
            examine: self.examine,
        };
        (Stopping::of(&removal.containers, self.times), removal)
    }
}

impl Stopping {
    pub(super) fn of(containers: &Containers, times: Times) -> Self {
        Self {
            container: containers.app.clone(),
            times,
        }
    }
}
