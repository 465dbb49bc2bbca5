//! Whether the engine is available, and whether its containers are what the fleet believes.
//!
//! One task: it asks the engine, adopts or removes what an earlier run left, listens to the
//! engine's events, and compares with its list of containers at intervals. Events are hints and the
//! list is the truth, so an engine that restarts or loses events does no lasting harm.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use tokio::time::Instant;

use super::{
    Shared,
    deployment::Deployment,
    standby_ops,
    start::{self, Fault},
    state::{Adopted, Containers, Expected, Frozen},
};
use crate::{
    engine::{Container, ContainerId, ContainerState, Engine, Error, Info, Owner},
    model::{Failure, Revision},
};

/// Time between two attempts while the engine does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The state of the engine, as far as the supervisor knows.
#[derive(Debug, Clone)]
pub enum EngineState {
    /// It has not been asked yet.
    Unknown,
    /// It answers.
    Up(Info),
    /// It does not answer, or cannot be asked, for this reason.
    Down(Failure),
}

pub(super) async fn run<E: Engine>(shared: Arc<Shared>, engine: Arc<E>) {
    tokio::select! {
        () = supervise(&shared, &engine) => {}
        () = shared.stop.cancelled() => {}
    }
    let up = matches!(*shared.engine.borrow(), EngineState::Up(_));
    if up && !shared.keep.load(Ordering::Acquire) {
        sweep(&engine).await;
    }
}

/// Removes the containers that are left once every deployment is gone: those of calls that timed
/// out, or whose removal failed.
async fn sweep<E: Engine>(engine: &Arc<E>) {
    match engine.list().await {
        Ok(left) => {
            join_all(
                left.iter()
                    .map(|c| start::discard(&**engine, &c.id, Duration::ZERO)),
            )
            .await;
        }
        Err(error) => {
            tracing::warn!(%error, "Containers may be left; the next start or `ignite prune` removes them");
        }
    }
}

async fn supervise<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) {
    let mut deaths = engine.deaths();
    let mut listening = true;
    let mut listening_since = Instant::now();
    loop {
        let up = inspect(shared, engine).await;
        if up && !listening {
            deaths = engine.deaths();
            listening = true;
            listening_since = Instant::now();
            // One more inspection finds whatever happened between the two streams.
            inspect(shared, engine).await;
        }
        let pause = if up && shared.network.borrow().is_none() {
            shared.config.reconcile_interval
        } else {
            RETRY
        };
        let mut wake_at = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(wake_at) => break,
                () = shared.inspect.notified() => break,
                death = deaths.next(), if listening => match death {
                    Some(container) => container_ended(shared, &container),
                    None => {
                        listening = false;
                        // An engine without an event stream must not be asked in a busy loop.
                        wake_at = wake_at.min(listening_since + RETRY);
                    }
                },
            }
        }
    }
}

/// Asks the engine and reconciles with it; whether it is available.
async fn inspect<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) -> bool {
    let was_up = matches!(*shared.engine.borrow(), EngineState::Up(_));
    let seen = if was_up {
        reconcile(shared, engine).await
    } else {
        arrive(shared, engine).await
    };
    match seen {
        Ok(()) => {
            ensure_network(shared, engine);
            true
        }
        Err(error) if matches!(error, Error::Unreachable { .. } | Error::NoDescriptors) => {
            let changed = !matches!(&*shared.engine.borrow(), EngineState::Down(_));
            if changed {
                tracing::error!(%error, "The container engine cannot be reached: apps cannot start until it can");
            }
            let why = error.to_failure();
            shared.engine.send_replace(EngineState::Down(why.clone()));
            for d in shared.everyone() {
                // Stands until the inspection after the next one: each renews it.
                d.state.lock().engine_gone(&why, RETRY * 2);
            }
            false
        }
        Err(error) => {
            tracing::warn!(%error, "The engine's containers could not be compared; trying again");
            was_up
        }
    }
}

async fn arrive<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) -> Result<(), Error> {
    let info = engine.info().await?;
    tracing::info!(
        engine = info.name,
        cpus = info.cpus,
        maps_users = info.maps_users,
        "The container engine answers"
    );
    for lack in info.abilities.lacks() {
        tracing::warn!(remedy = info.abilities.remedy(), "{lack}");
    }
    if *shared.settled.borrow() {
        reconcile(shared, engine).await?;
    } else {
        let mut may_adopt = shared.config.may_adopt.clone();
        if may_adopt.wait_for(|may| *may).await.is_err() {
            // Another server has the identity; this one is about to end.
            std::future::pending::<()>().await;
        }
        adopt_all(shared, engine).await?;
        shared.settled.send_replace(true);
    }
    for d in shared.everyone() {
        d.state.lock().engine_is_back();
        d.wake.notify_one();
    }
    shared.capacity.set_host_memory(info.memory_bytes);
    shared.engine.send_replace(EngineState::Up(info));
    Ok(())
}

/// Makes the instance's network if it is missing, so that the first cold start does not have to. In
/// a task that a stop waits for: if the call were cut off in the middle, the engine would make the
/// network after its removal.
fn ensure_network<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) {
    let (known, engine) = (shared.clone(), engine.clone());
    shared.tasks.spawn(async move {
        let missing = engine.ensure_network().await.err();
        known.network.send_if_modified(|before| {
            let changed = before.is_some() != missing.is_some();
            if changed && let Some(error) = &missing {
                tracing::error!(%error, "The instance's network cannot be made: no app can start until it can");
            }
            *before = missing.map(|error| error.to_failure());
            if changed {
                known.inspect.notify_one();
            }
            changed
        });
    });
}

fn container_ended(shared: &Shared, container: &ContainerId) {
    for d in shared.everyone() {
        d.container_ended(container);
    }
}

/// Finds containers that ended unseen, and removes those that belong to no replica.
async fn reconcile<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) -> Result<(), Error> {
    let deployments = shared.everyone();
    // The beliefs are read before the list: a container made in between is no orphan, and one that
    // the list lacks did exist when it was believed.
    let mut believed = Vec::new();
    for d in &deployments {
        let beliefs = d.state.lock().beliefs();
        believed.extend(beliefs.into_iter().map(|belief| (d, belief)));
    }
    let listed = engine.list().await?;
    let states: HashMap<_, _> = listed.iter().map(|c| (&c.id, &c.state)).collect();
    for (d, belief) in believed {
        let state = states.get(&belief.container);
        let runs = |id| matches!(states.get(id), Some(ContainerState::Running(_)));
        let has_network = belief.holder.as_ref().is_none_or(runs);
        let container_is_so = match &belief.expected {
            Expected::Running => matches!(state, Some(ContainerState::Running(_))),
            // A container frozen by its cgroup counts as running for the engine.
            Expected::Frozen => matches!(
                state,
                Some(ContainerState::Running(_) | ContainerState::Paused(_))
            ),
            Expected::Prepared => matches!(state, Some(ContainerState::Created)),
        };
        let as_believed = has_network && container_is_so;
        if !as_believed && d.state.lock().not_as_believed(&belief, has_network) {
            d.wake.notify_one();
        }
    }
    drop(states);
    let orphans = listed.into_iter().filter(|c| !is_known(shared, c));
    join_all(orphans.map(|c| async move {
        tracing::warn!(container = %c.id, "Removing a container that belongs to no replica");
        start::discard(&**engine, &c.id, Duration::ZERO).await;
    }))
    .await;
    Ok(())
}

fn is_known(shared: &Shared, container: &Container) -> bool {
    let Some(owner) = &container.owner else {
        return false;
    };
    let has = |d: &Arc<Deployment>| d.state.lock().has(&owner.replica);
    let mut all = shared.everyone().into_iter();
    all.any(|d| *d.id() == owner.app && has(&d))
}

/// Adopts the containers of an earlier run that match what is published, and removes the others.
async fn adopt_all<E: Engine>(shared: &Arc<Shared>, engine: &Arc<E>) -> Result<(), Error> {
    let listed = engine.list().await?;
    let wanted = |c: &Container| {
        let runs = matches!(
            c.state,
            ContainerState::Running(_) | ContainerState::Paused(_)
        );
        let owner = c.owner.as_ref().filter(|_| runs && !c.is_holder)?;
        Some((matching(shared, owner)?, owner.clone()))
    };
    // The holder of an adopted container's network is still needed.
    let holders: HashSet<_> = listed
        .iter()
        .filter(|c| wanted(c).is_some())
        .filter_map(|c| c.holder.clone())
        .collect();
    join_all(listed.iter().map(|c| {
        let holders = &holders;
        async move {
            match wanted(c) {
                Some((deployment, owner)) => adopt(shared, engine, &deployment, c, &owner).await,
                None if holders.contains(&c.id) => {}
                None => {
                    tracing::info!(container = %c.id, "Removing a container of an earlier run");
                    if let Err(error) = engine.thaw_left(&c.id).await {
                        tracing::debug!(container = %c.id, %error, "A container could not be thawed before its removal");
                    }
                    start::discard(&**engine, &c.id, Duration::ZERO).await;
                }
            }
        }
    }))
    .await;
    Ok(())
}

fn matching(shared: &Shared, owner: &Owner) -> Option<Arc<Deployment>> {
    let d = shared.deployments.read().get(&owner.app).cloned()?;
    d.with_revision(|r| matches(r, owner)).then_some(d)
}

fn matches(revision: &Revision, owner: &Owner) -> bool {
    revision.version == owner.version && revision.config_hash == owner.config_hash
}

/// Removes a container that cannot be adopted after all, together with the holder of its network.
async fn refuse<E: Engine>(engine: &E, found: &Container) {
    let frozen = matches!(found.state, ContainerState::Paused(_));
    standby_ops::end(engine, &found.id, frozen, Duration::ZERO).await;
    if let Some(holder) = &found.holder {
        start::discard(engine, holder, Duration::ZERO).await;
    }
}

/// Puts the container into service once it answers, or into standby if it is frozen. The wait runs
/// in the background, so that one that hangs does not delay the others.
async fn adopt<E: Engine>(
    shared: &Arc<Shared>,
    engine: &Arc<E>,
    deployment: &Arc<Deployment>,
    found: &Container,
    owner: &Owner,
) {
    let (container, holder) = (&found.id, found.holder.clone());
    let frozen = matches!(found.state, ContainerState::Paused(_));
    // The engine shows a container that was frozen by its cgroup as running, so a running one is
    // thawed first.
    let thawed = if frozen {
        Ok(())
    } else {
        engine.thaw_left(container).await
    };
    let endpoints = match (thawed, engine.inspect(container).await.map(|c| c.state)) {
        (
            Ok(()),
            Ok(ContainerState::Running(Some(endpoints)) | ContainerState::Paused(Some(endpoints))),
        ) => endpoints,
        _ => return refuse(&**engine, found).await,
    };
    let memory = if frozen {
        engine.memory(container).await.ok().flatten()
    } else {
        None
    };
    let adopted = {
        let mut s = deployment.state.lock();
        let containers = Containers {
            app: container.clone(),
            holder: holder.clone(),
        };
        let frozen = frozen.then_some(Frozen {
            endpoints: &endpoints,
            memory_bytes: memory,
        });
        // Checked again, since a publish or a delete may have come in between.
        if matches(s.revision(), owner) {
            s.adopt(owner.replica.clone(), containers, frozen)
        } else {
            None
        }
    };
    let Some(adopted) = adopted else {
        return refuse(&**engine, found).await;
    };
    tracing::info!(app = %deployment.id(), replica = %owner.replica, %container, "Adopting a container of an earlier run");
    let (key, job) = match adopted {
        Adopted::Frozen => return deployment.wake.notify_one(),
        Adopted::Starting { key, job } => (key, job),
    };
    let cancel = job.cancel.clone();
    let (shared2, engine, deployment, container) = (
        shared.clone(),
        engine.clone(),
        deployment.clone(),
        container.clone(),
    );
    shared.tasks.spawn(async move {
        let outcome = tokio::select! {
            outcome = start::adopt(&*engine, &shared2.config, job, container.clone(), endpoints) => outcome,
            () = cancel.cancelled() => Err(Fault::Cancelled),
            () = shared2.stop.cancelled() => return,
        };
        match outcome {
            Ok(replica) => {
                deployment.state.lock().started(key, Arc::new(replica));
            }
            Err(_) => {
                start::discard(&*engine, &container, Duration::ZERO).await;
                if let Some(holder) = &holder {
                    start::discard(&*engine, holder, Duration::ZERO).await;
                }
                deployment.state.lock().forget(key);
            }
        }
        deployment.wake.notify_one();
    });
}
