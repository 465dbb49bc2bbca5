//! Sends a query to the machine's servers, one after another, until one answers.
//!
//! Each query has a socket and a number of its own, both by chance, and a socket takes datagrams of
//! its server alone: whoever wants to forge an answer has to guess both.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use super::{
    Transport,
    message::{self, Query},
    servers::Servers,
};

/// What forwarding needs.
pub(super) struct Forwarder {
    servers: Servers,
    timeout: Duration,
    random: SystemRandom,
}

impl Forwarder {
    pub(super) fn new(servers: Servers, timeout: Duration) -> Self {
        Self {
            servers,
            timeout,
            random: SystemRandom::new(),
        }
    }

    /// The answer of the first server that has one; `None` when none does.
    pub(super) async fn forward(
        &self,
        bytes: &[u8],
        query: &Query<'_>,
        over: Transport,
        may_ask: impl Fn(IpAddr) -> bool,
    ) -> Option<Vec<u8>> {
        let mut unhelpful = None;
        for server in self.servers.now().iter().filter(|s| may_ask(s.ip())) {
            let id = self.random_id()?;
            let mut sent = bytes.to_vec();
            message::set_id(&mut sent, id);
            let exchange = async {
                match over {
                    Transport::Udp => by_udp(*server, &sent, id, query).await,
                    Transport::Tcp => by_tcp(*server, &sent, id, query).await,
                }
            };
            let mut answer = match tokio::time::timeout(self.timeout, exchange).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "A name server cannot be asked");
                    continue;
                }
                Err(_) => {
                    tracing::debug!(%server, "A name server did not answer in time");
                    continue;
                }
            };
            message::set_id(&mut answer, query.header.id);
            if message::is_unhelpful(&answer) {
                unhelpful = Some(answer);
                continue;
            }
            return finish(answer, query, over);
        }
        unhelpful.and_then(|answer| finish(answer, query, over))
    }

    fn random_id(&self) -> Option<u16> {
        let mut id = [0; 2];
        // Without random numbers answers could be forged.
        self.random.fill(&mut id).ok()?;
        Some(u16::from_be_bytes(id))
    }
}

fn finish(answer: Vec<u8>, query: &Query<'_>, over: Transport) -> Option<Vec<u8>> {
    match over {
        Transport::Udp => message::cut(answer, query, query.payload),
        Transport::Tcp => Some(answer),
    }
}

async fn by_udp(
    server: SocketAddr,
    sent: &[u8],
    id: u16,
    query: &Query<'_>,
) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(sent).await?;
    // One byte more than the client takes, which shows that the answer is longer.
    let mut answer = vec![0; usize::from(query.payload) + 1];
    loop {
        let length = socket.recv(&mut answer).await?;
        if message::is_answer_to(&answer[..length], id, query) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn by_tcp(
    server: SocketAddr,
    sent: &[u8],
    id: u16,
    query: &Query<'_>,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&super::listen::framed(sent)).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if message::is_answer_to(&answer, id, query) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it answered another query",
        ))
    }
}
