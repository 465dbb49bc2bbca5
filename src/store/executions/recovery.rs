//! What a start does: finds the unfinished executions and counts stored bytes.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prost::Message as _;

use super::{
    super::{Error, db::Database},
    Shared, ToRun,
    live::Live,
    rows,
    segment::{Segment, Segments},
    stored::{self, Counts},
};
use crate::model::{ExecutionId, execution::State};

impl Shared {
    /// Finds the unfinished executions and queues them for the executor.
    pub(super) fn recover(&self) -> Result<(), Error> {
        for segment in self.segments.all() {
            let is_newest = self.segments.takes_more(&segment);
            let is_sealed = segment.is_sealed() && !is_newest;
            if is_sealed && let Some(counts) = segment.sealed_counts() {
                self.set_counts(&segment, counts);
                continue;
            }
            let corrupt = |cause: String| Error::Corrupt {
                path: segment.rows().display().to_string(),
                cause,
            };
            let database = segment.open()?;
            self.set_counts(&segment, stored::count(&database).map_err(&corrupt)?);
            if is_sealed {
                // Sealed by an older `ignite`, which did not count bytes. If marking fails, the
                // next start counts again.
                let _ = Segments::seal(&segment);
                drop(database);
                segment.close_if_idle(Duration::ZERO);
                continue;
            }
            let (mut accepted, mut newest) = (0, None);
            let ended = ended_in(&database).map_err(&corrupt)?;
            for row in database.tree.scan_prefix([rows::REQUESTS]) {
                let (key, value) = row.map_err(|e| corrupt(e.to_string()))?;
                let damaged = || corrupt(format!("the row {key:?} is damaged"));
                let id = rows::id_of(&key).ok_or_else(damaged)?;
                (accepted, newest) = (accepted + 1, Some(id));
                if !ended.contains(&id) {
                    let live = live_of(&database, id, &value).ok_or_else(damaged)?;
                    self.live.insert(Arc::new(live), segment.begin());
                }
            }
            if is_newest {
                segment.accepted.store(accepted, Ordering::Relaxed);
                // No id may precede an empty segment that a crash left.
                let newest = newest.map_or(segment.start_ms, |id: ExecutionId| id.0.timestamp_ms());
                self.newest_ms.store(newest, Ordering::Relaxed);
            }
        }
        *self.to_run.lock() = ToRun::Waiting(self.live.all());
        Ok(())
    }

    /// Records the bytes that a segment holds.
    fn set_counts(&self, segment: &Segment, counts: Counts) {
        for (org, bytes) in &counts {
            self.config.ledger.add(org, *bytes);
        }
        *segment.stored.lock() = counts;
    }
}

/// The executions of a segment that have ended.
fn ended_in(database: &Database) -> Result<HashSet<ExecutionId>, String> {
    let ends = database.tree.scan_prefix([rows::ENDS]).keys();
    ends.filter_map(|key| key.map(|key| rows::id_of(&key)).transpose())
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// An unfinished execution. One that never ran has no state on disk.
fn live_of(database: &Database, id: ExecutionId, request: &[u8]) -> Option<Live> {
    let request = rows::RequestRecord::decode(request).ok()?;
    let state = database.tree.get(rows::by_id(rows::LIVE, id)).ok()?;
    let state = match state {
        Some(row) => rows::live_state(&rows::LiveRecord::decode(&*row).ok()?),
        None => State::default(),
    };
    Some(Live::new(rows::identity(id, &request)?, Arc::new(state)))
}
