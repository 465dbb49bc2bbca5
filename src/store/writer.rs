//! The one thread that writes: collect, decide, write, flush, sync, show, answer.
//!
//! sled's `flush_async` deadlocks under concurrent callers, and one flush can serve many
//! changes, so everything goes through here.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use parking_lot::{Mutex, RwLock};

use super::{closed, db::Database, keys, records};
use crate::model::{
    Failure, Reason,
    catalog::{Catalog, Change},
};

/// Most commands that share one flush; bounds how long the first of them waits.
const BATCH: usize = 1024;

type Answer = Box<dyn FnOnce(Result<(), Failure>) + Send>;
/// Reads the newest state; yields the changes and whom to tell of their fate.
pub(super) type Command = Box<dyn FnOnce(&Catalog) -> (Vec<Change>, Answer) + Send>;

pub(super) struct Writer {
    // `None` once closed: dropping the sender ends the thread after what was sent before.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn spawn(database: Database, visible: Arc<RwLock<Catalog>>) -> io::Result<Self> {
        let (tx, rx) = mpsc::channel();
        let healthy = Arc::new(AtomicBool::new(true));
        let health = healthy.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&database, &visible, &rx, &health))?;
        Ok(Self {
            commands: Mutex::new(Some(tx)),
            thread: Mutex::new(Some(thread)),
            healthy,
        })
    }

    pub(super) fn send(&self, command: Command) -> Result<(), Failure> {
        let sent = self
            .commands
            .lock()
            .as_ref()
            .is_some_and(|tx| tx.send(command).is_ok());
        if sent { Ok(()) } else { Err(closed()) }
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
    database: &Database,
    visible: &RwLock<Catalog>,
    commands: &mpsc::Receiver<Command>,
    healthy: &AtomicBool,
) {
    let mut newest = visible.read().clone();
    while let Ok(first) = commands.recv() {
        let mut batch = sled::Batch::default();
        let (mut changes, mut answers) = (Vec::new(), Vec::new());
        let waiting = std::iter::from_fn(|| commands.try_recv().ok());
        for command in std::iter::once(first).chain(waiting).take(BATCH) {
            let (decided, answer) = command(&newest);
            for change in &decided {
                stage(&mut batch, &newest, change);
                newest.apply(change);
            }
            changes.extend(decided);
            answers.push(answer);
        }
        let outcome = if changes.is_empty() {
            Ok(())
        } else {
            database.commit(batch)
        };
        if !changes.is_empty() {
            healthy.store(outcome.is_ok(), Ordering::Relaxed);
        }
        match &outcome {
            Ok(()) => {
                let mut seen = visible.write();
                changes.iter().for_each(|c| seen.apply(c));
            }
            Err(cause) => {
                tracing::error!(%cause, "The store did not take a change; it is undone and refused");
                newest = visible.read().clone();
            }
        }
        for answer in answers {
            answer(outcome.as_ref().map(|_| ()).map_err(|cause| {
                Failure::new(
                    Reason::StoreUnavailable,
                    format!("the change was not saved ({cause}); free disk space on the data directory's volume, then start ignite again: until then nothing is saved"),
                )
            }));
        }
    }
    if let Err(cause) = database.tree.flush() {
        tracing::error!(%cause, "The store did not flush at its end");
    }
}

fn stage(batch: &mut sled::Batch, before: &Catalog, change: &Change) {
    match change {
        Change::Put(app) => {
            batch.insert(keys::app(&app.id), records::encode_app(app));
            let known = before.get(&app.id);
            let is_known = |n| known.is_some_and(|k| k.versions.iter().any(|v| v.number == n));
            for version in app.versions.iter().filter(|v| !is_known(v.number)) {
                batch.insert(
                    keys::version(&app.id, version.number),
                    records::encode_version(version),
                );
            }
        }
        Change::Delete(id) => {
            batch.remove(keys::app(id));
            for version in before.get(id).iter().flat_map(|a| &a.versions) {
                batch.remove(keys::version(id, version.number));
            }
        }
        Change::PutSecret(secret) => {
            let row = records::encode_secret(secret);
            batch.insert(keys::secret(&secret.org, &secret.name), row);
        }
        Change::DeleteSecret(org, name) => batch.remove(keys::secret(org, name)),
        Change::PutPulled(image) => {
            batch.insert(keys::pulled(image.key()), records::encode_pulled(image));
        }
        Change::DeletePulled(key) => batch.remove(keys::pulled(key)),
        Change::DoomVolume(id, since) => batch.insert(keys::doomed(id, *since), &[]),
        Change::VolumeGone(id, since) => batch.remove(keys::doomed(id, *since)),
    }
}
