//! The bodies of answers.
//!
//! An app's body holds the lease, so that the replica counts as busy until the last byte is out,
//! and the connection to the replica. A client that stops reading keeps neither beyond the
//! request's deadline.

use std::{
    error::Error as _,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{GrpcTrailers, headers};
use crate::{
    fleet::{Lease, upstream::Answer},
    metrics::Surface,
    model::{Failure, Reason, stats::Outcome},
    trace::RequestTrace,
};

/// Any failure while a body is sent.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An app's answer, streamed.
pub struct AppBody {
    /// `None` when there is no body.
    streamed: Option<Streamed>,
}

struct Streamed {
    /// `None` once it broke off or its time was over. Shared with the guard only, so the lock is
    /// uncontended.
    exchange: Arc<Mutex<Option<Exchange>>>,
    deadline: Pin<Box<Sleep>>,
    /// Ends the exchange at the deadline while the body is not polled, which the server does not do
    /// while the client does not read. Most answers end with their first frame and need no guard.
    guard: Option<AbortOnDropHandle<()>>,
    /// Renders the trailers for a gRPC call when the answer breaks off.
    grpc: Option<GrpcTrailers>,
    /// Longest time for the client to read nothing; 0 for no bound.
    stall: Duration,
}

struct Exchange {
    incoming: Answer,
    /// Released when the body has ended.
    held: Option<Lease>,
    /// When the client got its last frame, while it has not asked for the next; `None` while it
    /// waits for one.
    given: Option<Instant>,
    /// By what the answer is counted when it ends; `None` when it is counted elsewhere.
    counted: Option<Counted>,
    /// The request's trace, if it is recorded.
    trace: Option<Box<RequestTrace>>,
}

/// What an answer is counted by when it ends.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    /// How its request came.
    pub(super) surface: Surface,
    /// Its status.
    pub(super) status: StatusCode,
    /// When its request arrived.
    pub(super) began: Instant,
}

impl Exchange {
    /// The answer ended well.
    fn finish(&mut self) {
        if let Some(lease) = self.held.take() {
            self.count(&lease, |status| Outcome::of_status(status.as_u16()));
        }
        self.end_trace(None);
    }

    /// The answer did not end well. Drops the connection, so that the app stops sending.
    fn break_off(mut self, failure: &Failure) {
        if let Some(lease) = self.held.take() {
            self.count(&lease, |_| Outcome::of_failure(failure));
        }
        self.end_trace(Some(failure.reason.as_str()));
    }

    fn end_trace(&mut self, error: Option<&str>) {
        if let Some(trace) = self.trace.take() {
            trace.end(error);
        }
    }

    fn count(&self, lease: &Lease, outcome: impl FnOnce(StatusCode) -> Outcome) {
        let Some(counted) = self.counted else {
            return;
        };
        let deployment = lease.deployment();
        deployment.outcomes.add(outcome(counted.status));
        let (status, took) = (counted.status.as_u16(), counted.began.elapsed());
        let trace = self.trace.as_ref().map(|trace| trace.id());
        deployment
            .requests
            .ended(counted.surface, status, took, trace);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The client left before the end, which is how watchers of a stream end: the status counts.
        if let Some(lease) = self.held.take() {
            self.count(&lease, |status| Outcome::of_status(status.as_u16()));
        }
    }
}

impl AppBody {
    pub(super) fn new(
        incoming: Answer,
        lease: Lease,
        deadline: Instant,
        counted: Option<Counted>,
        grpc: Option<GrpcTrailers>,
        stall: Duration,
        trace: Option<Box<RequestTrace>>,
    ) -> Self {
        let mut exchange = Exchange {
            incoming,
            held: Some(lease),
            given: None,
            counted,
            trace,
        };
        if exchange.incoming.is_end_stream() {
            exchange.finish();
        }
        Self {
            streamed: Some(Streamed {
                exchange: Arc::new(Mutex::new(Some(exchange))),
                deadline: Box::pin(tokio::time::sleep_until(deadline)),
                guard: None,
                grpc,
                stall,
            }),
        }
    }

    /// No body, as in the answer to an upgrade.
    pub(super) fn none() -> Self {
        Self { streamed: None }
    }
}

impl Streamed {
    fn guard(&mut self) {
        let (exchange, deadline) = (self.exchange.clone(), self.deadline.deadline());
        let stall = self.stall;
        self.guard.get_or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let why = overdue(&exchange, deadline, stall).await;
                let overdue = exchange.lock().take();
                if let Some(overdue) = overdue {
                    overdue.break_off(&why);
                }
            }))
        });
    }

    fn broke(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let broken = self.exchange.lock().take();
        if let Some(broken) = broken {
            broken.break_off(&failure);
        }
        self.ended_by(failure)
    }

    /// The last item of the body: trailers for a gRPC call, which then ends in order, else an
    /// error, at which the server breaks off the connection or stream.
    fn ended_by(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        Poll::Ready(Some(match self.grpc.take() {
            Some(trailers) => Ok(Frame::trailers(trailers(&failure, false))),
            None => Err(failure),
        }))
    }
}

impl http_body::Body for AppBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(this) = &mut self.streamed else {
            return Poll::Ready(None);
        };
        let mut shared = this.exchange.lock();
        let Some(exchange) = shared.as_mut() else {
            drop(shared);
            return this.ended_by(too_late());
        };
        let now = Instant::now();
        // The timer below is polled only when the stream pauses.
        if exchange.held.is_some() && now >= this.deadline.deadline() {
            drop(shared);
            return this.broke(too_late());
        }
        exchange.given = None;
        match Pin::new(&mut exchange.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                exchange.given = Some(now);
                if let Some(trailers) = frame.trailers_mut() {
                    headers::remove_ours(trailers);
                }
                // The server may not poll again after a frame with which the body ends.
                if exchange.incoming.is_end_stream() {
                    exchange.finish();
                }
                let goes_on = exchange.held.is_some();
                drop(shared);
                if goes_on {
                    this.guard();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                drop(shared);
                let cause = e.source().map(|c| format!(": {c}")).unwrap_or_default();
                this.broke(Failure::new(
                    Reason::ReplicaBroke,
                    format!(
                        "the replica broke off its answer ({e}{cause}); what came before is not complete"
                    ),
                ))
            }
            Poll::Ready(None) => {
                exchange.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let overdue = exchange.held.is_some() && this.deadline.as_mut().poll(cx).is_ready();
                drop(shared);
                if overdue {
                    return this.broke(too_late());
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.streamed.as_ref().is_none_or(|streamed| {
            let shared = streamed.exchange.lock();
            shared.as_ref().is_some_and(|e| e.incoming.is_end_stream())
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(streamed) = &self.streamed else {
            return SizeHint::with_exact(0);
        };
        let shared = streamed.exchange.lock();
        let hint = shared.as_ref().map(|e| e.incoming.size_hint());
        hint.unwrap_or_default()
    }
}

/// Waits until an exchange has to end, because its time is over or its client reads nothing, and
/// returns why.
async fn overdue(
    exchange: &Mutex<Option<Exchange>>,
    deadline: Instant,
    stall: Duration,
) -> Failure {
    let mut check_at = deadline;
    if !stall.is_zero() {
        check_at = check_at.min(Instant::now() + stall);
    }
    loop {
        tokio::time::sleep_until(check_at).await;
        let now = Instant::now();
        if now >= deadline {
            return too_late();
        }
        let given = exchange.lock().as_ref().and_then(|e| e.given);
        let until = given.unwrap_or(now) + stall;
        if until <= now {
            return Failure::new(
                Reason::ClientTooSlow,
                "the client took nothing of the answer for longer than it may (IGNITE_CLIENT_STALL_TIMEOUT)",
            );
        }
        check_at = until.min(deadline);
    }
}

fn too_late() -> Failure {
    Failure::new(
        Reason::RequestTimeout,
        "the answer took longer than the app's timeout and the cold-start budget together; raise limits.timeout_secs",
    )
}

/// Any answer of the HTTP listener.
pub enum Body {
    /// From an app.
    App(AppBody),
    /// From the API, or from the gateway itself.
    Api(axum::body::Body),
}

impl Default for Body {
    fn default() -> Self {
        Body::Api(axum::body::Body::empty())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::App(b) => Pin::new(b).poll_frame(cx).map_err(Into::into),
            Body::Api(b) => Pin::new(b).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::App(b) => b.is_end_stream(),
            Body::Api(b) => b.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::App(b) => b.size_hint(),
            Body::Api(b) => b.size_hint(),
        }
    }
}
