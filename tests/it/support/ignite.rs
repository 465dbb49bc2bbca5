//! The real binary as a separate process; everything it leaves behind is cleaned up.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bollard::models::ContainerSummary;
use hyper::{HeaderMap, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{HANGS, cleanup, eventually, eventually_ok, http, panics};

/// How often, and at what interval, the log is checked for the creation of the network.
const NETWORK_LOOKS: usize = 50;
const NETWORK_LOOK: Duration = Duration::from_millis(100);

/// How a server is started, every time.
#[derive(Default)]
pub(crate) struct Builder {
    env: Vec<(OsString, OsString)>,
    args: Vec<OsString>,
    data_dir: Option<PathBuf>,
    descriptors: Option<u32>,
    user: Option<(u32, u32)>,
    socket: Option<TcpListener>,
}

impl Builder {
    /// Sets a variable for the server (not for the cleaning up).
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds an argument after `serve`.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments after `serve`.
    pub(crate) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.map(Into::into));
        self
    }

    /// Allows the server so many open files.
    pub(crate) fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Runs the server, and nothing else, as this user and in this group alone.
    pub(crate) fn user(mut self, user: u32, group: u32) -> Self {
        self.user = Some((user, group));
        self
    }

    /// Gives every start this listening socket for HTTP, as a service manager does.
    pub(crate) fn socket(mut self, socket: TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Uses this directory, which stays, instead of a temporary one.
    pub(crate) fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// When it ends or says anything but its ready line, with its log.
    pub(crate) async fn start(self) -> Ignite {
        let mut ignite = self.prepare();
        ignite.start().await;
        ignite
    }

    /// Starts the server and waits for it to refuse; returns its exit status and output.
    pub(crate) fn start_and_fail(self) -> Output {
        self.prepare().command().output().expect("the binary runs")
    }

    fn prepare(self) -> Ignite {
        panics::remember();
        let (fresh, data_dir) = match self.data_dir {
            Some(dir) => (None, dir),
            None => {
                let fresh = tempfile::Builder::new()
                    .prefix("ignite-it-")
                    .tempdir()
                    .expect("a temporary directory");
                let dir = fresh.path().to_owned();
                (Some(fresh), dir)
            }
        };
        Ignite {
            env: self.env,
            args: self.args,
            descriptors: self.descriptors,
            user: self.user,
            socket: self.socket,
            // Labels carry the real path.
            data_dir: data_dir.canonicalize().unwrap_or(data_dir),
            _fresh: fresh,
            log: Log::default(),
            running: None,
        }
    }
}

/// A server, running or stopped, over one data directory.
///
/// Dropping it kills the process and removes the directory's containers and network, also when
/// a test panics; then the server's log is printed, too.
pub(crate) struct Ignite {
    env: Vec<(OsString, OsString)>,
    args: Vec<OsString>,
    descriptors: Option<u32>,
    user: Option<(u32, u32)>,
    socket: Option<TcpListener>,
    data_dir: PathBuf,
    _fresh: Option<TempDir>,
    log: Log,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// `None` until it has said where it listens.
    ready: Option<Ready>,
    /// Ends when the process has closed its stderr.
    logging: thread::JoinHandle<()>,
}

impl Running {
    /// Waits until the last output of the ended process is in the log.
    fn ended(self) {
        let _ = self.logging.join();
    }
}

/// The line that says where a server listens.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Ready {
    /// Always `ready`.
    pub(crate) event: String,
    /// Where the JSON API and the apps are.
    pub(crate) http: SocketAddr,
    /// Where gRPC is.
    pub(crate) grpc: SocketAddr,
    /// Where HTTPS is, if there is any.
    pub(crate) https: Option<SocketAddr>,
    /// Where metrics are without a token, if anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// The server's process.
    pub(crate) pid: u32,
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
}

impl Ignite {
    /// A server with defaults: free ports, a fresh data directory.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// The ready line of the current start.
    ///
    /// # Panics
    /// When the server is stopped.
    pub(crate) fn ready(&self) -> &Ready {
        let running = self.running.as_ref().expect("the server runs");
        running.ready.as_ref().expect("the server is ready")
    }

    /// Where HTTP is.
    pub(crate) fn http_addr(&self) -> SocketAddr {
        self.ready().http
    }

    /// Where HTTP is, as a URL without a slash at the end.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.http_addr())
    }

    /// Where gRPC is.
    pub(crate) fn grpc_addr(&self) -> SocketAddr {
        self.ready().grpc
    }

    /// The directory that survives a restart.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What the server has logged so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// A request to the HTTP listener; see [`http::request`].
    pub(crate) fn request(&self, method: Method, path: &str) -> http::Request {
        http::request(self.http_addr(), method, path)
    }

    /// One call of the JSON API; `path` starts with `/v1/ignite`, an empty token is not sent, and
    /// null is no body.
    pub(crate) async fn api(
        &self,
        method: Method,
        path: &str,
        token: &str,
        json: &Value,
    ) -> (StatusCode, HeaderMap, Value) {
        let mut request = self.request(method, path);
        if !token.is_empty() {
            request = request.token(token);
        }
        if !json.is_null() {
            request = request.json(json);
        }
        let answer = request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        (answer.status, answer.headers.clone(), answer.json().await)
    }

    /// A fresh token for an organization, made by the command line.
    pub(crate) fn token(&self, org: &str) -> String {
        let dir = self.data_dir.to_str().expect("a path of text");
        let output = self.cli(&["token", "create", "--org", org, "--data-dir", dir]);
        assert!(
            output.status.success(),
            "no token: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("a token is text")
            .trim_end()
            .to_owned()
    }

    /// Runs a command of the command line for this server's data directory and waits for it.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        self.client(args).output().expect("the binary runs")
    }

    /// The command line as a client of this server, not started yet.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = binary();
        command
            .args(args)
            .env("IGNITE_DATA_DIR", &self.data_dir)
            .stdin(Stdio::null());
        command
    }

    /// All containers of this data directory, running or not.
    pub(crate) async fn containers(&self) -> Vec<ContainerSummary> {
        let docker = ignite_kit::engine()
            .await
            .unwrap_or_else(|e| panic!("{e:#}"));
        ignite_kit::owned::containers(&docker, &self.data_dir, true)
            .await
            .expect("the engine lists containers")
    }

    /// The names of the images that were built for this data directory's apps.
    pub(crate) async fn images(&self) -> Vec<String> {
        let docker = ignite_kit::engine()
            .await
            .unwrap_or_else(|e| panic!("{e:#}"));
        ignite_kit::owned::images(&docker, &self.data_dir)
            .await
            .expect("the engine lists images")
            .0
    }

    /// Starts the stopped server again and waits until it listens.
    pub(crate) async fn start(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        let stdin = self.socket.as_ref().map_or_else(Stdio::null, |socket| {
            let socket = socket.try_clone().expect("a descriptor");
            OwnedFd::from(socket).into()
        });
        let mut child = self
            .command()
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = Log::default();
        stdout.collect(child.stdout.take().expect("stdout is piped"));
        let logging = self
            .log
            .collect(child.stderr.take().expect("stderr is piped"));
        // From here on dropping `self` ends the process.
        let running = self.running.insert(Running {
            child,
            ready: None,
            logging,
        });
        let first_line = eventually_ok(HANGS, || {
            let line = stdout
                .text()
                .split_once('\n')
                .map(|(line, _)| line.to_owned());
            let ended = running.child.try_wait().expect("the process is ours");
            async move {
                match (line, ended) {
                    (Some(line), _) => Ok(Ok(line)),
                    (None, Some(status)) => Ok(Err(status)),
                    (None, None) => Err("ignite has not printed its ready line"),
                }
            }
        })
        .await;
        let line = first_line.unwrap_or_else(|status| {
            if let Some(running) = self.running.take() {
                running.ended();
            }
            // The log follows when this is dropped.
            panic!("ignite ended at start with {status}")
        });
        let ready: Ready = serde_json::from_str(&line).unwrap_or_else(|e| {
            panic!("the first line on stdout is no ready line ({e}): {line:?}")
        });
        assert_eq!(ready.event, "ready", "{line}");
        let running = self.running.as_mut().expect("it was started above");
        running.ready = Some(ready);
    }

    /// Waits briefly for the network that a server creates once it has found its engine: after a
    /// kill before that, the engine would create it after the cleanup, and it has few address
    /// ranges.
    fn let_the_network_be_made(&self) {
        for _ in 0..NETWORK_LOOKS {
            let log = self.log();
            if !log.contains("The container engine answers") || log.contains("instance's network") {
                return;
            }
            thread::sleep(NETWORK_LOOK);
        }
    }

    /// Kills the server as a crash would: nothing is flushed or cleaned up.
    pub(crate) fn kill9(&mut self) {
        let mut running = self.running.take().expect("the server runs");
        running.child.kill().expect("the process is ours");
        running.child.wait().expect("the process is ours");
        running.ended();
    }

    /// Asks the server to stop (SIGTERM) and waits for it.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit).await
    }

    /// Sends a signal and does not wait.
    pub(crate) fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        let pid = i32::try_from(running.child.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("the process is ours");
    }

    /// Waits until the server has ended.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.running.as_mut().expect("the server runs").child;
        let status = eventually(limit, || {
            let ended = child.try_wait().expect("the process is ours");
            async move { ended }
        })
        .await;
        if let Some(running) = self.running.take() {
            running.ended();
        }
        status
    }

    fn command(&self) -> Command {
        let mut command = match self.descriptors {
            Some(limit) => {
                let mut shell = clean("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
                shell.arg(program());
                shell
            }
            None => binary(),
        };
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
            .args([
                "serve",
                "--http-addr",
                "127.0.0.1:0",
                "--grpc-addr",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(&self.data_dir)
            // Most tests count containers at zero; those of standby override this.
            .env("IGNITE_STANDBY", "none")
            // The clock of the test machine is right, and tests do not wait until that is certain.
            .env("IGNITE_CLOCK_SETTLE", "0s")
            .args(&self.args)
            .envs(self.socket.iter().flat_map(|_| {
                // As its stdin, where no other child of this process gets it.
                [("LISTEN_FDS", "1"), ("LISTEN_FDS_FIRST_FD", "0")]
            }))
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for Ignite {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            self.let_the_network_be_made();
            let _ = running.child.kill();
            let _ = running.child.wait();
            running.ended();
        }
        if thread::panicking() {
            eprintln!(
                "--- log of ignite, {} ---\n{}---\n{}",
                self.data_dir.display(),
                self.log(),
                panics::last()
            );
        }
        cleanup::blocking(&self.data_dir);
    }
}

/// The binary under test, free of settings from the environment of whoever runs the tests.
fn binary() -> Command {
    clean(program())
}

/// The binary that was built with the tests, or what `IGNITE_BIN` names, such as a release build
/// for tests that measure.
fn program() -> OsString {
    std::env::var_os("IGNITE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_ignite").into())
}

fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IGNITE_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a process writes, collected by a thread that ends with the process.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(crate) fn collect(
        &self,
        pipe: impl std::io::Read + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                log.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }

    pub(crate) fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
