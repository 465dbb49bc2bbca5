//! Connections to one port of one replica: HTTP/1.1, or HTTP/2 for requests that ask for it.
//!
//! A connection is driven by the task that waits for an answer on it (`h1.rs`); idle ones lie in
//! the pool and are reused last in, first out. A request whose reused connection turns out to be
//! closed before a byte was sent is sent on another.
//!
//! An app may also close an idle connection at the moment when a request is on its way to it. A
//! request that is idempotent by its method and has no body is then sent again, once and on a new
//! connection, if not a byte of an answer has arrived (RFC 9110, 9.2.2); `send_state.rs` keeps it
//! for that time. Over HTTP/2 an app itself declares which requests it has not processed. Anything
//! else is the caller's to judge, since the app may have seen the request.

mod answer;
mod body;
mod defer_write_errors;
mod h1;
mod h2;
mod idle;
mod send_state;
mod severed;

use std::{
    cell::Cell,
    future::poll_fn,
    io, mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response, Version, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
#[cfg(not(test))]
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub use self::{
    answer::Answer,
    body::{Body, BodyError, Bounds, let_the_app_ask},
};
use crate::connections::{Connections, Permit};

use self::{
    defer_write_errors::DeferWriteErrors, h1::H1Connection, idle::Idle, send_state::SendState,
    severed::Severed,
};
// Simulations run under a paused clock, which does not wait for real sockets.
#[cfg(test)]
use super::tests::net::TcpStream;

/// Longest wait for a TCP connection to a container on this machine. A listener answers in
/// microseconds, or, if its backlog is full, when the kernel retries after a second.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Receives what an app sends before its answer.
pub trait Interim: Sync {
    /// The app has sent `103 Early Hints` with these headers, as it wrote them.
    fn early_hints(&self, headers: HeaderMap);
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::large_enum_variant,
    reason = "an error is moved once; boxing would not pay"
)]
pub enum Error {
    /// No connection; the request was not sent.
    #[error("connection to {addr} failed: {cause}")]
    Connect {
        /// The address.
        addr: SocketAddr,
        /// The error of the operating system.
        cause: io::Error,
        /// The intact request, to be sent elsewhere.
        unsent: Option<Box<Request<Body>>>,
    },
    /// The connection broke; the app may have seen the request.
    #[error("the connection broke before the answer began: {0}")]
    Broke(#[source] hyper::Error),
    /// The request's body broke off.
    #[error("the request's body broke off: {0}")]
    Body(BodyError),
    /// The replica may have received the request, and its answer is not waited for any longer.
    #[error("it is unknown whether the replica woke from standby")]
    Lost,
}

thread_local! {
    /// The shard of the connections that this thread uses; see [`bind_thread_to_shard`].
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread a shard of the connections: it uses the connections that it made, and no other
/// thread does, so that their events never cross threads. Threads without a shard of their own
/// share shard 0.
pub fn bind_thread_to_shard(shard: usize) {
    SHARD.set(shard);
}

/// Bounds on connections to replicas; copies share the bound on all of them.
#[derive(Debug, Clone)]
pub struct Connects {
    /// Concurrent attempts to one port of one replica.
    at_once: usize,
    /// The process's open connections, which replicas share with clients.
    open: Connections,
}

impl Connects {
    /// Bounds of `at_once` concurrent attempts to one port of one replica, and of `open` on all
    /// connections.
    pub fn new(at_once: usize, open: Connections) -> Self {
        Self {
            at_once: at_once.max(1),
            open,
        }
    }
}

/// Whether a request may reach the app twice: its method makes that the same as once, and it has no
/// body that would have to be read again.
fn is_repeatable(request: &Request<Body>) -> bool {
    request.method().is_idempotent()
        && matches!(request.body(), Body::Empty)
        && !request.headers().contains_key(header::UPGRADE)
        && !request.headers().contains_key(header::EXPECT)
}

/// A copy of the request, if its body is in memory.
pub(super) fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let body = match request.body() {
        Body::Empty => Body::Empty,
        Body::Full(bytes) => Body::Full(bytes.clone()),
        Body::Streamed(_) => return None,
    };
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// The connections to one port of one replica.
pub struct Pool {
    addr: SocketAddr,
    /// Idle HTTP/1.1 connections. Nothing drives them meanwhile.
    idle: Mutex<Idle>,
    shared: h2::Shared,
    /// Bounds concurrent connects, so that many held requests released at once do not overflow the
    /// app's accept queue.
    dials: Semaphore,
    connects: Connects,
    /// Whether the app gets one request at a time.
    one_at_a_time: bool,
    /// Whether the app was found to speak HTTP/2 and not HTTP/1.1.
    http2_only: AtomicBool,
    severed: Severed,
}

impl Pool {
    /// A pool without connections; with `one_at_a_time` the app never gets more than one request at
    /// a time.
    pub fn new(addr: SocketAddr, connects: &Connects, one_at_a_time: bool) -> Arc<Self> {
        Arc::new(Self {
            addr,
            idle: Mutex::default(),
            shared: h2::Shared::default(),
            dials: Semaphore::new(connects.at_once),
            connects: connects.clone(),
            one_at_a_time,
            http2_only: AtomicBool::new(false),
            severed: Severed::default(),
        })
    }

    /// Whether the app was found to speak HTTP/2 and not HTTP/1.1.
    pub fn is_http2_only(&self) -> bool {
        self.http2_only.load(Relaxed)
    }

    /// The app speaks HTTP/2 and not HTTP/1.1.
    pub(super) fn set_http2_only(&self) {
        self.http2_only.store(true, Relaxed);
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
    ) -> Result<Response<Answer>, Error> {
        self.exchange(&mut request, None).await
    }

    /// As [`Self::send`]; `interim` gets early hints, which HTTP/2 connections do not report.
    ///
    /// The request is taken out of `request`, and an empty one left: every future on the way of a
    /// request passed by value would hold it, and twice where it is an argument of an `async fn`.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so the app sees the client leave.
    pub async fn exchange(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        interim: Option<&dyn Interim>,
    ) -> Result<Response<Answer>, Error> {
        let answered = request.body_mut().until_answered();
        let response = match request.version() {
            Version::HTTP_2 => {
                let (response, load) = Box::pin(h2::send(self, mem::take(request))).await?;
                response.map(|incoming| Answer::shared(incoming, load))
            }
            _ => self.exchange_http1(request, interim).await?,
        };
        if let Some(answered) = answered {
            answered.store(true, Relaxed);
        }
        Ok(response)
    }

    async fn exchange_http1(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        interim: Option<&dyn Interim>,
    ) -> Result<Response<Answer>, Error> {
        let repeatable = is_repeatable(request);
        let mut again = false;
        loop {
            let idle = if again {
                None
            } else {
                poll_fn(|cx| Poll::Ready(self.take_idle(cx))).await
            };
            let (mut connection, reused) = match idle {
                Some(connection) => (connection, true),
                None => match self.connect().await {
                    Ok(connection) => (connection, false),
                    Err(cause) => return Err(self.not_connected(cause, mem::take(request))),
                },
            };
            request.body_mut().attach(&connection.send_state);
            connection.send_state.begin(reused && repeatable);
            match connection.send(request, interim).await {
                Ok(response) => {
                    return Ok(
                        response.map(|incoming| Answer::new(incoming, connection, self.clone()))
                    );
                }
                Err(mut e) => match e.take_message() {
                    Some(mut unsent) => {
                        unsent.body_mut().detach();
                        if !reused {
                            return Err(
                                self.not_connected(io::Error::other(e.into_error()), unsent)
                            );
                        }
                        *request = unsent;
                    }
                    None => {
                        let e = e.into_error();
                        if let Some(unanswered) = connection.send_state.unanswered() {
                            tracing::debug!(addr = %self.addr, error = %e, "A request is sent again: the app closed the connection that it reused");
                            (*request, again) = (unanswered.map(|()| Body::Empty), true);
                            continue;
                        }
                        let why = body::why_unsent(&e).cloned();
                        return Err(why.map_or(Error::Broke(e), Error::Body));
                    }
                },
            }
        }
    }

    /// The shard whose connections this thread uses. An app that gets one request at a time may
    /// serve only one connection at a time, and would leave a second one waiting: so all threads
    /// share a shard.
    fn shard(&self) -> usize {
        if self.one_at_a_time { 0 } else { SHARD.get() }
    }

    fn not_connected(&self, cause: io::Error, unsent: Request<Body>) -> Error {
        Error::Connect {
            addr: self.addr,
            cause,
            unsent: Some(Box::new(unsent)),
        }
    }

    /// Takes the connection that was used last and is still open.
    fn take_idle(&self, cx: &mut Context<'_>) -> Option<H1Connection> {
        loop {
            // Checked outside the lock: it may have to be closed.
            let mut connection = self.idle.lock().pop(self.shard())?;
            if connection.is_ready(cx) {
                return Some(connection);
            }
        }
    }

    fn give_back(&self, connection: H1Connection) {
        if !self.connects.open.is_scarce() {
            self.idle.lock().push(connection);
        }
    }

    /// Opens a connection, with the permit to have it open.
    async fn dial(&self) -> io::Result<(TcpStream, Permit)> {
        let open = self.connects.open.for_replica();
        let open = tokio::time::timeout(CONNECT_TIMEOUT, open).await;
        let open = open.map_err(|_| {
            io::Error::other(
                "as many connections are open as the limit of open files allows; raise it (ulimit -Hn, LimitNOFILE=)",
            )
        })?;
        let connect = async {
            let _turn = self.dials.acquire().await.map_err(io::Error::other)?;
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        };
        // Connects are rare, so this is boxed: inline, it would enlarge the future of every request.
        let tcp = Box::pin(self.severed.or(connect)).await?;
        tcp.set_nodelay(true)?;
        Ok((tcp, open))
    }

    async fn connect(&self) -> io::Result<H1Connection> {
        let (tcp, open) = self.dial().await?;
        let send_state = Arc::new(SendState::default());
        self.severed.watch(&send_state);
        let io = TokioIo::new(DeferWriteErrors::new(tcp, send_state.clone(), Some(open)));
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        let driver = Box::pin(connection.with_upgrades());
        Ok(H1Connection::new(self.shard(), sender, driver, send_state))
    }

    /// Closes idle connections that were not needed since the last sweep, and those that the app
    /// has closed: nothing notices that while they are idle.
    pub(super) fn sweep(&self) {
        let mut idle = self.idle.lock().take();
        idle.close_unneeded(self.connects.open.is_scarce());
        let late = self.idle.lock().put_under(idle);
        // Closed outside the lock.
        drop(late);
    }

    /// Ends all connections, with the requests on them, and refuses new ones: the replica's network
    /// is gone.
    pub(super) fn sever(&self) {
        self.severed.sever();
        self.shared.end();
        self.drop_idle();
    }

    /// Drops the idle connections.
    pub(super) fn drop_idle(&self) {
        let idle = self.idle.lock().empty();
        // Closed outside the lock.
        drop(idle);
        self.shared.clear();
    }
}

#[cfg(test)]
mod tests;
