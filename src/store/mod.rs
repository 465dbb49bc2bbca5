//! Everything that survives a restart.
//!
//! | module | what |
//! |---|---|
//! | `writer` | the catalog's one writing thread |
//! | `records`, `keys` | the catalog's rows and their keys |
//! | `db` | one sled database, opened and synced with care |
//! | `undo` | undoes refused changes of a database, also after a crash |
//! | `executions` | asynchronous executions, in databases and a journal of their own |
//! | `blobs` | code, in files |
//! | `secrets` | secrets and the key that seals them |
//! | `env` | seals environments in the rows |
//! | `ledger` | bytes of each organization, and the bound on them |
//! | `tools`, `report` | `ignite store`: check, compact, export, repair |
//! | `fault` | write failures for tests, and remedies for users |
//!
//! The catalog (apps, their versions and secrets) is in sled, but readers never touch sled: they
//! see a [`Catalog`] in memory that holds exactly what is on disk. Writers send a decision to one
//! thread (`writer`), which applies it to the newest state, makes a whole batch durable with one
//! flush, and only then shows it to readers. So two changes of one app can never overwrite each
//! other, and nothing visible can be lost.

pub mod blobs;
mod db;
mod env;
pub mod executions;
mod fault;
mod keys;
mod ledger;
mod records;
mod report;
pub mod secrets;
pub mod tools;
mod undo;
mod writer;

use std::{path::Path, sync::Arc};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::oneshot;

pub use self::ledger::Ledger;
use self::{
    db::Database,
    env::Envs,
    secrets::{
        args::{has_sealed, seal_kept},
        key::KeyFile,
    },
    undo::Undoing,
};
use crate::{
    model::{
        App, Failure, Reason,
        catalog::{Catalog, Change},
    },
    vitals::Vitals,
};

/// The format of the records in the store; raised when older binaries could not read it.
///
/// 2: environments are sealed; an older binary would run apps without any.
const FORMAT: u32 = 2;
/// Page cache of the database in bytes; the catalog lives in memory, so a small one is enough.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// The database's folder in the data directory.
pub(crate) const FOLDER: &str = "store";

/// Exists in the database's folder while its files may still contain legible rows of an earlier
/// release. A rewrite replaces the folder, and with it this mark.
const SEALING: &str = "sealing";

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files exist and cannot be read as a store.
    #[error(
        "the store in {path} cannot be opened: {cause}; `ignite store check` says what can be read; restore the folder from a backup, or move it away to start without it"
    )]
    Corrupt {
        /// The folder of the database.
        path: String,
        /// The error of sled or of the record reader.
        cause: String,
    },
    /// Confirmed writes are damaged in the executions' journal.
    #[error(
        "{what}; nothing was changed: restore the data directory from a backup, or run `ignite store repair`, which keeps a copy of the journal, saves every whole write in it and says what is lost"
    )]
    Journal {
        /// Which journal, and where in it.
        what: String,
    },
    /// The key that seals environments cannot be used.
    #[error(
        "{cause}; correct the file, or restore it from a backup of the data directory; `ignite store export` exports everything else meanwhile"
    )]
    Key {
        /// Which key, and what is wrong with it.
        cause: String,
    },
    /// A newer `ignite` wrote it.
    #[error(
        "the store in {path} has format {found}, this ignite reads up to {known}; run the newer ignite that wrote it"
    )]
    Newer {
        /// The folder of the database.
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
    key: Arc<KeyFile>,
    ledger: Ledger,
}

impl Store {
    /// Opens or creates the store in a data directory and reads all of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        Self::open_watched(data_dir, &Vitals::default(), Ledger::default())
    }

    /// As [`Store::open`]. The writer reports to `vitals` that it lives. The stored bytes are
    /// entered in the ledger, whose bound applies to [`Store::commit_within`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_watched(data_dir: &Path, vitals: &Vitals, ledger: Ledger) -> Result<Self, Error> {
        let path = data_dir.join(FOLDER);
        let corrupt = |cause: String| Error::Corrupt {
            path: path.display().to_string(),
            cause,
        };
        let database = Database::open(&path, FORMAT, CACHE_BYTES)?;
        let key = Arc::new(KeyFile::new(data_dir));
        let envs = Envs::new(key.clone());
        let catalog =
            db::guarded(|| records::read_all(&database.tree, &envs)).map_err(|cause| match envs
                .key_error()
            {
                Some(cause) => Error::Key { cause },
                None => corrupt(cause),
            })?;
        let is_legible = database.format < FORMAT
            || path.join(SEALING).exists()
            || catalog.iter().any(|app| app.has_clear_args());
        let (database, catalog) = if is_legible {
            upgrade(database, &path, catalog, &envs, &key)?
        } else {
            (database, catalog)
        };
        ledger.add_catalog(&catalog);
        let visible = Arc::new(RwLock::new(catalog));
        let sealing = writer::Sealing {
            envs,
            ledger: ledger.clone(),
        };
        let writer = Undoing::new(database, &path, fault::Faults::default())
            .and_then(|database| writer::Writer::spawn(database, visible.clone(), sealing, vitals))
            .map_err(|e| corrupt(e.to_string()))?;
        Ok(Self {
            visible,
            writer: Arc::new(writer),
            key,
            ledger,
        })
    }

    /// The apps as they are on disk. Short reads only: a held guard delays the writer.
    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.visible.read()
    }

    /// How many bytes each organization keeps in the store.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Decides on the newest state and returns once the changes are durable and visible. Added
    /// bytes are counted and never refused.
    ///
    /// `decide` runs on the writer's thread, after every earlier change.
    ///
    /// # Errors
    /// The refusal of `decide`, or STORE_UNAVAILABLE when the change cannot be written.
    ///
    /// # Cancel safety
    /// A dropped call may still be carried out.
    pub async fn commit<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Change>, T), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(false, decide).await
    }

    /// As [`Store::commit`], but refuses a change that exceeds the organization's bound.
    ///
    /// # Errors
    /// STORE_QUOTA as well.
    ///
    /// # Cancel safety
    /// A dropped call may still be carried out.
    pub async fn commit_within<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Change>, T), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(true, decide).await
    }

    async fn send<T: Send + 'static>(
        &self,
        bounded: bool,
        decide: impl FnOnce(&Catalog) -> Result<(Vec<Change>, T), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (tx, rx) = oneshot::channel();
        let decide: writer::Decide = Box::new(move |catalog| match decide(catalog) {
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
        });
        self.writer.send(writer::Command { bounded, decide })?;
        // Every command sent before the store closes is answered.
        rx.await.unwrap_or_else(|_| Err(writer::failed()))
    }

    /// Whether the last write succeeded; a store that failed refuses work until one succeeds.
    pub fn healthy(&self) -> bool {
        self.writer.healthy()
    }

    /// Ends the writer once everything sent before is on disk. Blocks for that long.
    pub fn close(&self) {
        self.writer.close();
    }
}

/// Seals the environments and build arguments that an older `ignite` wrote in clear, and rewrites
/// the database so that no file contains them any more. Without a key everything stays unchanged;
/// no key is made while secrets of a lost one exist. Returns the resulting catalog.
///
/// Build arguments were sealed later, without a new format: arguments in clear are older than that.
fn upgrade(
    database: Database,
    path: &Path,
    mut catalog: Catalog,
    envs: &Envs,
    key: &KeyFile,
) -> Result<(Database, Catalog), Error> {
    let is_legible = |app: &&Arc<App>| app.has_env() || app.has_clear_args();
    let legible: Vec<_> = catalog.iter().filter(is_legible).cloned().collect();
    if !legible.is_empty() && envs.ready(has_sealed(&catalog)).is_err() {
        tracing::error!(
            "Environments and build arguments of apps stay legible in the store, since there is no key to seal them with"
        );
        return Ok((database, catalog));
    }
    let corrupt = |cause: String| Error::Corrupt {
        path: path.display().to_string(),
        cause,
    };
    crate::atomic_file::write(&path.join(SEALING), b"").map_err(|e| corrupt(e.to_string()))?;
    let mut batch = sled::Batch::default();
    batch.insert(db::FORMAT_KEY, &FORMAT.to_be_bytes());
    for app in legible {
        let app = if app.has_clear_args() {
            let key = key.get().map_err(corrupt)?;
            let sealed = seal_kept(&app, key);
            sealed
                .map(Arc::new)
                .ok_or_else(|| corrupt("the system gives no random bytes".to_owned()))?
        } else {
            app
        };
        catalog.apply(&Change::Put(Arc::clone(&app)));
        batch.insert(keys::app(&app.id), records::encode_app(&app, envs));
        for version in &app.versions {
            let row = records::encode_version(&app.id, version, envs);
            batch.insert(keys::version(&app.id, version.number), row);
        }
    }
    database.commit(batch).map_err(corrupt)?;
    drop(database);
    if let Err(cause) = Database::rewrite(path, FORMAT, CACHE_BYTES) {
        tracing::warn!(%cause, "The store could not be rewritten; earlier environments and build arguments stay legible in its files until the next start");
    }
    Ok((Database::open(path, FORMAT, CACHE_BYTES)?, catalog))
}

fn closed() -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        "the store is closed because the platform is stopping; try again",
    )
}

#[cfg(test)]
mod tests;
