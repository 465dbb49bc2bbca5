//! Requests that wait for the keys of an issuer, and the fetches that they wait for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// Longest wait of a request for a fetch: the pause, and a fetch that takes its time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests that wait for one issuer; more are refused at once.
const MOST_WAITING: usize = 4096;

/// The fetches from one issuer, as requests wait for them.
#[derive(Clone, Default)]
pub(in crate::identity) struct Fetches(Arc<State>);

#[derive(Default)]
struct State {
    /// How many have begun, and how many have ended.
    count: watch::Sender<(u64, u64)>,
    wanted: Notify,
    waiting: AtomicUsize,
}

/// A request that waits for a fetch.
pub(in crate::identity) struct Waiting {
    fetches: Fetches,
    /// The first fetch that begins after the request came.
    until: u64,
}

impl Fetches {
    /// Asks for a fetch, and waits for it; `None` when too many wait.
    pub(in crate::identity) fn next(&self) -> Option<Waiting> {
        let State {
            count,
            wanted,
            waiting,
        } = &*self.0;
        let taken = waiting.fetch_update(Relaxed, Relaxed, |n| (n < MOST_WAITING).then_some(n + 1));
        taken.ok()?;
        let until = count.borrow().0 + 1;
        wanted.notify_one();
        Some(Waiting {
            fetches: self.clone(),
            until,
        })
    }

    /// Notes that a fetch begins.
    pub(super) fn begin(&self) {
        self.0.count.send_modify(|(begun, _)| *begun += 1);
    }

    /// Notes that it has ended, and lets who waited for it go on.
    pub(super) fn end(&self) {
        self.0.count.send_modify(|(begun, ended)| *ended = *begun);
    }

    /// Returns once a request has asked for a fetch since this returned last.
    pub(super) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }
}

impl Waiting {
    /// Returns once a fetch has brought what is waited for, or one that began later has ended.
    pub(in crate::identity) async fn until(self, is_there: impl Fn() -> bool) {
        let mut count = self.fetches.0.count.subscribe();
        let done = count.wait_for(|(_, ended)| *ended >= self.until || is_there());
        let _ = timeout(PATIENCE, done).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.fetches.0.waiting.fetch_sub(1, Relaxed);
    }
}
