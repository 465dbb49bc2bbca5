//! Starting replicas, as far as the machine has room.

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

/// A start that is wanted finds no room.
pub(super) struct Shortage {
    since: Instant,
    /// Who has it, in words.
    pub(super) why: String,
    /// Frozen replicas that would make enough room were told to go.
    on_its_way: bool,
    /// Nobody waits for it any more: what everybody is told.
    pub(super) refused: Option<Failure>,
}

impl State {
    /// What is known of a start of a revision.
    pub(super) fn progress(&self, id: &ReplicaId, revision: &Revision) -> Progress {
        let (app, version) = (revision.app.clone(), revision.version);
        Progress::new(app, id.clone(), version, self.events.clone())
    }

    /// What a start of this generation may end early for.
    fn suspicion(&self, generation: u64) -> Suspicion {
        let pending = self.pending.as_ref().map(|p| p.generation);
        let before = self.wrong_port.as_ref();
        Suspicion {
            checked: pending == Some(generation),
            before: before
                .filter(|(of, _)| *of == generation)
                .map(|(_, wrong)| wrong.clone()),
        }
    }

    /// How many of the missing replicas to start at once. While starts fail, one at a time tries
    /// for all, so that each try counts once in the back-off.
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

    /// Starts so many, unless starts fail and the next one is put off.
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
                Err(failure) => return self.without_room(failure, now, plan),
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
        // Over the bounds if need be where it takes over from one that runs: it is one, and for a
        // short time. The version that mends what fills the machine must not lack the room for it.
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
        let first = pending.no_room_since.is_none();
        let refuse_at = *pending.no_room_since.get_or_insert(now) + self.config.room_wait;
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

    /// Those who wait go on waiting for some time, since others may leave; then they are refused,
    /// unless somebody serves.
    pub(super) fn without_room(&mut self, failure: Failure, now: Instant, plan: &mut Plan) {
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
    pub(super) fn recheck_room(&mut self) {
        self.asks = false;
        let wanted = capacity_for(&self.revision, &self.wake);
        self.shortage.take_if(|n| {
            match self
                .capacity
                .availability(wanted, self.queue_position.as_ref())
            {
                Availability::Now => true,
                // While it is on its way this is still the same shortage.
                Availability::AfterEviction => !n.on_its_way || n.refused.is_some(),
                Availability::Unavailable => false,
            }
        });
    }

    /// What would be kept for an app that asks for room no more goes to others.
    pub(super) fn leave_room_queue(&mut self) {
        if !self.asks && self.queue_position.take().is_some() {
            // From here on it hears of room as one that does not wait.
            let wanted = capacity_for(&self.revision, &self.wake);
            self.shortage
                .take_if(|_| self.capacity.availability(wanted, None) == Availability::Now);
        }
    }

    /// Nobody waits any more for room that is on its way.
    pub(super) fn forget_room_on_its_way(&mut self) {
        self.shortage
            .take_if(|n| n.on_its_way && n.refused.is_none());
    }
}
