//! Connections, each over a stream of its own.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Shared, pause, share::Permit};
use crate::relay::{Stream, wire::Purpose};

/// Longest time to deliver what the server had sent before it closed a connection.
const LINGER: Duration = Duration::from_secs(2);

/// Carries every connection to a listener.
pub(super) async fn accept(listener: TcpListener, shared: Shared) {
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
        // Whoever has too many is turned away; waiting, it would keep others from being accepted.
        if let Some(permit) = shared.connections.take(peer.ip()) {
            tasks.spawn(carry_or_drop(tcp, peer, shared.clone(), permit));
        }
    }
}

async fn carry_or_drop(tcp: TcpStream, peer: SocketAddr, shared: Shared, _permit: Permit) {
    if let Err(error) = carry(tcp, peer, &shared).await {
        tracing::trace!(%peer, %error, "A connection broke");
    }
}

async fn carry(mut tcp: TcpStream, peer: SocketAddr, shared: &Shared) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let at = tcp.local_addr()?;
    let (response, outgoing) = shared.open(&Purpose::Connection { peer, at }).await?;
    // Nothing waits for the answer's head, which is a journey away.
    let body = async { response.await.map(http::Response::into_body) };
    let (mut stream, filling) = Stream::new(outgoing, body);
    let carried = async move {
        let reset = stream.reset();
        let lingering = async {
            reset.await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            carried = tokio::io::copy_bidirectional(&mut tcp, &mut stream) => carried.map(drop),
            () = lingering => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    tokio::join!(filling, carried).1
}
