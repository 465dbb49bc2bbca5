//! Whether a connection has requests under way.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::gateway::body::{Body, BoxError};

/// Longest wait, once the platform stops, for the first request of a connection that was accepted
/// before: closing it at once would fail a request that is on its way. Longer than most round trips.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// How often it is looked for.
const FIRST_REQUEST_POLL: Duration = Duration::from_millis(10);

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// One request, until its answer has ended.
pub(super) struct ActiveRequest(Arc<Activity>);

/// An answer's body; while it is sent, its connection is not idle.
pub(super) struct CountedBody {
    body: Body,
    _active: ActiveRequest,
}

impl CountedBody {
    pub(super) fn new(body: Body, active: ActiveRequest) -> Self {
        Self {
            body,
            _active: active,
        }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.begun.fetch_add(1, Relaxed);
        ActiveRequest(self.clone())
    }

    /// Returns once a request has begun, or after [`FIRST_REQUEST`].
    pub(super) async fn first_request(&self) {
        let begun = async {
            while self.begun.load(Relaxed) == 0 {
                tokio::time::sleep(FIRST_REQUEST_POLL).await;
            }
        };
        // Either way the connection accepts no further one.
        let _ = tokio::time::timeout(FIRST_REQUEST, begun).await;
    }

    /// Returns once no request was under way for `limit`, or up to half as much longer. Sampled by
    /// one timer per connection, so that requests need not reset one.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut seen = (u64::MAX, 0);
        loop {
            tokio::time::sleep(limit / 2).await;
            let now = self.begun.load(Relaxed);
            let still = match seen {
                (before, times) if before == now && now == self.ended.load(Relaxed) => times + 1,
                _ => 0,
            };
            if still >= 2 {
                return;
            }
            seen = (now, still);
        }
    }
}
