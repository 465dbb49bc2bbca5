//! Writes the audit log: one thread, a bounded queue before it, and two generations of each file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;

use super::{Entry, dropped};
use crate::vitals::{Latch, Vitals};

/// Entries that wait at most; each has at most some KB.
const QUEUE: usize = 4096;
/// Entries that are written at a time.
const BATCH: usize = 256;
/// Refusals and what was done, each with a current file and the one before it.
const FILES: u64 = 4;

/// The log's folder.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("audit")
}

/// The files of one of the two logs, oldest first.
pub(super) fn generations(folder: &Path, refusals: bool) -> [PathBuf; 2] {
    let name = if refusals { "refused" } else { "audit" };
    [".1.jsonl", ".jsonl"].map(|end| folder.join(format!("{name}{end}")))
}

enum Message {
    Add(Box<Entry>),
    Close,
}

/// The log's thread, and the way to it.
pub(super) struct Writer {
    queue: SyncSender<Message>,
    dropped: std::sync::Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(data_dir: &Path, max_bytes: u64, vitals: &Vitals) -> io::Result<Self> {
        let folder = folder(data_dir);
        make_folder(&folder)?;
        let (queue, entries) = sync_channel(QUEUE);
        let dropped = std::sync::Arc::new(AtomicU64::new(0));
        let logs = Logs {
            done: Log::new(&folder, false, max_bytes / FILES),
            refused: Log::new(&folder, true, max_bytes / FILES),
            dropped: dropped.clone(),
            failing: false,
        };
        let latch = vitals.latch("the audit log");
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || logs.run(&entries, latch))?;
        Ok(Self {
            queue,
            dropped,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn record(&self, entry: Entry) {
        match self.queue.try_send(Message::Add(Box::new(entry))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    pub(super) fn close(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        if self.queue.send(Message::Close).is_ok() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Logs {
    done: Log,
    refused: Log,
    dropped: std::sync::Arc<AtomicU64>,
    /// Whether the last write failed, so that a full disk is logged once.
    failing: bool,
}

impl Logs {
    fn run(mut self, entries: &Receiver<Message>, latch: Latch) {
        let mut open = true;
        while open {
            let Ok(first) = entries.recv() else { break };
            let (mut done, mut refused, mut count) = (Vec::new(), Vec::new(), 0);
            let rest = entries.try_iter().take(BATCH);
            for message in std::iter::once(first).chain(rest) {
                match message {
                    Message::Add(entry) if entry.is_refusal() => refused.extend(entry.line()),
                    Message::Add(entry) => done.extend(entry.line()),
                    Message::Close => {
                        open = false;
                        break;
                    }
                }
                count += 1;
            }
            let missing = self.dropped.swap(0, Relaxed);
            if missing > 0 {
                tracing::warn!(missing, "The audit log did not take some entries");
                done.extend(dropped(missing).line());
            }
            let (done, refused) = (self.done.write(&done), self.refused.write(&refused));
            match done.and(refused) {
                Ok(()) => self.failing = false,
                Err(error) => {
                    // The count of an earlier gap would be lost with this one.
                    self.dropped.fetch_add(count + missing, Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "The audit log cannot be written; entries are counted until it can");
                    }
                }
            }
        }
        self.done.sync();
        self.refused.sync();
        latch.release();
    }
}

/// One of the two logs.
struct Log {
    files: [PathBuf; 2],
    max: u64,
    file: Option<File>,
}

impl Log {
    fn new(folder: &Path, refusals: bool, max: u64) -> Self {
        Self {
            files: generations(folder, refusals),
            max,
            file: None,
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let [before, current] = &self.files;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(current)?,
        };
        if file.metadata()?.len().saturating_add(lines.len() as u64) > self.max {
            file.sync_data()?;
            fs::rename(current, before)?;
            file = open(current)?;
        }
        // Not kept after an error: the next write opens it again, and ends a broken line.
        file.write_all(lines)?;
        self.file = Some(file);
        Ok(())
    }

    fn sync(&self) {
        if let Some(file) = &self.file {
            let _ = file.sync_data();
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Opens a file for appending. A line that a crash broke off is ended first.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// See [`super::append`].
pub(super) fn append(data_dir: &Path, entry: &Entry) -> io::Result<()> {
    let folder = folder(data_dir);
    make_folder(&folder)?;
    let [_, current] = generations(&folder, entry.is_refusal());
    // One write, so that lines of two processes do not mix.
    open(&current)?.write_all(&entry.line())?;
    // Root may run the command line for a server of another user.
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::MetadataExt as _;
        let owner = fs::metadata(data_dir)?;
        for path in [&folder, &current] {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Audit, DONE, Filter, Follower, Kind},
        *,
    };

    fn entry(action: &str, result: &str) -> Entry {
        Entry::new(Kind::Api, action, result, "me").org(Some("acme"))
    }

    fn actions(dir: &Path) -> Vec<String> {
        let found = Follower::new(dir, Filter::default()).read();
        let found = found.expect("read").lines;
        let of = |line: &String| {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            value["action"].as_str().expect("text").to_owned()
        };
        found.iter().map(of).collect()
    }

    #[test]
    fn refusals_push_out_refusals_only_and_the_size_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let audit = Audit::start(dir.path(), 64 * 1024, &Vitals::default()).expect("started");
        audit.record(entry("CreateApp", DONE));
        for n in 0..2000 {
            audit.record(entry(&format!("try-{n}"), "invalid_client"));
        }
        audit.close();
        let found = actions(dir.path());
        assert!(found.contains(&"CreateApp".to_owned()));
        assert!(found.contains(&"try-1999".to_owned()), "the newest stay");
        assert!(!found.contains(&"try-0".to_owned()), "the oldest go");
        let files = fs::read_dir(folder(dir.path())).expect("a folder");
        let sizes = files.map(|f| f.expect("a file").metadata().expect("metadata").len());
        assert!(sizes.sum::<u64>() <= 64 * 1024);
    }

    #[test]
    fn what_the_log_could_not_take_is_counted_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let audit = Audit::start(dir.path(), 1 << 20, &Vitals::default()).expect("started");
        // A folder where the file should be: every write fails.
        let [_, current] = generations(&folder(dir.path()), false);
        fs::create_dir(&current).expect("made");
        let writer = audit.0.as_ref().expect("on");
        audit.record(entry("lost", DONE));
        while writer.dropped.load(Relaxed) == 0 {
            thread::yield_now();
        }
        fs::remove_dir(&current).expect("removed");
        audit.record(entry("kept", DONE));
        audit.close();
        assert_eq!(actions(dir.path()), ["kept", "dropped"]);
        let text = fs::read_to_string(&current).expect("text");
        assert!(text.contains(r#""dropped":1"#), "{text}");
    }

    #[test]
    fn a_line_that_broke_off_spoils_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        append(dir.path(), &entry("one", DONE)).expect("written");
        let [_, current] = generations(&folder(dir.path()), false);
        let mut file = OpenOptions::new()
            .append(true)
            .open(&current)
            .expect("open");
        file.write_all(b"{\"time\":").expect("written");
        append(dir.path(), &entry("two", DONE)).expect("written");
        assert_eq!(actions(dir.path()), ["one", "two"]);
    }
}
