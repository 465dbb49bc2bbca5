//! What to start, drain and stop now: the decision of one app's driver.
//!
//! It reads and marks the state under the mutex and yields actions; the driver carries them out
//! and calls again. Everything here is synchronous, so each step can be tested by itself.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    demand::LOOK_EVERY,
    events::EventKind,
    replica::{Phase, Replica, Slot},
    room::{Ask, Outlook, Room},
    start::Job,
    state::{NoRoom, State},
};
use crate::{
    engine::{ContainerId, Endpoints},
    model::{Failure, ReplicaId, Revision},
};

/// The room that a replica which runs takes.
pub(super) fn ask<'a>(revision: &'a Revision, wake: &'a Arc<Notify>) -> Ask<'a> {
    Ask {
        app: &revision.app,
        wake,
        bytes: u64::from(revision.memory_mb) << 20,
    }
}

/// What the driver has to do.
pub(super) enum Action {
    /// Start a replica in a slot that is there already.
    Start { key: u64, job: Job },
    /// Stop and remove a container.
    Stop {
        key: u64,
        container: ContainerId,
        /// What keeps its network goes with it.
        holder: Option<ContainerId>,
        /// It is frozen, and thawed for it.
        frozen: bool,
        /// How long it may take to end; zero kills it.
        grace: Duration,
        /// The replica, when it ended by itself: how is read before its container is removed.
        examine: Option<Arc<Replica>>,
    },
    /// Freeze a container.
    Pause { key: u64, container: ContainerId },
    /// Thaw a container.
    Resume { key: u64, container: ContainerId },
    /// End a replica's process and create a container in its network.
    Prepare {
        key: u64,
        id: ReplicaId,
        revision: Arc<Revision>,
        container: Option<ContainerId>,
        holder: Option<ContainerId>,
        frozen: bool,
    },
    /// Start a prepared container.
    StartPrepared {
        key: u64,
        job: Job,
        container: ContainerId,
        endpoints: Endpoints,
    },
    /// Ask a ready replica on its health path until it is told to stop.
    Watch {
        key: u64,
        replica: Arc<Replica>,
        revision: Arc<Revision>,
        stop: CancellationToken,
    },
}

/// The actions, and when to look again if nothing happens before.
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) look_at: Option<Instant>,
}

impl Plan {
    /// Look again at this time, if not sooner.
    pub(super) fn sooner(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }
}

impl State {
    fn is_up(&self, slot: &Slot) -> bool {
        slot.generation == self.generation
            && matches!(
                slot.phase,
                Phase::Creating | Phase::Starting | Phase::Ready | Phase::Resuming
            )
            && !slot.cancel.is_cancelled()
    }

    pub(super) fn up(&self) -> u32 {
        self.slots.iter().filter(|x| self.is_up(x)).count() as u32
    }

    /// Marks what is to happen and lists it.
    pub(super) fn plan(&mut self, revision: &Arc<Revision>, config: &Config, now: Instant) -> Plan {
        let mut plan = Plan {
            actions: Vec::new(),
            look_at: None,
        };
        self.retire_old_generations();
        self.asks = false;
        let wanted = ask(revision, &self.wake);
        self.no_room
            .take_if(|n| match self.ledger.outlook(wanted, self.place.as_ref()) {
                Outlook::Room => true,
                // While it is on its way this is still the same shortage.
                Outlook::AfterFrozen => !n.on_its_way || n.refused.is_some(),
                Outlook::None => false,
            });
        let want = match self.ledger.stopped.of(&revision.app) {
            Some(why) => {
                self.stop_all(&why, now);
                0
            }
            None => self.decide_and_record(revision, now),
        };
        if self.up() < want {
            self.revive(want - self.up());
        }
        let up = self.up();
        if up < want {
            let missing = self.wake(want - up, revision, config, now, &mut plan);
            match self.trouble.retry_at {
                Some(at) if missing > 0 && now < at => plan.sooner(at),
                _ => self.start_missing(self.may_start(missing), revision, config, now, &mut plan),
            }
        } else {
            // Nobody waits for what is on its way any more.
            self.no_room
                .take_if(|n| n.on_its_way && n.refused.is_none());
            self.shed(up - want);
        }
        if !self.asks {
            self.leave_queue(revision);
        }
        self.tell_when_spare = self.up() > want || self.reviving().next().is_some();
        self.start_pending(config, now, &mut plan);
        self.age(revision, config, now, &mut plan);
        self.stop_drained(revision, config, now, &mut plan);
        self.watch_ready(revision, &mut plan);
        self.next_look(revision, now, want, &mut plan);
        plan
    }

    /// Replicas in excess that finish their requests and could serve again.
    fn reviving(&mut self) -> impl Iterator<Item = &mut Slot> {
        let generation = self.generation;
        self.slots.iter_mut().filter(move |x| {
            x.phase == Phase::Draining
                && x.generation == generation
                && x.in_flight > 0
                && x.drain_until.is_none()
        })
    }

    /// Draining => Ready: sooner and cheaper than a start.
    fn revive(&mut self, missing: u32) {
        if self.closed.is_none() {
            for slot in self.reviving().take(missing as usize) {
                slot.enter(Phase::Ready);
            }
        }
    }

    /// How many of the missing replicas to start at once. While starts fail, one at a time tries
    /// for all, so that each try counts once in the back-off.
    fn may_start(&self, missing: u32) -> u32 {
        let trying = self
            .slots
            .iter()
            .any(|x| self.is_up(x) && !x.phase.takes_requests());
        match self.trouble.failed_starts {
            0 => missing,
            _ if trying => 0,
            _ => missing.min(1),
        }
    }

    /// Replicas of a revision that serves no more drain; starts of one are called off.
    fn retire_old_generations(&mut self) {
        let closed = self.closed.is_some();
        let (current, pending) = (self.generation, self.pending.as_ref().map(|p| p.generation));
        for slot in self
            .slots
            .iter_mut()
            .filter(|x| closed || (x.generation != current && Some(x.generation) != pending))
        {
            match slot.phase {
                // Those that serve are shed, so that a close leaves them to their requests.
                Phase::Ready if slot.generation == current => {}
                Phase::Ready | Phase::Paused | Phase::Prepared => slot.enter(Phase::Draining),
                Phase::Creating | Phase::Starting => slot.cancel.cancel(),
                // Their tasks end soon, and are followed by another look.
                Phase::Pausing | Phase::Resuming | Phase::Preparing => {}
                Phase::Draining | Phase::Failed | Phase::Stopping => {}
            }
        }
    }

    /// Takes `surplus` replicas out of service: starting ones first, then those with the fewest
    /// requests, the least recently used first. A busy one takes no more and finishes those it
    /// has; should another be idle before, that one goes in its stead.
    fn shed(&mut self, surplus: u32) {
        let mut keys: Vec<_> = self
            .slots
            .iter()
            .filter(|x| self.is_up(x))
            // One that is being thawed is left alone: it is ready in no time.
            .filter(|x| x.phase != Phase::Resuming)
            .map(|x| (x.phase == Phase::Ready, x.in_flight, x.last_used, x.key))
            .collect();
        keys.sort_unstable();
        for (ready, in_flight, _, key) in keys.into_iter().take(surplus as usize) {
            let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
                continue;
            };
            match ready {
                true => slot.enter(Phase::Draining),
                false => slot.cancel.cancel(),
            }
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
            .iter_mut()
            .filter(|x| x.phase == Phase::Ready && x.generation == generation && x.in_flight == 0)
            .map(|x| (x.last_used, x.key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle {
            let Some(busy) = self.reviving().next() else {
                break;
            };
            busy.enter(Phase::Ready);
            if let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) {
                slot.enter(Phase::Draining);
            }
        }
    }

    /// Has the liveness of each ready replica watched that is not yet.
    fn watch_ready(&mut self, revision: &Arc<Revision>, plan: &mut Plan) {
        let generation = self.generation;
        for slot in self
            .slots
            .iter_mut()
            .filter(|x| x.phase == Phase::Ready && x.generation == generation && x.watch.is_none())
        {
            if let Some(replica) = slot.replica.clone() {
                let stop = CancellationToken::new();
                slot.watch = Some(stop.clone().drop_guard());
                plan.actions.push(Action::Watch {
                    key: slot.key,
                    replica,
                    revision: revision.clone(),
                    stop,
                });
            }
        }
    }

    /// Starts so many, as far as the machine has room.
    fn start_missing(
        &mut self,
        missing: u32,
        revision: &Arc<Revision>,
        config: &Config,
        now: Instant,
        plan: &mut Plan,
    ) {
        for _ in 0..missing {
            let wanted = ask(revision, &self.wake);
            match self.ledger.take(wanted, &mut self.place) {
                Ok(room) => {
                    let action = self.start(self.generation, revision.clone(), room);
                    plan.actions.push(action);
                }
                Err(failure) => return self.without_room(failure, revision, config, now, plan),
            }
        }
    }

    /// What would be kept for it goes to others.
    fn leave_queue(&mut self, revision: &Revision) {
        if self.place.take().is_some() {
            // From here on it hears of room as one that does not wait.
            let wanted = ask(revision, &self.wake);
            self.no_room
                .take_if(|_| self.ledger.outlook(wanted, None) == Outlook::Room);
        }
    }

    /// Starts the replica that is to be readied before its revision serves.
    fn start_pending(&mut self, config: &Config, now: Instant, plan: &mut Plan) {
        let Some(pending) = self.pending.as_mut() else {
            return;
        };
        let (generation, revision) = (pending.generation, pending.revision.clone());
        if self.slots.iter().any(|x| x.generation == generation) {
            return;
        }
        // Over the bounds if need be where it takes over from one that runs: it is one, and for a
        // short time. The version that mends what fills the machine must not lack the room for it.
        let takes_over = self.slots.iter().any(|x| !x.phase.rests());
        let wanted = ask(&revision, &self.wake);
        let room = match takes_over {
            true => self.ledger.take_over(wanted, &mut pending.place),
            false => self.ledger.take(wanted, &mut pending.place),
        };
        let failure = match room {
            Ok(room) => {
                let action = self.start(generation, revision, room);
                return plan.actions.push(action);
            }
            Err(failure) => failure,
        };
        let first = pending.no_room_since.is_none();
        let refuse_at = *pending.no_room_since.get_or_insert(now) + config.room_wait;
        if now < refuse_at {
            plan.sooner(refuse_at);
        } else if let Some(answer) = self.pending.take().and_then(|p| p.answer) {
            // Whoever asked may have left.
            let _ = answer.send(Err(failure.clone()));
        }
        if first {
            let text = failure.text(true);
            self.events
                .push(EventKind::NoRoom, None, revision.version, text);
        }
    }

    /// Those who wait go on waiting for some time, since others may leave; then they are refused,
    /// unless somebody serves.
    pub(super) fn without_room(
        &mut self,
        failure: Failure,
        revision: &Revision,
        config: &Config,
        now: Instant,
        plan: &mut Plan,
    ) {
        let since = self.no_room.as_ref().map_or(now, |n| n.since);
        if self.no_room.is_none() {
            tracing::warn!(app = %revision.app, "{}", failure.message);
            self.events.push(
                EventKind::NoRoom,
                None,
                revision.version,
                failure.text(true),
            );
        }
        let refuse_at = since + config.room_wait;
        let refused = (now >= refuse_at && self.up() == 0).then(|| {
            self.queue.fail_all(&failure);
            failure.clone()
        });
        if now < refuse_at {
            plan.sooner(refuse_at);
        } else if let Some(place) = &self.place {
            place.stop_gathering();
        }
        self.asks = true;
        let wanted = ask(revision, &self.wake);
        let outlook = self.ledger.outlook(wanted, self.place.as_ref());
        self.no_room = Some(NoRoom {
            since,
            why: failure.message.clone(),
            on_its_way: outlook == Outlook::AfterFrozen,
            refused,
        });
    }

    fn start(&mut self, generation: u64, revision: Arc<Revision>, room: Room) -> Action {
        let key = self.next_number();
        let id = ReplicaId::generate(ulid::Ulid::generate());
        let mut slot = Slot::new(
            key,
            id.clone(),
            generation,
            &revision,
            Phase::Creating,
            &self.events,
        );
        slot.room = Some(room);
        self.events.push(
            EventKind::ReplicaCreating,
            Some(&id),
            revision.version,
            "its container is being created",
        );
        let mut job = slot.job(revision);
        job.suspicion = self.suspicion(generation);
        self.slots.push(slot);
        Action::Start { key, job }
    }

    /// Containers without requests (or whose time to drain is over) are stopped.
    fn stop_drained(
        &mut self,
        revision: &Arc<Revision>,
        config: &Config,
        now: Instant,
        plan: &mut Plan,
    ) {
        let force = self.closed.as_ref().is_some_and(|c| now >= c.drain_until);
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            let dead = slot.phase == Phase::Failed;
            let over = force || slot.drain_until.is_some_and(|at| now >= at);
            let drained = slot.phase == Phase::Draining && (over || slot.in_flight == 0);
            if drained && self.rest(at, revision, config, plan) {
                continue;
            }
            let slot = &mut self.slots[at];
            if let (true, Some(container)) = (dead || drained, &slot.container) {
                // One that did not wake has requests in its socket that were sent elsewhere since,
                // or that their callers gave up: it must not go on, not even to end well.
                let kill = dead && slot.frozen;
                plan.actions.push(Action::Stop {
                    key: slot.key,
                    container: container.clone(),
                    holder: slot.holder.clone(),
                    frozen: slot.frozen && !kill,
                    grace: match kill {
                        true => Duration::ZERO,
                        false => config.stop_grace,
                    },
                    examine: slot.replica.take().filter(|_| slot.unexamined),
                });
                slot.enter(Phase::Stopping);
            }
        }
    }

    fn next_look(&mut self, revision: &Revision, now: Instant, want: u32, plan: &mut Plan) {
        for slot in self.slots.iter().filter(|x| x.phase == Phase::Draining) {
            // One whose time is over is waited for: its container is being made or stopped.
            let over = slot.drain_until.filter(|at| *at > now);
            over.into_iter().for_each(|at| plan.sooner(at));
        }
        if let Some(closed) = &self.closed {
            if now < closed.drain_until {
                plan.sooner(closed.drain_until);
            }
        } else if want > revision.scaling.reserved && self.meter.frozen.is_none() {
            let chosen_until = self.meter.chosen_until();
            if want > revision.scaling.reserved.max(1) {
                plan.sooner(now + LOOK_EVERY);
            } else if self.busy() {
                self.tell_when_idle = true;
            } else {
                let idle_at = self.last_active + revision.scaling.scaledown;
                plan.sooner(chosen_until.map_or(idle_at, |at| at.max(idle_at)));
            }
        }
    }
}
