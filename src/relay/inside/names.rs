//! Queries of names, each over a stream of its own, whether they came in a datagram or on a
//! connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{Shared, pause, share::Permit};
use crate::relay::{
    Asked, Transport,
    wire::{self, Purpose, broken},
};

/// Most bytes of a query in a datagram. Longer ones come on connections.
const DATAGRAM: usize = 4096;
/// Longest time for an answer. Whoever asked has given up by then.
const ANSWER: Duration = Duration::from_secs(15);
/// Longest time that a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Answers datagrams.
pub(super) async fn receive(udp: UdpSocket, shared: Shared) {
    let udp = Arc::new(udp);
    let mut buffer = vec![0; DATAGRAM];
    let mut tasks = JoinSet::new();
    loop {
        let (length, peer) = tokio::select! {
            received = udp.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
        };
        // Whoever has too many asks again later.
        if let Some(permit) = shared.queries.take(peer.ip()) {
            let query = Bytes::copy_from_slice(&buffer[..length]);
            tasks.spawn(reply(udp.clone(), query, peer, shared.clone(), permit));
        }
    }
}

async fn reply(
    udp: Arc<UdpSocket>,
    query: Bytes,
    peer: SocketAddr,
    shared: Shared,
    _permit: Permit,
) {
    let replied = async {
        let asked = Asked {
            peer,
            at: udp.local_addr()?,
            over: Transport::Udp,
        };
        let answer = ask(&shared, query, asked).await?;
        if !answer.is_empty() {
            udp.send_to(&answer, peer).await?;
        }
        Ok::<_, io::Error>(())
    };
    if let Err(error) = replied.await {
        tracing::trace!(%peer, %error, "A query got no answer");
    }
}

/// Answers the queries on a connection until it ends.
pub(super) async fn converse(
    mut tcp: TcpStream,
    peer: SocketAddr,
    shared: Shared,
) -> io::Result<()> {
    loop {
        let query = timeout(SILENCE, read(&mut tcp)).await??;
        let Some(_permit) = shared.queries.take(peer.ip()) else {
            return Err(io::Error::other("it has too many queries"));
        };
        let asked = Asked {
            peer,
            at: tcp.local_addr()?,
            over: Transport::Tcp,
        };
        let answer = ask(&shared, query, asked).await?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), &answer[..]].concat();
        timeout(SILENCE, tcp.write_all(&message)).await??;
    }
}

/// Reads one message after its length.
async fn read(tcp: &mut TcpStream) -> io::Result<Bytes> {
    let mut message = vec![0; usize::from(tcp.read_u16().await?)];
    tcp.read_exact(&mut message).await?;
    Ok(message.into())
}

/// Asks the server.
async fn ask(shared: &Shared, query: Bytes, asked: Asked) -> io::Result<Bytes> {
    let answered = async {
        let (response, mut body) = shared.open(&Purpose::Query(asked)).await?;
        body.send_data(query, true).map_err(broken)?;
        let answer = response.await.map_err(broken)?;
        wire::message(answer.into_body()).await
    };
    timeout(ANSWER, answered).await?
}
