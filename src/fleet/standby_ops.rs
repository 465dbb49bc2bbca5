//! The slow parts of warm standby: freezing, thawing, preparing, and starting a prepared container.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Config,
    replica::{ColdStart, Replica},
    start::{self, Fault, Job},
    state::Vacated,
};
use crate::{
    engine::{ContainerId, Endpoints, Engine, Error, Prepared},
    model::{ReplicaId, Revision},
};

/// A thaw that takes longer is given up in favour of the next depth; it usually takes milliseconds.
const WAKE_LIMIT: Duration = Duration::from_secs(5);

/// Freezes a container and returns how many bytes of memory it keeps; `None` where that is unknown.
pub(super) async fn pause<E: Engine>(
    engine: &E,
    container: &ContainerId,
) -> Result<Option<u64>, Error> {
    engine.pause(container).await?;
    // An unknown amount is no reason to thaw it again.
    Ok(engine.memory(container).await.ok().flatten())
}

/// Thaws a container within a bounded time.
pub(super) async fn resume<E: Engine>(engine: &E, container: &ContainerId) -> Result<(), Error> {
    tokio::time::timeout(WAKE_LIMIT, engine.resume(container))
        .await
        .unwrap_or(Err(Error::TimedOut {
            call: "thaw the container",
            after: WAKE_LIMIT,
        }))
}

/// Ends the replica's process as any stop does, so that its volumes lose nothing, and creates a
/// container in its place that can be started at any time.
pub(super) async fn prepare<E: Engine>(
    engine: &E,
    config: &Config,
    id: &ReplicaId,
    revision: &Revision,
    vacated: Vacated,
) -> Result<Prepared, Error> {
    let Vacated { containers, frozen } = vacated;
    end(engine, &containers.app, frozen, config.stop_grace).await;
    let spec = start::spec(config, id, revision);
    engine.prepare(&spec, containers.holder.as_ref()).await
}

/// Thaws a container if it is frozen, stops and removes it; without a grace it is killed.
pub(super) async fn end<E: Engine>(
    engine: &E,
    container: &ContainerId,
    frozen: bool,
    grace: Duration,
) {
    if frozen && let Err(error) = resume(engine, container).await {
        tracing::debug!(%container, %error, "A container could not be thawed before its removal");
    }
    start::discard(engine, container, grace).await;
}

/// Starts a prepared container and waits until it is ready. A failure leaves the container in
/// place.
pub(super) async fn start_prepared<E: Engine>(
    engine: &E,
    config: &Config,
    job: Job,
    container: ContainerId,
    endpoints: Endpoints,
) -> Result<Replica, Fault> {
    let began = Instant::now();
    job.progress.starting();
    engine
        .start_prepared(&container)
        .await
        .map_err(|e| start::fault(&e))?;
    let started = Instant::now();
    let pools = Replica::pools(&endpoints, &job.revision, &config.max_connects);
    let cancel = job.cancel.clone();
    let ready = start::wait_ready(engine, config, &job, &container, &pools, &endpoints);
    cancel
        .run_until_cancelled(ready)
        .await
        .unwrap_or(Err(Fault::Cancelled))?;
    let cold = ColdStart {
        create: Duration::ZERO,
        start: started - began,
        ready: started.elapsed(),
        last_probe: job.progress.last(),
    };
    Ok(Replica::new(job.id, container, Some(cold), pools))
}
