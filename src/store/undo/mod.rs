//! Undoes the refused changes of a database, whatever failed and whenever.
//!
//! sled applies a batch before it is on disk, and may still write it after a failed flush. So
//! before a change is applied, the rows that it replaces are written to a separate file and synced.
//! Once the change is on disk, that file is marked empty, which makes the change final. After a
//! failure in between, those rows undo the change: at once, before the next change, or when the
//! database is next opened.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

pub(super) mod rows;

pub(super) use self::rows::Rows;
use self::rows::{HEADER, NAME, encode};
use super::{
    db::{Database, sync_folder},
    fault::{self, Faults, Step},
};

/// A longer file is truncated once it is marked empty.
const KEPT_BYTES: u64 = 64 * 1024;
/// A key that no row has.
const NOWHERE: &[u8] = b"\xffnowhere";

/// A change that was not saved.
#[derive(Debug)]
pub(super) struct NotSaved {
    /// What failed.
    pub(super) cause: io::Error,
    /// It is undone, or the next start undoes it. Otherwise only the next start can tell whether it
    /// holds.
    pub(super) undone: bool,
}

/// A database whose changes are either saved or undone.
pub(super) struct Undoing {
    database: Database,
    file: File,
    /// The previous rows of a change that still has to be undone.
    pending: Option<Rows>,
    faults: Faults,
}

// === impl NotSaved ===

impl NotSaved {
    /// The cause, the fate of the change, and what the user can do.
    pub(super) fn text(&self) -> String {
        let Self { cause, undone } = self;
        let remedy = fault::remedy(cause);
        match undone {
            true => format!("the change was not saved and is undone ({cause}); {remedy}"),
            false => format!(
                "the change could neither be saved nor undone ({cause}): whether it holds is certain only after the next start of ignite; {remedy}"
            ),
        }
    }
}

// === impl Undoing ===

impl Undoing {
    /// Takes over a newly opened database in `path`.
    ///
    /// # Errors
    /// When its file of undo rows cannot be created.
    pub(super) fn new(database: Database, path: &Path, faults: Faults) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(NAME))?;
        // Nothing is pending: opening the database has undone it.
        file.write_all_at(&encode(&Rows::new()), 0)?;
        file.sync_all()?;
        sync_folder(path)?;
        Ok(Self {
            database,
            file,
            pending: None,
            faults,
        })
    }

    /// Writes rows, all or none, and returns once they are on disk.
    ///
    /// # Errors
    /// See [`NotSaved`].
    pub(super) fn commit(&mut self, rows: &Rows) -> Result<(), NotSaved> {
        let before = self.prepare(rows).map_err(|cause| NotSaved {
            cause,
            undone: true,
        })?;
        let applied = self
            .apply(rows)
            .and_then(|()| self.faults.at(Step::Clear))
            .and_then(|()| self.file.write_all_at(&encode(&Rows::new()), 0));
        if let Err(cause) = applied {
            self.pending = Some(before);
            self.undo_now();
            return Err(NotSaved {
                cause,
                undone: true,
            });
        }
        match self.clear_sync() {
            Ok(()) => Ok(()),
            Err(cause) => {
                // The empty mark may have reached the disk and must not be the last word.
                let undone = self.write(&before).is_ok();
                self.pending = Some(before);
                self.undo_now();
                let undone = undone || self.pending.is_none();
                Err(NotSaved { cause, undone })
            }
        }
    }

    /// Tests whether changes can be written, with one that changes nothing.
    ///
    /// # Errors
    /// As [`Undoing::commit`].
    pub(super) fn probe(&mut self) -> Result<(), NotSaved> {
        self.commit(&Rows::from([(NOWHERE.to_vec(), None)]))
    }

    /// Does everything that can fail before the change begins; returns the rows that it replaces.
    fn prepare(&mut self, rows: &Rows) -> io::Result<Rows> {
        self.undo()?;
        // Listing the folder can fail for lack of file descriptors; `sync` needs it later.
        self.database.blobs()?;
        let before: Rows = rows
            .keys()
            .map(|key| {
                let row = self.database.tree.get(key).map_err(super::db::io_error)?;
                Ok((key.clone(), row.map(|value| value.to_vec())))
            })
            .collect::<io::Result<_>>()?;
        self.write(&before)?;
        Ok(before)
    }

    fn apply(&self, rows: &Rows) -> io::Result<()> {
        self.faults.at(Step::Apply)?;
        self.database.apply(rows)?;
        self.faults.at(Step::Flush)?;
        self.database.sync()
    }

    /// Undoes the pending change; a failure is retried before the next change.
    fn undo_now(&mut self) {
        if let Err(cause) = self.undo() {
            tracing::warn!(%cause, "A refused change could not be undone yet; nothing is saved until it is");
        }
    }

    fn undo(&mut self) -> io::Result<()> {
        if let Some(before) = &self.pending {
            self.apply(before)?;
            self.faults.at(Step::Clear)?;
            self.file.write_all_at(&encode(&Rows::new()), 0)?;
            self.clear_sync()?;
            self.pending = None;
        }
        Ok(())
    }

    fn write(&self, before: &Rows) -> io::Result<()> {
        self.faults.at(Step::UndoWrite)?;
        self.file.write_all_at(&encode(before), 0)?;
        self.faults.at(Step::UndoSync)?;
        self.file.sync_data()
    }

    fn clear_sync(&self) -> io::Result<()> {
        self.faults.at(Step::ClearSync)?;
        self.file.sync_data()?;
        // This only frees space, so a failure is ignored.
        if self.file.metadata().is_ok_and(|m| m.len() > KEPT_BYTES) {
            let _ = self.file.set_len(HEADER as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
