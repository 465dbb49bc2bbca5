//! One sled database on disk: opened with care, written so that it survives a power cut.

use std::{
    fs::{DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use super::Error;

/// The row with the format version, the same in every database.
pub(super) const FORMAT_KEY: &[u8] = b"\x01format";

/// An open database.
pub(super) struct Database {
    pub(super) tree: sled::Db,
    /// A descriptor of sled's log: its flush is no fsync on Linux, so that is done here.
    log: File,
}

impl Database {
    /// Opens or makes the database in `path`, whose records have the given format.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the cause, [`Error::Newer`] when a newer binary wrote it.
    pub(super) fn open(path: &Path, format: u32, cache_bytes: u64) -> Result<Self, Error> {
        let corrupt = |cause: String| Error::Corrupt {
            path: path.display().to_string(),
            cause,
        };
        private_folder(path).map_err(|e| corrupt(e.to_string()))?;
        let tree = open_tree(path, cache_bytes)
            .or_else(|cause| match set_snapshots_aside(path) {
                // A snapshot that an abrupt stop left half written can be made again from the log.
                Ok(aside) if !aside.is_empty() && !is_lock(&cause) => {
                    tracing::warn!(path = %path.display(), %cause, ?aside, "The database does not open; trying without its snapshot");
                    open_tree(path, cache_bytes)
                }
                _ => Err(cause),
            })
            .map_err(corrupt)?;
        match tree.get(FORMAT_KEY).map_err(|e| corrupt(e.to_string()))? {
            Some(row) => {
                let found = row
                    .as_ref()
                    .try_into()
                    .map(u32::from_be_bytes)
                    .map_err(|_| corrupt("the format row is damaged".into()))?;
                if found > format {
                    return Err(Error::Newer {
                        path: path.display().to_string(),
                        found,
                        known: format,
                    });
                }
            }
            None => {
                tree.insert(FORMAT_KEY, &format.to_be_bytes())
                    .and_then(|_| tree.flush())
                    .map_err(|e| corrupt(e.to_string()))?;
            }
        }
        let log = File::open(path.join("db")).map_err(|e| corrupt(e.to_string()))?;
        Ok(Self { tree, log })
    }

    /// Writes a batch whole or not at all, and returns once it is on disk.
    pub(super) fn commit(&self, batch: sled::Batch) -> Result<(), String> {
        self.tree.apply_batch(batch).map_err(|e| e.to_string())?;
        self.flush()
    }

    /// Returns once everything that was applied is on disk.
    pub(super) fn flush(&self) -> Result<(), String> {
        self.tree.flush().map_err(|e| e.to_string())?;
        self.log.sync_data().map_err(|e| e.to_string())
    }
}

/// Makes a folder that only its owner can look into: records hold environments and payloads.
pub(super) fn private_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Makes what was created or renamed in a folder survive a power cut.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn open_tree(path: &Path, cache_bytes: u64) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes)
        // The committers flush; a timer beside them would only add writes.
        .flush_every_ms(None);
    // sled asserts some of what it reads; damage must end in words, not in a crash.
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|e| e.to_string()),
        Err(_) => Err("sled found its files inconsistent".to_owned()),
    }
}

fn is_lock(cause: &str) -> bool {
    cause.contains("lock")
}

/// Renames sled's snapshots so that it does not see them; their names.
fn set_snapshots_aside(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("snap.") {
            let to = path.join(format!("damaged-{}", name.to_string_lossy()));
            std::fs::rename(entry.path(), &to)?;
            aside.push(to);
        }
    }
    Ok(aside)
}
