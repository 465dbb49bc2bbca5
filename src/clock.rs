//! Wall time, for timestamps that people and records see. Durations and deadlines are on tokio's
//! clock, which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in Unix milliseconds.
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

/// A time in Unix milliseconds; 0 for one before 1970.
pub fn unix_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}
