//! The bodies of answers.
//!
//! An app's body keeps the lease, so that the replica counts as busy until the last byte is
//! out, and with the answer the connection. A client that stops reading keeps neither beyond the
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
    model::{Failure, Reason, stats::Outcome},
};

/// Any failure while a body is sent.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An app's answer, streamed.
pub struct AppBody {
    /// `None` when there is no body.
    streamed: Option<Streamed>,
}

struct Streamed {
    /// `None` once it broke off or its time was over. Shared with `guard` alone.
    exchange: Arc<Mutex<Option<Exchange>>>,
    deadline: Pin<Box<Sleep>>,
    /// Ends the exchange at the deadline while nobody polls, as the server does not for as long
    /// as the client does not read. Most answers end with their first piece and need none.
    guard: Option<AbortOnDropHandle<()>>,
    /// How a gRPC call is told that the answer broke off.
    grpc: Option<GrpcTrailers>,
    /// How long the client may take nothing; 0 for no bound.
    stall: Duration,
}

struct Exchange {
    incoming: Answer,
    /// Let go when the body has ended.
    held: Option<Lease>,
    /// Since when the client has taken nothing of what there is; `None` while it waits for more.
    given: Option<Instant>,
    /// The status by which the answer is counted at its end; `None` when it is not counted here.
    counted: Option<StatusCode>,
}

impl Exchange {
    /// The answer ended well.
    fn finish(&mut self) {
        if let Some(lease) = self.held.take() {
            self.count(&lease, |status| Outcome::of_status(status.as_u16()));
        }
    }

    /// The answer did not end well. Dropping the connection tells the app that nobody listens any
    /// more.
    fn break_off(mut self, failure: &Failure) {
        if let Some(lease) = self.held.take() {
            self.count(&lease, |_| Outcome::of_failure(failure));
        }
    }

    fn count(&self, lease: &Lease, outcome: impl FnOnce(StatusCode) -> Outcome) {
        if let Some(status) = self.counted {
            lease.deployment().outcomes.add(outcome(status));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The client left before the end, as one that watches a stream does: the status counts.
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
        counted: Option<StatusCode>,
        grpc: Option<GrpcTrailers>,
        stall: Duration,
    ) -> Self {
        let mut exchange = Exchange {
            incoming,
            held: Some(lease),
            given: None,
            counted,
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

    /// Nothing, as the answer to an upgrade has.
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

    /// The last that the client hears: trailers of a gRPC call, which then ends in order, else an
    /// error, at which its connection or stream is broken off.
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
        // A stream that never pauses would not see the timer below.
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
                // The server does not poll past the end that it knows of.
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

/// Returns why an exchange has to end: its time is over, or its client takes nothing.
async fn overdue(
    exchange: &Mutex<Option<Exchange>>,
    deadline: Instant,
    stall: Duration,
) -> Failure {
    let mut look = deadline;
    if !stall.is_zero() {
        look = look.min(Instant::now() + stall);
    }
    loop {
        tokio::time::sleep_until(look).await;
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
        look = until.min(deadline);
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
    /// From the API, or made here.
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
