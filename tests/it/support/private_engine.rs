//! A private container engine, which a test may stop and start as it likes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually_ok;

/// How long a daemon may take to come up or to go down on a loaded machine.
const LIMIT: Duration = super::HANGS;
/// Seconds of bollard's own timeout per call.
const CALL_SECS: u64 = 60;

/// A `dockerd` with its own socket, state and bridge. It leaves the host's firewall and the usual
/// daemon alone. Needs root.
pub(crate) struct PrivateEngine {
    dir: TempDir,
    bridge: Bridge,
    daemon: Option<Child>,
}

impl PrivateEngine {
    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::configured(&json!({})).await
    }

    /// The same with settings of its `daemon.json`.
    pub(crate) async fn configured(settings: &Value) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "a private dockerd needs root; run the test as root, or leave it out"
        );
        // The socket's path has to stay below the kernel's 108 bytes.
        let dir = tempfile::Builder::new()
            .prefix("ig-engine-")
            .tempdir_in("/tmp")
            .expect("a temporary directory");
        fs::write(dir.path().join("daemon.json"), settings.to_string()).expect("writes");
        let mut engine = Self {
            dir,
            bridge: Bridge::add(),
            daemon: None,
        };
        engine.up().await;
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `DOCKER_HOST` is to be.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// A client of it. It must be up.
    pub(crate) fn client(&self) -> Docker {
        client(&self.path("docker.sock")).expect("the engine is up")
    }

    /// Starts the daemon again.
    pub(crate) async fn up(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("opens");
        let daemon = Command::new("dockerd")
            .arg("--config-file")
            .arg(self.path("daemon.json"))
            .arg("--host")
            .arg(self.docker_host())
            .arg("--data-root")
            .arg(self.path("root"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            // No firewall rules: the usual daemon has those. The slow storage driver is the one that
            // works everywhere.
            .arg("--bridge")
            .arg(&self.bridge.0)
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--storage-driver=vfs",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("dockerd is installed (scripts/setup.sh)");
        self.daemon = Some(daemon);
        let log = self.path("log");
        eventually_ok(LIMIT, || {
            let (socket, log) = (self.path("docker.sock"), log.clone());
            async move {
                let answer = match client(&socket) {
                    Ok(client) => client.ping().await,
                    Err(e) => Err(e),
                };
                answer.map_err(|e| {
                    format!(
                        "{e}; its log: {}",
                        fs::read_to_string(log).unwrap_or_default()
                    )
                })
            }
        })
        .await;
    }

    /// Stops the daemon as an init system would; its containers end with it.
    pub(crate) async fn down(&mut self) {
        let mut daemon = self.daemon.take().expect("it is up");
        kill_process(Pid::from_child(&daemon), Signal::TERM).expect("it is ours");
        tokio::task::spawn_blocking(move || daemon.wait())
            .await
            .expect("waits")
            .expect("it is ours");
    }
}

fn client(socket: &Path) -> Result<Docker, bollard::errors::Error> {
    Docker::connect_with_unix(&socket.to_string_lossy(), CALL_SECS, API_DEFAULT_VERSION)
}

/// A bridge for its default network, removed when dropped. A daemon configured without one removes
/// `docker0`, which belongs to the usual daemon.
struct Bridge(String);

impl Bridge {
    fn add() -> Self {
        // Tests of one process run side by side, each with an engine of its own.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let bridge = Self(format!("ig{}x{n}", std::process::id()));
        assert!(bridge.ip(&["link", "add"], &["type", "bridge"]));
        bridge
    }

    fn ip(&self, before: &[&str], after: &[&str]) -> bool {
        let mut ip = Command::new("ip");
        ip.args(before).arg(&self.0).args(after);
        ip.status()
            .expect("ip is installed (scripts/setup.sh)")
            .success()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if !self.ip(&["link", "delete"], &[]) {
            eprintln!("the bridge {} stays", self.0);
        }
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Bridges of networks outlive the daemon, and keep their address ranges.
            if let Ok(docker) = client(&self.path("docker.sock")) {
                std::thread::scope(|threads| threads.spawn(|| remove_networks(&docker)).join())
                    .ok();
            }
            // Stopped gracefully, it also ends its containerd and its containers.
            let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
            let _ = daemon.wait();
        }
    }
}

/// Removes the networks that nothing is connected to. Not for threads that run a runtime.
fn remove_networks(docker: &Docker) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let none = None::<bollard::query_parameters::PruneNetworksOptions>;
    let pruned = runtime
        .enable_all()
        .build()
        .map(|r| r.block_on(docker.prune_networks(none)));
    if !matches!(pruned, Ok(Ok(_))) {
        eprintln!("networks of a private engine may be left: {pruned:?}");
    }
}
