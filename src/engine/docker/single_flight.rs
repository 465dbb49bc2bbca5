//! Work that many callers may request at a time, done once for all of them.
//!
//! It runs in a task, so that it continues when its caller gives up, and later callers join it.

use std::{collections::HashMap, fmt, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Error;

/// `None` until the work has ended.
type Outcome = Option<Result<(), Error>>;
type Running<K> = Arc<Mutex<HashMap<K, watch::Receiver<Outcome>>>>;

/// The running work, by the key that makes two requests the same.
#[derive(Debug)]
pub(super) struct SingleFlight<K> {
    /// What the work does, as a verb.
    call: &'static str,
    running: Running<K>,
    tasks: TaskTracker,
}

impl<K: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> SingleFlight<K> {
    pub(super) fn new(call: &'static str) -> Self {
        Self {
            call,
            running: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Joins the running work of this key, or begins it.
    ///
    /// # Errors
    /// Those of the work; `Refused` when it did not complete.
    pub(super) async fn run<W>(&self, key: K, work: impl FnOnce() -> W) -> Result<(), Error>
    where
        W: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut outcome = self.join(key, work);
        // Bound to a variable: the value's guard must not live in the tail expression.
        let ended = outcome
            .wait_for(Option::is_some)
            .await
            .map(|value| value.clone());
        ended.ok().flatten().unwrap_or_else(|| {
            Err(Error::Refused {
                call: self.call,
                status: 0,
                message: "it was given up".into(),
            })
        })
    }

    fn join<W>(&self, key: K, work: impl FnOnce() -> W) -> watch::Receiver<Outcome>
    where
        W: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(outcome) = running.get(&key) {
            return outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        let entry = Entry {
            running: Arc::clone(&self.running),
            key,
        };
        let work = work();
        self.tasks.spawn(async move {
            let result = work.await;
            // Removed from the map before the waiters are notified, so that a caller after a
            // failure starts the work anew instead of getting the old failure.
            drop(entry);
            done.send_replace(Some(result));
        });
        outcome
    }
}

/// Removes work from the map when it ends, even by a panic.
struct Entry<K: Eq + Hash> {
    running: Running<K>,
    key: K,
}

impl<K: Eq + Hash> Drop for Entry<K> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
