//! Warns owners of limits that a ready replica has reached and survives.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use super::{
    Config,
    events::{EventKind, Events},
    replica::Replica,
};
use crate::{engine::Engine, model::Revision};

/// Interval of the checks if liveness probes are off.
const INTERVAL: Duration = Duration::from_secs(60);

/// Checks as often as liveness is probed, and warns the first time and whenever the count has
/// doubled, so that a fork bomb does not push everything else out of the record.
pub(super) async fn watch<E: Engine>(
    engine: &E,
    config: &Config,
    replica: &Replica,
    revision: &Revision,
    events: &Events,
) -> Infallible {
    let interval = if config.liveness_interval.is_zero() {
        INTERVAL
    } else {
        config.liveness_interval
    };
    let mut reported = 0;
    loop {
        tokio::time::sleep(interval).await;
        // An error says nothing here: others notice the container's end, and the next check may
        // succeed.
        let Ok(hit) = engine.limits_hit(&replica.container).await else {
            continue;
        };
        let refused = hit.pids.unwrap_or(0);
        replica.refused_processes.store(refused, Ordering::Relaxed);
        if refused == 0 || refused < reported * 2 {
            continue;
        }
        reported = refused;
        let message = format!(
            "the replica was refused another process or thread {refused} times: it has as many as the {} that pids_limit allows",
            config.pids_limit
        );
        tracing::warn!(app = %revision.app, replica = %replica.id, refused, "A replica has reached its limit of processes and threads");
        events.push(
            EventKind::LimitReached,
            Some(&replica.id),
            revision.version,
            message,
        );
    }
}
