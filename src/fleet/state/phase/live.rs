//! A replica whose app has been ready, and which runs or is frozen.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::remains::{Containers, Failed, Removal, Stopping, Times, Vacated};
use crate::{
    engine::ContainerId,
    fleet::{replica::Replica, send_while_resuming::Thaw},
};

/// A container whose app has been ready, and which runs or is frozen.
pub(in crate::fleet::state) struct Live {
    pub(super) replica: Arc<Replica>,
    pub(super) holder: Option<ContainerId>,
    pub(super) times: Times,
}

/// A replica that serves.
pub(in crate::fleet::state) struct Ready {
    pub(super) live: Live,
    /// Ends its liveness probes, once there are some.
    pub(super) probes: Option<DropGuard>,
}

/// A replica that takes no more requests.
pub(in crate::fleet::state) struct Draining {
    pub(super) live: Live,
    /// From then on it is stopped even with requests in flight. A replica with a deadline never
    /// enters standby.
    pub(super) until: Option<Instant>,
    /// It may be frozen, since freezing it failed halfway.
    pub(super) frozen: bool,
}

/// A replica that is being frozen.
pub(in crate::fleet::state) struct Pausing {
    pub(super) live: Live,
    /// The engine reported the container's end meanwhile.
    pub(super) ended: bool,
}

/// A replica that is being thawed. Dropping it reports that the outcome of the thaw is unknown.
pub(in crate::fleet::state) struct Resuming {
    pub(super) live: Live,
    /// Reports the outcome of the thaw to the requests that were sent to it.
    pub(super) thaw: watch::Sender<Thaw>,
}

impl Live {
    /// A replica that an earlier run left frozen.
    pub(in crate::fleet::state) fn adopted(
        replica: Arc<Replica>,
        holder: Option<ContainerId>,
    ) -> Self {
        Self {
            replica,
            holder,
            times: Times::default(),
        }
    }

    pub(in crate::fleet::state) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub(super) fn containers(&self) -> Containers {
        Containers {
            app: self.replica.container.clone(),
            holder: self.holder.clone(),
        }
    }

    /// It takes requests from now on.
    pub(in crate::fleet::state) fn serve(self) -> Ready {
        Ready {
            live: self,
            probes: None,
        }
    }

    /// It takes no requests, and is stopped at `until` at the latest.
    pub(in crate::fleet::state) fn drain(self, until: Option<Instant>) -> Draining {
        Draining {
            live: self,
            until,
            frozen: false,
        }
    }

    /// It was frozen and is being thawed.
    pub(in crate::fleet::state) fn resume(self) -> Resuming {
        Resuming {
            live: self,
            thaw: watch::Sender::new(Thaw::Pending),
        }
    }

    /// It is frozen and gives up its process.
    pub(in crate::fleet::state) fn prepare(self) -> (Times, Vacated) {
        self.vacate(true)
    }

    pub(super) fn vacate(self, frozen: bool) -> (Times, Vacated) {
        let containers = self.containers();
        (self.times, Vacated { containers, frozen })
    }

    pub(super) fn stop(self, frozen: bool, grace: Duration) -> (Stopping, Removal) {
        let removal = Removal {
            containers: self.containers(),
            frozen,
            grace,
            examine: None,
        };
        (Stopping::of(&removal.containers, self.times), removal)
    }

    pub(super) fn died(self, frozen: bool) -> Failed {
        Failed {
            containers: self.containers(),
            times: self.times,
            examine: Some(self.replica),
            frozen,
        }
    }

    /// As [`Self::died`], where how it ended is known.
    pub(super) fn ended(self, frozen: bool) -> Failed {
        Failed {
            examine: None,
            ..self.died(frozen)
        }
    }
}

impl Ready {
    /// It takes no more requests.
    pub(in crate::fleet::state) fn drain(self, until: Option<Instant>) -> Draining {
        self.live.drain(until)
    }

    /// Begins its liveness probes: the replica to probe and the token that ends them. `None` if
    /// they have begun.
    pub(in crate::fleet::state) fn probe(&mut self) -> Option<(Arc<Replica>, CancellationToken)> {
        if self.probes.is_some() {
            return None;
        }
        let stop = CancellationToken::new();
        self.probes = Some(stop.clone().drop_guard());
        Some((self.live.replica.clone(), stop))
    }

    /// Ends its liveness probes.
    pub(in crate::fleet::state) fn end_probes(&mut self) {
        self.probes = None;
    }
}

impl Draining {
    /// It is stopped for good, at `until` at the latest.
    pub(in crate::fleet::state) fn end_by(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// When it is stopped even with requests in flight.
    pub(in crate::fleet::state) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether it may serve again or enter standby.
    pub(in crate::fleet::state) fn may_stay(&self) -> bool {
        self.until.is_none()
    }

    /// It takes requests again.
    pub(in crate::fleet::state) fn revive(self) -> Ready {
        self.live.serve()
    }

    /// It is being frozen. Its idle connections are closed: an app's keep-alive timers run out
    /// while it is frozen.
    pub(in crate::fleet::state) fn pause(self) -> Pausing {
        self.live.replica.drop_idle();
        Pausing {
            live: self.live,
            ended: false,
        }
    }

    /// It gives up its process.
    pub(in crate::fleet::state) fn prepare(self) -> (Times, Vacated) {
        self.live.vacate(self.frozen)
    }
}

impl Pausing {
    pub(in crate::fleet::state) fn container(&self) -> &ContainerId {
        &self.live.replica.container
    }

    /// Whether the container ended meanwhile.
    pub(in crate::fleet::state) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The engine reported the container's end, which decides the outcome of the task that freezes
    /// it.
    pub(in crate::fleet::state) fn container_ended(&mut self) {
        self.ended = true;
    }

    /// It is frozen.
    pub(in crate::fleet::state) fn paused(self) -> Live {
        self.live
    }

    /// Freezing failed, yet the container may be frozen.
    pub(in crate::fleet::state) fn refused(self, until: Option<Instant>) -> Draining {
        Draining {
            live: self.live,
            until,
            frozen: true,
        }
    }

    /// Its container ended.
    pub(in crate::fleet::state) fn failed(self) -> Failed {
        self.live.ended(true)
    }
}

impl Resuming {
    /// It is awake.
    pub(in crate::fleet::state) fn resumed(self) -> Ready {
        self.thaw.send_replace(Thaw::Awake);
        self.live.serve()
    }

    /// It did not wake, which the requests that were sent to it learn.
    pub(in crate::fleet::state) fn failed(self, how: Thaw) -> Failed {
        self.thaw.send_replace(how);
        self.live.ended(true)
    }
}
