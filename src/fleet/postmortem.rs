//! How a replica that served ended, for the requests that it was serving.
//!
//! A connection breaks before the engine reports that the container has ended. So the failure path
//! of a request, and no other, waits a short time for that report, and then for the container's
//! state and log, which are read before the container is removed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    deployment::Deployment,
    replica::{Fate, Replica},
    start,
    state::Containers,
};
use crate::{
    engine::{ContainerId, ContainerState, Engine, Error},
    model::{Failure, Reason},
};

/// Log lines that are kept of a replica that has ended.
const LOG_LINES: u32 = 100;
/// Longest wait of a failed request for the report that the container has ended. An app that merely
/// closed the connection delays its caller's error by this much.
const NEWS_LIMIT: Duration = Duration::from_millis(750);
/// Longest wait for the container's state and log, once it is known to have ended.
const EXAMINE_LIMIT: Duration = Duration::from_secs(3);

impl Replica {
    /// Adds to the failure of a request on this replica how its container ended, if it did.
    pub async fn explain(&self, failure: Failure) -> Failure {
        let mut fate = self.fate.subscribe();
        let ended = timeout(NEWS_LIMIT, fate.wait_for(|f| !matches!(f, Fate::Runs)));
        if !ended.await.is_ok_and(|news| news.is_ok()) {
            return failure;
        }
        let explained = timeout(
            EXAMINE_LIMIT,
            fate.wait_for(|f| matches!(f, Fate::Explained(_))),
        );
        let how = explained.await.ok().and_then(|fate| match &*fate.ok()? {
            Fate::Explained(how) => Some(how.text(true)),
            Fate::Runs | Fate::Ended => None,
        });
        let how = how.unwrap_or_else(|| {
            "its container has ended, and the engine does not say how".to_owned()
        });
        match &failure.detail {
            Some(detail) => {
                let detail = format!("{detail}; {how}");
                failure.with_detail(detail)
            }
            None => failure.with_detail(how),
        }
    }
}

/// Finds out how a replica ended that the fleet did not stop.
pub(super) async fn examine<E: Engine>(engine: &E, containers: &Containers) -> Failure {
    const ENDED: &str = "a replica ended while it served";
    let container = &containers.app;
    let examined = timeout(EXAMINE_LIMIT, async {
        match engine.inspect(container).await {
            Ok(c) => match c.state {
                ContainerState::Exited { code, oom_killed } => {
                    start::exited(engine, container, (code, oom_killed), ENDED, LOG_LINES).await
                }
                ContainerState::Created
                | ContainerState::Running(_)
                | ContainerState::Paused(_) => {
                    let what = match &containers.holder {
                        Some(holder) if !runs(engine, holder).await => Containers::LOST_NETWORK,
                        _ => "the engine lost sight of it",
                    };
                    let logs = start::tail(engine, container, LOG_LINES).await;
                    Failure::new(Reason::ContainerExited, ENDED)
                        .with_detail(format!("{what}{logs}"))
                }
            },
            Err(Error::NoSuchContainer(_)) => {
                Failure::new(Reason::ContainerExited, ENDED).with_detail("somebody removed it")
            }
            Err(error) => Failure::new(Reason::ContainerExited, ENDED)
                .with_detail(format!("how is not known: {error}")),
        }
    });
    examined.await.unwrap_or_else(|_| {
        Failure::new(Reason::ContainerExited, ENDED)
            .with_detail("how is not known: the engine took too long to say")
    })
}

/// Whether a container runs, unless the engine says that it does not.
async fn runs<E: Engine>(engine: &E, container: &ContainerId) -> bool {
    match engine.inspect(container).await {
        Ok(c) => matches!(c.state, ContainerState::Running(_)),
        Err(Error::NoSuchContainer(_)) => false,
        Err(_) => true,
    }
}

impl Deployment {
    /// Publishes how a replica ended: to the requests it was serving, and to its owner.
    pub(super) fn publish_end(&self, key: u64, replica: &Replica, mut how: Failure) {
        // The engine forgets this count when the container ends.
        let refused = replica.refused_processes.load(Ordering::Relaxed);
        if refused > 0 {
            let detail = how.detail.unwrap_or_default();
            how.detail = Some(format!(
                "it had reached its limit of processes (pids_limit), {refused} were refused; {detail}"
            ));
        }
        self.state.lock().examined(key, &replica.id, &how);
        tracing::warn!(app = %self.id(), replica = %replica.id, "A replica ended by itself: {}", how.text(true));
        replica.fate.send_replace(Fate::Explained(Arc::new(how)));
    }
}
