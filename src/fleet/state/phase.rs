//! The phases of a replica's life, and what each owns.
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
//! Each phase owns what exists only in it: only a start under way can be cancelled, only a ready
//! replica has its liveness probed, only a thaw has waiters to notify. A step consumes what one
//! phase owns and produces what the next one does, so a replica in two phases, or in one without
//! its container, does not compile.
//!
//! Data that exists in every phase, such as the requests in flight, is in the
//! [`Slot`](super::slot::Slot).

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

/// The phase of a replica's life.
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
    /// Its network is kept, with a container in it that can be started at any time.
    Prepared(Prepared),
}

impl Phase {
    /// Stops a replica whose container no task works on; it is removed for good.
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

    /// The container ended by itself, or is not in its expected state.
    pub(super) fn died(self) -> Self {
        let failed = match self {
            Phase::Ready(ready) => ready.live.died(false),
            Phase::Draining(d) => d.live.died(d.frozen),
            Phase::Paused(live) => live.died(true),
            // Dropping the phase tells its waiters that the outcome of the thaw is unknown.
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

    /// Cancels a start and ends liveness probes, since the driver ends.
    pub(super) fn end_tasks(&mut self) {
        match self {
            Phase::Ready(ready) => ready.end_probes(),
            _ => self.call_off(),
        }
    }

    /// Cancels the start, if the replica is on its way up.
    pub(super) fn call_off(&self) {
        if let Some(start) = self.start() {
            start.call_off();
        }
    }

    /// Its start, if the replica is on its way up.
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

    /// The replica, if it runs or is frozen, or if how it ended is yet to be found out.
    pub(super) fn replica(&self) -> Option<&Arc<Replica>> {
        match self {
            Phase::Failed(failed) => failed.examine.as_ref(),
            other => other.live().map(Live::replica),
        }
    }

    /// The outcome of its thaw, while it is being thawed.
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

    /// The holder of its network, while it is still of use.
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

    /// Whether it runs, or its depth of standby.
    pub(super) fn depth(&self) -> &'static str {
        match self {
            Phase::Pausing(_) | Phase::Paused(_) => "paused",
            Phase::Preparing(_) | Phase::Prepared(_) => ReplicaView::PREPARED,
            _ => "running",
        }
    }

    /// Whether it is in warm standby, or on its way into it.
    pub(super) fn rests(&self) -> bool {
        self.depth() != "running"
    }

    /// The name of the phase, for people and for the API.
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
