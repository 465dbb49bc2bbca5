//! A replica whose app was ready once, and which runs or is frozen.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::remains::{Containers, Failed, Removal, Stopping, Times, Vacated};
use crate::{
    engine::ContainerId,
    fleet::{replica::Replica, send_while_resuming::Thaw},
};

/// A container whose app was ready once, and which runs or is frozen.
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
    /// From then on it is stopped although requests may be in flight, and is not put into standby.
    pub(super) until: Option<Instant>,
    /// It may be frozen since freezing it failed halfway.
    pub(super) frozen: bool,
}

/// A replica that is being frozen.
pub(in crate::fleet::state) struct Pausing {
    pub(super) live: Live,
    /// The engine reported the container's end meanwhile.
    pub(super) ended: bool,
}

/// A replica that is being thawed. Dropping it says that how the thaw ends is not known.
pub(in crate::fleet::state) struct Resuming {
    pub(super) live: Live,
    /// Notifies those who have sent to it of how its thaw ends.
    pub(super) thaw: watch::Sender<Thaw>,
}

impl Live {
    /// One that an earlier run left frozen.
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

    /// It takes no requests, and goes at the latest at `until`.
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

    /// It is known how it ended.
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

    /// Its replica and what ends its liveness probes, when it has none yet.
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
    /// It goes for good, at the latest at `until`.
    pub(in crate::fleet::state) fn end_by(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// When it is stopped although requests may be in flight.
    pub(in crate::fleet::state) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether it may be kept.
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

    /// The engine reported the container's end: the task that freezes it finds out.
    pub(in crate::fleet::state) fn container_ended(&mut self) {
        self.ended = true;
    }

    /// It is frozen.
    pub(in crate::fleet::state) fn paused(self) -> Live {
        self.live
    }

    /// It could not be frozen, and may be all the same.
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

    /// It did not wake, which those hear who have sent to it.
    pub(in crate::fleet::state) fn failed(self, how: Thaw) -> Failed {
        self.thaw.send_replace(how);
        self.live.ended(true)
    }
}
