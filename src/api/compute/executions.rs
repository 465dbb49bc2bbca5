//! Asynchronous executions: submit, read, watch, count, list, cancel.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, future, stream, stream::BoxStream};
use opentelemetry::KeyValue;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};

use super::{
    Compute, Refusal, admitted,
    invoke::{outbound, pass_trace},
};
use crate::{
    api::{
        convert::{self, Fields},
        pages::{self, Page},
        proto::{local::v1 as local, v1},
        status::to_status,
    },
    clock::now_ms,
    fleet::upstream,
    model::{
        ExecutionId, Failure, OrgName, Reason,
        execution::{Change, Completion, INLINE_BYTES, MAX_IDEMPOTENCY_KEY, State},
        stats::{Asked, Buckets},
    },
    store::executions::{
        Filter, Live, Record, StoredBody, StoredRequest, Submission, Update, Watcher,
    },
    trace::TRACEPARENT,
};

/// The header that makes a repeated submit return the first id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The answer of WatchExecution.
pub type WatchStream = BoxStream<'static, Result<v1::WatchExecutionResponse, Status>>;

impl Compute {
    pub(super) async fn submit(
        &self,
        request: Request<v1::InvokeRequest>,
    ) -> Result<v1::InvokeAsyncResponse, Refusal> {
        let caller = self.caller(&request)?;
        let (app, owner) = self.invocable(
            &caller,
            &request.get_ref().organization_name,
            &request.get_ref().app_name,
        )?;
        let refuse = |f| Refusal(f, owner);
        let idempotency_key = idempotency_key(request.metadata().as_ref())?;
        let (metadata, _, envelope) = request.into_parts();
        let mut outbound = outbound(envelope, self.limits)?;
        pass_trace(outbound.headers_mut(), metadata.as_ref().get(&TRACEPARENT));
        if self.gateway.fleet.get(&app).is_none() {
            return Err(refuse(self.not_running(&app, owner)));
        }
        let (head, body) = outbound.into_parts();
        let body = match body {
            upstream::Body::Full(bytes) => bytes.unwrap_or_default(),
            _ => Bytes::new(),
        };
        let (method, target) = (head.method.to_string(), head.uri.to_string());
        let digest = match idempotency_key {
            Some(_) => digest(&method, &target, &body),
            None => Vec::new(),
        };
        let body = if body.len() <= INLINE_BYTES {
            StoredBody::Inline(body)
        } else {
            let room = self.executions.check_room(&app.org, body.len() as u64);
            // With a key this may repeat an accepted submit, which needs no capacity.
            if idempotency_key.is_none() {
                room.map_err(refuse)?;
            }
            let spooled = self.spooled(&body).await;
            spooled.map_err(|e| refuse(unwritable(&e)))?
        };
        let traced = self.gateway.tracer.accepted(
            &head.headers,
            format!("InvokeAsync {app}"),
            vec![KeyValue::new("ignite.app", app.to_string())],
        );
        let mut headers = head.headers;
        if let Some(traced) = &traced {
            headers.insert(TRACEPARENT, traced.header());
        }
        let headers = headers.iter();
        let submission = Submission {
            app,
            submitters: caller.orgs.clone(),
            idempotency_key,
            digest,
            request: StoredRequest {
                method,
                target,
                headers: headers
                    .map(|(n, v)| (n.as_str().to_owned(), Bytes::copy_from_slice(v.as_bytes())))
                    .collect(),
                body,
            },
        };
        let submitted = self.executions.submit(submission).await.map_err(refuse)?;
        if let Some(traced) = traced.filter(|_| !submitted.known) {
            traced.done(submitted.id);
        }
        Ok(v1::InvokeAsyncResponse {
            execution_id: submitted.id.to_string(),
        })
    }

    async fn spooled(&self, body: &[u8]) -> std::io::Result<StoredBody> {
        let mut spool = self.executions.spool();
        spool.push(body).await?;
        spool.finish().await
    }

    pub(super) async fn execution(
        &self,
        request: Request<v1::GetExecutionRequest>,
    ) -> Result<v1::GetExecutionResponse, Refusal> {
        let caller = self.caller(&request)?;
        let record = self
            .readable(&request, &request.get_ref().execution_id)
            .await?;
        let owner = caller.owns(&record.identity.app.org);
        Ok(v1::GetExecutionResponse {
            execution: Some(convert::execution_to_wire(&record, owner)),
        })
    }

    pub(super) async fn watch(
        &self,
        request: Request<v1::WatchExecutionRequest>,
    ) -> Result<WatchStream, Refusal> {
        let caller = self.caller(&request)?;
        let id = execution_id(&request.get_ref().execution_id)?;
        // Subscribes before the record is read, so that no update in between is missed.
        let live = self.executions.live(id);
        let record = self
            .readable(&request, &request.get_ref().execution_id)
            .await?;
        let owner = caller.owns(&record.identity.app.org);
        let Some(live) = live.filter(|_| !record.state.status.is_terminal()) else {
            let last = state_update(&record, owner);
            return Ok(stream::once(future::ready(Ok(last))).boxed());
        };
        let follow = Follow {
            watcher: live.watch(),
            live,
            compute: self.clone(),
            owner,
        };
        Ok(stream::unfold(Some(follow), Follow::step).boxed())
    }

    pub(super) async fn stats(
        &self,
        request: Request<v1::GetExecutionStatsRequest>,
    ) -> Result<v1::GetExecutionStatsResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let refuse = |f| Refusal(f, true);
        let app = self.apps.get(&id).map_err(refuse)?;
        let asked = Asked {
            start_ms: r.start_ms,
            end_ms: r.end_ms,
            bucket_secs: r.bucket_secs,
        };
        let now = now_ms();
        let fine_since = now - self.retention.as_millis() as i64;
        let buckets = Buckets::new(asked, now, fine_since).map_err(refuse)?;
        let (first, last) = buckets.minutes();
        // Counts from before its creation belong to an earlier app of the same name.
        let first = first.max(crate::model::stats::minute_of_ms(app.created_at_ms));
        let counts = if first <= last {
            self.executions
                .counts(id, first, last)
                .await
                .map_err(refuse)?
        } else {
            Vec::new()
        };
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(v1::GetExecutionStatsResponse {
            buckets: buckets
                .fill(&counts)
                .into_iter()
                .map(|(timestamp_ms, tally)| v1::ExecutionBucket {
                    timestamp_ms,
                    completed: count(tally.completed),
                    failed: count(tally.failed),
                    timeout: count(tally.timeout),
                })
                .collect(),
            bucket_secs: i32::try_from(buckets.width).unwrap_or(i32::MAX),
            partial_clusters: Vec::new(),
        })
    }

    /// A page of executions, for `ExecutionService`.
    pub(in crate::api) async fn list_executions(
        &self,
        request: Request<local::ListExecutionsRequest>,
    ) -> Result<local::ListExecutionsResponse, Refusal> {
        self.caller(&request)?;
        let r = request.get_ref();
        let mut fields = Fields::default();
        let org = fields.accept("organization_name", r.organization_name.parse::<OrgName>());
        let status = fields.accept("status", convert::execution_status(r.status));
        let limit = fields.accept_all(pages::size(r.limit));
        // An id reveals nothing new to its reader, so it is not encoded.
        let before = pages::parse_cursor_by(&r.cursor, "ListExecutions", |c| c.parse().ok());
        let before = fields.accept_all(before);
        for (field, value) in [("from_ms", r.from_ms), ("to_ms", r.to_ms)] {
            if value < 0 {
                fields.add(
                    field,
                    format!("{value} is negative; give Unix milliseconds, or leave it out"),
                );
            }
        }
        fields.check()?;
        let (Some(org), Some(status), Some(limit), Some(before)) = (org, status, limit, before)
        else {
            return Err(Failure::new(Reason::Internal, "a checked field is missing").into());
        };
        // Of one app, a role for that app suffices.
        match r.app_name.as_str() {
            "" => self.owner(&request, &org)?,
            name => drop(self.owned(&request, org.as_str(), name)?),
        }
        let refuse = |f| Refusal(f, true);
        let apps = match r.app_name.as_str() {
            "" => self
                .apps
                .page(&org, None, usize::MAX)
                .iter()
                .map(|a| a.id.clone())
                .collect(),
            name => {
                let id = convert::app_id(org.as_str(), name)?;
                vec![self.apps.get(&id).map_err(refuse)?.id.clone()]
            }
        };
        let filter = Filter {
            apps,
            status,
            from_ms: r.from_ms.unsigned_abs(),
            to_ms: match r.to_ms {
                0 => u64::MAX,
                ms => ms.unsigned_abs(),
            },
            before,
            // One entry more than asked for shows whether there is a next page.
            limit: limit + 1,
        };
        let filled = self
            .executions
            .list(filter, Page::new(limit), |page, record| {
                page.push(record, |r| convert::execution_to_wire(r, true))
            });
        let (executions, last) = filled.await.map_err(refuse)?.finish();
        Ok(local::ListExecutionsResponse {
            next_cursor: last.map_or_else(String::new, |r| r.identity.id.to_string()),
            executions,
        })
    }

    /// Ends an execution, for `ExecutionService`.
    pub(in crate::api) async fn cancel(
        &self,
        request: Request<local::CancelExecutionRequest>,
    ) -> Result<local::CancelExecutionResponse, Refusal> {
        let caller = self.caller(&request)?;
        let record = self
            .readable(&request, &request.get_ref().execution_id)
            .await?;
        let owner = caller.owns(&record.identity.app.org);
        let id = record.identity.id;
        let change = Change::End(Completion::cancelled());
        match self.executions.change(id, change, None).await {
            Ok(Ok(state)) => Ok(local::CancelExecutionResponse {
                execution: Some(convert::execution_to_wire(
                    &Record { state, ..record },
                    owner,
                )),
            }),
            Ok(Err(_)) => Err(Refusal(
                Failure::new(
                    Reason::FailedPrecondition,
                    format!("{id} has ended already; GetExecution says how"),
                ),
                owner,
            )),
            Err(failure) => Err(Refusal(failure, owner)),
        }
    }

    /// An execution that the caller may read: the caller owns the app or submitted the execution.
    async fn readable<T>(&self, request: &Request<T>, id: &str) -> Result<Record, Failure> {
        let admitted = admitted(request)?;
        let id = execution_id(id)?;
        let record = self.executions.get(id).await?;
        let caller = admitted.caller();
        let may_read = |r: &Record| {
            caller.owns(&r.identity.app.org) || r.identity.submitters.iter().any(|o| caller.owns(o))
        };
        // Others must not learn that it exists.
        let record = record.filter(may_read).ok_or_else(|| {
            Failure::new(
                Reason::NotFound,
                format!("execution {id} does not exist; only InvokeAsync makes executions, and they are kept for a limited time"),
            )
        })?;
        admitted.check_app(&record.identity.app)?;
        Ok(record)
    }
}

/// A subscription to one execution.
struct Follow {
    live: Arc<Live>,
    watcher: Watcher,
    compute: Compute,
    /// Whether the watcher belongs to the app's organization.
    owner: bool,
}

impl Follow {
    async fn step(
        follow: Option<Self>,
    ) -> Option<(Result<v1::WatchExecutionResponse, Status>, Option<Self>)> {
        let mut follow = follow?;
        let update = tokio::select! {
            biased;
            update = follow.watcher.next() => update,
            () = follow.compute.stopping.cancelled() => {
                let failure = Failure::new(
                    Reason::ShuttingDown,
                    "the platform is stopping; the execution continues after its next start: watch it again then",
                );
                return Some((Err(to_status(&failure, follow.owner)), None));
            }
        };
        Some(match update {
            Update::Output(output_chunk) => (
                Ok(v1::WatchExecutionResponse {
                    execution: None,
                    output_chunk,
                }),
                Some(follow),
            ),
            Update::State(state) if state.status.is_terminal() => (follow.last(state).await, None),
            Update::State(state) => {
                let record = follow.record(state);
                (Ok(state_update(&record, follow.owner)), Some(follow))
            }
        })
    }

    /// The last update, with the result, which only the store has.
    async fn last(&self, state: Arc<State>) -> Result<v1::WatchExecutionResponse, Status> {
        let read = self.compute.executions.get(self.live.identity.id).await;
        match read {
            Ok(Some(record)) => Ok(state_update(&record, self.owner)),
            // The app was deleted; the watcher still learns how the execution ended.
            Ok(None) => Ok(state_update(&self.record(state), self.owner)),
            Err(failure) => Err(to_status(&failure, self.owner)),
        }
    }

    fn record(&self, state: Arc<State>) -> Record {
        Record {
            identity: self.live.identity.clone(),
            state,
            result: None,
        }
    }
}

fn state_update(record: &Record, owner: bool) -> v1::WatchExecutionResponse {
    v1::WatchExecutionResponse {
        execution: Some(convert::execution_to_wire(record, owner)),
        output_chunk: Bytes::new(),
    }
}

fn execution_id(text: &str) -> Result<ExecutionId, Failure> {
    text.parse()
        .map_err(|e: crate::model::id::InvalidName| Failure::field("execution_id", e.to_string()))
}

fn idempotency_key(headers: &http::HeaderMap) -> Result<Option<String>, Failure> {
    let wrong = |why: String| {
        Err(Failure::field(
            IDEMPOTENCY_KEY,
            format!(
                "{why}; send one of 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters, such as a UUID"
            ),
        ))
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return wrong("there is more than one".to_owned());
    }
    match value.to_str() {
        Ok("") => wrong("it is empty".to_owned()),
        Ok(key) if key.len() > MAX_IDEMPOTENCY_KEY => {
            wrong(format!("it has {} characters", key.len()))
        }
        Ok(key) if key.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(key.to_owned())),
        _ => wrong("it has other characters in it".to_owned()),
    }
}

/// Identifies a request by everything but its headers, which differ between attempts (traces).
fn digest(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), target.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

fn unwritable(e: &std::io::Error) -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        format!(
            "the body could not be written ({e}); free disk space on the data directory's volume and try again"
        ),
    )
}
