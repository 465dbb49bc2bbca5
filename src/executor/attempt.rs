//! One execution on a replica: begin, send, receive the response, end. A complete response is
//! final. A request that never reached the app is retried within the deadline. A request whose
//! connection broke before the response was complete is retried only a few times, since it may be
//! what breaks the app.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use opentelemetry::KeyValue;
use tokio::time::Instant;

use super::{Leased, Permits, Running, Shared, Wait};
use crate::{
    fleet::{Lease, upstream},
    gateway::{
        headers,
        invoke::{Attempt, Client},
    },
    metrics::{AttemptOutcome, Metrics},
    model::{
        AppId, ExecutionId, Failure, Reason,
        execution::{Change, Completion, cause},
        host,
    },
    store::executions::{Live, LoadedRequest, StoredResult},
    trace::RequestTrace,
};

/// Attempts that may break before the execution fails. A killed replica breaks the requests it
/// serves, but a request that kills its replicas must not do so forever.
const BROKEN_ATTEMPTS: u32 = 3;

/// The outcome of one attempt.
enum Outcome {
    /// The execution has ended.
    Ended(Completion, Option<StoredResult>),
    /// The app did not receive the request.
    Again(Failure),
    /// The connection broke before the response was complete.
    Broke(Failure),
    /// The platform is stopping; the next start runs the execution again.
    Left,
}

/// Runs an execution to its end, or until the platform stops. An execution that makes the platform
/// panic has failed: run again at every start, it would break every start.
pub(super) async fn guarded(
    shared: Arc<Shared>,
    live: Arc<Live>,
    lease: Lease,
    deadline: Instant,
    mut permits: Permits,
) {
    let work = run(&shared, &live, lease, deadline, &mut permits.running);
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(execution = %live.identity.id, "Running an execution panicked; it has failed");
        let why = "the platform broke while it ran this execution; its log says where";
        let completion = Completion::failed(Reason::Internal.as_str(), why);
        shared.end(&live, completion).await;
    }
}

async fn run(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    lease: Lease,
    deadline: Instant,
    running: &mut Running,
) {
    let over = live.over();
    let mut lease = Some(lease);
    let mut retries = shared.config.backoff();
    let mut broken = 0;
    let mut attempts = 0;
    loop {
        let lease = match lease.take() {
            Some(lease) => lease,
            None => match shared.lease_again(live, deadline, attempts, running).await {
                Leased::Ready(lease, _) => lease,
                Leased::Over | Leased::Stopped => return,
            },
        };
        let Some(number) = begin(shared, live, &lease).await else {
            return;
        };
        attempts = number;
        let under_way = CountOnEnd::new(&shared.config.metrics);
        let outcome = tokio::select! {
            biased;
            // Dropping the attempt closes its connection to the app.
            () = over.cancelled() => return,
            () = shared.force.cancelled() => return,
            outcome = attempt(shared, live, lease, number, deadline) => outcome,
        };
        under_way.ended(match &outcome {
            Outcome::Ended(..) => AttemptOutcome::Ended,
            Outcome::Again(_) => AttemptOutcome::Unsent,
            Outcome::Broke(_) => AttemptOutcome::Broke,
            Outcome::Left => AttemptOutcome::Left,
        });
        broken += u32::from(matches!(outcome, Outcome::Broke(_)));
        let (completion, result) = match outcome {
            Outcome::Left => return,
            Outcome::Ended(completion, result) => (completion, result),
            Outcome::Broke(failure) if broken >= BROKEN_ATTEMPTS => {
                (Completion::platform(&failure), None)
            }
            Outcome::Again(failure) | Outcome::Broke(failure) => {
                tracing::warn!(execution = %live.identity.id, attempt = number, reason = failure.reason.as_str(), "An attempt had no answer; trying again: {}", failure.text(true));
                let at = Instant::now() + retries.next_wait();
                if at >= deadline {
                    let completion = Completion::deadline_exceeded(attempts, &failure);
                    return shared.end(live, completion).await;
                }
                running.leave();
                tokio::select! {
                    biased;
                    () = shared.stop.cancelled() => return,
                    () = over.cancelled() => return,
                    () = tokio::time::sleep_until(at) => continue,
                }
            }
        };
        let change = Change::Finish {
            attempt: number,
            completion,
        };
        if finish(shared, live, change, result).await {
            return;
        }
    }
}

/// Counts an attempt when it ends; one that is dropped was left.
struct CountOnEnd<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: AttemptOutcome,
}

impl<'a> CountOnEnd<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        Self {
            metrics,
            began: Instant::now(),
            outcome: AttemptOutcome::Left,
        }
    }

    fn ended(mut self, outcome: AttemptOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for CountOnEnd<'_> {
    fn drop(&mut self) {
        let executions = &self.metrics.executions;
        executions.attempt(self.outcome, self.began.elapsed());
    }
}

/// Makes an end durable. Returns `false` when the store refused it and its result is lost with it,
/// so that the execution must run again.
async fn finish(
    shared: &Shared,
    live: &Live,
    change: Change,
    mut result: Option<StoredResult>,
) -> bool {
    let id = live.identity.id;
    loop {
        let copy = result.as_ref().and_then(StoredResult::in_memory);
        let in_file = result.is_some() && copy.is_none();
        match shared.executions.change(id, change.clone(), result).await {
            Ok(_) => return true,
            Err(failure) if !shared.may_ask_again(live, &failure).await => return true,
            Err(_) if in_file => return false,
            Err(_) => result = copy,
        }
    }
}

impl Shared {
    /// Acquires a replica for another attempt, within the deadline of the first.
    async fn lease_again(
        &self,
        live: &Live,
        deadline: Instant,
        attempts: u32,
        running: &mut Running,
    ) -> Leased {
        let whole = self
            .gateway
            .fleet
            .get(&live.identity.app)
            .map(|d| d.with_revision(|r| r.timeout) + self.config.cold_start_budget);
        let from = deadline - whole.unwrap_or_default();
        let wait = Wait {
            from,
            queues: false,
            attempts,
        };
        self.lease(live, wait, &mut None, running).await
    }
}

/// Makes the attempt durable; returns its number, or `None` when it must not run.
async fn begin(shared: &Shared, live: &Live, lease: &Lease) -> Option<u32> {
    let (version, tier) = lease.deployment().with_revision(|r| (r.version, r.tier));
    loop {
        let change = Change::Begin { version, tier };
        match shared
            .executions
            .change(live.identity.id, change, None)
            .await
        {
            Ok(Ok(state)) => return Some(state.attempt),
            Ok(Err(_)) => return None,
            Err(failure) if !shared.may_ask_again(live, &failure).await => return None,
            Err(_) => {}
        }
    }
}

async fn attempt(
    shared: &Shared,
    live: &Live,
    lease: Lease,
    number: u32,
    deadline: Instant,
) -> Outcome {
    let id = live.identity.id;
    let deployment = lease.deployment().clone();
    let port = deployment.with_revision(|r| r.ports[0]);
    let label = host::label(deployment.id(), port);
    let host = format!("{label}.{}", shared.gateway.hosts.base_domain);
    let request = match shared.executions.request(id).await {
        Ok(loaded) => request(loaded, &host),
        Err(failure) => return Outcome::Ended(Completion::platform(&failure), None),
    };
    let client = Client {
        trace: traced(shared, &request, deployment.id(), id, number),
        ..Client::default()
    };
    let began = Instant::now();
    let replica = lease.replica().clone();
    let attempt = Attempt {
        number,
        lease,
        deadline,
    };
    let answer = shared
        .gateway
        .invoke(&deployment, None, id, request, client, Some(attempt))
        .await;
    let (head, mut body) = match answer {
        Ok(response) => response.into_parts(),
        Err(failure) => return failed(failure),
    };
    let status = head.status.as_u16();
    // A response of unknown length is a stream, which watchers follow as it arrives.
    let streams = body.size_hint().exact().is_none();
    let mut spool = shared.executions.spool();
    while let Some(frame) = body.frame().await {
        let piece: Bytes = match frame.map(http_body::Frame::into_data) {
            Ok(Ok(piece)) => piece,
            Ok(Err(_trailers)) => continue,
            Err(failure) => {
                // For a failure before the response head, the gateway has added the explanation
                // already.
                let broke = failure.reason == Reason::ReplicaBroke;
                return failed(if broke {
                    replica.explain(failure).await
                } else {
                    failure
                });
            }
        };
        if spool.len() + piece.len() as u64 > shared.config.max_result_bytes {
            let mut completion = Completion::failed(
                cause::RESULT_TOO_LARGE,
                format!(
                    "the answer is over {} bytes (IGNITE_MAX_RESULT_BYTES); let the app store it and answer where",
                    shared.config.max_result_bytes
                ),
            );
            completion.status_code = status;
            completion.ran = began.elapsed();
            return Outcome::Ended(completion, None);
        }
        if let Err(e) = spool.push(&piece).await {
            return unsaved(&e);
        }
        if streams && !piece.is_empty() {
            live.put_out(piece, shared.executions.output_keep());
        }
    }
    let len = spool.len();
    let ran = began.elapsed();
    match spool.finish().await {
        Ok(body) => {
            let all = head.headers.iter();
            let pair = |(n, v): (&HeaderName, &HeaderValue)| {
                (n.as_str().to_owned(), Bytes::copy_from_slice(v.as_bytes()))
            };
            // Headers that the gateway adds describe the transport, not the result.
            let of_app = all.filter(|(name, _)| !headers::is_ours(name.as_str()));
            let result = StoredResult {
                headers: of_app.map(pair).collect(),
                body,
            };
            Outcome::Ended(Completion::answered(status, ran, len), Some(result))
        }
        Err(e) => unsaved(&e),
    }
}

/// The trace of an attempt, which goes on from the acceptance of its execution.
fn traced(
    shared: &Shared,
    request: &Request<upstream::Body>,
    app: &AppId,
    execution: ExecutionId,
    number: u32,
) -> Option<Box<RequestTrace>> {
    let mut trace = shared.gateway.tracer.resume(request.headers())?;
    let attributes = vec![
        KeyValue::new("ignite.app", app.to_string()),
        KeyValue::new("ignite.execution.id", execution.to_string()),
    ];
    trace.describe(
        format!("attempt {number} of {app}"),
        Instant::now(),
        attributes,
    );
    trace.is_attempt(number);
    Some(trace)
}

/// Classifies a failure by whether the app may have received the request.
fn failed(failure: Failure) -> Outcome {
    match failure.reason {
        Reason::ShuttingDown => Outcome::Left,
        Reason::ReplicaRefused
        | Reason::EngineUnavailable
        | Reason::NoDescriptors
        | Reason::ImageUnavailable
        | Reason::ContainerExited
        | Reason::NotReady
        | Reason::StartFailed
        | Reason::HoldQueueFull
        | Reason::NoRoom
        | Reason::DiskQuota
        | Reason::FailedPrecondition
        | Reason::ColdStartTimeout => Outcome::Again(failure),
        Reason::ReplicaBroke => Outcome::Broke(failure),
        _ => Outcome::Ended(Completion::platform(&failure), None),
    }
}

fn unsaved(e: &std::io::Error) -> Outcome {
    let failure = Failure::new(
        Reason::StoreUnavailable,
        format!("the result could not be written: {e}"),
    );
    Outcome::Ended(Completion::platform(&failure), None)
}

/// The request as it was accepted, for `host`. The gateway adds the platform's own headers.
fn request(loaded: LoadedRequest, host: &str) -> Request<upstream::Body> {
    let mut map = HeaderMap::with_capacity(loaded.headers.len() + 6);
    for (name, value) in loaded.headers {
        // They were valid headers when they were accepted.
        if let (Ok(name), Ok(value)) = (
            name.parse::<HeaderName>(),
            HeaderValue::from_maybe_shared(value),
        ) {
            map.append(name, value);
        }
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        map.insert(header::HOST, host);
    }
    let mut request = Request::new(upstream::Body::from(loaded.body));
    *request.method_mut() = loaded.method.parse().unwrap_or(Method::POST);
    *request.uri_mut() = loaded.target.parse().unwrap_or_default();
    *request.headers_mut() = map;
    request
}
