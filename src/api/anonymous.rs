//! Calls that need no token: bounded in number, per address, and in time, over both listeners.
//!
//! A stream of gRPC reflection or health lasts until its client ends it, and each costs the server
//! a task and buffers; a page of the public catalog is some work and up to a megabyte. So their
//! number is bounded, and each ends after a limited time.

use std::{
    error::Error,
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

use super::status::{to_response, to_status, to_trailers};
use crate::{
    model::{Failure, Reason},
    quota::{Quota, Usage},
};

/// One address may hold this fraction of all permits.
const SHARE: usize = 4;
/// When a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How many calls without a token may run at a time, and how long each may last.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most at a time; one address may have a quarter of them.
    pub streams: usize,
    /// Longest duration of one call.
    pub time: Duration,
}

/// The calls without a token that are under way.
pub struct AnonymousCalls {
    bounds: Bounds,
    under_way: Mutex<Usage<IpAddr>>,
}

/// The permit of one call; released on drop.
pub(super) struct Permit {
    calls: Arc<AnonymousCalls>,
    address: IpAddr,
    ends: Instant,
}

impl AnonymousCalls {
    /// None so far.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            under_way: Mutex::default(),
        })
    }

    /// Takes a permit for a call from this address.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS when all permits are taken, or all of the address.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Failure> {
        let address = address.to_canonical();
        let share = (self.bounds.streams / SHARE).max(1);
        let most = Quota {
            all: self.bounds.streams,
            each: share,
        };
        let taken = self.under_way.lock().acquire(Some(&address), 1, most);
        taken.map_err(|_| {
            Failure::new(
                Reason::TooManyRequests,
                format!(
                    "too many calls that need no token are under way: {} in all, {share} from one address (IGNITE_ANONYMOUS_STREAMS)",
                    self.bounds.streams
                ),
            )
            .with_retry_after(RETRY_AFTER)
        })?;
        Ok(Permit {
            calls: self.clone(),
            address,
            ends: Instant::now() + self.bounds.time,
        })
    }
}

impl Permit {
    /// Runs a gRPC call within its time; the permit is held until the answer has ended.
    pub(super) async fn bound(self, call: impl Future<Output = Response<Body>>) -> Response<Body> {
        match tokio::time::timeout_at(self.ends, call).await {
            Ok(response) => response.map(|body| Body::new(self.bounded(body, Last::Trailers))),
            Err(_) => to_status(&self.over(), false).into_http(),
        }
    }

    /// As [`Permit::bound`], for a call in JSON.
    pub(super) async fn bound_json(
        self,
        call: impl Future<Output = Response<axum::body::Body>>,
    ) -> Response<axum::body::Body> {
        match tokio::time::timeout_at(self.ends, call).await {
            Ok(response) => {
                response.map(|body| axum::body::Body::new(self.bounded(body, Last::Error)))
            }
            Err(_) => to_response(&self.over(), false),
        }
    }

    fn bounded<B>(self, body: B, last: Last) -> Bounded<B> {
        Bounded {
            inner: Some(body),
            ends: Box::pin(tokio::time::sleep_until(self.ends)),
            permit: self,
            last,
        }
    }

    fn over(&self) -> Failure {
        let time = humantime::format_duration(self.calls.bounds.time);
        Failure::new(
            Reason::RequestTimeout,
            format!(
                "a call that needs no token lasts {time} at most (IGNITE_ANONYMOUS_STREAM_TIME); call again"
            ),
        )
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.calls.under_way.lock().release(Some(&self.address), 1);
    }
}

/// How a response body ends when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// In the trailers of a gRPC call that failed.
    Trailers,
    /// With an error, at which the server breaks off the transfer.
    Error,
}

/// The body of an answer, which ends with the time of its call.
struct Bounded<B> {
    /// `None` once the time was over.
    inner: Option<B>,
    ends: Pin<Box<Sleep>>,
    permit: Permit,
    last: Last,
}

impl<B> http_body::Body for Bounded<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
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
            return Poll::Ready(frame.map(|f| f.map_err(|e| Status::from_error(e.into()))));
        }
        if self.ends.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Dropping the body also ends whatever produces it.
        self.inner = None;
        let over = self.permit.over();
        Poll::Ready(Some(match self.last {
            Last::Trailers => Ok(Frame::trailers(to_trailers(&over, false))),
            Last::Error => Err(to_status(&over, false)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.inner.as_ref();
        inner.is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, self.last) {
            (Some(inner), Last::Error) => inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn calls(streams: usize) -> Arc<AnonymousCalls> {
        let time = Duration::from_secs(600);
        AnonymousCalls::new(Bounds { streams, time })
    }

    #[test]
    fn an_address_has_a_share_and_all_have_a_bound() {
        let all = calls(5);
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        let first = all.admit(at(1)).expect("free");
        let refused = all.admit(at(1)).err().expect("its share is one");
        assert_eq!(refused.reason, Reason::TooManyRequests);
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert!(all.admit(mapped).is_err(), "the same address");
        let others: Vec<_> = (2..=5).map(|n| all.admit(at(n)).expect("free")).collect();
        assert!(all.admit(at(9)).is_err());
        drop(first);
        drop(all.admit(at(1)).expect("free again"));
        drop(others);
        assert_eq!(all.under_way.lock().all(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_its_time_and_says_so() {
        let all = calls(4);
        let permit = all.admit(IpAddr::from([10, 0, 0, 1])).expect("free");
        let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Status>,
        >());
        let call = async { Response::new(Body::new(silent)) };
        let mut body = permit.bound(call).await.into_body();
        let last = body.frame().await.expect("an end").expect("no error");
        let trailers = last.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "4");
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(all.under_way.lock().all(), 0);
        // In JSON it is broken off, and a length that was announced stays.
        let permit = all.admit(IpAddr::from([10, 0, 0, 1])).expect("free");
        let whole = async { Response::new(axum::body::Body::from("abc")) };
        let whole = permit.bound_json(whole).await;
        assert_eq!(http_body::Body::size_hint(whole.body()).exact(), Some(3));
        assert_eq!(
            whole.into_body().collect().await.expect("whole").to_bytes(),
            "abc"
        );
        let permit = all.admit(IpAddr::from([10, 0, 0, 1])).expect("free");
        let silent = futures_util::stream::pending::<Result<Bytes, Status>>();
        let call = async { Response::new(axum::body::Body::from_stream(silent)) };
        let broken = permit.bound_json(call).await.into_body().collect().await;
        assert!(broken.is_err());
        assert_eq!(all.under_way.lock().all(), 0);
        // One that never answers.
        let permit = all.admit(IpAddr::from([10, 0, 0, 1])).expect("free");
        let late = permit.bound(std::future::pending()).await;
        assert_eq!(late.headers()["grpc-status"], "4");
        assert_eq!(all.under_way.lock().all(), 0);
    }
}
