//! One published app's replicas and held requests, as publishing, scaling and inspection see it.
//!
//! All of it is a [`State`], guarded by one short mutex that is never held across an await. The
//! methods here lock it, have it take a step, and wake the driver. `lease.rs` does so for requests.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    ages::Mark,
    capacity::Capacity,
    events::{EventKind, Events},
    in_flight::{InFlight, InFlightPermit},
    invocation_counts::Outcomes,
    snapshot::{ReplicaView, Snapshot},
    state::{Readying, State},
};
use crate::{
    engine::ContainerId,
    metrics,
    model::{AppId, Failure, Revision},
};

/// One published app in the fleet.
pub struct Deployment {
    id: AppId,
    names: Names,
    pub(super) config: Arc<Config>,
    /// A copy of the state's revision, for readers without its mutex; stored under that mutex.
    revision: ArcSwap<Revision>,
    pub(super) state: Mutex<State>,
    in_flight: Arc<InFlight>,
    /// How the app's invocations without a record ended.
    pub outcomes: Outcomes,
    /// The app's requests, for the metrics.
    pub requests: Arc<metrics::App>,
    events: Events,
    /// Wakes the driver.
    pub(super) wake: Arc<Notify>,
    pub(super) finished: CancellationToken,
}

/// An app's names as header values, made once.
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
    /// A deployment that serves the revision, or, if not `published`, one that only readies it
    /// until it is activated.
    pub(super) fn new(
        config: Arc<Config>,
        capacity: Arc<Capacity>,
        revision: Revision,
        published: bool,
        requests: Arc<metrics::App>,
    ) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let events = Events::new(config.metrics.clone());
        if published {
            events.object(&revision);
        }
        let revision = Arc::new(revision);
        Arc::new(Self {
            id: revision.app.clone(),
            names: Names::of(&revision.app),
            in_flight: capacity.in_flight.counts(&revision.app.org),
            outcomes: Outcomes::default(),
            requests,
            state: Mutex::new(State::new(
                config.clone(),
                capacity,
                revision.clone(),
                published,
                events.clone(),
                wake.clone(),
            )),
            config,
            events,
            revision: ArcSwap::new(revision),
            wake,
            finished: CancellationToken::new(),
        })
    }

    /// Lets a wrong port end each start early.
    pub(super) fn check_starts(&self) {
        self.state.lock().checks_starts = true;
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

    /// Permits one more request to be under way, held ones included.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS.
    pub fn permit_request(&self) -> Result<InFlightPermit, Failure> {
        self.in_flight.acquire(&self.id, &self.config)
    }

    /// Sets how many executions wait to be sent to this app: they are demand like held requests,
    /// though they wait outside its queue. Cheap: the driver is woken only when there is something
    /// to do.
    pub fn set_backlog(&self, waiting: u32) {
        let mut s = self.state.lock();
        let must_wake = s.set_backlog(waiting, Instant::now());
        drop(s);
        if must_wake {
            self.wake.notify_one();
        }
    }

    /// The app's present state.
    pub fn snapshot(&self) -> Snapshot {
        self.state.lock().snapshot()
    }

    /// Its replicas, the oldest first.
    pub fn replicas(&self) -> Vec<ReplicaView> {
        self.state.lock().replicas()
    }

    /// What happened to it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn activate(&self, revision: Revision) {
        let revision = Arc::new(revision);
        let mut s = self.state.lock();
        s.activate(revision.clone());
        self.revision.store(revision);
        drop(s);
        self.wake.notify_one();
    }

    pub(super) fn must_prepare(&self, revision: &Revision) -> bool {
        self.state.lock().must_prepare(revision)
    }

    /// Starts a replica of the revision beside those that serve. Returns its generation and a
    /// receiver that gets the outcome, and breaks if a newer request replaces this one. `None` if
    /// the revision can keep the containers that serve.
    ///
    /// # Errors
    /// Why it is closed.
    pub(super) fn prepare(&self, revision: &Revision) -> Result<Option<Readying>, Failure> {
        let readying = self.state.lock().prepare(revision)?;
        if readying.is_some() {
            self.wake.notify_one();
        }
        Ok(readying)
    }

    /// Records that a version is being readied.
    pub fn publishing(&self, version: u32, text: String) {
        self.events.push(EventKind::Publishing, None, version, text);
    }

    /// Records that a version did not become the active one, and why.
    pub fn publish_failed(&self, version: u32, why: &Failure) {
        let text = format!("{} ({})", why.text(true), why.reason.as_str());
        self.events
            .push(EventKind::PublishFailed, None, version, text);
    }

    /// Records that changed settings, or a version that is not checked, wait for a replica.
    pub fn rolling_out(&self, version: u32) {
        let text = format!(
            "version {version} with its present settings serves once a replica of it is ready"
        );
        self.events.push(EventKind::RollingOut, None, version, text);
    }

    /// Records why they do not serve yet.
    pub fn roll_out_failed(&self, version: u32, why: &Failure) {
        let text = format!(
            "version {version} with its present settings does not serve yet: what served before keeps serving, and it is tried again: {} ({})",
            why.text(true),
            why.reason.as_str()
        );
        self.events
            .push(EventKind::RollOutFailed, None, version, text);
    }

    /// Records warnings for the owner about what was published or configured.
    pub fn warn(&self, version: u32, warnings: &[String]) {
        for warning in warnings {
            self.events
                .push(EventKind::Warning, None, version, warning.as_str());
        }
    }

    /// The failure it is closed with, if it is closed.
    pub(super) fn closed(&self) -> Option<Failure> {
        self.state.lock().closed().cloned()
    }

    /// Removes the replica of a generation that was readied and does not serve.
    pub(super) fn abandon(&self, generation: u64) {
        let mut s = self.state.lock();
        let abandoned = s.abandon(generation);
        drop(s);
        if abandoned {
            self.wake.notify_one();
        }
    }

    /// Closes the app: from here on nothing is granted or started, and held requests fail.
    pub(super) fn close(&self, why: Failure, drain: bool) {
        let grace = if drain {
            self.config.drain_timeout
        } else {
            Duration::ZERO
        };
        self.state.lock().close(why, grace);
        self.wake.notify_one();
    }

    pub(super) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// The engine reports that a container has ended, or does not list it any more.
    pub(super) fn container_ended(&self, container: &ContainerId) {
        let mut s = self.state.lock();
        let is_one_of_its_own = s.container_ended(container);
        drop(s);
        if is_one_of_its_own {
            self.wake.notify_one();
        }
    }

    /// A lease has ended.
    pub(super) fn release(&self, key: u64, age: Option<Mark>) {
        let mut s = self.state.lock();
        let must_wake = s.release(key, age, Instant::now());
        drop(s);
        if must_wake {
            self.wake.notify_one();
        }
    }
}
