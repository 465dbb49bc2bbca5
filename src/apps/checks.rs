//! Another version made the active one, once a replica of it is ready.
//!
//! Publish and rollback are the same but for what they write down. Either has the app's life while
//! it waits, and acts when the replica is ready. A change of settings in the middle is written down
//! at once and, where it makes another container or another question of readiness, begins the wait
//! anew with it. The replicas that serve meanwhile get those parts of it that need no other
//! container; the rest reaches them when the check has failed, since one surge replica is enough.

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

/// The checks under way, one per app at most.
#[derive(Default)]
pub(super) struct Checks(Mutex<HashMap<AppId, Arc<Check>>>);

/// One check.
#[derive(Default)]
pub(super) struct Check {
    /// Told after each change of settings.
    changed: Notify,
    /// What serves has to be brought a configuration when the check fails.
    roll_out_after: AtomicBool,
}

impl Checks {
    /// The check of an app's new version that is under way. The caller acts.
    pub(super) fn of(&self, id: &AppId) -> Option<Arc<Check>> {
        self.0.lock().get(id).cloned()
    }
}

/// Takes a check off the list, however it ends.
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
    /// The settings were changed; those that serve have all of the change, or not.
    pub(super) fn settings_changed(&self, all_applied: bool) {
        self.roll_out_after.fetch_or(!all_applied, Ordering::AcqRel);
        self.changed.notify_one();
    }
}

impl Shared {
    /// Makes what `next` makes of the app the truth, once a replica of its active version is
    /// ready, or at once when it is not to be `checked`. `next` is asked anew after each change of
    /// settings. The caller has the app's life.
    ///
    /// # Errors
    /// What `next` and the catalog say, before anything is started; why the replica does not get
    /// ready, ABORTED by a newer claim. Nothing has changed then.
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
            // It would only be in the way; this check brings the newest settings with it.
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

    /// Waits for a replica and acts; the version that was to be with the failure.
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
            // In the same turn: whoever acts next finds no check any more.
            self.checks.0.lock().remove(id);
            return Ok(());
        }
    }

    /// What would serve, as the app is now.
    fn revision_after(&self, id: &AppId, next: &impl Fn(&App) -> App) -> Result<Revision, Failure> {
        let mut after = None;
        // Refused here rather than after a start.
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
