//! One request to an app: a replica, a connection, the head of the answer, and its body.
//!
//! App URLs and `Invoke` both end here, so they hold, count, fail and time out alike.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    GrpcTrailers,
    body::{AppBody, Counted},
    headers,
    peer::Peer,
    relay,
};
use crate::{
    backoff::Backoff,
    fleet::{
        ColdStart, Deployment, InFlightPermit, Lease, Replica,
        upstream::{self, Answer, BodyError, Error, Interim},
    },
    metrics::Surface,
    model::{AppId, ExecutionId, Failure, Reason, reach::Protocol, stats::Outcome},
    trace::{RequestTrace, TRACEPARENT},
};

/// Most attempts to connect before the caller gets an error.
const CONNECT_ATTEMPTS: u32 = 6;
/// Pause before the second attempt; the pauses double, to 1.6 s in all. A busy engine reports the
/// death of a container only after several hundred milliseconds; from then on the request is held.
const CONNECT_RETRY_INITIAL: Duration = Duration::from_millis(50);

/// What an invocation needs besides its request.
pub struct Invocation<'a> {
    /// The app.
    pub deployment: &'a Arc<Deployment>,
    /// Its port; `None` for the primary one, which may change while the request is held.
    pub port: Option<u16>,
    /// The invocation's id.
    pub execution: ExecutionId,
    /// Longest wait for a replica.
    pub cold_start_budget: Duration,
    /// Set for an attempt of an asynchronous execution.
    pub attempt: Option<Attempt>,
    /// Longest time for the client to read nothing of the answer; 0 for no bound.
    pub stall: Duration,
    /// Bytes that the request keeps in memory while it is held.
    pub held_bytes: usize,
    /// Longest silence of an upgraded connection once one side has ended; 0 for no bound.
    pub half_closed: Duration,
    /// Most apps that a request may pass through, one calling the next.
    pub max_hops: u32,
    /// Owns the tasks that carry upgraded connections.
    pub upgrades: &'a TaskTracker,
}

/// What the client of an app URL's request can do.
#[derive(Default)]
pub struct Client<'a> {
    /// Its connection, when it asks to leave HTTP.
    pub upgrade: Option<upgrade::OnUpgrade>,
    /// For a gRPC call, which ends in these trailers when the answer breaks off.
    pub grpc: Option<GrpcTrailers>,
    /// Where interim answers go, if the client takes them.
    pub interim: Option<&'a Peer>,
    /// How the request came, for the metrics.
    pub surface: Surface,
    /// The request's trace, if it is recorded.
    pub trace: Option<Box<RequestTrace>>,
}

/// One attempt of an asynchronous execution. The execution's record counts its outcome.
pub struct Attempt {
    /// Its number; 1 is the first.
    pub number: u32,
    /// The replica that the executor has waited for.
    pub lease: Lease,
    /// When it has to have ended.
    pub deadline: Instant,
}

/// Adds the platform's headers to a request, sends it, and returns the answer, with the lease in
/// its body.
///
/// # Errors
/// Why there was no answer. The app may have seen the request when the reason is
/// REPLICA_BROKE or REQUEST_TIMEOUT, never otherwise.
///
/// # Cancel safety
/// Dropping the future leaves the queue, or closes the connection to the replica.
pub fn invoke<'a>(
    mut invocation: Invocation<'a>,
    mut request: Request<upstream::Body>,
    mut client: Client<'a>,
) -> impl Future<Output = Result<Response<AppBody>, Failure>> + Send {
    let counted = invocation.attempt.is_none();
    // Only this future holds these; as the arguments of an `async fn` they would be in it twice.
    async move {
        let began = Instant::now();
        let answer = pin!(answer(&mut invocation, &mut request, &mut client, began)).await;
        if let Err(failure) = &answer {
            failed(&invocation, &mut client, failure, began, counted);
        }
        answer
    }
}

/// Counts and traces a request without an answer.
fn failed(
    invocation: &Invocation<'_>,
    client: &mut Client<'_>,
    failure: &Failure,
    began: Instant,
    counted: bool,
) {
    let status = failure.reason.http_status();
    let trace = client.trace.take();
    let id = trace.as_ref().map(|trace| trace.id());
    if let Some(mut trace) = trace {
        trace.answered(status);
        trace.end(Some(failure.reason.as_str()));
    }
    if counted {
        let deployment = invocation.deployment;
        deployment.outcomes.add(Outcome::of_failure(failure));
        let took = began.elapsed();
        deployment.requests.ended(client.surface, status, took, id);
    }
}

async fn answer(
    invocation: &mut Invocation<'_>,
    request: &mut Request<upstream::Body>,
    client: &mut Client<'_>,
    began: Instant,
) -> Result<Response<AppBody>, Failure> {
    let deployment = invocation.deployment;
    let timeout = deployment.with_revision(|r| r.timeout);
    let execution = headers::execution_value(invocation.execution);
    let hops = headers::hops(request.headers());
    if hops >= invocation.max_hops {
        return Err(loop_detected(deployment.id(), invocation.max_hops));
    }
    headers::identify(request.headers_mut(), deployment.names(), execution);
    let next = headers::hops_value(hops + 1);
    request.headers_mut().insert(headers::HOPS, next);
    let counted = invocation.attempt.is_none();
    // The executor limits executions itself.
    let in_flight = counted.then(|| deployment.permit_request()).transpose()?;
    let deadline = match &invocation.attempt {
        Some(attempt) => {
            let number = attempt.number.into();
            request.headers_mut().insert(headers::ATTEMPT, number);
            attempt.deadline
        }
        None => began + timeout + invocation.cold_start_budget,
    };

    let give_up_at = (began + invocation.cold_start_budget).min(deadline);
    let exchanged = {
        let exchange = pin!(exchange(invocation, in_flight, request, client, give_up_at));
        tokio::time::timeout_at(deadline, exchange).await
    };
    let (response, lease, waited) = exchanged.map_err(|_| {
        Failure::new(
            Reason::RequestTimeout,
            format!(
                "app {} did not answer within its timeout ({}) and the cold-start budget ({}); raise limits.timeout_secs",
                deployment.id(),
                humantime::format_duration(timeout),
                humantime::format_duration(invocation.cold_start_budget)
            ),
        )
    })??;

    let cold = lease.cold();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = client.upgrade.take().ok_or_else(|| {
            Failure::new(
                Reason::ReplicaBroke,
                format!(
                    "app {} answered 101 to a request that did not ask to leave HTTP",
                    deployment.id()
                ),
            )
        })?;
        let took = began.elapsed();
        let status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        let trace = client.trace.take();
        let id = trace.as_ref().map(|trace| trace.id());
        if let Some(mut trace) = trace {
            trace.answered(status);
            trace.end(None);
        }
        deployment.requests.ended(Surface::Url, status, took, id);
        return Ok(switch(response, upgrade, lease, invocation));
    }
    let status = response.status();
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_ours(&mut head.headers);
    headers::withhold_trailers(&mut head.headers);
    if lease.is_resumed() {
        // Servers keep the text of the time: it is as old as the freeze. The listener sets its own.
        head.headers.remove(header::DATE);
    }
    name_execution(&mut head.headers, invocation.execution);
    // An execution's stored result has the app's headers alone.
    if let Some(cold) = cold.filter(|_| counted) {
        head.headers
            .insert(headers::COLD_START, HeaderValue::from_static("true"));
        if let Ok(timing) = HeaderValue::from_str(&server_timing(waited, cold)) {
            head.headers.append(headers::SERVER_TIMING, timing);
        }
    }
    let mut trace = client.trace.take();
    if let Some(trace) = &mut trace {
        trace.answered(status.as_u16());
    }
    Ok(Response::from_parts(
        head,
        AppBody::new(
            incoming,
            lease,
            deadline,
            counted.then_some(Counted {
                surface: client.surface,
                status,
                began,
            }),
            client.grpc,
            invocation.stall,
            trace,
        ),
    ))
}

async fn exchange(
    invocation: &mut Invocation<'_>,
    mut in_flight: Option<InFlightPermit>,
    request: &mut Request<upstream::Body>,
    client: &mut Client<'_>,
    give_up_at: Instant,
) -> Result<(Response<Answer>, Lease, Duration), Failure> {
    let interim = client.interim.map(|peer| peer as &dyn Interim);
    let began = Instant::now();
    let deployment = invocation.deployment;
    let id = deployment.id();
    let mut attempt = 1;
    let mut backoff = Backoff::new(CONNECT_RETRY_INITIAL, Duration::MAX);
    loop {
        let mut lease = match invocation.attempt.take() {
            Some(attempt) => attempt.lease,
            None => {
                let held = invocation.held_bytes;
                deployment.acquire(held, give_up_at).await?
            }
        };
        let waited = began.elapsed();
        if let Some(trace) = &mut client.trace {
            if lease.was_held() {
                trace.held(began, lease.start());
            }
            let header = trace.forward(lease.replica().id.to_string());
            request.headers_mut().insert(TRACEPARENT, header);
        }
        // Read now: the owner may have changed port and protocol while the request was held.
        let (port, pool) = lease.replica().reached(invocation.port).ok_or_else(|| {
            let which = match invocation.port {
                Some(port) => format!("port {port}"),
                None => "port that is reached".to_owned(),
            };
            Failure::new(
                Reason::ReplicaRefused,
                format!("the replica of app {id} has no {which}: the ports were changed meanwhile; send the request again"),
            )
        })?;
        let protocol = deployment.with_revision(|r| r.protocol);
        let is_upgrade = client.upgrade.is_some();
        set_version(request, protocol, pool.is_http2_only(), is_upgrade);
        let error = {
            let sent = pin!(lease.send(pool, request, interim)).await;
            match sent {
                Ok(response) => {
                    lease.in_flight = in_flight.take();
                    return Ok((response, lease, waited));
                }
                Err(error) => error,
            }
        };
        match error {
            Error::Connect {
                unsent: Some(unsent),
                ..
            } if attempt < CONNECT_ATTEMPTS => {
                *request = *unsent;
                attempt += 1;
                drop(lease);
                tokio::time::sleep(backoff.next_wait()).await;
            }
            // Rare, so it is boxed: inline, its future would enlarge that of every request.
            error => {
                let failure = exchange_failure(error, lease.replica(), id, port);
                return Err(Box::pin(failure).await);
            }
        }
    }
}

/// Chooses the version of HTTP in which a request goes to an app's replica; `http2_only` is what its
/// start has found out.
fn set_version(
    request: &mut Request<upstream::Body>,
    protocol: Protocol,
    http2_only: bool,
    is_upgrade: bool,
) {
    match protocol {
        Protocol::Auto if headers::is_grpc(request.headers()) || http2_only && !is_upgrade => {
            *request.version_mut() = Version::HTTP_2;
        }
        // Only HTTP/1.1 has upgrades.
        Protocol::H2c if !is_upgrade => *request.version_mut() = Version::HTTP_2,
        Protocol::Auto | Protocol::Http1 | Protocol::H2c => in_http1(request),
    }
}

/// Why a replica of app `id` gave no answer on `port`. Where the replica itself may have failed,
/// its exit is named once the engine reports it.
async fn exchange_failure(error: Error, replica: &Replica, id: &AppId, port: u16) -> Failure {
    let detail = error.to_string();
    let broke = |what: String| Failure::new(Reason::ReplicaBroke, what).with_detail(detail.clone());
    match error {
        Error::Connect { .. } => {
            let failure = Failure::new(
                Reason::ReplicaRefused,
                format!("the replica of app {id} does not take connections on port {port}; does the app still listen there?"),
            )
            .with_detail(detail);
            replica.explain(failure).await
        }
        Error::Body(why) => broke_off(&why),
        Error::Broke(e) if e.is_user() => body_broke_off(&e),
        Error::Broke(e) if e.is_parse() => Failure::new(
            Reason::ReplicaBroke,
            format!("the replica of app {id} sent an answer that is not valid HTTP/1.1; is its protocol setting right?"),
        )
        .with_detail(e.to_string()),
        Error::Lost => broke(format!("the replica of app {id} did not wake from standby; it may have seen the request")),
        Error::Broke(_) => {
            let failure = broke(format!("the replica of app {id} closed the connection without an answer; it may have seen the request"));
            replica.explain(failure).await
        }
    }
}

/// Makes a request HTTP/1.1, also one that an earlier attempt prepared for HTTP/2.
fn in_http1(request: &mut Request<upstream::Body>) {
    *request.version_mut() = Version::HTTP_11;
    let Some(authority) = request.uri().authority() else {
        return;
    };
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
}

/// Why the request's body could not be sent.
fn broke_off(why: &BodyError) -> Failure {
    match why {
        BodyError::TooLarge(most) => body_too_large(*most),
        BodyError::Stalled(_) => Failure::new(
            Reason::ClientTooSlow,
            format!(
                "{why} (IGNITE_CLIENT_STALL_TIMEOUT), though its length says that there is more"
            ),
        ),
        BodyError::Client(e) => body_broke_off(e),
    }
}

fn body_broke_off(e: &hyper::Error) -> Failure {
    Failure::new(
        Reason::MalformedRequest,
        format!("the request's body broke off before its end: {e}"),
    )
}

/// The answer to a request whose body is over the bound of app URLs.
pub(super) fn body_too_large(most: u64) -> Failure {
    Failure::new(
        Reason::BodyTooLarge,
        format!(
            "the request's body is over {most} bytes (IGNITE_MAX_REQUEST_BODY_BYTES); send it in parts, or raise the limit"
        ),
    )
}

/// The answer to a request that has passed through too many apps.
fn loop_detected(app: &AppId, most: u32) -> Failure {
    Failure::new(
        Reason::LoopDetected,
        format!(
            "the request has passed through {most} apps and does not go on to app {app}: apps call each other in a circle, or the chain of calls is longer than max_hops (IGNITE_MAX_HOPS); the header x-ignite-hops counts"
        ),
    )
}

fn name_execution(headers: &mut HeaderMap, execution: ExecutionId) {
    headers.insert(headers::EXECUTION_ID, headers::execution_value(execution));
}

/// Joins the two connections after a 101 and keeps the lease until one of them ends.
fn switch(
    mut response: Response<Answer>,
    client: upgrade::OnUpgrade,
    mut lease: Lease,
    invocation: &Invocation<'_>,
) -> Response<AppBody> {
    lease.outlive();
    let replica = upgrade::on(&mut response);
    let (mut head, connection) = response.into_parts();
    headers::remove_ours(&mut head.headers);
    name_execution(&mut head.headers, invocation.execution);
    invocation.deployment.outcomes.add(Outcome::Completed);
    let half_closed = invocation.half_closed;
    invocation.upgrades.spawn(async move {
        let _lease = lease;
        let leave = async {
            connection.leave_http().await;
            Ok(())
        };
        match tokio::try_join!(client, replica, leave) {
            Ok((client, replica, ())) => {
                // However a side ends it, no one is left to answer.
                let _ = relay::join(TokioIo::new(client), TokioIo::new(replica), half_closed).await;
            }
            Err(e) => tracing::debug!(error = %e, "An upgrade failed"),
        }
    });
    Response::from_parts(head, AppBody::none())
}

fn server_timing(waited: Duration, cold: ColdStart) -> String {
    let ms = |d: Duration| format!("{:.1}", d.as_secs_f64() * 1000.0);
    let queue = waited.saturating_sub(cold.create + cold.start + cold.ready);
    let mut timing = format!(
        "queue;dur={}, create;dur={}, start;dur={}, ready;dur={}",
        ms(queue),
        ms(cold.create),
        ms(cold.start),
        ms(cold.ready)
    );
    if let Some(outcome) = cold.last_probe {
        // Outcomes are ASCII without quotes.
        timing.push_str(&format!(";desc=\"before: {outcome}\""));
    }
    timing
}

/// Sets the headers of an upgrade again, which were removed as hop-by-hop.
pub(super) fn keep_upgrade(request: &mut Request<upstream::Body>, protocol: HeaderValue) {
    request
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, protocol);
}
