//! What to start, drain and stop now: the decision of one app's driver.
//!
//! It reads and changes the state under the mutex and yields actions; the driver carries them out
//! and calls again. Everything here is synchronous, so each step can be tested by itself.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    State,
    phase::{Phase, Removal, Vacated},
    slot::Slot,
};
use crate::{
    engine::{ContainerId, Endpoints},
    fleet::{autoscaler::Falls, events::EventKind, replica::Replica, start::Job},
    model::{Failure, ReplicaId, Revision},
};

/// What the driver has to do.
pub(in crate::fleet) enum Action {
    /// Start a replica in a slot that exists already.
    Start { key: u64, job: Job },
    /// Stop and remove containers.
    Stop { key: u64, removal: Removal },
    /// Freeze a container.
    Pause { key: u64, container: ContainerId },
    /// Thaw a container.
    Resume { key: u64, container: ContainerId },
    /// End a replica's process and create a container in its network, for a later start.
    Prepare {
        key: u64,
        id: ReplicaId,
        revision: Arc<Revision>,
        vacated: Vacated,
    },
    /// Start a prepared container.
    StartPrepared {
        key: u64,
        job: Job,
        container: ContainerId,
        endpoints: Endpoints,
    },
    /// Probe the health path of a ready replica until `stop`.
    Watch {
        key: u64,
        replica: Arc<Replica>,
        revision: Arc<Revision>,
        stop: CancellationToken,
    },
}

/// The actions, and when to decide again if nothing happens before.
pub(in crate::fleet) struct Plan {
    pub(in crate::fleet) actions: Vec<Action>,
    pub(in crate::fleet) wake_at: Option<Instant>,
}

impl Plan {
    /// Wake the driver at this time, if not sooner.
    pub(super) fn sooner(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    /// Adds the removal of a slot's containers, if there is one.
    pub(super) fn stop(&mut self, key: u64, removal: Option<Removal>) {
        let stop = removal.map(|removal| Action::Stop { key, removal });
        self.actions.extend(stop);
    }
}

impl State {
    pub(super) fn is_up(&self, slot: &Slot) -> bool {
        slot.generation == self.generation && slot.phase().is_up()
    }

    pub(super) fn up(&self) -> u32 {
        self.slots.iter().filter(|x| self.is_up(x)).count() as u32
    }

    /// Decides what is to happen, changes the phases accordingly, and lists the actions.
    pub(in crate::fleet) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan {
            actions: Vec::new(),
            wake_at: None,
        };
        self.retire_old_generations(&mut plan);
        self.recheck_shortage();
        let want = match self.capacity.suspended.of(&self.revision.app) {
            Some(why) => {
                self.stop_all(&why, now, &mut plan);
                0
            }
            None => self.decide(now),
        };
        if self.up() < want {
            self.revive(want - self.up());
        }
        let up = self.up();
        if up < want {
            let missing = self.leave_standby(want - up, now, &mut plan);
            self.start_missing(missing, now, &mut plan);
        } else {
            self.forget_awaited_eviction();
            self.shed(up - want);
        }
        self.leave_capacity_queue();
        self.wake_when_spare = self.up() > want || self.reviving().next().is_some();
        self.start_pending(now, &mut plan);
        self.age_standby(now, &mut plan);
        self.stop_drained(now, &mut plan);
        self.watch_ready(&mut plan);
        self.schedule_wake(now, want, &mut plan);
        // Last, since requests may be sent at once to the replicas that are thawed from now on.
        self.grant_waiting();
        plan
    }

    /// How many replicas there should be; a change is recorded with its reason.
    fn decide(&mut self, now: Instant) -> u32 {
        if !self.wants_any() {
            return 0;
        }
        let load = self.load();
        let decision = self.autoscaler.decide(&self.revision.scaling, load, now);
        if let Some(change) = decision.change {
            let version = self.revision.version;
            self.events.push(EventKind::Scaled, None, version, change);
        }
        decision.want
    }

    /// Surplus replicas that are finishing their requests and could serve again.
    fn reviving(&mut self) -> impl Iterator<Item = &mut Slot> {
        let generation = self.generation;
        self.slots.iter_mut().filter(move |x| {
            let stays = matches!(x.phase(), Phase::Draining(draining) if draining.may_stay());
            stays && x.generation == generation && x.in_flight > 0
        })
    }

    /// Draining => Ready: faster and cheaper than a start.
    fn revive(&mut self, missing: u32) {
        if self.closed.is_none() {
            self.reviving()
                .take(missing as usize)
                .for_each(Slot::revive);
        }
    }

    /// Drains replicas of revisions that serve no more, and cancels their starts.
    fn retire_old_generations(&mut self, plan: &mut Plan) {
        let closed = self.closed.is_some();
        let (current, pending) = (self.generation, self.pending.as_ref().map(|p| p.generation));
        let grace = self.config.stop_grace;
        for slot in self
            .slots
            .iter_mut()
            .filter(|x| closed || (x.generation != current && Some(x.generation) != pending))
        {
            match slot.phase() {
                // On a close, replicas that serve are left to `shed`, so that they finish their
                // requests.
                Phase::Ready(_) if slot.generation == current => {}
                Phase::Ready(_) => slot.drain(None),
                Phase::Paused(_) | Phase::Prepared(_) => {
                    let removal = slot.stop(grace);
                    plan.stop(slot.key, removal);
                }
                Phase::Creating(_) | Phase::Starting(_) => slot.phase().call_off(),
                // Their tasks end soon, and are followed by another decision.
                Phase::Pausing(_) | Phase::Resuming(_) | Phase::Preparing(_) => {}
                Phase::Draining(_) | Phase::Failed(_) | Phase::Stopping(_) => {}
            }
        }
    }

    /// Stops every replica of a suspended app, busy or not, and fails all waiting requests: an app
    /// that answers requests could keep writing to the disk.
    fn stop_all(&mut self, why: &Failure, now: Instant, plan: &mut Plan) {
        self.queue.fail_all(why);
        if let Some(pending) = &mut self.pending {
            pending.answer_now(Err(why.clone()));
        }
        self.abandon_pending();
        for slot in &mut self.slots {
            match slot.phase_mut() {
                Phase::Ready(_) => slot.drain(Some(now)),
                Phase::Draining(draining) => draining.end_by(now),
                Phase::Paused(_) | Phase::Prepared(_) => {
                    let removal = slot.stop(self.config.stop_grace);
                    plan.stop(slot.key, removal);
                }
                Phase::Creating(_) | Phase::Starting(_) => slot.phase().call_off(),
                // Their tasks end soon, and are followed by another decision.
                Phase::Pausing(_) | Phase::Resuming(_) | Phase::Preparing(_) => {}
                Phase::Failed(_) | Phase::Stopping(_) => {}
            }
        }
    }

    /// Takes `surplus` replicas out of service: starting ones first, then those with the fewest
    /// requests, the least recently used first. A busy replica takes no more requests and finishes
    /// those it has; if another becomes idle before, that one is stopped in its place.
    fn shed(&mut self, surplus: u32) {
        let mut keys: Vec<_> = self
            .slots
            .iter()
            .filter(|x| self.is_up(x))
            // A replica that is being thawed is left alone: it is ready in no time.
            .filter(|x| !matches!(x.phase(), Phase::Resuming(_)))
            .map(|x| {
                let ready = matches!(x.phase(), Phase::Ready(_));
                (ready, x.in_flight, x.last_used, x.key)
            })
            .collect();
        keys.sort_unstable();
        for (_, in_flight, _, key) in keys.into_iter().take(surplus as usize) {
            let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
                continue;
            };
            slot.phase().call_off();
            slot.drain(None);
            if in_flight > 0 {
                self.events.push(
                    EventKind::ReplicaDraining,
                    Some(&slot.id),
                    slot.version,
                    format!("finishes {in_flight} requests"),
                );
            }
        }
        if self.closed.is_some() {
            return;
        }
        let generation = self.generation;
        let mut idle: Vec<_> = self
            .slots
            .iter()
            .filter(|x| matches!(x.phase(), Phase::Ready(_)))
            .filter(|x| x.generation == generation && x.in_flight == 0)
            .map(|x| (x.last_used, x.key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle {
            let Some(busy) = self.reviving().next() else {
                break;
            };
            busy.revive();
            if let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) {
                slot.drain(None);
            }
        }
    }

    /// Begins the liveness probes of each ready replica that has none yet.
    fn watch_ready(&mut self, plan: &mut Plan) {
        let generation = self.generation;
        for slot in self.slots.iter_mut().filter(|x| x.generation == generation) {
            let key = slot.key;
            if let Phase::Ready(ready) = slot.phase_mut()
                && let Some((replica, stop)) = ready.probe()
            {
                plan.actions.push(Action::Watch {
                    key,
                    replica,
                    revision: self.revision.clone(),
                    stop,
                });
            }
        }
    }

    /// Stops draining replicas without requests, or whose time to drain is over, and failed ones.
    fn stop_drained(&mut self, now: Instant, plan: &mut Plan) {
        let force = self.closed.as_ref().is_some_and(|c| now >= c.drain_until);
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            match slot.phase() {
                Phase::Failed(_) => {}
                Phase::Draining(draining) => {
                    let over = force || draining.until().is_some_and(|at| now >= at);
                    if !over && slot.in_flight > 0 || self.enter_standby(at, plan) {
                        continue;
                    }
                }
                _ => continue,
            }
            let slot = &mut self.slots[at];
            let removal = slot.stop(self.config.stop_grace);
            plan.stop(slot.key, removal);
        }
    }

    fn schedule_wake(&mut self, now: Instant, want: u32, plan: &mut Plan) {
        for slot in &self.slots {
            // A deadline that has passed needs no wake-up: `stop_drained` has acted on it.
            if let Phase::Draining(draining) = slot.phase()
                && let Some(until) = draining.until().filter(|at| *at > now)
            {
                plan.sooner(until);
            }
        }
        if let Some(closed) = &self.closed {
            if now < closed.drain_until {
                plan.sooner(closed.drain_until);
            }
            return;
        }
        let (scaling, load) = (&self.revision.scaling, self.load());
        match self.autoscaler.falls(scaling, load, want, now) {
            Falls::Never => {}
            Falls::OnceIdle => self.wake_when_idle = true,
            Falls::At(at) => plan.sooner(at),
        }
    }
}
