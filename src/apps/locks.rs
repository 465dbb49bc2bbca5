//! Which operation may change an app, and how a changed configuration reaches its replicas.
//!
//! Each app has two locks. The deploy lock guards the decision which version serves: create,
//! publish, rollback, delete; a publish holds it while it waits for a replica of the new version.
//! The commit lock guards storing a change and applying it, and is never held through such a wait:
//! a change of settings needs only this one, so it gets past a publish that is stuck. An operation
//! that needs both takes the deploy lock first.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::model::{AppId, Failure, Revision};

/// Delay before a changed configuration whose replica did not become ready is tried again, while
/// the old replicas still serve.
const ROLL_OUT_RETRY: Duration = Duration::from_secs(5);

/// One lock per app, made on demand and dropped when it is free.
#[derive(Default)]
pub(super) struct AppLocks(Mutex<HashMap<AppId, Weak<Semaphore>>>);

impl AppLocks {
    /// Waits for the app's lock in FIFO order.
    pub(super) async fn acquire(&self, id: &AppId) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut locks = self.0.lock();
            let known = locks.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                locks.retain(|_, lock| lock.strong_count() > 0);
                let fresh = Arc::new(Semaphore::new(1));
                locks.insert(id.clone(), Arc::downgrade(&fresh));
                fresh
            })
        };
        semaphore
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }
}

/// The running roll-outs of changed configurations, at most one per app.
#[derive(Default)]
pub(super) struct RollOuts(Mutex<HashMap<AppId, RollOut>>);

struct RollOut {
    cancelled: CancellationToken,
    task: JoinHandle<()>,
}

impl Shared {
    /// Runs an operation that stores a change of an app and applies it, under the app's commit
    /// lock. It cancels a running roll-out, since the operation starts from the newest
    /// configuration; when the operation fails, and so changes nothing, the roll-out resumes.
    pub(super) async fn commit_exclusively<T>(
        self: &Arc<Self>,
        id: &AppId,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let _committing = self.commit_locks.acquire(id).await;
        // Under the lock, because the previous operation may have started the roll-out.
        let cancelled = self.cancel_roll_out(id).await;
        let outcome = operation.await;
        if cancelled && outcome.is_err() {
            self.roll_out_newest(id);
        }
        outcome
    }

    /// Cancels the app's roll-out and waits for its end; returns whether one was running.
    pub(super) async fn cancel_roll_out(&self, id: &AppId) -> bool {
        let Some(roll_out) = self.roll_outs.0.lock().remove(id) else {
            return false;
        };
        let under_way = !roll_out.task.is_finished();
        roll_out.cancelled.cancel();
        // The runtime has reported a panic; the roll-out is over all the same.
        let _ = roll_out.task.await;
        under_way
    }

    /// Rolls out the current settings to the active version, if there is one.
    pub(super) fn roll_out_newest(self: &Arc<Self>, id: &AppId) {
        if let Ok(app) = self.get(id)
            && let Some(revision) = Revision::of(&app, self.defaults)
        {
            self.roll_out(revision);
        }
    }

    /// Brings a changed configuration to the replicas without a gap. When containers have to be
    /// replaced, the old ones serve until a new one is ready, with as many tries as it takes;
    /// changes that need no new container, above all who may call the app, apply at once. The
    /// caller holds the commit lock; the roll-out continues after it is released.
    pub(super) fn roll_out(self: &Arc<Self>, revision: Revision) {
        if self.apply_at_once(&revision) {
            return;
        }
        let id = revision.app.clone();
        if let Some(serving) = self.fleet.get(&id) {
            serving.rolling_out(revision.version);
        }
        let cancelled = self.stopping.child_token();
        let (shared, token) = (self.clone(), cancelled.clone());
        let replace = async move {
            loop {
                match shared.fleet.prepare(&revision).await {
                    Ok(_prepared) => {
                        shared.routes.set(&shared.fleet.activate(revision));
                        return;
                    }
                    Err(failure) => {
                        tracing::warn!(app = %revision.app, "The changed configuration does not become ready; the previous one keeps serving: {}", failure.text(true));
                        if let Some(serving) = shared.fleet.get(&revision.app) {
                            serving.roll_out_failed(revision.version, &failure);
                        }
                    }
                }
                tokio::time::sleep(ROLL_OUT_RETRY).await;
            }
        };
        let replaced = async move {
            token.run_until_cancelled(replace).await;
        };
        let task = self.tasks.spawn_on(replaced, &self.runtime);
        self.roll_outs
            .0
            .lock()
            .insert(id, RollOut { cancelled, task });
    }

    /// Applies the parts of a changed configuration that need no new container; returns whether
    /// that is all of it.
    pub(super) fn apply_at_once(&self, revision: &Revision) -> bool {
        if !self.fleet.must_prepare(revision) {
            self.routes.set(&self.fleet.activate(revision.clone()));
            return true;
        }
        if let Some(serving) = self.fleet.get(&revision.app) {
            let serving = serving.with_revision(|r| r.with_runtime_settings_of(revision));
            self.fleet.activate(serving);
        }
        false
    }
}
