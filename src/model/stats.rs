//! Counts of how invocations ended, and the division of a time range into buckets.

use super::{Failure, execution::Status};

const MS_PER_SEC: i64 = 1000;
const SECS_PER_MINUTE: i64 = 60;
const SECS_PER_HOUR: i64 = 3600;
const SECS_PER_DAY: i64 = 24 * SECS_PER_HOUR;
/// The longest range that the API allows: 90 days.
pub const MAX_RANGE_SECS: i64 = 90 * SECS_PER_DAY;
/// The most buckets in a response: 90 days by the hour, which a chart can still draw.
const MAX_BUCKETS: i64 = 2160;
/// The widths to choose from when none is given, for a chart of about a hundred bars.
const LADDER: [i64; 6] = [60, 300, 900, SECS_PER_HOUR, 6 * SECS_PER_HOUR, SECS_PER_DAY];
const USUAL_BUCKETS: i64 = 100;

/// How one invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a status below 400.
    Completed,
    /// With another status, or by a failure.
    Failed,
    /// By a deadline.
    TimedOut,
}

impl Outcome {
    /// The outcome of a response.
    pub fn of_status(status: u16) -> Self {
        if status < 400 {
            Self::Completed
        } else {
            Self::Failed
        }
    }

    /// The outcome of a failure of the platform.
    pub fn of_failure(failure: &Failure) -> Self {
        if failure.reason.is_deadline() {
            Self::TimedOut
        } else {
            Self::Failed
        }
    }

    /// The outcome of an execution that has ended.
    pub fn of_execution(status: Status) -> Option<Self> {
        match status {
            Status::Completed => Some(Self::Completed),
            Status::Failed => Some(Self::Failed),
            Status::TimedOut => Some(Self::TimedOut),
            Status::Pending | Status::Running => None,
        }
    }
}

/// Counts of one span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Ended with a status below 400.
    pub completed: u32,
    /// Ended otherwise.
    pub failed: u32,
    /// Ran into a deadline.
    pub timeout: u32,
}

impl OutcomeCounts {
    /// Adds one outcome.
    #[must_use]
    pub fn with(mut self, outcome: Outcome) -> Self {
        let count = match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Failed => &mut self.failed,
            Outcome::TimedOut => &mut self.timeout,
        };
        *count = count.saturating_add(1);
        self
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            completed: self.completed.saturating_add(other.completed),
            failed: self.failed.saturating_add(other.failed),
            timeout: self.timeout.saturating_add(other.timeout),
        }
    }
}

/// The minute of a point of wall time in Unix milliseconds.
pub fn minute_of_ms(ms: i64) -> u32 {
    u32::try_from(ms / (SECS_PER_MINUTE * MS_PER_SEC)).unwrap_or(0)
}

/// A time range, divided into buckets of one width that start at multiples of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    /// Start of the first bucket, Unix seconds.
    start: i64,
    /// End of the last bucket, Unix seconds.
    end: i64,
    /// Seconds in each bucket.
    pub width: i64,
}

/// The requested range; 0 = not set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Start of the range, Unix milliseconds.
    pub start_ms: i64,
    /// End of the range, Unix milliseconds.
    pub end_ms: i64,
    /// Seconds in a bucket.
    pub bucket_secs: i32,
}

impl Buckets {
    /// Divides a range into buckets. The range is clamped to the 90 days before its end, and its
    /// end to `now_ms`. The width is clamped to the available counts: minutes, and hours before
    /// `fine_since_ms`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for negative values and a range that ends before it starts.
    pub fn new(asked: Asked, now_ms: i64, fine_since_ms: i64) -> Result<Self, Failure> {
        for (field, value) in [
            ("start_ms", asked.start_ms),
            ("end_ms", asked.end_ms),
            ("bucket_secs", asked.bucket_secs.into()),
        ] {
            if value < 0 {
                let why = format!("{value} is negative; leave it out for the default");
                return Err(Failure::field(field, why));
            }
        }
        let end_ms = match asked.end_ms {
            0 => now_ms,
            end => end.min(now_ms),
        };
        // The last bucket contains the end.
        let end = end_ms / MS_PER_SEC + 1;
        let start = match asked.start_ms {
            0 => end - SECS_PER_DAY,
            ms if ms > end_ms => {
                return Err(Failure::field(
                    "start_ms",
                    format!(
                        "{ms} is after the end of the range, {end_ms} (both in Unix milliseconds; the end is at most now)"
                    ),
                ));
            }
            ms => ms / MS_PER_SEC,
        };
        let start = start.max(end - MAX_RANGE_SECS).max(0);
        let range = end - start;
        let width = match i64::from(asked.bucket_secs) {
            0 => LADDER
                .into_iter()
                .find(|width| range <= width * USUAL_BUCKETS)
                .unwrap_or(SECS_PER_DAY),
            width => width.min(MAX_RANGE_SECS),
        };
        let unit = if start * MS_PER_SEC < fine_since_ms {
            SECS_PER_HOUR
        } else {
            SECS_PER_MINUTE
        };
        let width = round_up(width.max((range + MAX_BUCKETS - 1) / MAX_BUCKETS), unit);
        Ok(Self {
            start: start / width * width,
            end: round_up(end, width),
            width,
        })
    }

    /// The first and the last minute of the range.
    pub fn minutes(&self) -> (u32, u32) {
        let minute = |secs: i64| u32::try_from(secs / SECS_PER_MINUTE).unwrap_or(0);
        (minute(self.start), minute(self.end - 1))
    }

    /// Sorts counts by minute into the buckets: (start in Unix milliseconds, counts) of each
    /// bucket, including empty ones.
    pub fn fill(&self, counts: &[(u32, OutcomeCounts)]) -> Vec<(i64, OutcomeCounts)> {
        let mut out: Vec<_> = (0..(self.end - self.start) / self.width)
            .map(|n| {
                (
                    (self.start + n * self.width) * MS_PER_SEC,
                    OutcomeCounts::default(),
                )
            })
            .collect();
        for (minute, tally) in counts {
            let at = (i64::from(*minute) * SECS_PER_MINUTE - self.start).div_euclid(self.width);
            if let Some(bucket) = usize::try_from(at).ok().and_then(|at| out.get_mut(at)) {
                bucket.1 = bucket.1.plus(*tally);
            }
        }
        out
    }
}

fn round_up(n: i64, unit: i64) -> i64 {
    (n + unit - 1) / unit * unit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    proptest! {
        /// Whatever is requested: few buckets, whole minutes, no gap, the whole range included, and
        /// no count lost.
        #[test]
        fn buckets_cover_the_range_and_lose_nothing(
            start_ms in 0i64..NOW * 2,
            end_ms in 0i64..NOW * 2,
            bucket_secs in 0i32..,
            fine in 0i64..NOW,
            minutes in prop::collection::vec(0u32..u32::MAX, 0..20),
        ) {
            let asked = Asked { start_ms, end_ms, bucket_secs };
            let Ok(buckets) = Buckets::new(asked, NOW, fine) else {
                prop_assert!(start_ms > end_ms.min(NOW) || start_ms > NOW);
                return Ok(());
            };
            prop_assert!(buckets.width % 60 == 0 && buckets.width >= 60);
            let (first, last) = buckets.minutes();
            let within: Vec<_> = minutes.iter().map(|m| first + m % (last - first + 1)).collect();
            let counts: Vec<_> = within.iter().map(|m| (*m, OutcomeCounts::default().with(Outcome::Failed))).collect();
            let filled = buckets.fill(&counts);
            prop_assert!(filled.len() as i64 <= MAX_BUCKETS + 1 && !filled.is_empty());
            prop_assert!(filled.windows(2).all(|w| w[1].0 - w[0].0 == buckets.width * 1000));
            prop_assert_eq!(filled.iter().map(|b| b.1.failed as usize).sum::<usize>(), counts.len());
            let end = if end_ms == 0 { NOW } else { end_ms.min(NOW) };
            let last = filled.last().expect("not empty").0;
            prop_assert!(last <= end && end < last + buckets.width * 1000);
            if start_ms > 0 {
                prop_assert!(filled[0].0 <= start_ms.max(end - MAX_RANGE_SECS * 1000));
            }
        }
    }

    #[test]
    fn widths_are_clamped_and_chosen_as_documented() {
        let width = |start_ms, bucket_secs, fine| {
            let asked = Asked {
                start_ms,
                end_ms: 0,
                bucket_secs,
            };
            Buckets::new(asked, NOW, fine).expect("valid").width
        };
        let ago = |secs: i64| NOW - secs * 1000;
        assert_eq!(
            width(0, 86_400, 0),
            86_400,
            "as the contract's example asks"
        );
        assert_eq!(width(ago(3600), 1, 0), 60, "no finer than a minute");
        assert_eq!(width(ago(3600), 90, 0), 120, "whole minutes");
        assert_eq!(
            width(ago(10 * 86_400), 60, ago(7 * 86_400)),
            3600,
            "what is old is kept by the hour"
        );
        assert_eq!(width(0, 0, 0), 900, "a day has about a hundred bars");
        let long = Asked {
            start_ms: 1,
            end_ms: 0,
            bucket_secs: 60,
        };
        let buckets = Buckets::new(long, NOW, 0).expect("valid");
        assert!(buckets.end - buckets.start <= MAX_RANGE_SECS + 2 * buckets.width);
    }
}
