//! Whether every part of the process that owns state is alive.
//!
//! A thread or task that owns state holds a [`Latch`] and releases it when it ends as it should. A
//! panic, or any other unexpected end, drops the latch unreleased, which trips it: from then on the
//! process is not ready, callers that depend on the part get an error, and the server writes what
//! it can to the disk and exits with [`EXIT_PART_FAILED`], so that its service manager restarts it.
//! A process that continued without the part would look healthy and fail every request.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use crate::model::{Failure, Reason};

/// The exit code of a server after one of its parts failed: BSD's EX_SOFTWARE.
pub const EXIT_PART_FAILED: i32 = 70;

/// Environment variable that names a part to panic at its first work, so that tests see a whole
/// process die of it. Release builds ignore it.
const TEST_PANIC: &str = "TEST_PANIC_IN_IGNITE";

/// The state of the process's parts; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The first part that failed.
    failed: watch::Sender<Option<String>>,
    /// Whether the process serves, during which no part may end.
    serving: AtomicBool,
}

/// Held by a part while it runs.
#[derive(Debug)]
pub struct Latch {
    vitals: Vitals,
    part: String,
    released: bool,
}

impl Vitals {
    /// A latch for a part, under the name that users will read ("the catalog's writer").
    pub fn latch(&self, part: impl Into<String>) -> Latch {
        Latch {
            vitals: self.clone(),
            part: part.into(),
            released: false,
        }
    }

    /// Runs a part under a latch, which its end releases and a panic trips.
    pub fn watch<F: Future>(
        &self,
        part: &str,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let latch = self.latch(part);
        async move {
            let outcome = work.await;
            latch.release();
            outcome
        }
    }

    /// Records that a part has failed.
    pub fn trip(&self, part: &str) {
        self.shared.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert_with(|| part.to_owned());
            is_first
        });
        tracing::error!(
            part,
            "A part of the platform failed; the process ends and has to be started again"
        );
    }

    /// The first part that failed.
    pub fn failed(&self) -> Option<String> {
        self.shared.failed.borrow().clone()
    }

    /// Waits until a part fails, and returns its name.
    pub async fn failure(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        let part = match failed.wait_for(Option::is_some).await {
            Ok(part) => part.clone(),
            Err(_) => None,
        };
        match part {
            Some(part) => part,
            None => std::future::pending().await,
        }
    }

    /// Sets whether the process serves, which it does from when it is ready to when it stops.
    /// Before and after, parts may end without releasing their latches; a panic trips at any time.
    pub fn set_serving(&self, serving: bool) {
        self.shared.serving.store(serving, Ordering::Relaxed);
    }

    /// Panics when a test of the whole process asks for a panic in this part. Does nothing in
    /// release builds.
    pub fn test_panic(part: &str) {
        if cfg!(debug_assertions) {
            let asked = std::env::var(TEST_PANIC).is_ok_and(|asked| asked == part);
            assert!(!asked, "{TEST_PANIC} asks for it");
        }
    }
}

/// The failure of everything that depends on a part that failed.
pub fn part_failed(reason: Reason, part: &str) -> Failure {
    Failure::new(
        reason,
        format!(
            "{part} of the platform failed; its log says more; it ends with exit code {EXIT_PART_FAILED} and continues once it is started again, so try again then"
        ),
    )
}

impl Latch {
    /// Records that the part ends as it should.
    pub fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let may_end = self.released || !self.vitals.shared.serving.load(Ordering::Relaxed);
        if std::thread::panicking() || !may_end {
            self.vitals.trip(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_and_an_end_that_nobody_asked_for_trip_and_a_release_does_not() {
        let vitals = Vitals::default();
        vitals.set_serving(true);
        vitals.latch("a part").release();
        vitals.watch("another", async {}).await;
        assert_eq!(vitals.failed(), None);
        let waiting = tokio::spawn({
            let vitals = vitals.clone();
            async move { vitals.failure().await }
        });
        let died = tokio::spawn(vitals.watch("the one that dies", async { panic!("on purpose") }));
        assert!(died.await.expect_err("panics").is_panic());
        assert_eq!(waiting.await.expect("waits"), "the one that dies");
        drop(vitals.latch("a later one"));
        assert_eq!(
            vitals.failed().as_deref(),
            Some("the one that dies"),
            "the first is told"
        );

        let vitals = Vitals::default();
        vitals.set_serving(true);
        let aborted = tokio::spawn(vitals.watch("aborted", std::future::pending::<()>()));
        aborted.abort();
        assert!(aborted.await.expect_err("aborted").is_cancelled());
        assert_eq!(vitals.failed().as_deref(), Some("aborted"));
    }

    #[tokio::test]
    async fn parts_may_end_while_the_process_starts_or_stops_and_may_not_panic() {
        let vitals = Vitals::default();
        drop(vitals.latch("of a start that fails"));
        vitals.set_serving(true);
        let latch = vitals.latch("a part");
        vitals.set_serving(false);
        drop(latch);
        assert_eq!(vitals.failed(), None);
        let died = tokio::spawn(vitals.watch("a part", async { panic!("on purpose") }));
        died.await.expect_err("panics");
        assert_eq!(vitals.failed().as_deref(), Some("a part"));
    }
}
