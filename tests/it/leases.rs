//! Who holds an instance's identity, and that no live instance is treated as gone.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use hyper::{Method, StatusCode};
use ignite_kit::owned;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, read, write},
    cleanup,
    engine::{self, PruneGuard},
    eventually, eventually_ok, http,
    ignite::{Ignite, Log, Ready},
    probe,
};

const FILE: &str = "/home/ignite/note";

/// A server whose data directory and processes are invisible from here, as in a container: in its
/// own namespaces, with the directory in a private memory file system.
struct Contained {
    child: Child,
    log: Log,
    token: String,
    ready: Option<Ready>,
}

impl Contained {
    /// Starts it after `setup`, a line of shell in which `$DIR` is an empty directory.
    fn spawn(dir: &Path, setup: &str) -> Self {
        let script = format!(
            "set -e; mount -t tmpfs none \"$DIR\"; {setup}; chmod 700 \"$DIR\"
             \"$IGNITE\" token create --org acme --data-dir \"$DIR\"
             exec \"$IGNITE\" serve --data-dir \"$DIR\" --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0"
        );
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .env("DIR", dir)
            .env("IGNITE", env!("CARGO_BIN_EXE_ignite"))
            .env("IGNITE_STANDBY", "none")
            .env("IGNITE_LEASE_INTERVAL", "1s")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = unshare.spawn().expect("util-linux is installed");
        let log = Log::default();
        log.collect(child.stderr.take().expect("piped"));
        Self {
            child,
            log,
            token: String::new(),
            ready: None,
        }
    }

    /// Waits until it listens.
    fn ready(mut self) -> Self {
        let mut lines = BufReader::new(self.child.stdout.take().expect("piped")).lines();
        let mut line = || match lines.next() {
            Some(line) => line.expect("text"),
            None => panic!("it ended: {}", self.log.text()),
        };
        self.token = line();
        self.ready = Some(serde_json::from_str(&line()).expect("the ready line"));
        self
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let ready = self.ready.as_ref().expect("it is ready");
        let mut request = http::request(ready.http, method, path).token(&self.token);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status, answer.json().await)
    }

    async fn wait(&mut self) -> ExitStatus {
        eventually(ENGINE_LIMIT * 3, || {
            let ended = self.child.try_wait().expect("ours");
            async move { ended }
        })
        .await
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of the contained ignite ---\n{}---",
                self.log.text()
            );
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn prune(ignite: &Ignite, args: &[&str]) -> String {
    let output = ignite.cli(&[&["prune"], args].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn identity(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("instance")).expect("it has one");
    text.trim().to_owned()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("it runs").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_takes_nothing_from_a_server_out_of_sight_until_its_lease_is_long_over() {
    let _guard = PruneGuard::prune().await;
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().canonicalize().expect("there").join("data");
    std::fs::create_dir(&dir).expect("made");
    let _cleanup = cleanup::OnDrop(dir.clone());
    let outside = Ignite::builder().start().await;
    let contained = Contained::spawn(&dir, ":").ready();
    let image = probe::image().await;
    let settings = json!({
        "name": "a",
        "storageMode": "STORAGE_MODE_PERSISTENT",
        "code": { "image": { "prebuilt": { "imageRef": image } } },
    });
    for (path, body) in [
        ("/v1/ignite/app/acme", &settings),
        ("/v1/ignite/app/acme/a/draft/publish", &json!({})),
    ] {
        let (status, answer) = contained.call(Method::POST, path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let (status, before) = contained
        .call(Method::GET, "/_app/acme/a/", &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{before}");
    // The engine does not see its data directory, and the log warns the operator.
    let told = contained.log.text();
    assert!(told.contains("docker volume prune"), "{told}");
    let docker = engine::docker().await;
    let counts = || async {
        (
            owned::containers(&docker, &dir, true)
                .await
                .expect("a list")
                .len(),
            owned::networks(&docker, &dir).await.expect("a list").len(),
            owned::volumes(&docker, &dir).await.expect("a list").len(),
        )
    };
    assert_eq!(counts().await, (1, 1, 1));
    let line = |said: &str| {
        let of = format!(" of {}: ", dir.display());
        let line = said
            .lines()
            .find(|l| l.starts_with("kept ") && l.contains(&of));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let said = line(&prune(&outside, &["--after", "0"]));
    assert!(said.contains("its lease is valid"), "{said}");
    assert_eq!(counts().await, (1, 1, 1));
    // A removed lease is recreated, and its absence proves nothing.
    for lease in owned::leases(&docker, &dir).await.expect("a list") {
        let none = None::<bollard::query_parameters::RemoveVolumeOptions>;
        docker.remove_volume(&lease, none).await.expect("it goes");
    }
    prune(&outside, &["--after", "0"]);
    assert_eq!(counts().await, (1, 1, 1));
    eventually_ok(ENGINE_LIMIT, || async {
        match owned::leases(&docker, &dir).await.expect("a list").len() {
            0 => Err("there is no lease"),
            _ => Ok(()),
        }
    })
    .await;
    let (status, after) = contained
        .call(Method::GET, "/_app/acme/a/", &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{after}");
    assert_eq!(
        after["instance"], before["instance"],
        "it was not restarted"
    );

    // After a kill it is in doubt once its lease has expired, and gone a day later.
    drop(contained);
    let doubt = eventually(ENGINE_LIMIT, || async {
        let said = line(&prune(&outside, &[]));
        said.contains("its lease ran out").then_some(said)
    })
    .await;
    assert!(doubt.contains("ignite prune --gone "), "{doubt}");
    assert_eq!(counts().await, (1, 1, 1));
    let said: Value =
        serde_json::from_str(&prune(&outside, &["--after", "0", "-o", "json"])).expect("JSON");
    let of_it = |list: &str| {
        let all = said[list].as_array().expect("a list").iter();
        let mut all = all.filter(|r| r["data_dir"] == json!(dir));
        all.next().cloned().unwrap_or_else(|| panic!("{said}"))
    };
    assert_eq!(of_it("removed")["containers"], 1);
    assert_eq!(of_it("kept")["state"], "files");
    assert_eq!(counts().await, (0, 0, 1));
    let id = of_it("kept")["instance"]
        .as_str()
        .expect("an id")
        .to_owned();
    prune(&outside, &["--volumes", &id]);
    assert_eq!(counts().await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_no_lease_behind_except_with_its_replicas() {
    let mut ignite = Ignite::builder().start().await;
    let docker = engine::docker().await;
    let dir = ignite.data_dir().to_owned();
    let leases = || async { owned::leases(&docker, &dir).await.expect("a list").len() };
    eventually_ok(ENGINE_LIMIT, || async {
        match leases().await {
            1 => Ok(()),
            n => Err(format!("{n} leases")),
        }
    })
    .await;
    assert!(ignite.terminate(ENGINE_LIMIT).await.success());
    assert_eq!(leases().await, 0);
    let mut keeping = Ignite::builder()
        .data_dir(&dir)
        .arg("--keep-replicas")
        .start()
        .await;
    assert!(keeping.terminate(ENGINE_LIMIT).await.success());
    assert_eq!(leases().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_identity_costs_no_files() {
    let _guard = PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let persistent = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let app = App::deploy(&ignite, "acme/a", persistent).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    let dir = ignite.data_dir().to_owned();
    let id = identity(&dir);
    // One copy after the other is lost; in the end only the engine knows.
    for lost in ["instance", "holder", "store/instance"] {
        ignite.kill9();
        std::fs::write(dir.join("instance"), "").expect("written");
        if lost != "instance" {
            std::fs::remove_file(dir.join("holder")).expect("removed");
        }
        if lost == "store/instance" {
            std::fs::remove_file(dir.join(lost)).expect("removed");
        }
        ignite.start().await;
        assert_eq!(identity(&dir), id, "without {lost}");
        assert_eq!(read(&ignite, &app, FILE).await, Ok("kept".to_owned()));
        eventually_ok(ENGINE_LIMIT, || async {
            if dir.join("holder").exists() {
                Ok(())
            } else {
                Err("the run is not remembered yet")
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_its_original_takes_nothing_from_it() {
    let _guard = PruneGuard::no_prune().await;
    let parent = tempfile::tempdir().expect("a directory");
    let path = |name: &str| parent.path().canonicalize().expect("there").join(name);
    let mut original = Ignite::builder()
        .data_dir(path("data"))
        .env("IGNITE_LEASE_INTERVAL", "1s")
        .start()
        .await;
    let persistent = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let app = App::deploy(&original, "acme/a", persistent).await;
    assert_eq!(write(&original, &app, FILE, "the original's").await, Ok(()));
    assert!(original.terminate(ENGINE_LIMIT).await.success());
    copy(&path("data"), &path("copy"));
    original.start().await;
    let serving = instance(&app.get_ok(&original, "/").await);

    // Beside its original it is refused at once.
    let refused = Ignite::builder().data_dir(path("copy")).start_and_fail();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("--new-instance"), "{said}");
    // If the original is out of sight, its lease reveals it.
    let hidden = path("hidden");
    std::fs::create_dir(&hidden).expect("made");
    let setup = format!(
        "cp -a {}/. \"$DIR\"; mount -t tmpfs none {}",
        path("copy").display(),
        path("data").display()
    );
    let mut contained = Contained::spawn(&hidden, &setup);
    assert_eq!(contained.wait().await.code(), Some(1));
    let said = contained.log.text();
    assert!(said.contains("--new-instance"), "{said}");
    assert_eq!(instance(&app.get_ok(&original, "/").await), serving);

    let kept = Ok("the original's".to_owned());
    let mut copy = Ignite::builder()
        .data_dir(path("copy"))
        .arg("--new-instance")
        .start()
        .await;
    assert_ne!(identity(&path("copy")), identity(&path("data")));
    assert_ne!(instance(&app.get_ok(&copy, "/").await), serving);
    // It has a copy of the files, too.
    assert_eq!(read(&copy, &app, FILE).await, kept);
    assert_eq!(write(&copy, &app, FILE, "the copy's").await, Ok(()));
    assert!(copy.terminate(ENGINE_LIMIT).await.success());
    assert_eq!(instance(&app.get_ok(&original, "/").await), serving);
    assert_eq!(read(&original, &app, FILE).await, kept);

    // Killed and moved, it continues at once with what it had.
    original.kill9();
    std::fs::rename(path("data"), path("moved")).expect("moves");
    let moved = Ignite::builder().data_dir(path("moved")).start().await;
    assert_eq!(read(&moved, &app, FILE).await, kept);
    drop(moved);
    cleanup::blocking(&path("data"));
}
