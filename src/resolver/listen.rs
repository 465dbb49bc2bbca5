//! Takes queries by UDP and TCP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Asked, Reply, Resolver, Transport, quota};
use crate::quota::Usage;

/// Longest query: names have 255 bytes at most, and what else stands in one is short.
const MAX_QUERY: usize = 4096;
/// Longest silence of a connection, and longest time for a client to take an answer.
const IDLE: Duration = Duration::from_secs(10);
/// Pause after a socket failed, so that running out of descriptors does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of a name server at one address.
pub struct Sockets {
    here: Ipv4Addr,
    pub(super) udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both.
    ///
    /// # Errors
    /// When the address is not this machine's, or the port is taken or not to be had.
    pub async fn bind(here: Ipv4Addr, port: u16) -> io::Result<Self> {
        Ok(Self {
            here,
            udp: UdpSocket::bind((here, port)).await?,
            tcp: TcpListener::bind((here, port)).await?,
        })
    }
}

/// Answers queries until `stop`; then it drops those that wait.
pub async fn serve(sockets: Sockets, resolver: Resolver, stop: CancellationToken) {
    let Sockets { here, udp, tcp } = sockets;
    let tasks = TaskTracker::new();
    let forwarding = stop.child_token();
    let by_udp = datagrams(Arc::new(udp), here, &resolver, &tasks, &forwarding);
    let by_tcp = connections(tcp, here, &resolver, &tasks, &forwarding);
    tokio::select! {
        () = by_udp => {}
        () = by_tcp => {}
        () = stop.cancelled() => {}
    }
    forwarding.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn datagrams(
    udp: Arc<UdpSocket>,
    here: Ipv4Addr,
    resolver: &Resolver,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut query = vec![0; MAX_QUERY];
    loop {
        let (length, client) = match udp.recv_from(&mut query).await {
            Ok(received) => received,
            // A client that is gone may show up here.
            Err(error) => {
                tracing::debug!(%error, "A query could not be received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let query = &query[..length];
        let asked = asked(client, here, Transport::Udp);
        match resolver.answer_now(query, asked) {
            Reply::Ready(answer) => send(&udp, answer, client),
            Reply::Forward => {
                let (udp, resolver, query) = (udp.clone(), resolver.clone(), query.to_vec());
                tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
                    let answer = resolver.answer(&query, asked).await;
                    send(&udp, answer, client);
                }));
            }
        }
    }
}

/// Sends an answer, or loses it where the socket has no room: the client asks again.
fn send(udp: &UdpSocket, answer: Option<Vec<u8>>, client: SocketAddr) {
    if let Some(answer) = answer
        && let Err(error) = udp.try_send_to(&answer, client)
    {
        tracing::debug!(%client, %error, "An answer for a name could not be sent");
    }
}

async fn connections(
    tcp: TcpListener,
    here: Ipv4Addr,
    resolver: &Resolver,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let open = Arc::new(Mutex::new(Usage::default()));
    let most = quota(resolver.shared.config.connections);
    loop {
        let (stream, client) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "A connection for names could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let address = client.ip();
        if open.lock().acquire(Some(&address), 1, most).is_err() {
            continue;
        }
        let connection = Connection {
            open: open.clone(),
            address,
        };
        let (resolver, asked) = (resolver.clone(), asked(client, here, Transport::Tcp));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let _connection = connection;
            // However it ends, its client is gone.
            let _ = answer_all(stream, &resolver, asked).await;
        }));
    }
}

/// One connection in the count, until dropped.
struct Connection {
    open: Arc<Mutex<Usage<IpAddr>>>,
    address: IpAddr,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.lock().release(Some(&self.address), 1);
    }
}

/// Answers the queries of a connection, one after another.
async fn answer_all(mut stream: TcpStream, resolver: &Resolver, asked: Asked) -> io::Result<()> {
    loop {
        let query = within(next_query(&mut stream)).await?;
        let Some(answer) = resolver.answer(&query, asked).await else {
            return Ok(());
        };
        within(stream.write_all(&framed(&answer))).await?;
    }
}

async fn next_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length: usize = stream.read_u16().await?.into();
    if length > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = tokio::time::timeout(IDLE, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A message with its length before it, as TCP has it (RFC 1035, 4.2.2).
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&message[..length.into()]);
    framed
}

fn asked(client: SocketAddr, here: Ipv4Addr, over: Transport) -> Asked {
    Asked {
        client: client.ip(),
        here,
        over,
    }
}
