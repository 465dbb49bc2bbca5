//! The server around a Python handler as a separate process, without engine or platform: its
//! answers on the wire, how calls share a replica, how it starts and ends.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{eventually, eventually_ok, http};

mod answers;
mod calls;

/// The longest start of the interpreter on a busy machine.
const LIMIT: Duration = crate::support::HANGS;

/// A running server over a folder with a handler.
struct Server {
    child: Child,
    addr: SocketAddr,
    folder: TempDir,
}

/// The server over a folder with this handler, not started.
fn command(handler: Option<&str>, port: u16, env: &[(&str, &str)]) -> (Command, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    if let Some(source) = handler {
        fs::write(folder.path().join("handler.py"), source).expect("a file");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/builder/runtime/python/server.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(folder.path())
        .env("PORT", port.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    (command, folder)
}

impl Server {
    async fn start(handler: &str, env: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = free.local_addr().expect("an address");
        drop(free);
        let (mut command, folder) = command(Some(handler), addr.port(), env);
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let child = command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("python3 is installed; scripts/setup.sh does it");
        let server = Self {
            child,
            addr,
            folder,
        };
        eventually_ok(LIMIT, || TcpStream::connect(addr)).await;
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    async fn logged(&self, text: &str) {
        eventually_ok(LIMIT, || async {
            let log = self.log();
            log.contains(text)
                .then_some(())
                .ok_or_else(|| format!("no {text:?} in {log:?}"))
        })
        .await;
    }

    /// A call, with the headers that the platform sets.
    fn call(&self, payload: &str) -> http::Request {
        http::request(self.addr, Method::POST, "/some/path?q=1")
            .header("x-ignite-execution-id", "exec_1")
            .header("x-ignite-function-id", "acme/app")
            .header("x-ignite-organization-id", "org-1")
            .body(payload.to_owned())
    }

    async fn answer(&self, payload: &str) -> http::Answer {
        let sent = timeout(LIMIT, self.call(payload).send()).await;
        sent.expect("an answer in time").expect("an answer")
    }

    /// Sends raw bytes on a connection that the server has to close, and returns what came back.
    async fn raw(&self, sent: &str) -> String {
        let mut socket = TcpStream::connect(self.addr).await.expect("connects");
        socket.write_all(sent.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        // A reset after the answer is an end like any other here.
        let _ = timeout(LIMIT, socket.read_to_end(&mut answer))
            .await
            .expect("the server closes the connection");
        String::from_utf8(answer).expect("text")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it runs");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let mut ended = || child.try_wait().expect("a child");
        eventually(LIMIT, || std::future::ready(ended()))
            .await
            .code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server wrote:\n{}", self.log());
        }
    }
}
