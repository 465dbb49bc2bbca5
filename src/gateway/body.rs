//! The bodies of answers.
//!
//! An app's body keeps the lease, so that the replica counts as busy until the last byte is
//! out, and the connection, which goes back to the pool only when the answer ended well.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::headers;
use crate::{
    fleet::{Lease, upstream::Connection},
    model::{Failure, Reason, stats::Outcome},
};

/// Any failure while a body is sent.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An app's answer, streamed.
pub struct AppBody {
    incoming: Incoming,
    /// Both are let go when the body has ended.
    held: Option<(Connection, Lease)>,
    /// The status by which the answer is counted at its end; `None` when it is not counted here.
    counted: Option<StatusCode>,
    deadline: Pin<Box<Sleep>>,
}

impl AppBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        lease: Lease,
        deadline: Instant,
        counted: Option<StatusCode>,
    ) -> Self {
        let mut body = Self {
            incoming,
            held: Some((connection, lease)),
            counted,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The empty body of an upgrade's answer; the lease stays with the upgraded connection.
    pub(super) fn without_lease(incoming: Incoming, deadline: Instant) -> Self {
        Self {
            incoming,
            held: None,
            counted: None,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
        }
    }

    fn finish(&mut self) {
        if let Some((connection, lease)) = self.held.take() {
            if let Some(status) = self.counted {
                lease
                    .deployment()
                    .outcomes
                    .add(Outcome::of_status(status.as_u16()));
            }
            connection.reuse();
        }
    }

    fn broke(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // Dropping the connection tells the app that nobody listens any more.
        if let (Some((_, lease)), Some(_)) = (self.held.take(), self.counted) {
            lease
                .deployment()
                .outcomes
                .add(Outcome::of_failure(&failure));
        }
        Poll::Ready(Some(Err(failure)))
    }
}

impl http_body::Body for AppBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // A stream that never pauses would not see the timer below.
        if self.held.is_some() && Instant::now() >= self.deadline.deadline() {
            return self.broke(too_late());
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::remove_ours(trailers);
                }
                // The server does not poll past the end that it knows of.
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => self.broke(Failure::new(
                Reason::ReplicaBroke,
                format!("the replica broke off its answer ({e}); what came before is not complete"),
            )),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending if self.held.is_some() && self.deadline.as_mut().poll(cx).is_ready() => {
                self.broke(too_late())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for AppBody {
    fn drop(&mut self) {
        // The client left before the end, as one that watches a stream does: the status counts.
        if let (Some((_, lease)), Some(status)) = (self.held.take(), self.counted) {
            lease
                .deployment()
                .outcomes
                .add(Outcome::of_status(status.as_u16()));
        }
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
