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
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Body, Pool};

/// Moves bytes of one connection for as long as it is polled; ends with the connection.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An open connection.
pub(super) struct Link {
    /// The thread whose events move it.
    pub(super) home: usize,
    sender: http1::SendRequest<Body>,
    /// `None` once it has ended, or is driven by a task.
    driver: Option<Driver>,
}

impl Link {
    pub(super) fn new(
        home: usize,
        sender: http1::SendRequest<Body>,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> Self {
        Self {
            home,
            sender,
            driver: Some(Box::pin(driver)),
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

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let answer = self.sender.try_send_request(request);
        tokio::pin!(answer);
        let driver = &mut self.driver;
        std::future::poll_fn(|cx| {
            let ended = driver.as_mut().map(|d| d.as_mut().poll(cx).is_ready());
            if ended == Some(true) {
                *driver = None;
            }
            // Nothing but the driver gives the answer, so this needs no waking of its own.
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }
}

/// The body of a replica's answer. The connection goes back to its pool when the answer has ended
/// well; dropped before, it is closed, so that the app sees that nobody listens any more.
pub struct Answer {
    incoming: Incoming,
    over: Option<(Link, Arc<Pool>)>,
    /// Drives the connection when more than the answer is under way on it.
    _task: Option<AbortOnDropHandle<()>>,
}

impl Answer {
    /// `sent` says whether the request is out with all of its body.
    pub(super) fn new(incoming: Incoming, mut link: Link, pool: Arc<Pool>, sent: bool) -> Self {
        // An answer that nobody reads must not hold up what is left of the request.
        let driver = link.driver.take_if(|_| !sent);
        let task = driver.map(|driver| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let _ = driver.await;
            }))
        });
        let mut answer = Self {
            incoming,
            over: Some((link, pool)),
            _task: task,
        };
        answer.note_end();
        answer
    }

    /// Joins the connection, which has left HTTP, until it can be used otherwise.
    pub async fn leave_http(mut self) {
        if let Some((
            Link {
                driver: Some(driver),
                ..
            },
            _,
        )) = &mut self.over
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

    fn finish(&mut self) {
        if let Some((link, pool)) = self.over.take()
            // One that a task drives has not done with its request.
            && link.driver.is_some()
        {
            pool.give_back(link);
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
        if let Some((link, _)) = &mut this.over {
            link.drive(cx);
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
