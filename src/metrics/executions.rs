//! Executions and their attempts. How many wait and run is read from the store at each scrape.

use std::{fmt, time::Duration};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{
    instruments::{Counter, Histogram, LONG},
    labels::CountersBy,
};

/// How one attempt of an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The app answered, or the execution ended for good otherwise.
    Ended,
    /// The app did not receive the request.
    Unsent,
    /// The connection broke before the answer was complete.
    Broke,
    /// It was cancelled, or the platform stopped.
    Left,
}

impl AttemptOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Unsent => "unsent",
            Self::Broke => "broke",
            Self::Left => "left",
        }
    }
}

/// What is counted of executions.
#[derive(Debug)]
pub struct Executions {
    accepted: Counter,
    ended: CountersBy,
    attempts: CountersBy,
    queued: Histogram,
    ran: Histogram,
}

impl Default for Executions {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            ended: CountersBy::default(),
            attempts: CountersBy::default(),
            queued: Histogram::new(&LONG),
            ran: Histogram::new(&LONG),
        }
    }
}

impl Executions {
    /// One was accepted: it is on disk.
    pub fn accepted(&self) {
        self.accepted.inc();
    }

    /// One ended with a status, and its end is on disk.
    pub fn ended(&self, status: &'static str) {
        self.ended.inc(status);
    }

    /// One got its first replica of this run, after it had waited.
    pub fn dispatched_after(&self, waited: Duration) {
        self.queued.observe(waited);
    }

    /// An attempt ended.
    pub fn attempt(&self, outcome: AttemptOutcome, took: Duration) {
        self.attempts.inc(outcome.as_str());
        self.ran.observe(took);
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let family = encoder.encode_descriptor(
            "ignite_executions_accepted",
            "Asynchronous executions that were accepted",
            None,
            MetricType::Counter,
        )?;
        self.accepted.encode(family)?;
        self.ended.encode(
            encoder,
            (
                "ignite_executions_ended",
                "Asynchronous executions that ended, by their status",
            ),
            "status",
        )?;
        self.attempts.encode(
            encoder,
            (
                "ignite_execution_attempts",
                "Attempts of executions that ended",
            ),
            "outcome",
        )?;
        for (name, help, histogram) in [
            (
                "ignite_execution_queue_duration",
                "From an execution's acceptance, or the start of this process, to its first replica",
                &self.queued,
            ),
            (
                "ignite_execution_attempt_duration",
                "How long one attempt of an execution ran",
                &self.ran,
            ),
        ] {
            let unit = Some(&Unit::Seconds);
            histogram.encode(encoder.encode_descriptor(
                name,
                help,
                unit,
                MetricType::Histogram,
            )?)?;
        }
        Ok(())
    }
}
