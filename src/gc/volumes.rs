//! The volumes of apps: removed with the app, or when they expire.
//!
//! A volume that the store does not know is left alone, since the store may have been lost and may
//! be restored. To be removed with its app, a volume is recorded in the same commit that deletes
//! the app.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    clock::now_ms,
    engine::{Engine, Error, Volume},
    fleet::{Fleet, Snapshot, Until},
    model::{App, AppId, Failure, Standby, StorageMode, catalog::Change, files::is_expired},
    store::Store,
};

/// How long replicas in standby may take to release a volume.
const LET_GO: Duration = Duration::from_secs(60);

type Listed = BoxFuture<'static, Result<Vec<Volume>, Error>>;
type Removed = BoxFuture<'static, Result<(), Error>>;

/// The volumes in the engine; the engine's type ends here.
#[derive(Clone)]
pub struct Volumes {
    list: Arc<dyn Fn() -> Listed + Send + Sync>,
    remove: Arc<dyn Fn(String) -> Removed + Send + Sync>,
}

impl Volumes {
    /// The volumes of an engine.
    pub fn new<E: Engine>(engine: Arc<E>) -> Self {
        let other = engine.clone();
        Self {
            list: Arc::new(move || {
                let engine = engine.clone();
                Box::pin(async move { engine.volumes().await })
            }),
            remove: Arc::new(move |name| {
                let engine = other.clone();
                Box::pin(async move { engine.remove_volume(&name).await })
            }),
        }
    }

    /// Removes the volume of an app that has no container any more. If that fails, the next
    /// collection removes it.
    pub async fn remove_of(&self, app: &AppId, since: i64) {
        self.remove_where(|v| v.app == *app && v.since == since)
            .await;
    }

    /// Removes everything, for an instance that keeps nothing.
    pub async fn remove_all(&self) {
        self.remove_where(|_| true).await;
    }

    async fn remove_where(&self, condition: impl Fn(&Volume) -> bool) {
        match (self.list)().await {
            Ok(all) => {
                for volume in all.into_iter().filter(condition) {
                    self.remove(&volume, "it is not needed any more").await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "Volumes may be left; the next collection or `ignite prune` removes them");
            }
        }
    }

    /// Removes the volumes of deleted apps and those past their time to live, which is `ttl` where
    /// the app sets none, and records when apps were last used. Without `ttl` none is too old.
    pub(super) async fn collect(&self, store: &Store, fleet: &Fleet, ttl: Option<Duration>) {
        let all = match (self.list)().await {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(%error, "The volumes cannot be listed now");
                return;
            }
        };
        let to_delete = store.catalog().volumes_to_delete().clone();
        for (app, since) in &to_delete {
            let of_it = |v: &&Volume| v.app == *app && v.since == *since;
            if all.iter().any(|v| of_it(&v)) {
                continue;
            }
            let gone = Change::VolumeGone(app.clone(), *since);
            if let Err(failure) = store.commit(move |_| Ok((vec![gone], ()))).await {
                tracing::debug!("{}", failure.text(true));
            }
        }
        for volume in all {
            let app = store.catalog().get(&volume.app).cloned();
            match app.filter(|app| app.created_at_ms == volume.since) {
                None if to_delete.contains(&(volume.app.clone(), volume.since)) => {
                    self.remove(&volume, "its app was deleted").await;
                }
                None => tracing::debug!(
                    volume = volume.name,
                    "A volume of an app that the store does not know is left alone"
                ),
                Some(app) if app.settings.storage_mode == StorageMode::Persistent => {}
                Some(app) => self.collect_expired(&volume, &app, store, fleet, ttl).await,
            }
        }
    }

    async fn collect_expired(
        &self,
        volume: &Volume,
        app: &App,
        store: &Store,
        fleet: &Fleet,
        ttl: Option<Duration>,
    ) {
        let now = now_ms();
        let deployment = fleet.get(&app.id);
        let seen = deployment
            .as_ref()
            .and_then(|d| used_at(&d.snapshot(), now));
        let known = known_use(app, now);
        let used = seen.map_or(known, |seen| seen.max(known));
        let is_news = used > known || app.used_at_ms > now;
        if is_news && let Err(failure) = note(store, app, used).await {
            tracing::warn!(app = %app.id, "The time of the app's last use could not be saved: {}", failure.text(true));
        }
        let is_old = |ttl| {
            let ttl = app.settings.storage_ttl().unwrap_or(ttl);
            is_expired(app.settings.storage_mode, used, now, ttl)
        };
        if !ttl.is_some_and(is_old) {
            return;
        }
        if let Some(d) = deployment {
            // A replica in standby would hold the volume; an app that gets a request meanwhile
            // keeps it.
            let rested = d.idle(Some(Standby::Absent));
            let wait = d.wait(Until::Idle(Some(Standby::Absent)), LET_GO);
            if rested.is_err() || wait.await.is_err() {
                return;
            }
        }
        self.remove(volume, "the app was not used for its time to live")
            .await;
    }

    async fn remove(&self, volume: &Volume, why: &str) {
        match (self.remove)(volume.name.clone()).await {
            Ok(()) => {
                tracing::info!(app = %volume.app, volume = volume.name, "Removed a volume: {why}");
            }
            Err(error) => {
                tracing::warn!(app = %volume.app, volume = volume.name, %error, "A volume stays until the next collection");
            }
        }
    }
}

/// When an app was last used or changed, by its record. A time in the future comes from a clock
/// that was wrong and counts as now: otherwise the volume would stay until then.
fn known_use(app: &App, now_ms: i64) -> i64 {
    app.used_at_ms.max(app.updated_at_ms).min(now_ms)
}

/// When an app was last in use, as far as this run knows.
fn used_at(s: &Snapshot, now_ms: i64) -> Option<i64> {
    if s.ready + s.starting + s.draining + s.in_flight + s.held > 0 {
        return Some(now_ms);
    }
    let idle = i64::try_from(s.idle_for?.as_millis()).unwrap_or(i64::MAX);
    Some(now_ms.saturating_sub(idle))
}

async fn note(store: &Store, app: &App, used_at_ms: i64) -> Result<(), Failure> {
    let (id, since) = (app.id.clone(), app.created_at_ms);
    store
        .commit(move |catalog| {
            let change = catalog.update(&id, |app| {
                // The app may have been replaced by a new one of the same name.
                if app.created_at_ms == since {
                    app.used_at_ms = used_at_ms.max(known_use(app, used_at_ms));
                }
                Ok(())
            })?;
            Ok((vec![change], ()))
        })
        .await
}
