//! Connections to one port of one replica: HTTP/1.1, or HTTP/2 for requests that ask for it.
//!
//! Idle connections are reused last in, first out. A request that found its reused connection
//! closed before a byte was sent goes out again on another; anything later is the caller's to
//! judge, since the app may have seen the request.
//!
//! `body.rs` has what is sent, `link.rs` the socket, `h2.rs` HTTP/2.

mod body;
mod h2;
mod link;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, Version};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
#[cfg(not(test))]
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::link::{Link, Wire};

pub use self::body::{Body, BodyError, Bounds, let_the_app_ask, why_unsent};

// Simulations run under a paused clock, which does not wait for real sockets.
#[cfg(test)]
use super::tests::net::TcpStream;

/// Idle connections kept per port and replica: enough for the concurrency one replica can have
/// on a machine of this kind, small beside the usual descriptor limit.
const MAX_IDLE: usize = 256;
/// Longest wait for a TCP connection to a container on this machine; a listener that is there
/// answers in microseconds, one whose backlog is full when the kernel retries after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// An HTTP/1.1 connection, to send the next request on.
struct Sender {
    http: http1::SendRequest<Body>,
    wire: Arc<Wire>,
}

impl Error {
    /// Whether the app refused the request by resetting its HTTP/2 stream, and so is there.
    pub(super) fn is_reset_by_app(&self) -> bool {
        let Error::Broke(e) = self else {
            return false;
        };
        let cause = std::error::Error::source(e).and_then(|c| c.downcast_ref::<::h2::Error>());
        cause.is_some_and(|c| c.is_reset() && c.is_remote())
    }
}

/// The connections to one port of one replica.
pub struct Pool {
    addr: SocketAddr,
    idle: Mutex<Vec<Sender>>,
    shared: h2::Shared,
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
            shared: h2::Shared::default(),
            connects: Semaphore::new(max_connects.max(1)),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Where its connections go.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a request, in HTTP/2 if that is its version, and waits for the head of the answer.
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
        if request.version() == Version::HTTP_2 {
            let (response, load) = Box::pin(h2::send(self, request)).await?;
            return Ok((response, self.connection(Carriage::Shared(load))));
        }
        loop {
            let (mut sender, reused) = match self.take_idle() {
                Some(sender) => (sender, true),
                None => match self.connect().await {
                    Ok(sender) => (sender, false),
                    Err(cause) => return Err(self.not_connected(cause, request)),
                },
            };
            request.body_mut().attach(&sender.wire);
            match sender.http.try_send_request(request).await {
                Ok(response) => return Ok((response, self.connection(Carriage::Own(sender)))),
                Err(mut e) => match e.take_message() {
                    Some(mut unsent) => {
                        unsent.body_mut().detach();
                        if !reused {
                            return Err(
                                self.not_connected(io::Error::other(e.into_error()), unsent)
                            );
                        }
                        request = unsent;
                    }
                    None => return Err(Error::Broke(e.into_error())),
                },
            }
        }
    }

    fn connection(self: &Arc<Self>, carriage: Carriage) -> Connection {
        Connection {
            carriage: Some(carriage),
            pool: self.clone(),
        }
    }

    fn not_connected(&self, cause: io::Error, unsent: Request<Body>) -> Error {
        Error::Connect {
            addr: self.addr,
            cause,
            unsent: Some(Box::new(unsent)),
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        // One whose last exchange is still winding down is not ready yet and stays.
        let at = idle.iter().rposition(|s| s.http.is_ready())?;
        Some(idle.swap_remove(at))
    }

    fn give_back(&self, sender: Sender) {
        if sender.http.is_closed() || self.closed.is_cancelled() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() >= MAX_IDLE {
            idle.retain(|s| !s.http.is_closed());
        }
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let _turn = self.connects.acquire().await.map_err(io::Error::other)?;
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn connect(&self) -> io::Result<Sender> {
        let tcp = self.dial().await?;
        let wire = Arc::new(Wire::default());
        let (http, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(Link::new(tcp, wire.clone())))
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
        Ok(Sender { http, wire })
    }

    /// Drops the connections that nobody uses.
    pub(super) fn drop_idle(&self) {
        self.idle.lock().clear();
        self.shared.clear();
    }

    /// Drops every connection, also those in use.
    pub fn close(&self) {
        self.closed.cancel();
        self.idle.lock().clear();
        self.shared.clear();
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
    carriage: Option<Carriage>,
    pool: Arc<Pool>,
}

enum Carriage {
    /// HTTP/1.1: nobody else's meanwhile.
    Own(Sender),
    /// HTTP/2: the token that counts the exchange.
    Shared(#[allow(dead_code, reason = "it counts by being there")] Arc<()>),
}

impl Connection {
    /// Back to the pool. One that is still sending the request, of which the app wants no more
    /// since it has answered, is closed.
    pub fn reuse(mut self) {
        if let Some(Carriage::Own(sender)) = self.carriage.take() {
            if sender.wire.is_sending() {
                sender.wire.cut();
            } else {
                self.pool.give_back(sender);
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(Carriage::Own(sender)) = &self.carriage
            && sender.wire.is_sending()
        {
            sender.wire.cut();
        }
    }
}
