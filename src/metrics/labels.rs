//! Counters by the value of one label. The values come from closed sets in the code, so there are
//! few; the lock is short, and nothing on the way of a warm request takes it.

use std::{collections::BTreeMap, fmt};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

/// Counters by one label.
#[derive(Debug, Default)]
pub(super) struct CountersBy {
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl CountersBy {
    pub(super) fn inc(&self, value: &'static str) {
        *self.counts.lock().entry(value).or_default() += 1;
    }

    /// Writes the family, unless nothing was counted yet: a family without a value is no family.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        label: &str,
    ) -> fmt::Result {
        let counts = self.counts.lock().clone();
        if counts.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}
