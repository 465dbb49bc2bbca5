//! The files for CI as they are published: the action's script as a process, and the steps of the
//! examples for GitHub and GitLab in the shells that run them there.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{
    HANGS, cleanup,
    code::{self, dockerfile},
    eventually_ok,
};

const BINARY: &str = env!("CARGO_BIN_EXE_ignite");

/// A path in this repository.
fn ours(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A YAML file of this repository.
fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(ours(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A machine that runs a job: its folders, and the server that the job leaves running.
struct Runner {
    folder: TempDir,
}

impl Runner {
    /// With the repository of an app.
    async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ignite-it-").tempdir();
        let runner = Self {
            folder: folder.expect("a directory"),
        };
        let file = dockerfile("one").await;
        code::write(&runner.path("app"), &[("Dockerfile", file.as_bytes())]);
        for name in ["path", "env", "output"] {
            File::create(runner.path(name)).expect("made");
        }
        runner
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shell in the app's folder that stops at the first failure.
    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("bash");
        shell
            .args(["-eo", "pipefail", "-c", script])
            .current_dir(self.path("app"))
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("IGNITE_") || name.starts_with("DODIL_") {
                shell.env_remove(&*name);
            }
        }
        shell
    }

    /// The action's script with these inputs, as the runner calls it.
    fn set_up(&self, binary: &str, args: &str) -> Output {
        let script = ours(".github/actions/setup-ignite/start.sh");
        let mut shell = self.shell(script.to_str().expect("text"));
        shell.env("RUNNER_TEMP", self.folder.path());
        for name in ["path", "env", "output"] {
            shell.env(format!("GITHUB_{}", name.to_uppercase()), self.path(name));
        }
        let inputs = [
            ("BINARY", binary),
            ("SHA256", ""),
            ("ORG", "acme"),
            ("ARGS", args),
        ];
        output(shell.envs(inputs))
    }

    /// The variables that a step has set for those after it.
    fn variables(&self, file: &str) -> HashMap<String, String> {
        let text = fs::read_to_string(self.path(file)).expect("there");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// Ends the server that wrote this ready line, and waits until it has removed its directory.
    async fn end(&self, ready: &Path) {
        let line = fs::read(ready).expect("a ready line");
        let ready: Value = serde_json::from_slice(&line).expect("JSON");
        let pid = ready["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::TERM).expect("it runs");
        let dir = PathBuf::from(ready["data_dir"].as_str().expect("a path"));
        eventually_ok(HANGS, || async {
            match dir.exists() {
                false => Ok(()),
                true => Err("the data directory is there"),
            }
        })
        .await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for dir in ["ignite/data", "data"].map(|dir| self.path(dir)) {
            // The server has written its process id into its lock.
            let pid = fs::read_to_string(dir.join("lock")).ok();
            let pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::KILL);
            }
            cleanup::blocking(&dir);
        }
    }
}

/// Runs to the end. Output goes to files: a server that is left running keeps pipes open.
fn output(command: &mut Command) -> Output {
    let file = || tempfile::tempfile().expect("a file");
    let (out, err) = (file(), file());
    let clone = |file: &File| file.try_clone().expect("a descriptor");
    let status = command
        .stdout(clone(&out))
        .stderr(clone(&err))
        .status()
        .expect("bash is installed");
    let read = |mut file: File| {
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).expect("a file");
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("read");
        bytes
    };
    Output {
        status,
        stdout: read(out),
        stderr: read(err),
    }
}

fn lines(steps: &Value, key: &str) -> Vec<String> {
    let steps = steps.as_array().expect("steps").iter();
    let line = |step: &Value| match key {
        "" => step.as_str().map(str::to_owned),
        _ => step[key].as_str().map(str::to_owned),
    };
    steps.filter_map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_action_serves_the_steps_after_it() {
    let runner = Runner::new().await;
    let done = runner.set_up(BINARY, "--standby none");
    assert!(done.status.success(), "{done:?}");
    let outputs = runner.variables("output");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let mask = format!("::add-mask::{}", outputs["token"]);
    assert!(said.contains(&mask), "the token is masked: {said}");
    let action = yaml(".github/actions/setup-ignite/action.yml");
    for name in action["outputs"].as_object().expect("outputs").keys() {
        assert!(!outputs[name].is_empty(), "{name}");
    }
    let variables = runner.variables("env");
    assert_eq!(variables["IGNITE_URL"], outputs["endpoint"]);

    // The steps of the example, each in a shell of its own with what the action has set.
    let example = yaml("fixtures/examples/ci/github.yml");
    let steps = lines(&example["jobs"]["test"]["steps"], "run");
    assert!(steps.len() > 1, "{example}");
    let path = fs::read_to_string(runner.path("path")).expect("there");
    let path = format!("{}:{}", path.trim(), std::env::var("PATH").expect("set"));
    for step in steps {
        let mut shell = runner.shell(&step);
        let ran = output(shell.envs(&variables).env("PATH", &path));
        assert!(ran.status.success(), "{step}: {ran:?}");
    }
    runner.end(&runner.path("ignite/ready.json")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_action_says_why_it_cannot_serve() {
    let runner = Runner::new().await;
    for (binary, args, words) in [
        (BINARY, "--no-such-flag", &["its log", "--no-such-flag"][..]),
        (BINARY, "--trust nobody", &["its log", "trust"]),
        (
            "https://example.invalid/ignite",
            "",
            &["sha256", "SHA256SUMS"],
        ),
        ("/nonexistent/ignite", "", &["/nonexistent/ignite"]),
    ] {
        let done = runner.set_up(binary, args);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{binary} {args}: {said}");
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(runner.variables("env").is_empty());
    }
}

/// Serves a file to everyone who asks, as a server of releases does.
fn publish(file: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                std::io::Read::read_exact(&mut stream, &mut byte).expect("a request");
                head.push(byte[0]);
            }
            let mut file = File::open(file).expect("the binary");
            let length = file.metadata().expect("a file").len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            )
            .expect("sent");
            std::io::copy(&mut file, &mut stream).expect("sent");
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_for_gitlab_runs_in_one_shell() {
    let runner = Runner::new().await;
    let job = &yaml("fixtures/examples/ci/gitlab-ci.yml")["test"];
    let script = lines(&job["script"], "").join("\n");
    let digest = Sha256::digest(fs::read(BINARY).expect("the binary"));
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let mut shell = runner.shell(&script);
    // What the job sets itself, but for the engine and for places that jobs on one machine share.
    let variables = job["variables"].as_object().expect("variables");
    assert!(variables.contains_key("TOOLS") && variables.contains_key("IGNITE_DATA_DIR"));
    shell
        .env("TOOLS", runner.path("tools"))
        .env("IGNITE_DATA_DIR", runner.path("data"))
        .env("IGNITE_HTTP_ADDR", "127.0.0.1:0")
        .env("IGNITE_GRPC_ADDR", "127.0.0.1:0")
        .env("IGNITE_BINARY_URL", format!("http://{}/", publish(BINARY)))
        .env("IGNITE_SHA256", digest);
    let ran = output(&mut shell);
    assert!(ran.status.success(), "{ran:?}");
    runner.end(&runner.path("tools/ready.json")).await;
}

#[test]
fn the_workflows_are_yaml_with_steps_for_each_job() {
    for file in [
        ".github/workflows/release.yml",
        "fixtures/examples/ci/github.yml",
    ] {
        let workflow = yaml(file);
        let jobs = workflow["jobs"].as_object().expect("jobs");
        assert!(!jobs.is_empty(), "{file}");
        for (name, job) in jobs {
            let steps = job["steps"].as_array().expect("steps");
            let is_step = |step: &Value| step["run"].is_string() != step["uses"].is_string();
            assert!(steps.iter().all(is_step), "{file}: {name}: {job}");
        }
    }
}
