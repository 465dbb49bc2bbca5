//! Spans on their way to the collector.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::instruments::Counter;

/// What is counted of traces.
#[derive(Debug, Default)]
pub struct Traces {
    sent: Counter,
    dropped: Counter,
}

impl Traces {
    /// The collector took so many spans.
    pub fn sent(&self, spans: u64) {
        self.sent.add(spans);
    }

    /// So many spans were lost: the collector did not take them, or not in time.
    pub fn dropped(&self, spans: u64) {
        self.dropped.add(spans);
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, counter) in [
            (
                "ignite_spans_sent",
                "Spans that the collector took",
                &self.sent,
            ),
            (
                "ignite_spans_dropped",
                "Spans that the collector did not take, or not in time",
                &self.dropped,
            ),
        ] {
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}
