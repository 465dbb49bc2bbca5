//! Connections, each over a stream of its own.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use super::Shared;
use crate::relay::{Stream, wire::Purpose};

/// Longest time to deliver what the server had sent before it closed a connection.
const LINGER: Duration = Duration::from_secs(2);

/// Carries one connection.
pub(super) async fn carry(mut tcp: TcpStream, peer: SocketAddr, shared: Shared) -> io::Result<()> {
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
