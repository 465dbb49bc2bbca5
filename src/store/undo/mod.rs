//! Undoes the changes of a database that were refused, whatever failed and whenever.
//!
//! sled applies a batch before it is on disk, and what it was given may reach the disk after a
//! failed flush. So before a change is applied, the rows that it replaces are written to a file of
//! their own and synced; once the change is on disk, that file is marked empty, which is what
//! makes the change final. A failure in between is undone with those rows: at once, before the
//! next change, or when the database is opened the next time.

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

/// A file that is longer is cut once it is marked empty.
const KEPT_BYTES: u64 = 64 * 1024;
/// A key that no row has.
const NOWHERE: &[u8] = b"\xffnowhere";

/// A change that was not saved.
#[derive(Debug)]
pub(super) struct NotSaved {
    /// What failed.
    pub(super) cause: io::Error,
    /// It is undone, or the next start undoes it. Otherwise only the next start knows.
    pub(super) undone: bool,
}

/// A database whose changes are saved, or undone.
pub(super) struct Undoing {
    database: Database,
    file: File,
    /// The rows before a change that is still to be undone.
    pending: Option<Rows>,
    faults: Faults,
}

// === impl NotSaved ===

impl NotSaved {
    /// The cause, what became of the change, and what can be done.
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
    /// Takes over a database, in `path`, that was just opened.
    ///
    /// # Errors
    /// When its file of undo rows cannot be made.
    pub(super) fn new(database: Database, path: &Path, faults: Faults) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(NAME))?;
        // Nothing is pending: opening the database has seen to that.
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
                // The mark may have reached the disk, and must not stand alone.
                let undone = self.write(&before).is_ok();
                self.pending = Some(before);
                self.undo_now();
                let undone = undone || self.pending.is_none();
                Err(NotSaved { cause, undone })
            }
        }
    }

    /// Finds out whether changes are taken (again), by one that changes nothing.
    ///
    /// # Errors
    /// As [`Undoing::commit`].
    pub(super) fn probe(&mut self) -> Result<(), NotSaved> {
        self.commit(&Rows::from([(NOWHERE.to_vec(), None)]))
    }

    /// Everything that can fail before the change is begun; the rows that it replaces.
    fn prepare(&mut self, rows: &Rows) -> io::Result<Rows> {
        self.undo()?;
        // For want of descriptors, for one.
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

    /// Undoes what is pending; what fails now is tried again before the next change.
    fn undo_now(&mut self) {
        if let Err(cause) = self.undo() {
            tracing::warn!(%cause, "A refused change is still to be undone; nothing is saved before that");
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
        // Only space, so whether it works is not asked.
        if self.file.metadata().is_ok_and(|m| m.len() > KEPT_BYTES) {
            let _ = self.file.set_len(HEADER as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
