//! Who may change an app now, and how a configuration gets to its replicas.
//!
//! Two turns per app. The *life* is for what decides which version serves: create, publish,
//! rollback, delete; a publish has it while it waits for a replica of the new version. The *act*
//! is for the moment in which something is written down and acted on, and is never held through
//! such a wait: a change of settings needs it alone, so it gets past a publish that is stuck.
//! Whoever needs both takes the life first.

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

/// Wait before a changed configuration that did not get ready is tried again beside the
/// replicas that still serve.
const ROLL_OUT_RETRY: Duration = Duration::from_secs(5);

/// One permit for each app, made when it is asked for.
#[derive(Default)]
pub(super) struct AppLocks(Mutex<HashMap<AppId, Weak<Semaphore>>>);

impl AppLocks {
    /// Waits for the app's permit; in the order of asking.
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

/// Configurations on their way to the replicas, one per app at most.
#[derive(Default)]
pub(super) struct RollOuts(Mutex<HashMap<AppId, RollOut>>);

struct RollOut {
    cancelled: CancellationToken,
    task: JoinHandle<()>,
}

impl Shared {
    /// Writes a change of an app down and acts on it when nobody else does. A configuration that
    /// is still being rolled out is called off: the operation starts from the newest. When it
    /// fails and so changes nothing, the roll-out goes on.
    pub(super) async fn commit_exclusively<T>(
        self: &Arc<Self>,
        id: &AppId,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let _committing = self.commit_locks.acquire(id).await;
        // Only now: the operation before may have begun it.
        let cancelled = self.cancel_roll_out(id).await;
        let outcome = operation.await;
        if cancelled && outcome.is_err() {
            self.roll_out_newest(id);
        }
        outcome
    }

    /// Ends the app's roll-out and returns once it cannot act any more; whether there was one.
    pub(super) async fn cancel_roll_out(&self, id: &AppId) -> bool {
        let Some(roll_out) = self.roll_outs.0.lock().remove(id) else {
            return false;
        };
        let under_way = !roll_out.task.is_finished();
        roll_out.cancelled.cancel();
        // A panic has been reported by the runtime; the roll-out is over all the same.
        let _ = roll_out.task.await;
        under_way
    }

    /// Rolls the settings in force out to the active version, if there is one.
    pub(super) fn roll_out_newest(self: &Arc<Self>, id: &AppId) {
        if let Ok(app) = self.get(id)
            && let Some(revision) = Revision::of(&app, self.defaults)
        {
            self.roll_out(revision);
        }
    }

    /// Brings a changed configuration to the replicas without a gap: when containers have to be
    /// replaced, the old ones serve until a new one is ready, for as many tries as it takes; what
    /// needs no other container holds for them at once, above all who may call them.
    /// The caller acts; the roll-out goes on after it.
    pub(super) fn roll_out(self: &Arc<Self>, revision: Revision) {
        if self.apply_at_once(&revision) {
            return;
        }
        let id = revision.app.clone();
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
                        tracing::warn!(app = %revision.app, "The changed configuration does not get ready, the one before serves on: {}", failure.text(true));
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

    /// Lets a changed configuration hold for all that it needs no other container for; whether
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
