//! The task that drives one deployment: look, act, wait, look again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Shared,
    deployment::Deployment,
    events::EventKind,
    limits, liveness,
    plan::Action,
    postmortem,
    replica::{Phase, Replica},
    standby_ops,
    start::{self, Fault},
    state::State,
};
use crate::{
    engine::{ContainerId, Engine, Error, Prepared},
    model::{Failure, Reason},
};

/// Least time between two looks that nothing but time is the reason for.
const NEXT_LOOK: Duration = Duration::from_millis(1);

/// What a task of the driver came to.
enum Done {
    Started {
        key: u64,
        outcome: Result<Replica, Fault>,
    },
    Stopped {
        key: u64,
    },
    /// A replica was frozen, with so much memory, or was not.
    Paused {
        key: u64,
        outcome: Result<u64, Error>,
    },
    /// A replica was thawed, or was not.
    Resumed {
        key: u64,
        outcome: Result<(), Error>,
    },
    /// A container was prepared, or was not.
    Prepared {
        key: u64,
        outcome: Result<Prepared, Error>,
    },
    /// A prepared container was started, or was not.
    Woken {
        key: u64,
        outcome: Result<Replica, Fault>,
    },
    /// A replica does not answer well on its health path.
    Unhealthy {
        key: u64,
        why: String,
    },
    /// It left service before that.
    Unwatched,
}

/// Runs until the deployment is closed and its last container is gone, or the fleet stops.
pub(super) async fn run<E: Engine>(
    shared: Arc<Shared>,
    engine: Arc<E>,
    deployment: Arc<Deployment>,
) {
    let _finished = deployment.finished.clone().drop_guard();
    let mut settled = shared.settled.subscribe();
    // Nothing is started before adoption is over: it could be running already.
    tokio::select! {
        _ = settled.wait_for(|done| *done) => {}
        () = closed(&deployment) => {}
        () = shared.stop.cancelled() => return,
    }
    let mut tasks = JoinSet::new();
    loop {
        let plan = {
            let mut s = deployment.state.lock();
            // Asked under the lock: a fleet that keeps its containers says so before it closes.
            if shared.stop.is_cancelled() {
                break;
            }
            let plan = s.plan(&deployment.revision(), &shared.config, Instant::now());
            if s.closed.is_some() && s.slots.is_empty() {
                return;
            }
            // To those that are thawed from now on, requests are sent at once.
            let unsent = s.grant(&deployment);
            drop(s);
            drop(unsent);
            plan
        };
        for action in plan.actions {
            spawn(&mut tasks, &shared, &engine, &deployment, action);
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(done) = tasks.join_next() => match done {
                Ok(done) => settle(&shared, &deployment, done),
                // What it was doing with its replica nobody knows.
                Err(e) => {
                    tracing::error!(app = %deployment.id(), error = %e, "A replica's task panicked");
                    shared.config.vitals.trip(&format!("a replica's task of app {}", deployment.id()));
                }
            },
            () = deployment.wake.notified() => {}
            () = at(plan.look_at) => {}
        }
    }
    // Starts that are under way take their containers with them.
    for slot in &mut deployment.state.lock().slots {
        slot.cancel.cancel();
        slot.watch = None;
    }
    while tasks.join_next().await.is_some() {}
}

async fn closed(deployment: &Deployment) {
    while deployment.state.lock().closed.is_none() {
        deployment.wake.notified().await;
    }
}

async fn at(when: Option<Instant>) {
    match when {
        // A plan may not ask for a look that is due already, which would be a circle; should one
        // do so nevertheless, it costs little.
        Some(when) => tokio::time::sleep_until(when.max(Instant::now() + NEXT_LOOK)).await,
        None => std::future::pending().await,
    }
}

fn spawn<E: Engine>(
    tasks: &mut JoinSet<Done>,
    shared: &Arc<Shared>,
    engine: &Arc<E>,
    deployment: &Arc<Deployment>,
    action: Action,
) {
    let (engine, config) = (engine.clone(), shared.config.clone());
    match action {
        Action::Start { key, job } => {
            let note = {
                let deployment = deployment.clone();
                let engine = engine.clone();
                let spec = start::spec(&config, &job.id, &job.revision);
                move |container: &ContainerId| {
                    deployment.note_container(key, container, engine.warning_of_files(&spec));
                }
            };
            tasks.spawn(async move {
                Done::Started {
                    key,
                    outcome: start::run(&*engine, &config, job, note).await,
                }
            });
        }
        Action::Stop {
            key,
            container,
            holder,
            frozen,
            grace,
            examine,
        } => {
            let deployment = deployment.clone();
            tasks.spawn(async move {
                if let Some(replica) = examine {
                    let how = postmortem::examine(&*engine, &container).await;
                    deployment.tell_end(key, &replica, how);
                }
                standby_ops::end(&*engine, &container, frozen, grace).await;
                if let Some(holder) = holder {
                    start::discard(&*engine, &holder, Duration::ZERO).await;
                }
                Done::Stopped { key }
            });
        }
        Action::Pause { key, container } => {
            tasks.spawn(async move {
                let outcome = standby_ops::pause(&*engine, &container).await;
                Done::Paused { key, outcome }
            });
        }
        Action::Resume { key, container } => {
            tasks.spawn(async move {
                let outcome = standby_ops::resume(&*engine, &container).await;
                Done::Resumed { key, outcome }
            });
        }
        Action::Prepare {
            key,
            id,
            revision,
            container,
            holder,
            frozen,
        } => {
            tasks.spawn(async move {
                let outcome = standby_ops::prepare(
                    &*engine, &config, &id, &revision, container, holder, frozen,
                )
                .await;
                Done::Prepared { key, outcome }
            });
        }
        Action::StartPrepared {
            key,
            job,
            container,
            endpoints,
        } => {
            tasks.spawn(async move {
                let outcome =
                    standby_ops::start_prepared(&*engine, &config, job, container, endpoints).await;
                Done::Woken { key, outcome }
            });
        }
        Action::Watch {
            key,
            replica,
            revision,
            stop,
        } => {
            let events = deployment.events().clone();
            let deployment = deployment.clone();
            tasks.spawn(async move {
                let limits = limits::watch(&*engine, &config, &replica, &revision, &events);
                let at_work = || deployment.is_at_work(key);
                let probes = async {
                    tokio::select! {
                        why = liveness::watch(&config, &replica, &revision, at_work) => why,
                        never = limits => match never {},
                    }
                };
                match stop.run_until_cancelled(probes).await {
                    Some(why) => Done::Unhealthy { key, why },
                    None => Done::Unwatched,
                }
            });
        }
    }
}

fn settle(shared: &Shared, deployment: &Arc<Deployment>, done: Done) {
    let mut s = deployment.state.lock();
    let unsent = match done {
        Done::Stopped { key } => {
            s.stopped(key);
            Vec::new()
        }
        Done::Paused { key, outcome } => {
            s.paused(key, outcome, &shared.config);
            Vec::new()
        }
        Done::Resumed { key, outcome } => {
            s.resumed(key, outcome);
            Vec::new()
        }
        Done::Prepared { key, outcome } => {
            s.prepared(key, outcome, &shared.config);
            Vec::new()
        }
        Done::Woken {
            key,
            outcome: Ok(replica),
        } => s.started(deployment, key, Arc::new(replica)),
        Done::Woken {
            key,
            outcome: Err(fault),
        } => {
            s.wake_failed(key, fault);
            Vec::new()
        }
        Done::Unhealthy { key, why } => {
            s.unhealthy(&shared.config, deployment, key, &why);
            Vec::new()
        }
        Done::Unwatched => Vec::new(),
        Done::Started {
            key,
            outcome: Ok(replica),
        } => s.started(deployment, key, Arc::new(replica)),
        Done::Started {
            key,
            outcome: Err(fault),
        } => {
            if matches!(
                fault,
                Fault::Failed {
                    engine_down: true,
                    ..
                }
            ) {
                shared.look.notify_one();
            }
            s.start_failed(&shared.config, deployment, key, fault);
            Vec::new()
        }
    };
    drop(s);
    drop(unsent);
}

impl Deployment {
    /// Remembers which container a start has made, so that news of it finds its slot.
    /// A warning about its files is told once.
    fn note_container(&self, key: u64, container: &ContainerId, files: Option<String>) {
        let mut s = self.state.lock();
        if let Some(warning) = files.filter(|_| !std::mem::replace(&mut s.warned_of_files, true)) {
            s.events.push(EventKind::FilesAtRisk, None, 0, warning);
        }
        if let Some(slot) = s.slots.iter_mut().find(|x| x.key == key) {
            slot.container = Some(container.clone());
            slot.enter(Phase::Starting);
            slot.started_at = Some(SystemTime::now());
            let (id, version) = (slot.id.clone(), slot.version);
            let text = format!("container {container} is being started");
            s.events
                .push(EventKind::ReplicaStarting, Some(&id), version, text);
        }
    }
}

impl State {
    /// Starting => Ready, or Starting => Draining when it is not wanted any more.
    #[must_use]
    pub(super) fn started(
        &mut self,
        deployment: &Arc<Deployment>,
        key: u64,
        replica: Arc<Replica>,
    ) -> Vec<super::Lease> {
        let closed = self.closed.is_some();
        let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
            return Vec::new();
        };
        slot.enter(if slot.cancel.is_cancelled() || closed {
            Phase::Draining
        } else {
            Phase::Ready
        });
        slot.ready_at = Some(SystemTime::now());
        slot.container = Some(replica.container.clone());
        tracing::info!(app = %deployment.id(), replica = %replica.id, cold = ?replica.cold, "The replica is ready");
        let took = replica.cold.map_or_else(
            || "adopted from an earlier run".to_owned(),
            |c| format!("ready after {:.0?}", c.create + c.start + c.ready),
        );
        self.events
            .push(EventKind::ReplicaReady, Some(&slot.id), slot.version, took);
        slot.replica = Some(replica);
        let generation = slot.generation;
        if slot.ended
            && let Some(at) = self.slots.iter().position(|x| x.key == key)
        {
            self.died(deployment, at);
            return Vec::new();
        }
        if generation == self.generation {
            self.trouble.failed_starts = 0;
            self.trouble.certain = None;
            self.last_active = Instant::now();
        }
        if let Some(p) = self.pending.as_mut().filter(|p| p.generation == generation)
            && let Some(answer) = p.answer.take()
        {
            let _ = answer.send(Ok(()));
        }
        self.grant(deployment)
    }

    fn start_failed(
        &mut self,
        config: &super::Config,
        deployment: &Deployment,
        key: u64,
        fault: Fault,
    ) {
        let Some(at) = self.slots.iter().position(|x| x.key == key) else {
            return;
        };
        // In order: the list is told oldest first.
        let slot = self.slots.remove(at);
        let generation = slot.generation;
        let (failure, certain) = match fault {
            Fault::Cancelled => {
                self.events.push(
                    EventKind::ReplicaStopped,
                    Some(&slot.id),
                    slot.version,
                    "its start was called off",
                );
                return;
            }
            Fault::Failed {
                failure, certain, ..
            } => (failure, certain),
        };
        self.events.push(
            EventKind::StartFailed,
            Some(&slot.id),
            slot.version,
            failure.text(true),
        );
        tracing::warn!(app = %deployment.id(), reason = failure.reason.as_str(), "A replica did not start: {}", failure.text(true));
        self.last_failure = Some((failure.clone(), SystemTime::now()));
        if let Some(wrong) = slot.progress.wrong_port() {
            self.wrong_port = Some((generation, wrong));
        }
        if let Some(p) = self.pending.take_if(|p| p.generation == generation) {
            if let Some(answer) = p.answer {
                let _ = answer.send(Err(failure));
            }
            return;
        }
        if generation != self.generation {
            return;
        }
        self.trouble.failed_starts += 1;
        let failures = self.trouble.failed_starts;
        // One failure may be chance, two in a row are not; while others serve, nobody is refused.
        let certain = certain || failures >= 2;
        self.back_off(config, if certain { failures.max(2) } else { failures });
        if certain {
            if !self.has_ready() {
                self.queue.fail_all(&failure);
            }
            self.trouble.certain = Some(failure);
        }
    }

    /// Stopping => gone.
    fn stopped(&mut self, key: u64) {
        if let Some(at) = self.slots.iter().position(|x| x.key == key) {
            let slot = self.slots.remove(at);
            self.events.push(
                EventKind::ReplicaStopped,
                Some(&slot.id),
                slot.version,
                "its container is gone",
            );
        }
    }

    /// Ready => Draining, for good: another takes its place, and what it has in flight may end
    /// within the drain timeout.
    fn unhealthy(&mut self, config: &super::Config, deployment: &Deployment, key: u64, why: &str) {
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|x| x.key == key && x.phase == Phase::Ready)
        else {
            return;
        };
        tracing::warn!(app = %deployment.id(), replica = %slot.id, "The replica is not healthy and is replaced: {why}");
        slot.enter(Phase::Draining);
        slot.drain_until = Some(Instant::now() + config.drain_timeout);
        self.events.push(
            EventKind::ReplicaFailed,
            Some(&slot.id),
            slot.version,
            format!("it is replaced: {why}"),
        );
        let failure = Failure::new(
            Reason::NotReady,
            "a replica stopped answering its health path",
        )
        .with_detail(why);
        self.last_failure = Some((failure, SystemTime::now()));
    }
}
