//! The one thread that writes the catalog: collect, decide, write, flush, sync, show, answer.
//!
//! sled's `flush_async` deadlocks under concurrent callers, and one flush can serve many changes,
//! so all changes go through this thread.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use super::{
    closed,
    env::Envs,
    keys,
    ledger::Ledger,
    records,
    secrets::args::has_sealed,
    undo::{NotSaved, Rows, Undoing},
};
use crate::{
    model::{
        Failure, OrgName, Reason,
        catalog::{Catalog, Change},
        stored,
    },
    vitals::{Vitals, part_failed},
};

/// The most commands that share one flush; bounds how long the first of them waits.
const BATCH: usize = 1024;
/// Interval between two probes after a failed write.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The name under which users see this thread.
const PART: &str = "the catalog's writer";

/// The answer to callers once the thread has died.
pub(super) fn failed() -> Failure {
    part_failed(Reason::StoreUnavailable, PART)
}

type Answer = Box<dyn FnOnce(Result<(), Failure>) + Send>;
/// Reads the newest state; returns the changes, and a function to call with their outcome.
pub(super) type Decide = Box<dyn FnOnce(&Catalog) -> (Vec<Change>, Answer) + Send>;

/// A decision to make.
pub(super) struct Command {
    /// Whether the bytes it adds must fit the organization's bound.
    pub(super) bounded: bool,
    pub(super) decide: Decide,
}

/// What seals and counts changes before they are written.
pub(super) struct Sealing {
    pub(super) envs: Envs,
    pub(super) ledger: Ledger,
}

pub(super) struct Writer {
    // `None` once closed: dropping the sender ends the thread after what was sent before.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn spawn(
        database: Undoing,
        visible: Arc<RwLock<Catalog>>,
        sealing: Sealing,
        vitals: &Vitals,
    ) -> io::Result<Self> {
        let (tx, rx) = mpsc::channel();
        let healthy = Arc::new(AtomicBool::new(true));
        let health = healthy.clone();
        let latch = vitals.latch(PART);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                run(database, &visible, &sealing, &rx, &health);
                latch.release();
            })?;
        Ok(Self {
            commands: Mutex::new(Some(tx)),
            thread: Mutex::new(Some(thread)),
            healthy,
        })
    }

    pub(super) fn send(&self, command: Command) -> Result<(), Failure> {
        match &*self.commands.lock() {
            Some(tx) => tx.send(command).map_err(|_| failed()),
            None => Err(closed()),
        }
    }

    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.commands.lock().take();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("The store's writer panicked");
        }
    }
}

fn run(
    mut database: Undoing,
    visible: &RwLock<Catalog>,
    Sealing { envs, ledger }: &Sealing,
    commands: &mpsc::Receiver<Command>,
    healthy: &AtomicBool,
) {
    let mut newest = visible.read().clone();
    loop {
        let first = if healthy.load(Ordering::Relaxed) {
            commands.recv().map_err(RecvTimeoutError::from)
        } else {
            commands.recv_timeout(PROBE_INTERVAL)
        };
        let first = match first {
            Ok(first) => first,
            // Probed because clients may send nothing to a server that reports itself not ready.
            Err(RecvTimeoutError::Timeout) => {
                let probed = database.probe();
                if probed.is_ok() {
                    tracing::info!("The store accepts changes again");
                }
                healthy.store(probed.is_ok(), Ordering::Relaxed);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        Vitals::test_panic(PART);
        let mut rows = Rows::new();
        let (mut changes, mut answers) = (Vec::new(), Vec::new());
        let mut entries = Entries::default();
        let waiting = std::iter::from_fn(|| commands.try_recv().ok());
        for command in std::iter::once(first).chain(waiting).take(BATCH) {
            let (decided, answer) = (command.decide)(&newest);
            let may = ready(envs, &newest, &decided)
                .and_then(|()| entries.enter(ledger, &newest, &decided, command.bounded));
            if let Err(refusal) = may {
                answer(Err(refusal));
                continue;
            }
            for change in &decided {
                stage(&mut rows, &newest, envs, change);
                newest.apply(change);
            }
            changes.extend(decided);
            answers.push(answer);
        }
        let outcome = if changes.is_empty() {
            Ok(())
        } else {
            database.commit(&rows)
        };
        if !changes.is_empty() {
            healthy.store(outcome.is_ok(), Ordering::Relaxed);
        }
        match &outcome {
            Ok(()) => {
                let mut seen = visible.write();
                changes.iter().for_each(|c| seen.apply(c));
                drop(seen);
                entries.written(ledger);
            }
            Err(failed) => {
                tracing::error!(cause = %failed.cause, undone = failed.undone, "A change could not be written to the store; it is refused");
                newest = visible.read().clone();
                entries.refused(ledger);
            }
        }
        let refusal = outcome.as_ref().map_err(NotSaved::text);
        for answer in answers {
            answer(
                refusal
                    .as_ref()
                    .map(|_| ())
                    .map_err(|why| Failure::new(Reason::StoreUnavailable, why.clone())),
            );
        }
    }
}

/// The ledger entries of a batch.
#[derive(Default)]
struct Entries {
    /// Entered as soon as they are decided.
    added: Vec<(OrgName, u64)>,
    /// Taken out once the rows are off the disk.
    removed: Vec<(OrgName, u64)>,
}

impl Entries {
    fn enter(
        &mut self,
        ledger: &Ledger,
        before: &Catalog,
        decided: &[Change],
        bounded: bool,
    ) -> Result<(), Failure> {
        let first = self.added.len();
        let (added, removed): (Vec<_>, Vec<_>) = stored::changed(before, decided)
            .into_iter()
            .partition(|(_, bytes)| *bytes > 0);
        for (org, bytes) in added {
            let bytes = bytes.unsigned_abs();
            if !bounded {
                ledger.add(&org, bytes);
            } else if let Err(refusal) = ledger.add_within(&org, bytes) {
                for (org, bytes) in self.added.drain(first..) {
                    ledger.remove(&org, bytes);
                }
                return Err(refusal);
            }
            self.added.push((org, bytes));
        }
        let removed = removed.into_iter();
        self.removed
            .extend(removed.map(|(org, bytes)| (org, bytes.unsigned_abs())));
        Ok(())
    }

    fn written(self, ledger: &Ledger) {
        for (org, bytes) in self.removed {
            ledger.remove(&org, bytes);
        }
    }

    fn refused(self, ledger: &Ledger) {
        for (org, bytes) in self.added {
            ledger.remove(&org, bytes);
        }
    }
}

/// Opens or creates the key if a change needs sealing.
fn ready(envs: &Envs, before: &Catalog, changes: &[Change]) -> Result<(), Failure> {
    let seals = |change: &Change| matches!(change, Change::Put(app) if app.has_env());
    if changes.iter().any(seals) {
        envs.ready(has_sealed(before))
    } else {
        Ok(())
    }
}

fn stage(rows: &mut Rows, before: &Catalog, envs: &Envs, change: &Change) {
    let mut put = |key: Vec<u8>, value: Vec<u8>| drop(rows.insert(key, Some(value)));
    match change {
        Change::Put(app) => {
            put(keys::app(&app.id), records::encode_app(app, envs));
            let known = before.get(&app.id);
            // Versions are sorted by number.
            let is_known = |n| {
                known.is_some_and(|k| k.versions.binary_search_by_key(&n, |v| v.number).is_ok())
            };
            for version in app.versions.iter().filter(|v| !is_known(v.number)) {
                put(
                    keys::version(&app.id, version.number),
                    records::encode_version(&app.id, version, envs),
                );
            }
            let is_left = |n| app.versions.binary_search_by_key(&n, |v| v.number).is_ok();
            let known = known.into_iter().flat_map(|k| &k.versions);
            for version in known.filter(|v| !is_left(v.number)) {
                rows.insert(keys::version(&app.id, version.number), None);
            }
        }
        Change::Delete(id) => {
            rows.insert(keys::app(id), None);
            for version in before.get(id).iter().flat_map(|a| &a.versions) {
                rows.insert(keys::version(id, version.number), None);
            }
        }
        Change::PutSecret(secret) => {
            let row = records::encode_secret(secret);
            put(keys::secret(&secret.org, &secret.name), row);
        }
        Change::DeleteSecret(org, name) => drop(rows.insert(keys::secret(org, name), None)),
        Change::PutPulled(image) => {
            put(keys::pulled(image.key()), records::encode_pulled(image));
        }
        Change::DeletePulled(key) => drop(rows.insert(keys::pulled(key), None)),
        Change::MarkVolumeForDeletion(id, since) => {
            put(keys::volume_to_delete(id, *since), Vec::new())
        }
        Change::VolumeGone(id, since) => {
            drop(rows.insert(keys::volume_to_delete(id, *since), None))
        }
    }
}
