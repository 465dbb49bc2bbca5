//! Moves long work on messages off the threads that carry connections.
//!
//! A thread carries many connections, and reading 60 MB of JSON takes a good part of a second in
//! which none of them would progress. Work on few bytes runs in place, where moving it would cost
//! more than it saves; the rest runs on a bounded number of blocking threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Messages of at least this size move to another thread: their work takes milliseconds, the move
/// some tens of microseconds.
const LARGE_BYTES: usize = 256 * 1024;

/// Bounds how many large messages are worked on at a time.
#[derive(Debug, Clone)]
pub(super) struct Offload(Arc<Semaphore>);

impl Offload {
    /// At most `at_once` at a time, and at least one.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once.max(1))))
    }

    /// Runs `work` on a message of `bytes` bytes. Work that has started completes even if the
    /// caller is dropped.
    ///
    /// # Panics
    /// When `work` does.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if bytes < LARGE_BYTES {
            return work();
        }
        let turn = self.0.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        match done.await {
            Ok(done) => done,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and drops this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_large_is_done_elsewhere_and_not_all_at_once() {
        let offload = Offload::new(2);
        let here = thread::current().id();
        let small = offload
            .run(LARGE_BYTES - 1, || thread::current().id())
            .await;
        assert_eq!(small, here);
        let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let all = (0..20).map(|_| {
            let (now, most) = (now.clone(), most.clone());
            offload.run(LARGE_BYTES, move || {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::yield_now();
                now.fetch_sub(1, SeqCst);
                thread::current().id()
            })
        });
        for large in futures_util::future::join_all(all).await {
            assert_ne!(large, here);
        }
        assert!(most.load(SeqCst) <= 2);
    }
}
