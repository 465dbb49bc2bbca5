//! The one thread that writes executions: collect, decide, append to the journal, then show and
//! answer. The append makes a batch durable.
//!
//! A submission is answered as soon as the journal has it. A change is first applied to the
//! databases, because its caller may read at once what it wrote.
//!
//! One sync serves every command that arrived during the sync before. Readers see a change only
//! once it is on disk.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::time::Instant;

use super::{
    super::db::sync_folder,
    Shared, StoredResult, Submission,
    batch::{Batch, Effect, unavailable, uncertain, unshown},
    command::Command,
    ids::Ids,
    journal::{NotAppended, Operation, STATISTICS},
    journaled_databases::Disk,
    live::Live,
    rows::{self, KeyRecord, RequestRecord, ResultRecord},
    segment::{Segment, Unended},
    show::show,
    stats,
};
use crate::{
    model::{
        AppId, ExecutionId, Failure, Reason,
        catalog::not_found,
        execution::{Change, Completion, IDEMPOTENCY_TTL, Identity, Refused, State},
        stats::{Outcome, OutcomeCounts, minute_of_ms},
    },
    vitals::Vitals,
};

/// The most commands in one batch, which shares one sync; bounds how long the first of them waits.
const BATCH: usize = 1024;
/// After this long without a command, a checkpoint brings the databases up to date.
const CHECKPOINT_IDLE: Duration = Duration::from_millis(500);
/// Cached counts, so that an end need not read its minute's row; above this number the cache is
/// cleared.
const COUNTS_AT_HAND: usize = 4096;

/// A key that no row has.
const NOWHERE: &[u8] = b"\xffnowhere";

/// An execution and the state that was decided on for it.
type Decided = (Arc<Live>, Arc<State>);

/// The state of the committer's thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    disk: Disk,
    ids: Ids,
    /// How every execution begins.
    pending: Arc<State>,
    /// Ended executions by segment, app and minute, as on disk or in the batch.
    counts: HashMap<(u64, AppId, u32), OutcomeCounts>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, disk: Disk) -> Self {
        Self {
            ids: Ids::new(shared.clone()),
            shared,
            disk,
            pending: Arc::new(State::default()),
            counts: HashMap::new(),
        }
    }

    /// Runs until the last sender is dropped.
    pub(super) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            let first = match commands.recv_timeout(CHECKPOINT_IDLE) {
                Ok(first) => first,
                // Idle: a good time for a checkpoint.
                Err(RecvTimeoutError::Timeout) => {
                    self.disk.checkpoint_if_free();
                    self.probe();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // If this fails, the next start replays the journal.
                    let _ = self.disk.checkpoint();
                    return;
                }
            };
            Vitals::test_panic(super::COMMITTER);
            let mut batch = Batch::default();
            let usable = self.shared.usable();
            let room = usable.clone().and_then(|()| self.shared.room());
            let mut statistics = Vec::new();
            let waiting = std::iter::from_fn(|| commands.try_recv().ok());
            for command in std::iter::once(first).chain(waiting).take(BATCH) {
                match command {
                    Command::Submit { submission, reply } => {
                        match room
                            .clone()
                            .and_then(|()| self.submit(&mut batch, submission))
                        {
                            Ok(Ok((live, unended))) => {
                                batch.effects.push(Effect::Accepted(live, unended, reply));
                            }
                            Ok(Err(known)) => {
                                batch.effects.push(Effect::Deduplicated(known, reply))
                            }
                            Err(failure) => reply.send(Err(failure)),
                        }
                    }
                    Command::Change {
                        id,
                        change,
                        result,
                        reply,
                    } => match usable
                        .clone()
                        .and_then(|()| self.change(&mut batch, id, change, result))
                    {
                        Ok(Ok((live, state))) => {
                            batch
                                .effects
                                .push(Effect::Changed(live, state, Some(reply)));
                        }
                        Ok(Err(refused)) => batch.effects.push(Effect::Refused(refused, reply)),
                        Err(failure) => reply.send(Err(failure)),
                    },
                    Command::Forget { app, reply } => {
                        match usable.clone().and_then(|()| self.forget(&mut batch, &app)) {
                            Ok(()) => batch.effects.push(Effect::Forgotten(reply)),
                            Err(failure) => reply.send(Err(failure)),
                        }
                    }
                    Command::Count { minute, tallies } => {
                        if usable.is_ok()
                            && let Err(cause) = self.count_sync(&mut batch, minute, tallies)
                        {
                            tracing::error!(%cause, "Invocations could not be counted");
                        }
                    }
                    Command::Statistics(work) => statistics.push(work),
                }
            }
            self.finish(batch);
            if !statistics.is_empty() {
                // This work writes to the database directly, so the journal must hold nothing older
                // that a start would replay over it.
                let outcome = self.disk.checkpoint();
                self.counts.clear();
                for work in statistics {
                    work(outcome.clone().map(|()| &*self.shared));
                }
            }
        }
    }

    /// Decides on a submission: accepted, or (the inner error) a repeat of the execution that its
    /// idempotency key names.
    fn submit(
        &mut self,
        batch: &mut Batch,
        submission: Submission,
    ) -> Result<Result<(Arc<Live>, Unended), ExecutionId>, Failure> {
        let shared = self.shared.clone();
        let app = &submission.app;
        let key = submission
            .idempotency_key
            .as_ref()
            .map(|text| rows::idempotency(app, &submission.submitters, text));
        if let Some(key) = &key
            && let Some(known) = self.known(batch, app, key)?
        {
            let id = known.id().ok_or_else(|| damaged("an idempotency key"))?;
            if known.digest != submission.digest {
                return Err(Failure::new(
                    Reason::IdempotencyConflict,
                    format!(
                        "the idempotency key was used for {id} with another request within the last 24 hours; repeat that request as it was, or send a new key"
                    ),
                ));
            }
            return Ok(Err(id));
        }
        let since = shared.app_since(app).ok_or_else(|| not_found(app))?;
        let ended_now = batch.unfinished.get(app).copied().unwrap_or(0);
        let unfinished = shared.live.count(app).saturating_add_signed(ended_now);
        if unfinished >= shared.config.queue_max {
            return Err(Failure::new(
                Reason::ExecutionQueueFull,
                format!("{unfinished} executions of app {app} have not ended, which is the limit (IGNITE_EXECUTION_QUEUE_MAX); try again later"),
            )
            .with_retry_after(Duration::from_secs(1)));
        }

        let ledger = &shared.config.ledger;
        ledger.check(&app.org, submission.request.size())?;

        let id = self.ids.next(since)?;
        let segment = self.ids.segment_for(id)?;
        let file = format!("{}.request", id.0);
        let record = RequestRecord {
            app: app.to_string(),
            submitters: submission
                .submitters
                .iter()
                .map(ToString::to_string)
                .collect(),
            method: submission.request.method,
            target: submission.request.target,
            headers: rows::headers(&submission.request.headers),
            body: Some(rows::body_record(&submission.request.body, &file)),
        };
        let mut bytes = batch.keep(&segment, submission.request.body, &file)?;
        // From here on, so that the segment does not count as fully ended.
        let unended = segment.begin();
        let row = rows::by_id(rows::REQUESTS, id).to_vec();
        bytes += batch.put_counted(&segment, row, record.encode_to_vec());
        if let Some(key) = key {
            let record = KeyRecord {
                id: id.0.to_bytes().to_vec(),
                digest: submission.digest,
            };
            batch.put(&segment, key.clone(), record.encode_to_vec());
            batch.keys.insert(key, record);
        }
        batch.enter(ledger, &segment, &submission.app.org, bytes);
        *batch.unfinished.entry(submission.app.clone()).or_default() += 1;
        let identity = Identity {
            id,
            app: submission.app,
            submitters: submission.submitters,
        };
        let live = Arc::new(Live::new(identity, self.pending.clone()));
        Ok(Ok((live, unended)))
    }

    /// The record of an idempotency key that was used within its time to live.
    fn known(&self, batch: &Batch, app: &AppId, key: &[u8]) -> Result<Option<KeyRecord>, Failure> {
        if let Some(record) = batch.keys.get(key) {
            return Ok(Some(record.clone()));
        }
        let (now, ttl) = (self.shared.now_ms(), IDEMPOTENCY_TTL.as_millis() as u64);
        let (since, until) = (now.saturating_sub(ttl), now.saturating_add(ttl));
        // The keys of a deleted app of the same name are not this app's.
        let since = since.max(self.shared.app_since(app).unwrap_or(0));
        for segment in self.shared.segments.all().iter().rev() {
            let row = segment.database()?.tree.get(key).map_err(broken)?;
            if let Some(row) = row {
                let record = KeyRecord::decode(&*row).map_err(|_| damaged("an idempotency key"))?;
                // A key from a clock that ran ahead would otherwise hold until the clock catches
                // up.
                let at = record.id().map(|id| id.0.timestamp_ms());
                let fresh = at.is_some_and(|at| at >= since && at <= until);
                return Ok(fresh.then_some(record));
            }
            if segment.start_ms < since {
                break;
            }
        }
        Ok(None)
    }

    fn change(
        &mut self,
        batch: &mut Batch,
        id: ExecutionId,
        change: Change,
        result: Option<StoredResult>,
    ) -> Result<Result<Decided, Refused>, Failure> {
        let Some(live) = self.shared.live.get(id) else {
            return Ok(Err(Refused::Ended));
        };
        let shown = live.state();
        let now = batch.states.get(&id).unwrap_or(&shown);
        let next = match now.after(change, self.shared.now_ms() as i64) {
            Ok(next) => next,
            Err(refused) => return Ok(Err(refused)),
        };
        let segment = self
            .shared
            .segments
            .of(id)
            .ok_or_else(|| damaged("a segment"))?;
        let key_of = |kind| rows::by_id(kind, id).to_vec();
        if next.status.is_terminal() {
            let app = &live.identity.app;
            let place = (
                segment.start_ms,
                app.clone(),
                minute_of_ms(next.completed_at_ms),
            );
            // Whatever can fail comes first: a refused end must not leave half of itself in the
            // batch.
            let tally = self.tally(&segment, &place)?;
            let mut bytes = 0;
            if let Some(result) = result {
                let file = format!("{}.{}.result", id.0, next.attempt);
                let record = ResultRecord {
                    headers: rows::headers(&result.headers),
                    body: Some(rows::body_record(&result.body, &file)),
                };
                bytes += batch.keep(&segment, result.body, &file)?;
                let row = record.encode_to_vec();
                bytes += batch.put_counted(&segment, key_of(rows::RESULTS), row);
            }
            let end = rows::end_record(&next).encode_to_vec();
            bytes += batch.put_counted(&segment, rows::end(app, id), end);
            // An accepted execution keeps its result, even above the bound.
            batch.enter(&self.shared.config.ledger, &segment, &app.org, bytes);
            batch.remove(&segment, key_of(rows::LIVE));
            *batch.unfinished.entry(app.clone()).or_default() -= 1;
            if let Some(outcome) = Outcome::of_execution(next.status) {
                self.counts.insert(place.clone(), tally.with(outcome));
                batch.counts.insert(place);
            }
        } else {
            let live = rows::live_record(&next).encode_to_vec();
            batch.put(&segment, key_of(rows::LIVE), live);
        }
        batch.states.insert(id, next.clone());
        Ok(Ok((live, Arc::new(next))))
    }

    /// How many executions of an app have ended in a minute so far.
    fn tally(
        &self,
        segment: &Segment,
        place: &(u64, AppId, u32),
    ) -> Result<OutcomeCounts, Failure> {
        if let Some(known) = self.counts.get(place) {
            return Ok(*known);
        }
        let key = rows::count(&place.1, place.2);
        let row = segment.database()?.tree.get(key).map_err(broken)?;
        Ok(row
            .and_then(|row| stats::from_bytes(&row))
            .unwrap_or_default())
    }

    fn forget(&mut self, batch: &mut Batch, app: &AppId) -> Result<(), Failure> {
        for live in self.shared.live.of_app(app) {
            let completion = Completion::failed(
                Reason::AppDeleted.as_str(),
                format!("app {app} has been deleted"),
            );
            let id = live.identity.id;
            if let Ok((live, state)) = self.change(batch, id, Change::End(completion), None)? {
                batch.effects.push(Effect::Changed(live, state, None));
            }
        }
        Ok(())
    }

    /// Counts invocations without a record.
    fn count_sync(
        &mut self,
        batch: &mut Batch,
        minute: u32,
        tallies: Vec<(AppId, OutcomeCounts)>,
    ) -> Result<(), String> {
        for (app, tally) in tallies {
            let place = (STATISTICS, app, minute);
            let known = match self.counts.get(&place) {
                Some(known) => *known,
                None => self.shared.stats.minute(&place.1, minute)?,
            };
            self.counts.insert(place.clone(), known.plus(tally));
            batch.counts.insert(place);
        }
        Ok(())
    }

    /// Tests whether the disk accepts writes again after a failure. Without this it might never be
    /// noticed, because clients send nothing to a server that reports itself not ready.
    fn probe(&mut self) {
        let healthy = &self.shared.healthy;
        if !healthy.load(Ordering::Relaxed) && self.shared.usable().is_ok() {
            // Removes a row that does not exist.
            let removal = Operation {
                target: STATISTICS,
                key: NOWHERE.to_vec(),
                value: None,
            };
            let written = self.disk.append(&[removal]).is_ok();
            self.shared.healthy.store(written, Ordering::Relaxed);
        }
    }

    /// Makes the batch durable and shows it, or undoes it and refuses its commands.
    fn finish(&mut self, mut batch: Batch) {
        for place in std::mem::take(&mut batch.counts) {
            let Some(tally) = self.counts.get(&place) else {
                continue;
            };
            let (target, app, minute) = place;
            batch.operations.push(Operation {
                target,
                key: match target {
                    STATISTICS => stats::minute_key(&app, minute),
                    _ => rows::count(&app, minute),
                },
                value: Some(stats::to_bytes(*tally).to_vec()),
            });
        }
        let outcome = self.write(&batch);
        for ((start_ms, org), bytes) in batch.stored.drain() {
            match batch.segments.get(&start_ms).filter(|_| outcome.is_ok()) {
                Some((segment, _)) => *segment.stored.lock().entry(org).or_default() += bytes,
                None => self.shared.config.ledger.remove(&org, bytes),
            }
        }
        if let Err(NotAppended { cause, undone }) = &outcome {
            tracing::error!(%cause, undone, "A batch of executions could not be written; its commands are refused");
            if !undone {
                // Only the next start can tell whether the batch holds; nothing may be appended
                // behind it.
                self.shared.broken.store(true, Ordering::Relaxed);
            }
        }
        if outcome.is_err() || self.counts.len() > COUNTS_AT_HAND {
            self.counts.clear();
        }
        let written = outcome.is_ok();
        let mut failed = outcome.err().map(|failed| {
            if failed.undone {
                unavailable(&failed.cause.to_string())
            } else {
                uncertain(&failed.cause)
            }
        });
        // Submitters are answered at once. Whoever asked for a change may read what it wrote, so
        // those answers wait until the databases have it.
        let is_change =
            |effect: &Effect| matches!(effect, Effect::Changed(..) | Effect::Forgotten(_));
        let (changes, submits): (Vec<_>, Vec<_>) = batch.effects.into_iter().partition(is_change);
        show(&self.shared, submits, failed.as_ref());
        if written {
            // A change that cannot be applied is not shown; the journal has it, and the next start
            // applies it.
            let applied = self.disk.apply(batch.operations);
            failed = applied.err().map(|cause| unshown(&cause));
        }
        show(&self.shared, changes, failed.as_ref());
        self.disk.checkpoint_if_long();
    }

    fn write(&mut self, batch: &Batch) -> Result<(), NotAppended> {
        if batch.operations.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let written = batch
            .segments
            .values()
            .filter(|(_, files)| *files)
            .try_for_each(|(segment, _)| sync_folder(&segment.files()))
            .map_err(|cause| NotAppended {
                cause,
                undone: true,
            })
            .and_then(|()| self.disk.append(&batch.operations));
        let healthy = &self.shared.healthy;
        healthy.store(written.is_ok(), Ordering::Relaxed);
        let metrics = &self.shared.config.metrics.store;
        match written {
            Ok(()) => metrics.appended(batch.effects.len(), began.elapsed()),
            Err(_) => metrics.failed(),
        }
        written
    }
}

fn broken(e: sled::Error) -> Failure {
    unavailable(&e.to_string())
}

fn damaged(what: &str) -> Failure {
    unavailable(&format!("{what} is damaged; run `ignite store check`"))
}
