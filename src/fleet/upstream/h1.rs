//! One HTTP/1.1 connection to a replica.
//!
//! The task that waits for an answer drives the connection, too: a request then needs no hand-over
//! to another task and back, which would be most of the cost of a small one.

use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Waker},
};

use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};

use super::{Body, Interim, send_state::SendState};

/// Moves bytes of one connection while it is polled; completes when the connection ends.
pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An open connection.
pub(super) struct H1Connection {
    /// The shard of the thread whose event queue moves it.
    pub(super) shard: usize,
    sender: http1::SendRequest<Body>,
    /// `None` once it has ended, or is driven by a task.
    pub(super) driver: Option<Driver>,
    /// Whether another request may follow.
    pub(super) goes_on: bool,
    /// The record of the bytes that pass.
    pub(super) send_state: Arc<SendState>,
}

impl H1Connection {
    pub(super) fn new(
        shard: usize,
        sender: http1::SendRequest<Body>,
        driver: Driver,
        send_state: Arc<SendState>,
    ) -> Self {
        Self {
            shard,
            sender,
            driver: Some(driver),
            goes_on: true,
            send_state,
        }
    }

    /// Moves the bytes that can be moved now.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else {
            return;
        };
        // The request or the answer learns of the end, good or bad.
        if driver.as_mut().poll(cx).is_ready() {
            self.driver = None;
        }
    }

    /// Whether it still takes requests. Drives it first: nothing has polled it since the last
    /// answer, and the app may have closed it since.
    pub(super) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request, which it takes out of `request`, and waits for the head of the answer;
    /// early hints that come before it go to `interim`.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<Body>,
        interim: Option<&dyn Interim>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut answer = pin!(self.sender.try_send_request(mem::take(request)));
        let (driver, send_state) = (&mut self.driver, &self.send_state);
        std::future::poll_fn(|cx| {
            let ended = driver.as_mut().map(|d| d.as_mut().poll(cx).is_ready());
            if ended == Some(true) {
                *driver = None;
            }
            for hints in send_state.early_hints() {
                if let Some(interim) = interim {
                    interim.early_hints(hints);
                }
            }
            // Only the driver completes the answer, so this needs no waking of its own.
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
        .inspect(|answer| {
            // Reused, hyper would send the next request in HTTP/1.0 as well, which has no chunks: a
            // body of unknown length would be lost.
            self.goes_on = answer.version() != Version::HTTP_10;
        })
    }
}
