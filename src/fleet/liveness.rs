//! Whether a ready replica still answers on its health path, and which of its connections are open.
//!
//! A replica busy with a request may well have no time to answer: while it works on a request
//! younger than the app's timeout, only a refused connection counts as a failure. `supervisor.rs`
//! notices the container's end.

use std::time::Duration;

use super::{Config, health, probe::ProbeOutcome, replica::Replica};
use crate::model::Revision;

/// Interval of closing idle connections if liveness probes are off.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Probes at intervals, unless probes are off, and returns why the replica should be replaced once
/// enough probes in a row have failed.
pub(super) async fn watch(
    config: &Config,
    replica: &Replica,
    revision: &Revision,
    at_work: impl Fn() -> bool,
) -> String {
    let Some(pool) = replica.primary() else {
        // There is no port to probe; only the container's end can be noticed.
        return std::future::pending().await;
    };
    let asks = !config.liveness_interval.is_zero();
    let interval = if asks {
        config.liveness_interval
    } else {
        SWEEP_INTERVAL
    };
    let mut failures = 0;
    loop {
        tokio::time::sleep(interval).await;
        replica.sweep();
        if !asks {
            continue;
        }
        match health::ask(pool, revision, config.liveness_timeout).await {
            Ok(_) => failures = 0,
            Err(why) if why != ProbeOutcome::Refused && at_work() => {
                tracing::debug!(app = %revision.app, replica = %replica.id, "A liveness probe of a busy replica failed: {why}");
            }
            Err(why) => {
                failures += 1;
                tracing::debug!(app = %revision.app, replica = %replica.id, failures, "A liveness probe failed: {why}");
                if failures >= config.liveness_failures {
                    return format!(
                        "GET {} failed {failures} times in a row: {why}",
                        revision.health_path
                    );
                }
            }
        }
    }
}
