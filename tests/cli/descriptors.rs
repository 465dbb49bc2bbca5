//! A server without free file descriptors: what it refuses stays refused, also after a restart.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    ignite, run,
    store::{Bench, Server},
};

/// The longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A server that runs, and one connection to it that stays open.
pub(crate) struct Client {
    server: Server,
    stream: BufReader<TcpStream>,
    token: String,
}

impl Client {
    fn start(bench: &Bench) -> Self {
        Self::start_with(bench, |_| {})
    }

    pub(crate) fn start_with(bench: &Bench, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut serve = bench.serve();
        adjust(&mut serve);
        let mut child = serve
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        let server = Server(child);
        BufReader::new(out).read_line(&mut line).expect("reads");
        let ready: Value = serde_json::from_str(&line).expect("the ready line");
        let stream = TcpStream::connect(ready["http"].as_str().expect("text")).expect("connects");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let data = bench.path().display().to_string();
        let args = ["token", "create", "--org", "acme", "--data-dir", &data];
        let token = run(ignite(bench.home(), &args)).out.trim().to_owned();
        assert!(!token.is_empty());
        Self {
            server,
            stream: BufReader::new(stream),
            token,
        }
    }

    /// Stops the server from opening more files, or lifts that limit again.
    fn limit_files(&self, to: Option<u64>) {
        let pid = Pid::from_raw(i32::try_from(self.server.0.id()).expect("a pid"));
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = to.or(maximum);
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).expect("the process is ours");
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream
            .get_mut()
            .write_all(head.as_bytes())
            .expect("sent");
        let (mut status, mut len) = (0, 0);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("answers");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(n) = line.strip_prefix("content-length:") {
                len = n.trim().parse().expect("a length");
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).expect("the body");
        (status, String::from_utf8(body).expect("text"))
    }

    /// Waits for the server to end and returns its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.server.0.wait().expect("the process is ours").code()
    }

    pub(crate) fn create(&mut self, name: &str) -> (u16, String) {
        self.call(
            "POST",
            "/v1/ignite/app/acme",
            &format!(r#"{{"name":"{name}"}}"#),
        )
    }

    fn status(&mut self, name: &str) -> u16 {
        self.call("GET", &format!("/v1/ignite/app/acme/{name}"), "")
            .0
    }
}

#[test]
fn what_is_refused_without_descriptors_does_not_come_true_after_a_restart() {
    let bench = Bench::new();
    let mut client = Client::start(&bench);
    for name in ["stays", "other"] {
        let (status, body) = client.create(name);
        assert_eq!(status, 200, "{body}");
    }
    client.limit_files(Some(3));
    let (status, why) = client.call("DELETE", "/v1/ignite/app/acme/stays", "");
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("STORE_UNAVAILABLE"), "{why}");
    assert!(why.contains("ulimit -n"), "{why}");
    assert_eq!(client.create("never").0, 503);
    assert_eq!((client.status("stays"), client.status("never")), (200, 404));
    let (status, ready) = client.call("GET", "/readyz", "");
    assert_eq!(status, 503, "{ready}");
    // With descriptors again it recovers by itself, and what was refused stays refused.
    client.limit_files(None);
    let began = Instant::now();
    while !client
        .call("GET", "/readyz", "")
        .1
        .contains(r#""store":"ok""#)
    {
        assert!(began.elapsed() < LIMIT, "the store takes nothing again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.create("later").0, 200);
    client.limit_files(Some(3));
    assert_eq!(
        client.call("DELETE", "/v1/ignite/app/acme/other", "").0,
        503
    );

    drop(client);
    let mut client = Client::start(&bench);
    for (name, status) in [
        ("stays", 200),
        ("other", 200),
        ("later", 200),
        ("never", 404),
    ] {
        assert_eq!(client.status(name), status, "{name}");
    }
    drop(client);
    assert_eq!(bench.store(&["check"]).code, Some(0));
}
