//! Bounds the memory of API messages, for the whole server and for each organization.
//!
//! A method gets its message whole, and a message may be as large as code is. So that clients who
//! send many of them, or never finish one, cannot exhaust the memory, the announced length of a
//! message is reserved before its first byte is read, and anything beyond it as it arrives. The
//! reservation ends when the call is answered. Bodies of requests to apps are streamed and do not
//! count; those of invocations that wait for a replica have a bound of their own as well.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::status::to_status;
use crate::{
    model::{Failure, OrgName, Reason},
    quota::{Full, Quota, Usage},
};

/// When a refused client may try again: reading a large message takes about as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bounds, and the bytes reserved; clones share them.
#[derive(Debug, Clone)]
pub struct Buffers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: Quota,
    stall: Duration,
    taken: Mutex<Usage<OrgName>>,
}

/// The bytes that one call has reserved; released on drop.
#[derive(Debug)]
pub(super) struct Reserved {
    shared: Arc<Shared>,
    org: Option<OrgName>,
    bytes: AtomicUsize,
}

impl Buffers {
    /// At most `most` bytes, of which one organization may have `most_per_org`. `stall` is the
    /// longest pause between two pieces of a message; 0 means no bound.
    pub fn new(most: usize, most_per_org: usize, stall: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                most: Quota {
                    all: most,
                    each: most_per_org,
                },
                stall,
                taken: Mutex::default(),
            }),
        }
    }

    /// Reserves the announced length of a message, in bytes.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS.
    pub(super) fn reserve(
        &self,
        org: Option<&OrgName>,
        announced: usize,
    ) -> Result<Reserved, Failure> {
        let reserved = Reserved {
            shared: self.shared.clone(),
            org: org.cloned(),
            bytes: AtomicUsize::new(0),
        };
        reserved.grow(announced)?;
        Ok(reserved)
    }
}

impl Reserved {
    /// The longest pause between two pieces of the message; `None` for no bound.
    pub(super) fn stall(&self) -> Option<Duration> {
        Some(self.shared.stall).filter(|stall| !stall.is_zero())
    }

    /// Reserves more for the same call.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        let most = self.shared.most;
        let taken = self
            .shared
            .taken
            .lock()
            .acquire(self.org.as_ref(), bytes, most);
        match (taken, &self.org) {
            (Ok(()), _) => {
                self.bytes.fetch_add(bytes, Relaxed);
                Ok(())
            }
            (Err(Full::Each), Some(org)) => Err(full(
                &format!("the messages of organization {org}'s running API calls"),
                most.each,
                "IGNITE_API_BUFFER_BYTES_PER_ORG",
            )),
            (Err(_), _) => Err(full(
                "the messages of all running API calls",
                most.all,
                "IGNITE_API_BUFFER_BYTES",
            )),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            let mut taken = self.shared.taken.lock();
            taken.release(self.org.as_ref(), bytes);
        }
    }
}

fn full(what: &str, most: usize, setting: &str) -> Failure {
    Failure::new(
        Reason::TooManyRequests,
        format!(
            "{what} would take more than {most} bytes ({setting}); send fewer large ones at a time, or try again later"
        ),
    )
    .with_retry_after(RETRY_AFTER)
}

/// The failure of a message that stopped arriving.
pub(super) fn stalled(after: Duration) -> Failure {
    Failure::new(
        Reason::ClientTooSlow,
        format!(
            "nothing more of the message came for {} (IGNITE_CLIENT_STALL_TIMEOUT)",
            humantime::format_duration(after)
        ),
    )
}

/// The body of a gRPC call: counted as it arrives, and failed when it stalls.
pub(super) struct Metered<B> {
    body: B,
    reserved: Arc<Reserved>,
    /// Bytes that are reserved, as announced, and have not arrived yet.
    ahead: usize,
    pause: Option<Pin<Box<Sleep>>>,
    pausing: bool,
}

impl<B> Metered<B> {
    pub(super) fn new(body: B, reserved: Arc<Reserved>, announced: usize) -> Self {
        Self {
            body,
            reserved,
            ahead: announced,
            pause: None,
            pausing: false,
        }
    }

    fn poll_pause<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        let Some(stall) = self.reserved.stall() else {
            return Poll::Pending;
        };
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        if !std::mem::replace(&mut self.pausing, true) {
            pause.as_mut().reset(Instant::now() + stall);
        }
        ready!(pause.as_mut().poll(cx));
        Poll::Ready(Some(Err(to_status(&stalled(stall), false))))
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_pause(cx);
        };
        self.pausing = false;
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|e| Status::from_error(e.into()))?;
            let len = frame.data_ref().map_or(0, Bytes::len);
            let more = len.saturating_sub(self.ahead);
            self.ahead = self.ahead.saturating_sub(len);
            let grown = self.reserved.grow(more);
            grown.map_err(|failure| to_status(&failure, false))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stops_coming_or_is_too_much_ends_its_call() {
        let stall = Duration::from_secs(60);
        let buffers = Buffers::new(100, 100, stall);
        let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; 40])));
        let read = |pieces: usize, ends: bool| {
            let reserved = Arc::new(buffers.reserve(None, 10).expect("room"));
            let came = stream::iter((0..pieces).map(move |_| piece()));
            let never = if ends {
                stream::empty().boxed()
            } else {
                stream::pending().boxed()
            };
            let body = StreamBody::new(came.chain(never));
            Metered::new(body, reserved, 10).collect()
        };
        assert_eq!(read(2, true).await.expect("read").to_bytes().len(), 80);
        let refused = read(3, true).await.expect_err("too much");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let refused = read(1, false).await.expect_err("silent");
        assert_eq!(refused.code(), Code::DeadlineExceeded);
        assert_eq!(buffers.shared.taken.lock().all(), 0);
    }
}
