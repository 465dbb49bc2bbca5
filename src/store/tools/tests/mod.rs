use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{
    model::{
        ExecutionId, Tier,
        execution::{Change, Completion, INLINE_BYTES, Status},
        secret::{Kind, Value},
        stats::{Outcome, OutcomeCounts},
    },
    store::{
        Store,
        executions::{
            AppCreatedAt, Config, Executions, Record, StoredRequest, StoredResult, Submission,
            Submitted,
        },
        secrets::Secrets,
        tests::full_app,
    },
};

mod export;

const ROW: &str = "o/a";
/// The file that the app's draft names.
const CODE: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// A data directory with an app and executions of every kind, and no running server.
struct Bench {
    dir: TempDir,
    /// Has ended, with bodies in files.
    large: ExecutionId,
    /// Has ended, with bodies in its rows.
    small: ExecutionId,
    running: ExecutionId,
    pending: ExecutionId,
}

fn app() -> AppId {
    ROW.parse().expect("valid")
}

fn config() -> Config {
    Config {
        queue_max: 10_000,
        retention: Duration::from_secs(7 * 24 * 3600),
        max_per_app: 100_000,
        min_free_bytes: 0,
        output_keep: 0,
        journal_bytes: u64::MAX,
        retention_interval: Duration::from_secs(3600),
        settled: Arc::new(|| true),
        vitals: crate::vitals::Vitals::default(),
        metrics: Default::default(),
        ledger: crate::store::Ledger::default(),
        clock: Arc::new(std::time::SystemTime::now),
    }
}

fn open(dir: &Path) -> Executions {
    let app_created_at: AppCreatedAt = Arc::new(|_| Some(0));
    Executions::open(dir, config(), app_created_at).expect("opens")
}

async fn submit(store: &Executions, body: &[u8], key: Option<&str>) -> ExecutionId {
    let mut spool = store.spool();
    spool.push(body).await.expect("spooled");
    let submission = Submission {
        app: app(),
        submitters: vec![app().org],
        idempotency_key: key.map(str::to_owned),
        digest: vec![1],
        request: StoredRequest {
            method: "POST".into(),
            target: "/x?y".into(),
            headers: vec![("a".into(), Bytes::from_static(b"b"))],
            body: spool.finish().await.expect("spooled"),
        },
    };
    let Submitted { id, .. } = store.submit(submission).await.expect("accepted");
    id
}

async fn begin(store: &Executions, id: ExecutionId) {
    let (version, tier) = (3, Tier::Large);
    let begun = store
        .change(id, Change::Begin { version, tier }, None)
        .await;
    begun.expect("saved").expect("begins");
}

async fn finish(store: &Executions, id: ExecutionId, body: &[u8]) {
    begin(store, id).await;
    let mut spool = store.spool();
    spool.push(body).await.expect("spooled");
    let result = StoredResult {
        headers: vec![("h".into(), Bytes::from_static(b"v"))],
        body: spool.finish().await.expect("spooled"),
    };
    let completion = Completion::answered(200, Duration::from_millis(5), body.len() as u64);
    let change = Change::Finish {
        attempt: 1,
        completion,
    };
    let ended = store.change(id, change, Some(result)).await;
    ended.expect("saved").expect("ends");
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let apps = Store::open(dir.path()).expect("opens");
        let made = apps.commit(|c| Ok((vec![c.create(full_app(ROW))?], ())));
        made.await.expect("commits");
        apps.close();
        drop(apps);
        fs::create_dir(dir.path().join("code")).expect("made");
        fs::write(dir.path().join("code").join(CODE), "code").expect("written");

        let store = open(dir.path());
        let large = submit(&store, &vec![7; INLINE_BYTES + 1], Some("k")).await;
        finish(&store, large, &vec![8; INLINE_BYTES * 2]).await;
        let small = submit(&store, b"in", None).await;
        finish(&store, small, b"out").await;
        let running = submit(&store, b"r", None).await;
        begin(&store, running).await;
        let pending = submit(&store, b"p", None).await;
        store.count(vec![(
            app(),
            OutcomeCounts::default().with(Outcome::Completed),
        )]);
        store.close();
        drop(store);
        Self {
            dir,
            large,
            small,
            running,
            pending,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of the only segment.
    fn segment(&self) -> PathBuf {
        let segments = executions::folder(self.path()).join("segments");
        let mut all = fs::read_dir(segments).expect("lists");
        all.next().expect("one").expect("entry").path()
    }

    /// Writes to a database directly, bypassing the store.
    fn write(&self, database: &Path, key: &[u8], value: Option<&[u8]>) {
        let tree = sled::open(database).expect("opens");
        match value {
            Some(value) => drop(tree.insert(key, value).expect("writes")),
            None => assert!(tree.remove(key).expect("removes").is_some()),
        }
        tree.flush().expect("flushes");
    }

    /// The problems that a check reports.
    #[track_caller]
    fn problems(&self, n: usize) -> String {
        let report = check(self.path());
        assert_eq!(report.problems.len(), n, "{:?}", report.problems);
        format!("{:?}", report.problems)
    }

    fn rows(&self) -> BTreeMap<String, Vec<(&'static str, u64)>> {
        let report = check(self.path());
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let databases = report.databases.into_iter();
        databases.map(|d| (d.name, d.rows.0)).collect()
    }
}

/// Everything that an export hands out, as text.
fn export_all(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let problems = export::<()>(dir, &mut |item| {
        all.push(match item {
            Exported::App(app) => format!("{app:?}"),
            Exported::Execution(e) => {
                let (r, body) = (&e.record, &e.body);
                format!("{r:?} {} {} {:?} {body:?}", e.method, e.target, e.headers)
            }
        });
        Ok(())
    });
    assert!(problems.expect("goes on").is_empty());
    all
}

fn key(kind: u8, id: ExecutionId) -> Vec<u8> {
    [&[kind][..], &id.0.to_bytes()].concat()
}

#[tokio::test]
async fn a_check_counts_every_row_and_finds_nothing_wrong_in_a_store_that_is_whole() {
    let bench = Bench::new().await;
    let rows = bench.rows();
    assert_eq!(rows["catalog"], [("apps", 1), ("versions", 1)]);
    assert_eq!(rows["statistics"][0], ("minutes", 1));
    let (_, segment) = rows.iter().find(|(n, _)| n.contains("since")).expect("one");
    let expected = [
        ("requests", 4),
        ("live", 2),
        ("ended", 2),
        ("results", 2),
        ("keys", 1),
    ];
    assert_eq!(segment[..5], expected);
    assert_eq!(segment[6], ("files", 2));
    assert!(
        check(tempfile::tempdir().expect("temp dir").path())
            .databases
            .is_empty()
    );
}

#[tokio::test]
async fn a_check_finds_missing_and_cut_files_and_what_no_row_names() {
    let bench = Bench::new().await;
    let files = bench.segment().join("files");
    fs::write(files.join("stray"), b"x").expect("writes");
    let report = check(bench.path());
    assert!(report.problems.is_empty(), "a leftover is no problem");
    assert!(
        report.leftovers.iter().any(|l| l.contains("stray")),
        "{:?}",
        report.leftovers
    );

    let result = files.join(format!("{}.1.result", bench.large.0));
    fs::write(&result, b"short").expect("writes");
    let said = bench.problems(1);
    assert!(
        said.contains("has 5 bytes") && said.contains(&bench.large.to_string()),
        "{said}"
    );
    fs::remove_file(&result).expect("removes");
    assert!(bench.problems(1).contains("result of"));
    fs::remove_file(files.join(format!("{}.request", bench.large.0))).expect("removes");
    assert!(bench.problems(2).contains("request of"));
}

#[tokio::test]
async fn a_check_finds_damaged_and_lost_rows_and_a_compaction_leaves_them_alone() {
    for (kind, says) in [
        (0x02, "request of"),
        (0x03, "state of"),
        (0x05, "result of"),
    ] {
        let bench = Bench::new().await;
        let id = if kind == 0x03 {
            bench.running
        } else {
            bench.small
        };
        let rows = bench.segment().join("rows");
        bench.write(&rows, &key(kind, id), Some(b"\xff\xff\xff"));
        let said = bench.problems(1);
        assert!(
            said.contains(says) && said.contains(&id.to_string()),
            "{said}"
        );
        let left = compact(bench.path()).expect("compacts").left;
        assert!(left.len() == 1 && left[0].what.contains(says), "{left:?}");
        assert_eq!(bench.problems(1), said, "it is as it was");
    }
    // The request of an ended execution and that of a running one are lost.
    let bench = Bench::new().await;
    let rows = bench.segment().join("rows");
    bench.write(&rows, &key(0x02, bench.small), None);
    assert!(
        bench
            .problems(1)
            .contains("has ended, and its request is lost")
    );
    bench.write(&rows, &key(0x02, bench.running), None);
    assert!(
        bench
            .problems(2)
            .contains("is to be run, and its request is lost")
    );

    let bench = Bench::new().await;
    let catalog = bench.path().join(FOLDER);
    bench.write(&catalog, &keys::app(&app()), Some(b"\xff"));
    let said = bench.problems(2);
    assert!(said.contains("record of app o/a is damaged"), "{said}");
    let refused = Store::open(bench.path())
        .err()
        .expect("refused")
        .to_string();
    assert!(
        refused.contains("o/a") && refused.contains("store check"),
        "{refused}"
    );

    let bench = Bench::new().await;
    bench.write(&bench.path().join(FOLDER), &keys::version(&app(), 1), None);
    assert!(bench.problems(1).contains("runs version 1"));
}

#[tokio::test]
async fn secrets_are_checked_and_kept_by_a_compaction_and_never_exported() {
    let bench = Bench::new().await;
    let (org, name) = (app().org, "reg".parse().expect("valid"));
    let value = || Value {
        kind: Kind::Registry,
        username: "user".into(),
        password: "plain-to-see".into(),
        server_address: "registry.example".into(),
    };
    let opened = || {
        let store = Store::open(bench.path()).expect("opens");
        (store.clone(), Secrets::new(store))
    };
    {
        let (store, secrets) = opened();
        let put = secrets.put(app().org, "reg".parse().expect("valid"), value(), 1);
        put.await.expect("stored");
        store.close();
    }
    let expected = [("apps", 1), ("versions", 1), ("secrets", 1)];
    assert_eq!(bench.rows()["catalog"], expected);
    let exported = export_all(bench.path()).concat();
    assert!(!exported.contains("plain-to-see") && !exported.contains("registry.example"));
    let done = compact(bench.path()).expect("compacts");
    assert!(done.left.is_empty(), "{:?}", done.left);
    assert_eq!(bench.rows()["catalog"], expected);
    {
        let (store, secrets) = opened();
        let (_, kept) = secrets.get(&org, &name).await.expect("opens");
        assert_eq!(kept.password, "plain-to-see");
        store.close();
    }
    let row = keys::secret(&org, &name);
    bench.write(&bench.path().join(FOLDER), &row, Some(b"\xff"));
    let said = bench.problems(1);
    assert!(said.contains("record of secret o/reg is damaged"), "{said}");
}

#[tokio::test]
async fn a_compaction_keeps_what_can_be_seen_and_gives_back_the_rest() {
    let bench = Bench::new().await;
    {
        // Overwrites much, in the catalog and in the executions.
        let apps = Store::open(bench.path()).expect("opens");
        // So much that space which sled frees by itself meanwhile does not matter.
        for i in 0..400_i64 {
            let edit = move |a: &mut App| {
                a.updated_at_ms = i;
                a.settings.description = "d".repeat(30_000);
                Ok(())
            };
            let edited = apps.commit(move |c| Ok((vec![c.update(&app(), edit)?], ())));
            edited.await.expect("commits");
        }
        apps.close();
        let store = open(bench.path());
        for _ in 0..150 {
            let id = submit(&store, &[1; 20_000], None).await;
            finish(&store, id, &[2; 20_000]).await;
        }
        store.close();
    }
    let files = bench.segment().join("files");
    fs::write(files.join("stray"), vec![0; 100_000]).expect("writes");
    fs::write(bench.segment().join("rows/damaged-snap.1"), b"x").expect("writes");
    assert_eq!(check(bench.path()).leftovers.len(), 2);
    let (rows, exported) = (bench.rows(), export_all(bench.path()));
    let done = compact(bench.path()).expect("compacts");
    assert!(done.left.is_empty(), "{:?}", done.left);
    assert!(done.after < done.before, "{done:?}");
    assert!(check(bench.path()).leftovers.is_empty());
    assert_eq!(bench.rows(), rows);
    assert_eq!(export_all(bench.path()), exported);
    // The newest segment has live executions: a start must read it.
    assert!(!bench.segment().join("sealed").exists());
    let store = open(bench.path());
    assert!(store.live(bench.pending).is_some() && store.live(bench.running).is_some());
    let large = store
        .get(bench.large)
        .await
        .expect("reads")
        .expect("is there");
    let (_, body) = large.result.expect("has a result");
    assert_eq!(body.len(), INLINE_BYTES * 2);
    submit(&store, b"more", None).await;
    store.close();
}

#[tokio::test]
async fn a_compaction_seals_only_segments_in_which_everything_has_ended() {
    let dir = tempfile::tempdir().expect("temp dir");
    let open = || {
        let small = Config {
            // Sixteen to a segment.
            max_per_app: 64,
            ..config()
        };
        let app_created_at: AppCreatedAt = Arc::new(|_| Some(0));
        Executions::open(dir.path(), small, app_created_at).expect("opens")
    };
    let store = open();
    let waiting = submit(&store, b"w", None).await;
    for _ in 0..50 {
        let id = submit(&store, b"b", None).await;
        finish(&store, id, b"r").await;
    }
    store.close();
    drop(store);
    let exported = export_all(dir.path());
    assert_eq!(exported.len(), 51);
    let done = compact(dir.path()).expect("compacts");
    assert!(done.left.is_empty(), "{:?}", done.left);
    let segments = fs::read_dir(executions::folder(dir.path()).join("segments")).expect("lists");
    let mut segments: Vec<_> = segments.map(|e| e.expect("entry").path()).collect();
    segments.sort();
    let sealed: Vec<_> = segments.iter().map(|s| s.join("sealed").exists()).collect();
    assert!(sealed.len() > 2, "{segments:?}");
    let (first, last) = (sealed[0], sealed[sealed.len() - 1]);
    assert!(
        !first && !last,
        "one has not ended; the newest takes more: {sealed:?}"
    );
    assert!(sealed[1..sealed.len() - 1].iter().all(|s| *s), "{sealed:?}");
    assert_eq!(export_all(dir.path()), exported);
    let store = open();
    assert!(store.live(waiting).is_some());
    store.close();
}

#[tokio::test]
async fn code_that_is_damaged_or_gone_is_told_of_and_what_nothing_names_is_a_leftover() {
    let bench = Bench::new().await;
    let folder = bench.path().join("code");
    fs::write(folder.join("stray"), "x").expect("writes");
    let report = check(bench.path());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.leftovers.len(), 1, "{:?}", report.leftovers);
    assert!(report.leftovers[0].contains("stray"));
    fs::write(folder.join(CODE), "cole").expect("writes");
    assert!(bench.problems(1).contains("not what was saved"));
    fs::remove_file(folder.join(CODE)).expect("removes");
    assert!(bench.problems(1).contains(ROW));
}
