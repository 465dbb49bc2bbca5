//! What a replica leaves behind, and what is done with it.

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
    /// The one that has, had or will have its process.
    pub(in crate::fleet) app: ContainerId,
    /// The one that keeps its network, once it was prepared.
    pub(in crate::fleet) holder: Option<ContainerId>,
}

/// When a container was started, and when its app was ready.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::fleet::state) struct Times {
    /// Not known of one that was adopted.
    pub(super) started: Option<SystemTime>,
    /// Not known of one that was adopted frozen.
    pub(super) ready: Option<SystemTime>,
}

/// What is stopped and removed, and how.
pub(in crate::fleet) struct Removal {
    pub(in crate::fleet) containers: Containers,
    /// It is frozen, and thawed for it.
    pub(in crate::fleet) frozen: bool,
    /// How long it may take to end; zero kills it.
    pub(in crate::fleet) grace: Duration,
    /// The replica, when it ended by itself: how is read before its container is removed.
    pub(in crate::fleet) examine: Option<Arc<Replica>>,
}

/// What becomes a prepared container.
pub(in crate::fleet) struct Vacated {
    pub(in crate::fleet) containers: Containers,
    /// It is frozen, and thawed for its end.
    pub(in crate::fleet) frozen: bool,
}

/// What is left of a replica that ended by itself, or did not come up.
pub(in crate::fleet::state) struct Failed {
    pub(super) containers: Containers,
    pub(super) times: Times,
    /// Set when it is not known how it ended.
    pub(super) examine: Option<Arc<Replica>>,
    /// It did not wake, or ended while it was frozen: it has requests in its socket that were sent
    /// elsewhere since, or that their callers gave up. It must not go on, not even to end well.
    pub(super) frozen: bool,
}

/// A container on its way out.
pub(in crate::fleet::state) struct Stopping {
    pub(super) container: ContainerId,
    pub(super) times: Times,
}

impl Containers {
    /// What is said of a replica of which the holder ended: the app may go on, and is not reached.
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
