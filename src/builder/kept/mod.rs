//! The logs of builds on disk: written while a build runs, kept after it within bounds, and removed
//! with their app.
//!
//! A log is the file `<ulid>_<organization>_<app>.log`, with one [`Record`] in JSON on a line; the
//! last record says how the build ended. While the build runs, the name ends in `.open`. A start that
//! finds such a file adds the record of an interrupted build. The index is made from names alone.
//!
//! Nothing is synced: a log survives the process, not a power failure.

mod bounds;
mod record;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use self::{
    bounds::Kept,
    record::{Part, Record, encode_newest},
};
use super::{
    Line, Log,
    build::{Build, State},
};
use crate::{
    clock::unix_ms,
    model::{AppId, BuildId, Failure, Reason, code::BuiltImage},
};

pub(super) use bounds::Bounds;

/// The end of the file name of an ended build's log.
const ENDED: &str = ".log";
/// The end of the file name while the build runs.
const OPEN: &str = ".open";
/// The start of the name of a temporary file, which replaces a log.
const FRESH: &str = "new-";

/// The logs of a data directory; clones share them.
#[derive(Clone)]
pub(super) struct KeptLogs {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    bounds: Bounds,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    /// Oldest first.
    ended: Vec<Kept>,
    /// The running builds, without those of deleted apps.
    open: HashMap<BuildId, AppId>,
}

/// The log of a build that has ended.
#[derive(Debug)]
pub struct EndedLog {
    /// The app.
    pub app: AppId,
    /// Its lines.
    pub lines: Vec<Line>,
    /// How it ended, and when.
    pub state: State,
}

impl KeptLogs {
    /// Opens the folder, creating it if needed, and removes logs over the bounds.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(folder: PathBuf, bounds: Bounds) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let mut ended = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(FRESH.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
            let Some((id, app, is_open)) = name.to_str().and_then(parse) else {
                continue;
            };
            if is_open && let Err(error) = end_interrupted(&folder, id, &app) {
                tracing::warn!(%error, build = %id, "The log of a build that the platform did not survive stays out of sight");
                continue;
            }
            let bytes = fs::metadata(folder.join(file_name(id, &app, ENDED)))?.len();
            ended.push(Kept { id, app, bytes });
        }
        ended.sort_by_key(|kept| kept.id);
        let logs = Self {
            shared: Arc::new(Shared {
                folder,
                bounds,
                index: Mutex::new(Index {
                    ended,
                    open: HashMap::new(),
                }),
            }),
        };
        logs.shrink();
        Ok(logs)
    }

    /// The writer of the log of a build that begins.
    pub(super) fn begin(&self, id: BuildId, app: &AppId) -> Writer {
        self.shared.index.lock().open.insert(id, app.clone());
        let path = self.shared.folder.join(file_name(id, app, OPEN));
        Writer {
            logs: self.clone(),
            id,
            app: app.clone(),
            at: Arc::new(Mutex::new(At {
                path,
                file: Written::Nothing,
                next: 0,
            })),
        }
    }

    /// The app of the ended build with this id, if its log is kept.
    pub(super) fn app_of(&self, id: BuildId) -> Option<AppId> {
        let index = self.shared.index.lock();
        let found = index.ended.iter().find(|kept| kept.id == id);
        found.map(|kept| kept.app.clone())
    }

    /// Reads a log; not for a thread that carries connections.
    ///
    /// # Errors
    /// The file system's; one that was removed meanwhile is not found.
    pub(super) fn read(&self, id: BuildId, app: AppId) -> io::Result<EndedLog> {
        let path = self.shared.folder.join(file_name(id, &app, ENDED));
        let (mut lines, mut end) = (Vec::new(), None);
        for line in BufReader::new(File::open(path)?).lines() {
            // A crash may cut a line off.
            let Ok(record) = serde_json::from_str::<Record>(&line?) else {
                continue;
            };
            match record.into_part() {
                Part::Line(line) => lines.push(line),
                Part::End(state) => end = Some(state),
            }
        }
        let state = end.unwrap_or_else(|| interrupted(0));
        Ok(EndedLog { app, lines, state })
    }

    /// Removes the logs of an app, those of running builds once they end.
    pub(super) fn forget(&self, app: &AppId) {
        let mut gone = Vec::new();
        {
            let mut index = self.shared.index.lock();
            index.open.retain(|_, of| of != app);
            gone.extend(index.ended.extract_if(.., |kept| kept.app == *app));
        }
        self.remove(gone);
    }

    /// Removes what is over the bounds.
    fn shrink(&self) {
        let gone = bounds::over(&mut self.shared.index.lock().ended, self.shared.bounds);
        self.remove(gone);
    }

    fn remove(&self, gone: Vec<Kept>) {
        for kept in gone {
            let name = file_name(kept.id, &kept.app, ENDED);
            if let Err(error) = fs::remove_file(self.shared.folder.join(name)) {
                tracing::warn!(%error, build = %kept.id, "The log of a build could not be removed");
            }
        }
    }
}

/// Writes the log of one build; clones share it.
#[derive(Clone)]
pub(super) struct Writer {
    logs: KeptLogs,
    id: BuildId,
    app: AppId,
    at: Arc<Mutex<At>>,
}

/// What became of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is on disk.
    Kept,
    /// The disk did not take it.
    Lost,
    /// Its app was deleted.
    Forgotten,
}

/// How far a log is written.
struct At {
    path: PathBuf,
    file: Written,
    /// The number of the first line that is not written.
    next: u64,
}

enum Written {
    Nothing,
    /// The file, and how many bytes it has.
    To(File, u64),
    /// It cannot be written.
    Lost,
}

impl At {
    /// Writes the lines that have come since.
    fn catch_up(&mut self, log: &Log, most: u64) -> io::Result<()> {
        let (lines, next) = log.since(self.next);
        self.next = next;
        let text = encode_newest(&lines, most);
        let (file, bytes) = match &mut self.file {
            Written::Lost => return Ok(()),
            Written::To(file, bytes) => (file, bytes),
            nothing => {
                let file = OpenOptions::new()
                    .append(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&self.path)?;
                *nothing = Written::To(file, 0);
                match nothing {
                    Written::To(file, bytes) => (file, bytes),
                    _ => return Ok(()),
                }
            }
        };
        if *bytes + text.len() as u64 > most.saturating_mul(2) {
            (*file, *bytes) = rewrite(&self.path, &encode_newest(&log.since(0).0, most))?;
        } else {
            file.write_all(text.as_bytes())?;
            *bytes += text.len() as u64;
        }
        Ok(())
    }

    /// Writes the last record, after what fits of the log, and returns the size of the file.
    fn finish(&mut self, end: &State, log: &Log, most: u64) -> io::Result<u64> {
        let Written::To(file, bytes) = &mut self.file else {
            return Err(io::Error::other("it was broken off"));
        };
        if *bytes > most {
            (*file, *bytes) = rewrite(&self.path, &encode_newest(&log.since(0).0, most))?;
        }
        let text = Record::of_end(end).map(|record| record.encode());
        let text = text.unwrap_or_default();
        file.write_all(text.as_bytes())?;
        Ok(*bytes + text.len() as u64)
    }
}

impl Writer {
    /// Writes lines as they come, for as long as it is polled. A write that is under way when it is
    /// dropped still ends.
    pub(super) async fn follow(&self, build: &Arc<Build>) {
        let mut count = build.log.count();
        loop {
            let (writer, build) = (self.clone(), build.clone());
            let write = move || writer.catch_up(&build.log);
            let written = tokio::task::spawn_blocking(write).await;
            if written.is_err() || count.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Writes the lines that have come since; not for a thread that carries connections.
    fn catch_up(&self, log: &Log) {
        let mut at = self.at.lock();
        if let Err(error) = at.catch_up(log, self.logs.shared.bounds.each) {
            self.lose(&mut at, &error);
        }
    }

    fn lose(&self, at: &mut At, error: &io::Error) {
        tracing::warn!(%error, build = %self.id, "The log of a build cannot be kept on disk");
        at.file = Written::Lost;
    }

    /// Writes the rest of a log and how its build ended, and keeps it. Not for a thread that carries
    /// connections.
    pub(super) fn end(&self, log: &Log, end: &State) -> End {
        self.catch_up(log);
        let mut at = self.at.lock();
        let to = at.path.with_file_name(file_name(self.id, &self.app, ENDED));
        let written = at
            .finish(end, log, self.logs.shared.bounds.each)
            .and_then(|bytes| fs::rename(&at.path, &to).map(|()| bytes));
        let outcome = {
            let mut index = self.logs.shared.index.lock();
            let is_wanted = index.open.remove(&self.id).is_some();
            match &written {
                _ if !is_wanted => End::Forgotten,
                Err(_) => End::Lost,
                Ok(bytes) => {
                    let (id, app, bytes) = (self.id, self.app.clone(), *bytes);
                    let before = index.ended.partition_point(|kept| kept.id < id);
                    index.ended.insert(before, Kept { id, app, bytes });
                    End::Kept
                }
            }
        };
        match (outcome, written) {
            (End::Kept, _) => self.logs.shrink(),
            (_, Ok(_)) => drop(fs::remove_file(&to)),
            (_, Err(error)) => {
                self.lose(&mut at, &error);
                // The file may not exist.
                drop(fs::remove_file(&at.path));
            }
        }
        outcome
    }
}

/// Puts a new file in place of a log, and returns it with its size.
fn rewrite(path: &Path, text: &str) -> io::Result<(File, u64)> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("the log has no folder"))?;
    let mut fresh = tempfile::Builder::new().prefix(FRESH).tempfile_in(folder)?;
    fresh.write_all(text.as_bytes())?;
    let file = fresh.persist(path).map_err(|e| e.error)?;
    Ok((file, text.len() as u64))
}

/// Gives the log of a build that the platform did not survive its end.
fn end_interrupted(folder: &Path, id: BuildId, app: &AppId) -> io::Result<()> {
    let path = folder.join(file_name(id, app, OPEN));
    let mut file = OpenOptions::new().append(true).open(&path)?;
    let at = file.metadata()?.modified().map_or(0, unix_ms);
    let end = Record::of_end(&interrupted(at)).map(|record| record.encode());
    // A crash may have cut the last line off.
    file.write_all(format!("\n{}", end.unwrap_or_default()).as_bytes())?;
    fs::rename(&path, folder.join(file_name(id, app, ENDED)))
}

/// The end of a build that the platform did not survive.
fn interrupted(at_ms: i64) -> State {
    let failure = Failure::new(
        Reason::ShuttingDown,
        "the platform was killed while this build ran, so it has neither an image nor an end; compile again",
    );
    State::Ended(Err::<BuiltImage, _>(failure), at_ms)
}

fn file_name(id: BuildId, app: &AppId, end: &str) -> String {
    format!("{}_{}_{}{end}", id.0, app.org, app.name)
}

/// The build and the app of a file, and whether it was left open. Names of organizations and apps
/// have no `_`.
fn parse(name: &str) -> Option<(BuildId, AppId, bool)> {
    let (name, is_open) = match name.strip_suffix(ENDED) {
        Some(name) => (name, false),
        None => (name.strip_suffix(OPEN)?, true),
    };
    let (id, app) = name.split_once('_')?;
    let (org, name) = app.split_once('_')?;
    let app = AppId {
        org: org.parse().ok()?,
        name: name.parse().ok()?,
    };
    let id = BuildId(ulid::Ulid::from_string(id).ok()?);
    Some((id, app, is_open))
}

#[cfg(test)]
mod tests;
