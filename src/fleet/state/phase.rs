//! Where a replica is in its life, and what it has there.
//!
//! ```text
//! Creating ─► Starting ─► Ready ◄─────► Draining ─────► Stopping ─► (gone)
//!                ▲          ▲          │      │            ▲
//!                │       Resuming      ▼      │            │
//!                │          ▲       Pausing   │          Failed, from
//!                │          │          ▼      │          where it ended
//!                │          └────── Paused    │
//!                │                     ▼      ▼
//!                └── Prepared ◄──── Preparing ┘
//! ```
//!
//! Each phase owns what exists in it and in no other: a start can be called off while it is under
//! way, only a ready replica has its liveness probed, only one that is being thawed has somebody
//! to notify of the thaw. A step consumes what a phase owns and gives what the next one does, so
//! that a replica in two phases, or in one without its container, does not compile.
//!
//! What is not here is what holds in every phase, such as the requests that are still answered; it
//! is in the [`Slot`](super::slot::Slot).

mod live;
mod remains;
mod start;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

pub(in crate::fleet) use self::remains::{Containers, Removal, Vacated};
pub(super) use self::{
    live::{Draining, Live, Pausing, Ready, Resuming},
    remains::{Failed, Stopping, Times},
    start::{Start, Starting},
};
use crate::{
    engine::{ContainerId, Prepared},
    fleet::{
        replica::{Fate, Replica},
        send_while_resuming::Thaw,
        snapshot::ReplicaView,
    },
};

/// Where a replica is in its life.
pub(super) enum Phase {
    /// Its container is being created.
    Creating(Start),
    /// Its container runs and is not ready.
    Starting(Starting),
    /// It takes requests.
    Ready(Ready),
    /// It finishes the requests it has and takes no more.
    Draining(Draining),
    /// Its container ended by itself and waits for its removal.
    Failed(Failed),
    /// Its container is being stopped and removed.
    Stopping(Stopping),
    /// Its container is being frozen.
    Pausing(Pausing),
    /// Its container is frozen.
    Paused(Live),
    /// Its container is being thawed; requests are sent to it already.
    Resuming(Resuming),
    /// Its process is being ended, and a container created in its stead.
    Preparing(Times),
    /// A container in its kept network can be started at any time.
    Prepared(Prepared),
}

impl Phase {
    /// Stops what has a container that nothing else is done with: it goes for good.
    pub(super) fn stop(self, grace: Duration) -> (Self, Option<Removal>) {
        let (stopping, removal) = match self {
            Phase::Draining(d) => d.live.stop(d.frozen, grace),
            Phase::Failed(failed) => failed.stop(grace),
            Phase::Paused(live) => live.stop(true, grace),
            Phase::Prepared(prepared) => {
                let removal = Removal {
                    containers: Containers::of_prepared(prepared),
                    frozen: false,
                    grace,
                    examine: None,
                };
                let stopping = Stopping::of(&removal.containers, Times::default());
                (stopping, removal)
            }
            other @ (Phase::Creating(_)
            | Phase::Starting(_)
            | Phase::Ready(_)
            | Phase::Stopping(_)
            | Phase::Pausing(_)
            | Phase::Resuming(_)
            | Phase::Preparing(_)) => return (other, None),
        };
        (Phase::Stopping(stopping), Some(removal))
    }

    /// The container ended by itself, or is not as it was believed.
    pub(super) fn died(self) -> Self {
        let failed = match self {
            Phase::Ready(ready) => ready.live.died(false),
            Phase::Draining(d) => d.live.died(d.frozen),
            Phase::Paused(live) => live.died(true),
            // Those who have sent to it hear that how its thaw ended is not known.
            Phase::Resuming(resuming) => resuming.live.died(true),
            Phase::Prepared(prepared) => Failed {
                containers: Containers::of_prepared(prepared),
                times: Times::default(),
                examine: None,
                frozen: false,
            },
            other @ (Phase::Creating(_)
            | Phase::Starting(_)
            | Phase::Failed(_)
            | Phase::Stopping(_)
            | Phase::Pausing(_)
            | Phase::Preparing(_)) => return other,
        };
        if let Some(replica) = &failed.examine {
            replica.fate.send_replace(Fate::Ended);
        }
        Phase::Failed(failed)
    }

    /// Calls a start off, and ends liveness probes: the driver ends.
    pub(super) fn end_tasks(&mut self) {
        match self {
            Phase::Ready(ready) => ready.end_probes(),
            _ => self.call_off(),
        }
    }

    /// Calls the start off, if it is on its way up.
    pub(super) fn call_off(&self) {
        if let Some(start) = self.start() {
            start.call_off();
        }
    }

    /// Its start, while it is on its way up.
    pub(super) fn start(&self) -> Option<&Start> {
        match self {
            Phase::Creating(start) => Some(start),
            Phase::Starting(starting) => Some(&starting.start),
            _ => None,
        }
    }

    fn live(&self) -> Option<&Live> {
        match self {
            Phase::Ready(ready) => Some(&ready.live),
            Phase::Draining(draining) => Some(&draining.live),
            Phase::Pausing(pausing) => Some(&pausing.live),
            Phase::Paused(live) => Some(live),
            Phase::Resuming(resuming) => Some(&resuming.live),
            Phase::Creating(_)
            | Phase::Starting(_)
            | Phase::Failed(_)
            | Phase::Stopping(_)
            | Phase::Preparing(_)
            | Phase::Prepared(_) => None,
        }
    }

    /// The replica that runs or is frozen, or of which is to be found out how it ended.
    pub(super) fn replica(&self) -> Option<&Arc<Replica>> {
        match self {
            Phase::Failed(failed) => failed.examine.as_ref(),
            other => other.live().map(Live::replica),
        }
    }

    /// How its thaw ends, while it is being thawed.
    pub(super) fn thaw(&self) -> Option<watch::Receiver<Thaw>> {
        match self {
            Phase::Resuming(resuming) => Some(resuming.thaw.subscribe()),
            _ => None,
        }
    }

    /// Its container, once there is one.
    pub(super) fn container(&self) -> Option<&ContainerId> {
        match self {
            Phase::Creating(_) | Phase::Preparing(_) => None,
            Phase::Starting(starting) => Some(&starting.containers.app),
            Phase::Failed(failed) => Some(&failed.containers.app),
            Phase::Stopping(stopping) => Some(&stopping.container),
            Phase::Prepared(prepared) => Some(&prepared.container),
            Phase::Ready(_)
            | Phase::Draining(_)
            | Phase::Pausing(_)
            | Phase::Paused(_)
            | Phase::Resuming(_) => self.live().map(|live| &live.replica.container),
        }
    }

    /// What keeps its network, as far as it is of use yet.
    pub(super) fn holder(&self) -> Option<&ContainerId> {
        match self {
            Phase::Starting(starting) => starting.containers.holder.as_ref(),
            Phase::Prepared(prepared) => Some(&prepared.holder),
            other => other.live()?.holder.as_ref(),
        }
    }

    /// Where its primary port is reached.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.replica()?.address()
    }

    /// When its container was started.
    pub(super) fn started_at(&self) -> Option<SystemTime> {
        match self {
            Phase::Starting(starting) => starting.started,
            other => other.times()?.started,
        }
    }

    /// When it became ready.
    pub(super) fn ready_at(&self) -> Option<SystemTime> {
        self.times()?.ready
    }

    fn times(&self) -> Option<Times> {
        match self {
            Phase::Failed(failed) => Some(failed.times),
            Phase::Stopping(stopping) => Some(stopping.times),
            Phase::Preparing(times) => Some(*times),
            other => other.live().map(|live| live.times),
        }
    }

    /// Whether it serves, or is on its way up and wanted.
    pub(super) fn is_up(&self) -> bool {
        match self.start() {
            Some(start) => !start.is_called_off(),
            None => self.takes_requests(),
        }
    }

    /// Whether requests may be sent to it.
    pub(super) fn takes_requests(&self) -> bool {
        matches!(self, Phase::Ready(_) | Phase::Resuming(_))
    }

    /// Whether it runs, or how deep it sleeps.
    pub(super) fn depth(&self) -> &'static str {
        match self {
            Phase::Pausing(_) | Phase::Paused(_) => "paused",
            Phase::Preparing(_) | Phase::Prepared(_) => ReplicaView::PREPARED,
            _ => "running",
        }
    }

    /// Whether it is in warm standby, or on its way there.
    pub(super) fn rests(&self) -> bool {
        self.depth() != "running"
    }

    /// The word for people and for the API.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Phase::Creating(_) => "creating",
            Phase::Starting(_) => "starting",
            Phase::Ready(_) => "ready",
            Phase::Draining(_) => "draining",
            Phase::Failed(_) => "failed",
            Phase::Stopping(_) => "stopping",
            Phase::Pausing(_) => "pausing",
            Phase::Paused(_) => "paused",
            Phase::Resuming(_) => "resuming",
            Phase::Preparing(_) => "preparing",
            Phase::Prepared(_) => ReplicaView::PREPARED,
        }
    }
}
