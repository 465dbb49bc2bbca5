//! Starting replicas, as far as the machine has capacity.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    State, capacity_for,
    phase::{Phase, Start},
    plan::{Action, Plan},
    slot::Slot,
};
use crate::{
    fleet::{
        capacity::{Availability, Reservation},
        events::EventKind,
        ports::Suspicion,
        probe::Progress,
    },
    model::{Failure, ReplicaId, Revision},
};

/// A wanted start that finds no capacity.
pub(super) struct Shortage {
    since: Instant,
    /// Who holds the capacity, in words.
    pub(super) why: String,
    /// Frozen replicas whose memory suffices are being evicted.
    on_its_way: bool,
    /// Set once nobody waits any longer: the failure that requests are refused with.
    pub(super) refused: Option<Failure>,
}

impl State {
    /// The progress record for a start of a revision.
    pub(super) fn progress(&self, id: &ReplicaId, revision: &Revision) -> Progress {
        let (app, version) = (revision.app.clone(), revision.version);
        Progress::new(app, id.clone(), version, self.events.clone())
    }

    /// What may end a start of this generation early.
    fn suspicion(&self, generation: u64) -> Suspicion {
        let pending = self.pending.as_ref().map(|p| p.generation);
        let before = self.wrong_port.as_ref();
        Suspicion {
            checked: self.checks_starts || pending == Some(generation),
            before: before
                .filter(|(of, _)| *of == generation)
                .map(|(_, wrong)| wrong.clone()),
        }
    }

    /// How many of the missing replicas to start at once. While starts fail, only one at a time is
    /// tried, so that each attempt counts once in the back-off.
    fn may_start(&self, missing: u32) -> u32 {
        let trying = self
            .slots
            .iter()
            .any(|x| self.is_up(x) && !x.phase().takes_requests());
        match self.failures.failed_starts() {
            0 => missing,
            _ if trying => 0,
            _ => missing.min(1),
        }
    }

    /// Starts the missing replicas, unless starts fail and the next attempt is put off.
    pub(super) fn start_missing(&mut self, missing: u32, now: Instant, plan: &mut Plan) {
        if missing > 0
            && let Some(at) = self.failures.waits_until(now)
        {
            return plan.sooner(at);
        }
        let revision = self.revision.clone();
        for _ in 0..self.may_start(missing) {
            let wanted = capacity_for(&revision, &self.wake);
            match self.capacity.take(wanted, &mut self.queue_position) {
                Ok(reservation) => {
                    let action = self.start(self.generation, revision.clone(), reservation);
                    plan.actions.push(action);
                }
                Err(failure) => return self.without_capacity(failure, now, plan),
            }
        }
    }

    /// Starts the replica that is to be readied before its revision serves.
    pub(super) fn start_pending(&mut self, now: Instant, plan: &mut Plan) {
        let Some(pending) = self.pending.as_mut() else {
            return;
        };
        let (generation, revision) = (pending.generation, pending.revision.clone());
        if self.slots.iter().any(|x| x.generation == generation) {
            return;
        }
        // A replica that takes over from a running one may exceed the bounds: it is one, and only
        // for a short time. The version that fixes whatever fills the machine must not be kept out
        // by it.
        let takes_over = self.slots.iter().any(|x| !x.phase().rests());
        let wanted = capacity_for(&revision, &self.wake);
        let reservation = if takes_over {
            self.capacity.take_over(wanted, &mut pending.queue_position)
        } else {
            self.capacity.take(wanted, &mut pending.queue_position)
        };
        let failure = match reservation {
            Ok(reservation) => {
                let action = self.start(generation, revision, reservation);
                return plan.actions.push(action);
            }
            Err(failure) => failure,
        };
        let first = pending.short_since.is_none();
        let refuse_at = *pending.short_since.get_or_insert(now) + self.config.room_wait;
        if now < refuse_at {
            plan.sooner(refuse_at);
        } else if let Some(pending) = self.pending.take() {
            pending.answer(Err(failure.clone()));
        }
        if first {
            let text = failure.text(true);
            self.events
                .push(EventKind::NoRoom, None, revision.version, text);
        }
    }

    fn start(
        &mut self,
        generation: u64,
        revision: Arc<Revision>,
        reservation: Reservation,
    ) -> Action {
        let key = self.next_number();
        let id = ReplicaId::generate(ulid::Ulid::generate());
        let version = revision.version;
        self.events.push(
            EventKind::ReplicaCreating,
            Some(&id),
            version,
            "its container is being created",
        );
        let start = Start::new(self.progress(&id, &revision));
        let job = start.job(id.clone(), revision, self.suspicion(generation));
        let phase = Phase::Creating(start);
        self.slots
            .push(Slot::new(key, id, generation, version, phase, reservation));
        Action::Start { key, job }
    }

    /// Records a shortage. Held requests keep waiting for `room_wait`, since others may leave; then
    /// they are refused, unless a replica is up.
    pub(super) fn without_capacity(&mut self, failure: Failure, now: Instant, plan: &mut Plan) {
        let since = self.shortage.as_ref().map_or(now, |n| n.since);
        if self.shortage.is_none() {
            tracing::warn!(app = %self.revision.app, "{}", failure.message);
            self.events.push(
                EventKind::NoRoom,
                None,
                self.revision.version,
                failure.text(true),
            );
        }
        let refuse_at = since + self.config.room_wait;
        let refused = (now >= refuse_at && self.up() == 0).then(|| {
            self.queue.fail_all(&failure);
            failure.clone()
        });
        if now < refuse_at {
            plan.sooner(refuse_at);
        } else if let Some(position) = &self.queue_position {
            position.stop_gathering();
        }
        self.asks = true;
        let wanted = capacity_for(&self.revision, &self.wake);
        let availability = self
            .capacity
            .availability(wanted, self.queue_position.as_ref());
        self.shortage = Some(Shortage {
            since,
            why: failure.message.clone(),
            on_its_way: availability == Availability::AfterEviction,
            refused,
        });
    }

    /// Forgets a shortage that is over.
    pub(super) fn recheck_shortage(&mut self) {
        self.asks = false;
        let wanted = capacity_for(&self.revision, &self.wake);
        self.shortage.take_if(|n| {
            match self
                .capacity
                .availability(wanted, self.queue_position.as_ref())
            {
                Availability::Now => true,
                // While the eviction is under way, this is still the same shortage.
                Availability::AfterEviction => !n.on_its_way || n.refused.is_some(),
                Availability::Unavailable => false,
            }
        });
    }

    /// Leaves the queue when the plan no longer asks for capacity, so that what is kept for this
    /// app goes to others.
    pub(super) fn leave_capacity_queue(&mut self) {
        if !self.asks && self.queue_position.take().is_some() {
            // From here on the app is notified as one outside the queue.
            let wanted = capacity_for(&self.revision, &self.wake);
            self.shortage
                .take_if(|_| self.capacity.availability(wanted, None) == Availability::Now);
        }
    }

    /// Forgets a shortage that an eviction would end: nobody waits for that any more.
    pub(super) fn forget_awaited_eviction(&mut self) {
        self.shortage
            .take_if(|n| n.on_its_way && n.refused.is_none());
    }
}
