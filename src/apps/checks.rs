//! Activates another version once a replica of it is ready.
//!
//! Publish and rollback differ only in what they store. Both hold the app's deploy lock while they
//! wait, and take the commit lock when the replica is ready. A change of settings in between is
//! stored at once; if it changes the container or the readiness check, the wait starts again with
//! it. The serving replicas get the parts of the change that need no new container. They get the
//! rest only if the check fails, since one surge replica is enough.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Shared, claims::Claim};
use crate::model::{App, AppId, Failure, Reason, Revision};

/// The running checks, at most one per app.
#[derive(Default)]
pub(super) struct Checks(Mutex<HashMap<AppId, Arc<Check>>>);

/// One check.
#[derive(Default)]
pub(super) struct Check {
    /// Notified after each change of settings.
    changed: Notify,
    /// Whether the serving version still needs a roll-out if the check fails.
    roll_out_after: AtomicBool,
}

impl Checks {
    /// The running check of an app's new version. The caller holds the commit lock.
    pub(super) fn of(&self, id: &AppId) -> Option<Arc<Check>> {
        self.0.lock().get(id).cloned()
    }
}

/// Removes a check from the list on drop, however it ends.
struct Listed<'a> {
    checks: &'a Checks,
    id: &'a AppId,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.checks.0.lock().remove(self.id);
    }
}

impl Check {
    /// Notifies the check of a change of settings; `all_applied` says whether the serving replicas
    /// have all of it.
    pub(super) fn settings_changed(&self, all_applied: bool) {
        self.roll_out_after.fetch_or(!all_applied, Ordering::AcqRel);
        self.changed.notify_one();
    }
}

impl Shared {
    /// Stores and activates the app that `next` returns, once a replica of its active version is
    /// ready, or at once unless `checked`. `next` runs again after each change of settings. The
    /// caller holds the app's deploy lock.
    ///
    /// # Errors
    /// The catalog's refusal of the result of `next`, before anything is started; why the replica
    /// does not become ready; ABORTED by a newer claim. Nothing has changed then.
    pub(super) async fn switch<N>(
        self: &Arc<Self>,
        id: &AppId,
        claim: &Claim,
        checked: bool,
        next: N,
    ) -> Result<Arc<App>, Failure>
    where
        N: Fn(&App) -> App + Clone + Send + 'static,
    {
        if !checked {
            return self
                .commit_exclusively(id, async {
                    self.write(id, next).await?;
                    self.roll_out_newest(id);
                    self.get(id)
                })
                .await;
        }
        let check = Arc::new(Check::default());
        {
            let _committing = self.commit_locks.acquire(id).await;
            // A roll-out would compete for the surge replica; this check has the newest settings.
            let cancelled = self.cancel_roll_out(id).await;
            check.roll_out_after.store(cancelled, Ordering::Release);
            self.checks.0.lock().insert(id.clone(), check.clone());
        }
        let listed = Listed {
            checks: &self.checks,
            id,
        };
        let outcome = self.check(id, claim, &check, next).await;
        let Err((version, failure)) = outcome else {
            return self.get(id);
        };
        let _committing = self.commit_locks.acquire(id).await;
        drop(listed);
        if let Some(deployment) = self.fleet.find(id) {
            deployment.publish_failed(version, &failure);
        }
        if check.roll_out_after.load(Ordering::Acquire) {
            self.roll_out_newest(id);
        }
        Err(failure)
    }

    /// Waits for a replica, then stores and activates; a failure comes with the number of its
    /// version.
    async fn check<N>(
        self: &Arc<Self>,
        id: &AppId,
        claim: &Claim,
        check: &Check,
        next: N,
    ) -> Result<(), (u32, Failure)>
    where
        N: Fn(&App) -> App + Clone + Send + 'static,
    {
        let mut version = 0;
        let mut again = false;
        loop {
            let revision = self.revision_after(id, &next).map_err(|f| (version, f))?;
            version = revision.version;
            let deployment = self.fleet.candidate(&revision);
            let text = if !again {
                format!("version {version} serves once a replica of it is ready")
            } else {
                format!("version {version} is readied anew with the changed settings")
            };
            deployment.publishing(version, text);
            let settings_differ = async {
                loop {
                    check.changed.notified().await;
                    match self.revision_after(id, &next) {
                        Ok(now) if now.is_ready_when(&revision) => {}
                        _ => break,
                    }
                }
            };
            again = true;
            let prepared = tokio::select! {
                biased;
                () = settings_differ => continue,
                prepared = claim.wait(self.fleet.prepare(&revision)) => {
                    prepared.map_err(|f| (version, f))?
                }
            };
            let _committing = self.commit_locks.acquire(id).await;
            let now = self.revision_after(id, &next).map_err(|f| (version, f))?;
            if !now.is_ready_when(&revision) {
                continue;
            }
            self.write(id, next).await.map_err(|f| (version, f))?;
            self.routes.set(&self.fleet.activate(now));
            drop(prepared);
            // Under the same lock: the next operation must find no check.
            self.checks.0.lock().remove(id);
            return Ok(());
        }
    }

    /// The revision that would serve if `next` were applied to the app as it is now.
    fn revision_after(&self, id: &AppId, next: &impl Fn(&App) -> App) -> Result<Revision, Failure> {
        let mut after = None;
        // Refuses here what the commit would refuse only after a start.
        self.store.catalog().update(id, |app| {
            *app = next(app);
            after = Revision::of(app, self.defaults);
            Ok(())
        })?;
        after.ok_or_else(|| {
            Failure::new(Reason::Internal, format!("app {id} would have no version"))
        })
    }

    async fn write<N>(&self, id: &AppId, next: N) -> Result<(), Failure>
    where
        N: Fn(&App) -> App + Send + 'static,
    {
        let of = id.clone();
        let edit = move |app: &mut App| {
            *app = next(app);
            Ok(())
        };
        self.store
            .commit(move |c| Ok((vec![c.update(&of, edit)?], ())))
            .await
    }
}
