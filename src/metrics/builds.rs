//! Builds. How many wait and run is read from the builder at each scrape.

use std::{fmt, time::Duration};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{
    instruments::{Histogram, LONG},
    labels::CountersBy,
};

/// What is counted of builds.
#[derive(Debug)]
pub struct Builds {
    ended: CountersBy,
    took: Histogram,
}

impl Default for Builds {
    fn default() -> Self {
        Self {
            ended: CountersBy::default(),
            took: Histogram::new(&LONG),
        }
    }
}

impl Builds {
    /// A build ended, by `OK` or the reason of its failure, its wait included.
    pub fn ended(&self, outcome: &'static str, took: Duration) {
        self.ended.inc(outcome);
        self.took.observe(took);
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.ended.encode(
            encoder,
            (
                "ignite_builds",
                "Builds that ended, by OK or the reason of their failure",
            ),
            "outcome",
        )?;
        let family = encoder.encode_descriptor(
            "ignite_build_duration",
            "From a build's request to its end, its wait included",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.took.encode(family)
    }
}
