//! The answer to a request, as it arrives over a connection to a replica.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use super::{Pool, h1::H1Connection};

/// The body of a replica's answer. An HTTP/1.1 connection goes back to its pool when the answer has
/// ended well; if the body is dropped before, the connection is closed, so that the app sees that
/// nobody reads any more.
pub struct Answer {
    incoming: Incoming,
    over: Option<Carriage>,
    /// Drives the connection while the request is still being sent.
    task: Option<AbortOnDropHandle<()>>,
}

enum Carriage {
    /// HTTP/1.1: exclusive while the answer lasts.
    Own(H1Connection, Arc<Pool>),
    /// HTTP/2: the token that counts this exchange on its connection.
    Shared(#[allow(dead_code, reason = "it counts by being there")] Arc<()>),
}

impl Answer {
    /// An answer in HTTP/1.1.
    pub(super) fn new(incoming: Incoming, mut connection: H1Connection, pool: Arc<Pool>) -> Self {
        // The rest of the request must be sent even while nobody reads the answer.
        let driver = if connection.send_state.is_sending() {
            connection.driver.take()
        } else {
            None
        };
        let task = driver.map(|driver| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let _ = driver.await;
            }))
        });
        let mut answer = Self {
            incoming,
            over: Some(Carriage::Own(connection, pool)),
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

    /// Drives the connection, which has left HTTP, until its upgraded form takes over.
    pub async fn leave_http(mut self) {
        if let Some(Carriage::Own(H1Connection { driver, .. }, _)) = &mut self.over
            && let Some(driver) = driver
        {
            let _ = driver.await;
        }
    }

    /// hyper does not poll a body past an end that it knows of, so the end is noted here.
    fn note_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }

    /// If the request is still being sent when the answer ends, the app wants no more of it, and
    /// the connection is closed.
    fn finish(&mut self) {
        self.task = None;
        if let Some(Carriage::Own(connection, pool)) = self.over.take()
            && connection.driver.is_some()
            && connection.goes_on
        {
            pool.give_back(connection);
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
        if let Some(Carriage::Own(connection, _)) = &mut this.over {
            connection.drive(cx);
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
