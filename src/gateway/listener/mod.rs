//! Accepts connections, serves HTTP/1.1 and HTTP/2 on them, with TLS or without, and drains them when
//! the platform stops.
//!
//! App URLs with the JSON API and gRPC each have such a listener, with the same bounds; they differ
//! in the [`Service`].

use std::{
    future::{self, Future},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::Either, stream::FuturesUnordered};
use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod activity;
mod cut_off;
mod streams;

use self::{
    activity::{ActiveRequest, Activity, CountedBody, FIRST_REQUEST},
    cut_off::CutOff,
    streams::Handle,
};
use super::{
    body::Body,
    client, headers,
    limiter::{ConnectionLimiter, ConnectionPermit},
    limits::Limits,
    peer::Peer,
    refusal::{self, Refuser},
    secure::{self, Accepting, Secure},
    workers::{Serve, Workers},
};
use crate::model::Failure;

pub use streams::Streams;

/// hyper's default, up to which it parses header lines without allocating; setting the same number
/// explicitly would allocate.
const HEADERS_ON_THE_STACK: usize = 100;
/// Interval of HTTP/2 pings on a silent connection.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(60);
/// Most requests that a client may reset before they are accepted ("rapid reset", CVE-2023-44487);
/// h2's default.
const PENDING_RESETS: usize = 20;
/// Most streams of a connection that may be reset for errors of the client; h2's default.
const ERROR_RESETS: usize = 1024;
/// Longest time to read what a client still sends after the server has closed its side.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after an accept failed, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TCP keep-alive: a silent client is probed after a minute, then every 15 seconds, and given up
/// after four probes without an answer, two minutes in all.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// What answers the requests of a listener.
pub trait Service: Send + Sync + 'static {
    /// Whether the clients are apps in containers: none of them is a trusted proxy.
    const CLIENTS_ARE_APPS: bool = false;

    /// Answers one request.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// Encodes the refusal of a connection, in the protocol that its client speaks.
    fn refusal(&self, why: &Failure) -> impl Future<Output = Bytes> + Send;

    /// The answer to a request that fails, in gRPC's form if it is a call of that.
    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body>;
}

impl<S: Service> Service for Arc<S> {
    const CLIENTS_ARE_APPS: bool = S::CLIENTS_ARE_APPS;

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        S::answer(self, request, peer)
    }

    fn refusal(&self, why: &Failure) -> impl Future<Output = Bytes> + Send {
        S::refusal(self, why)
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        S::failure(self, why, grpc)
    }
}

/// Ends the listener's connections, in two steps.
#[derive(Clone, Default)]
pub struct Stop {
    /// Accept no more; finish the requests under way.
    pub drain: CancellationToken,
    /// Drop what is left.
    pub force: CancellationToken,
}

impl Stop {
    /// Returns once `drain` is cancelled and `last` has ended, or at `force`.
    async fn drained_after(&self, last: impl Future<Output = ()>) {
        self.drain.cancelled().await;
        tokio::select! {
            () = last => {}
            () = self.force.cancelled() => {}
        }
    }
}

/// Serves until `stop.drain`, then until every connection has ended or `stop.force`.
pub fn run(
    listener: TcpListener,
    workers: Arc<Workers>,
    service: impl Service,
    limits: Limits,
    stop: Stop,
) -> impl Future<Output = ()> + Send {
    listen(listener, workers, service, limits, stop, None)
}

/// As [`run`], over TLS.
pub async fn run_secure(
    listener: TcpListener,
    workers: Arc<Workers>,
    service: impl Service,
    limits: Limits,
    stop: Stop,
    secure: Secure,
) {
    let without_tls = service.refusal(&secure::without_tls()).await;
    let accepting = Arc::new(Accepting::new(secure, without_tls));
    listen(listener, workers, service, limits, stop, Some(accepting)).await;
}

async fn listen(
    listener: TcpListener,
    workers: Arc<Workers>,
    service: impl Service,
    limits: Limits,
    stop: Stop,
    accepting: Option<Arc<Accepting>>,
) {
    let limiter = ConnectionLimiter::new(limits.clone());
    let refuser = Refuser::new(match accepting {
        Some(_) => Bytes::from_static(&secure::INTERNAL_ERROR),
        None => service.refusal(&refusal::too_many_connections()).await,
    });
    let shared = Shared::new(service, &limits, stop.clone());
    let connections = TaskTracker::new();
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after_accept_error(&error).await;
                    continue;
                }
            },
            () = stop.drain.cancelled() => break,
        };
        // A failure here means that the peer is gone already.
        let _ = tcp.set_nodelay(true).and_then(|()| enable_keepalive(&tcp));
        let Some(permit) = limiter.try_acquire(peer) else {
            tracing::debug!(%peer, "A connection was refused, since too many are open");
            refuser.refuse(tcp, &connections);
            continue;
        };
        let shared = shared.clone();
        let serve_one: Serve = match accepting.clone() {
            None => Box::new(move |tcp| Box::pin(serve_plain(shared, tcp, permit, peer))),
            Some(accepting) => {
                Box::new(move |tcp| Box::pin(serve_secure(shared, accepting, tcp, permit, peer)))
            }
        };
        if let Err(error) = workers.serve(tcp, serve_one, &connections) {
            pause_after_accept_error(&error).await;
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = stop.force.cancelled() => {
            tracing::warn!(connections = connections.len(), "Dropping connections that did not finish in time");
            connections.wait().await;
        }
    }
}

/// What all connections of the listener share.
struct Shared<S> {
    builder: auto::Builder<TokioExecutor>,
    keep_alive: Duration,
    service: S,
    stop: Stop,
}

impl<S> Shared<S> {
    fn new(service: S, limits: &Limits, stop: Stop) -> Arc<Self> {
        Arc::new(Self {
            builder: builder(limits),
            keep_alive: limits.keep_alive_timeout,
            service,
            stop,
        })
    }
}

/// HTTP as this listener speaks it.
fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.max_header_bytes)
        .keep_alive(true);
    if limits.max_headers != HEADERS_ON_THE_STACK {
        http1.max_headers(limits.max_headers);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    builder
}

fn serve_plain<S: Service>(
    shared: Arc<Shared<S>>,
    tcp: TcpStream,
    permit: Arc<ConnectionPermit>,
    peer: SocketAddr,
) -> impl Future<Output = ()> + Send {
    let (io, handle) = client::split(tcp, permit.clone());
    let peer = Peer::on(handle.clone(), peer);
    let peer = peer.of_service(S::CLIENTS_ARE_APPS, permit.is_reserved());
    serve(shared, io, Handle::Socket(handle), permit, peer)
}

async fn serve_secure<S: Service>(
    shared: Arc<Shared<S>>,
    accepting: Arc<Accepting>,
    tcp: TcpStream,
    permit: Arc<ConnectionPermit>,
    peer: SocketAddr,
) {
    let accepted = tokio::select! {
        accepted = accepting.accept(tcp, permit.clone(), peer) => accepted,
        () = shared.stop.drained_after(tokio::time::sleep(FIRST_REQUEST)) => None,
    };
    if let Some((io, handle)) = accepted {
        let peer = Peer::on(handle.clone(), peer).over_tls();
        let peer = peer.of_service(S::CLIENTS_ARE_APPS, permit.is_reserved());
        serve(shared, io, Handle::Socket(handle), permit, peer).await;
    }
}

async fn serve<I>(
    shared: Arc<Shared<impl Service>>,
    io: I,
    handle: Handle,
    permit: Arc<ConnectionPermit>,
    peer: Peer,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let linger_handle = handle.clone();
    let client = Client {
        shared: shared.clone(),
        peer,
        handle,
        cut_off: CutOff::default(),
    };
    serve_http(client, io).await;
    tokio::select! {
        () = linger_handle.linger(LINGER) => {}
        () = shared.stop.drain.cancelled() => {}
    }
    drop(permit);
}

/// One connection: its client, and what answers it.
struct Client<S> {
    shared: Arc<Shared<S>>,
    handle: Handle,
    peer: Peer,
    cut_off: CutOff,
}

async fn serve_http<I>(client: Client<impl Service>, io: I)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (client, activity) = (Arc::new(client), Arc::new(Activity::default()));
    let (asking, idle) = (client.clone(), activity.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let active = activity.begin();
        answer(asking.clone(), active, request)
    });
    let Client { shared, peer, .. } = &*client;
    let connection = shared
        .builder
        .serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = run_until_drained(
        connection.as_mut(),
        (&shared.stop, &client.cut_off),
        idle.first_request(),
        idle.idle_for(shared.keep_alive),
        |c| {
            c.graceful_shutdown();
        },
    )
    .await;
    if let Some(Err(error)) = ended {
        tracing::debug!(peer = %peer.address, %error, "A connection ended with an error");
    }
}

/// Answers one request of a connection, unless its client leaves before. One that takes longer than a
/// stop may last is answered that.
fn answer<S: Service>(
    client: Arc<Client<S>>,
    active: ActiveRequest,
    request: Request<Incoming>,
) -> impl Future<Output = io::Result<Response<CountedBody>>> + Send {
    let is_whole = request.body().is_end_stream();
    let is_http2 = request.version() == Version::HTTP_2;
    let is_grpc = is_http2 && headers::is_grpc(request.headers());
    async move {
        let Client {
            shared,
            peer,
            cut_off,
            ..
        } = &*client;
        let client_closed = async {
            // hyper keeps reading while a request without a body waits, and notices by itself
            // that its client leaves.
            if is_whole {
                future::pending::<()>().await;
            }
            client.handle.closed().await;
        };
        // Pinned where it is made, as the large futures below it are: `.await` moves one first.
        let answer = pin!(shared.service.answer(request, peer));
        tokio::select! {
            biased;
            response = answer => {
                Ok(response.map(|body| CountedBody::new(body, active)))
            }
            // Dropping the answer gives up whatever the request was waiting for.
            () = client_closed => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            () = cut_off.wait(is_http2) => {
                let answer = shared.service.failure(&cut_off::failure(), is_grpc);
                Ok(answer.map(|body| CountedBody::new(body, active)))
            }
        }
    }
}

/// Polls a connection to its end. On drain, then once `first` has ended, or once `idle` returns, calls
/// `finish` once; on force, has its requests answered that they are cut off, then gives up and returns
/// `None`.
async fn run_until_drained<C, T>(
    mut connection: std::pin::Pin<&mut C>,
    (stop, cut_off): (&Stop, &CutOff),
    first: impl Future<Output = ()>,
    idle: impl Future<Output = ()>,
    finish: impl FnOnce(std::pin::Pin<&mut C>),
) -> Option<T>
where
    C: Future<Output = T>,
{
    // A `FuturesUnordered` polls a future only when it is woken. Polled with every read and write
    // of every connection, the token's lock would be contended by all threads.
    let reasons = [Either::Left(stop.drained_after(first)), Either::Right(idle)];
    let mut reasons = FuturesUnordered::from_iter(reasons);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return Some(ended),
        _ = reasons.next() => {}
    }
    finish(connection.as_mut());
    tokio::select! {
        ended = connection.as_mut() => return Some(ended),
        () = stop.force.cancelled() => cut_off.begin(),
    }
    tokio::time::timeout(cut_off::LAST_ANSWERS, connection)
        .await
        .ok()
}

/// Has the kernel probe a silent peer. One that vanished without closing (a sleeping laptop, a
/// pulled cable) would otherwise keep the replica of an upgraded connection up for good.
fn enable_keepalive(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_socket_keepalive(tcp, true)?)
}

async fn pause_after_accept_error(error: &io::Error) {
    tracing::warn!(%error, "A connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fleet::upstream::{self, Pool},
        gateway::{
            Front,
            invoke::{self, Invocation},
        },
    };

    /// hyper keeps memory for it in every connection, and moves it for every request.
    const MOST: usize = 4096;

    fn size<A, F>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_request_stays_small() {
        type Asked = (Arc<Client<Front>>, ActiveRequest, Request<Incoming>);
        type Received = (&'static Front, Request<Incoming>, &'static Peer);
        type Sent = Request<upstream::Body>;
        type Invoked = (Invocation<'static>, Sent, invoke::Client<'static>);
        let sizes = [
            size(|(client, active, request): Asked| answer(client, active, request)),
            size(|(front, request, peer): Received| front.answer(request, peer)),
            size(|(invocation, request, client): Invoked| {
                invoke::invoke(invocation, request, client)
            }),
            size(|(pool, request): (&'static Arc<Pool>, &'static mut Sent)| {
                pool.exchange(request, None)
            }),
        ];
        assert!(
            sizes[0] <= MOST,
            "the future of a request takes {} bytes, {MOST} at most; listener::answer, Front::answer, invoke::invoke and Pool::exchange, each in the one before, take {sizes:?}. `-Zprint-type-sizes` shows what is in them: arguments of an `async fn` are there twice, so large ones go by reference; what is rare goes into a box",
            sizes[0],
        );
    }
}
