//! Whether a ready replica still answers on its health path, and which of its connections are open.
//!
//! One that is busy with a request may well have no time to answer: while one younger than the
//! app's timeout is out, only a refused connection counts. Its end is noticed elsewhere.

use std::time::Duration;

use super::{Config, probe::ProbeOutcome, replica::Replica, start};
use crate::model::Revision;

/// Between two looks at the connections of a replica that is not asked for its health.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Asks at intervals, unless that is turned off, and returns why the replica should be replaced
/// once enough answers in a row were missing or bad.
pub(super) async fn watch(
    config: &Config,
    replica: &Replica,
    revision: &Revision,
    at_work: impl Fn() -> bool,
) -> String {
    let Some(pool) = replica.primary() else {
        // It has no port to ask on; only its end can be noticed.
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
        match start::ask(pool, revision, config.liveness_timeout).await {
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
