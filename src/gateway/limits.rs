//! What clients may take: connections in all and from one address, and what each may cost.
//!
//! Over a bound a client is told so and let go. That costs a write; a few of those who are refused
//! are listened to for a moment, so that the answer is not lost in a reset.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::task::TaskTracker;

use super::{client, listener::Service};
use crate::{
    config::Proxies,
    connections::{Connections, Permit},
    model::{Failure, Reason},
    tally::{Most, Tally},
};

/// Bounds of a listener; each is described where it is configured.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections.
    pub max_connections: usize,
    /// All connections of the process.
    pub connections: Connections,
    /// Most connections from one address; 0 for no bound.
    pub max_connections_per_ip: usize,
    /// Of the connections the last ones, which serve no apps.
    pub reserved: usize,
    /// Who speaks for many: has no bound of its own.
    pub trusted_proxies: Proxies,
    /// Longest time for the head of a request.
    pub header_read_timeout: Duration,
    /// Longest time without a request.
    pub keep_alive_timeout: Duration,
    /// Most header lines of an HTTP/1.1 request.
    pub max_headers: usize,
    /// Most bytes of a request's head.
    pub max_header_bytes: usize,
    /// Most requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
}

/// Refused clients that are listened to at a time.
const MAX_LINGERING: usize = 64;
/// For how long.
const LINGER: Duration = Duration::from_millis(500);
/// When a refused client may come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts who is in.
pub(super) struct ConnectionLimiter {
    limits: Limits,
    open: Mutex<Tally<IpAddr>>,
    refusal: Bytes,
    lingering: Arc<Semaphore>,
}

/// One connection's place, until it is dropped.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    /// Where it is from, when that is bounded.
    address: Option<IpAddr>,
    /// It is one of the last ones.
    reserved: bool,
    _process_permit: Permit,
}

impl ConnectionPermit {
    /// Whether it is one of the last ones, which serve no apps: so the API and the health paths
    /// answer while the apps' URLs are flooded.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock();
        open.give_back(self.address.as_ref(), 1);
    }
}

impl ConnectionLimiter {
    pub(super) async fn new(limits: Limits, service: &impl Service) -> Arc<Self> {
        let failure = Failure::new(
            Reason::TooManyConnections,
            "too many connections are open, in all (IGNITE_MAX_CONNECTIONS) or from this address (IGNITE_MAX_CONNECTIONS_PER_IP); reuse connections, or come back later",
        )
        .with_retry_after(RETRY_AFTER);
        Arc::new(Self {
            limits,
            open: Mutex::default(),
            refusal: service.refusal(&failure).await,
            lingering: Arc::new(Semaphore::new(MAX_LINGERING)),
        })
    }

    /// A place for a connection; `None` when there is none.
    pub(super) fn try_acquire(self: &Arc<Self>, peer: SocketAddr) -> Option<Arc<ConnectionPermit>> {
        let limits = &self.limits;
        let process_permit = limits.connections.try_for_client()?;
        let is_bounded = |address: &IpAddr| {
            limits.max_connections_per_ip > 0 && !limits.trusted_proxies.contain(*address)
        };
        let address = Some(peer.ip().to_canonical()).filter(is_bounded);
        let most = Most {
            all: limits.max_connections,
            each: limits.max_connections_per_ip,
        };
        let left = {
            let mut open = self.open.lock();
            open.take(address.as_ref(), 1, most).ok()?;
            limits.max_connections - open.all()
        };
        let reserved = limits.reserved;
        Some(Arc::new(ConnectionPermit {
            limiter: self.clone(),
            address,
            reserved: left < reserved || limits.connections.left_for_clients() < reserved,
            _process_permit: process_permit,
        }))
    }

    /// Says no.
    pub(super) fn refuse(&self, tcp: TcpStream, tasks: &TaskTracker) {
        // The buffer of a new socket takes it at once, or its client is gone.
        let _ = tcp.try_write(&self.refusal);
        if let Ok(permit) = self.lingering.clone().try_acquire_owned() {
            tasks.spawn(async move {
                client::ClientHandle::new(tcp)
                    .close_and_linger(LINGER)
                    .await;
                drop(permit);
            });
        }
    }
}

/// An answer as it goes over the wire, after which the connection is closed.
pub(super) async fn encode_http1(response: http::Response<axum::body::Body>) -> Bytes {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes());
    // It is in memory, so it cannot break off.
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

/// The end of an HTTP/2 connection that never began, with the reason for whoever shows it.
pub fn goaway(reason: &str) -> Bytes {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let mut out = frame_head(0, SETTINGS);
    // No stream was looked at.
    let mut last = 0u32.to_be_bytes().to_vec();
    last.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    last.extend(reason.bytes());
    out.extend(frame_head(last.len(), GOAWAY));
    out.extend(last);
    out.into()
}

/// The head of a frame without flags, of the connection itself.
fn frame_head(len: usize, kind: u8) -> Vec<u8> {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    vec![len[1], len[2], len[3], kind, 0, 0, 0, 0, 0]
}
