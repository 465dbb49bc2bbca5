//! How an app's invocations that leave no record ended: one atomic add each, collected once a
//! second for the statistics.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::stats::{Outcome, OutcomeCounts};

/// Counts since they were last taken.
#[derive(Debug, Default)]
pub struct Outcomes {
    completed: AtomicU32,
    failed: AtomicU32,
    timeout: AtomicU32,
}

impl Outcomes {
    /// Counts one invocation.
    pub fn add(&self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Completed => &self.completed,
            Outcome::Failed => &self.failed,
            Outcome::TimedOut => &self.timeout,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the counts; `None` when there are none.
    pub(super) fn take(&self) -> Option<OutcomeCounts> {
        let tally = OutcomeCounts {
            completed: self.completed.swap(0, Ordering::Relaxed),
            failed: self.failed.swap(0, Ordering::Relaxed),
            timeout: self.timeout.swap(0, Ordering::Relaxed),
        };
        (tally != OutcomeCounts::default()).then_some(tally)
    }
}
