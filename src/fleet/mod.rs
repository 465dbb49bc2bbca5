//! The replicas of every published app: which run, which requests wait for them, and how they start
//! and stop.
//!
//! | file | what |
//! |---|---|
//! | `deployment.rs` | one app's replicas and held requests: publish, inspect, close |
//! | `lease.rs` | the right to send one request to a replica: acquire, release |
//! | `state/` | what a deployment's mutex guards, and every decision about its replicas |
//! | `replica.rs` | a running container that requests can be sent to |
//! | `autoscaler.rs` | how many replicas the load calls for |
//! | `hold.rs` | the bounded FIFO queue of held requests, and the limiter over all of them |
//! | `snapshot.rs` | the present state of an app and its replicas, for people |
//! | `invocation_counts.rs` | how an app's invocations ended, for the statistics |
//! | `events.rs` | the bounded record of what happened to an app |
//! | `in_flight.rs` | the requests of an app and of its organization, counted and bounded |
//! | `hints.rs` | what the last lines of a log suggest |
//! | `limit_warnings.rs` | warnings to owners about limits that a replica has reached |
//! | `ages.rs` | whether a replica is working on a young request |
//! | `postmortem.rs` | how a replica that served ended |
//! | `liveness.rs` | whether a ready replica still answers |
//! | `ports.rs` | detects an app that listens on another port than the one that is probed |
//! | `health.rs` | asks on the health path, in the HTTP that the app speaks |
//! | `probe.rs` | outcomes of health probes, and the progress of a start |
//! | `driver.rs` | one task per app that carries out the decisions |
//! | `suspensions.rs` | apps that may not run |
//! | `disk_suspension.rs` | suspending apps that use too much of the disk |
//! | `capacity.rs` | the capacity of this machine, and who holds it |
//! | `manual_scaling.rs` | scaling by hand, and waiting for the result |
//! | `standby_ops.rs` | the slow parts of standby: freeze, thaw, prepare |
//! | `send_while_resuming.rs` | a request to a replica that is being thawed |
//! | `refusal.rs` | what the engine refused to do, and when the fleet asks again |
//! | `start.rs` | one start: create, start, poll for readiness, explain a failure |
//! | `test_run.rs` | a replica beside the published ones, for tests |
//! | `upstream/` | connections to one port of one replica |
//! | `supervisor.rs` | engine availability, adoption after a restart, reconciliation |
//!
//! # Who may write, and the order of locks
//!
//! The fleet is the only writer of replica state. Requests take one short mutex of their app;
//! everything slow happens in the driver's tasks, which report their outcomes. What the engine says
//! of containers is a hint or a list, and decides nothing by itself (`state/containers.rs`).
//!
//! Locks are taken in this order, and none is held across an await: the maps of deployments, then
//! of candidates; the list of test runs by itself; the state of one app, never two at a time; the
//! leaves that are locked under it (capacity, suspensions, limiters, events, progress).

mod ages;
mod autoscaler;
mod capacity;
mod deployment;
mod disk_suspension;
mod driver;
mod events;
mod health;
mod hints;
mod hold;
mod in_flight;
mod invocation_counts;
mod lease;
mod limit_warnings;
mod liveness;
mod manual_scaling;
mod ports;
mod postmortem;
mod probe;
mod refusal;
mod replica;
mod send_while_resuming;
mod snapshot;
mod standby_ops;
mod start;
mod state;
mod supervisor;
mod suspensions;
mod test_run;
pub mod upstream;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use capacity::{Bounds, Held};
pub use deployment::{Deployment, Names};
pub use events::{Event, EventKind, Events, Follower};
pub use hold::HoldLimiter;
pub use in_flight::InFlightPermit;
pub use invocation_counts::Outcomes;
pub use lease::Lease;
pub use manual_scaling::Until;
pub use probe::ProbeOutcome;
pub use replica::{ColdStart, Replica};
pub use snapshot::{ReplicaView, Snapshot};
pub use supervisor::EngineState;
pub use test_run::TestRun;

use self::{capacity::Capacity, upstream::Connects};
use crate::{
    engine::{Engine, Keychain},
    metrics::Metrics,
    model::{AppId, Failure, Reason, Revision, Standby, stats::OutcomeCounts},
    vitals::Vitals,
};

/// The fleet's limits and times; `config/mod.rs` documents the settings behind them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Longest time from a container's start to its readiness.
    pub startup_timeout: Duration,
    /// Most requests held per app.
    pub hold_max_requests: usize,
    /// Most requests under way per app, held ones included.
    pub max_in_flight_per_app: usize,
    /// Most requests under way per organization, held ones included.
    pub max_in_flight_per_org: usize,
    /// Most bytes of held request bodies per app.
    pub hold_max_bytes: usize,
    /// Bounds on what is held over all apps, and by each organization.
    pub hold_limiter: HoldLimiter,
    /// Bounds on connections to replicas.
    pub max_connects: Connects,
    /// SIGTERM to SIGKILL when a container is stopped.
    pub stop_grace: Duration,
    /// How long requests in flight may finish when their app is deleted.
    pub drain_timeout: Duration,
    /// First wait after repeated failed starts; doubles up to `backoff_max`.
    pub backoff_initial: Duration,
    /// Longest wait between failed starts.
    pub backoff_max: Duration,
    /// First wait between readiness polls; doubles up to `poll_max`.
    pub poll_initial: Duration,
    /// Longest wait between readiness polls.
    pub poll_max: Duration,
    /// Most processes in a container.
    pub pids_limit: u32,
    /// Time between two comparisons with the engine's list of containers.
    pub reconcile_interval: Duration,
    /// The credentials for pulling again an image that is gone.
    pub keychain: Keychain,
    /// Records whether the fleet's tasks are alive.
    pub vitals: Vitals,
    /// Where wakes, waits and requests are counted.
    pub metrics: Arc<Metrics>,
    /// Becomes true once the containers of an earlier run are certainly this instance's.
    pub may_adopt: watch::Receiver<bool>,
    /// The depth of standby for replicas that are not needed.
    pub standby: Standby,
    /// How long a replica stays frozen before it is prepared.
    pub standby_pause_for: Duration,
    /// Bounds over all apps.
    pub bounds: Bounds,
    /// How long requests wait for capacity on this machine before they are refused.
    pub room_wait: Duration,
    /// Time without a request after which an app's standby is removed.
    pub teardown_after: Duration,
    /// Time between two liveness probes of a ready replica; 0 turns them off.
    pub liveness_interval: Duration,
    /// Longest wait for the answer to a liveness probe.
    pub liveness_timeout: Duration,
    /// Failed liveness probes in a row after which a replica is replaced.
    pub liveness_failures: u32,
    /// How long an app may listen on other ports than it should where its start fails for that; 0
    /// never fails it.
    pub wrong_port_timeout: Duration,
}

/// A handle to the fleet; clones share it.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
    /// Spawns the driver of a deployment. A closure, so that only it knows the engine's type.
    spawn: Arc<dyn Fn(Arc<Deployment>) + Send + Sync>,
}

struct Shared {
    config: Arc<Config>,
    deployments: RwLock<HashMap<AppId, Arc<Deployment>>>,
    /// Apps whose first version is being readied, or failed to get ready: no request is routed to
    /// them. When both maps are locked, `deployments` is locked first.
    candidates: RwLock<HashMap<AppId, Arc<Deployment>>>,
    /// Deployments of test runs; each is alive until its test ends and its containers are gone.
    test_runs: RwLock<Vec<Weak<Deployment>>>,
    capacity: Arc<Capacity>,
    engine: watch::Sender<EngineState>,
    /// Why the instance's network could not be made at the last attempt; `None` if it exists.
    network: watch::Sender<Option<Failure>>,
    /// True once the containers of an earlier run are adopted or removed.
    settled: watch::Sender<bool>,
    /// Asks the supervisor to inspect the engine now.
    inspect: Notify,
    tasks: TaskTracker,
    /// Ends the supervisor and the drivers.
    stop: CancellationToken,
    /// Leave containers running when the fleet ends. Set before `stop` is cancelled.
    keep: AtomicBool,
}

impl Fleet {
    /// A fleet over an engine. It neither starts nor inspects anything before [`Starter::begin`].
    pub fn new<E: Engine>(config: Config, engine: Arc<E>) -> (Self, Starter<E>) {
        let shared = Arc::new(Shared {
            capacity: Capacity::new(config.bounds),
            config: Arc::new(config),
            deployments: RwLock::default(),
            candidates: RwLock::default(),
            test_runs: RwLock::default(),
            engine: watch::Sender::new(EngineState::Unknown),
            network: watch::Sender::new(None),
            settled: watch::Sender::new(false),
            inspect: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            keep: AtomicBool::new(false),
        });
        let spawn = {
            let (shared, engine) = (shared.clone(), engine.clone());
            // On the fleet's own runtime, not on the thread that carries the request which
            // published the app.
            let runtime = Handle::current();
            Arc::new(move |d: Arc<Deployment>| {
                let part = format!("the driver of app {}", d.id());
                let driver = driver::run(shared.clone(), engine.clone(), d);
                let driver = shared.config.vitals.watch(&part, driver);
                shared.tasks.spawn_on(driver, &runtime);
            })
        };
        let starter = Starter {
            shared: shared.clone(),
            engine,
        };
        (Self { shared, spawn }, starter)
    }

    /// The deployment of a published app.
    pub fn get(&self, id: &AppId) -> Option<Arc<Deployment>> {
        self.shared.deployments.read().get(id).cloned()
    }

    /// The deployment of an app that is published, or whose first version has been readied or is
    /// being readied: for inspection, not for requests.
    pub fn find(&self, id: &AppId) -> Option<Arc<Deployment>> {
        let known = self.get(id);
        known.or_else(|| self.shared.candidates.read().get(id).cloned())
    }

    /// The deployments of all published apps.
    pub fn published(&self) -> Vec<Arc<Deployment>> {
        self.shared.deployments.read().values().cloned().collect()
    }

    /// What replicas hold of the machine, and the bound on it.
    pub fn capacity(&self) -> Held {
        self.shared.capacity.held()
    }

    /// Takes the counts, by app, of how invocations without a record ended since the last call.
    pub fn take_outcomes(&self) -> Vec<(AppId, OutcomeCounts)> {
        let map = self.shared.deployments.read();
        let taken = map
            .iter()
            .filter_map(|(id, d)| Some((id.clone(), d.outcomes.take()?)));
        taken.collect()
    }

    /// Makes a revision the one that serves. Replicas of another container configuration drain.
    pub fn activate(&self, revision: Revision) -> Arc<Deployment> {
        let mut map = self.shared.deployments.write();
        if let Some(d) = map.get(&revision.app) {
            let d = d.clone();
            drop(map);
            d.activate(revision);
            return d;
        }
        if let Some(d) = self.shared.candidates.write().remove(&revision.app) {
            map.insert(d.id().clone(), d.clone());
            drop(map);
            d.activate(revision);
            return d;
        }
        let d = self.deployment(revision, true);
        map.insert(d.id().clone(), d.clone());
        drop(map);
        (self.spawn)(d.clone());
        d
    }

    /// The deployment that a new version is readied in. If the app has none, one without a route is
    /// made.
    pub fn candidate(&self, revision: &Revision) -> Arc<Deployment> {
        let known = self.shared.deployments.read();
        if let Some(d) = known.get(&revision.app) {
            return d.clone();
        }
        let mut candidates = self.shared.candidates.write();
        if let Some(d) = candidates.get(&revision.app) {
            return d.clone();
        }
        let d = self.deployment(revision.clone(), false);
        candidates.insert(d.id().clone(), d.clone());
        drop((known, candidates));
        (self.spawn)(d.clone());
        d
    }

    fn deployment(&self, revision: Revision, published: bool) -> Arc<Deployment> {
        let (config, capacity) = (self.shared.config.clone(), self.shared.capacity.clone());
        let requests = config.metrics.apps.of(&revision.app);
        Deployment::new(config, capacity, revision, published, requests)
    }

    /// Whether replicas serve now that a revision could not keep, so that it has to start its own.
    pub fn must_prepare(&self, revision: &Revision) -> bool {
        self.get(&revision.app)
            .is_some_and(|d| d.must_prepare(revision))
    }

    /// Starts a replica of the new revision beside those that serve, if any, and returns once it is
    /// ready; [`Fleet::activate`] then swaps without a cold start. Returns at once if the revision
    /// can keep the containers that serve. Dropping the guard without activating removes the new
    /// replica.
    ///
    /// # Errors
    /// Why the new replica did not get ready; the version that serves keeps serving. NO_ROOM when
    /// no replica of the app runs that it could take over from and the machine has no capacity.
    /// ABORTED when another revision is prepared meanwhile; APP_DELETED; SHUTTING_DOWN.
    pub async fn prepare(&self, revision: &Revision) -> Result<Prepared, Failure> {
        let d = self.candidate(revision);
        let Some((generation, answer)) = d.prepare(revision)? else {
            return Ok(Prepared { surge: None });
        };
        // Made before the wait, so that a cancelled call removes the new replica.
        let prepared = Prepared {
            surge: Some((d, generation)),
        };
        let d = prepared.surge.as_ref().map(|(d, _)| d);
        answer.await.unwrap_or_else(|_| {
            let closed = d.and_then(|d| d.closed());
            Err(closed.unwrap_or_else(|| {
                Failure::new(
                    Reason::Aborted,
                    "another publish or change of this app came between; try again",
                )
            }))
        })?;
        Ok(prepared)
    }

    /// Fails held requests, lets requests in flight finish within the drain timeout, removes the
    /// containers, and returns once all are gone.
    pub async fn remove(&self, id: &AppId) {
        let Some(d) = self.find(id) else { return };
        d.close(
            Failure::new(Reason::AppDeleted, format!("app {id} has been deleted")),
            true,
        );
        d.finished().await;
        // Not before the containers are gone: reconciliation takes containers of unknown
        // deployments for orphans.
        for map in [&self.shared.deployments, &self.shared.candidates] {
            let mut map = map.write();
            if map.get(id).is_some_and(|now| Arc::ptr_eq(now, &d)) {
                map.remove(id);
            }
        }
        self.shared.config.metrics.apps.forget(id);
    }

    /// Whether the engine answers.
    pub fn engine(&self) -> watch::Receiver<EngineState> {
        self.shared.engine.subscribe()
    }

    /// Why no app can start although the engine answers: the instance's network cannot be made, for
    /// example for want of addresses. It is tried again every second.
    pub fn no_network(&self) -> Option<Failure> {
        self.shared.network.borrow().clone()
    }

    /// Whether the containers of an earlier run are adopted or removed.
    pub fn settled(&self) -> bool {
        *self.shared.settled.borrow()
    }

    /// Returns once [`Fleet::settled`] is true.
    pub async fn until_settled(&self) {
        let mut settled = self.shared.settled.subscribe();
        // Cannot fail: the fleet itself holds the sender.
        let _ = settled.wait_for(|done| *done).await;
    }

    /// The failure of work that needs the engine while it does not answer.
    ///
    /// # Errors
    /// ENGINE_UNAVAILABLE with the cause, or NO_DESCRIPTORS when this process has none left for a
    /// connection.
    pub fn require_engine(&self) -> Result<(), Failure> {
        match &*self.shared.engine.borrow() {
            EngineState::Down(why) => Err(why.clone()),
            EngineState::Unknown | EngineState::Up(_) => Ok(()),
        }
    }

    /// Ends the streams of everyone who follows events, so that they do not delay a stop.
    pub fn end_followers(&self) {
        for d in self.shared.everyone() {
            d.events().end();
        }
    }

    /// Fails every waiting request with `why`, and leaves all containers to the next start.
    pub fn fail(&self, why: &Failure) {
        self.shared.keep.store(true, Ordering::Release);
        self.shared.stop.cancel();
        for d in &self.shared.everyone() {
            d.close(why.clone(), false);
        }
    }

    /// Ends all drivers. Held requests fail with SHUTTING_DOWN. Containers are stopped and removed,
    /// or with `keep` left running for the next start.
    pub async fn shutdown(&self, keep: bool) {
        self.shared.keep.store(keep, Ordering::Release);
        if keep {
            // Before the deployments are closed: a driver that sees a closed deployment stops its
            // replicas, one that sees the end of the fleet leaves them running.
            self.shared.stop.cancel();
        }
        let all = self.shared.everyone();
        for d in &all {
            d.close(
                Failure::new(Reason::ShuttingDown, "the platform is stopping; try again"),
                false,
            );
        }
        for d in &all {
            d.finished().await;
        }
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Begins supervision once the stored apps are activated, so that their containers are adopted
/// rather than removed.
pub struct Starter<E> {
    shared: Arc<Shared>,
    engine: Arc<E>,
}

impl<E: Engine> Starter<E> {
    /// Starts the supervisor: adoption first, then reconciliation.
    pub fn begin(self) {
        let supervisor = supervisor::run(self.shared.clone(), self.engine);
        let vitals = &self.shared.config.vitals;
        let watched = vitals.watch("the supervisor of containers", supervisor);
        self.shared.tasks.spawn(watched);
    }
}

/// A new revision that has a ready replica, or needs none.
#[must_use = "dropped, it takes the new replica away"]
pub struct Prepared {
    /// The deployment and the generation of its new replica.
    surge: Option<(Arc<Deployment>, u64)>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After an activation this generation is not pending any more, and a later generation
        // belongs to another publish, so this removes no replica that is in use.
        if let Some((d, generation)) = &self.surge {
            d.abandon(*generation);
        }
    }
}
