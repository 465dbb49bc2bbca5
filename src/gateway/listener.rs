//! Accepts connections, serves HTTP/1.1 and h2c on them, and drains them when the platform stops.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Gateway, client};

/// Longest wait for the whole head of a request: a client that needs more is stuck or hostile.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what a client still sends is taken in after its connection was closed from here.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after an accept failed, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which a client is asked whether it is there, how often it is asked again, and
/// how many times before its connection is given up: two minutes in all.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_ASK_AGAIN: Duration = Duration::from_secs(15);
const SILENCE_ASKS: u32 = 4;

/// The two ways to end the listener's connections.
#[derive(Clone, Default)]
pub struct Stop {
    /// Accept no more; finish the requests under way.
    pub drain: CancellationToken,
    /// Drop what is left.
    pub force: CancellationToken,
}

/// Serves until `stop.drain`, then until every connection has ended or `stop.force`.
pub async fn run(listener: TcpListener, gateway: Arc<Gateway>, api: Router, stop: Stop) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .keep_alive(true);
    builder.http2().timer(TokioTimer::new());
    let builder = Arc::new(builder);
    let connections = TaskTracker::new();
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = stop.drain.cancelled() => break,
        };
        // A failure here means that the peer is gone already.
        let _ = tcp.set_nodelay(true).and_then(|()| notice_silence(&tcp));
        connections.spawn(serve(
            builder.clone(),
            tcp,
            peer,
            gateway.clone(),
            api.clone(),
            stop.clone(),
        ));
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

async fn serve(
    builder: Arc<auto::Builder<TokioExecutor>>,
    tcp: tokio::net::TcpStream,
    peer: SocketAddr,
    gateway: Arc<Gateway>,
    api: Router,
    stop: Stop,
) {
    let (io, presence) = client::watched(tcp);
    let lingering = presence.clone();
    serve_http(builder, io, presence, peer, gateway, api, &stop).await;
    tokio::select! {
        () = lingering.linger(LINGER) => {}
        () = stop.drain.cancelled() => {}
    }
}

async fn serve_http(
    builder: Arc<auto::Builder<TokioExecutor>>,
    io: client::Connection,
    presence: client::Presence,
    peer: SocketAddr,
    gateway: Arc<Gateway>,
    api: Router,
    stop: &Stop,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (gateway, api, presence) = (gateway.clone(), api.clone(), presence.clone());
        async move {
            tokio::select! {
                biased;
                response = gateway.handle(&api, request, peer) => Ok(response),
                // Whatever the request was waiting for is given up with it.
                () = presence.gone() => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            }
        }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = drained(connection.as_mut(), stop, |c| c.graceful_shutdown()).await;
    if let Some(Err(error)) = ended {
        tracing::debug!(%peer, %error, "A connection ended badly");
    }
}

/// Polls to the end; on drain asks once to finish, on force gives up.
async fn drained<C, T>(
    mut connection: std::pin::Pin<&mut C>,
    stop: &Stop,
    finish: impl FnOnce(std::pin::Pin<&mut C>),
) -> Option<T>
where
    C: Future<Output = T>,
{
    tokio::select! {
        ended = connection.as_mut() => return Some(ended),
        () = stop.drain.cancelled() => finish(connection.as_mut()),
    }
    tokio::select! {
        ended = connection => Some(ended),
        () = stop.force.cancelled() => None,
    }
}

/// Has the kernel ask a silent peer whether it is there. One that went without a word (a laptop
/// that sleeps, a cable that was pulled) would keep an upgraded connection's replica up for good.
fn notice_silence(tcp: &tokio::net::TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(tcp, SILENCE)?;
    sockopt::set_tcp_keepintvl(tcp, SILENCE_ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(tcp, SILENCE_ASKS)?;
    Ok(sockopt::set_socket_keepalive(tcp, true)?)
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "A connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
