//! One connection to a replica, and the answer that comes over it.
//!
//! Whoever waits for an answer drives the connection too: in one task, a request costs no
//! hand-over to another and back, which would be most of what a small one costs.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Body, Interim, Pool, wire::Wire};

/// Moves bytes of one connection for as long as it is polled; ends with the connection.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An open connection.
pub(super) struct Line {
    /// The thread whose events move it.
    pub(super) home: usize,
    sender: http1::SendRequest<Body>,
    /// `None` once it has ended, or is driven by a task.
    driver: Option<Driver>,
    /// Whether another request may follow.
    goes_on: bool,
    /// What goes over it.
    pub(super) wire: Arc<Wire>,
}

impl Line {
    pub(super) fn new(
        home: usize,
        sender: http1::SendRequest<Body>,
        driver: Driver,
        wire: Arc<Wire>,
    ) -> Self {
        Self {
            home,
            sender,
            driver: Some(driver),
            goes_on: true,
            wire,
        }
    }

    /// Moves what can be moved.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else {
            return;
        };
        // Its end, good or bad, reaches the request or the answer.
        if driver.as_mut().poll(cx).is_ready() {
            self.driver = None;
        }
    }

    /// Whether it still takes requests: nobody has looked since the last answer, and the app may
    /// have closed it since.
    pub(super) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the answer; early hints that come before it go
    /// to `interim`.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        interim: Option<&dyn Interim>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let answer = self.sender.try_send_request(request);
        tokio::pin!(answer);
        let (driver, wire) = (&mut self.driver, &self.wire);
        std::future::poll_fn(|cx| {
            let ended = driver.as_mut().map(|d| d.as_mut().poll(cx).is_ready());
            if ended == Some(true) {
                *driver = None;
            }
            for hints in wire.early_hints() {
                if let Some(interim) = interim {
                    interim.early_hints(hints);
                }
            }
            // Nothing but the driver gives the answer, so this needs no waking of its own.
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
        .inspect(|answer| {
            // hyper would send the next request in HTTP/1.0 as well, which has no chunks: a body of
            // unknown length would be lost.
            self.goes_on = answer.version() != Version::HTTP_10;
        })
    }
}

/// The body of a replica's answer. An HTTP/1.1 connection goes back to its pool when the answer
/// has ended well; dropped before, it is closed, so that the app sees that nobody listens any more.
pub struct Answer {
    incoming: Incoming,
    over: Option<Carriage>,
    /// Drives the connection when more than the answer is under way on it.
    task: Option<AbortOnDropHandle<()>>,
}

enum Carriage {
    /// HTTP/1.1: nobody else's meanwhile.
    Own(Line, Arc<Pool>),
    /// HTTP/2: the token that counts the exchange.
    Shared(#[allow(dead_code, reason = "it counts by being there")] Arc<()>),
}

impl Answer {
    /// An answer in HTTP/1.1.
    pub(super) fn new(incoming: Incoming, mut line: Line, pool: Arc<Pool>) -> Self {
        // An answer that nobody reads must not hold up what is left of the request.
        let driver = match line.wire.is_sending() {
            true => line.driver.take(),
            false => None,
        };
        let task = driver.map(|driver| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let _ = driver.await;
            }))
        });
        let mut answer = Self {
            incoming,
            over: Some(Carriage::Own(line, pool)),
            task,
        };
        answer.note_end();
        answer
    }

    /// An answer in HTTP/2, whose connection has a task of its own.
    pub(super) fn shared(incoming: Incoming, load: Arc<()>) -> Self {
        Self {
            incoming,
            over: Some(Carriage::Shared(load)),
            task: None,
        }
    }

    /// Drives the connection, which has left HTTP, until it can be used otherwise.
    pub async fn leave_http(mut self) {
        if let Some(Carriage::Own(Line { driver, .. }, _)) = &mut self.over
            && let Some(driver) = driver
        {
            let _ = driver.await;
        }
    }

    /// hyper does not poll past an end that it knows of.
    fn note_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }

    /// Whoever still sends a request of which the app wants no more, since it has answered, has
    /// the connection closed.
    fn finish(&mut self) {
        self.task = None;
        if let Some(Carriage::Own(line, pool)) = self.over.take()
            && line.driver.is_some()
            && line.goes_on
        {
            pool.give_back(line);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(Carriage::Own(line, _)) = &mut this.over {
            line.drive(cx);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.note_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                this.over = None;
                Poll::Ready(Some(Err(e)))
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
