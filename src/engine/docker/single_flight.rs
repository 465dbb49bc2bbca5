//! Work that many may ask for at a time, done once for all of them.
//!
//! It runs in its own task, so that it goes on when the one who asked gives up, and later ones
//! join it.

use std::{collections::HashMap, fmt, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Error;

/// `None` until the work has ended.
type Outcome = Option<Result<(), Error>>;
type Running<K> = Arc<Mutex<HashMap<K, watch::Receiver<Outcome>>>>;

/// The work under way, by what makes two requests for it the same.
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

    /// Waits for the work of this key that is under way, or begins it.
    ///
    /// # Errors
    /// Those of the work; `Refused` when it did not come to an end.
    pub(super) async fn run<W>(&self, key: K, work: impl FnOnce() -> W) -> Result<(), Error>
    where
        W: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut outcome = self.join(key, work);
        // Bound to a name: the guard of the value must not live in the tail expression.
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
            // Out of the map before the waiters know, so that who asks after a failure has it tried
            // anew instead of getting the old failure.
            drop(entry);
            done.send_replace(Some(result));
        });
        outcome
    }
}

/// Takes work off the list when it ends, also by a panic.
struct Entry<K: Eq + Hash> {
    running: Running<K>,
    key: K,
}

impl<K: Eq + Hash> Drop for Entry<K> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
