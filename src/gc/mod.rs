//! What has to be tidied up now and then, when nobody asks.
//!
//! | file | what |
//! |---|---|
//! | `disk.rs` | what organizations take of the disk: whoever writes too much is stopped |
//! | `images.rs` | images that were pulled: removed when no version needs them |
//! | `volumes.rs` | the volumes of apps: removed with the app, and when their time is over |
//!
//! A crash at any point is mended by the next look: what is to be kept follows from the store,
//! and what is there is asked of the engine.

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

/// When to look, and what is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time between two looks.
    pub interval: Duration,
    /// How long an app that is not used keeps a volume that is not persistent.
    pub storage_ttl: Duration,
    /// Newest versions of each app whose images stay.
    pub versions_kept: usize,
    /// How long an image stays at least, counted from its pull.
    pub image_keep_for: Duration,
    /// What an organization may take of the disk.
    pub disk: DiskQuota,
    /// Where the task says whether it lives.
    pub vitals: Vitals,
}

/// The task that looks.
pub struct GarbageCollector {
    volumes: Volumes,
    stop: CancellationToken,
    task: JoinHandle<()>,
    disk: Option<JoinHandle<()>>,
}

impl GarbageCollector {
    /// Looks from now on.
    pub fn start<E: Engine>(
        config: Config,
        store: Store,
        fleet: Fleet,
        volumes: Volumes,
        engine: Arc<E>,
    ) -> Self {
        let stop = CancellationToken::new();
        let disk = (!config.disk.is_none()).then(|| {
            let looking = disk::watch(config.disk, fleet.clone(), engine.clone());
            let token = stop.clone();
            let looking = async move {
                token.run_until_cancelled(looking).await;
            };
            let watched = config.vitals.watch("the watch over the disk", looking);
            tokio::spawn(watched)
        });
        let images = Images::new(engine);
        let (token, own) = (stop.clone(), volumes.clone());
        let vitals = config.vitals.clone();
        let task = tokio::spawn(vitals.watch("garbage collection", async move {
            let mut tick = interval(config.interval);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let looking = async {
                loop {
                    tick.tick().await;
                    // What is old by a clock that may be wrong stays for now.
                    let settled = clock::is_settled();
                    own.collect(&store, &fleet, Some(config.storage_ttl).filter(|_| settled))
                        .await;
                    let keep_for = config.image_keep_for;
                    images
                        .collect(&store, config.versions_kept, keep_for, settled)
                        .await;
                }
            };
            token.run_until_cancelled(looking).await;
        }));
        Self {
            volumes,
            stop,
            task,
            disk,
        }
    }

    /// Ends the task and answers what it looked after.
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
