//! Exponential backoff between the attempts at an operation that fails for a while.

use std::time::Duration;

/// Waits that double from a first one up to a longest one, without jitter.
///
/// ```text
/// initial, 2 × initial, 4 × initial, …, max, max, …
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `initial`; no wait after the first is longer than `max`. An `initial` above `max`
    /// holds for the first wait alone.
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { max, next: initial }
    }

    /// The wait before the next attempt. The one after it is twice as long, up to the longest.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(backoff: &mut Backoff, n: usize) -> Vec<u64> {
        let waits = std::iter::repeat_with(|| backoff.next_wait().as_secs());
        waits.take(n).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(waits(&mut backoff, 5), [1, 2, 4, 5, 5]);
    }

    #[test]
    fn a_first_wait_above_the_longest_holds_once() {
        let mut backoff = Backoff::new(Duration::from_secs(9), Duration::from_secs(5));
        assert_eq!(waits(&mut backoff, 3), [9, 5, 5]);
    }

    #[test]
    fn the_longest_wait_may_be_the_longest_duration() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(backoff.next_wait(), Duration::MAX);
        assert_eq!(backoff.next_wait(), Duration::MAX);
    }
}
