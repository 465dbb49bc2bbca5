//! What the engine refused to do for an app, and when the fleet asks again.
//!
//! A passing refusal (the engine was busy, out of descriptors, on its way down) must not cost the
//! app its standby until the next publish: the engine is asked again after waits that double. A
//! lasting refusal is remembered for as long as the app's containers are made alike.

use tokio::time::Instant;

use super::Config;
use crate::{backoff::Backoff, engine::Error};

/// The engine's last answer to one kind of request for an app, and what follows from it.
#[derive(Debug, Default)]
pub(super) enum Refusal {
    /// It complied the last time, or was never asked.
    #[default]
    None,
    /// It refused for a passing reason and is asked again at `at`.
    Until {
        at: Instant,
        /// The waits after further refusals.
        backoff: Backoff,
    },
    /// It refused for a reason that the same request would meet again.
    Lasting,
}

impl Refusal {
    /// Whether asking now is pointless.
    pub(super) fn stands(&self) -> bool {
        match self {
            Self::None => false,
            Self::Until { at, .. } => Instant::now() < *at,
            Self::Lasting => true,
        }
    }

    /// Records a refusal.
    pub(super) fn note(&mut self, error: &Error, config: &Config) {
        if !error.retryable() {
            *self = Self::Lasting;
            return;
        }
        let mut backoff = match std::mem::take(self) {
            Self::Until { backoff, .. } => backoff,
            Self::None | Self::Lasting => Backoff::new(config.backoff_initial, config.backoff_max),
        };
        *self = Self::Until {
            at: Instant::now() + backoff.next_wait(),
            backoff,
        };
    }

    /// Forgets the refusal: the engine complied, or the request would be a different one by now.
    pub(super) fn clear(&mut self) {
        *self = Self::None;
    }

    /// What follows, for log lines.
    pub(super) fn outlook(&self) -> &'static str {
        match self {
            Self::Lasting => "this app's standby goes without until it is published anew",
            Self::None | Self::Until { .. } => "it is tried again later",
        }
    }
}
