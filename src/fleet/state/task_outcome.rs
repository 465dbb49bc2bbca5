//! The outcomes of the driver's tasks, and the steps that follow.

use std::sync::Arc;

use tokio::time::Instant;

use super::{State, phase::Phase};
use crate::{
    engine::{Error, Prepared},
    fleet::{
        events::EventKind,
        replica::{ColdStart, Replica},
        start::Fault,
    },
    metrics::{self, Depth},
    model::{Failure, Reason},
};

/// The outcome of a task of the driver.
pub(in crate::fleet) enum TaskOutcome {
    /// A container was created and started, or was not.
    Started {
        key: u64,
        outcome: Result<Replica, Fault>,
    },
    /// The containers of a replica are gone.
    Stopped { key: u64 },
    /// A replica was frozen and keeps so many bytes of memory, where that is known, or was not.
    Paused {
        key: u64,
        outcome: Result<Option<u64>, Error>,
    },
    /// A replica was thawed, or was not.
    Resumed {
        key: u64,
        outcome: Result<(), Error>,
    },
    /// A container was prepared, or was not.
    Prepared {
        key: u64,
        outcome: Result<Prepared, Error>,
    },
    /// A prepared container was started, or was not.
    PreparedStarted {
        key: u64,
        outcome: Result<Replica, Fault>,
    },
    /// The liveness probes of a replica failed.
    Unhealthy { key: u64, why: String },
    /// The replica left service before its liveness probes failed.
    Unwatched,
}

impl State {
    /// Takes the step that the outcome of a task allows.
    pub(in crate::fleet) fn apply(&mut self, outcome: TaskOutcome) {
        match outcome {
            TaskOutcome::Started { key, outcome } => match outcome {
                Ok(replica) => self.started(key, Arc::new(replica)),
                Err(fault) => self.start_failed(key, fault),
            },
            TaskOutcome::Stopped { key } => self.stopped(key),
            TaskOutcome::Paused { key, outcome } => self.paused(key, outcome),
            TaskOutcome::Resumed { key, outcome } => self.resumed(key, outcome),
            TaskOutcome::Prepared { key, outcome } => self.prepared(key, outcome),
            TaskOutcome::PreparedStarted { key, outcome } => match outcome {
                Ok(replica) => self.started(key, Arc::new(replica)),
                Err(fault) => self.prepared_start_failed(key, fault),
            },
            TaskOutcome::Unhealthy { key, why } => self.unhealthy(key, &why),
            TaskOutcome::Unwatched => {}
        }
    }

    /// Starting => Ready, or Starting => Draining if it is no longer wanted.
    pub(in crate::fleet) fn started(&mut self, key: u64, replica: Arc<Replica>) {
        let closed = self.closed.is_some();
        let Some(at) = self.slots.iter().position(|x| x.key == key) else {
            return;
        };
        let slot = &mut self.slots[at];
        let (cold, ready) = (replica.cold, replica.clone());
        let Some((ended, was_prepared)) = slot.advance(|phase| {
            let Phase::Starting(starting) = phase else {
                return (phase, None);
            };
            let ended = starting.has_ended();
            let was_prepared = starting.was_prepared();
            let wanted = !starting.is_called_off() && !closed;
            let live = starting.ready(replica);
            let next = if wanted {
                Phase::Ready(live.serve())
            } else {
                Phase::Draining(live.drain(Some(Instant::now())))
            };
            (next, Some((ended, was_prepared)))
        }) else {
            return;
        };
        if let Some(cold) = cold {
            count_start(&self.config.metrics.fleet, cold, was_prepared);
        }
        let generation = slot.generation;
        tracing::info!(app = %self.revision.app, replica = %ready.id, cold = ?cold, "The replica is ready");
        let took = cold.map_or_else(
            || "adopted from an earlier run".to_owned(),
            |c| format!("ready after {:.0?}", c.create + c.start + c.ready),
        );
        self.events
            .push(EventKind::ReplicaReady, Some(&slot.id), slot.version, took);
        // The engine reported the container's end after the app's answer and before this step.
        if ended {
            return self.died(at);
        }
        if generation == self.generation {
            self.failures.started();
            self.last_active = Instant::now();
        }
        if let Some(pending) = self.pending.as_mut().filter(|p| p.generation == generation) {
            pending.answer_now(Ok(()));
        }
        self.grant_waiting();
    }

    /// Creating or Starting => gone, with its container.
    fn start_failed(&mut self, key: u64, fault: Fault) {
        let Some(at) = self.slots.iter().position(|x| x.key == key) else {
            return;
        };
        // Keeps the order: replicas are listed oldest first.
        let slot = self.slots.remove(at);
        let generation = slot.generation;
        let (failure, certain) = match fault {
            Fault::Cancelled => {
                self.events.push(
                    EventKind::ReplicaStopped,
                    Some(&slot.id),
                    slot.version,
                    "its start was cancelled",
                );
                return;
            }
            Fault::Failed {
                failure, certain, ..
            } => (failure, certain),
        };
        let text = failure.text(true);
        tracing::warn!(app = %self.revision.app, reason = failure.reason.as_str(), "A replica did not start: {text}");
        self.events
            .push(EventKind::StartFailed, Some(&slot.id), slot.version, text);
        self.note_failure(failure.clone());
        let start = slot.phase().start();
        if let Some(wrong) = start.and_then(|start| start.progress().wrong_port()) {
            self.wrong_port = Some((generation, wrong));
        }
        if let Some(pending) = self.pending.take_if(|p| p.generation == generation) {
            pending.answer(Err(failure));
            return;
        }
        if generation != self.generation {
            return;
        }
        let certain = self.failures.start_failed(&failure, certain, &self.config);
        // While other replicas serve, no request is refused.
        if certain && !self.has_ready() {
            self.queue.fail_all(&failure);
        }
    }

    /// Stopping => gone.
    fn stopped(&mut self, key: u64) {
        if let Some(at) = self.slots.iter().position(|x| x.key == key) {
            let slot = self.slots.remove(at);
            self.events.push(
                EventKind::ReplicaStopped,
                Some(&slot.id),
                slot.version,
                "its container is gone",
            );
        }
    }

    /// Ready => Draining, for good: another replica replaces it, and its requests in flight may end
    /// within the drain timeout.
    fn unhealthy(&mut self, key: u64, why: &str) {
        let until = Instant::now() + self.config.drain_timeout;
        let mut slots = self.slots.iter_mut();
        let Some(slot) = slots.find(|x| x.key == key && matches!(x.phase(), Phase::Ready(_)))
        else {
            return;
        };
        tracing::warn!(app = %self.revision.app, replica = %slot.id, "The replica is not healthy and is replaced: {why}");
        slot.drain(Some(until));
        self.events.push(
            EventKind::ReplicaFailed,
            Some(&slot.id),
            slot.version,
            format!("it is replaced: {why}"),
        );
        let failure = Failure::new(
            Reason::NotReady,
            "a replica stopped answering its health path",
        );
        self.note_failure(failure.with_detail(why));
    }
}

fn count_start(fleet: &metrics::Fleet, cold: ColdStart, was_prepared: bool) {
    let took = cold.create + cold.start + cold.ready;
    if was_prepared {
        fleet.woke(Depth::Prepared, took);
        fleet.started(None, cold.start, cold.ready);
    } else {
        fleet.woke(Depth::Absent, took);
        fleet.started(Some(cold.create), cold.start, cold.ready);
    }
}
