//! Both ends, joined by a pipe, with real sockets on one side.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{TcpStream, UdpSocket},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{wire::Purpose, *};

/// Bytes of the pipe between the ends: small, as those of containers are.
const PIPE: usize = 64 << 10;
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits {
    connections: 100,
    connections_each: 80,
    queries: 8,
    queries_each: 4,
};

/// Hands the connections to the test, and answers queries with what was asked, backwards.
struct Stand {
    connections: mpsc::UnboundedSender<(Stream, oneshot::Sender<()>)>,
}

impl Front for Stand {
    async fn connection(&self, stream: Stream, peer: SocketAddr, at: SocketAddr) {
        assert!(peer.ip().is_loopback() && at.ip().is_loopback() && peer.port() != at.port());
        let (end, ended) = oneshot::channel();
        if self.connections.send((stream, end)).is_ok() {
            let _ = ended.await;
        }
    }

    async fn answer(&self, query: Bytes, asked: Asked) -> Option<Vec<u8>> {
        assert!(asked.peer.ip().is_loopback() && asked.at.port() != asked.peer.port());
        (query != "none").then(|| query.iter().rev().copied().collect())
    }
}

struct Relay {
    listens: Listens,
    accepted: mpsc::UnboundedReceiver<(Stream, oneshot::Sender<()>)>,
    inside: JoinHandle<std::io::Result<()>>,
    link: JoinHandle<std::io::Error>,
}

impl Relay {
    async fn start(limits: Limits) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let plan = Plan {
            names: Some(any),
            listeners: vec![vec![any]],
            also: Vec::new(),
            limits,
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let inside = tokio::spawn(run(plan, theirs));
        let link = Link::<DuplexStream>::establish(ours, limits).await;
        let link = link.expect("the relay listens");
        let listens = link.listens().clone();
        let (connections, accepted) = mpsc::unbounded_channel();
        let link = tokio::spawn(link.serve(Arc::new(Stand { connections })));
        Self {
            listens,
            accepted,
            inside,
            link,
        }
    }

    async fn connect(&mut self) -> (TcpStream, Stream) {
        let tcp = TcpStream::connect(self.listens.connections[0]).await;
        (tcp.expect("it listens"), self.accept().await)
    }

    async fn accept(&mut self) -> Stream {
        let accepted = tokio::time::timeout(PATIENCE, self.accepted.recv()).await;
        let (stream, end) = accepted.expect("in time").expect("the link lives");
        // The front has served it once the test drops the stream.
        let _ = end.send(());
        stream
    }
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

#[tokio::test]
async fn many_connections_carry_their_own_bytes_both_ways() {
    let mut relay = Relay::start(LIMITS).await;
    let mut clients = Vec::new();
    for seed in 0..64u8 {
        let (mut tcp, stream) = relay.connect().await;
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write)
                .await
                .expect("it is open");
            write.shutdown().await.expect("it is open");
        });
        clients.push(tokio::spawn(async move {
            let sent = pattern(seed, 1 << 20);
            let (mut read, mut write) = tcp.split();
            let mut got = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    write.write_all(&sent).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            wrote.expect("it is open");
            read.expect("it is open");
            assert!(got == sent, "connection {seed} got other bytes");
        }));
    }
    for client in clients {
        tokio::time::timeout(PATIENCE, client)
            .await
            .expect("in time")
            .expect("it did not panic");
    }
}

#[tokio::test]
async fn a_connection_that_is_not_read_is_held_back_and_holds_up_no_other() {
    let mut relay = Relay::start(LIMITS).await;
    let (mut stuck, _unread) = relay.connect().await;
    let block = vec![7; 1 << 20];
    // What fits in the window and in the kernel's buffers goes; then the writer waits.
    let mut sent = 0;
    while let Ok(wrote) = tokio::time::timeout(Duration::from_secs(1), stuck.write(&block)).await {
        sent += wrote.expect("it is open");
        assert!(sent < 64 << 20, "nothing holds the writer back");
    }
    // And one that sends single bytes, each in a frame of its own.
    let (mut small, _unread_either) = relay.connect().await;
    small.set_nodelay(true).expect("set");
    for _ in 0..1000 {
        small.write_all(b"x").await.expect("it is open");
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        let (mut tcp, mut stream) = relay.connect().await;
        tcp.write_all(b"ping").await.expect("it is open");
        let mut got = [0; 4];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut got)).await;
        read.expect("in time").expect("it is open");
        stream.write_all(b"pong").await.expect("it is open");
        tcp.read_exact(&mut got).await.expect("it is open");
        assert_eq!(&got, b"pong");
    }
}

#[tokio::test]
async fn each_side_may_end_its_sending_alone() {
    let mut relay = Relay::start(LIMITS).await;
    let (mut tcp, mut stream) = relay.connect().await;
    tcp.write_all(b"question").await.expect("it is open");
    tcp.shutdown().await.expect("it is open");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.expect("it is open");
    assert_eq!(got, b"question");
    stream.write_all(b"answer").await.expect("it is open");
    stream.shutdown().await.expect("it is open");
    got.clear();
    tcp.read_to_end(&mut got).await.expect("it is open");
    assert_eq!(got, b"answer");

    // The server first, and what it said arrives though it does not read on.
    let (mut tcp, mut stream) = relay.connect().await;
    tcp.write_all(b"unread").await.expect("it is open");
    stream.write_all(b"enough").await.expect("it is open");
    stream.shutdown().await.expect("it is open");
    drop(stream);
    got.clear();
    tcp.read_to_end(&mut got).await.expect("nothing is lost");
    assert_eq!(got, b"enough");
}

#[tokio::test]
async fn a_side_that_breaks_off_breaks_the_other() {
    let mut relay = Relay::start(LIMITS).await;
    let (tcp, mut stream) = relay.connect().await;
    rustix::net::sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).expect("set");
    drop(tcp);
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 8])).await;
    assert!(read.expect("in time").is_err(), "a reset is no end");

    // A server that drops a connection frees the place of a client that does nothing at all.
    let limits = Limits {
        connections: 1,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let (_idle, stream) = relay.connect().await;
    drop(stream);
    tokio::time::timeout(PATIENCE, async {
        let mut byte = [0; 1];
        loop {
            let mut tcp = TcpStream::connect(relay.listens.connections[0])
                .await
                .expect("it listens");
            tokio::select! {
                // Turned away, as long as the first one is there.
                _ = tcp.read(&mut byte) => {}
                _ = relay.accept() => break,
            }
        }
    })
    .await
    .expect("the place is free");
}

#[tokio::test]
async fn an_address_gets_its_share_and_gets_it_back() {
    let limits = Limits {
        connections_each: 2,
        ..LIMITS
    };
    let mut relay = Relay::start(limits).await;
    let (first, _kept) = relay.connect().await;
    let (_second, _kept_too) = relay.connect().await;
    let mut third = TcpStream::connect(relay.listens.connections[0])
        .await
        .expect("it listens");
    let read = tokio::time::timeout(PATIENCE, third.read(&mut [0; 1])).await;
    assert!(
        matches!(read.expect("in time"), Ok(0) | Err(_)),
        "it is turned away"
    );
    drop(first);
    drop(_kept);
    tokio::time::timeout(PATIENCE, async {
        let mut byte = [0; 1];
        loop {
            let mut tcp = TcpStream::connect(relay.listens.connections[0])
                .await
                .expect("it listens");
            tokio::select! {
                _ = tcp.read(&mut byte) => {}
                _ = relay.accept() => break,
            }
        }
    })
    .await
    .expect("its place is free");
}

#[tokio::test]
async fn names_are_asked_for_by_datagram_and_by_connection() {
    let relay = Relay::start(LIMITS).await;
    let names = relay.listens.names.expect("it has names");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bound");
    udp.connect(names).await.expect("connected");
    let mut buffer = [0; 64];
    // More at once than the share of an address, and none of them gets an answer.
    for _ in 0..20 {
        udp.send(b"none").await.expect("sent");
    }
    let answered = tokio::time::timeout(PATIENCE, async {
        loop {
            udp.send(b"abc").await.expect("sent");
            // What was sent while the share was taken is lost, as datagrams may be.
            let wait = Duration::from_millis(100);
            if let Ok(read) = tokio::time::timeout(wait, udp.recv(&mut buffer)).await {
                break read.expect("an answer");
            }
        }
    });
    let length = answered.await.expect("in time");
    assert_eq!(&buffer[..length], b"cba");

    let mut tcp = TcpStream::connect(names).await.expect("it listens");
    for query in [&b"first"[..], b"second"] {
        tcp.write_u16(query.len() as u16).await.expect("it is open");
        tcp.write_all(query).await.expect("it is open");
        let length = tcp.read_u16().await.expect("an answer");
        let mut answer = vec![0; usize::from(length)];
        tcp.read_exact(&mut answer).await.expect("an answer");
        answer.reverse();
        assert_eq!(answer, query);
    }
}

#[tokio::test]
async fn the_end_of_either_ends_the_other() {
    let mut relay = Relay::start(LIMITS).await;
    let (_tcp, mut stream) = relay.connect().await;
    relay.inside.abort();
    let lost = tokio::time::timeout(PATIENCE, relay.link).await;
    lost.expect("in time").expect("it did not panic");
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 8])).await;
    assert!(read.expect("in time").is_err(), "it broke off");

    let mut relay = Relay::start(LIMITS).await;
    let (mut tcp, _stream) = relay.connect().await;
    relay.link.abort();
    let ended = tokio::time::timeout(PATIENCE, relay.inside).await;
    let _either = ended.expect("in time").expect("it did not panic");
    let read = tokio::time::timeout(PATIENCE, tcp.read(&mut [0; 8])).await;
    assert!(matches!(read.expect("in time"), Ok(0) | Err(_)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_end_is_given_up() {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (mut read, mut write) = tokio::io::split(theirs);
    let server = tokio::spawn(async move {
        // The preface and the settings of HTTP/2, and nothing after them.
        write
            .write_all(b"\0\0\0\x04\0\0\0\0\0")
            .await
            .expect("open");
        let mut sink = [0; 1024];
        while read.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    });
    let plan = Plan {
        names: None,
        listeners: Vec::new(),
        also: Vec::new(),
        limits: LIMITS,
    };
    let ended = run(plan, ours).await.expect_err("no one answers");
    assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
    server.await.expect("it ended");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_unless_it_can_be_left_out() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let taken = tokio::net::TcpListener::bind(any).await.expect("bound");
    let addr = taken.local_addr().expect("bound");
    let plan = |listeners| Plan {
        names: None,
        listeners,
        also: vec![addr, any],
        limits: LIMITS,
    };
    let (_ours, theirs) = tokio::io::duplex(PIPE);
    let refusal = run(plan(vec![vec![addr]]), theirs)
        .await
        .expect_err("it is taken");
    assert!(refusal.to_string().contains(&addr.to_string()), "{refusal}");

    let (ours, theirs) = tokio::io::duplex(PIPE);
    let _inside = tokio::spawn(run(plan(vec![vec![addr, any]]), theirs));
    let link = Link::establish(ours, LIMITS).await.expect("it listens");
    let listens = &link.listens().connections;
    assert_eq!(listens.len(), 2, "one of each: {listens:?}");
    assert!(!listens.contains(&addr), "{listens:?}");
}

#[test]
fn what_a_stream_is_for_survives_the_way() {
    let v4: SocketAddr = "172.18.0.1:80".parse().expect("valid");
    let v6: SocketAddr = "[fd00::2]:4000".parse().expect("valid");
    let asked = |over| Asked {
        peer: v6,
        at: v4,
        over,
    };
    for purpose in [
        Purpose::Ready(Listens {
            names: None,
            connections: vec![v4, v6],
        }),
        Purpose::Ready(Listens {
            names: Some(v4),
            connections: Vec::new(),
        }),
        Purpose::Connection { peer: v4, at: v6 },
        Purpose::Query(asked(Transport::Udp)),
        Purpose::Query(asked(Transport::Tcp)),
    ] {
        assert_eq!(Purpose::of(&purpose.request()), Some(purpose));
    }
}
