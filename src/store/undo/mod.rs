//! Changes of a database that are refused are undone, whatever failed and whenever.
//!
//! sled applies a batch before it is on disk, and what it was given may reach the disk after a
//! failed flush. So before a change is applied, the rows that it replaces are written to a file of
//! their own and synced; once the change is on disk, that file is marked empty, which is what
//! makes the change final. A failure in between is undone with those rows: at once, before the
//! next change, or when the database is opened the next time.
//!
//! The file is its kind, the length and CRC-32 of what follows (u64 and u32, little-endian), and
//! rows: key, and the value before, if there was one. A record that is not whole was cut short by a
//! crash, before its change was applied.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{
    db::{Database, sync_folder},
    fault::{self, Faults, Step},
};

/// The file in the database's folder.
const NAME: &str = "undo";
/// What it begins with: its kind and its format.
const KIND: &[u8; 8] = b"ignundo\x01";
const HEADER: usize = KIND.len() + 8 + 4;
/// A file that is longer is cut once it is marked empty.
const KEPT_BYTES: u64 = 64 * 1024;
/// A key that no row has.
const NOWHERE: &[u8] = b"\xffnowhere";

/// Rows by key; `None` is a row that is not there.
pub(super) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

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
        file.write_all_at(&record(&Rows::new()), 0)?;
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
            .and_then(|()| self.file.write_all_at(&record(&Rows::new()), 0));
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
            self.file.write_all_at(&record(&Rows::new()), 0)?;
            self.clear_sync()?;
            self.pending = None;
        }
        Ok(())
    }

    fn write(&self, before: &Rows) -> io::Result<()> {
        self.faults.at(Step::UndoWrite)?;
        self.file.write_all_at(&record(before), 0)?;
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

/// Undoes the change that the last run could not finish, if there is one; whether there was.
///
/// # Errors
/// When the record cannot be read, or the database does not take it.
pub(super) fn finish(database: &Database, path: &Path) -> io::Result<bool> {
    let path = path.join(NAME);
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if content.len() >= HEADER && !content.starts_with(KIND) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its file `undo` is damaged: restore the folder from a backup; or remove that file, and the last change, if it was refused, may be there",
        ));
    }
    let rows = rows_of(&content).unwrap_or_default();
    if rows.is_empty() {
        return Ok(false);
    }
    database.apply(&rows)?;
    database.sync()?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&record(&Rows::new()), 0)?;
    file.sync_data()?;
    Ok(true)
}

fn record(rows: &Rows) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    let mut put = |bytes: &[u8]| {
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    };
    for (key, value) in rows {
        put(key);
        put(&[u8::from(value.is_some())]);
        put(value.as_deref().unwrap_or_default());
    }
    let (len, crc) = (out.len() - HEADER, crc32fast::hash(&out[HEADER..]));
    out[..8].copy_from_slice(KIND);
    out[8..16].copy_from_slice(&(len as u64).to_le_bytes());
    out[16..HEADER].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The rows of a record that is whole.
fn rows_of(content: &[u8]) -> Option<Rows> {
    fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = from.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_at_checked(u64::from_le_bytes(*len).try_into().ok()?)?;
        *from = rest;
        Some(bytes)
    }
    let (len, rest) = content.strip_prefix(KIND)?.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let mut payload = rest.get(..u64::from_le_bytes(*len).try_into().ok()?)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rows = Rows::new();
    while !payload.is_empty() {
        let key = take(&mut payload)?.to_vec();
        let is_there = take(&mut payload)? == [1];
        let value = take(&mut payload)?.to_vec();
        rows.insert(key, is_there.then_some(value));
    }
    Some(rows)
}

#[cfg(test)]
mod tests;
