//! What survives a restart: apps, their versions and secrets, in sled; executions in `executions/`,
//! code in files (`blobs`).
//!
//! Readers never touch sled: they see a [`Catalog`] in memory that holds exactly what is on
//! disk. Writers send a decision to one thread (`writer`), which applies it to the newest state,
//! makes a whole batch durable with one flush, and only then lets readers see it. So two
//! changes of one app can never overwrite each other, and nothing visible can be lost.

pub mod blobs;
mod db;
pub mod executions;
mod fault;
mod keys;
mod records;
pub mod secrets;
pub mod tools;
mod undo;
mod writer;

use std::{path::Path, sync::Arc};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::oneshot;

use self::{db::Database, undo::Undoing};
use crate::{
    model::{
        Failure, Reason,
        catalog::{Catalog, Change},
    },
    vitals::Vitals,
};

/// The format of the records in the store; raised when older binaries could not read it.
const FORMAT: u32 = 1;
/// Page cache of the database in bytes; the catalog lives in memory, so a small one is enough.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// The database's folder in the data directory.
pub(crate) const FOLDER: &str = "store";

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files are there and cannot be read as a store.
    #[error(
        "the store in {path} cannot be opened: {cause}; `ignite store check` says what can be read; restore the folder from a backup, or move it away to start without it"
    )]
    Corrupt {
        /// Where it is.
        path: String,
        /// What sled or the record reader said.
        cause: String,
    },
    /// What was confirmed is damaged in the executions' journal.
    #[error(
        "{what}; nothing was changed: restore the data directory from a backup, or run `ignite store repair`, which keeps a copy of the journal, saves every whole write in it and says what is lost"
    )]
    Journal {
        /// Which journal, and where in it.
        what: String,
    },
    /// A newer `ignite` wrote it.
    #[error(
        "the store in {path} has format {found}, this ignite reads up to {known}; run the newer ignite that wrote it"
    )]
    Newer {
        /// Where it is.
        path: String,
        /// Its format.
        found: u32,
        /// The newest format that this binary reads.
        known: u32,
    },
}

/// A handle to the open store; clones share it.
#[derive(Clone)]
pub struct Store {
    visible: Arc<RwLock<Catalog>>,
    writer: Arc<writer::Writer>,
}

impl Store {
    /// Opens or makes the store in a data directory and reads it whole.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        Self::open_watched(data_dir, &Vitals::default())
    }

    /// As [`Store::open`]; whether the writer lives is told to `vitals`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_watched(data_dir: &Path, vitals: &Vitals) -> Result<Self, Error> {
        let path = data_dir.join(FOLDER);
        let corrupt = |cause: String| Error::Corrupt {
            path: path.display().to_string(),
            cause,
        };
        let database = Database::open(&path, FORMAT, CACHE_BYTES)?;
        let catalog = db::guarded(|| records::read_all(&database.tree)).map_err(corrupt)?;
        let visible = Arc::new(RwLock::new(catalog));
        let writer = Undoing::new(database, &path, fault::Faults::default())
            .and_then(|database| writer::Writer::spawn(database, visible.clone(), vitals))
            .map_err(|e| corrupt(e.to_string()))?;
        Ok(Self {
            visible,
            writer: Arc::new(writer),
        })
    }

    /// The apps as they are on disk. Short reads only: a held guard delays the writer.
    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.visible.read()
    }

    /// Decides on the newest state and returns once the changes are durable and visible.
    ///
    /// `decide` runs on the writer's thread, after every earlier change.
    ///
    /// # Errors
    /// What `decide` refuses with, or STORE_UNAVAILABLE when the disk does not take the change.
    ///
    /// # Cancel safety
    /// A dropped call may still be carried out.
    pub async fn commit<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Change>, T), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (tx, rx) = oneshot::channel();
        self.writer
            .send(Box::new(move |catalog| match decide(catalog) {
                Ok((changes, value)) => (
                    changes,
                    Box::new(move |outcome: Result<(), Failure>| {
                        let _ = tx.send(outcome.map(|()| value));
                    }),
                ),
                Err(refusal) => (
                    Vec::new(),
                    Box::new(move |_| {
                        let _ = tx.send(Err(refusal));
                    }),
                ),
            }))?;
        // Whatever is sent before a stop is answered.
        rx.await.unwrap_or_else(|_| Err(writer::failed()))
    }

    /// Whether the last write succeeded; a store that failed refuses work until one succeeds.
    pub fn healthy(&self) -> bool {
        self.writer.healthy()
    }

    /// Ends the writer after everything sent before is on disk. Blocks for that long.
    pub fn close(&self) {
        self.writer.close();
    }
}

fn closed() -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        "the store is closed because the platform is stopping; try again",
    )
}

#[cfg(test)]
mod tests;
