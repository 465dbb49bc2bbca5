//! Asynchronous executions on disk: an execution is accepted only once it is durable, and then
//! never lost.
//!
//! | file | what |
//! |---|---|
//! | `submission.rs` | what callers submit and receive |
//! | `command.rs` | the committer's commands |
//! | `committer.rs` | the one thread that writes: what it decides |
//! | `ids.rs` | ids of new executions, and their segments |
//! | `batch.rs` | what one sync makes durable |
//! | `show.rs` | publishes a batch to readers, the executor and callers |
//! | `answers.rs` | delivers the answers to the callers |
//! | `journaled_databases.rs` | journals and databases as one: append, apply, checkpoint |
//! | `journal/` | the write-ahead log, which makes a write durable |
//! | `apply.rs` | how operations reach the databases behind the journal |
//! | `live.rs` | the unfinished executions in memory, and their watchers |
//! | `segment.rs` | the databases, one for each span of time |
//! | `rows.rs` | keys and records |
//! | `spool.rs` | large bodies, in files |
//! | `read.rs` | reads one execution or pages of them |
//! | `stats.rs` | counts by app and minute |
//! | `stored.rs` | bytes by organization |
//! | `recovery.rs` | what a start does |
//! | `retention.rs` | deletes old or surplus executions and frees their space |
//! | `tools/` | check, compact, export, repair |
//!
//! Readers see an execution as it is on disk: from memory until it has ended, from the databases
//! afterwards. The executor receives every accepted execution and sends its changes to the
//! committer.

mod answers;
mod apply;
mod batch;
mod command;
mod committer;
mod ids;
mod journal;
mod journaled_databases;
mod live;
mod read;
mod recovery;
mod retention;
mod rows;
mod segment;
mod show;
mod spool;
mod stats;
mod stored;
mod submission;
#[cfg(test)]
mod tests;
pub mod tools;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use self::{
    answers::{Changed, Reply, ReplyBatcher},
    command::Command,
    committer::Committer,
    journaled_databases::Disk,
    segment::Segments,
    stats::Stats,
};
pub use self::{
    live::{Live, Update, Watcher},
    read::{Filter, Record},
    spool::{Spool, StoredBody},
    submission::{LoadedRequest, StoredRequest, StoredResult, Submission, Submitted},
};
use super::{
    Error, Ledger,
    db::{guarded, private_folder},
};
use crate::{
    clock::is_ahead,
    metrics::Metrics,
    model::{
        AppId, ExecutionId, Failure, OrgName, Reason,
        execution::Change,
        stats::{OutcomeCounts, minute_of_ms},
    },
    vitals::{Vitals, part_failed},
};

/// The executions' folder in the data directory.
const FOLDER: &str = "executions";
/// Within it: the segments, the statistics, and bodies that are still being received.
const SEGMENTS: &str = "segments";
const STATS: &str = "stats";
const INCOMING: &str = "incoming";
/// The name under which users see the thread that writes.
const COMMITTER: &str = "the executions' committer";

/// Wall time, for ids, timestamps and retention; a function so that tests can move it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Whether the clock has been steady for long enough to delete by age.
pub type Settled = Arc<dyn Fn() -> bool + Send + Sync>;

/// When the app of this name was created, in Unix milliseconds; `None` when there is no such app.
pub type AppCreatedAt = Arc<dyn Fn(&AppId) -> Option<u64> + Send + Sync>;

/// Limits and times; `config` documents the settings behind them.
#[derive(Clone)]
pub struct Config {
    /// The most unfinished executions of one app.
    pub queue_max: usize,
    /// How long ended executions are kept.
    pub retention: Duration,
    /// The most ended executions kept per app.
    pub max_per_app: u64,
    /// With less free disk space than this, in bytes, nothing is accepted.
    pub min_free_bytes: u64,
    /// Output kept for late watchers per execution, in bytes.
    pub output_keep: usize,
    /// The journal length, in bytes, that begins a checkpoint.
    pub journal_bytes: u64,
    /// Time between two rounds of retention.
    pub retention_interval: Duration,
    /// Wall time.
    pub clock: Clock,
    /// Whether executions may be deleted by age.
    pub settled: Settled,
    /// Where the threads report that they live.
    pub vitals: Vitals,
    /// Where executions and writes are counted.
    pub metrics: Arc<Metrics>,
    /// How many bytes each organization keeps in the store, and the bound on it.
    pub ledger: Ledger,
}

impl Config {
    /// The span of a segment: a seventh of the retention, so that disk use follows it closely.
    fn segment_width(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(60);
        const MOST: Duration = Duration::from_secs(24 * 3600);
        (self.retention / 7).clamp(LEAST, MOST)
    }

    /// The most executions in one segment: a quarter of what one app may keep, so that an app that
    /// exceeds its number soon has a whole segment to drop.
    fn segment_rows(&self) -> u64 {
        (self.max_per_app / 4).clamp(16, 50_000)
    }
}

struct Shared {
    config: Config,
    app_created_at: AppCreatedAt,
    folder: PathBuf,
    segments: Segments,
    live: live::Table,
    stats: Stats,
    to_run: Mutex<ToRun>,
    /// The time of the newest id, in Unix milliseconds.
    newest_ms: AtomicU64,
    /// The last write succeeded.
    healthy: AtomicBool,
    /// A database write failed; the databases are unusable until the next start.
    broken: AtomicBool,
    /// The disk has space for new work.
    roomy: AtomicBool,
}

impl Shared {
    fn now_ms(&self) -> u64 {
        let since = (self.config.clock)().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| d.as_millis() as u64)
    }

    fn app_since(&self, app: &AppId) -> Option<u64> {
        // A creation time far ahead comes from a clock that was wrong; executions must not wait for
        // it.
        let now = self.now_ms();
        (self.app_created_at)(app).map(|since| if is_ahead(since, now) { 0 } else { since })
    }

    /// Whether an execution belongs to an existing app, not to a deleted one of the same name.
    fn is_visible(&self, app: &AppId, id: ExecutionId) -> bool {
        self.app_since(app)
            .is_some_and(|since| id.0.timestamp_ms() >= since)
    }

    /// Refuses everything once a database has failed: a write would be durable but not readable.
    fn usable(&self) -> Result<(), Failure> {
        if self.broken.load(Ordering::Relaxed) {
            Err(batch::unavailable("a database failed; see the log"))
        } else {
            Ok(())
        }
    }

    /// Free bytes on the disk; `u64::MAX` when the system does not report them.
    fn free_bytes(&self) -> u64 {
        match rustix::fs::statvfs(&self.folder) {
            Ok(s) => s.f_bavail.saturating_mul(s.f_frsize),
            Err(_) => u64::MAX,
        }
    }

    /// Refuses new work before the disk is full, so that accepted executions can still end.
    fn room(&self) -> Result<(), Failure> {
        let free = self.free_bytes();
        let roomy = free >= self.config.min_free_bytes;
        if self.roomy.swap(roomy, Ordering::Relaxed) != roomy {
            if roomy {
                tracing::info!(free, "The disk has space again; executions are accepted");
            } else {
                tracing::error!(
                    free,
                    wanted = self.config.min_free_bytes,
                    "The disk is almost full; executions are refused until it is not"
                );
            }
        }
        if roomy {
            return Ok(());
        }
        Err(Failure::new(
            Reason::StoreUnavailable,
            format!("the data directory's volume has {free} bytes left, less than the {} that must stay free (IGNITE_MIN_FREE_DISK_BYTES); free disk space and try again", self.config.min_free_bytes),
        )
        .with_retry_after(Duration::from_secs(10)))
    }
}

/// A handle to the executions; clones share it.
#[derive(Clone)]
pub struct Executions {
    shared: Arc<Shared>,
    inner: Arc<Inner>,
}

struct Inner {
    // `None` once closed: dropping the sender ends the thread after what was sent before.
    commands: Mutex<Option<std_mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Delivers the committer's answers, except to threads that have a runtime of their own.
    replies: ReplyBatcher,
    _delivery: AbortOnDropHandle<()>,
    retention: Mutex<Option<retention::Worker>>,
}

/// Receives an execution to run. It is called on the committer's thread, which saves a wake-up per
/// execution, so it must not block.
pub type Run = Box<dyn Fn(Arc<Live>) + Send>;

/// Executions to run.
enum ToRun {
    /// The executor has not started yet.
    Waiting(Vec<Arc<Live>>),
    Taken(Run),
}

impl Executions {
    /// Opens or creates the executions of a data directory. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(
        data_dir: &Path,
        config: Config,
        app_created_at: AppCreatedAt,
    ) -> Result<Self, Error> {
        let folder = data_dir.join(FOLDER);
        let io = |e: std::io::Error| Error::Corrupt {
            path: folder.display().to_string(),
            cause: e.to_string(),
        };
        private_folder(&folder).map_err(io)?;
        let incoming = folder.join(INCOMING);
        match std::fs::remove_dir_all(&incoming) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
            _ => private_folder(&incoming).map_err(io)?,
        }
        let shared = Arc::new(Shared::open(folder.clone(), config, app_created_at)?);
        let text = |cause: String| io(std::io::Error::other(cause));
        let disk = guarded(|| Ok(Disk::open(shared.clone()))).map_err(text)??;
        guarded(|| Ok(shared.recover())).map_err(text)??;
        let (tx, rx) = std_mpsc::channel();
        let (replies, delivery) = ReplyBatcher::new();
        let committer = Committer::new(shared.clone(), disk);
        let vitals = &shared.config.vitals;
        let latch = vitals.latch(COMMITTER);
        let delivery = vitals.watch("the handing out of the executions' answers", delivery);
        let thread = std::thread::Builder::new()
            .name("executions".into())
            .spawn(move || {
                committer.run(&rx);
                latch.release();
            })
            .map_err(io)?;
        let executions = Self {
            inner: Arc::new(Inner {
                commands: Mutex::new(Some(tx)),
                thread: Mutex::new(Some(thread)),
                replies,
                _delivery: AbortOnDropHandle::new(tokio::spawn(delivery)),
                retention: Mutex::new(None),
            }),
            shared,
        };
        let worker = retention::Worker::spawn(&executions).map_err(io)?;
        *executions.inner.retention.lock() = Some(worker);
        Ok(executions)
    }

    /// How many executions of an app have not ended.
    pub fn unfinished(&self, app: &AppId) -> usize {
        self.shared.live.count(app)
    }

    /// Hands `run` the executions to run: at once all unfinished ones, in the order of acceptance,
    /// and from then on each one as it is accepted.
    pub fn hand_over(&self, run: Run) {
        let mut to_run = self.shared.to_run.lock();
        if let ToRun::Waiting(waiting) = &mut *to_run {
            std::mem::take(waiting).into_iter().for_each(&run);
        }
        *to_run = ToRun::Taken(run);
    }

    /// Accepts an execution; returns its id once it is on disk.
    ///
    /// # Errors
    /// EXECUTION_QUEUE_FULL, IDEMPOTENCY_CONFLICT, STORE_QUOTA, STORE_UNAVAILABLE.
    ///
    /// # Cancel safety
    /// A dropped call may still be carried out.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, Failure> {
        let (reply, rx) = Reply::through(self.inner.replies.for_this_runtime());
        self.send(Command::Submit { submission, reply })?;
        rx.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// Makes a change durable and returns the new state, or the reason for refusing it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; the caller may ask for the change again.
    pub async fn change(
        &self,
        id: ExecutionId,
        change: Change,
        result: Option<StoredResult>,
    ) -> Changed {
        let (reply, rx) = Reply::through(self.inner.replies.for_this_runtime());
        self.send(Command::Change {
            id,
            change,
            result,
            reply,
        })?;
        rx.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// Ends the unfinished executions of a deleted app. Its records became invisible when it was
    /// deleted.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn forget(&self, app: AppId) -> Result<(), Failure> {
        let (reply, rx) = Reply::through(self.inner.replies.for_this_runtime());
        self.send(Command::Forget { app, reply })?;
        rx.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// Counts invocations that leave no record, as of now.
    pub fn count(&self, tallies: Vec<(AppId, OutcomeCounts)>) {
        let minute = minute_of_ms(self.shared.now_ms() as i64);
        // A closing store takes no more commands; these are the counts that may be lost.
        let _ = self.send(Command::Count { minute, tallies });
    }

    /// Checks whether an organization may store this many more bytes, before they take disk space.
    ///
    /// # Errors
    /// STORE_QUOTA.
    pub fn check_room(&self, org: &OrgName, bytes: u64) -> Result<(), Failure> {
        self.shared.config.ledger.check(org, bytes)
    }

    /// A spool for a body that is still being received.
    pub fn spool(&self) -> Spool {
        Spool::new(self.shared.folder.join(INCOMING))
    }

    /// An execution that has not ended.
    pub fn live(&self, id: ExecutionId) -> Option<Arc<Live>> {
        self.shared.live.get(id)
    }

    /// Whether the app of an execution still exists.
    pub fn has_app(&self, live: &Live) -> bool {
        self.shared.is_visible(&live.identity.app, live.identity.id)
    }

    /// Output kept for late watchers per execution, in bytes.
    pub fn output_keep(&self) -> usize {
        self.shared.config.output_keep
    }

    /// Why new work is refused at present, if it is.
    pub fn refusal(&self) -> Option<String> {
        if let Err(failure) = self.shared.usable() {
            return Some(failure.message);
        }
        if !self.shared.healthy.load(Ordering::Relaxed) {
            return Some("the last write of executions failed; see the log".to_owned());
        }
        // Checked now, since nothing may have been submitted since the disk filled or emptied.
        self.shared.room().err().map(|f| f.message)
    }

    /// Stops the threads once everything sent before is on disk. Blocks for that long.
    pub fn close(&self) {
        self.inner.retention.lock().take();
        self.inner.commands.lock().take();
        let thread = self.inner.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("The executions' committer panicked");
        }
    }

    fn send(&self, command: Command) -> Result<(), Failure> {
        match &*self.inner.commands.lock() {
            Some(tx) => tx.send(command).map_err(|_| failed()),
            None => Err(super::closed()),
        }
    }

    /// Why a command has no answer: the store is closed, or else the committer has died.
    fn unanswered(&self) -> Failure {
        if self.inner.commands.lock().is_none() {
            super::closed()
        } else {
            failed()
        }
    }

    /// Runs blocking work on the store.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|e| {
            if e.is_panic() {
                Err(read::unreadable("its files contradict each other"))
            } else {
                Err(super::closed())
            }
        })
    }
}

impl Shared {
    /// Opens the databases; the journal is not replayed yet.
    fn open(folder: PathBuf, config: Config, app_created_at: AppCreatedAt) -> Result<Self, Error> {
        let segments = Segments::open(folder.join(SEGMENTS)).map_err(|e| Error::Corrupt {
            path: folder.display().to_string(),
            cause: e.to_string(),
        })?;
        Ok(Self {
            config,
            app_created_at,
            segments,
            live: live::Table::default(),
            stats: Stats::open(&folder.join(STATS))?,
            to_run: Mutex::new(ToRun::Waiting(Vec::new())),
            newest_ms: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            broken: AtomicBool::new(false),
            roomy: AtomicBool::new(true),
            folder,
        })
    }

    /// Hands a newly accepted execution to the executor.
    fn run(&self, live: Arc<Live>) {
        match &mut *self.to_run.lock() {
            ToRun::Waiting(waiting) => waiting.push(live),
            ToRun::Taken(run) => run(live),
        }
    }
}

fn failed() -> Failure {
    part_failed(Reason::StoreUnavailable, COMMITTER)
}
