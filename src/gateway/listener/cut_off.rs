//! Requests that take longer than a stop may last.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use tokio::sync::Notify;

use crate::model::{Failure, Reason};

/// Longest time for the last answers to reach their clients.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Whether the requests of one connection are cut off.
#[derive(Default)]
pub(super) struct CutOff {
    begun: AtomicBool,
    /// Wakes the requests of HTTP/2, which have tasks of their own.
    wake: Notify,
}

impl CutOff {
    /// Ends each request that has no answer yet, those of HTTP/1.1 once their connection is polled.
    pub(super) fn begin(&self) {
        self.begun.store(true, Relaxed);
        self.wake.notify_waiters();
    }

    /// Returns once the requests are cut off. That of HTTP/1.1 is polled with its connection, so that
    /// it looks and takes no lock.
    pub(super) async fn wait(&self, is_http2: bool) {
        let begun = || self.begun.load(Relaxed);
        if is_http2 {
            let woken = self.wake.notified();
            if !begun() {
                woken.await;
            }
            return;
        }
        poll_fn(|_| {
            if begun() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// What a request that is cut off is answered.
pub(super) fn failure() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "the platform is stopping, and the request took longer than it waits for (IGNITE_DRAIN_TIMEOUT_SECS); send it again, if it may be done twice",
    )
}
