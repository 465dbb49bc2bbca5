//! The journal of executions, whose sync makes a batch durable.

use std::{fmt, time::Duration};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::instruments::{Counter, Histogram, SIZES, SYNCS};

/// What is counted of the journal.
#[derive(Debug)]
pub struct Store {
    appends: Histogram,
    batches: Histogram,
    failed: Counter,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            appends: Histogram::new(&SYNCS),
            batches: Histogram::new(&SIZES),
            failed: Counter::default(),
        }
    }
}

impl Store {
    /// A batch of so many commands was appended and synced.
    pub fn appended(&self, commands: usize, took: Duration) {
        self.appends.observe(took);
        self.batches.observe_units(commands as u64);
    }

    /// A batch could not be written.
    pub fn failed(&self) {
        self.failed.inc();
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let family = encoder.encode_descriptor(
            "ignite_journal_append_duration",
            "Appending a batch of executions to the journal, with the sync that makes it durable",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.appends.encode(family)?;
        let family = encoder.encode_descriptor(
            "ignite_journal_batch_commands",
            "Commands that shared one sync of the journal",
            None,
            MetricType::Histogram,
        )?;
        self.batches.encode(family)?;
        let family = encoder.encode_descriptor(
            "ignite_journal_failures",
            "Batches that could not be written to the journal",
            None,
            MetricType::Counter,
        )?;
        self.failed.encode(family)
    }
}
