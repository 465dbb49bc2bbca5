//! The disk space that the containers and volumes of apps use.
//!
//! The engine reports the size of the containers' writable layers. Volumes are counted here where
//! they are readable: those in the data directory, and the engine's own when this process may read
//! its directory. A log counts with the most that it may use.
//!
//! Files that apps wrote are not trusted: a tree is walked by descriptors, no link is followed, and
//! depth and number are bounded. Whatever is beyond these bounds or unreadable does not count, and
//! the figure is marked as too small.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, ListVolumesOptions},
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

use super::{
    Docker, Error, folders,
    info::LogDriver,
    labels::{self, Origin, Role},
};
use crate::{engine::DiskUse, model::AppId};

/// Most files and folders of one app that one measurement counts: a second or two of one core.
const MAX_ENTRIES: u64 = 1_000_000;
/// Most levels of folders; each holds a descriptor while its content is counted.
const MAX_DEPTH: usize = 128;
/// The unit in which the kernel reports a file's disk space.
const BLOCK: u64 = 512;

/// The count of one app.
#[derive(Debug, Default)]
struct Count {
    bytes: u64,
    logs: u64,
    inodes: u64,
    /// Whether something was left out.
    partial: bool,
    /// Files with several names, by device and inode.
    seen: HashSet<(u64, u64)>,
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
                docker.list_containers(Some(options)).await
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
            count.bytes += u64::try_from(layer).unwrap_or_default();
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
                counts.entry(app).or_default().add(&path, &stop);
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
            bytes: count.bytes,
            logs: count.logs,
            inodes: count.inodes,
            partial: count.partial,
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
fn anonymous(container: &ContainerSummary) -> impl Iterator<Item = PathBuf> {
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

impl Count {
    /// Adds the content of a folder; a missing folder counts as empty.
    fn add(&mut self, folder: &Path, stop: &AtomicBool) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open(folder, flags, Mode::empty()) {
            Ok(fd) => self.add_all(fd, 0, stop),
            Err(e) if io::Error::from(e).kind() == io::ErrorKind::NotFound => {}
            Err(_) => self.partial = true,
        }
    }

    fn add_all(&mut self, fd: OwnedFd, depth: usize, stop: &AtomicBool) {
        let Ok(entries) = Dir::read_from(fd.as_fd()) else {
            self.partial = true;
            return;
        };
        for entry in entries {
            if self.inodes >= MAX_ENTRIES || stop.load(Ordering::Relaxed) {
                self.partial = true;
                return;
            }
            let Ok(entry) = entry else {
                self.partial = true;
                return;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                // The entry was removed meanwhile, or may not be read.
                continue;
            };
            if stat.st_nlink > 1
                && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
                && !self.seen.insert((stat.st_dev, stat.st_ino))
            {
                continue;
            }
            self.inodes += 1;
            let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
            self.bytes = self.bytes.saturating_add(blocks.saturating_mul(BLOCK));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&fd, name, flags, Mode::empty()) {
                    Ok(inner) if depth < MAX_DEPTH => self.add_all(inner, depth + 1, stop),
                    Err(e) if io::Error::from(e).kind() == io::ErrorKind::NotFound => {}
                    _ => self.partial = true,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn count(folder: &Path) -> Count {
        let mut count = Count::default();
        count.add(folder, &AtomicBool::new(false));
        count
    }

    #[test]
    fn a_tree_is_counted_once_and_no_link_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).expect("written");
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).expect("made");
        fs::write(inner.join("file"), vec![1; 64 << 10]).expect("written");
        fs::hard_link(inner.join("file"), dir.path().join("again")).expect("linked");
        symlink(outside.path(), dir.path().join("out")).expect("linked");
        symlink("/", inner.join("root")).expect("linked");
        let found = count(dir.path());
        // a, b, the file, two links.
        assert_eq!((found.inodes, found.partial), (5, false), "{found:?}");
        let (least, most) = (64 << 10, 256 << 10);
        assert!((least..most).contains(&found.bytes), "{found:?}");
        assert_eq!(count(&dir.path().join("gone")).inodes, 0);
        // An app may have replaced the folder itself by a link.
        assert!(count(&dir.path().join("out")).partial);
    }

    #[test]
    fn depth_is_bounded_and_a_stop_is_heard() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = "d/".repeat(MAX_DEPTH + 10);
        fs::create_dir_all(dir.path().join(deep)).expect("made");
        let found = count(dir.path());
        assert!(found.partial, "{found:?}");
        assert_eq!(found.inodes, MAX_DEPTH as u64 + 1);
        let mut stopped = Count::default();
        stopped.add(dir.path(), &AtomicBool::new(true));
        assert_eq!((stopped.inodes, stopped.partial), (0, true));
    }
}
