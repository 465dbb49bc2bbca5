//! A server under a service manager: replaced without a lost connection, and heard of.

use std::{
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use hyper::Method;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    HANGS,
    app::{App, ENGINE_LIMIT, instance},
    eventually, http,
    ignite::Ignite,
};

/// How often the server is replaced under load.
const UPGRADES: usize = 3;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_refuses_no_connection_and_fails_no_request() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = socket.local_addr().expect("bound");
    let builder = Ignite::builder().socket(socket).arg("--keep-replicas");
    let mut ignite = builder.start().await;
    assert_eq!(ignite.http_addr(), addr, "the socket replaces the setting");
    let app = App::deploy(&ignite, "acme/app", Value::Null).await;
    let before = instance(&app.get_ok(&ignite, "/").await);

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (stop, answered, longest) = (stop.clone(), answered.clone(), longest.clone());
        let token = app.token.clone();
        // Short ones, and some that are under way at any moment.
        let path = if client % 2 == 0 { "/" } else { "/sleep/200" };
        clients.spawn(async move {
            while !stop.load(SeqCst) {
                let began = Instant::now();
                let request = http::request(addr, Method::GET, &format!("/_app/acme/app{path}"));
                let answer = request.token(&token).send().await.expect("a connection");
                assert_eq!(answer.status, 200, "{:?}", answer.headers);
                answer.whole().await.expect("a whole answer");
                answered.fetch_add(1, SeqCst);
                let mut longest = longest.lock().expect("not poisoned");
                *longest = began.elapsed().max(*longest);
            }
        });
    }
    let more = async || {
        let wanted = answered.load(SeqCst) + 5 * CLIENTS;
        eventually(ENGINE_LIMIT, || async {
            (answered.load(SeqCst) >= wanted).then_some(())
        })
        .await;
    };
    for _ in 0..UPGRADES {
        more().await;
        assert!(ignite.terminate(HANGS).await.success());
        ignite.start().await;
    }
    more().await;
    stop.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("a request failed");
    }
    println!(
        "{UPGRADES} upgrades, {} requests answered, the longest after {:?}",
        answered.load(SeqCst),
        longest.lock().expect("not poisoned")
    );
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_longer_than_a_stop_waits_is_answered_that_the_platform_stops() {
    let builder = Ignite::builder().env("IGNITE_DRAIN_TIMEOUT_SECS", "1");
    let mut ignite = builder.start().await;
    let app = App::deploy(&ignite, "acme/app", Value::Null).await;
    app.get_ok(&ignite, "/").await;
    let request = app.request(&ignite, Method::GET, "/sleep/600000");
    let over_http1 = tokio::spawn(request.send());
    let url = format!("{}/_app/acme/app/sleep/600000", ignite.http_url());
    let authorization = format!("authorization: Bearer {}", app.token);
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--http2-prior-knowledge",
        "--header",
        &authorization,
    ]);
    curl.args(["--output", "/dev/null", "--write-out", "%{http_code}", &url]);
    let over_http2 = tokio::task::spawn_blocking(move || curl.output());
    app.wait_for(&ignite, "inFlight", 2).await;

    assert!(ignite.terminate(HANGS).await.success());
    let answer = over_http1.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["x-ignite-error"], "SHUTTING_DOWN");
    let said = over_http2.await.expect("no panic").expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "503", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_that_the_server_is_ready_lives_and_stops() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_nonblocking(true).expect("it is ours");
    let mut heard = String::new();
    let mut hears = async |word: &str| {
        eventually(HANGS, || {
            let mut message = [0; 1024];
            while let Ok(length) = manager.recv(&mut message) {
                heard.push_str(&String::from_utf8_lossy(&message[..length]));
                heard.push('\n');
            }
            let found = heard.lines().any(|line| line == word);
            async move { found.then_some(()) }
        })
        .await;
    };
    let builder = Ignite::builder().env("NOTIFY_SOCKET", &path);
    let mut ignite = builder.env("WATCHDOG_USEC", "100000").start().await;
    hears("READY=1").await;
    hears("WATCHDOG=1").await;
    assert!(ignite.terminate(HANGS).await.success());
    hears("STOPPING=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn systemds_own_activator_passes_its_sockets_by_name() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let addr = free.expect("a free port");
    let folder = tempfile::tempdir().expect("a directory");
    // Starts the server at the first connection.
    let mut activator = Command::new("systemd-socket-activate");
    activator.args(["--listen", &addr.to_string(), "--fdname", "http"]);
    activator.args([
        "-E",
        &format!("IGNITE_DATA_DIR={}", folder.path().display()),
    ]);
    activator.arg(env!("CARGO_BIN_EXE_ignite"));
    activator.args(["serve", "--ephemeral", "--grpc-addr", "127.0.0.1:0"]);
    let Ok(mut activator) = activator.spawn() else {
        println!("LEFT OUT: there is no systemd-socket-activate here");
        return;
    };
    let answer = eventually(HANGS, || async {
        let request = http::request(addr, Method::GET, "/healthz");
        request.send().await.ok()
    })
    .await;
    assert_eq!(answer.status, 200);
    let pid = i32::try_from(activator.id()).ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let ended = eventually(HANGS, || {
        let ended = activator.try_wait().expect("it is ours");
        async move { ended }
    });
    assert!(ended.await.success());
}
