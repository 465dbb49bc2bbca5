//! One sled database on disk: opened with care, and written so that it survives a power cut.
//!
//! How sled handles damage was measured. With a good snapshot it detects a damaged log, when it
//! opens or when it reads. Without one it treats the readable part of the log as the whole
//! database, even when nothing is readable. So a snapshot is set aside only when the snapshot
//! itself is damaged, and a database without its format row is refused instead of created anew.

use std::{
    cell::Cell,
    collections::HashSet,
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    Error,
    undo::rows::{self as undo_rows, Rows},
};

/// The key of the row with the format version, the same in every database.
pub(super) const FORMAT_KEY: &[u8] = b"\x01format";
/// Rows per batch while a database is rewritten.
const COPY_BATCH: usize = 1000;
/// How often, and at which interval, opening a database that was just closed is retried.
const CLOSING_ATTEMPTS: u32 = 400;
const CLOSING_WAIT: Duration = Duration::from_millis(5);
/// The folder where sled puts values too long for its log, each in a file.
const BLOBS: &str = "blobs";
/// Marks a database that is being created: while it exists, a missing format row is no damage.
const MAKING: &str = "making";
/// Prefixes of sled's snapshots and of those that were set aside.
const SNAPSHOT: &str = "snap.";
const ASIDE: &str = "damaged-snap.";
/// Suffixes of the folders that replace a database or are replaced.
const FRESH: &str = "fresh";
const REPLACED: &str = "replaced";

/// An open database.
pub(super) struct Database {
    pub(super) tree: sled::Db,
    /// A descriptor of sled's log, for fsync: sled's flush does not fsync on Linux.
    log: File,
    /// The folder of long values.
    blobs: PathBuf,
    /// The format of the records found, or of those to be written to a new database.
    pub(super) format: u32,
    /// The files of long values that are already on disk.
    synced: Mutex<HashSet<OsString>>,
}

impl Database {
    /// Opens or creates the database in `path`, whose records have the given format.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the cause, [`Error::Newer`] when a newer binary wrote it.
    pub(super) fn open(path: &Path, format: u32, cache_bytes: u64) -> Result<Self, Error> {
        let corrupt = |cause: String| Error::Corrupt {
            path: path.display().to_string(),
            cause,
        };
        let io = |e: io::Error| corrupt(e.to_string());
        recover_rewrite(path).map_err(io)?;
        private_folder(path).map_err(io)?;
        let is_new = begin(path).map_err(io)?;
        let aside = set_damaged_snapshots_aside(path).map_err(io)?;
        if !aside.is_empty() {
            tracing::warn!(path = %path.display(), ?aside, "A snapshot of the database is damaged; sled makes it again from the log");
        }
        let tree = open_tree(path, cache_bytes).map_err(corrupt)?;
        let log = File::open(path.join("db")).map_err(io)?;
        let mut database = Self {
            tree,
            log,
            format,
            blobs: path.join(BLOBS),
            synced: Mutex::default(),
        };
        match guarded(|| database.tree.get(FORMAT_KEY).map_err(|e| e.to_string()))
            .map_err(corrupt)?
        {
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
                database.format = found;
            }
            None if is_new => {
                let mut batch = sled::Batch::default();
                batch.insert(FORMAT_KEY, &format.to_be_bytes());
                database.commit(batch).map_err(corrupt)?;
            }
            None => {
                return Err(corrupt(
                    "its file `db` is damaged: the format row is not in it".into(),
                ));
            }
        }
        if is_new {
            fs::remove_file(path.join(MAKING)).map_err(io)?;
            sync_folder(path).map_err(io)?;
        }
        if guarded(|| finish_undo(&database, path).map_err(|e| e.to_string())).map_err(corrupt)? {
            tracing::info!(path = %path.display(), "The last change was refused and is undone");
        }
        Ok(database)
    }

    /// Copies everything in the database in `path` to a fresh one, which replaces it.
    ///
    /// A crash leaves either the old or the new one: see [`recover_rewrite`].
    pub(super) fn rewrite(path: &Path, format: u32, cache_bytes: u64) -> Result<(), String> {
        let text = |e: io::Error| e.to_string();
        let (fresh, replaced) = (beside(path, FRESH), beside(path, REPLACED));
        {
            let from = Self::open(path, format, cache_bytes).map_err(|e| e.to_string())?;
            let to = Self::open(&fresh, format, cache_bytes).map_err(|e| e.to_string())?;
            guarded(|| from.copy_to(&to))?;
        }
        sync_folder(&fresh).map_err(text)?;
        fs::rename(path, &replaced).map_err(text)?;
        fs::rename(&fresh, path).map_err(text)?;
        sync_folder(parent(path)).map_err(text)?;
        fs::remove_dir_all(replaced).map_err(text)
    }

    fn copy_to(&self, to: &Self) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (n, row) in self.tree.iter().enumerate() {
            let (key, value) = row.map_err(|e| e.to_string())?;
            batch.insert(key, value);
            if (n + 1) % COPY_BATCH == 0 {
                let full = std::mem::take(&mut batch);
                to.tree.apply_batch(full).map_err(|e| e.to_string())?;
            }
        }
        to.commit(batch)
    }

    /// Writes a batch atomically and returns once it is on disk.
    pub(super) fn commit(&self, batch: sled::Batch) -> Result<(), String> {
        self.tree.apply_batch(batch).map_err(|e| e.to_string())?;
        self.flush()
    }

    /// Returns once everything that was applied is on disk.
    pub(super) fn flush(&self) -> Result<(), String> {
        self.sync().map_err(|e| e.to_string())
    }

    /// Applies rows atomically, also for whoever opens the database later; they are not on disk
    /// yet.
    pub(super) fn apply(&self, rows: &Rows) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        self.tree.apply_batch(batch).map_err(io_error)
    }

    /// As [`Database::flush`].
    pub(super) fn sync(&self) -> io::Result<()> {
        // Listed first: after sled's flush these files are whole. Files that appear in between are
        // synced the next time.
        let blobs = self.blobs()?;
        self.tree.flush().map_err(io_error)?;
        self.sync_blobs(blobs)?;
        self.log.sync_data()
    }

    /// The names of the files of long values.
    pub(super) fn blobs(&self) -> io::Result<HashSet<OsString>> {
        match fs::read_dir(&self.blobs) {
            Ok(entries) => entries.map(|e| e.map(|e| e.file_name())).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(e) => Err(e),
        }
    }

    /// sled leaves it to the operating system when long values reach the disk.
    fn sync_blobs(&self, blobs: HashSet<OsString>) -> io::Result<()> {
        let mut synced = self.synced.lock();
        for name in blobs.difference(&synced) {
            match File::open(self.blobs.join(name)).and_then(|blob| blob.sync_all()) {
                // Replaced by a newer file since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        if !blobs.is_subset(&synced) {
            sync_folder(&self.blobs)?;
        }
        *synced = blobs;
        Ok(())
    }
}

/// The operating system's error inside sled's, if there is one.
pub(super) fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

/// Makes a folder that only its owner can read: records hold environments and payloads.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Makes the entries created or renamed in a folder survive a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Runs work that reads sled's files. sled asserts some of their content, so damage can panic; this
/// turns the panic into an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    thread_local!(static GUARDED: Cell<bool> = const { Cell::new(false) });
    static QUIET: Once = Once::new();
    // The caller reports the damage; a backtrace beside it would only alarm.
    QUIET.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                loud(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    outcome.unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no more is known");
        Err(format!("its files contradict each other ({said})"))
    })
}

/// Whether `path` has a database, or a crash left one beside it.
pub(super) fn is_there(path: &Path) -> bool {
    path.exists() || beside(path, REPLACED).exists()
}

/// Whether a file of a database's folder is a snapshot that was set aside.
pub(super) fn is_aside(name: &str) -> bool {
    name.starts_with(ASIDE)
}

fn open_tree(path: &Path, cache_bytes: u64) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes)
        // The committers flush; a timer beside them would only add writes.
        .flush_every_ms(None);
    // sled's threads release a database a little after it was closed, and a segment may be opened
    // again at once. The data directory's lock keeps other processes out.
    for _ in 0..CLOSING_ATTEMPTS {
        match guarded(|| config.open().map_err(|e| e.to_string())) {
            Err(cause) if cause.contains("could not acquire lock") => {
                std::thread::sleep(CLOSING_WAIT);
            }
            outcome => return outcome,
        }
    }
    Err("it is still open; stop ignite and start it again".to_owned())
}

/// Completes or undoes a rewrite that a crash cut short: an old database without a successor moves
/// back to its path, and all other leftovers beside it are removed.
fn recover_rewrite(path: &Path) -> io::Result<()> {
    let (fresh, replaced) = (beside(path, FRESH), beside(path, REPLACED));
    if replaced.exists() {
        if path.exists() {
            fs::remove_dir_all(replaced)?;
        } else {
            fs::rename(replaced, path)?;
            sync_folder(parent(path))?;
        }
    }
    match fs::remove_dir_all(fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Undoes the change that the last run could not finish; returns whether there was one.
fn finish_undo(database: &Database, path: &Path) -> io::Result<bool> {
    let before = undo_rows::pending(path)?;
    if before.is_empty() {
        return Ok(false);
    }
    database.apply(&before)?;
    database.sync()?;
    undo_rows::clear(path)?;
    Ok(true)
}

/// Returns whether the database is new; the mark stays until it is complete. A database that has
/// lost its main file is not new, though sled would start it empty.
fn begin(path: &Path) -> io::Result<bool> {
    let there = |name: &str| path.join(name).exists();
    if there(MAKING) {
        return Ok(true);
    }
    if there("db") {
        return Ok(false);
    }
    if there("conf") {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "its file `db` is missing",
        ));
    }
    fs::write(path.join(MAKING), b"")?;
    sync_folder(path)?;
    Ok(true)
}

/// Hides sled's snapshots by renaming them when the newest, which sled would read, is damaged;
/// returns their new names. The log has everything that is in them.
fn set_damaged_snapshots_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(SNAPSHOT) && !name.ends_with(".generating") {
            names.push(name);
        }
    }
    let Some(newest) = names.iter().max() else {
        return Ok(Vec::new());
    };
    if is_whole_snapshot(&fs::read(path.join(newest))?) {
        return Ok(Vec::new());
    }
    let aside = |name: String| {
        let to = path.join(name.replacen(SNAPSHOT, ASIDE, 1));
        fs::rename(path.join(name), &to).map(|()| to)
    };
    names.into_iter().map(aside).collect()
}

/// A snapshot ends with its length before compression (u64) and its CRC-32, both little-endian.
fn is_whole_snapshot(content: &[u8]) -> bool {
    let Some((rest, crc)) = content.split_last_chunk::<4>() else {
        return false;
    };
    let Some((body, _)) = rest.split_last_chunk::<8>() else {
        return false;
    };
    !body.is_empty() && crc32fast::hash(body) == u32::from_le_bytes(*crc)
}

/// The path beside a folder, such as `store.fresh` for `store`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests;
