//! The journals and the databases behind them: append, apply, checkpoint.
//!
//! A checkpoint brings the databases up to date with a journal and resets it. For a long journal
//! that takes a while, so it runs beside new writes, which go to the second journal meanwhile.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, TryRecvError},
    },
    thread::JoinHandle,
};

use super::{
    super::{Error, db::sync_folder},
    Shared,
    apply::Applier,
    journal::{self, Journal, NotAppended, OpenError, Operation},
};

/// The journals in the executions' folder; the numbers in them say which one is older.
pub(super) const JOURNALS: [&str; 2] = ["journal", "journal-2"];
/// Below this much free space the disk counts as full: sled extends its files by 512 KiB at a time.
const DATABASE_ROOM: u64 = 1024 * 1024;

/// The path of every write.
pub(super) struct Disk {
    shared: Arc<Shared>,
    /// The journal that batches are appended to.
    journal: Journal,
    /// What `journal` holds and the databases do not have on disk yet.
    applier: Applier,
    /// The older journal, empty unless its checkpoint failed. `None` while that checkpoint runs,
    /// and for good once it has panicked.
    before: Option<Journal>,
    worker: Worker,
}

impl Disk {
    /// Opens the journals and applies to the databases what a crash left in them.
    ///
    /// # Errors
    /// [`Error::Journal`] when one is damaged; then nothing of either is applied.
    pub(super) fn open(shared: Arc<Shared>) -> Result<Self, Error> {
        let folder = shared.folder.clone();
        let io = |e: io::Error| Error::Corrupt {
            path: folder.display().to_string(),
            cause: e.to_string(),
        };
        let refused = |e| match e {
            OpenError::Io(e) => io(e),
            OpenError::Damaged(damage) => Error::Journal {
                what: damage.to_string(),
            },
        };
        let mut paths = JOURNALS.map(|name| shared.folder.join(name));
        for path in &paths {
            if let Some(damage) = journal::damage(path).map_err(io)? {
                return Err(refused(damage.into()));
            }
        }
        let (mut applier, mut batches) = (Applier::default(), 0_u64);
        let mut replay = |path: &Path| {
            Journal::open(path, |operations| {
                batches += 1;
                let applied = applier.apply(&shared, operations);
                applied.map_err(io::Error::other)
            })
        };
        let number = |path| Journal::number_in(path).map_err(io);
        if number(&paths[0])? > number(&paths[1])? {
            paths.reverse();
        }
        let mut open = |path: &Path| replay(path).map_err(refused);
        let (before, journal) = (open(&paths[0])?, open(&paths[1])?);
        // The files may be new, and their folder entries must survive a power cut.
        sync_folder(&shared.folder).map_err(io)?;
        let mut disk = Self {
            worker: Worker::spawn(shared.clone()).map_err(io)?,
            shared,
            journal,
            applier,
            before: Some(before),
        };
        if batches > 0 {
            disk.flush().map_err(|cause| io(io::Error::other(cause)))?;
            tracing::info!(
                batches,
                "Recovered what was written just before the last stop"
            );
        }
        Ok(disk)
    }

    /// Returns once the operations are on disk.
    ///
    /// # Errors
    /// See [`NotAppended`].
    pub(super) fn append(&mut self, operations: &[Operation]) -> Result<(), NotAppended> {
        // Checked here because the journal has preallocated space on a full disk and the databases
        // do not, and a database whose write failed is unusable until the next start.
        if !self.has_room() {
            return Err(NotAppended {
                cause: rustix::io::Errno::NOSPC.into(),
                undone: true,
            });
        }
        self.journal.append(operations)
    }

    /// Makes appended operations visible to readers.
    ///
    /// # Errors
    /// When a database fails. The next start applies the operations from the journal.
    pub(super) fn apply(&mut self, operations: Vec<Operation>) -> Result<(), String> {
        let applied = self.applier.apply(&self.shared, operations);
        self.noted(applied)
    }

    /// Begins a checkpoint when the journal is long; waits only for one that is still running.
    pub(super) fn checkpoint_if_long(&mut self) {
        let is_long = self.journal.len() >= self.shared.config.journal_bytes;
        if is_long && self.is_able() {
            let begun = self.begin();
            let _ = self.noted(begun);
        }
    }

    /// Runs a full checkpoint unless one is running.
    pub(super) fn checkpoint_if_free(&mut self) {
        if let Some(ended) = self.worker.try_wait() {
            let ended = self.take_back(ended);
            let _ = self.noted(ended);
        }
        if !self.worker.busy && self.is_able() {
            let _ = self.checkpoint();
        }
    }

    /// Runs a full checkpoint; afterwards the journals are empty.
    ///
    /// # Errors
    /// Why the journals keep their content.
    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        let ended = self.wait_for_checkpoint();
        self.noted(ended)?;
        // Operations that could not be applied exist only in the journals.
        self.shared.usable().map_err(|failure| failure.message)?;
        let is_empty = |journal: &Journal| journal.len() == 0;
        if self.before.as_ref().is_some_and(is_empty) && is_empty(&self.journal) {
            return Ok(());
        }
        if !self.has_room() {
            return Err("the disk is full".to_owned());
        }
        let flushed = self.flush();
        self.noted(flushed)
    }

    /// Hands the journal to the checkpoint thread and switches to the other one.
    fn begin(&mut self) -> Result<(), String> {
        self.wait_for_checkpoint()?;
        let Some(mut empty) = self.before.take_if(|before| before.len() == 0) else {
            return self.flush();
        };
        if let Err(e) = empty.reset(self.journal.number() + 1) {
            self.before = Some(empty);
            return Err(e.to_string());
        }
        let full = std::mem::replace(&mut self.journal, empty);
        self.worker.begin(full, std::mem::take(&mut self.applier));
        Ok(())
    }

    /// Flushes the databases and resets both journals, the older first: if a crash left only the
    /// older one, the next start would replay it over newer rows.
    fn flush(&mut self) -> Result<(), String> {
        let before = self.before.as_mut().ok_or(LOST)?;
        self.applier.flush(&self.shared)?;
        for journal in [before, &mut self.journal] {
            if journal.len() > 0 {
                let number = journal.number();
                journal.reset(number).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// Waits for the running checkpoint.
    fn wait_for_checkpoint(&mut self) -> Result<(), String> {
        if !self.worker.busy {
            return Ok(());
        }
        let ended = self.worker.wait();
        self.take_back(ended)
    }

    fn take_back(&mut self, ended: Option<Checkpointed>) -> Result<(), String> {
        let (journal, behind, outcome) = ended.ok_or(LOST)?;
        self.before = Some(journal);
        self.applier.absorb(behind);
        outcome
    }

    /// Logs a database failure and refuses all further work.
    fn noted(&self, outcome: Result<(), String>) -> Result<(), String> {
        if let Err(cause) = &outcome {
            tracing::error!(%cause, "A database of the executions cannot be written; nothing is accepted or changed until ignite is started again, and nothing is lost");
            self.shared.broken.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn is_able(&self) -> bool {
        self.has_room() && !self.shared.broken.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.shared.free_bytes() >= DATABASE_ROOM
    }
}

const LOST: &str = "a checkpoint panicked; start ignite again, which makes up for it";

/// A journal, what the databases still lack of it, and the outcome of its checkpoint.
type Checkpointed = (Journal, Applier, Result<(), String>);

/// The thread that runs checkpoints beside new writes.
struct Worker {
    jobs: Option<mpsc::Sender<(Journal, Applier)>>,
    ended: mpsc::Receiver<Checkpointed>,
    /// It has a job whose outcome was not received yet.
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn spawn(shared: Arc<Shared>) -> io::Result<Self> {
        let (jobs, taken) = mpsc::channel::<(Journal, Applier)>();
        let (done, ended) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                let latch = shared.config.vitals.latch("the executions' checkpoints");
                for (mut journal, mut applier) in taken {
                    let number = journal.number();
                    let outcome = applier
                        .flush(&shared)
                        .and_then(|()| journal.reset(number).map_err(|e| e.to_string()));
                    if done.send((journal, applier, outcome)).is_err() {
                        break;
                    }
                }
                latch.release();
            })?;
        Ok(Self {
            jobs: Some(jobs),
            ended,
            busy: false,
            thread: Some(thread),
        })
    }

    fn begin(&mut self, journal: Journal, applier: Applier) {
        // If the thread has panicked, waiting for the outcome reports it.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send((journal, applier)));
        self.busy = true;
    }

    /// The outcome of the checkpoint, if it has ended; an inner `None` means that the thread has
    /// panicked. Does not block.
    fn try_wait(&mut self) -> Option<Option<Checkpointed>> {
        let ended = match self.ended.try_recv() {
            Ok(ended) => Some(ended),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => None,
        };
        self.busy = false;
        Some(ended)
    }

    fn wait(&mut self) -> Option<Checkpointed> {
        self.busy = false;
        self.ended.recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs.take();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("The executions' checkpoints panicked");
        }
    }
}
