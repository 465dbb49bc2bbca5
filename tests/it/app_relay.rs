//! Calls between apps where a relay listens on the bridge.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{MetadataExt as _, chown},
};

use bollard::models::ContainerSummary;
use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    app_calls::{chain, fetch, open},
    support::{
        HANGS,
        app::{App, ENGINE_LIMIT},
        engine::{self, PruneGuard},
        eventually_ok, http,
        ignite::{Builder, Ignite},
        public_host::id_of,
    },
};

/// Has a relay.
fn relayed() -> Builder {
    Ignite::builder().env("IGNITE_APP_CALLS_VIA", "relay")
}

/// The containers of relays, running or not.
async fn relays(ignite: &Ignite) -> Vec<String> {
    let is_relay = |container: &ContainerSummary| {
        let labels = container.labels.as_ref();
        let role = labels.and_then(|labels| labels.get("io.dodil.ignite.role"));
        role.is_some_and(|role| role == "relay")
    };
    let found = ignite.containers().await;
    let found = found.into_iter().filter(is_relay);
    found.map(|c| c.id.expect("an id")).collect()
}

async fn one_relay(ignite: &Ignite) -> String {
    let found = relays(ignite).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

async fn no_relay(ignite: &Ignite) {
    eventually_ok(ENGINE_LIMIT, || async {
        match &*relays(ignite).await {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}

/// Waits until an app reaches a URL again.
async fn reaches(ignite: &Ignite, app: &App, wanted: &'static str) {
    eventually_ok(HANGS, || async {
        let request = app.request(ignite, Method::POST, "/fetch").body(wanted);
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let text = answer.text().await;
        if text.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_sleeping_apps_wakes_through_a_relay() {
    let mut ignite = relayed().start().await;
    chain(&ignite).await;
    let log = ignite.log();
    assert!(log.contains("a relay listens on the bridge"), "{log}");
    one_relay(&ignite).await;
    assert!(ignite.terminate(HANGS).await.success());
    assert_eq!(relays(&ignite).await, [""; 0], "when the server has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_carries_many_connections_and_large_bodies() {
    const MANY: usize = 64;
    const LARGE: usize = 16 << 20;
    let ignite = relayed().start().await;
    let caller = App::deploy(&ignite, "acme/caller", open()).await;
    let settings = json!({ "allowUnauthenticated": true, "maxConcurrency": MANY + 8, "scaling": { "maxReplicas": 1 } });
    App::deploy(&ignite, "acme/callee", settings).await;
    let answer = caller.get_ok(&ignite, "/resolve/ignite.internal").await;
    let answer: Value = answer.json().await;
    let gateway = answer["addresses"][0].as_str().expect("an address");
    let gateway: Ipv4Addr = gateway.parse().expect("an address");

    let mut connections = Vec::new();
    for number in 0..MANY {
        let mut tcp = TcpStream::connect((gateway, 80)).await.expect("it listens");
        let begun = format!(
            "POST /raw HTTP/1.1\r\nhost: callee-acme.ignite.internal\r\ntransfer-encoding: chunked\r\n\r\n7\r\nbegin{number:02}\r\n"
        );
        tcp.write_all(begun.as_bytes()).await.expect("it is open");
        connections.push(tcp);
    }
    // All answers have begun before one ends.
    for (number, tcp) in connections.iter_mut().enumerate() {
        until(tcp, &format!("begin{number:02}")).await;
    }
    for tcp in &mut connections {
        let rest = b"4\r\nends\r\n0\r\n\r\n";
        tcp.write_all(rest).await.expect("it is open");
        until(tcp, "ends\r\n0\r\n\r\n").await;
    }
    drop(connections);

    let body: Vec<u8> = (0..LARGE).map(|i| b'a' + (i % 23) as u8).collect();
    let large = http::request(SocketAddr::from((gateway, 80)), Method::POST, "/raw");
    let large = large.host("callee-acme.ignite.internal").body(body.clone());
    let back = large.send().await.expect("an answer").text().await;
    assert!(back.as_bytes() == body, "{} bytes came back", back.len());

    let text = String::from_utf8(body).expect("letters");
    let up = format!("POST http://callee-acme.ignite.internal/sink\n\n{text}");
    let (status, answer) = fetch(&ignite, &caller, &up).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(&format!("{LARGE}")), "{answer}");
    let down = format!("GET http://callee-acme.ignite.internal/bytes/{LARGE}");
    let (status, answer) = fetch(&ignite, &caller, &down).await;
    assert_eq!(status, 200);
    let (_, got) = answer.split_once("\r\n\r\n").expect("a body");
    assert_eq!(got.len(), LARGE);
}

/// Reads until this has come.
async fn until(tcp: &mut TcpStream, wanted: &str) {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains(wanted) {
            let read = tcp.read_buf(&mut got).await.expect("it is open");
            assert_ne!(read, 0, "{wanted}: {}", String::from_utf8_lossy(&got));
        }
    };
    let read = tokio::time::timeout(HANGS, reading).await;
    read.unwrap_or_else(|_| panic!("{wanted} did not come"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_after_the_relay_or_the_server_was_killed_and_prune_leaves_no_relay() {
    const WANTED: &str = "GET http://callee-acme.ignite.internal/";
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = relayed().start().await;
    let caller = App::deploy(&ignite, "acme/caller", open()).await;
    App::deploy(&ignite, "acme/callee", open()).await;
    reaches(&ignite, &caller, WANTED).await;
    let first = one_relay(&ignite).await;
    engine::kill(&first).await;
    reaches(&ignite, &caller, WANTED).await;
    let second = one_relay(&ignite).await;
    assert_ne!(first, second);
    let log = ignite.log();
    assert!(log.contains("there is no relay; starting another"), "{log}");
    let imports = log.matches("Imported this program").count();
    assert!(imports <= 1, "{log}");

    ignite.kill9();
    // It ends by itself, with its input.
    no_relay(&ignite).await;
    ignite.start().await;
    reaches(&ignite, &caller, WANTED).await;
    one_relay(&ignite).await;

    ignite.kill9();
    let id = id_of(ignite.data_dir());
    let pruned = ignite.cli(&["prune", "--gone", &id]);
    assert!(pruned.status.success(), "{pruned:?}");
    no_relay(&ignite).await;
    assert!(ignite.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "gives up privileges, which needs root; scripts/test.sh runs it where it can"]
async fn an_ordinary_user_who_may_use_the_engine_gets_a_relay_without_asking() {
    const NOBODY: u32 = 65534;
    let socket = std::fs::metadata("/var/run/docker.sock").expect("the engine is here");
    let dir = tempfile::tempdir().expect("a directory");
    chown(dir.path(), Some(NOBODY), Some(socket.gid())).expect("root may");
    let data_dir = dir.path().join("data");
    let ignite = Ignite::builder()
        .data_dir(&data_dir)
        .user(NOBODY, socket.gid())
        .start()
        .await;
    chain(&ignite).await;
    let log = ignite.log();
    assert!(log.contains("a relay listens on the bridge"), "{log}");
    assert!(log.contains("Permission denied"), "{log}");
    one_relay(&ignite).await;
}
