//! Allocates the ids of new executions and picks the segments that they belong to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use super::{Shared, batch::unavailable, segment::Segment};
use crate::{
    clock::is_ahead,
    model::{ExecutionId, Failure},
};

/// Time, in milliseconds, between two attempts to bring ids that run ahead back to the present.
const ASK_AGAIN_MS: u64 = 60_000;
/// Allocates ids in the order of acceptance.
pub(super) struct Ids {
    shared: Arc<Shared>,
    generator: ulid::Generator,
    /// The next execution begins a new segment.
    begins: bool,
    /// The wall time, in Unix milliseconds, from which ids that run ahead may be brought back
    /// again.
    ask_again_ms: u64,
}

impl Ids {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            generator: ulid::Generator::new(),
            begins: false,
            ask_again_ms: 0,
        }
    }

    /// The next id. Ids never go back in time when the clock is set back a little, so only the
    /// newest segment receives new ones, and no id is older than its app. Ids far ahead of the
    /// clock come from a clock that was wrong; they then continue near the present, in a new
    /// segment.
    pub(super) fn next(&mut self, since_ms: u64) -> Result<ExecutionId, Failure> {
        self.keep_near_now()?;
        let newest = self.shared.newest_ms.load(Ordering::Relaxed);
        let newest = Duration::from_millis(newest.max(since_ms));
        loop {
            let now = (self.shared.config.clock)().max(UNIX_EPOCH + newest);
            // Generation fails only when a millisecond's random part overflows.
            match self.generator.generate_from_datetime(now) {
                Ok(id) => return Ok(ExecutionId(id)),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Brings ids back to the present when they run far ahead of it, and moves them past existing
    /// executions when the present reaches a segment that a fast clock began.
    fn keep_near_now(&mut self) -> Result<(), Failure> {
        let shared = &self.shared;
        let (now, newest) = (shared.now_ms(), shared.newest_ms.load(Ordering::Relaxed));
        let next = now.max(newest);
        let foreign = shared.segments.current().is_some_and(|current| {
            shared
                .segments
                .at(next)
                .is_some_and(|s| s.start_ms > current)
        });
        let due = now >= self.ask_again_ms || self.ask_again_ms - now > ASK_AGAIN_MS;
        if !(foreign || is_ahead(newest, now) && due) {
            return Ok(());
        }
        self.ask_again_ms = now + ASK_AGAIN_MS;
        let from = if foreign { next } else { now };
        let first = self.first_free(from)?;
        if foreign || first <= newest {
            if !foreign {
                tracing::warn!(
                    newest,
                    first,
                    "The newest execution is far ahead of the clock, which was wrong then; ids go on near the present"
                );
            }
            shared
                .newest_ms
                .store(first.saturating_sub(1), Ordering::Relaxed);
            self.begins = true;
            // The old generator would continue from its last id.
            self.generator = ulid::Generator::new();
        }
        Ok(())
    }

    /// The first time, at or after `from`, whose segment holds no execution at or after it. A
    /// segment that begins then takes no execution from another.
    fn first_free(&self, from: u64) -> Result<u64, Failure> {
        let shared = &self.shared;
        let mut at = from;
        while let Some(segment) = shared.segments.at(at) {
            let mut newest = segment.newest_ms().map_err(|cause| unavailable(&cause))?;
            // Ids of the current batch are not in the database yet.
            let given = shared.newest_ms.load(Ordering::Relaxed);
            let has_newest =
                shared.segments.at(given).map(|s| s.start_ms) == Some(segment.start_ms);
            if has_newest {
                newest = newest.max(Some(given));
            }
            match newest.unwrap_or(segment.start_ms) {
                newest if newest >= at => at = newest + 1,
                _ => break,
            }
        }
        Ok(at)
    }

    /// The segment of a new id: the newest, or a new one that begins with this id when the newest
    /// is full or its span is over.
    pub(super) fn segment_for(&mut self, id: ExecutionId) -> Result<Arc<Segment>, Failure> {
        let (at, config) = (id.0.timestamp_ms(), &self.shared.config);
        let newest = self.shared.segments.of(id).filter(|s| {
            let over = at
                >= s.start_ms
                    .saturating_add(config.segment_width().as_millis() as u64);
            let full = s.accepted.load(Ordering::Relaxed) >= config.segment_rows();
            // Two segments cannot share a millisecond.
            let may_begin = at > self.shared.newest_ms.load(Ordering::Relaxed);
            !(may_begin && (over || full || self.begins))
        });
        if newest.is_none() {
            let made = self.shared.segments.create(at);
            made.map_err(|e| unavailable(&e.to_string()))?;
            self.begins = false;
        }
        let segment = self.shared.segments.come_to(at);
        let segment = segment.map_err(|e| unavailable(&e.to_string()))?;
        let segment = segment.ok_or_else(|| unavailable("its segment is gone"))?;
        segment.accepted.fetch_add(1, Ordering::Relaxed);
        self.shared.newest_ms.fetch_max(at, Ordering::Relaxed);
        Ok(segment)
    }
}
