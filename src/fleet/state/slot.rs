//! The fleet's record of one replica: the data that exists in every phase of its life.

use std::time::Duration;

use tokio::time::Instant;

use super::phase::{Phase, Removal, Times, Vacated};
use crate::{
    fleet::{ages::Ages, capacity::Reservation, snapshot::ReplicaView},
    model::ReplicaId,
};

/// The fleet's record of one replica.
pub(super) struct Slot {
    pub(super) key: u64,
    pub(super) id: ReplicaId,
    /// The activation it belongs to; only replicas of the current one serve.
    pub(super) generation: u64,
    /// The version it runs.
    pub(super) version: u32,
    phase: Phase,
    /// When it entered its phase.
    since: Instant,
    /// Requests in flight. Those of a replica that died end on their own.
    pub(super) in_flight: u32,
    /// The ages of these requests, except upgraded ones.
    pub(super) ages: Ages,
    /// The number of the last lease; larger is more recent.
    pub(super) last_used: u64,
    /// Its share of the machine's capacity; given back with the slot.
    pub(super) reservation: Reservation,
}

impl Slot {
    pub(super) fn new(
        key: u64,
        id: ReplicaId,
        generation: u64,
        version: u32,
        phase: Phase,
        reservation: Reservation,
    ) -> Self {
        Self {
            key,
            id,
            generation,
            version,
            phase,
            since: Instant::now(),
            in_flight: 0,
            ages: Ages::new(Instant::now()),
            last_used: 0,
            reservation,
        }
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// For changes within a phase; [`Self::advance`] changes the phase.
    pub(super) fn phase_mut(&mut self) -> &mut Phase {
        &mut self.phase
    }

    /// When it entered its phase.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Takes a step to another phase, if `step` has one from the present phase.
    pub(super) fn advance<R>(&mut self, step: impl FnOnce(Phase) -> (Phase, R)) -> R {
        let before = std::mem::discriminant(&self.phase);
        // A placeholder: the step owns the phase meanwhile, and cannot see the slot.
        let vacant = Phase::Preparing(Times::default());
        let (next, out) = step(std::mem::replace(&mut self.phase, vacant));
        self.phase = next;
        if std::mem::discriminant(&self.phase) != before {
            self.since = Instant::now();
        }
        out
    }

    /// As [`Self::advance`], for a step without a result.
    pub(super) fn turn(&mut self, step: impl FnOnce(Phase) -> Phase) {
        self.advance(|phase| (step(phase), ()));
    }

    /// Ready => Draining.
    pub(super) fn drain(&mut self, until: Option<Instant>) {
        self.turn(|phase| match phase {
            Phase::Ready(ready) => Phase::Draining(ready.drain(until)),
            other => other,
        });
    }

    /// Draining => Ready.
    pub(super) fn revive(&mut self) {
        self.turn(|phase| match phase {
            Phase::Draining(draining) => Phase::Ready(draining.revive()),
            other => other,
        });
    }

    /// Draining, Failed, Paused or Prepared => Stopping, with what is to be removed.
    pub(super) fn stop(&mut self, grace: Duration) -> Option<Removal> {
        self.advance(|phase| phase.stop(grace))
    }

    /// Draining or Paused => Preparing, with the containers to end for it.
    pub(super) fn prepare(&mut self) -> Option<Vacated> {
        self.advance(|phase| {
            let (times, vacated) = match phase {
                Phase::Draining(draining) => draining.prepare(),
                Phase::Paused(live) => live.prepare(),
                other => return (other, None),
            };
            (Phase::Preparing(times), Some(vacated))
        })
    }

    /// The state of its start for its owner, while it is on its way up.
    pub(super) fn not_ready(&self) -> Option<String> {
        let start = self.phase.start()?;
        Some(start.progress().whole_text())
    }

    /// Its present state.
    pub(super) fn view(&self) -> ReplicaView {
        ReplicaView {
            id: self.id.clone(),
            state: self.phase.word(),
            depth: self.phase.depth(),
            version: self.version,
            container: self.phase.container().cloned(),
            in_flight: self.in_flight,
            address: self.phase.address(),
            started_at: self.phase.started_at(),
            ready_at: self.phase.ready_at(),
            not_ready: self.not_ready(),
        }
    }
}
