//! What those take who need no token: bounded in number, from one address, and in time.
//!
//! A stream of reflection or of gRPC's health ends when its client ends it, and each costs the
//! server a task and buffers. So there are only so many, and none is for good.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{
    grpc::Anonymous,
    status::{to_status, to_trailers},
};
use crate::{
    model::{Failure, Reason},
    quota::{Quota, Usage},
};

/// The part of all places that one address may have.
const SHARE: usize = 4;
/// When one who is refused may come back.
const COME_BACK: Duration = Duration::from_secs(1);

/// Counts who is in.
pub(super) struct Strangers {
    bounds: Anonymous,
    inside: Mutex<Usage<IpAddr>>,
}

/// One call's place, until it is dropped.
pub(super) struct Turn {
    of: Arc<Strangers>,
    address: IpAddr,
    ends: Instant,
}

impl Strangers {
    pub(super) fn new(bounds: Anonymous) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inside: Mutex::default(),
        })
    }

    /// A place for a call.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS when there is none.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Turn, Failure> {
        let address = address.to_canonical();
        let share = (self.bounds.streams / SHARE).max(1);
        let most = Quota {
            all: self.bounds.streams,
            each: share,
        };
        let taken = self.inside.lock().acquire(Some(&address), 1, most);
        taken.map_err(|_| {
            Failure::new(
                Reason::TooManyRequests,
                format!(
                    "too many calls that need no token are under way: {} in all, {share} from one address (IGNITE_ANONYMOUS_STREAMS)",
                    self.bounds.streams
                ),
            )
            .with_retry_after(COME_BACK)
        })?;
        Ok(Turn {
            of: self.clone(),
            address,
            ends: Instant::now() + self.bounds.time,
        })
    }
}

impl Turn {
    /// Carries a call out within its time; its place is taken until its answer has ended.
    pub(super) async fn bound(self, call: impl Future<Output = Response<Body>>) -> Response<Body> {
        match tokio::time::timeout_at(self.ends, call).await {
            Ok(response) => response.map(|body| {
                Body::new(Bounded {
                    inner: Some(body),
                    ends: Box::pin(tokio::time::sleep_until(self.ends)),
                    turn: self,
                })
            }),
            Err(_) => to_status(&self.over(), false).into_http(),
        }
    }

    fn over(&self) -> Failure {
        let time = humantime::format_duration(self.of.bounds.time);
        Failure::new(
            Reason::RequestTimeout,
            format!(
                "a call that needs no token lasts {time} at most (IGNITE_ANONYMOUS_STREAM_TIME); call again"
            ),
        )
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.inside.lock().release(Some(&self.address), 1);
    }
}

/// The answer to a call, which ends with its time.
struct Bounded {
    /// `None` once the time was over.
    inner: Option<Body>,
    ends: Pin<Box<Sleep>>,
    turn: Turn,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if self.ends.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Whatever made the answer goes with it.
        self.inner = None;
        let trailers = to_trailers(&self.turn.over(), false);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn strangers(streams: usize) -> Arc<Strangers> {
        let time = Duration::from_secs(600);
        Strangers::new(Anonymous { streams, time })
    }

    #[test]
    fn an_address_has_a_share_and_all_have_a_bound() {
        let all = strangers(5);
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        let first = all.enter(at(1)).expect("free");
        let refused = all.enter(at(1)).err().expect("its share is one");
        assert_eq!(refused.reason, Reason::TooManyRequests);
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert!(all.enter(mapped).is_err(), "the same address");
        let others: Vec<_> = (2..=5).map(|n| all.enter(at(n)).expect("free")).collect();
        assert!(all.enter(at(9)).is_err());
        drop(first);
        drop(all.enter(at(1)).expect("free again"));
        drop(others);
        assert_eq!(all.inside.lock().all(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_its_time_and_says_so() {
        let all = strangers(4);
        let turn = all.enter(IpAddr::from([10, 0, 0, 1])).expect("free");
        let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Status>,
        >());
        let call = async { Response::new(Body::new(silent)) };
        let mut body = turn.bound(call).await.into_body();
        let last = body.frame().await.expect("an end").expect("no error");
        let trailers = last.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "4");
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(all.inside.lock().all(), 0);
        // One that never answers.
        let turn = all.enter(IpAddr::from([10, 0, 0, 1])).expect("free");
        let late = turn.bound(std::future::pending()).await;
        assert_eq!(late.headers()["grpc-status"], "4");
        assert_eq!(all.inside.lock().all(), 0);
    }
}
