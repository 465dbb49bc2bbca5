//! What to start, drain and stop now: the decision of one app's driver.
//!
//! It reads and marks the state under the mutex and yields actions; the driver carries them out
//! and calls again. Everything here is synchronous, so each step can be tested by itself.

use std::sync::Arc;

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    replica::{Phase, Slot},
    state::State,
};
use crate::{
    engine::ContainerId,
    model::{ReplicaId, Revision, scaling},
};

/// What the driver has to do.
pub(super) enum Action {
    /// Start a replica in a slot that is there already.
    Start {
        key: u64,
        id: ReplicaId,
        revision: Arc<Revision>,
        died: Arc<Notify>,
        cancel: CancellationToken,
    },
    /// Stop and remove a container.
    Stop { key: u64, container: ContainerId },
}

/// The actions, and when to look again if nothing happens before.
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) look_at: Option<Instant>,
}

impl State {
    fn is_up(&self, slot: &Slot) -> bool {
        slot.generation == self.generation
            && matches!(slot.phase, Phase::Creating | Phase::Starting | Phase::Ready)
            && !slot.cancel.is_cancelled()
    }

    fn up(&self) -> u32 {
        self.slots.iter().filter(|x| self.is_up(x)).count() as u32
    }

    fn busy(&self) -> bool {
        self.in_flight > 0 || self.backlog > 0 || !self.queue.is_empty()
    }

    /// How many replicas there should be now.
    pub(super) fn desired(&self, revision: &Revision, now: Instant) -> u32 {
        if self.closed.is_some() {
            return 0;
        }
        let idle_for = now.saturating_duration_since(self.last_active);
        scaling::desired(
            &revision.scaling,
            scaling::Demand {
                busy: self.busy(),
                up: self.up(),
                idle_for,
            },
        )
    }

    /// Marks what is to happen and lists it.
    pub(super) fn plan(&mut self, revision: &Arc<Revision>, now: Instant) -> Plan {
        let mut plan = Plan {
            actions: Vec::new(),
            look_at: None,
        };
        self.retire_old_generations();
        let want = self.desired(revision, now);
        let up = self.up();
        if up < want {
            match self.trouble.retry_at {
                Some(at) if now < at => plan.look_at = Some(at),
                _ => (0..self.may_start(want - up)).for_each(|_| {
                    let action = self.start(self.generation, revision.clone());
                    plan.actions.push(action);
                }),
            }
        } else if up > want {
            self.shed(up - want);
        }
        self.tell_when_spare = self.up() > want;
        if let Some((generation, revision)) = self
            .pending
            .as_ref()
            .map(|p| (p.generation, p.revision.clone()))
            && !self.slots.iter().any(|x| x.generation == generation)
        {
            let action = self.start(generation, revision);
            plan.actions.push(action);
        }
        self.stop_drained(now, &mut plan);
        self.next_look(revision, now, want, &mut plan);
        plan
    }

    /// How many of the missing replicas to start at once. While starts fail, one at a time tries
    /// for all, so that each try counts once in the back-off.
    fn may_start(&self, missing: u32) -> u32 {
        let trying = self
            .slots
            .iter()
            .any(|x| self.is_up(x) && x.phase != Phase::Ready);
        match self.trouble.failed_starts {
            0 => missing,
            _ if trying => 0,
            _ => missing.min(1),
        }
    }

    /// Replicas of a revision that serves no more drain; starts of one are called off.
    fn retire_old_generations(&mut self) {
        let (current, pending) = (self.generation, self.pending.as_ref().map(|p| p.generation));
        for slot in self
            .slots
            .iter_mut()
            .filter(|x| x.generation != current && Some(x.generation) != pending)
        {
            match slot.phase {
                Phase::Ready => slot.phase = Phase::Draining,
                Phase::Creating | Phase::Starting => slot.cancel.cancel(),
                Phase::Draining | Phase::Failed | Phase::Stopping => {}
            }
        }
    }

    /// Takes `surplus` replicas out of service: starting ones first, then idle ones, the least
    /// recently used first; busy ones only when all must go.
    fn shed(&mut self, surplus: u32) {
        let closing = self.closed.is_some();
        let mut keys: Vec<_> = self
            .slots
            .iter()
            .filter(|x| self.is_up(x) && (closing || x.in_flight == 0))
            .map(|x| (x.phase == Phase::Ready, x.last_used, x.key))
            .collect();
        keys.sort_unstable();
        for (ready, _, key) in keys.into_iter().take(surplus as usize) {
            if let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) {
                match ready {
                    true => slot.phase = Phase::Draining,
                    false => slot.cancel.cancel(),
                }
            }
        }
    }

    fn start(&mut self, generation: u64, revision: Arc<Revision>) -> Action {
        let key = self.next_number();
        let id = ReplicaId::generate(ulid::Ulid::generate());
        let (died, cancel) = (Arc::new(Notify::new()), CancellationToken::new());
        self.slots.push(Slot {
            key,
            id: id.clone(),
            generation,
            phase: Phase::Creating,
            container: None,
            replica: None,
            in_flight: 0,
            last_used: 0,
            died: died.clone(),
            ended: false,
            cancel: cancel.clone(),
        });
        Action::Start {
            key,
            id,
            revision,
            died,
            cancel,
        }
    }

    /// Containers without requests (or whose time to drain is over) are stopped.
    fn stop_drained(&mut self, now: Instant, plan: &mut Plan) {
        let force = self.closed.as_ref().is_some_and(|c| now >= c.drain_until);
        for slot in &mut self.slots {
            let dead = slot.phase == Phase::Failed;
            let drained = slot.phase == Phase::Draining && (force || slot.in_flight == 0);
            if let (true, Some(container)) = (dead || drained, &slot.container) {
                slot.phase = Phase::Stopping;
                slot.replica = None;
                plan.actions.push(Action::Stop {
                    key: slot.key,
                    container: container.clone(),
                });
            }
        }
    }

    fn next_look(&mut self, revision: &Revision, now: Instant, want: u32, plan: &mut Plan) {
        let mut sooner =
            |at: Instant| plan.look_at = Some(plan.look_at.map_or(at, |other| other.min(at)));
        if let Some(closed) = &self.closed {
            if now < closed.drain_until {
                sooner(closed.drain_until);
            }
        } else if want > revision.scaling.reserved {
            if self.busy() {
                self.tell_when_idle = true;
            } else {
                sooner(self.last_active + revision.scaling.scaledown);
            }
        }
    }
}
