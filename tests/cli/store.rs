//! `ignite store` as a user runs it: on an unused data directory, or on one that a server uses.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ignite::{
    model::{
        App, AppId, CodeSource, Draft, ExecutionId, ImageSource, Settings, Tier, Version,
        execution::{Change, Completion, INLINE_BYTES},
    },
    store::{
        Store,
        executions::{self, Executions, StoredBody, StoredRequest, StoredResult, Submission},
    },
};
use serde_json::{Value, json};

use super::{Ran, ignite, run};

/// An app with a version and a draft.
fn app() -> App {
    let source = CodeSource::Prebuilt(ImageSource {
        image_ref: "reg/a:1".into(),
        registry_secret_ref: String::new(),
    });
    let settings = Settings {
        env: [("A".to_owned(), "B".to_owned())].into(),
        ..Settings::default()
    };
    App {
        id: "o/a".parse().expect("valid"),
        created_at_ms: 1,
        updated_at_ms: 2,
        used_at_ms: 0,
        draft: Some(Draft {
            source: source.clone(),
            created_at_ms: 3,
            built: None,
            base: String::new(),
        }),
        versions: vec![Arc::new(Version {
            number: 1,
            source,
            image_ref: "reg/a:1".into(),
            image_id: "sha256:1".into(),
            facts: Default::default(),
            overlay: None,
            created_at_ms: 4,
            settings: settings.clone(),
        })],
        settings,
        active_version: 1,
        hosts: Vec::new(),
    }
}

/// Puts the app and an execution that has ended, with its result in a file, into a data directory.
fn fill(data: &Path) -> ExecutionId {
    fill_and(data, || {})
}

/// As [`fill`], and does something while the store is still open.
#[tokio::main(flavor = "current_thread")]
async fn fill_and(data: &Path, before_closing: impl FnOnce()) -> ExecutionId {
    let store = Store::open(data).expect("opens");
    // Every data directory that a server has used has an identity.
    std::fs::write(data.join("instance"), "0123456789ab").expect("writes");
    let made = store.commit(|c| Ok((vec![c.create(app())?], ())));
    made.await.expect("commits");
    store.close();
    let config = executions::Config {
        queue_max: 10,
        retention: Duration::from_secs(7 * 24 * 3600),
        max_per_app: 1000,
        min_free_bytes: 0,
        output_keep: 0,
        journal_bytes: u64::MAX,
        retention_interval: Duration::from_secs(3600),
        settled: Arc::new(|| true),
        vitals: ignite::vitals::Vitals::default(),
        metrics: Arc::default(),
        clock: Arc::new(SystemTime::now),
        ledger: ignite::store::Ledger::default(),
    };
    let executions = Executions::open(data, config, Arc::new(|_: &AppId| Some(0))).expect("opens");
    let submitted = executions.submit(Submission {
        app: app().id,
        submitters: Vec::new(),
        idempotency_key: None,
        digest: Vec::new(),
        request: StoredRequest {
            method: "POST".into(),
            target: "/x?y".into(),
            headers: vec![("a".into(), "b".into())],
            body: StoredBody::Inline("hello".into()),
        },
    });
    let id = submitted.await.expect("accepted").id;
    let (version, tier) = (1, Tier::Small);
    let begun = executions.change(id, Change::Begin { version, tier }, None);
    begun.await.expect("saved").expect("begins");
    let mut spool = executions.spool();
    let body = vec![7; INLINE_BYTES + 1];
    spool.push(&body).await.expect("spooled");
    let result = StoredResult {
        headers: vec![("h".into(), "v".into())],
        body: spool.finish().await.expect("spooled"),
    };
    let completion = Completion::answered(200, Duration::from_millis(5), body.len() as u64);
    let change = Change::Finish {
        attempt: 1,
        completion,
    };
    let ended = executions.change(id, change, Some(result));
    ended.await.expect("saved").expect("ends");
    before_closing();
    executions.close();
    id
}

pub(crate) struct Bench {
    home: tempfile::TempDir,
    data: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data").display().to_string();
        Self { home, data }
    }

    pub(crate) fn store(&self, args: &[&str]) -> Ran {
        let all = [&["store"], args, &["--data-dir", &self.data]].concat();
        run(ignite(self.home.path(), &all))
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.data)
    }

    /// `ignite serve` on the data directory, without an engine.
    pub(crate) fn serve(&self) -> Command {
        let (data, loopback) = (self.data.as_str(), "127.0.0.1:0");
        let args = ["serve", "--data-dir", data, "--http-addr", loopback];
        let mut command = ignite(self.home.path(), &args);
        command.args(["--grpc-addr", loopback]);
        command.args(["--docker-host", "unix:///nobody/listens.sock"]);
        command
    }

    /// The file with the result of the only execution.
    fn result(&self) -> PathBuf {
        let segments = self.path().join("executions/segments");
        let mut all = std::fs::read_dir(segments).expect("lists");
        let files = all
            .next()
            .expect("one")
            .expect("entry")
            .path()
            .join("files");
        let mut files = std::fs::read_dir(files).expect("lists");
        files.next().expect("one").expect("entry").path()
    }
}

/// Ends with the test, whatever its outcome.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_store_in_use_is_refused_with_the_pid_and_one_that_is_none_with_a_hint() {
    let bench = Bench::new();
    let none = bench.store(&["check"]);
    assert_eq!(none.code, Some(1));
    assert!(
        none.err.contains("no store") && none.err.contains("--data-dir"),
        "{}",
        none.err
    );
    assert!(!bench.path().exists(), "nothing is made");

    let mut served = bench.serve();
    let mut child = served
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let out = child.stdout.take().expect("piped");
    let server = Server(child);
    let mut ready = String::new();
    BufReader::new(out).read_line(&mut ready).expect("reads");
    assert!(ready.contains("ready"), "{ready}");
    for what in ["check", "compact", "export"] {
        let refused = bench.store(&[what]);
        assert_eq!(
            (refused.code, refused.out.as_str()),
            (Some(1), ""),
            "{what}"
        );
        let pid = format!("ignite process {}", server.0.id());
        assert!(refused.err.contains(&pid), "{}", refused.err);
    }
    drop(server);
    let free = bench.store(&["check"]);
    assert_eq!(free.code, Some(0), "{}{}", free.out, free.err);
}

#[test]
fn check_compact_and_export_do_what_they_say() {
    let bench = Bench::new();
    let id = fill(bench.path());
    let check = bench.store(&["check"]);
    assert_eq!(check.code, Some(0), "{}{}", check.out, check.err);
    let lines: Vec<_> = check.out.lines().collect();
    assert_eq!(lines[0], "catalog: 1 apps, 1 versions");
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("executions since 20") && l.contains("1 ended"))
    );
    assert_eq!(lines.last(), Some(&"all is well"));

    let compact = bench.store(&["compact"]);
    assert_eq!(compact.code, Some(0), "{}", compact.err);
    assert!(compact.out.contains("bytes before"), "{}", compact.out);

    let export = bench.store(&["export"]);
    assert_eq!(export.code, Some(0), "{}", export.err);
    let lines = export.out.lines();
    let values: Vec<Value> = lines
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let [app, execution] = &values[..] else {
        panic!("{}", export.out);
    };
    assert_eq!(
        (&app["app"]["id"], &app["app"]["env"]["A"]),
        (&json!("o/a"), &json!("B"))
    );
    assert_eq!(app["draft"]["imageRef"], "reg/a:1");
    let version = &app["versions"][0];
    assert_eq!(version["version"]["imageId"], "sha256:1");
    assert_eq!(version["app"]["env"]["A"], "B");
    let stands = &execution["execution"];
    assert_eq!(
        (&stands["id"], &stands["status"]),
        (&json!(id.to_string()), &json!("EXECUTION_STATUS_COMPLETED"))
    );
    let expected = json!({
        "method": "POST",
        "target": "/x?y",
        "headers": [{ "name": "a", "value": "b" }],
        "body": "aGVsbG8=",
    });
    assert_eq!(execution["request"], expected);
    let result = stands["result"].as_str().expect("base64");
    assert_eq!(result.len(), (INLINE_BYTES + 1).div_ceil(3) * 4);
}

/// Every file of a data directory: its content and when it was changed, and every folder likewise.
fn fingerprint(path: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(path).expect("lists") {
        let entry = entry.expect("entry");
        let (path, meta) = (entry.path(), entry.metadata().expect("known"));
        let content = if meta.is_dir() {
            all.extend(fingerprint(&path));
            Vec::new()
        } else {
            std::fs::read(&path).expect("reads")
        };
        all.insert(path, (meta.modified().expect("known"), content));
    }
    all
}

/// What a killed server leaves: writes that are only in the journal.
fn leave_unreplayed(bench: &Bench) {
    let journal = bench.path().join("executions/journal-2");
    let killed = bench.home().join("killed");
    let data = bench.path().to_owned();
    // A copy while the store is open is what a kill leaves.
    fill_and(bench.path(), || copy(&data, &killed));
    std::fs::remove_dir_all(bench.path()).expect("removes");
    std::fs::rename(&killed, bench.path()).expect("renames");
    let len = std::fs::metadata(journal).expect("is there").len();
    assert!(len > 100, "nothing is in the journal");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[test]
fn check_and_export_write_nothing() {
    let bench = Bench::new();
    leave_unreplayed(&bench);
    std::fs::write(bench.path().join("lock"), "4711\n").expect("writes");
    let before = fingerprint(bench.path());
    for what in ["check", "export"] {
        let ran = bench.store(&[what]);
        assert_eq!(ran.code, Some(0), "{what}: {}{}", ran.out, ran.err);
        let text = ran.out.replace(&bench.data, "");
        assert!(
            !text.contains("ignite-store-"),
            "{what} names the copy: {text}"
        );
        assert!(fingerprint(bench.path()) == before, "{what} has written");
    }
    // What is only in the journal is read with the rest.
    let export = bench.store(&["export"]).out;
    assert!(export.contains("EXECUTION_STATUS_COMPLETED"), "{export}");
    // A backup has no lock file, and gets none.
    std::fs::remove_file(bench.path().join("lock")).expect("removes");
    let before = fingerprint(bench.path());
    assert_eq!(bench.store(&["check"]).code, Some(0));
    assert!(fingerprint(bench.path()) == before);
}

#[test]
fn a_damaged_journal_stops_the_start_and_is_repaired_with_a_copy_kept() {
    let bench = Bench::new();
    leave_unreplayed(&bench);
    let journal = bench.path().join("executions/journal-2");
    let mut content = std::fs::read(&journal).expect("reads");
    content[100] ^= 1;
    std::fs::write(&journal, &content).expect("writes");
    let names = |text: &str| {
        let says = [
            journal.display().to_string(),
            "at byte 24".into(),
            "ignite store repair".into(),
        ];
        assert!(says.iter().all(|s| text.contains(s)), "{text}");
    };
    let serve = run(bench.serve());
    assert_eq!(serve.code, Some(1), "{}", serve.err);
    names(&serve.err);
    let check = bench.store(&["check"]);
    assert_eq!(check.code, Some(1), "{}", check.err);
    names(&check.out);
    let compact = bench.store(&["compact"]);
    assert_eq!(compact.code, Some(1), "{}", compact.out);
    names(&compact.err);
    assert_eq!(
        std::fs::read(&journal).expect("reads"),
        content,
        "it is left as it is"
    );

    let repair = bench.store(&["repair", "-o", "json"]);
    assert_eq!(repair.code, Some(0), "{}", repair.err);
    let done: Value = serde_json::from_str(&repair.out).expect("JSON");
    let of = &done["journals"][0];
    assert_eq!(of["lost"][0][0], 24, "{done}");
    assert!(of["saved"].as_u64().is_some_and(|n| n > 0), "{done}");
    assert!(
        done["removed_rows"].as_u64().is_some_and(|n| n > 0),
        "{done}"
    );
    let kept = of["copy"].as_str().expect("text");
    assert_eq!(std::fs::read(kept).expect("is kept"), content);
    let check = bench.store(&["check"]);
    assert_eq!(check.code, Some(0), "{}{}", check.out, check.err);
    let again = bench.store(&["repair"]);
    assert_eq!(again.out.trim(), "nothing needs repair");
}

#[test]
fn damage_is_told_with_what_to_do_and_ends_with_1() {
    let bench = Bench::new();
    let id = fill(bench.path());
    std::fs::remove_file(bench.result()).expect("removes");
    let check = bench.store(&["check", "-o", "json"]);
    assert_eq!(check.code, Some(1), "{}", check.err);
    let report: Value = serde_json::from_str(&check.out).expect("JSON");
    let problem = &report["problems"][0];
    let what = problem["what"].as_str().expect("text");
    assert!(
        what.contains(&id.to_string()) && what.contains("missing"),
        "{what}"
    );
    assert!(
        problem["remedy"]
            .as_str()
            .is_some_and(|r| r.contains("backup"))
    );
    assert_eq!(
        report["databases"][0]["rows"],
        json!({ "apps": 1, "versions": 1 })
    );
    assert_eq!(
        bench.store(&["export"]).code,
        Some(1),
        "it is not all there"
    );

    // What sled cannot read at all, in the catalog and then in the executions.
    for database in ["store", "executions/stats"] {
        let folder = bench.path().join(database);
        let db = std::fs::read(folder.join("db")).expect("reads");
        std::fs::write(folder.join("db"), vec![0x5a; db.len()]).expect("writes");
        let told = |ran: &Ran, text: &str| {
            assert_eq!(ran.code, Some(1), "{database}: {}{}", ran.out, ran.err);
            assert!(
                text.contains(&folder.display().to_string()),
                "{database}: {text}"
            );
            assert!(text.contains("backup"), "{database}: {text}");
            assert!(!ran.err.contains("panicked"), "{database}: {}", ran.err);
        };
        let check = bench.store(&["check"]);
        told(&check, &check.out);
        let serve = run(bench.serve());
        told(&serve, &serve.err);
        std::fs::write(folder.join("db"), db).expect("writes");
    }
}
