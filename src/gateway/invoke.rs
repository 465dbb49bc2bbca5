//! One request to an app: a replica, a connection, the head of the answer, and its body.
//!
//! App URLs and `Invoke` both end here, so they hold, count, fail and time out alike.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{body::AppBody, headers};
use crate::{
    fleet::{
        ColdStart, Deployment, Lease,
        upstream::{self, Connection, Error},
    },
    model::{ExecutionId, Failure, Reason},
};

/// Replicas tried when connections are refused, before the caller hears of it.
const CONNECT_ATTEMPTS: u32 = 3;
/// Wait before another try: a replica that died is noticed within this time.
const CONNECT_RETRY_WAIT: Duration = Duration::from_millis(50);

/// What an invocation needs besides its request.
pub struct Invocation<'a> {
    /// The app.
    pub deployment: &'a Arc<Deployment>,
    /// Its port.
    pub port: u16,
    /// The invocation's id.
    pub execution: ExecutionId,
    /// Longest wait for a replica.
    pub cold_start_budget: Duration,
    /// Bytes that the request keeps in memory while it is held.
    pub held_bytes: usize,
    /// Owns the tasks that carry upgraded connections.
    pub upgrades: &'a TaskTracker,
}

/// Sends a request, whose headers are ready but for the platform's own, and returns the answer.
/// Its body carries the lease.
///
/// # Errors
/// Why there was no answer. The app may have seen the request when the reason is
/// REPLICA_BROKE or REQUEST_TIMEOUT, never otherwise.
///
/// # Cancel safety
/// Dropping the future gives up the place in the queue, or closes the connection.
pub async fn invoke(
    invocation: Invocation<'_>,
    mut request: Request<upstream::Body>,
    client_upgrade: Option<upgrade::OnUpgrade>,
) -> Result<Response<AppBody>, Failure> {
    let deployment = invocation.deployment;
    let began = Instant::now();
    let timeout = deployment.with_revision(|r| r.timeout);
    let deadline = began + timeout + invocation.cold_start_budget;
    headers::identify(request.headers_mut(), deployment.id(), invocation.execution);

    let exchange = exchange(&invocation, request, began + invocation.cold_start_budget);
    let (response, connection, lease, waited) = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| {
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
        let client = client_upgrade.ok_or_else(|| {
            Failure::new(
                Reason::ReplicaBroke,
                format!(
                    "app {} answered 101 to a request that did not ask to leave HTTP",
                    deployment.id()
                ),
            )
        })?;
        return Ok(switch(
            response,
            client,
            connection,
            lease,
            deadline,
            &invocation,
        ));
    }
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_ours(&mut head.headers);
    headers::withhold_trailers(&mut head.headers);
    name_execution(&mut head.headers, invocation.execution);
    if let Some(cold) = cold {
        head.headers
            .insert(headers::COLD_START, HeaderValue::from_static("true"));
        if let Ok(timing) = HeaderValue::from_str(&server_timing(waited, cold)) {
            head.headers.append(headers::SERVER_TIMING, timing);
        }
    }
    Ok(Response::from_parts(
        head,
        AppBody::new(incoming, connection, lease, deadline),
    ))
}

async fn exchange(
    invocation: &Invocation<'_>,
    mut request: Request<upstream::Body>,
    give_up_at: Instant,
) -> Result<(Response<Incoming>, Connection, Lease, Duration), Failure> {
    let began = Instant::now();
    let id = invocation.deployment.id();
    let mut attempt = 1;
    loop {
        let lease = invocation
            .deployment
            .acquire(invocation.held_bytes, give_up_at)
            .await?;
        let waited = began.elapsed();
        let pool = lease.replica().pool(invocation.port).ok_or_else(|| {
            Failure::new(
                Reason::ReplicaRefused,
                format!("the replica of app {id} has no port {}", invocation.port),
            )
        })?;
        match lease.send(pool, request).await {
            Ok((response, connection)) => return Ok((response, connection, lease, waited)),
            Err(Error::Connect {
                unsent: Some(unsent),
                ..
            }) if attempt < CONNECT_ATTEMPTS => {
                request = *unsent;
                attempt += 1;
                drop(lease);
                tokio::time::sleep(CONNECT_RETRY_WAIT).await;
            }
            Err(e @ Error::Connect { .. }) => {
                return Err(Failure::new(
                    Reason::ReplicaRefused,
                    format!("the replica of app {id} does not take connections on port {}; does the app still listen there?", invocation.port),
                )
                .with_detail(e.to_string()));
            }
            Err(Error::Broke(e)) if e.is_user() => {
                return Err(Failure::new(
                    Reason::MalformedRequest,
                    format!("the request's body broke off before its end: {e}"),
                ));
            }
            Err(Error::Broke(e)) if e.is_parse() => {
                return Err(Failure::new(
                    Reason::ReplicaBroke,
                    format!("the replica of app {id} sent an answer that is not valid HTTP/1.1"),
                )
                .with_detail(e.to_string()));
            }
            Err(e @ Error::Broke(_)) => {
                return Err(Failure::new(Reason::ReplicaBroke, format!("the replica of app {id} closed the connection without an answer; it may have seen the request"))
                    .with_detail(e.to_string()));
            }
        }
    }
}

fn name_execution(headers: &mut HeaderMap, execution: ExecutionId) {
    let id = HeaderValue::from_str(&execution.to_string()).expect("an id is ASCII");
    headers.insert(headers::EXECUTION_ID, id);
}

/// Joins the two connections after a 101 and keeps the lease until one of them ends.
fn switch(
    mut response: Response<Incoming>,
    client: upgrade::OnUpgrade,
    connection: Connection,
    lease: Lease,
    deadline: Instant,
    invocation: &Invocation<'_>,
) -> Response<AppBody> {
    let replica = upgrade::on(&mut response);
    let (mut head, incoming) = response.into_parts();
    headers::remove_ours(&mut head.headers);
    name_execution(&mut head.headers, invocation.execution);
    let body = AppBody::without_lease(incoming, deadline);
    invocation.upgrades.spawn(async move {
        let _lease = (lease, connection);
        match tokio::try_join!(client, replica) {
            Ok((client, replica)) => {
                let (mut client, mut replica) = (TokioIo::new(client), TokioIo::new(replica));
                // Either side may end it, rudely or not; there is nobody left to tell.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut replica).await;
            }
            Err(e) => tracing::debug!(error = %e, "An upgrade did not come about"),
        }
    });
    Response::from_parts(head, body)
}

fn server_timing(waited: Duration, cold: ColdStart) -> String {
    let ms = |d: Duration| format!("{:.1}", d.as_secs_f64() * 1000.0);
    let queue = waited.saturating_sub(cold.create + cold.start + cold.ready);
    format!(
        "queue;dur={}, create;dur={}, start;dur={}, ready;dur={}",
        ms(queue),
        ms(cold.create),
        ms(cold.start),
        ms(cold.ready)
    )
}

/// Headers that an upgrade request keeps although they are hop-by-hop.
pub(super) fn keep_upgrade(request: &mut Request<upstream::Body>, protocol: HeaderValue) {
    request
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, protocol);
}
