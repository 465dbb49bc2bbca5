//! A host of the public network and services of this host, for tests of who reaches what.
//!
//! The public host is a network namespace with a test address, so that no packet leaves the machine.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Output},
};

use tokio::{
    net::TcpListener,
    sync::{Mutex, MutexGuard},
};

use super::{app::ENGINE_LIMIT, eventually_ok};

/// The test address (RFC 5737) that this host has beside its own.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The address of the host that stands for the public network.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const PUBLIC_PORT: u16 = 8099;
/// As few addresses as hold the two: the others of the range may be in use on this machine.
const PREFIX: u8 = 28;
const NAMESPACE: &str = "ignite-it-public";
const LINK: &str = "ignite-it-pub";

pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|e| panic!("{program} {args:?}: {e}"))
}

pub(crate) fn run_ok(program: &str, args: &[&str]) {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// A host of the public network: a namespace behind a link of this host, with a server in it.
pub(crate) struct PublicHost {
    server: Child,
    /// Held because its addresses exist once per machine.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::const_new(());

impl PublicHost {
    pub(crate) async fn start() -> Self {
        let turn = TURN.lock().await;
        remove_public_host();
        run_ok("ip", &["netns", "add", NAMESPACE]);
        let pair = [
            "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE,
        ];
        run_ok("ip", &pair);
        let host = format!("{HOST}/{PREFIX}");
        run_ok("ip", &["addr", "add", &host, "dev", LINK]);
        run_ok("ip", &["link", "set", LINK, "up"]);
        let public = format!("{PUBLIC}/{PREFIX}");
        run_ok(
            "ip",
            &["-n", NAMESPACE, "addr", "add", &public, "dev", "eth0"],
        );
        run_ok("ip", &["-n", NAMESPACE, "link", "set", "eth0", "up"]);
        let serve = format!(
            "import socket\ns = socket.create_server(('{PUBLIC}', {PUBLIC_PORT}))\nwhile True: s.accept()"
        );
        let server = Command::new("ip")
            .args(["netns", "exec", NAMESPACE, "python3", "-c", &serve])
            .spawn()
            .expect("ip runs");
        let host = Self {
            server,
            _turn: turn,
        };
        eventually_ok(ENGINE_LIMIT, || async {
            let opened = tokio::net::TcpStream::connect((PUBLIC, PUBLIC_PORT)).await;
            opened.map(drop).map_err(|e| e.to_string())
        })
        .await;
        host
    }
}

impl Drop for PublicHost {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        remove_public_host();
    }
}

/// The link disappears with its other end; a missing one is fine.
fn remove_public_host() {
    run("ip", &["netns", "del", NAMESPACE]);
    run("ip", &["link", "del", LINK]);
}

/// Starts a service of this host on all of its addresses and returns its port. It accepts as long
/// as the test runs.
pub(crate) async fn service() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    port
}

/// The identity of a server by its data directory.
pub(crate) fn id_of(data_dir: &Path) -> String {
    let id = std::fs::read_to_string(data_dir.join("instance")).expect("an identity");
    id.trim().to_owned()
}
