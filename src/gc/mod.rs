//! Garbage collection: what is removed in the background, at intervals.
//!
//! | file | what |
//! |---|---|
//! | `disk.rs` | the disk use of organizations: over the quota, apps that write are stopped |
//! | `images.rs` | pulled images: removed when no version needs them |
//! | `volumes.rs` | the volumes of apps: removed with the app, or when they expire |
//!
//! A crash at any point is repaired by the next collection: the store says what to keep, and the
//! engine what exists.

mod disk;
mod images;
mod volumes;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::images::Images;
use crate::{clock, engine::Engine, fleet::Fleet, store::Store, vitals::Vitals};

pub use disk::Quota as DiskQuota;
pub use images::pull_record;
pub use volumes::Volumes;

/// When to collect, and what to keep.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time between two collections.
    pub interval: Duration,
    /// How long an app that is not used keeps a volume that is not persistent, unless it says so
    /// itself.
    pub storage_ttl: Duration,
    /// The images of this many newest versions of each app stay.
    pub versions_kept: usize,
    /// How long an image stays at least, counted from its pull.
    pub image_keep_for: Duration,
    /// How much of the disk an organization may use.
    pub disk: DiskQuota,
    /// Where the task reports that it is alive.
    pub vitals: Vitals,
}

/// The task that collects.
pub struct GarbageCollector {
    volumes: Volumes,
    stop: CancellationToken,
    task: JoinHandle<()>,
    disk: Option<JoinHandle<()>>,
}

impl GarbageCollector {
    /// Starts collecting.
    pub fn start<E: Engine>(
        config: Config,
        store: Store,
        fleet: Fleet,
        volumes: Volumes,
        engine: Arc<E>,
    ) -> Self {
        let stop = CancellationToken::new();
        let disk = (!config.disk.is_none()).then(|| {
            let watching = disk::watch(config.disk, fleet.clone(), engine.clone());
            let token = stop.clone();
            let watching = async move {
                token.run_until_cancelled(watching).await;
            };
            let watched = config.vitals.watch("the watch over the disk", watching);
            tokio::spawn(watched)
        });
        let images = Images::new(engine);
        let (token, own) = (stop.clone(), volumes.clone());
        let vitals = config.vitals.clone();
        let task = tokio::spawn(vitals.watch("garbage collection", async move {
            let mut tick = interval(config.interval);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let collecting = async {
                loop {
                    tick.tick().await;
                    // Nothing is removed by age while the clock may be wrong.
                    let settled = clock::is_settled();
                    own.collect(&store, &fleet, Some(config.storage_ttl).filter(|_| settled))
                        .await;
                    let keep_for = config.image_keep_for;
                    images
                        .collect(&store, config.versions_kept, keep_for, settled)
                        .await;
                }
            };
            token.run_until_cancelled(collecting).await;
        }));
        Self {
            volumes,
            stop,
            task,
            disk,
        }
    }

    /// Stops the task and returns the volumes.
    pub async fn stop(self) -> Volumes {
        self.stop.cancel();
        for task in [Some(self.task), self.disk].into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::error!(%error, "Garbage collection panicked");
            }
        }
        self.volumes
    }
}
