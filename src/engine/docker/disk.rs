//! The disk space that the containers and volumes of apps use.
//!
//! The engine reports the size of the containers' writable layers. Volumes are counted here where
//! they are readable: those in the data directory, and the engine's own when this process may read
//! its directory. A log counts with the most that it may use.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, ListVolumesOptions},
};

use super::{
    Docker, Error, folders,
    info::LogDriver,
    labels::{self, Origin, Role},
    states,
};
use crate::{engine::DiskUse, model::AppId, tree_size::TreeSize};

/// The count of one app.
#[derive(Debug, Default)]
struct Count {
    files: TreeSize,
    /// What containers write beside volumes.
    layers: u64,
    logs: u64,
}

impl Docker {
    /// The disk space that each app of this instance uses.
    ///
    /// # Cancel safety
    /// The walk through the trees ends soon after the future is dropped.
    pub(super) async fn measure_disk(&self) -> Result<Vec<DiskUse>, Error> {
        let facts = self.facts().await?;
        let options = ListContainersOptions {
            all: true,
            size: true,
            filters: Some(labels::filter(&self.config.instance)),
            ..ListContainersOptions::default()
        };
        // The engine walks the layers as well, so this is no ordinary call.
        let limit = self.config.start_timeout;
        let containers = self
            .client
            .run_within("measure containers", limit, |docker| async move {
                states::in_dockers_words(docker.list_containers(Some(options)).await)
            })
            .await?;
        let filters = labels::filter(&self.config.instance);
        let options = ListVolumesOptions {
            filters: Some(filters),
        };
        let volumes = self
            .client
            .run("list volumes", |docker| async move {
                docker.list_volumes(Some(options)).await
            })
            .await?;
        let log = match facts.log {
            LogDriver::JsonFile => {
                self.config.log_max_bytes * u64::from(self.config.log_max_files.max(1))
            }
            LogDriver::K8sFile => self.config.log_max_bytes,
            LogDriver::EngineDefault => 0,
        };
        let mut counts = BTreeMap::<AppId, Count>::new();
        let mut trees: Vec<(AppId, PathBuf)> = Vec::new();
        for container in containers {
            let Some(app) = self.owner_of(&container) else {
                continue;
            };
            let count = counts.entry(app.clone()).or_default();
            let layer = container.size_rw.unwrap_or_default();
            count.layers += u64::try_from(layer).unwrap_or_default();
            count.logs += log;
            trees.extend(anonymous(&container).map(|path| (app.clone(), path)));
        }
        for volume in volumes.volumes.unwrap_or_default() {
            if let Some((app, _)) = labels::kept_for(&volume.labels)
                && folders::device(&volume.options).is_none()
            {
                trees.push((app, volume.mountpoint.into()));
            }
        }
        for volume in folders::list(&self.config) {
            let folder = folders::of(&self.config, &volume.app, volume.since);
            trees.push((volume.app, folder));
        }
        let stop = Arc::new(AtomicBool::new(false));
        // Stops the walk however this future ends.
        let _guard = StopOnDrop(stop.clone());
        let counted = tokio::task::spawn_blocking(move || {
            for (app, path) in trees {
                counts.entry(app).or_default().files.add(&path, &stop);
            }
            counts
        });
        let counts = counted.await.map_err(|cause| Error::Refused {
            call: "measure the disk use of apps",
            status: 0,
            message: cause.to_string(),
        })?;
        let uses = counts.into_iter().map(|(app, count)| DiskUse {
            app,
            bytes: count.layers.saturating_add(count.files.bytes),
            logs: count.logs,
            inodes: count.files.inodes,
            partial: count.files.partial,
        });
        Ok(uses.collect())
    }

    /// The app that runs in a container, where its labels are proved.
    fn owner_of(&self, container: &ContainerSummary) -> Option<AppId> {
        let names = container.names.as_deref().unwrap_or_default();
        match labels::origin(&self.config, names, container.labels.as_ref()?) {
            // A holder writes nothing.
            Origin::Ours(claims) if claims.role == Some(Role::Replica) => {
                claims.owner.map(|owner| owner.app)
            }
            Origin::Ours(_) => None,
            Origin::Unsealed | Origin::OtherSeal | Origin::Unproven => None,
        }
    }
}

/// The folders of a container's anonymous volumes: those whose names the engine chose.
pub(super) fn anonymous(container: &ContainerSummary) -> impl Iterator<Item = PathBuf> {
    let mounts = container.mounts.iter().flatten();
    let by_engine = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    mounts.filter_map(move |mount| {
        let is_one =
            mount.typ.as_deref() == Some("volume") && mount.name.as_deref().is_some_and(by_engine);
        is_one.then(|| mount.source.as_ref().map(PathBuf::from))?
    })
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
