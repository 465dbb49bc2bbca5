//! Reads executions: one by its id, or a page of an app's or an organization's.

use std::{
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    Executions, LoadedRequest, Shared,
    rows::{self, BodyRecord, EndRecord, HeaderRecord, RequestRecord, ResultRecord},
    segment::Segment,
};
use crate::model::{
    AppId, ExecutionId, Failure, Reason,
    execution::{Identity, State, Status},
    stats::OutcomeCounts,
};

/// An execution as it is on disk.
#[derive(Debug, Clone)]
pub struct Record {
    /// The part that never changes.
    pub identity: Identity,
    /// Its current state.
    pub state: Arc<State>,
    /// The response headers and body, if it ended with a response and they were requested.
    pub result: Option<(Vec<(String, Bytes)>, Bytes)>,
}

/// Selects the executions of a page.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Of these apps.
    pub apps: Vec<AppId>,
    /// In this status.
    pub status: Option<Status>,
    /// Accepted at or after this time, Unix milliseconds.
    pub from_ms: u64,
    /// Accepted before this time, Unix milliseconds.
    pub to_ms: u64,
    /// Accepted before this execution.
    pub before: Option<ExecutionId>,
    /// At most this many; see [`Executions::list`].
    pub limit: usize,
}

impl Executions {
    /// One execution; `None` when the id is unknown or its app is deleted.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn get(&self, id: ExecutionId) -> Result<Option<Record>, Failure> {
        let live = self.live(id).map(|live| (live.state(), live));
        // An execution whose ended state is shown is on disk, and only the disk has its result, so
        // it is read from there even while the live table still has it.
        if let Some((state, live)) = live.filter(|(state, _)| !state.status.is_terminal()) {
            let visible = self.shared.is_visible(&live.identity.app, id);
            return Ok(visible.then(|| Record {
                identity: live.identity.clone(),
                state,
                result: None,
            }));
        }
        self.blocking(move |shared| shared.read_ended(id)).await
    }

    /// Fills a page without results, newest first: hands records to `push` until it returns `false`
    /// or `limit` is reached.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn list<P: Send + 'static>(
        &self,
        filter: Filter,
        mut page: P,
        push: impl Fn(&mut P, Record) -> bool + Send + 'static,
    ) -> Result<P, Failure> {
        self.blocking(move |shared| {
            let mut left = filter.limit;
            shared.walk(&filter, &mut |record| {
                left = left.saturating_sub(1);
                push(&mut page, record) && left > 0
            })?;
            Ok(page)
        })
        .await
    }

    /// The request of an execution, with its body in memory.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE when it cannot be read.
    pub async fn request(&self, id: ExecutionId) -> Result<LoadedRequest, Failure> {
        self.blocking(move |shared| {
            let segment = shared.segments.of(id).ok_or_else(|| damaged(id))?;
            let row = segment
                .database()?
                .tree
                .get(rows::by_id(rows::REQUESTS, id));
            let row = row.map_err(broken)?.ok_or_else(|| damaged(id))?;
            let request = RequestRecord::decode(&*row).map_err(|_| damaged(id))?;
            Ok(LoadedRequest {
                method: request.method,
                target: request.target,
                headers: pairs(request.headers),
                body: body(&segment, request.body.unwrap_or_default(), id)?,
            })
        })
        .await
    }

    /// Counts of an app's invocations in a range of minutes; see `Stats::read`.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn counts(
        &self,
        app: AppId,
        from: u32,
        to: u32,
    ) -> Result<Vec<(u32, OutcomeCounts)>, Failure> {
        self.blocking(move |shared| {
            shared
                .stats
                .read(&shared.segments, &app, from, to)
                .map_err(|cause| unreadable(&cause))
        })
        .await
    }
}

impl Shared {
    fn read_ended(&self, id: ExecutionId) -> Result<Option<Record>, Failure> {
        let Some(segment) = self.segments.of(id) else {
            return Ok(None);
        };
        let database = segment.database()?;
        let Some(row) = database
            .tree
            .get(rows::by_id(rows::REQUESTS, id))
            .map_err(broken)?
        else {
            return Ok(None);
        };
        let request = RequestRecord::decode(&*row).map_err(|_| damaged(id))?;
        let identity = rows::identity(id, &request).ok_or_else(|| damaged(id))?;
        if !self.is_visible(&identity.app, id) {
            return Ok(None);
        }
        // An accepted execution whose changes are not applied yet has no end row either.
        let Some(row) = database
            .tree
            .get(rows::end(&identity.app, id))
            .map_err(broken)?
        else {
            return Ok(None);
        };
        let end = EndRecord::decode(&*row).map_err(|_| damaged(id))?;
        let state = rows::end_state(end).ok_or_else(|| damaged(id))?;
        let result = database
            .tree
            .get(rows::by_id(rows::RESULTS, id))
            .map_err(broken)?
            .map(|row| {
                let result = ResultRecord::decode(&*row).map_err(|_| damaged(id))?;
                let body = body(&segment, result.body.unwrap_or_default(), id)?;
                Ok::<_, Failure>((pairs(result.headers), body))
            })
            .transpose()?;
        Ok(Some(Record {
            identity,
            state: Arc::new(state),
            result,
        }))
    }

    /// Hands `push` the records that the filter selects, newest first, until it returns `false`.
    fn walk(&self, filter: &Filter, push: &mut impl FnMut(Record) -> bool) -> Result<(), Failure> {
        let mut live = self.live_of(filter).into_iter().peekable();
        let wanted = |record: &Record| filter.status.is_none_or(|s| s == record.state.status);
        for segment in self.segments.all().iter().rev() {
            let end = self.segments.end_ms(segment).unwrap_or(u64::MAX);
            if segment.start_ms >= filter.to_ms || end <= filter.from_ms {
                continue;
            }
            for ended in Merged::new(self, segment, filter)? {
                let (app, id) = ended?;
                while let Some(newer) = live.next_if(|l| l.identity.id > id) {
                    if !push(newer) {
                        return Ok(());
                    }
                }
                // An execution that ended while this page was read may be in both. If its end does
                // not match the filter, it is shown as it was before.
                let in_both = live.next_if(|l| l.identity.id == id);
                let ended = self.end_of(segment, app, id)?.filter(wanted);
                if let Some(record) = ended.or(in_both)
                    && !push(record)
                {
                    return Ok(());
                }
            }
        }
        for left in live {
            if !push(left) {
                break;
            }
        }
        Ok(())
    }

    /// The newest unfinished executions that the filter selects, newest first, up to the page's
    /// limit: a page never needs more of them.
    fn live_of(&self, filter: &Filter) -> Vec<Record> {
        let mut newest: BTreeMap<ExecutionId, Record> = BTreeMap::new();
        for live in filter.apps.iter().flat_map(|app| self.live.of_app(app)) {
            let id = live.identity.id;
            let is_older = newest.len() >= filter.limit
                && newest
                    .first_key_value()
                    .is_some_and(|(oldest, _)| id < *oldest);
            if is_older || !filter.takes(id) || !self.is_visible(&live.identity.app, id) {
                continue;
            }
            let state = live.state();
            if filter.status.is_none_or(|s| s == state.status) {
                let identity = live.identity.clone();
                newest.insert(
                    id,
                    Record {
                        identity,
                        state,
                        result: None,
                    },
                );
                if newest.len() > filter.limit {
                    newest.pop_first();
                }
            }
        }
        newest.into_values().rev().collect()
    }

    fn end_of(
        &self,
        segment: &Segment,
        app: AppId,
        id: ExecutionId,
    ) -> Result<Option<Record>, Failure> {
        // An end whose batch is not published yet is invisible; the live table's state is shown.
        if self.live.get(id).is_some() || !self.is_visible(&app, id) {
            return Ok(None);
        }
        let row = segment.database()?.tree.get(rows::end(&app, id));
        let Some(row) = row.map_err(broken)? else {
            return Ok(None);
        };
        let state = EndRecord::decode(&*row).ok().and_then(rows::end_state);
        Ok(Some(Record {
            identity: Identity {
                id,
                app,
                submitters: Vec::new(),
            },
            state: Arc::new(state.ok_or_else(|| damaged(id))?),
            result: None,
        }))
    }
}

impl Filter {
    fn takes(&self, id: ExecutionId) -> bool {
        let at = id.0.timestamp_ms();
        at >= self.from_ms && at < self.to_ms && self.before.is_none_or(|before| id < before)
    }
}

/// The ended executions of several apps in one segment, newest first.
struct Merged {
    apps: Vec<(AppId, sled::Iter)>,
    /// The next id of each app, with the app's index in `apps`.
    heads: BinaryHeap<(ExecutionId, usize)>,
    filter: Filter,
}

impl Merged {
    fn new(shared: &Shared, segment: &Segment, filter: &Filter) -> Result<Self, Failure> {
        let database = segment.database()?;
        let from = ulid::Ulid::from_parts(filter.from_ms, 0);
        let mut merged = Self {
            apps: Vec::with_capacity(filter.apps.len()),
            heads: BinaryHeap::new(),
            filter: filter.clone(),
        };
        for app in &filter.apps {
            let first = rows::end(app, ExecutionId(from));
            let last = match filter.before {
                Some(before) => rows::end(app, before),
                None => rows::end(app, ExecutionId(ulid::Ulid::from_bytes([0xff; 16]))),
            };
            if first < last && shared.app_since(app).is_some() {
                merged
                    .apps
                    .push((app.clone(), database.tree.range(first..last)));
                merged.pull(merged.apps.len() - 1)?;
            }
        }
        Ok(merged)
    }

    fn pull(&mut self, at: usize) -> Result<(), Failure> {
        while let Some(row) = self.apps[at].1.next_back() {
            let (key, _) = row.map_err(broken)?;
            if let Some(id) = rows::id_of(&key).filter(|id| self.filter.takes(*id)) {
                self.heads.push((id, at));
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Iterator for Merged {
    type Item = Result<(AppId, ExecutionId), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let (id, at) = self.heads.pop()?;
        if let Err(failure) = self.pull(at) {
            return Some(Err(failure));
        }
        Some(Ok((self.apps[at].0.clone(), id)))
    }
}

pub(super) fn pairs(headers: Vec<HeaderRecord>) -> Vec<(String, Bytes)> {
    headers.into_iter().map(|h| (h.name, h.value)).collect()
}

pub(super) fn body(
    segment: &Segment,
    record: BodyRecord,
    id: ExecutionId,
) -> Result<Bytes, Failure> {
    if record.file.is_empty() {
        return Ok(record.inline);
    }
    let bytes = std::fs::read(segment.files().join(&record.file))
        .map_err(|e| unreadable(&format!("a body of {id}: {e}")))?;
    if bytes.len() as u64 != record.len {
        return Err(damaged(id));
    }
    Ok(bytes.into())
}

fn broken(e: sled::Error) -> Failure {
    unreadable(&e.to_string())
}

fn damaged(id: ExecutionId) -> Failure {
    unreadable(&format!("the record of {id} is damaged"))
}

pub(super) fn unreadable(cause: &str) -> Failure {
    tracing::error!(%cause, "The executions cannot be read");
    Failure::new(
        Reason::StoreUnavailable,
        format!("the executions cannot be read ({cause}); run `ignite store check`"),
    )
}
