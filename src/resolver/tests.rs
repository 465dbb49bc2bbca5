use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use simple_dns::{
    CLASS, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, OPT, RData},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::DnsServers;

const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn config(servers: Vec<SocketAddr>) -> Config {
    Config {
        is_apps: Arc::new(|name| name.ends_with(".ignite.internal")),
        may_ask: Arc::new(|_, _| true),
        servers: Some(DnsServers(servers)),
        resolv_conf: "/dev/null".into(),
        queries: 8,
        connections: 4,
        timeout: Duration::from_millis(300),
    }
}

fn asked(over: Transport) -> Asked {
    Asked {
        client: Ipv4Addr::new(172, 18, 0, 2).into(),
        here: BRIDGE,
        over,
    }
}

fn query(name: &str, kind: TYPE, payload: Option<u16>) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = name.try_into().expect("a name");
    let question = Question::new(name, QTYPE::TYPE(kind), CLASS::IN.into(), false);
    packet.questions.push(question);
    *packet.opt_mut() = payload.map(|udp_packet_size| OPT {
        opt_codes: Vec::new(),
        udp_packet_size,
        version: 0,
    });
    packet.build_bytes_vec().expect("it can be written")
}

fn addresses(answer: &[u8]) -> Vec<Ipv4Addr> {
    let packet = Packet::parse(answer).expect("an answer");
    let found = packet.answers.iter().map(|r| match &r.rdata {
        RData::A(a) => Ipv4Addr::from(a.address),
        other => panic!("{other:?}"),
    });
    found.collect()
}

fn code(answer: &[u8]) -> RCODE {
    Packet::parse(answer).expect("an answer").rcode()
}

/// A server that says of every name that it is elsewhere, `records` times.
async fn server(records: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let at = udp.local_addr().expect("bound");
    let tcp = TcpListener::bind(at).await.expect("bound");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, client) = received.expect("received");
                    count.fetch_add(1, Ordering::Relaxed);
                    // As from someone who guesses: the wrong number, then the wrong question.
                    let mut forged = elsewhere(&buffer[..length], 1);
                    forged[0] ^= 1;
                    udp.send_to(&forged, client).await.expect("sent");
                    let other = query("other.example.com", TYPE::A, None);
                    let mut forged = elsewhere(&other, 1);
                    forged[..2].copy_from_slice(&buffer[..2]);
                    udp.send_to(&forged, client).await.expect("sent");
                    let answer = elsewhere(&buffer[..length], records);
                    udp.send_to(&answer, client).await.expect("sent");
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.expect("accepted");
                    let length = stream.read_u16().await.expect("a length");
                    let mut buffer = vec![0; length.into()];
                    stream.read_exact(&mut buffer).await.expect("a query");
                    let answer = listen::framed(&elsewhere(&buffer, records));
                    stream.write_all(&answer).await.expect("written");
                }
            }
        }
    });
    (at, asked)
}

fn elsewhere(query: &[u8], records: usize) -> Vec<u8> {
    let mut packet = Packet::parse(query).expect("a query").into_reply();
    let name = packet.questions[0].qname.clone();
    let address = RData::A(A::from(ELSEWHERE));
    let record = ResourceRecord::new(name, CLASS::IN, 1, address);
    packet.answers = vec![record; records];
    packet.build_bytes_vec_compressed().expect("written")
}

#[tokio::test]
async fn the_host_of_an_app_is_where_the_query_arrived_and_has_nothing_else() {
    let resolver = Resolver::new(config(Vec::new()));
    for over in [Transport::Udp, Transport::Tcp] {
        let ask = query("Web-Acme.Ignite.Internal", TYPE::A, Some(1232));
        let answer = resolver.answer(&ask, asked(over)).await.expect("one");
        assert_eq!(addresses(&answer), [BRIDGE]);
        let packet = Packet::parse(&answer).expect("an answer");
        assert_eq!(packet.id(), 77);
        assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
        // Clients compare the name, and some mix its letters to notice forgeries.
        assert_eq!(
            packet.questions[0].qname.to_string(),
            "Web-Acme.Ignite.Internal"
        );
        assert!(packet.opt().is_some());
    }
    for kind in [TYPE::AAAA, TYPE::MX, TYPE::HTTPS] {
        let ask = query("web-acme.ignite.internal", kind, None);
        let answer = resolver
            .answer(&ask, asked(Transport::Udp))
            .await
            .expect("one");
        let packet = Packet::parse(&answer).expect("an answer");
        assert_eq!((packet.rcode(), packet.answers.len()), (RCODE::NoError, 0));
        assert!(packet.opt().is_none());
    }
}

#[tokio::test]
async fn all_other_names_are_forwarded_and_forged_answers_are_passed_over() {
    let (server, count) = server(1).await;
    let resolver = Resolver::new(config(vec![server]));
    let ask = query("Example.com", TYPE::A, None);
    for over in [Transport::Udp, Transport::Tcp] {
        let answer = resolver.answer(&ask, asked(over)).await.expect("one");
        assert_eq!(addresses(&answer), [ELSEWHERE]);
        assert_eq!(Packet::parse(&answer).expect("an answer").id(), 77);
    }
    assert_eq!(count.load(Ordering::Relaxed), 1, "the other came by TCP");
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_udp_is_cut_and_whole_by_tcp() {
    let (server, _) = server(60).await;
    let resolver = Resolver::new(config(vec![server]));
    let ask = query("example.com", TYPE::A, None);
    let cut = resolver.answer(&ask, asked(Transport::Udp)).await;
    // 60 records have 960 bytes: they were received in part, and a part is not passed on.
    let cut = cut.expect("one");
    let packet = Packet::parse(&cut).expect("an answer");
    assert!(packet.has_flags(PacketFlag::TRUNCATION) && packet.answers.is_empty());
    let whole = resolver
        .answer(&ask, asked(Transport::Tcp))
        .await
        .expect("one");
    assert_eq!(addresses(&whole).len(), 60);
    let large = query("example.com", TYPE::A, Some(4096));
    let whole = resolver
        .answer(&large, asked(Transport::Udp))
        .await
        .expect("one");
    assert_eq!(addresses(&whole).len(), 60);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_passed_over_and_none_is_a_failure() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let silent = (silent.local_addr().expect("bound"), silent);
    let (server, _) = server(1).await;
    let ask = query("example.com", TYPE::A, None);
    let resolver = Resolver::new(config(vec![silent.0, server]));
    let answer = resolver
        .answer(&ask, asked(Transport::Udp))
        .await
        .expect("one");
    assert_eq!(addresses(&answer), [ELSEWHERE]);
    for servers in [vec![silent.0], Vec::new()] {
        let resolver = Resolver::new(config(servers));
        let answer = resolver
            .answer(&ask, asked(Transport::Udp))
            .await
            .expect("one");
        assert_eq!(code(&answer), RCODE::ServerFailure);
    }
}

#[tokio::test]
async fn a_server_that_the_client_may_not_ask_and_this_one_are_not_asked() {
    let (server, count) = server(1).await;
    let ask = query("example.com", TYPE::A, None);
    let denied = Config {
        may_ask: Arc::new(|client, _| client != asked(Transport::Udp).client),
        ..config(vec![server])
    };
    let answer = Resolver::new(denied)
        .answer(&ask, asked(Transport::Udp))
        .await;
    assert_eq!(code(&answer.expect("one")), RCODE::ServerFailure);
    let itself = Asked {
        here: Ipv4Addr::LOCALHOST,
        ..asked(Transport::Udp)
    };
    let answer = Resolver::new(config(vec![server]))
        .answer(&ask, itself)
        .await;
    assert_eq!(code(&answer.expect("one")), RCODE::ServerFailure);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_waits_for_a_quarter_of_the_queries_and_others_still_ask() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let config = Config {
        timeout: Duration::from_secs(600),
        ..config(vec![silent.local_addr().expect("bound")])
    };
    let resolver = Resolver::new(config);
    let ask = query("example.com", TYPE::A, None);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (resolver, ask) = (resolver.clone(), ask.clone());
            tokio::spawn(async move { resolver.answer(&ask, asked(Transport::Udp)).await })
        })
        .collect();
    let mut buffer = [0; 512];
    for _ in 0..2 {
        silent.recv(&mut buffer).await.expect("a query");
    }
    let third = resolver
        .answer(&ask, asked(Transport::Udp))
        .await
        .expect("one");
    assert_eq!(code(&third), RCODE::ServerFailure);
    // Names of apps need no server.
    let apps = query("web-acme.ignite.internal", TYPE::A, None);
    let answer = resolver
        .answer(&apps, asked(Transport::Udp))
        .await
        .expect("one");
    assert_eq!(addresses(&answer), [BRIDGE]);
    let other = Asked {
        client: Ipv4Addr::new(172, 18, 0, 3).into(),
        ..asked(Transport::Udp)
    };
    let (other, ask) = (resolver.answer(&ask, other), silent.recv(&mut buffer));
    tokio::select! {
        answer = other => panic!("{answer:?}"),
        received = ask => assert!(received.is_ok()),
    }
    waiting.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn what_is_no_query_gets_no_answer_and_what_is_a_wrong_one_a_refusal() {
    let resolver = Resolver::new(config(Vec::new()));
    let answer = |message: Vec<u8>| {
        let resolver = resolver.clone();
        async move { resolver.answer(&message, asked(Transport::Udp)).await }
    };
    assert_eq!(answer(Vec::new()).await, None);
    assert_eq!(answer(vec![0; 11]).await, None);
    let mut reply = query("web-acme.ignite.internal", TYPE::A, None);
    reply[2] |= 0x80;
    assert_eq!(answer(reply).await, None);
    let mut update = query("web-acme.ignite.internal", TYPE::A, None);
    update[2] |= 5 << 3;
    assert_eq!(
        code(&answer(update).await.expect("one")),
        RCODE::NotImplemented
    );
    // Twelve bytes that say that 65,535 records follow.
    let many = vec![0, 1, 1, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(code(&answer(many).await.expect("one")), RCODE::FormatError);
    // A name that points at itself.
    let circle = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
    assert_eq!(
        code(&answer(circle).await.expect("one")),
        RCODE::ServerFailure
    );
}

#[tokio::test]
async fn queries_come_by_both_transports_and_one_client_has_a_share_of_the_connections() {
    let (server, _) = server(1).await;
    let resolver = Resolver::new(config(vec![server]));
    // UDP may have a port that TCP has not; another one is taken then.
    let (sockets, at) = loop {
        let free = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let at = free.local_addr().expect("bound");
        drop(free);
        if let Ok(sockets) = Sockets::bind(Ipv4Addr::LOCALHOST, at.port()).await {
            break (sockets, at);
        }
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(sockets, resolver, stop.clone()));
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    udp.connect(at).await.expect("connected");
    let mut buffer = [0; 512];
    let ask = query("a.ignite.internal", TYPE::A, None);
    udp.send(&ask).await.expect("sent");
    let length = udp.recv(&mut buffer).await.expect("an answer");
    assert_eq!(addresses(&buffer[..length]), [Ipv4Addr::LOCALHOST]);
    let mut first = TcpStream::connect(at).await.expect("connected");
    for _ in 0..2 {
        first
            .write_all(&listen::framed(&ask))
            .await
            .expect("written");
        let length = first.read_u16().await.expect("an answer");
        let mut answer = vec![0; length.into()];
        first.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(addresses(&answer), [Ipv4Addr::LOCALHOST]);
    }
    // Four connections at most, one from an address.
    let mut second = TcpStream::connect(at).await.expect("connected");
    assert_eq!(second.read(&mut buffer).await.expect("closed"), 0);
    stop.cancel();
    serving.await.expect("it ends");
    assert_eq!(first.read(&mut buffer).await.expect("closed"), 0);
}
