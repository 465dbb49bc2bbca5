//! A cold copy of an instance and its restore elsewhere, by the lines of the manual.

use std::{
    path::Path,
    process::{Command, Output},
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    builds::{bare, save},
    cli::ok,
    support::{
        app::{App, ENGINE_LIMIT, read, write},
        cleanup,
        code::{dockerfile, from_code, tar_gz},
        contract::Via,
        engine::{self, PruneGuard},
        ignite::Ignite,
    },
};

const MANUAL: &str = include_str!("../../src/docs/copies.md");
const FILE: &str = "/home/ignite/note";

/// The shell lines below a heading of the manual, without those that say where things are and those
/// of systemd, which a test has none of.
fn lines_of(heading: &str) -> String {
    let (_, section) = MANUAL.split_once(heading).expect("the heading");
    let lines = section
        .lines()
        .skip_while(|line| *line != "```sh")
        .skip(1)
        .take_while(|line| *line != "```");
    let lines: Vec<_> = lines
        .filter(|line| !line.starts_with("DATA=") && !line.starts_with("systemctl "))
        .collect();
    assert!(lines.len() > 3, "{lines:?}");
    lines.join("\n")
}

fn run(heading: &str, data: &Path, backup: &Path) -> Output {
    let output = Command::new("sh")
        .args(["-euc", &lines_of(heading)])
        .env("DATA", data)
        .env("BACKUP", backup)
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{heading}: {output:?}");
    output
}

fn identity(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("instance")).expect("it has one")
}

/// Makes the app's volume one of the engine's own, as where the engine does not see the data
/// directory.
async fn hold_in_engine(ignite: &Ignite, app: &App) {
    let (_, got) = app.api(ignite, Method::GET, "", Value::Null).await;
    let since = got["app"]["createdAtMs"].as_str().expect("a time");
    let id = identity(ignite.data_dir());
    let (id, dir) = (id.trim(), ignite.data_dir().display());
    let mut create = Command::new("docker");
    create.args(["volume", "create"]);
    for label in [
        format!("instance={id}"),
        format!("data-dir={dir}"),
        format!("org={}", app.org),
        format!("app={}", app.name),
        format!("since={since}"),
    ] {
        create.args(["--label", &format!("io.dodil.ignite.{label}")]);
    }
    let name = format!("ignite-{id}_{}_{}_{since}", app.org, app.name);
    let made = create.arg(name).output().expect("the engine's client");
    assert!(made.status.success(), "{made:?}");
}

/// Removes images that were loaded: without the mark, which has no layer to save, no clean-up finds
/// them.
struct Loaded(Vec<String>);

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["rmi", "-f"])
            .args(&self.0)
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_by_the_manual_answers_elsewhere_for_all_that_the_original_had() {
    let _guard = PruneGuard::no_prune().await;
    let parent = tempfile::tempdir().expect("a directory");
    let path = |name: &str| parent.path().canonicalize().expect("there").join(name);
    let mut original = Ignite::builder().data_dir(path("data")).start().await;
    let persistent = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let filed = App::deploy(&original, "acme/filed", persistent.clone()).await;
    assert_eq!(write(&original, &filed, FILE, "kept").await, Ok(()));
    // Only root may read the engine's volumes.
    let held = if rustix::process::geteuid().is_root() {
        let held = App::create(&original, "acme/held", persistent).await;
        hold_in_engine(&original, &held).await;
        let image = crate::support::probe::image().await;
        let (status, answer) = held.publish_image(&original, &image).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(write(&original, &held, FILE, "held").await, Ok(()));
        Some(held)
    } else {
        None
    };
    let built = bare(&original, "built").await;
    let code = tar_gz(&[("Dockerfile", dockerfile("one").await.as_bytes())]);
    save(&original, Via::Json, &built, from_code(&code, json!({}))).await;
    let (status, answer) = built.publish(&original).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mut images = original.images().await;
    images.retain(|name| name.contains("/built:"));
    assert_eq!(images.len(), 1, "{images:?}");
    let submit = [
        "--org",
        "acme",
        "invoke",
        "filed",
        "--async",
        "-p",
        "{}",
        "--idempotency-key",
        "one",
    ];
    let execution = ok(&original, &submit);
    let result = |ignite: &Ignite| {
        let get = [
            "--org",
            "acme",
            "execution",
            "get",
            execution.trim(),
            "--result",
        ];
        ok(ignite, &get)
    };
    ok(
        &original,
        &["--org", "acme", "execution", "watch", execution.trim()],
    );
    let before = result(&original);
    assert!(original.terminate(ENGINE_LIMIT).await.success());
    let id = identity(&path("data"));
    run("\n## Copy\n", &path("data"), &path("backup"));

    // The machine is lost: its disk, and all that its engine had.
    cleanup::blocking(&path("data"));
    std::fs::remove_dir_all(path("data")).expect("removed");
    assert_eq!(engine::volumes(&original).await, Vec::<String>::new());
    assert_eq!(original.images().await, Vec::<String>::new());
    let _loaded = Loaded(images);
    run("\n## Restore\n", &path("elsewhere"), &path("backup"));

    let restored = Ignite::builder().data_dir(path("elsewhere")).start().await;
    assert_eq!(identity(&path("elsewhere")), id);
    // With the tokens of before.
    assert_eq!(read(&restored, &filed, FILE).await, Ok("kept".to_owned()));
    assert_eq!(built.version(&restored).await, "one");
    if let Some(held) = &held {
        assert_eq!(read(&restored, held, FILE).await, Ok("held".to_owned()));
    }
    assert_eq!(result(&restored), before);
    assert_eq!(ok(&restored, &submit), execution, "it is known by its key");
}
