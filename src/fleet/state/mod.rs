//! What the mutex of a deployment guards: one app's replicas, the requests that wait for them, and
//! the data behind the decision how many there should be.
//!
//! | file | what |
//! |---|---|
//! | `phase.rs` | the phases of a replica's life, and what each owns |
//! | `slot.rs` | the record of one replica: what holds in every phase |
//! | `routing.rs` | load balancing: which replica a request is sent to (least in flight), and why one waits |
//! | `plan.rs` | decides what to start, drain and stop |
//! | `starts.rs` | starting replicas, as far as the machine has capacity |
//! | `standby.rs` | the transitions into warm standby and out of it |
//! | `task_outcome.rs` | the outcomes of the driver's tasks |
//! | `containers.rs` | what the engine and an earlier run say of the containers |
//! | `failures.rs` | what went wrong lately, and the back-off |
//!
//! # Rules
//!
//! - **One owner.** Nothing outside of this module reads or writes a field. Its inputs are
//!   requests, task outcomes, engine reports and commands; its outputs are values: a [`Grant`], the
//!   [`Action`]s of a [`Plan`], a [`Snapshot`]. It knows no deployment, task or lease.
//! - **One writer of phases.** A replica changes its phase only by the steps of [`phase`], taken
//!   under the mutex. The tasks of the driver work on containers and report a [`TaskOutcome`]; an
//!   outcome for a phase that is over changes nothing.
//! - **A replica leaves service at zero requests, under the mutex.** A request is counted on its
//!   replica in the same critical section that chooses it, and a replica is stopped or frozen only
//!   in one that finds it draining with no request counted. So no request is granted a replica that
//!   is leaving. The exceptions are explicit: a drain timeout, a close, a suspension.
//! - **Short.** Nothing here waits or calls the engine or the store.
//! - **Order of locks.** This mutex, then one of the leaves that are locked under it: the capacity,
//!   the suspensions, the events, the progress of a start. These take no further lock. Dropping a
//!   lease takes this mutex, so leases are made and dropped outside of it.

mod containers;
mod failures;
mod phase;
mod plan;
mod routing;
mod slot;
mod standby;
mod starts;
mod task_outcome;
#[cfg(test)]
pub(super) mod testing;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

#[cfg(test)]
pub(super) use self::plan::Plan;
pub(super) use self::{
    containers::{Adopted, Expected, Frozen},
    phase::{Containers, Removal, Vacated},
    plan::Action,
    routing::{Arrival, Grant},
    task_outcome::TaskOutcome,
};
use self::{failures::FailureHistory, phase::Phase, slot::Slot, starts::Shortage};
use super::{
    Config,
    autoscaler::{Autoscaler, Load},
    capacity::{Capacity, CapacityRequest, QueuePosition},
    events::{EventKind, Events},
    hold::Queue,
    ports::WrongPort,
    refusal::Refusal,
    snapshot::{ReplicaView, Snapshot},
};
use crate::model::{Failure, Reason, Revision, Standby};

/// The generation of a replica that is being readied, and the receiver of its outcome.
pub(super) type Readying = (u64, oneshot::Receiver<Result<(), Failure>>);

/// A revision whose first replica is being readied beside what serves.
struct Pending {
    revision: Arc<Revision>,
    generation: u64,
    answer: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Set while its start finds no capacity.
    short_since: Option<Instant>,
    /// Its position in the queue for capacity.
    queue_position: Option<QueuePosition>,
}

impl Pending {
    /// Reports the outcome and ends the wait.
    fn answer(mut self, outcome: Result<(), Failure>) {
        self.answer_now(outcome);
    }

    /// Reports the outcome while the replica stays; only the first report counts.
    fn answer_now(&mut self, outcome: Result<(), Failure>) {
        if let Some(answer) = self.answer.take() {
            // The publish that asked may have been cancelled.
            let _ = answer.send(outcome);
        }
    }
}

/// A deployment is closed: it starts and grants nothing.
struct Closed {
    why: Failure,
    /// From then on replicas are stopped even with requests in flight.
    drain_until: Instant,
}

/// See the [module](self).
pub(super) struct State {
    config: Arc<Config>,
    /// The revision that serves. The deployment publishes a copy for readers without the mutex.
    revision: Arc<Revision>,
    generation: u64,
    /// A version is active. Until then only the pending replica is wanted.
    published: bool,
    pending: Option<Pending>,
    slots: Vec<Slot>,
    queue: Queue<Grant>,
    in_flight: u32,
    /// Executions that are accepted and not sent to a replica yet.
    backlog: u32,
    last_active: Instant,
    /// The driver must be woken when nothing is in flight any more.
    wake_when_idle: bool,
    /// There are more replicas than wanted, all busy: the driver must be woken when one becomes
    /// idle.
    wake_when_spare: bool,
    failures: FailureHistory,
    /// The newest failure and its time, for people; kept after recovery.
    last_failure: Option<(Failure, SystemTime)>,
    /// When a request last arrived or ended.
    last_request: Option<Instant>,
    /// Set when the app is deleted or the platform stops.
    closed: Option<Closed>,
    counter: u64,
    autoscaler: Autoscaler,
    /// The app's record of events.
    events: Events,
    /// The capacity of this machine, and who holds it.
    capacity: Arc<Capacity>,
    /// Wakes the driver; also notified by the capacity when some is free.
    wake: Arc<Notify>,
    /// Set while a start is wanted and finds no capacity.
    shortage: Option<Shortage>,
    /// The app's position in the queue for capacity, kept as long as the app asks.
    queue_position: Option<QueuePosition>,
    /// The present plan asked for capacity and found none.
    asks: bool,
    /// The depth of standby chosen by hand, until the next request.
    rest_at: Option<Standby>,
    /// The wrong port on which a failed start of this generation listened.
    wrong_port: Option<(u64, WrongPort)>,
    /// Whoever waits for a start wants its verdict, and can fix the app: a test run.
    pub(super) checks_starts: bool,
    /// The engine's refusal to freeze a replica of the app.
    no_pause: Refusal,
    /// The engine's refusal to prepare one.
    no_prepare: Refusal,
    /// The owner has been warned that the app's files can be lost.
    warned_of_files: bool,
}

/// The capacity that a running replica takes.
fn capacity_for<'a>(revision: &'a Revision, wake: &'a Arc<Notify>) -> CapacityRequest<'a> {
    CapacityRequest {
        app: &revision.app,
        wake,
        bytes: u64::from(revision.memory_mb) << 20,
    }
}

impl State {
    pub(super) fn new(
        config: Arc<Config>,
        capacity: Arc<Capacity>,
        revision: Arc<Revision>,
        published: bool,
        events: Events,
        wake: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            revision,
            generation: 0,
            published,
            pending: None,
            slots: Vec::new(),
            queue: Queue::default(),
            in_flight: 0,
            backlog: 0,
            last_active: now,
            wake_when_idle: false,
            wake_when_spare: false,
            failures: FailureHistory::default(),
            last_failure: None,
            last_request: None,
            closed: None,
            counter: 0,
            autoscaler: Autoscaler::new(now),
            events,
            capacity,
            wake,
            shortage: None,
            queue_position: None,
            asks: false,
            rest_at: None,
            wrong_port: None,
            checks_starts: false,
            no_pause: Refusal::default(),
            no_prepare: Refusal::default(),
            warned_of_files: false,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// The revision that serves.
    pub(super) fn revision(&self) -> &Revision {
        &self.revision
    }

    fn serves(&self, slot: &Slot) -> bool {
        slot.phase().takes_requests() && slot.generation == self.generation
    }

    fn has_ready(&self) -> bool {
        self.slots.iter().any(|x| self.serves(x))
    }

    /// The failure it is closed with, if it is closed.
    pub(super) fn closed(&self) -> Option<&Failure> {
        self.closed.as_ref().map(|closed| &closed.why)
    }

    /// Whether it is closed and its last container is gone.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some() && self.slots.is_empty()
    }

    fn load(&self) -> Load {
        let held = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        Load {
            in_flight: self.in_flight,
            waiting: held.saturating_add(self.backlog),
            up: self.up(),
            last_active: self.last_active,
        }
    }

    /// Takes a sample; true if more replicas are wanted than are up, so that the driver must be
    /// woken.
    fn sample(&mut self, now: Instant) -> bool {
        let load = self.load();
        self.autoscaler.sample(&self.revision.scaling, load, now)
    }

    /// Whether any replica may be wanted, so that the autoscaler decides.
    fn wants_any(&self) -> bool {
        self.closed.is_none() && self.published
    }

    fn desired(&mut self, now: Instant) -> u32 {
        if !self.wants_any() {
            return 0;
        }
        let load = self.load();
        self.autoscaler.desired(&self.revision.scaling, load, now)
    }

    /// The app's present state.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let desired = self.desired(Instant::now());
        let mut snapshot = Snapshot {
            pinned: self.autoscaler.pinned().is_some(),
            desired,
            in_flight: self.in_flight,
            held: self.queue.len() as u32,
            backlog: self.backlog,
            last_failure: self.last_failure.clone(),
            idle_for: self.last_request.map(|at| at.elapsed()),
            not_ready: self.slots.iter().find_map(Slot::not_ready),
            failing: self.failures.certain().is_some(),
            ..Snapshot::default()
        };
        for slot in &self.slots {
            let count = match slot.phase() {
                Phase::Ready(_) if slot.generation == self.generation => &mut snapshot.ready,
                Phase::Ready(_) => continue,
                Phase::Creating(_) | Phase::Starting(_) | Phase::Resuming(_) => {
                    &mut snapshot.starting
                }
                Phase::Draining(_) | Phase::Failed(_) | Phase::Stopping(_) => {
                    &mut snapshot.draining
                }
                Phase::Paused(_) => &mut snapshot.paused,
                Phase::Prepared(_) => &mut snapshot.prepared,
                Phase::Pausing(_) | Phase::Preparing(_) => &mut snapshot.moving,
            };
            *count += 1;
        }
        snapshot.standby = snapshot.paused + snapshot.prepared + snapshot.moving;
        snapshot
    }

    /// Its replicas, the oldest first.
    pub(super) fn replicas(&self) -> Vec<ReplicaView> {
        self.slots.iter().map(Slot::view).collect()
    }

    /// Makes a revision the one that serves. Replicas of another container configuration drain.
    pub(super) fn activate(&mut self, revision: Arc<Revision>) {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.revision, revision.clone());
        let same_container = before.same_container(&revision);
        // A different pending revision stays: its publish may still want it.
        let prepared = self
            .pending
            .take_if(|p| p.revision.same_container(&revision));
        if let Some(p) = prepared {
            self.generation = p.generation;
            // It stays up for a scale-down period, as after a request.
            self.last_active = now;
        } else if !same_container {
            self.generation = self.next_number();
        }
        let first = !std::mem::replace(&mut self.published, true);
        self.shortage = None;
        // A publish or a change of settings is a reason to try afresh.
        self.failures = FailureHistory::default();
        if before.scaling != revision.scaling {
            // Demand that was computed by other rules says nothing.
            self.autoscaler.forget(now);
        }
        if first || !same_container {
            self.no_pause.clear();
            self.no_prepare.clear();
            self.events.push(
                EventKind::Activated,
                None,
                revision.version,
                format!("version {} serves from now on", revision.version),
            );
            self.events.object(&revision);
        }
        self.grant_waiting();
    }

    /// Whether replicas serve now that `next` could not keep.
    pub(super) fn must_prepare(&self, next: &Revision) -> bool {
        self.has_ready() && self.closed.is_none() && !self.revision.same_container(next)
    }

    /// Starts a replica of the revision beside those that serve. `None` if the revision can keep
    /// the containers that serve.
    ///
    /// # Errors
    /// The failure it is closed with.
    pub(super) fn prepare(&mut self, revision: &Revision) -> Result<Option<Readying>, Failure> {
        if let Some(why) = self.closed() {
            return Err(why.clone());
        }
        if self.published && self.revision.same_container(revision) {
            return Ok(None);
        }
        self.abandon_pending();
        let (tx, rx) = oneshot::channel();
        let generation = self.next_number();
        self.pending = Some(Pending {
            revision: Arc::new(revision.clone()),
            generation,
            answer: Some(tx),
            short_since: None,
            queue_position: None,
        });
        Ok(Some((generation, rx)))
    }

    /// Removes the replica of a generation that was readied and does not serve; false if there is
    /// none.
    pub(super) fn abandon(&mut self, generation: u64) -> bool {
        let mut pending = self.pending.iter();
        let is_pending = pending.any(|p| p.generation == generation);
        if is_pending {
            self.abandon_pending();
        }
        is_pending
    }

    fn abandon_pending(&mut self) {
        if let Some(p) = self.pending.take() {
            let of = |x: &&Slot| x.generation == p.generation;
            for slot in self.slots.iter().filter(of) {
                slot.phase().call_off();
            }
        }
    }

    /// Closes the app: from here on nothing is granted or started, and held requests fail. Replicas
    /// with requests in flight are stopped after `grace`.
    pub(super) fn close(&mut self, why: Failure, grace: Duration) {
        self.queue.fail_all(&why);
        self.abandon_pending();
        self.events.end();
        let drain_until = Instant::now() + grace;
        match &mut self.closed {
            // A deleted app whose platform stops as well: the shorter grace holds.
            Some(closed) => closed.drain_until = closed.drain_until.min(drain_until),
            None => self.closed = Some(Closed { why, drain_until }),
        }
    }

    /// Cancels starts, which remove their containers, and ends liveness probes, since the driver
    /// ends.
    pub(super) fn end_tasks(&mut self) {
        for slot in &mut self.slots {
            slot.phase_mut().end_tasks();
        }
    }

    /// The engine does not answer. If no replica is up or starting, requests fail at once, for as
    /// long as `stands`, instead of waiting for an engine that may stay away. Replicas that are up
    /// keep serving, and a start under way finds out by itself.
    pub(super) fn engine_gone(&mut self, why: &Failure, stands: Duration) {
        let starts = |x: &Slot| x.phase().start().is_some();
        if self.slots.iter().any(|x| starts(x) || self.serves(x)) {
            return;
        }
        self.queue.fail_all(why);
        self.failures.refuse(why.clone(), stands);
    }

    /// Forgets the failures while the engine was away: they are no reason to back off now, nor to
    /// refuse requests of clients that have just learnt that it is back.
    pub(super) fn engine_is_back(&mut self) {
        self.failures = FailureHistory::default();
    }

    /// Keeps `n` replicas for a scale-down period.
    pub(super) fn scale(&mut self, n: u32, now: Instant) {
        let until = now + self.revision.scaling.scaledown;
        self.autoscaler.choose(now, n, until);
        if n > 0 {
            self.rest_at = None;
            self.last_active = now;
        }
    }

    /// Scales the app to zero at this depth, as if its idle times had passed.
    ///
    /// # Errors
    /// FAILED_PRECONDITION while it has requests, has replicas reserved, or has no replica to put
    /// into standby.
    pub(super) fn idle(&mut self, depth: Option<Standby>, now: Instant) -> Result<(), Failure> {
        let (app, reserved) = (&self.revision.app, self.revision.scaling.reserved);
        let refuse = |why: String| Err(Failure::new(Reason::FailedPrecondition, why));
        if self.load().is_busy() {
            return refuse(format!(
                "app {app} answers requests or has some waiting; let them end first"
            ));
        }
        if reserved > 0 {
            return refuse(format!(
                "app {app} has {reserved} replicas reserved; set reserved_capacity to 0 first"
            ));
        }
        if matches!(depth, Some(Standby::Pause | Standby::Prepared)) && self.slots.is_empty() {
            return refuse(format!(
                "app {app} has no replica to put to sleep; scale it to 1 first"
            ));
        }
        self.rest_at = depth;
        self.autoscaler.choose(now, 0, now);
        Ok(())
    }

    /// Pins the autoscaler at the number that is wanted now, or lets it decide again.
    pub(super) fn pin(&mut self, pinned: bool, now: Instant) {
        let want = self.desired(now);
        self.autoscaler.pin(pinned.then_some(want));
    }
}
