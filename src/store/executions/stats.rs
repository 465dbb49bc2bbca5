//! How many invocations completed, failed and timed out, by app and minute.
//!
//! Asynchronous invocations are counted in their segment, in the batch that ends them. The others
//! are counted here, in a separate database, once a second. Before a segment is dropped, its counts
//! move here too. Minutes older than the retention are folded into hours, which are kept for as
//! long as the API can query them.
//!
//! | first byte | rest | value |
//! |---|---|---|
//! | 0x01 | `format` | u32, big-endian |
//! | 0x02 | app 0x00 minute (u32) | counts of invocations without a record, or with a dropped one |
//! | 0x03 | app 0x00 hour (u32) | counts of older minutes |
//! | 0x04 | start of a segment (u64) | empty: the counts of this segment are here |

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    super::{Error, db::Database},
    rows,
    segment::Segments,
};
use crate::model::{
    AppId,
    stats::{MAX_RANGE_SECS, OutcomeCounts, minute_of_ms},
};

pub(super) const FORMAT: u32 = 1;
pub(super) const CACHE_BYTES: u64 = 8 * 1024 * 1024;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x03;
const FOLDED: u8 = 0x04;

const MINUTES_PER_HOUR: u32 = 60;
/// How far back the API can ask.
pub(super) const KEPT: Duration = Duration::from_secs(MAX_RANGE_SECS as u64);

/// The bytes of a row's tally.
pub(super) fn to_bytes(tally: OutcomeCounts) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&tally.completed.to_be_bytes());
    out[4..8].copy_from_slice(&tally.failed.to_be_bytes());
    out[8..].copy_from_slice(&tally.timeout.to_be_bytes());
    out
}

/// The tally in a row's bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<OutcomeCounts> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(OutcomeCounts {
        completed: number(0)?,
        failed: number(4)?,
        timeout: number(8)?,
    })
}

/// The database of counts.
pub(super) struct Stats {
    database: Arc<Database>,
}

impl Stats {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            database: Arc::new(Database::open(path, FORMAT, CACHE_BYTES)?),
        })
    }

    pub(super) fn database(&self) -> Arc<Database> {
        self.database.clone()
    }

    /// The counts of invocations without a record in one minute.
    pub(super) fn minute(&self, app: &AppId, minute: u32) -> Result<OutcomeCounts, String> {
        let row = self
            .database
            .tree
            .get(minute_key(app, minute))
            .map_err(text)?;
        Ok(row.and_then(|row| from_bytes(&row)).unwrap_or_default())
    }

    /// Takes over the counts of a segment, only once however often it is called. Minutes before
    /// `fine_since` become hours.
    pub(super) fn fold(
        &self,
        start_ms: u64,
        segment: &Database,
        fine_since: u32,
    ) -> Result<(), String> {
        let marker = [&[FOLDED][..], &start_ms.to_be_bytes()].concat();
        if self.database.tree.contains_key(&marker).map_err(text)? {
            return Ok(());
        }
        let mut sums = Sums::default();
        for row in segment.tree.scan_prefix([rows::COUNTS]) {
            let (from, value) = row.map_err(text)?;
            sums.add_row(&from, &value, fine_since);
        }
        let mut batch = self.batch(sums)?;
        batch.insert(marker, &[][..]);
        self.database.commit(batch)
    }

    /// Removes the mark of a folded segment, once the segment is removed.
    pub(super) fn unmark(&self, start_ms: u64) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        batch.remove([&[FOLDED][..], &start_ms.to_be_bytes()].concat());
        self.database.commit(batch)
    }

    /// Folds minutes before `fine_since` into hours and drops hours that the API can no longer
    /// query.
    pub(super) fn age(&self, fine_since: u32, kept_since: u32) -> Result<(), String> {
        let mut sums = Sums::default();
        let mut gone = Vec::new();
        for row in self.database.tree.scan_prefix([MINUTES]) {
            let (from, value) = row.map_err(text)?;
            if rows::minute_of(&from).is_some_and(|minute| minute < fine_since) {
                sums.add_row(&from, &value, fine_since);
                gone.push(from);
            }
        }
        for row in self.database.tree.scan_prefix([HOURS]).keys() {
            let from = row.map_err(text)?;
            if rows::minute_of(&from)
                .is_some_and(|hour| hour.saturating_mul(MINUTES_PER_HOUR) < kept_since)
            {
                sums.0.remove(&from[..]);
                gone.push(from);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch(sums)?;
        gone.into_iter().for_each(|key| batch.remove(key));
        self.database.commit(batch)
    }

    /// Every count of an app in a range of minutes, as (minute, counts). A minute may occur more
    /// than once; a folded hour is listed at its first minute.
    pub(super) fn read(
        &self,
        segments: &Segments,
        app: &AppId,
        from: u32,
        to: u32,
    ) -> Result<Vec<(u32, OutcomeCounts)>, String> {
        let mut out = Vec::new();
        let mut collect = |tree: &sled::Db, kind: u8, unit: u32| -> Result<(), String> {
            let first = key(kind, app, from / unit);
            let last = key(kind, app, to / unit);
            for row in tree.range(first..=last) {
                let (at, value) = row.map_err(text)?;
                if let (Some(at), Some(tally)) = (rows::minute_of(&at), from_bytes(&value)) {
                    out.push((at.saturating_mul(unit), tally));
                }
            }
            Ok(())
        };
        collect(&self.database.tree, MINUTES, 1)?;
        collect(&self.database.tree, HOURS, MINUTES_PER_HOUR)?;
        for segment in segments.all() {
            let marker = [&[FOLDED][..], &segment.start_ms.to_be_bytes()].concat();
            // A segment that began after the range has nothing in it.
            let began = minute_of_ms(segment.start_ms as i64);
            if began <= to && !self.database.tree.contains_key(&marker).map_err(text)? {
                let database = segment.open().map_err(|e| e.to_string())?;
                collect(&database.tree, rows::COUNTS, 1)?;
            }
        }
        Ok(out)
    }

    /// A batch that adds sums to what the rows hold.
    fn batch(&self, sums: Sums) -> Result<sled::Batch, String> {
        let mut batch = sled::Batch::default();
        for (key, tally) in sums.0 {
            let known = self.database.tree.get(&key).map_err(text)?;
            let known = known.and_then(|row| from_bytes(&row)).unwrap_or_default();
            batch.insert(key, &to_bytes(known.plus(tally))[..]);
        }
        Ok(batch)
    }
}

/// Sums by row.
#[derive(Default)]
struct Sums(BTreeMap<Vec<u8>, OutcomeCounts>);

impl Sums {
    fn add(&mut self, key: Vec<u8>, tally: OutcomeCounts) {
        let sum = self.0.entry(key).or_default();
        *sum = sum.plus(tally);
    }

    /// Adds a row of a minute, or of its hour when the minute is before `fine_since`.
    fn add_row(&mut self, from: &[u8], value: &[u8], fine_since: u32) {
        if let (Some(app), Some(minute), Some(tally)) =
            (rows::app_of(from), rows::minute_of(from), from_bytes(value))
        {
            let key = if minute < fine_since {
                key(HOURS, &app, minute / MINUTES_PER_HOUR)
            } else {
                minute_key(&app, minute)
            };
            self.add(key, tally);
        }
    }
}

/// The name of a row's kind, if the row is whole. The format row is left to the caller.
pub(super) fn kind_of(key: &[u8], value: &[u8]) -> Option<&'static str> {
    let is_count = || {
        rows::app_of(key)
            .zip(rows::minute_of(key))
            .zip(from_bytes(value).filter(|_| value.len() == 12))
    };
    match key.first().copied()? {
        MINUTES => is_count().map(|_| "minutes"),
        HOURS => is_count().map(|_| "hours"),
        FOLDED => (key.len() == 9 && value.is_empty()).then_some("folded segments"),
        _ => None,
    }
}

/// The row of one minute's invocations without a record.
pub(super) fn minute_key(app: &AppId, minute: u32) -> Vec<u8> {
    key(MINUTES, app, minute)
}

fn key(kind: u8, app: &AppId, at: u32) -> Vec<u8> {
    let mut key = rows::of_app(kind, app);
    key.extend(at.to_be_bytes());
    key
}

fn text(e: sled::Error) -> String {
    e.to_string()
}
