//! Recent failures of an app, and when its next start is tried.
//!
//! After the first failure whose cause may pass, held requests keep waiting and the next start
//! follows at once. A certain cause, or a second failure in a row, fails all of them unless a
//! replica still serves, and refuses new ones until the back-off ends (`task_outcome.rs`,
//! `routing.rs`).

use std::time::Duration;

use tokio::time::Instant;

use crate::{fleet::Config, model::Failure};

/// A replica that dies sooner than this after it became ready counts as a crash for the back-off.
const CRASH_WINDOW: Duration = Duration::from_secs(10);

/// The failures of an app since its last success.
#[derive(Debug, Default)]
pub(super) struct FailureHistory {
    /// Failed starts since the last good one.
    failed_starts: u32,
    /// Replicas in a row that died soon after they became ready.
    crashes: u32,
    /// The next start is not tried before this time.
    retry_at: Option<Instant>,
    /// Why starting cannot succeed now.
    certain: Option<Failure>,
}

impl FailureHistory {
    /// Failed starts since the last good one.
    pub(super) fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    /// Whether anything has failed since the last success.
    pub(super) fn is_recent(&self) -> bool {
        self.failed_starts + self.crashes > 0
    }

    /// Why starting cannot succeed now.
    pub(super) fn certain(&self) -> Option<&Failure> {
        self.certain.as_ref()
    }

    /// When the next start is tried, if it is put off.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| now < *at)
    }

    /// The failure of a request while starting cannot succeed.
    pub(super) fn refusal(&self, now: Instant) -> Option<Failure> {
        let (why, at) = (self.certain.as_ref()?, self.waits_until(now)?);
        Some(why.clone().with_retry_after(at - now))
    }

    /// Records a failed start; true if the next one is certain to fail as well. One failure may be
    /// chance, two in a row are not.
    pub(super) fn start_failed(
        &mut self,
        failure: &Failure,
        certain: bool,
        config: &Config,
    ) -> bool {
        self.failed_starts += 1;
        let failures = self.failed_starts;
        let certain = certain || failures >= 2;
        self.back_off(config, if certain { failures.max(2) } else { failures });
        if certain {
            self.certain = Some(failure.clone());
        }
        certain
    }

    /// Records a successful start.
    pub(super) fn started(&mut self) {
        self.failed_starts = 0;
        self.certain = None;
    }

    /// Records the death of a replica that was ready for `ran`.
    pub(super) fn died(&mut self, ran: Duration, config: &Config) {
        self.crashes = if ran < CRASH_WINDOW {
            self.crashes + 1
        } else {
            0
        };
        self.back_off(config, self.crashes);
    }

    /// Refuses starts for the time `stands`.
    pub(super) fn refuse(&mut self, why: Failure, stands: Duration) {
        self.certain = Some(why);
        self.retry_at = Some(Instant::now() + stands);
    }

    /// Puts the next start off by the back-off for `failures` in a row; the first retry is
    /// immediate.
    fn back_off(&mut self, config: &Config, failures: u32) {
        let wait = match failures {
            0 | 1 => Duration::ZERO,
            n => config
                .backoff_initial
                .saturating_mul(1 << (n - 2).min(16))
                .min(config.backoff_max),
        };
        self.retry_at = Some(Instant::now() + wait);
    }
}
