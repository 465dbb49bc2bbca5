//! One published app's replicas and held requests.
//!
//! All of it is guarded by one short mutex that is never held across an await. A request calls
//! [`Deployment::acquire`] and gets a [`Lease`], at once from a free replica or after a hold.
//! The lease counts as in flight until it is dropped, which is when the answer's body has ended.
//! A replica leaves service only by closing it at zero leases under the mutex, so no request is
//! ever handed to one that is going away.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    ages::Mark,
    demand::Meter,
    events::{EventKind, Events},
    hold::{Permit, Queue},
    lease::{Lease, Place},
    load::Load,
    outcomes::Outcomes,
    refusal::Refusal,
    replica::{Phase, ReplicaView, Slot},
    room::Ledger,
    state::{Closed, Pending, State, Trouble},
};
use crate::{
    engine::ContainerId,
    model::{AppId, Failure, Reason, Revision},
};

/// One published app in the fleet.
pub struct Deployment {
    id: AppId,
    names: Names,
    pub(super) config: Arc<Config>,
    pub(super) revision: ArcSwap<Revision>,
    pub(super) state: Mutex<State>,
    pub(super) load: Load,
    /// How its invocations without a record ended.
    pub outcomes: Outcomes,
    events: Events,
    /// Wakes the driver.
    pub(super) wake: Arc<Notify>,
    pub(super) finished: CancellationToken,
}

/// What a deployment does now, for people and for GetAppState.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas on their way up.
    pub starting: u32,
    /// Replicas that finish their last requests, or are being stopped.
    pub draining: u32,
    /// Replicas in warm standby, or on their way there.
    pub standby: u32,
    /// Of these, frozen.
    pub paused: u32,
    /// Of these, prepared.
    pub prepared: u32,
    /// Of these, on their way.
    pub moving: u32,
    /// The autoscaler is frozen.
    pub frozen: bool,
    /// Replicas wanted now.
    pub desired: u32,
    /// Requests with a replica.
    pub in_flight: u32,
    /// Requests that wait for one.
    pub held: u32,
    /// The last failure to start or death of a replica, and when it was.
    pub last_failure: Option<(Failure, SystemTime)>,
    /// Time since a request last came or ended; `None` when there was none in this run.
    pub idle_for: Option<Duration>,
    /// How the start stands that is under way; `None` when there is none.
    pub not_ready: Option<String>,
    /// Starting cannot succeed now: two starts in a row failed, or the cause is certain.
    pub failing: bool,
}

/// The generation of a replica that is being readied, and the word of how that ended.
pub(super) type Readying = (u64, oneshot::Receiver<Result<(), Failure>>);

/// An app's names as headers have them, made once.
pub struct Names {
    /// `org/name`.
    pub function: HeaderValue,
    /// The organization.
    pub organization: HeaderValue,
}

impl Names {
    /// The names of an app.
    pub fn of(id: &AppId) -> Self {
        let value = |name: String| HeaderValue::try_from(name).expect("names are ASCII");
        Self {
            function: value(id.to_string()),
            organization: value(id.org.to_string()),
        }
    }
}

impl Deployment {
    /// One that serves the revision, or one in which it can only be readied until it is activated.
    pub(super) fn new(
        config: Arc<Config>,
        ledger: Arc<Ledger>,
        revision: Revision,
        published: bool,
    ) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let events = Events::default();
        if published {
            events.object(&revision);
        }
        Arc::new(Self {
            id: revision.app.clone(),
            names: Names::of(&revision.app),
            config,
            load: ledger.orgs.load(&revision.app.org),
            outcomes: Outcomes::default(),
            events: events.clone(),
            revision: ArcSwap::from_pointee(revision),
            state: Mutex::new(State {
                generation: 0,
                published,
                pending: None,
                slots: Vec::new(),
                queue: Queue::default(),
                in_flight: 0,
                backlog: 0,
                last_active: Instant::now(),
                tell_when_idle: false,
                tell_when_spare: false,
                trouble: Trouble::default(),
                last_failure: None,
                last_request: None,
                closed: None,
                counter: 0,
                meter: Meter::new(Instant::now()),
                events,
                ledger,
                wake: wake.clone(),
                no_room: None,
                place: None,
                asks: false,
                rest_at: None,
                wrong_port: None,
                no_pause: Refusal::default(),
                no_prepare: Refusal::default(),
                warned_of_files: false,
            }),
            wake,
            finished: CancellationToken::new(),
        })
    }

    /// The app.
    pub fn id(&self) -> &AppId {
        &self.id
    }

    /// Its names, for headers.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The revision that serves.
    pub fn revision(&self) -> Arc<Revision> {
        self.revision.load_full()
    }

    /// Borrows the revision that serves, without touching its reference count.
    pub fn with_revision<T>(&self, read: impl FnOnce(&Revision) -> T) -> T {
        read(&self.revision.load())
    }

    /// A replica for one request, held for until `give_up_at` at most. `bytes` is what the
    /// request keeps in memory while it waits.
    ///
    /// # Errors
    /// APP_DELETED, SHUTTING_DOWN, HOLD_QUEUE_FULL, COLD_START_TIMEOUT, or why starting fails.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub async fn acquire(
        self: &Arc<Self>,
        bytes: usize,
        give_up_at: Instant,
    ) -> Result<Lease, Failure> {
        let arrived = Instant::now();
        let (ticket, mut answer) = {
            let mut s = self.state.lock();
            if let Some(closed) = &s.closed {
                return Err(closed.why.clone());
            }
            if let Some(lease) = s.lease(self, arrived) {
                s.meter.arrived(arrived);
                let more = s.sample(&self.revision.load(), arrived);
                drop(s);
                if more {
                    self.wake.notify_one();
                }
                return Ok(lease);
            }
            let permit = self.admit(&s, bytes)?;
            s.meter.arrived(arrived);
            s.last_active = arrived;
            s.last_request = Some(arrived);
            s.rest_at = None;
            s.queue.push(bytes, permit)
        };
        self.wake.notify_one();
        let _place = Place {
            deployment: self,
            ticket,
        };
        match tokio::time::timeout_at(give_up_at, &mut answer).await {
            Ok(Ok(Ok(mut lease))) => {
                // Cold only for those who waited for this very start, not for a busy replica.
                lease.cold = lease
                    .replica
                    .cold
                    .filter(|_| lease.replica.ready_at >= arrived);
                Ok(lease)
            }
            Ok(Ok(Err(failure))) => Err(failure),
            Ok(Err(_)) => Err(Failure::new(
                Reason::ShuttingDown,
                "the platform is stopping; try again",
            )),
            Err(_) => Err(self.gave_up()),
        }
    }

    fn admit(&self, s: &State, bytes: usize) -> Result<Permit, Failure> {
        if let Some(why) = s.ledger.stopped.of(&self.id) {
            return Err(why);
        }
        let now = Instant::now();
        if let (Some(why), Some(at)) = (&s.trouble.certain, s.trouble.retry_at)
            && now < at
            && !s.has_ready()
        {
            return Err(why.clone().with_retry_after(at - now));
        }
        if let Some(why) = s.no_room.as_ref().and_then(|n| n.refused.as_ref())
            && !s.has_ready()
        {
            return Err(why.clone());
        }
        s.queue.admit(&self.id, &self.config, bytes)
    }

    fn gave_up(&self) -> Failure {
        let (why, detail) = self.state.lock().unserved(Instant::now());
        let text = format!("no replica of app {} was free in time: {why}", self.id);
        let failure = Failure::new(Reason::ColdStartTimeout, text);
        match detail {
            Some(detail) => failure.with_detail(detail),
            None => failure,
        }
    }

    /// Says how many executions wait to be sent to this app: they are demand like held requests,
    /// though they wait outside its queue. Cheap: the driver hears of it only when there is
    /// something to do.
    pub fn set_backlog(&self, waiting: u32) {
        let mut s = self.state.lock();
        if s.backlog == waiting {
            return;
        }
        let now = Instant::now();
        // The last one that leaves becomes a lease, which counts from then on.
        s.last_active = now;
        let before = std::mem::replace(&mut s.backlog, waiting);
        let more = s.sample(&self.revision.load(), now);
        drop(s);
        if more || before == 0 || waiting == 0 {
            self.wake.notify_one();
        }
    }

    /// What it does now.
    pub fn snapshot(&self) -> Snapshot {
        let mut guard = self.state.lock();
        let desired = guard.desired(&self.revision.load(), Instant::now());
        let s = &*guard;
        let count =
            |phases: &[Phase]| s.slots.iter().filter(|x| phases.contains(&x.phase)).count() as u32;
        Snapshot {
            ready: s
                .slots
                .iter()
                .filter(|x| s.serves(x) && x.phase == Phase::Ready)
                .count() as u32,
            starting: count(&[Phase::Creating, Phase::Starting, Phase::Resuming]),
            draining: count(&[Phase::Draining, Phase::Failed, Phase::Stopping]),
            standby: s.slots.iter().filter(|x| x.phase.rests()).count() as u32,
            paused: count(&[Phase::Paused]),
            prepared: count(&[Phase::Prepared]),
            moving: count(&[Phase::Pausing, Phase::Preparing]),
            frozen: s.meter.frozen.is_some(),
            desired,
            in_flight: s.in_flight,
            held: s.queue.len() as u32,
            last_failure: s.last_failure.clone(),
            idle_for: s.last_request.map(|at| at.elapsed()),
            not_ready: s.slots.iter().find_map(Slot::not_ready),
            failing: s.trouble.certain.is_some(),
        }
    }

    /// Its replicas, the oldest first.
    pub fn replicas(&self) -> Vec<ReplicaView> {
        self.state.lock().slots.iter().map(Slot::view).collect()
    }

    /// What happened to it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn activate(self: &Arc<Self>, revision: Revision) {
        let revision = Arc::new(revision);
        let mut s = self.state.lock();
        // Another one that is being readied stays: whoever waits for it may still want it.
        let prepared = s.pending.take_if(|p| p.revision.same_container(&revision));
        if let Some(p) = prepared {
            s.generation = p.generation;
            // It stays up for a scale-down period, as after a request.
            s.last_active = Instant::now();
        } else if !self.revision.load().same_container(&revision) {
            s.generation = s.next_number();
        }
        let first = !std::mem::replace(&mut s.published, true);
        s.no_room = None;
        // A publish or a change of settings is a reason to try afresh.
        s.trouble = Trouble::default();
        let before = self.revision.load();
        if before.scaling != revision.scaling {
            // What was wanted by other rules says nothing.
            s.meter.reset(Instant::now(), 0);
        }
        if first || !before.same_container(&revision) {
            s.no_pause.clear();
            s.no_prepare.clear();
            s.events.push(
                EventKind::Activated,
                None,
                revision.version,
                format!("version {} serves from now on", revision.version),
            );
            s.events.object(&revision);
        }
        self.revision.store(revision);
        let unsent = s.grant(self);
        drop(s);
        drop(unsent);
        self.wake.notify_one();
    }

    pub(super) fn must_prepare(&self, revision: &Revision) -> bool {
        self.state
            .lock()
            .must_prepare(&self.revision.load(), revision)
    }

    /// Has a replica of the revision started beside what serves, under the generation that is
    /// returned; the receiver hears when it is ready and breaks when something newer comes
    /// between. `None` when the containers that serve are those of the revision.
    ///
    /// # Errors
    /// Why it is closed.
    pub(super) fn prepare(&self, revision: &Revision) -> Result<Option<Readying>, Failure> {
        let (tx, rx) = oneshot::channel();
        let generation = {
            let mut s = self.state.lock();
            if let Some(closed) = &s.closed {
                return Err(closed.why.clone());
            }
            if s.published && self.revision.load().same_container(revision) {
                return Ok(None);
            }
            s.abandon_pending();
            let generation = s.next_number();
            s.pending = Some(Pending {
                revision: Arc::new(revision.clone()),
                generation,
                answer: Some(tx),
                no_room_since: None,
                place: None,
            });
            generation
        };
        self.wake.notify_one();
        Ok(Some((generation, rx)))
    }

    /// Writes down that a version is being readied.
    pub fn publishing(&self, version: u32, text: String) {
        self.events.push(EventKind::Publishing, None, version, text);
    }

    /// Writes down that a version did not become the active one, and why.
    pub fn publish_failed(&self, version: u32, why: &Failure) {
        let text = format!("{} ({})", why.text(true), why.reason.as_str());
        self.events
            .push(EventKind::PublishFailed, None, version, text);
    }

    /// Writes down what the owner should know about what was published or configured.
    pub fn warn(&self, version: u32, warnings: &[String]) {
        for warning in warnings {
            self.events
                .push(EventKind::Warning, None, version, warning.as_str());
        }
    }

    /// Why it is closed, if it is.
    pub(super) fn closed(&self) -> Option<Failure> {
        self.state.lock().closed.as_ref().map(|c| c.why.clone())
    }

    /// Takes the replica of a generation away that was prepared and does not serve.
    pub(super) fn abandon(&self, generation: u64) {
        let mut s = self.state.lock();
        if s.pending
            .as_ref()
            .is_some_and(|p| p.generation == generation)
        {
            s.abandon_pending();
            drop(s);
            self.wake.notify_one();
        }
    }

    /// Nothing is handed out or started from here on; what is held fails.
    pub(super) fn close(&self, why: Failure, drain: bool) {
        let mut s = self.state.lock();
        let grace = if drain {
            self.config.drain_timeout
        } else {
            Duration::ZERO
        };
        s.queue.fail_all(&why);
        s.abandon_pending();
        s.events.end();
        let drain_until = Instant::now() + grace;
        match &mut s.closed {
            // Deleted, and the platform stops: the shorter grace holds.
            Some(closed) => closed.drain_until = closed.drain_until.min(drain_until),
            None => s.closed = Some(Closed { why, drain_until }),
        }
        drop(s);
        self.wake.notify_one();
    }

    pub(super) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// The engine does not answer. Who has no replica hears so at once, for as long as `stands`,
    /// instead of waiting for an engine that nobody may start; replicas that are up serve on, and
    /// a start that is under way finds out by itself.
    pub(super) fn engine_gone(&self, why: &Failure, stands: Duration) {
        let mut s = self.state.lock();
        let has_some = s
            .slots
            .iter()
            .any(|x| matches!(x.phase, Phase::Creating | Phase::Starting) || s.serves(x));
        if has_some {
            return;
        }
        s.queue.fail_all(why);
        s.trouble.certain = Some(why.clone());
        s.trouble.retry_at = Some(Instant::now() + stands);
    }

    /// A lease has lasted past what a request may.
    pub(super) fn forget_age(&self, key: u64, age: Mark) {
        let mut s = self.state.lock();
        if let Some(slot) = s.slots.iter_mut().find(|x| x.key == key) {
            slot.ages.end(age);
        }
    }

    /// Whether a replica has a request out that is younger than the app's timeout.
    pub(super) fn is_at_work(&self, key: u64) -> bool {
        let timeout = self.with_revision(|r| r.timeout);
        let s = self.state.lock();
        let slot = s.slots.iter().find(|x| x.key == key);
        slot.is_some_and(|x| x.ages.has_younger_than(timeout, Instant::now()))
    }

    /// The engine says that a container has ended, or does not list it any more.
    pub(super) fn container_ended(&self, container: &ContainerId) {
        let mut s = self.state.lock();
        let Some(at) = s
            .slots
            .iter()
            .position(|x| x.container.as_ref() == Some(container))
        else {
            return;
        };
        match s.slots[at].phase {
            // The start task finds out why; one that has just seen it ready hears no more.
            Phase::Creating | Phase::Starting => {
                s.slots[at].ended = true;
                s.slots[at].died.notify_one();
            }
            // The task that freezes it finds out.
            Phase::Pausing => s.slots[at].ended = true,
            Phase::Failed | Phase::Stopping | Phase::Preparing | Phase::Prepared => {}
            Phase::Ready | Phase::Draining | Phase::Paused | Phase::Resuming => s.died(self, at),
        }
        drop(s);
        self.wake.notify_one();
    }

    /// The engine's list does not have a replica's containers as they should be, which was so
    /// unless the replica has moved since.
    pub(super) fn not_as_believed(&self, (key, phase, since): (u64, Phase, Instant)) {
        let mut s = self.state.lock();
        let Some(at) = s
            .slots
            .iter()
            .position(|x| x.key == key && x.phase == phase && x.since == since)
        else {
            return;
        };
        s.died(self, at);
        drop(s);
        self.wake.notify_one();
    }

    pub(super) fn release(self: &Arc<Self>, key: u64, age: Option<Mark>) {
        let mut s = self.state.lock();
        s.in_flight -= 1;
        let now = Instant::now();
        s.last_active = now;
        s.last_request = Some(now);
        let mut tell = s.in_flight == 0 && std::mem::take(&mut s.tell_when_idle);
        let spare = s.tell_when_spare;
        if let Some(slot) = s.slots.iter_mut().find(|x| x.key == key) {
            slot.in_flight -= 1;
            if let Some(age) = age {
                slot.ages.end(age);
            }
            tell |= slot.in_flight == 0 && (slot.phase == Phase::Draining || spare);
        }
        let unsent = s.grant(self);
        // After the grant: a slot that goes to the next in line is no fall in demand.
        s.sample(&self.revision.load(), now);
        drop(s);
        drop(unsent);
        if tell {
            self.wake.notify_one();
        }
    }
}
