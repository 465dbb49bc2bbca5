//! The segments of the executions: each is a database and a folder of large bodies for one span of
//! time, dropped whole when everything in it is old.
//!
//! The time in an id alone determines the segment: the newest one that does not start after it. A
//! segment is opened on demand and closed when idle, so that a long history costs no memory.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::{
    super::{
        Error,
        db::{Database, private_folder, sync_folder},
    },
    rows,
    stored::{self, Counts},
};
use crate::model::{ExecutionId, Failure, Reason};

/// Page cache of one segment in bytes: enough for the rows that are being written.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Marks a segment in which everything has ended, so that a start need not read it.
const SEALED: &str = "sealed";
/// Prefixes of the folders that replace, are replaced, or are being removed.
const FRESH: &str = "fresh-";
const REPLACED: &str = "replaced-";
const REMOVED: &str = "removed-";
/// No segment starts at this time.
const NONE: u64 = u64::MAX;

/// One segment.
pub(super) struct Segment {
    /// The first millisecond that belongs to it.
    pub(super) start_ms: u64,
    folder: PathBuf,
    database: Mutex<Option<Arc<Database>>>,
    used: Mutex<Instant>,
    /// The number of unfinished executions, an [`Unended`] each.
    unended: AtomicUsize,
    /// Executions accepted into it, as far as this run knows.
    pub(super) accepted: AtomicU64,
    /// Bytes that each organization has in it.
    pub(super) stored: Mutex<Counts>,
    /// Held while the segment, having received its last execution, is sealed, replaced or dropped;
    /// and while executions return to it, as when the clock is set back.
    turn: Mutex<()>,
}

impl Segment {
    fn new(folder: PathBuf, start_ms: u64) -> Self {
        Self {
            start_ms,
            folder,
            database: Mutex::new(None),
            used: Mutex::new(Instant::now()),
            unended: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            stored: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Counts one more unfinished execution.
    pub(super) fn begin(self: &Arc<Self>) -> Unended {
        self.unended.fetch_add(1, Ordering::Relaxed);
        Unended(self.clone())
    }

    /// Whether it has unfinished executions.
    pub(super) fn is_live(&self) -> bool {
        self.unended.load(Ordering::Relaxed) > 0
    }

    /// The database, opened if necessary. Blocks for that long.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(super) fn open(&self) -> Result<Arc<Database>, Error> {
        *self.used.lock() = Instant::now();
        let mut slot = self.database.lock();
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let opened = Arc::new(Database::open(&self.rows(), rows::FORMAT, CACHE_BYTES)?);
        *slot = Some(opened.clone());
        Ok(opened)
    }

    /// As [`Segment::open`], for work on behalf of a request.
    pub(super) fn database(&self) -> Result<Arc<Database>, Failure> {
        self.open().map_err(|e| {
            tracing::error!(error = %e, "A segment of the executions cannot be opened");
            Failure::new(
                Reason::StoreUnavailable,
                format!("a part of the executions cannot be read ({e}); run `ignite store check`"),
            )
        })
    }

    /// When the last execution of the segment was accepted, in Unix milliseconds; `None` when it is
    /// empty. Reads the database only, not the journal.
    ///
    /// # Errors
    /// Why the database cannot be read.
    pub(super) fn newest_ms(&self) -> Result<Option<u64>, String> {
        let database = self.open().map_err(|e| e.to_string())?;
        let mut requests = database.tree.scan_prefix([rows::REQUESTS]).keys();
        let last = requests.next_back().transpose();
        let last = last.map_err(|e| e.to_string())?;
        Ok(last
            .and_then(|key| rows::id_of(&key))
            .map(|id| id.0.timestamp_ms()))
    }

    /// Closes the database if it was not used for `idle`.
    pub(super) fn close_if_idle(&self, idle: Duration) {
        let mut slot = self.database.lock();
        if self.used.lock().elapsed() >= idle
            && slot.as_ref().is_some_and(|db| Arc::strong_count(db) == 1)
        {
            *slot = None;
        }
    }

    /// The folder of the database.
    pub(super) fn rows(&self) -> PathBuf {
        self.folder.join("rows")
    }

    /// The folder of large bodies.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Whether it is marked as one in which everything has ended.
    pub(super) fn is_sealed(&self) -> bool {
        self.folder.join(SEALED).exists()
    }

    /// The bytes of each organization when it was sealed, if its mark has them.
    pub(super) fn sealed_counts(&self) -> Option<Counts> {
        stored::from_text(&fs::read_to_string(self.folder.join(SEALED)).ok()?)
    }

    fn unseal(&self) -> io::Result<()> {
        match fs::remove_file(self.folder.join(SEALED)) {
            Ok(()) => sync_folder(&self.folder),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Counts an unfinished execution in its segment until dropped.
pub(super) struct Unended(Arc<Segment>);

impl Drop for Unended {
    fn drop(&mut self) {
        self.0.unended.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All segments of a data directory.
pub(super) struct Segments {
    folder: PathBuf,
    by_start: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// The start of the segment that new executions join; set by the first of this run.
    current: AtomicU64,
}

impl Segments {
    /// Lists the segments, after tidying up any replacement or removal that a crash cut short.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        private_folder(&folder)?;
        let names: Vec<String> = fs::read_dir(&folder)?
            .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()?;
        for name in &names {
            if let Some(start) = name.strip_prefix(REPLACED)
                && !names.iter().any(|n| n == start)
            {
                // The crash fell between the two renames: the old segment is whole.
                fs::rename(folder.join(name), folder.join(start))?;
            } else if [FRESH, REPLACED, REMOVED]
                .iter()
                .any(|p| name.starts_with(p))
            {
                fs::remove_dir_all(folder.join(name))?;
            }
        }
        let mut by_start = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if let Ok(start) = entry.file_name().to_string_lossy().parse::<u64>() {
                by_start.insert(start, Arc::new(Segment::new(entry.path(), start)));
            }
        }
        Ok(Self {
            folder,
            by_start: RwLock::new(by_start),
            current: AtomicU64::new(NONE),
        })
    }

    /// The start of the segment that new executions join, once this run has accepted some.
    pub(super) fn current(&self) -> Option<u64> {
        Some(self.current.load(Ordering::Relaxed)).filter(|start| *start != NONE)
    }

    /// Makes the segment of a time the one that new executions join. It may have been left and
    /// sealed before, so it is unsealed: the next start must read it.
    ///
    /// # Errors
    /// The seal cannot be removed; then nothing may join the segment.
    pub(super) fn come_to(&self, ms: u64) -> io::Result<Option<Arc<Segment>>> {
        while let Some(segment) = self.at(ms) {
            if self.current() == Some(segment.start_ms) {
                return Ok(Some(segment));
            }
            let turn = segment.turn.lock();
            // It may have been replaced or dropped in the meantime.
            if self.at(ms).is_some_and(|now| Arc::ptr_eq(&now, &segment)) {
                segment.unseal()?;
                self.current.store(segment.start_ms, Ordering::Relaxed);
                drop(turn);
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Whether everything in a segment has ended and no execution joins it, at this moment.
    pub(super) fn is_left(&self, segment: &Segment) -> bool {
        !self.takes_more(segment) && !segment.is_live()
    }

    /// Runs `work` if no execution has joined the segment since `accepted` was read and none can;
    /// returns `None` otherwise. None joins it while `work` runs.
    pub(super) fn while_left<T>(
        &self,
        segment: &Segment,
        accepted: u64,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let _turn = segment.turn.lock();
        let same = segment.accepted.load(Ordering::Relaxed) == accepted;
        (same && self.is_left(segment)).then(work)
    }

    /// Marks a segment in which everything has ended, with its bytes by organization. Call it
    /// within [`Segments::while_left`].
    pub(super) fn seal(segment: &Segment) -> io::Result<()> {
        let counts = stored::to_text(&segment.stored.lock());
        fs::write(segment.folder.join(SEALED), counts)
    }

    /// Whether executions may still join a segment: it is the newest, or the current one while the
    /// newest was begun by a clock that ran ahead.
    pub(super) fn takes_more(&self, segment: &Segment) -> bool {
        self.end_ms(segment).is_none() || self.current() == Some(segment.start_ms)
    }

    /// The segment of an id.
    pub(super) fn of(&self, id: ExecutionId) -> Option<Arc<Segment>> {
        self.at(id.0.timestamp_ms())
    }

    /// The segment of a time.
    pub(super) fn at(&self, ms: u64) -> Option<Arc<Segment>> {
        let all = self.by_start.read();
        let (_, segment) = all.range(..=ms).next_back()?;
        Some(segment.clone())
    }

    /// The segment that starts at a time.
    pub(super) fn starting_at(&self, start_ms: u64) -> Option<Arc<Segment>> {
        self.by_start.read().get(&start_ms).cloned()
    }

    /// Every segment, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.by_start.read().values().cloned().collect()
    }

    /// The end of a segment's span: the start of the next one.
    pub(super) fn end_ms(&self, segment: &Segment) -> Option<u64> {
        let all = self.by_start.read();
        all.range(segment.start_ms + 1..)
            .next()
            .map(|(start, _)| *start)
    }

    /// Creates a segment that starts at a time.
    pub(super) fn create(&self, start_ms: u64) -> Result<Arc<Segment>, Error> {
        let folder = self.folder.join(start_ms.to_string());
        let segment = Arc::new(Segment::new(folder, start_ms));
        let io = |e: io::Error| Error::Corrupt {
            path: segment.folder.display().to_string(),
            cause: e.to_string(),
        };
        private_folder(&segment.files()).map_err(io)?;
        segment.open()?;
        sync_folder(&segment.folder).map_err(io)?;
        sync_folder(&self.folder).map_err(io)?;
        self.by_start.write().insert(start_ms, segment.clone());
        Ok(segment)
    }

    /// Removes a segment from the list and from the disk. Readers that hold it finish first.
    ///
    /// # Errors
    /// Also when executions have joined it again.
    pub(super) fn remove(&self, segment: &Segment) -> io::Result<()> {
        let _turn = segment.turn.lock();
        if segment.is_live() {
            return Err(io::Error::other("executions have joined it meanwhile"));
        }
        let away = self.folder.join(format!("{REMOVED}{}", segment.start_ms));
        fs::rename(&segment.folder, &away)?;
        self.by_start.write().remove(&segment.start_ms);
        sync_folder(&self.folder)?;
        fs::remove_dir_all(away)
    }

    /// Replaces a segment by a fresh database and folder of files, which `fill` writes; `fill`
    /// returns their bytes by organization. `sealed` says that everything in the segment has ended
    /// and that it is not the newest.
    pub(super) fn replace(
        &self,
        segment: &Segment,
        sealed: bool,
        fill: impl FnOnce(&Database, &Path) -> Result<Counts, String>,
    ) -> Result<(), String> {
        let text = |e: io::Error| e.to_string();
        let fresh = self.folder.join(format!("{FRESH}{}", segment.start_ms));
        let replaced = self.folder.join(format!("{REPLACED}{}", segment.start_ms));
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(text)?;
        }
        private_folder(&fresh.join("files")).map_err(text)?;
        let counts = {
            let database = Database::open(&fresh.join("rows"), rows::FORMAT, CACHE_BYTES)
                .map_err(|e| e.to_string())?;
            fill(&database, &fresh.join("files"))?
        };
        sync_folder(&fresh.join("files")).map_err(text)?;
        if sealed {
            fs::write(fresh.join(SEALED), stored::to_text(&counts)).map_err(text)?;
        }
        sync_folder(&fresh).map_err(text)?;
        fs::rename(&segment.folder, &replaced).map_err(text)?;
        fs::rename(&fresh, &segment.folder).map_err(text)?;
        sync_folder(&self.folder).map_err(text)?;
        let next = Segment::new(segment.folder.clone(), segment.start_ms);
        *next.stored.lock() = counts;
        next.accepted
            .store(segment.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
        self.by_start
            .write()
            .insert(segment.start_ms, Arc::new(next));
        fs::remove_dir_all(replaced).map_err(text)
    }
}
