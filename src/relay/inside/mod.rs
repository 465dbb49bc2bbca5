//! The end in the container: listens, and carries what arrives to the server.

mod connections;
mod names;
mod share;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

use self::share::Share;
use super::{
    Plan,
    wire::{self, Listens, Purpose, broken, keep_alive},
};

/// Pause after an accept failed, so that running out of descriptors does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections and queries need.
#[derive(Clone)]
struct Shared {
    /// Opens streams to the server.
    server: SendRequest<Bytes>,
    connections: Arc<Share>,
    queries: Arc<Share>,
}

impl Shared {
    /// Opens a stream to the server.
    async fn open(&self, purpose: &Purpose) -> io::Result<(ResponseFuture, h2::SendStream<Bytes>)> {
        let mut server = self.server.clone().ready().await.map_err(broken)?;
        let opened = server.send_request(purpose.request(), false);
        opened.map_err(broken)
    }
}

/// Listens where the plan says, and carries everything over `io` until the server ends it.
///
/// # Errors
/// The address that cannot be listened on, or how the server was lost.
pub async fn run<T>(plan: Plan, io: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut listens = Listens {
        names: None,
        connections: Vec::new(),
    };
    let names = match plan.names {
        Some(at) => {
            let tcp = bind(&[at]).await?;
            let at = tcp.local_addr()?;
            listens.names = Some(at);
            Some((bind_udp(at).await?, tcp))
        }
        None => None,
    };
    let mut listeners = Vec::new();
    for addresses in &plan.listeners {
        let listener = bind(addresses).await?;
        listens.connections.push(listener.local_addr()?);
        listeners.push(listener);
    }
    for at in plan.also {
        match bind(&[at]).await {
            Ok(listener) => {
                listens.connections.push(listener.local_addr()?);
                listeners.push(listener);
            }
            Err(error) => tracing::debug!(%error, "A further listener is left out"),
        }
    }
    let ready = Purpose::Ready(listens);

    let limits = plan.limits;
    let handshake = wire::client(limits).handshake(io).await;
    let (server, mut connection) = handshake.map_err(broken)?;
    let pings = connection.ping_pong().expect("nothing else has taken it");
    let shared = Shared {
        server,
        connections: Share::new(limits.connections, limits.connections_each),
        queries: Share::new(limits.queries, limits.queries_each),
    };
    let mut tasks = JoinSet::new();
    let announced = shared.clone();
    tasks.spawn(async move {
        // Where it fails, the connection has ended, which ends everything.
        if let Ok((response, mut body)) = announced.open(&ready).await {
            let _ = body.send_data(Bytes::new(), true);
            let _ = response.await;
        }
    });
    for listener in listeners {
        tasks.spawn(accept(listener, shared.clone(), connections::carry));
    }
    if let Some((udp, tcp)) = names {
        tasks.spawn(names::receive(udp, shared.clone()));
        tasks.spawn(accept(tcp, shared.clone(), names::converse));
    }
    drop(shared);
    tokio::select! {
        ended = connection => ended.map_err(broken),
        silent = keep_alive(pings) => Err(silent),
    }
}

/// Listens at the first of these addresses that is free.
async fn bind(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    TcpListener::bind(addresses).await.map_err(|error| {
        let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        refused(&all.join(" or "), &error)
    })
}

async fn bind_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let bound = UdpSocket::bind(at).await;
    bound.map_err(|error| refused(&format!("{at} by UDP"), &error))
}

fn refused(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {what}: {error}"))
}

/// Accepts connections, and serves each in a task of its own. Whoever has too many is turned away;
/// waiting, it would keep others from being accepted.
async fn accept<F>(
    listener: TcpListener,
    shared: Shared,
    serve: impl Fn(TcpStream, SocketAddr, Shared) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
        };
        if let Some(permit) = shared.connections.take(peer.ip()) {
            let served = serve(tcp, peer, shared.clone());
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = served.await {
                    tracing::trace!(%peer, %error, "A connection broke");
                }
            });
        }
    }
}

/// Waits after an accept that failed.
async fn pause(error: &io::Error) {
    tracing::debug!(%error, "A connection could not be accepted");
    tokio::time::sleep(PAUSE).await;
}
