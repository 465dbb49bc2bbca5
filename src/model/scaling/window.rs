//! The autoscaler's memory: a minute of arrivals, and the largest recent demand.
//!
//! Both take the time as a parameter, counted from any fixed point of a monotonic clock.

use std::{collections::VecDeque, time::Duration};

/// Length of the window over which requests per second are averaged, in seconds.
pub const RATE_WINDOW_SECS: u32 = 60;

/// Arrivals of the last minute, in buckets of one second.
#[derive(Debug, Clone)]
pub struct RateWindow {
    buckets: [u32; RATE_WINDOW_SECS as usize],
    /// The second of the newest bucket.
    newest: u64,
    sum: u32,
}

impl Default for RateWindow {
    fn default() -> Self {
        Self {
            buckets: [0; RATE_WINDOW_SECS as usize],
            newest: 0,
            sum: 0,
        }
    }
}

impl RateWindow {
    /// Counts one arrival.
    pub fn add(&mut self, now: Duration) {
        self.turn_to(now.as_secs());
        let at = self.newest as usize % self.buckets.len();
        self.buckets[at] = self.buckets[at].saturating_add(1);
        self.sum = self.sum.saturating_add(1);
    }

    /// Arrivals in the last minute.
    pub fn sum(&mut self, now: Duration) -> u32 {
        self.turn_to(now.as_secs());
        self.sum
    }

    /// Empties the buckets whose second has left the window.
    fn turn_to(&mut self, second: u64) {
        if self.sum == 0 || second >= self.newest + u64::from(RATE_WINDOW_SECS) {
            self.buckets.fill(0);
            self.sum = 0;
            self.newest = self.newest.max(second);
            return;
        }
        while self.newest < second {
            self.newest += 1;
            let at = self.newest as usize % self.buckets.len();
            self.sum = self.sum.saturating_sub(self.buckets[at]);
            self.buckets[at] = 0;
        }
    }
}

/// The largest value of a demand within a period that ends now.
///
/// The demand is a step function: a value holds until the next one is recorded. Only values that
/// can still be the largest are kept, so there are never more than distinct ones.
#[derive(Debug, Clone, Default)]
pub struct Peak {
    /// Falling values, each with the time until which it held; the last one still holds.
    steps: VecDeque<(u32, Duration)>,
}

impl Peak {
    /// Records that the demand is `value` from now on.
    pub fn record(&mut self, now: Duration, value: u32) {
        // The previous value held until now.
        if let Some((_, until)) = self.steps.back_mut() {
            *until = now;
        }
        while self.steps.back().is_some_and(|(v, _)| *v <= value) {
            self.steps.pop_back();
        }
        self.steps.push_back((value, now));
    }

    /// The largest value that held at any time in the last `period`.
    pub fn largest(&mut self, now: Duration, period: Duration) -> u32 {
        while self.steps.len() > 1
            && self
                .steps
                .front()
                .is_some_and(|(_, until)| *until + period <= now)
        {
            self.steps.pop_front();
        }
        self.steps.front().map_or(0, |(v, _)| *v)
    }

    /// Forgets everything except this value, which holds from now on.
    pub fn reset(&mut self, now: Duration, value: u32) {
        self.steps.clear();
        self.steps.push_back((value, now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_counts_what_a_plain_list_counts(
            gaps in prop::collection::vec(0u64..20_000, 1..200)
        ) {
            let mut window = RateWindow::default();
            let (mut now, mut all) = (0u64, Vec::new());
            for gap in gaps {
                now += gap;
                window.add(Duration::from_millis(now));
                all.push(now / 1000);
                now += gap / 2;
                let first = (now / 1000).saturating_sub(59);
                let expected = all.iter().filter(|s| **s >= first).count() as u32;
                prop_assert_eq!(window.sum(Duration::from_millis(now)), expected);
            }
        }

        #[test]
        fn the_peak_is_the_largest_value_that_held_in_the_period(
            steps in prop::collection::vec((0u64..30, 0u32..6), 1..100), period in 1u64..60,
        ) {
            let (mut peak, mut now, mut held) = (Peak::default(), 0u64, Vec::new());
            for (gap, value) in steps {
                now += gap;
                peak.record(Duration::from_secs(now), value);
                held.push((now, value));
                let ends = held.iter().skip(1).map(|(t, _)| *t).chain([u64::MAX]);
                let expected = held.iter().zip(ends)
                    .filter(|(_, end)| end.saturating_add(period) > now)
                    .map(|((_, v), _)| *v).max().unwrap_or(0);
                let seen = peak.largest(Duration::from_secs(now), Duration::from_secs(period));
                prop_assert_eq!(seen, expected);
                prop_assert!(peak.steps.len() <= 6);
            }
        }
    }
}
