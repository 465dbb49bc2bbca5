//! Wall time, for timestamps in responses and records. Durations and deadlines use tokio's clock,
//! which tests can pause.
//!
//! Wall clocks jump: a machine boots before it has synchronized, an operator sets the wrong time, a
//! virtual machine is resumed. Timestamps of such a moment must not hold anything up once the clock
//! is right again. So a step of a day or more is believed only once it has lasted
//! ([`SteadyClock`]), and nothing is deleted for its age while the clock may be wrong.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// How long a large step has to last to be believed, and the default time for which the clock has
/// to be steady before anything is deleted for its age.
pub const SETTLE: Duration = Duration::from_secs(600);
/// A timestamp further ahead of now than this comes from a wrong clock.
pub const MAX_LEAD: Duration = Duration::from_secs(3600);
/// A step at least this large is logged; a smaller one is drift, or a correction by hand.
const SMALLEST_STEP: Duration = Duration::from_secs(60);
/// A step at least this large has to last before it is believed.
const DOUBTED_STEP: Duration = Duration::from_secs(24 * 3600);

/// The process's clock.
static CLOCK: LazyLock<SteadyClock> =
    LazyLock::new(|| SteadyClock::new(SystemTime::now, since_boot));
static SETTLE_MS: AtomicU64 = AtomicU64::new(SETTLE.as_millis() as u64);

/// Now, in Unix milliseconds.
pub fn now_ms() -> i64 {
    CLOCK.now_ms()
}

/// Now, as [`now_ms`].
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms()).unwrap_or(0))
}

/// Whether the clock has been steady for long enough to delete things for their age.
pub fn is_settled() -> bool {
    CLOCK.is_settled(Duration::from_millis(SETTLE_MS.load(Ordering::Relaxed)))
}

/// Sets how long the clock has to be steady for [`is_settled`].
pub fn settle_for(time: Duration) {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    SETTLE_MS.store(ms, Ordering::Relaxed);
}

/// Whether a time in Unix milliseconds is so far ahead that a wrong clock must have written it.
pub fn is_ahead(at_ms: u64, now_ms: u64) -> bool {
    at_ms > now_ms.saturating_add(MAX_LEAD.as_millis() as u64)
}

/// A time in Unix milliseconds; 0 for one before 1970.
pub fn unix_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// Time since the machine started, suspended or not: a resumed laptop's clock has not stepped.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// A wall clock that is compared with a monotonic one.
pub struct SteadyClock {
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    steady: Box<dyn Fn() -> Duration + Send + Sync>,
    seen: Mutex<Seen>,
}

/// The clocks at their last comparison.
struct Seen {
    wall_ms: i64,
    at: Duration,
    /// Since when the wall clock has been steady, by the monotonic clock.
    steady_since: Duration,
    /// Since when a step has been doubted, by the monotonic clock.
    doubted_since: Option<Duration>,
}

impl SteadyClock {
    /// Compares a wall clock with a monotonic one from now on.
    pub fn new(
        wall: impl Fn() -> SystemTime + Send + Sync + 'static,
        steady: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let at = steady();
        Self {
            seen: Mutex::new(Seen {
                wall_ms: unix_ms(wall()),
                at,
                steady_since: at,
                doubted_since: None,
            }),
            wall: Box::new(wall),
            steady: Box::new(steady),
        }
    }

    /// Now, in Unix milliseconds. A step of a day or more counts once it has lasted [`SETTLE`];
    /// until then time continues as if there had been none.
    pub fn now_ms(&self) -> i64 {
        let mut seen = self.seen.lock();
        let (wall_ms, at) = (unix_ms((self.wall)()), (self.steady)());
        let expected = seen.wall_ms + millis(at.saturating_sub(seen.at));
        let step = wall_ms.saturating_sub(expected);
        if step.unsigned_abs() < SMALLEST_STEP.as_millis() as u64 {
            if seen.doubted_since.take().is_some() {
                tracing::info!("The clock is back where it was before it stepped");
            }
        } else if step.unsigned_abs() < DOUBTED_STEP.as_millis() as u64 {
            warn_of_step(step, "it is believed");
            seen.steady_since = at;
            seen.doubted_since = None;
        } else {
            let since = *seen.doubted_since.get_or_insert_with(|| {
                warn_of_step(step, "it is believed if it lasts");
                at
            });
            if at.saturating_sub(since) < SETTLE {
                return expected;
            }
            warn_of_step(step, "it has lasted and is believed");
            (seen.steady_since, seen.doubted_since) = (at, None);
        }
        (seen.wall_ms, seen.at) = (wall_ms, at);
        wall_ms
    }

    /// Whether the wall clock has been steady for `long`.
    pub fn is_settled(&self, long: Duration) -> bool {
        self.now_ms();
        let seen = self.seen.lock();
        seen.doubted_since.is_none() && (self.steady)().saturating_sub(seen.steady_since) >= long
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn warn_of_step(step_ms: i64, what: &str) {
    let by = humantime::format_duration(Duration::from_secs(step_ms.unsigned_abs() / 1000));
    let way = if step_ms < 0 { "back" } else { "forward" };
    tracing::warn!(
        "The clock stepped {way} by {by}; {what}. Nothing is deleted for its age until it has been steady for a while"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicI64};

    use super::*;

    const YEAR: i64 = 365 * 24 * 3_600_000;
    const START: i64 = 1_800_000_000_000;

    /// A clock with an adjustable error, and time that the test advances.
    struct Bench {
        off: Arc<AtomicI64>,
        passed: Arc<AtomicI64>,
        clock: SteadyClock,
    }

    impl Bench {
        fn new() -> Self {
            let (off, passed) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
            let get = |of: &Arc<AtomicI64>| {
                let of = of.clone();
                move || of.load(Ordering::SeqCst)
            };
            let (o, p, q) = (get(&off), get(&passed), get(&passed));
            let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).expect("after 1970"));
            let clock =
                SteadyClock::new(move || UNIX_EPOCH + ms(START + o() + p()), move || ms(q()));
            Self { off, passed, clock }
        }

        fn off_by(&self, ms: i64) {
            self.off.store(ms, Ordering::SeqCst);
        }

        fn pass(&self, time: Duration) {
            self.passed.fetch_add(millis(time), Ordering::SeqCst);
        }

        /// How far the clock is ahead of the time that has passed.
        fn shows(&self) -> i64 {
            self.clock.now_ms() - START - self.passed.load(Ordering::SeqCst)
        }

        fn settled(&self) -> bool {
            self.clock.is_settled(SETTLE)
        }
    }

    #[test]
    fn years_for_a_moment_are_never_seen_and_deletions_wait_meanwhile() {
        for years in [10 * YEAR, -10 * YEAR] {
            let bench = Bench::new();
            assert!(
                !bench.settled(),
                "a clock that was just started may be wrong"
            );
            bench.pass(SETTLE);
            assert!(bench.settled());
            bench.off_by(years);
            assert_eq!(bench.shows(), 0);
            assert!(!bench.settled());
            bench.pass(SETTLE / 2);
            assert_eq!(bench.shows(), 0, "time goes on meanwhile");
            bench.off_by(0);
            assert_eq!(bench.shows(), 0);
            assert!(bench.settled(), "it was never believed");
            // A later step is judged separately.
            bench.pass(SETTLE);
            bench.off_by(years);
            assert_eq!(bench.shows(), 0);
        }
    }

    #[test]
    fn a_step_that_lasts_is_believed_and_deletions_wait_until_it_is_steady() {
        for years in [10 * YEAR, -10 * YEAR] {
            let bench = Bench::new();
            bench.pass(SETTLE);
            bench.off_by(years);
            assert_eq!(bench.shows(), 0);
            bench.pass(SETTLE);
            assert_eq!(bench.shows(), years);
            assert!(!bench.settled());
            bench.pass(SETTLE);
            assert!(bench.settled());
        }
    }

    #[test]
    fn a_small_step_is_believed_at_once_and_drift_is_none() {
        let bench = Bench::new();
        bench.pass(SETTLE);
        bench.off_by(30_000);
        assert_eq!(bench.shows(), 30_000);
        assert!(bench.settled(), "drift");
        bench.off_by(3_600_000);
        assert_eq!(bench.shows(), 3_600_000);
        assert!(!bench.settled());
    }
}
