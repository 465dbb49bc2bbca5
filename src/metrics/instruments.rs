//! Counters and histograms.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeMetric as _, MetricEncoder, NoLabelSet},
    metrics::exemplar::{Exemplar, HistogramWithExemplars},
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds so many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, f64>(&self.get(), None::<&Exemplar<_, f64>>)
    }
}

/// The upper bounds of a histogram's buckets, in whole units, and the size of a unit in the base
/// unit of the exposition.
#[derive(Debug)]
pub(super) struct Scale {
    bounds: &'static [u64],
    unit: f64,
}

const MS: u64 = 1_000_000;
const NANOSECOND: f64 = 1e-9;

/// Durations of requests: from a warm answer to the longest cold start that somebody waits for.
pub(super) static REQUESTS: Scale = Scale {
    bounds: &[
        MS / 2,
        MS,
        5 * MS / 2,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        1_000 * MS,
        2_500 * MS,
        5_000 * MS,
        10_000 * MS,
        60_000 * MS,
    ],
    unit: NANOSECOND,
};

/// Durations of wakes and engine calls: from thawing a cgroup to a slow app's own start.
pub(super) static STARTS: Scale = Scale {
    bounds: &[
        MS,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        200 * MS,
        300 * MS,
        500 * MS,
        1_000 * MS,
        2_000 * MS,
        5_000 * MS,
        10_000 * MS,
        30_000 * MS,
        120_000 * MS,
    ],
    unit: NANOSECOND,
};

/// Durations of work that may take minutes: builds, executions and their wait.
pub(super) static LONG: Scale = Scale {
    bounds: &[
        10 * MS,
        50 * MS,
        100 * MS,
        500 * MS,
        1_000 * MS,
        5_000 * MS,
        15_000 * MS,
        60_000 * MS,
        300_000 * MS,
        900_000 * MS,
        3_600_000 * MS,
    ],
    unit: NANOSECOND,
};

/// Durations of one write to the disk with its sync.
pub(super) static SYNCS: Scale = Scale {
    bounds: &[
        MS / 10,
        MS / 4,
        MS / 2,
        MS,
        5 * MS / 2,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        1_000 * MS,
    ],
    unit: NANOSECOND,
};

/// Sizes of batches.
pub(super) static SIZES: Scale = Scale {
    bounds: &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1024],
    unit: 1.0,
};

/// How often values fell into each of some ranges, and their sum.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and one for what is above all.
    buckets: Box<[AtomicU64]>,
    /// In units; enough for the nanoseconds of 584 years.
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(scale: &'static Scale) -> Self {
        Self {
            scale,
            buckets: (0..=scale.bounds.len())
                .map(|_| AtomicU64::default())
                .collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        self.observe_units(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a value in whole units.
    pub(super) fn observe_units(&self, value: u64) {
        let at = self.scale.bounds.partition_point(|bound| *bound < value);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Scale { bounds, unit } = self.scale;
        let bounds = bounds.iter().map(|bound| *bound as f64 * unit);
        let counts = self.buckets.iter().map(|n| n.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        // Of the buckets, since a value may be counted between two reads.
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 * unit;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Durations that may lead to traces.
#[derive(Debug)]
pub(super) enum Durations {
    /// Nothing is traced.
    Plain(Histogram),
    /// The newest traced one of each bucket is named. The crate's histogram has a lock, which traces
    /// can afford.
    Traced(HistogramWithExemplars<[(&'static str, String); 1]>),
}

impl Durations {
    pub(super) fn new(scale: &'static Scale, is_traced: bool) -> Self {
        if is_traced {
            let bounds = scale.bounds.iter().map(|bound| *bound as f64 * scale.unit);
            Self::Traced(HistogramWithExemplars::new(bounds))
        } else {
            Self::Plain(Histogram::new(scale))
        }
    }

    /// Counts a duration, and names its trace.
    pub(super) fn observe(&self, took: Duration, trace: Option<u128>) {
        match self {
            Self::Plain(histogram) => histogram.observe(took),
            Self::Traced(histogram) => {
                let labels = trace.map(|id| [("trace_id", format!("{id:032x}"))]);
                histogram.observe(took.as_secs_f64(), labels, Some(SystemTime::now()));
            }
        }
    }

    pub(super) fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Plain(histogram) => histogram.encode(encoder),
            Self::Traced(histogram) => histogram.encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&SIZES);
        [0, 1, 2, 3, 2000]
            .into_iter()
            .for_each(|n| histogram.observe_units(n));
        let counts: Vec<_> = histogram
            .buckets
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.sum.load(Ordering::Relaxed), 2006);
    }

    #[test]
    fn bounds_grow() {
        for scale in [&REQUESTS, &STARTS, &LONG, &SYNCS, &SIZES] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b), "{scale:?}");
        }
    }
}
