//! The server in a container beside its engine's socket, on a bridge network, as compose files and
//! the services of a CI job run it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{HANGS, cleanup, engine, eventually_ok, http, probe};

/// Where the server listens in its container.
const PORT: &str = "8080";

/// A container that runs the server.
struct Contained {
    name: String,
    folder: TempDir,
}

impl Contained {
    /// Starts it, with the programs of this machine, since the binary of the tests is not static.
    async fn start(args: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("ignite-it-").tempdir();
        let folder = folder.expect("a directory");
        let path = folder.path().to_str().expect("text").to_owned();
        let name = format!("ignite-it-in-{}", ulid::Ulid::generate()).to_ascii_lowercase();
        let image = probe::root_image().await;
        let mut run = vec!["run", "--detach", "--rm", "--name", &name];
        let here = format!("{path}:{path}");
        let program = format!("{}:/ignite:ro", env!("CARGO_BIN_EXE_ignite"));
        let socket = "/var/run/docker.sock:/var/run/docker.sock";
        for volume in [&here, &program, socket, "/lib:/lib:ro", "/usr:/usr:ro"] {
            run.extend(["--volume", volume]);
        }
        if Path::new("/lib64").exists() {
            run.extend(["--volume", "/lib64:/lib64:ro"]);
        }
        let data_dir = format!("IGNITE_DATA_DIR={path}");
        let publish = format!("127.0.0.1:0:{PORT}");
        run.extend(["--env", &data_dir, "--publish", &publish]);
        run.extend([
            "--entrypoint",
            "/ignite",
            &image,
            "serve",
            "--insecure-http",
        ]);
        run.extend(["--http-addr", "0.0.0.0:8080"]);
        run.extend(args);
        let started = docker(&run);
        let contained = Self { name, folder };
        assert!(started.status.success(), "{started:?}");
        eventually_ok(HANGS, || async {
            let ready = contained.exec(&["ready"]);
            if ready.status.success() {
                Ok(())
            } else {
                Err(format!("{ready:?}"))
            }
        })
        .await;
        contained
    }

    fn exec(&self, args: &[&str]) -> Output {
        let mut words = vec!["exec", &self.name, "/ignite"];
        words.extend(args);
        docker(&words)
    }

    fn addr(&self) -> SocketAddr {
        let shown = docker(&["port", &self.name, PORT]);
        let text = String::from_utf8(shown.stdout).expect("text");
        text.trim().parse().expect("an address")
    }

    /// Its log, while it is there.
    fn log(&self) -> String {
        let log = docker(&["logs", &self.name]);
        String::from_utf8_lossy(&log.stderr).into_owned()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of ignite ---\n{}---", self.log());
        }
        docker(&["rm", "--force", &self.name]);
        cleanup::blocking(self.folder.path());
    }
}

fn docker(args: &[&str]) -> Output {
    let output = Command::new("docker").args(args).output();
    output.expect("the engine's client is installed")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_joins_the_network_of_its_apps_and_leaves_nothing() {
    let server = Contained::start(&["--ephemeral", "--standby", "none"]).await;
    let token = server.exec(&["token", "create", "--org", "acme"]);
    let token = String::from_utf8(token.stdout).expect("text");
    let token = token.trim();
    let image = probe::image().await;
    let deployed = server.exec(&[
        "--org",
        "acme",
        "app",
        "deploy",
        "app",
        "--image-ref",
        &image,
    ]);
    assert!(deployed.status.success(), "{deployed:?}");
    let addr = server.addr();
    let get = async |path: &str| {
        let request = http::request(addr, Method::GET, &format!("/_app/acme/app{path}"));
        let answer = request.token(token).send().await.expect("an answer");
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        answer.whole().await.expect("whole").0
    };
    get("/").await;
    // Down to no container, and up again.
    for step in [
        &["idle", "acme:app"][..],
        &["wait", "acme:app", "--depth", "absent"],
    ] {
        let mut words = vec!["app"];
        words.extend(step);
        let done = server.exec(&words);
        assert!(done.status.success(), "{done:?}");
    }
    get("/bytes/100000").await;
    assert!(
        server.log().contains("joined the network of its apps"),
        "{}",
        server.log()
    );

    let stopped = docker(&["stop", "--time", "60", &server.name]);
    assert!(stopped.status.success(), "{stopped:?}");
    let (client, folder) = (engine::docker().await, server.folder.path());
    let networks = ignite_kit::owned::networks(&client, folder).await;
    assert_eq!(networks.expect("an answer"), Vec::<String>::new());
    let containers = ignite_kit::owned::containers(&client, folder, true).await;
    assert_eq!(json!(containers.expect("an answer").len()), Value::from(0));
}
