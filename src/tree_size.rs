//! The disk space that a folder's content takes.
//!
//! Files that apps wrote are not trusted: a tree is walked by descriptors, no link is followed, and
//! depth and number are bounded. Whatever is beyond these bounds or unreadable does not count, and
//! the figure is marked as too small.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

/// Most files and folders that one measurement counts: a second or two of one core.
const MAX_ENTRIES: u64 = 1_000_000;
/// Most levels of folders; each holds a descriptor while its content is counted.
const MAX_DEPTH: usize = 128;
/// The unit in which the kernel reports a file's disk space.
const BLOCK: u64 = 512;

/// What one or more trees take together.
#[derive(Debug, Default)]
pub struct TreeSize {
    /// Bytes of the blocks on the disk.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
    /// Whether something was left out.
    pub partial: bool,
    /// Files with several names, by device and inode.
    seen: HashSet<(u64, u64)>,
}

impl TreeSize {
    /// Adds the content of a folder; a missing folder counts as empty. A walk ends early once `stop`
    /// is set.
    pub fn add(&mut self, folder: &Path, stop: &AtomicBool) {
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

    fn count(folder: &Path) -> TreeSize {
        let mut count = TreeSize::default();
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
        let mut stopped = TreeSize::default();
        stopped.add(dir.path(), &AtomicBool::new(true));
        assert_eq!((stopped.inodes, stopped.partial), (0, true));
    }
}
