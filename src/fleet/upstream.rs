//! HTTP/1.1 connections to one port of one replica.
//!
//! Idle connections are reused last in, first out. A request that found its reused connection
//! closed before a byte was sent goes out again on another; anything later is the caller's to
//! judge, since the app may have seen the request.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
#[cfg(not(test))]
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

// Simulations run under a paused clock, which does not wait for real sockets.
#[cfg(test)]
use super::tests::net::TcpStream;

/// Idle connections kept per port and replica: enough for the concurrency one replica can have
/// on a machine of this kind, small beside the usual descriptor limit.
const MAX_IDLE: usize = 256;
/// Longest wait for a TCP connection to a container on this machine; a listener that is there
/// answers in microseconds, one whose backlog is full when the kernel retries after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request's body on its way to a replica; never buffered here.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes in memory (an invocation envelope's body).
    Full(Option<Bytes>),
    /// A client's body, streamed.
    Incoming(Incoming),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Incoming(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_none(),
            Body::Incoming(body) => http_body::Body::is_end_stream(body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Incoming(body) => http_body::Body::size_hint(body),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Body::Empty
        } else {
            Body::Full(Some(bytes))
        }
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::large_enum_variant,
    reason = "an error is moved once; boxing would not pay"
)]
pub enum Error {
    /// No connection; the request was not sent.
    #[error("connection to {addr} failed: {cause}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// What the system said.
        cause: io::Error,
        /// The request, unharmed, to be sent elsewhere.
        unsent: Option<Box<Request<Body>>>,
    },
    /// The connection broke; the app may have seen the request.
    #[error("the connection broke before the answer began: {0}")]
    Broke(#[source] hyper::Error),
}

/// The connections to one port of one replica.
pub struct Pool {
    addr: SocketAddr,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
    /// Bounds concurrent connects, so that many held requests let go at once do not overflow
    /// the app's accept queue.
    connects: Semaphore,
    /// Owns the connection tasks; they end with the pool.
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl Pool {
    /// A pool without connections.
    pub fn new(addr: SocketAddr, max_connects: usize) -> Arc<Self> {
        Arc::new(Self {
            addr,
            idle: Mutex::default(),
            connects: Semaphore::new(max_connects.max(1)),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Where its connections go.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so the app sees the client leave.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        loop {
            let (mut sender, reused) = match self.take_idle() {
                Some(sender) => (sender, true),
                None => match self.connect().await {
                    Ok(sender) => (sender, false),
                    Err(cause) => {
                        return Err(Error::Connect {
                            addr: self.addr,
                            cause,
                            unsent: Some(Box::new(request)),
                        });
                    }
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let connection = Connection {
                        sender: Some(sender),
                        pool: self.clone(),
                    };
                    return Ok((response, connection));
                }
                Err(mut e) => match e.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(Error::Broke(e.into_error())),
                },
            }
        }
    }

    fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        let mut idle = self.idle.lock();
        // One whose last exchange is still winding down is not ready yet and stays.
        let at = idle.iter().rposition(http1::SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    fn give_back(&self, sender: http1::SendRequest<Body>) {
        if sender.is_closed() || self.closed.is_cancelled() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() >= MAX_IDLE {
            idle.retain(|s| !s.is_closed());
        }
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> io::Result<http1::SendRequest<Body>> {
        let _turn = self.connects.acquire().await.map_err(io::Error::other)?;
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(io::Error::other)?;
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Its end, good or bad, reaches the request or the next user of the sender.
                _ = connection.with_upgrades() => {}
                () = closed.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// Drops the connections that nobody uses.
    pub(super) fn drop_idle(&self) {
        self.idle.lock().clear();
    }

    /// Drops every connection, also those in use.
    pub fn close(&self) {
        self.closed.cancel();
        self.idle.lock().clear();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// A connection that carries an exchange. [`Connection::reuse`] it when the answer has ended;
/// dropped before, it is closed.
pub struct Connection {
    sender: Option<http1::SendRequest<Body>>,
    pool: Arc<Pool>,
}

impl Connection {
    /// Back to the pool.
    pub fn reuse(mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.give_back(sender);
        }
    }
}
