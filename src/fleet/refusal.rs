//! What the engine refused to do for an app, and when it is asked again.
//!
//! A passing refusal (the engine was busy, out of descriptors, on its way down) must not cost the
//! app its standby until somebody publishes: it is asked again after a pause that doubles. One that
//! will be the same next time is remembered for as long as the app's containers are made alike.

use std::time::Duration;

use tokio::time::Instant;

use super::Config;
use crate::engine::Error;

/// Whether the engine is to be asked for something now.
#[derive(Debug, Default)]
pub(super) enum Refusal {
    /// It did it the last time, or was never asked.
    #[default]
    None,
    /// It may do it by then.
    Until {
        at: Instant,
        /// How long was waited this time.
        pause: Duration,
    },
    /// It cannot.
    Lasting,
}

impl Refusal {
    /// Whether there is no use in asking now.
    pub(super) fn stands(&self) -> bool {
        match self {
            Self::None => false,
            Self::Until { at, .. } => Instant::now() < *at,
            Self::Lasting => true,
        }
    }

    /// The engine refused.
    pub(super) fn note(&mut self, error: &Error, config: &Config) {
        let pause = match self {
            _ if !error.retryable() => {
                *self = Self::Lasting;
                return;
            }
            Self::Until { pause, .. } => (*pause * 2).min(config.backoff_max),
            Self::None | Self::Lasting => config.backoff_initial,
        };
        *self = Self::Until {
            at: Instant::now() + pause,
            pause,
        };
    }

    /// The engine did it, or what is asked for is another thing by now.
    pub(super) fn clear(&mut self) {
        *self = Self::None;
    }

    /// What follows, for people.
    pub(super) fn outlook(&self) -> &'static str {
        match self {
            Self::Lasting => "this app's standby goes without until it is published anew",
            Self::None | Self::Until { .. } => "it is tried again later",
        }
    }
}
