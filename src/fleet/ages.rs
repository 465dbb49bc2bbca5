//! Whether a replica is working on a request that is younger than its app's timeout.
//!
//! Every lease is counted in the bucket of its start time, an eighth of the timeout wide. Counting
//! and discounting a lease is one addition each, under the deployment's mutex that is held anyway,
//! with the time that the caller has read already: no clock, no allocation.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// Buckets in a timeout: how exact the age of a lease is.
const PARTS: u32 = 8;
/// Buckets that are kept: more than one timeout spans.
const KEPT: usize = 16;

/// The bucket in which a lease is counted: the series in the upper half, the bucket, from 1, in the
/// lower. One word, since every lease carries it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(NonZeroU64);

impl Mark {
    fn new(series: u32, bucket: u32) -> Self {
        let bucket = NonZeroU64::MIN.saturating_add(bucket.into());
        Self(bucket | (u64::from(series) << 32))
    }

    fn series(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    fn bucket(self) -> u32 {
        (self.0.get() as u32).wrapping_sub(1)
    }
}

/// How many leases of each age a replica has.
#[derive(Debug)]
pub(super) struct Ages {
    epoch: Instant,
    /// The app's timeout, of which a bucket is a part.
    timeout: Duration,
    /// The width of a bucket in nanoseconds.
    grain: NonZeroU64,
    /// Grows with each change of the grain, so that older marks are recognized.
    series: u32,
    /// The number of a bucket, and the leases in it.
    counts: [(u32, u32); KEPT],
}

impl Ages {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            timeout: Duration::ZERO,
            grain: grain(Duration::ZERO),
            series: 0,
            counts: [(0, 0); KEPT],
        }
    }

    /// Counts a lease that begins now.
    pub(super) fn begin(&mut self, now: Instant, timeout: Duration) -> Mark {
        if timeout != self.timeout {
            // The timeout was changed: older leases no longer excuse anything.
            (self.epoch, self.timeout, self.grain) = (now, timeout, grain(timeout));
            self.series = self.series.wrapping_add(1);
            self.counts = [(0, 0); KEPT];
        }
        let bucket = self.bucket(now);
        let place = &mut self.counts[bucket as usize % KEPT];
        if place.0 == bucket {
            place.1 += 1;
        } else {
            *place = (bucket, 1);
        }
        Mark::new(self.series, bucket)
    }

    /// Discounts a lease that has ended, or that no longer counts as work.
    pub(super) fn end(&mut self, mark: Mark) {
        let place = &mut self.counts[mark.bucket() as usize % KEPT];
        // The bucket of a very old lease has been reused.
        if mark.series() == self.series && place.0 == mark.bucket() {
            place.1 = place.1.saturating_sub(1);
        }
    }

    /// Whether there is a lease younger than `timeout`, to an accuracy of an eighth.
    pub(super) fn has_younger_than(&self, timeout: Duration, now: Instant) -> bool {
        if timeout != self.timeout {
            return false;
        }
        let oldest = self.bucket(now).saturating_sub(PARTS);
        let mut counts = self.counts.iter();
        counts.any(|(bucket, count)| *count > 0 && *bucket >= oldest)
    }

    /// The bucket of a time. The last bucket is reached after seven weeks at the shortest grain,
    /// that of a timeout of 8 ms; leases after that all count as young, which spares a replica
    /// rather than killing it.
    fn bucket(&self, now: Instant) -> u32 {
        // In 64 bits, which suffice for centuries: a division of 128 bits is a loop.
        let age = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        u32::try_from(age / self.grain).unwrap_or(u32::MAX - 1)
    }
}

fn grain(timeout: Duration) -> NonZeroU64 {
    let grain = (timeout / PARTS).max(Duration::from_millis(1));
    let nanos = u64::try_from(grain.as_nanos()).unwrap_or(u64::MAX);
    NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of when each lease began, an eighth of the timeout either way.
        #[test]
        fn the_buckets_agree_with_a_list_of_times(
            steps in prop::collection::vec((0u64..40_000, any::<bool>(), any::<prop::sample::Index>()), 1..200),
        ) {
            let timeout = Duration::from_secs(80);
            let start = Instant::now();
            let (mut now, mut ages, mut out) = (start, Ages::new(start), Vec::new());
            for (wait, begins, which) in steps {
                now += Duration::from_millis(wait);
                if begins {
                    out.push((now, ages.begin(now, timeout)));
                } else if !out.is_empty() {
                    ages.end(out.swap_remove(which.index(out.len())).1);
                }
                let youngest = out.iter().map(|(at, _)| now - *at).min();
                let young = ages.has_younger_than(timeout, now);
                match youngest {
                    Some(age) if age < timeout => prop_assert!(young, "{age:?}"),
                    Some(age) if age < timeout * 9 / 8 => {}
                    other => prop_assert!(!young, "{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_changed_timeout_begins_anew_and_old_marks_end_nobody_else() {
        let (now, short, long) = (
            Instant::now(),
            Duration::from_secs(8),
            Duration::from_secs(80),
        );
        let mut ages = Ages::new(now);
        assert!(!ages.has_younger_than(short, now));
        let old = ages.begin(now, short);
        assert!(ages.has_younger_than(short, now) && !ages.has_younger_than(long, now));
        ages.begin(now, long);
        ages.end(old);
        assert!(ages.has_younger_than(long, now));
    }
}
