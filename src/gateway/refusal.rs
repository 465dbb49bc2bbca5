//! The refusal of clients over the connection limit.
//!
//! A refusal is encoded once per listener and costs one write. A few of the refused clients are
//! read from for a moment longer, so that a reset does not lose the answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::task::TaskTracker;

use super::client::ClientHandle;
use crate::model::{Failure, Reason};

/// Most refused clients to linger for at a time; others may see a reset instead of the refusal.
const MAX_LINGERING: usize = 64;
/// Longest time to linger for a refused client.
const LINGER: Duration = Duration::from_millis(500);
/// Retry-After of a refused client.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a connection over the limit is refused.
pub(super) fn too_many_connections() -> Failure {
    Failure::new(
        Reason::TooManyConnections,
        "too many connections are open, in all (IGNITE_MAX_CONNECTIONS) or from this address (IGNITE_MAX_CONNECTIONS_PER_IP); reuse connections, or come back later",
    )
    .with_retry_after(RETRY_AFTER)
}

/// Refuses connections with one prepared message.
pub(super) struct Refuser {
    message: Bytes,
    lingering: Arc<Semaphore>,
}

impl Refuser {
    /// Refuses with `message`, written as it is.
    pub(super) fn new(message: Bytes) -> Self {
        Self {
            message,
            lingering: Arc::new(Semaphore::new(MAX_LINGERING)),
        }
    }

    /// Writes the message and closes the connection. `tasks` owns the lingering.
    pub(super) fn refuse(&self, tcp: TcpStream, tasks: &TaskTracker) {
        // The buffer of a new socket takes the message whole unless the client is gone.
        let _ = tcp.try_write(&self.message);
        if let Ok(permit) = self.lingering.clone().try_acquire_owned() {
            tasks.spawn(async move {
                ClientHandle::new(tcp).close_and_linger(LINGER).await;
                drop(permit);
            });
        }
    }
}

/// Encodes an answer as HTTP/1.1, after which the connection closes.
pub async fn encode_http1(response: http::Response<axum::body::Body>) -> Bytes {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes());
    // The body is in memory and cannot fail.
    let body = body.unwrap_or_default();
    let mut out = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(
        format!(
            "connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    out.extend_from_slice(&body);
    out.into()
}

/// Encodes the end of an HTTP/2 connection before its first stream: SETTINGS, then GOAWAY
/// (ENHANCE_YOUR_CALM) with the reason as debug data.
pub fn goaway(reason: &str) -> Bytes {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let mut out = frame_head(0, SETTINGS);
    // The last stream that was processed: none.
    let mut last = 0u32.to_be_bytes().to_vec();
    last.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    last.extend(reason.bytes());
    out.extend(frame_head(last.len(), GOAWAY));
    out.extend(last);
    out.into()
}

/// Encodes the head of a frame without flags on stream 0.
fn frame_head(len: usize, kind: u8) -> Vec<u8> {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    vec![len[1], len[2], len[3], kind, 0, 0, 0, 0, 0]
}
