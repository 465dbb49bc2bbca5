//! What a hangup does: it ends a server with a terminal or without kept state, and reloads others.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use hyper::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    cleanup, engine, eventually_ok, http,
    ignite::{Ignite, Log, Ready},
};

const IGNITE: &str = env!("CARGO_BIN_EXE_ignite");

/// A server started by another program, which may end before it.
pub(crate) struct Started {
    by: Child,
    pub(crate) log: Log,
    pub(crate) ready: Ready,
}

impl Started {
    /// Runs a program that finally runs `ignite serve`.
    pub(crate) fn by(program: &str, args: &[&str]) -> Self {
        let mut by = Command::new(program)
            .args(args)
            .env_remove("IGNITE_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let log = Log::default();
        log.collect(by.stderr.take().expect("piped"));
        let lines = BufReader::new(by.stdout.take().expect("piped")).lines();
        let ready = lines
            .map_while(Result::ok)
            .find_map(|line| serde_json::from_str(line.trim()).ok());
        let ready = ready.unwrap_or_else(|| panic!("it ended: {}", log.text()));
        Self { by, log, ready }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.ready.pid).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it runs");
    }

    async fn is_alive(&self) {
        let answer = http::request(self.ready.http, Method::GET, "/healthz").send();
        assert_eq!(answer.await.expect("an answer").status, StatusCode::OK);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.ready.pid).ok().and_then(Pid::from_raw) {
            // Gone already, in most tests.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.by.kill();
        let _ = self.by.wait();
    }
}

/// The command line of a server with this data directory.
pub(crate) fn serve(dir: &Path) -> String {
    let dir = dir.display();
    format!("{IGNITE} serve --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 --data-dir {dir}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_an_ephemeral_server_with_everything_it_made() {
    let parent = tempfile::tempdir().expect("a directory");
    let data_dir = parent.path().join("run");
    let ignite = Ignite::builder().data_dir(&data_dir).arg("--ephemeral");
    let mut ignite = ignite.start().await;
    let app = App::deploy(&ignite, "acme/once", Value::Null).await;
    app.get_ok(&ignite, "/").await;
    ignite.signal(Signal::HUP);
    assert!(ignite.wait(ENGINE_LIMIT).await.success());
    assert!(!data_dir.exists());
    assert!(ignite.containers().await.is_empty());
    assert!(engine::networks(&ignite).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_of_nohup_ends_nothing() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().canonicalize().expect("there").join("run");
    let _cleanup = cleanup::OnDrop(dir.clone());
    let line = format!("trap '' HUP; exec {} --ephemeral", serve(&dir));
    let mut started = Started::by("sh", &["-c", &line]);
    started.signal(Signal::HUP);
    started.is_alive().await;
    started.signal(Signal::TERM);
    assert!(started.by.wait().expect("ours").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_closes_ends_its_server_cleanly() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().canonicalize().expect("there").join("run");
    let _cleanup = cleanup::OnDrop(dir.clone());
    // The program holds the other side of the terminal; when it ends, the terminal is gone.
    // Behind a pipe it speaks as to a program, and the terminal is its own all the same.
    let line = format!("{} | cat", serve(&dir));
    let mut started = Started::by("script", &["-qec", &line, "/dev/null"]);
    assert!(dir.join("serve.json").exists());
    started.by.kill().expect("it runs");
    eventually_ok(ENGINE_LIMIT, || async {
        if dir.join("serve.json").exists() {
            Err("it has not ended cleanly")
        } else {
            Ok(())
        }
    })
    .await;
    let docker = engine::docker().await;
    eventually_ok(ENGINE_LIMIT, || async {
        let networks = ignite_kit::owned::networks(&docker, &dir).await;
        let leases = ignite_kit::owned::leases(&docker, &dir).await;
        match networks.expect("a list").len() + leases.expect("a list").len() {
            0 => Ok(()),
            n => Err(format!("{n} things are left")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_server_reads_its_configuration_again_and_goes_on() {
    let parent = tempfile::tempdir().expect("a directory");
    let root = parent.path().canonicalize().expect("there");
    let (dir, file) = (root.join("run"), root.join("ignite.toml"));
    let _cleanup = cleanup::OnDrop(dir.clone());
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("log_level = \"info\"");
    let line = format!("exec {} --config {}", serve(&dir), file.display());
    // A new session has no terminal, wherever the test runs.
    let mut started = Started::by("setsid", &["sh", "-c", &line]);
    let told = async |wanted: &str| {
        eventually_ok(ENGINE_LIMIT, || async {
            if started.log.text().contains(wanted) {
                Ok(())
            } else {
                Err(started.log.text())
            }
        })
        .await;
    };
    assert!(!started.log.text().contains("DEBUG"));
    write("log_level = \"debug\"\npids_limit = 77");
    started.signal(Signal::HUP);
    told("Reloaded: the log level is debug; a restart is needed for pids_limit").await;
    // At this level malformed HTTP is logged.
    eventually_ok(ENGINE_LIMIT, || async {
        started.is_alive().await;
        let mut tcp = TcpStream::connect(started.ready.http)
            .await
            .expect("it listens");
        tcp.write_all(b"\0\r\n\r\n").await.expect("sent");
        // The end of the connection, or a reset.
        let _ = tcp.read_to_end(&mut Vec::new()).await;
        if started.log.text().contains("DEBUG") {
            Ok(())
        } else {
            Err(started.log.text())
        }
    })
    .await;
    write("log_level = 7 7");
    started.signal(Signal::HUP);
    told("Not reloaded, everything goes on as before").await;
    started.is_alive().await;
    started.signal(Signal::TERM);
    assert!(started.by.wait().expect("ours").success());
}
