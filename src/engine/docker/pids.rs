//! How often a container was refused another process, read from its cgroup.
//!
//! The engine has no call for that. Where its cgroups are visible from here, the kernel keeps the
//! count in a file, which is found once per container; elsewhere the count is unknown.

use std::{
    fs,
    path::{Path, PathBuf},
};

use moka::sync::Cache;

use super::{ContainerId, freezer::own_path};

/// Most containers whose files are remembered: more than one machine runs.
const KEPT: u64 = 4096;

/// The files with the counts, and the counts last read.
#[derive(Debug)]
pub(super) struct PidsFiles {
    /// The file of each container; `None` where it is not visible.
    files: Cache<ContainerId, Option<PathBuf>>,
    /// The last count, which outlives the container's cgroup.
    last: Cache<ContainerId, u64>,
}

impl PidsFiles {
    pub(super) fn new() -> Self {
        Self {
            files: Cache::new(KEPT),
            last: Cache::new(KEPT),
        }
    }

    /// The count of a container once [`Self::find`] has found its file, or the last count after the
    /// container has ended; `None` before.
    pub(super) fn known(&self, id: &ContainerId) -> Option<Option<u64>> {
        let file = self.files.get(id)?;
        Some(file.and_then(|file| self.read(id, &file)))
    }

    fn read(&self, id: &ContainerId, file: &Path) -> Option<u64> {
        let Some(now) = count(file) else {
            return self.last.get(id);
        };
        if now > 0 {
            self.last.insert(id.clone(), now);
        }
        Some(now)
    }

    /// Finds the file of a container by its first process `pid`, and reads the count.
    pub(super) fn find(&self, id: &ContainerId, pid: i64) -> Option<u64> {
        let table = (pid > 1)
            .then(|| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok())
            .flatten();
        let file = table
            .and_then(|table| parse(id, &table, Path::new("/sys/fs/cgroup")))
            .filter(|file| file.exists());
        self.files.insert(id.clone(), file.clone());
        file.and_then(|file| self.read(id, &file))
    }
}

/// The file of a container, from the lines of `/proc/<pid>/cgroup`: `number:controllers:path`.
fn parse(id: &ContainerId, table: &str, root: &Path) -> Option<PathBuf> {
    let mut found = None;
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let Some(own) = own_path(id, path) else {
            continue;
        };
        let below = own.trim_start_matches('/');
        if controllers.split(',').any(|c| c == "pids") {
            return Some(root.join("pids").join(below).join("pids.events"));
        }
        if controllers.is_empty() {
            found = Some(root.join(below).join("pids.events"));
        }
    }
    found
}

/// The number after `max` in a `pids.events`.
fn count(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("max "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_that_of_the_container_in_both_versions_of_cgroups() {
        let (id, root) = (ContainerId("abc".into()), Path::new("/r"));
        let find = |table: &str| parse(&id, table, root);
        let v1 = "9:freezer:/docker/abc\n8:pids:/docker/abc\n1:name=systemd:/docker/abc\n";
        assert_eq!(find(v1), Some("/r/pids/docker/abc/pids.events".into()));
        let v2 = "0::/system.slice/docker-abc.scope\n";
        assert_eq!(
            find(v2),
            Some("/r/system.slice/docker-abc.scope/pids.events".into())
        );
        for other in [
            "0::/docker/abcd",
            "8:pids:/docker/../abc",
            "0::/",
            "nonsense",
        ] {
            assert_eq!(find(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_count_outlives_the_cgroup() {
        let dir = tempfile::tempdir().expect("a directory");
        let (id, file) = (ContainerId("abc".into()), dir.path().join("pids.events"));
        let files = PidsFiles::new();
        assert_eq!(files.known(&id), None);
        files.files.insert(id.clone(), Some(file.clone()));
        for (written, known) in [("max 0", 0), ("max 2", 2)] {
            std::fs::write(&file, written).expect("written");
            assert_eq!(files.known(&id), Some(Some(known)));
        }
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(files.known(&id), Some(Some(2)));
    }

    #[test]
    fn the_count_is_the_kernels() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pids.events");
        assert_eq!(count(&file), None);
        std::fs::write(&file, "max 7\n").expect("written");
        assert_eq!(count(&file), Some(7));
    }
}
