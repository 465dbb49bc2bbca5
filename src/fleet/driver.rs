//! The task that drives one deployment: decide, act, wait, decide again.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Shared,
    deployment::Deployment,
    limit_warnings, liveness, postmortem, standby_ops,
    start::{self, Fault},
    state::{Action, Removal, TaskOutcome},
};
use crate::engine::{ContainerId, Engine};

/// Least time between two decisions that only the passing of time prompts.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// Runs until the deployment is closed and its last container is gone, or the fleet stops.
pub(super) async fn run<E: Engine>(
    shared: Arc<Shared>,
    engine: Arc<E>,
    deployment: Arc<Deployment>,
) {
    let _finished = deployment.finished.clone().drop_guard();
    let mut settled = shared.settled.subscribe();
    // Nothing is started before adoption is over: the replica could be running already.
    tokio::select! {
        _ = settled.wait_for(|done| *done) => {}
        () = closed(&deployment) => {}
        () = shared.stop.cancelled() => return,
    }
    let mut tasks = JoinSet::new();
    loop {
        let plan = {
            let mut s = deployment.state.lock();
            // Checked under the lock: a fleet that keeps its containers cancels `stop` before it
            // closes deployments.
            if shared.stop.is_cancelled() {
                break;
            }
            let plan = s.plan(Instant::now());
            if s.is_over() {
                return;
            }
            plan
        };
        for action in plan.actions {
            spawn(&mut tasks, &shared, &engine, &deployment, action);
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(done) = tasks.join_next() => match done {
                Ok(done) => apply_outcome(&shared, &deployment, done),
                // The state of the replica that the task worked on is unknown, so the failure is
                // fatal.
                Err(e) => {
                    tracing::error!(app = %deployment.id(), error = %e, "A replica's task panicked");
                    shared.config.vitals.trip(&format!("a replica's task of app {}", deployment.id()));
                }
            },
            () = deployment.wake.notified() => {}
            () = at(plan.wake_at) => {}
        }
    }
    deployment.state.lock().end_tasks();
    while tasks.join_next().await.is_some() {}
}

async fn closed(deployment: &Deployment) {
    while deployment.closed().is_none() {
        deployment.wake.notified().await;
    }
}

async fn at(when: Option<Instant>) {
    match when {
        // A plan must not ask for a decision that is due already, which would be a busy loop; the
        // minimum makes such a bug cheap.
        Some(when) => tokio::time::sleep_until(when.max(Instant::now() + MIN_PAUSE)).await,
        None => std::future::pending().await,
    }
}

fn spawn<E: Engine>(
    tasks: &mut JoinSet<TaskOutcome>,
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
                    let files_at_risk = engine.warning_of_files(&spec);
                    let mut s = deployment.state.lock();
                    s.created(key, container, files_at_risk);
                }
            };
            tasks.spawn(async move {
                TaskOutcome::Started {
                    key,
                    outcome: start::run(&*engine, &config, job, note).await,
                }
            });
        }
        Action::Stop { key, removal } => {
            let Removal {
                containers,
                frozen,
                grace,
                examine,
            } = removal;
            let deployment = deployment.clone();
            tasks.spawn(async move {
                if let Some(replica) = examine {
                    let how = postmortem::examine(&*engine, &containers).await;
                    deployment.publish_end(key, &replica, how);
                }
                standby_ops::end(&*engine, &containers.app, frozen, grace).await;
                if let Some(holder) = containers.holder {
                    start::discard(&*engine, &holder, Duration::ZERO).await;
                }
                TaskOutcome::Stopped { key }
            });
        }
        Action::Pause { key, container } => {
            tasks.spawn(async move {
                let outcome = standby_ops::pause(&*engine, &container).await;
                TaskOutcome::Paused { key, outcome }
            });
        }
        Action::Resume { key, container } => {
            tasks.spawn(async move {
                let outcome = standby_ops::resume(&*engine, &container).await;
                TaskOutcome::Resumed { key, outcome }
            });
        }
        Action::Prepare {
            key,
            id,
            revision,
            vacated,
        } => {
            tasks.spawn(async move {
                let outcome =
                    standby_ops::prepare(&*engine, &config, &id, &revision, vacated).await;
                TaskOutcome::Prepared { key, outcome }
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
                TaskOutcome::PreparedStarted { key, outcome }
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
                let limits = limit_warnings::watch(&*engine, &config, &replica, &revision, &events);
                let at_work = || deployment.state.lock().is_at_work(key, Instant::now());
                let probes = async {
                    tokio::select! {
                        why = liveness::watch(&config, &replica, &revision, at_work) => why,
                        never = limits => match never {},
                    }
                };
                match stop.run_until_cancelled(probes).await {
                    Some(why) => TaskOutcome::Unhealthy { key, why },
                    None => TaskOutcome::Unwatched,
                }
            });
        }
    }
}

/// Applies the outcome of a task to the state. A start that could not reach the engine has the
/// supervisor inspect it at once.
fn apply_outcome(shared: &Shared, deployment: &Deployment, outcome: TaskOutcome) {
    if let TaskOutcome::Started {
        outcome: Err(Fault::Failed {
            engine_down: true, ..
        }),
        ..
    } = outcome
    {
        shared.inspect.notify_one();
    }
    deployment.state.lock().apply(outcome);
}
