//! Deletes ended executions: whole segments by age, the oldest of an app by number, and those of
//! deleted apps. Unfinished executions are never touched.
//!
//! sled frees space slowly when rows are deleted one at a time. So a segment is dropped whole, or,
//! when at least half of its executions are surplus, the rest is copied to a fresh one.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::db::guarded,
    Executions, Shared,
    command::Command,
    rows::{self, BodyRecord},
    segment::{Segment, Segments},
    stats,
    stored::Counter,
};
use crate::{
    clock::is_ahead,
    model::{AppId, ExecutionId, execution::IDEMPOTENCY_TTL},
};

/// A segment that was not read for this long is closed.
const CLOSE_AFTER: Duration = Duration::from_secs(60);
/// Rows written at once while a segment is copied.
const COPY_BATCH: usize = 1000;
const MS_PER_MINUTE: u64 = 60_000;

/// The thread that applies the retention.
pub(super) struct Worker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn spawn(executions: &Executions) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let interval = executions.shared.config.retention_interval;
        let (shared, inner) = (executions.shared.clone(), Arc::downgrade(&executions.inner));
        let thread = std::thread::Builder::new()
            .name("retention".into())
            .spawn(move || {
                let latch = shared.config.vitals.latch("the executions' retention");
                let mut ended = Ended::default();
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    if let Err(cause) = round(&shared, &inner, &mut ended) {
                        tracing::error!(%cause, "Some old executions could not be dropped; the next round tries again");
                    }
                }
                latch.release();
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.take();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("The executions' retention panicked");
        }
    }
}

/// The number of ended executions of an app in a segment, and the times of the oldest and newest.
#[derive(Clone, Copy)]
struct Share {
    count: u64,
    oldest_ms: u64,
    newest_ms: u64,
}

/// The shares of all apps in a segment.
#[derive(Clone, Default)]
struct Shares {
    by_app: Arc<HashMap<AppId, Share>>,
    /// How many executions the segment had accepted; once it has more, the shares are stale.
    accepted: u64,
}

/// Cached facts about segments that no longer change.
#[derive(Default)]
pub(super) struct Ended {
    shares: HashMap<u64, Shares>,
    /// Since when a segment has been ahead of the clock.
    ahead: HashMap<u64, Instant>,
}

/// Runs one round of retention. A segment that cannot be read stays and does not stop the others
/// from being dropped.
///
/// # Errors
/// The first error of the round.
pub(super) fn round(
    shared: &Shared,
    inner: &Weak<super::Inner>,
    ended: &mut Ended,
) -> Result<(), String> {
    // A clock that is wrong for a moment would have everything deleted.
    let is_settled = (shared.config.settled)();
    let aged = if is_settled {
        by_age(shared, inner, ended)
    } else {
        Ok(())
    };
    let numbered = by_number(shared, inner, ended);
    for segment in shared.segments.all() {
        let is_newest = shared.segments.takes_more(&segment);
        if !is_newest {
            segment.close_if_idle(CLOSE_AFTER);
        }
    }
    if !is_settled {
        return numbered;
    }
    let fine = minute_before(shared, shared.config.retention);
    let kept = minute_before(shared, stats::KEPT);
    let counted = in_turn(inner, move |shared| shared.stats.age(fine, kept));
    aged.and(numbered).and(counted)
}

/// The minute that lies `ago` before now.
fn minute_before(shared: &Shared, ago: Duration) -> u32 {
    let then = shared.now_ms().saturating_sub(ago.as_millis() as u64);
    u32::try_from(then / MS_PER_MINUTE).unwrap_or(0)
}

/// Drops segments that are older than the retention.
fn by_age(shared: &Shared, inner: &Weak<super::Inner>, ended: &mut Ended) -> Result<(), String> {
    let now = shared.now_ms();
    let oldest_kept = now.saturating_sub(shared.config.retention.as_millis() as u64);
    let mut outcome = Ok(());
    ended.ahead.retain(|start, _| is_ahead(*start, now));
    for segment in shared.segments.all() {
        let width = shared.config.segment_width().as_millis() as u64;
        // No execution joins a segment after its span, though the next segment may begin much
        // later.
        let over = segment.start_ms.saturating_add(width);
        let next = shared.segments.end_ms(&segment);
        let end = next.map_or(over, |next| next.min(over));
        // The times in it come from a clock that was wrong, so its age counts from when that was
        // seen.
        let outlived = is_ahead(segment.start_ms, now) && {
            let since = ended.ahead.entry(segment.start_ms);
            since.or_insert_with(Instant::now).elapsed() >= shared.config.retention
        };
        if end > oldest_kept && !outlived || segment.is_live() {
            continue;
        }
        let dropped = guarded(|| {
            // Its span may have been longer under another retention.
            let newest = segment.newest_ms()?.unwrap_or(segment.start_ms);
            if newest <= oldest_kept || outlived {
                remove(shared, inner, &segment)?;
                tracing::info!(
                    start_ms = segment.start_ms,
                    "Dropped executions that are older than the retention"
                );
            }
            Ok(())
        });
        outcome = outcome.and(dropped);
    }
    outcome
}

/// Drops or compacts the segments in which at least half of the executions are surplus.
fn by_number(shared: &Shared, inner: &Weak<super::Inner>, ended: &mut Ended) -> Result<(), String> {
    let segments = shared.segments.all();
    ended
        .shares
        .retain(|start, _| segments.iter().any(|s| s.start_ms == *start));
    let mut shares = Vec::with_capacity(segments.len());
    let mut totals: HashMap<AppId, u64> = HashMap::new();
    let mut outcome = Ok(());
    for segment in &segments {
        let share = guarded(|| share(shared, segment, ended)).unwrap_or_else(|cause| {
            outcome = Err(cause);
            Shares::default()
        });
        for (app, s) in share.by_app.iter().filter(|(app, s)| lives(shared, app, s)) {
            *totals.entry(app.clone()).or_default() += s.count;
        }
        shares.push(share);
    }
    // Oldest first: the surplus of each app is its oldest executions.
    for (segment, share) in segments.iter().zip(shares) {
        let mut goes: HashMap<AppId, u64> = HashMap::new();
        for (app, s) in &*share.by_app {
            let surplus = if lives(shared, app, s) {
                totals
                    .get(app)
                    .map_or(0, |total| total.saturating_sub(shared.config.max_per_app))
            } else {
                s.count
            };
            let gone = surplus.min(s.count);
            if gone > 0 {
                goes.insert(app.clone(), gone);
            }
        }
        let all: u64 = share.by_app.values().map(|s| s.count).sum();
        let gone: u64 = goes.values().sum();
        if gone == 0 || gone * 2 < all || !shared.segments.is_left(segment) {
            continue;
        }
        for (app, gone) in &goes {
            if let Some(total) = totals.get_mut(app) {
                *total = total.saturating_sub(*gone);
            }
        }
        let dropped = guarded(|| {
            if gone == all && !has_keys(shared, segment)? {
                return remove(shared, inner, segment);
            }
            // The journal must hold nothing for the rows that are dropped.
            in_turn(inner, |_| Ok(()))?;
            let compacted = shared.segments.while_left(segment, share.accepted, || {
                compact(shared, segment, &goes, true)
            });
            compacted.unwrap_or_else(|| Err("executions have joined it meanwhile".to_owned()))
        });
        if dropped.is_err() {
            outcome = dropped;
            continue;
        }
        ended.shares.remove(&segment.start_ms);
        tracing::info!(
            start_ms = segment.start_ms,
            gone,
            kept = all - gone,
            "Dropped executions beyond the number that is kept"
        );
    }
    outcome
}

/// Whether a segment has idempotency keys that may still be repeated.
fn has_keys(shared: &Shared, segment: &Segment) -> Result<bool, String> {
    if segment.start_ms + IDEMPOTENCY_TTL.as_millis() as u64 <= shared.now_ms() {
        return Ok(false);
    }
    let database = segment.open().map_err(|e| e.to_string())?;
    let first = database.tree.scan_prefix([rows::KEYS]).keys().next();
    Ok(first.transpose().map_err(|e| e.to_string())?.is_some())
}

/// Whether an app's executions in a segment belong to the existing app of that name.
fn lives(shared: &Shared, app: &AppId, share: &Share) -> bool {
    shared
        .app_since(app)
        .is_some_and(|since| share.newest_ms >= since)
}

fn share(shared: &Shared, segment: &Segment, ended: &mut Ended) -> Result<Shares, String> {
    // Read before the rows: executions that are accepted in between are counted the next time.
    let accepted = segment.accepted.load(Ordering::Relaxed);
    if let Some(known) = ended.shares.get(&segment.start_ms)
        && known.accepted == accepted
    {
        return Ok(known.clone());
    }
    let settled = shared.segments.is_left(segment);
    let database = segment.open().map_err(|e| e.to_string())?;
    let mut shares: HashMap<AppId, Share> = HashMap::new();
    for key in database.tree.scan_prefix([rows::ENDS]).keys() {
        let key = key.map_err(|e| e.to_string())?;
        let (Some(app), Some(id)) = (rows::app_of(&key), rows::id_of(&key)) else {
            continue;
        };
        let at = id.0.timestamp_ms();
        let share = shares.entry(app).or_insert(Share {
            count: 0,
            oldest_ms: at,
            newest_ms: at,
        });
        share.count += 1;
        share.oldest_ms = share.oldest_ms.min(at);
        share.newest_ms = share.newest_ms.max(at);
    }
    let shares = Shares {
        by_app: Arc::new(shares),
        accepted,
    };
    if settled {
        let sealed = || Segments::seal(segment).map_err(|e| e.to_string());
        if let Some(sealed) = shared.segments.while_left(segment, accepted, sealed) {
            sealed?;
            ended.shares.insert(segment.start_ms, shares.clone());
        }
    }
    Ok(shares)
}

/// Removes a segment once its counts are in the statistics.
fn remove(shared: &Shared, inner: &Weak<super::Inner>, segment: &Segment) -> Result<(), String> {
    let database = segment.open().map_err(|e| e.to_string())?;
    let start = segment.start_ms;
    let fine = minute_before(shared, shared.config.retention);
    in_turn(inner, move |shared| {
        shared.stats.fold(start, &database, fine)
    })?;
    let removed = shared.segments.remove(segment);
    shared.recount(segment);
    removed.map_err(|e| e.to_string())?;
    in_turn(inner, move |shared| shared.stats.unmark(start))
}

impl Shared {
    /// Takes the bytes of a removed or replaced segment out of the ledger and enters those of its
    /// successor.
    fn recount(&self, segment: &Segment) {
        let now = self.segments.starting_at(segment.start_ms);
        if now.as_deref().is_some_and(|now| std::ptr::eq(now, segment)) {
            return;
        }
        let ledger = &self.config.ledger;
        if let Some(now) = now {
            let counts = now.stored.lock();
            counts
                .iter()
                .for_each(|(org, bytes)| ledger.add(org, *bytes));
        }
        for (org, bytes) in segment.stored.lock().drain() {
            ledger.remove(&org, bytes);
        }
    }
}

/// Copies a segment into a fresh one, without the oldest executions of each app: `goes` says how
/// many. `sealed` is as for [`Segments::replace`](super::segment::Segments::replace).
pub(super) fn compact(
    shared: &Shared,
    segment: &Segment,
    goes: &HashMap<AppId, u64>,
    sealed: bool,
) -> Result<(), String> {
    let from = segment.open().map_err(|e| e.to_string())?;
    let mut gone: HashSet<ExecutionId> = HashSet::new();
    for (app, count) in goes {
        let keys = from.tree.scan_prefix(rows::of_app(rows::ENDS, app)).keys();
        for key in keys.take(usize::try_from(*count).unwrap_or(usize::MAX)) {
            let key = key.map_err(|e| e.to_string())?;
            gone.extend(rows::id_of(&key));
        }
    }
    let files = segment.files();
    let replaced = shared.segments.replace(segment, sealed, |to, to_files| {
        let mut counter = Counter::default();
        let mut batch = sled::Batch::default();
        let mut rows_in_batch = 0;
        for row in from.tree.iter() {
            let (key, value) = row.map_err(|e| e.to_string())?;
            let of_one = matches!(
                key.first().copied(),
                Some(rows::REQUESTS | rows::LIVE | rows::ENDS | rows::RESULTS)
            );
            if of_one && rows::id_of(&key).is_some_and(|id| gone.contains(&id)) {
                continue;
            }
            let body = counter.row(&key, &value);
            if let Some(BodyRecord { file, .. }) = body.filter(|b| !b.file.is_empty()) {
                link(&files, to_files, &file)?;
            }
            batch.insert(key, value);
            rows_in_batch += 1;
            if rows_in_batch == COPY_BATCH {
                to.tree
                    .apply_batch(std::mem::take(&mut batch))
                    .map_err(|e| e.to_string())?;
                rows_in_batch = 0;
            }
        }
        to.commit(batch)?;
        Ok(counter.counts())
    });
    shared.recount(segment);
    replaced
}

/// Links a file of a segment into its successor; copies it on file systems without hard links.
fn link(from: &Path, to: &Path, name: &str) -> Result<(), String> {
    let (from, to) = (from.join(name), to.join(name));
    match std::fs::hard_link(&from, &to) {
        Ok(()) => Ok(()),
        // `store check` reports the missing file; the rows are worth keeping.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => std::fs::copy(&from, &to)
            .map(drop)
            .map_err(|e| e.to_string()),
    }
}

/// Runs work on the statistics on the committer's thread, between two batches.
pub(super) fn in_turn(
    inner: &Weak<super::Inner>,
    work: impl FnOnce(&Shared) -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let closing = || "the store is closing".to_owned();
    let (tx, rx) = mpsc::channel();
    {
        let inner = inner.upgrade().ok_or_else(closing)?;
        let commands = inner.commands.lock();
        let sent = commands.as_ref().is_some_and(|commands| {
            let work = Box::new(move |shared: Result<&Shared, String>| {
                drop(tx.send(shared.and_then(work)));
            });
            commands.send(Command::Statistics(work)).is_ok()
        });
        if !sent {
            return Err(closing());
        }
    }
    rx.recv().unwrap_or_else(|_| Err(closing()))
}
