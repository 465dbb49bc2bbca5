//! The store of executions on a real disk, with a clock that the tests set.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::atomic::AtomicU64,
};

use bytes::Bytes;

use parking_lot::Mutex as PlMutex;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::model::execution::{Completion, Refused, Status};

mod clock;
mod counting;
mod reading;
mod tidying;

const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;
/// Some day in 2027.
const START: u64 = 1_800_000_000_000;

/// A store with apps and its own clock.
struct Bench {
    dir: TempDir,
    now: Arc<AtomicU64>,
    apps: Arc<PlMutex<HashMap<AppId, u64>>>,
    config: Config,
}

impl Bench {
    fn new(adjust: impl FnOnce(&mut Config)) -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let clock = now.clone();
        let mut config = Config {
            queue_max: 10_000,
            retention: Duration::from_millis(7 * DAY),
            max_per_app: 100_000,
            min_free_bytes: 0,
            output_keep: 1024,
            // So short that checkpoints run beside writes in every test.
            journal_bytes: 4096,
            // The tests run the rounds.
            retention_interval: Duration::from_secs(3600),
            settled: Arc::new(|| true),
            vitals: Vitals::default(),
            metrics: Default::default(),
            ledger: Ledger::default(),
            clock: Arc::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }),
        };
        adjust(&mut config);
        let apps = HashMap::from([(id("o/a"), 0), (id("o/b"), 0)]);
        Self {
            dir: tempfile::tempdir().expect("temp dir"),
            now,
            apps: Arc::new(PlMutex::new(apps)),
            config,
        }
    }

    fn open(&self) -> (Executions, mpsc::UnboundedReceiver<Arc<Live>>) {
        self.open_at(self.dir.path())
    }

    fn open_at(&self, dir: &Path) -> (Executions, mpsc::UnboundedReceiver<Arc<Live>>) {
        let apps = self.apps.clone();
        let app_created_at: AppCreatedAt = Arc::new(move |app| apps.lock().get(app).copied());
        let store = Executions::open(dir, self.config.clone(), app_created_at).expect("opens");
        let (tx, accepted) = mpsc::unbounded_channel();
        store.hand_over(Box::new(move |live| drop(tx.send(live))));
        (store, accepted)
    }

    fn later(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }
}

fn id(app: &str) -> AppId {
    app.parse().expect("valid")
}

fn submission(app: &str, body: &[u8]) -> Submission {
    Submission {
        app: id(app),
        submitters: vec!["o".parse().expect("valid")],
        idempotency_key: None,
        digest: body.to_vec(),
        request: StoredRequest {
            method: "POST".into(),
            target: "/x?y".into(),
            headers: vec![("a".into(), Bytes::from_static(b"\xffb"))],
            body: StoredBody::Inline(Bytes::copy_from_slice(body)),
        },
    }
}

fn keyed(app: &str, body: &[u8], key: &str) -> Submission {
    Submission {
        idempotency_key: Some(key.to_owned()),
        ..submission(app, body)
    }
}

async fn accept(store: &Executions, app: &str) -> ExecutionId {
    let accepted = store.submit(submission(app, b"body")).await;
    accepted.expect("accepted").id
}

async fn listed(store: &Executions, filter: Filter) -> Vec<Record> {
    let push = |page: &mut Vec<Record>, record| {
        page.push(record);
        true
    };
    let page = store.list(filter, Vec::new(), push).await;
    page.expect("readable")
}

async fn begin(store: &Executions, id: ExecutionId) -> u32 {
    let change = Change::Begin {
        version: 3,
        tier: crate::model::Tier::Large,
    };
    let state = store.change(id, change, None).await.expect("saved");
    state.expect("begins").attempt
}

async fn finish(store: &Executions, id: ExecutionId, status: u16, body: &[u8]) {
    let attempt = begin(store, id).await;
    let mut spool = store.spool();
    spool.push(body).await.expect("spooled");
    let body = spool.finish().await.expect("spooled");
    let completion = Completion::answered(status, Duration::from_millis(5), body.len());
    let result = StoredResult {
        headers: vec![("h".into(), Bytes::from_static(b"v"))],
        body,
    };
    let change = Change::Finish {
        attempt,
        completion,
    };
    let state = store.change(id, change, Some(result)).await.expect("saved");
    assert!(state.expect("ends").status.is_terminal());
}

async fn get(store: &Executions, id: ExecutionId) -> Option<Record> {
    store.get(id).await.expect("readable")
}

/// Bytes on disk, with the journal emptied into the databases.
fn settled_size(bench: &Bench, store: &Executions) -> u64 {
    retention::in_turn(&Arc::downgrade(&store.inner), |_| Ok(())).expect("settles");
    size(bench.dir.path())
}

fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let of = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => size(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("reads").flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_crash_and_what_had_not_ended_runs_again_in_order() {
    let bench = Bench::new(|_| ());
    let (store, mut accepted) = bench.open();
    let mut ids = Vec::new();
    for _ in 0..20 {
        bench.later(1);
        ids.push(accept(&store, "o/a").await);
        assert_eq!(
            accepted.recv().await.expect("handed over").identity.id,
            ids[ids.len() - 1]
        );
    }
    let large = vec![7; 3 * INLINE];
    finish(&store, ids[3], 200, b"small").await;
    finish(&store, ids[4], 404, &large).await;
    assert_eq!(begin(&store, ids[5]).await, 1);
    // The files as a crash at this moment leaves them: mostly in the journal, not in the databases.
    let copied = tempfile::tempdir().expect("temp dir");
    copy(bench.dir.path(), copied.path());
    store.close();
    drop(store);

    let (store, mut accepted) = bench.open_at(copied.path());
    let mut again = Vec::new();
    while let Ok(live) = accepted.try_recv() {
        again.push((live.identity.id, live.state().attempt));
    }
    let open: Vec<_> = ids
        .iter()
        .filter(|id| ![ids[3], ids[4]].contains(id))
        .collect();
    assert_eq!(again.iter().map(|(id, _)| id).collect::<Vec<_>>(), open);
    assert!(again.contains(&(ids[5], 1)) && again.contains(&(ids[0], 0)));
    assert_eq!(
        begin(&store, ids[5]).await,
        2,
        "the attempt goes on counting"
    );
    let small = get(&store, ids[3]).await.expect("there");
    assert_eq!(
        (small.state.status, small.state.version),
        (Status::Completed, 3)
    );
    assert_eq!(small.result.expect("a result").1, "small");
    let failed = get(&store, ids[4]).await.expect("there");
    assert_eq!(
        (failed.state.status, failed.state.status_code),
        (Status::Failed, 404)
    );
    assert_eq!(failed.result.expect("a result").1, large);
    let request = store.request(ids[0]).await.expect("readable");
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/x?y")
    );
    assert_eq!(request.headers[0].1, &b"\xffb"[..]);
    assert_eq!(request.body, "body");
    // An end is final.
    let late = store
        .change(ids[3], Change::End(Completion::cancelled()), None)
        .await;
    assert_eq!(late.expect("saved"), Err(Refused::Ended));
    store.close();
}

const INLINE: usize = crate::model::execution::INLINE_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_yields_the_first_id_for_a_day_and_only_for_the_same_request() {
    let bench = Bench::new(|_| ());
    let (store, _accepted) = bench.open();
    let submit = |s: Submission| store.submit(s);
    let first = submit(keyed("o/a", b"1", "k")).await.expect("accepted");
    assert!(!first.known);
    bench.later(DAY / 2);
    accept(&store, "o/a").await;
    // Many at once, also across a restart and in another segment.
    let again =
        futures_util::future::join_all((0..50).map(|_| submit(keyed("o/a", b"1", "k")))).await;
    for a in again {
        assert_eq!(
            a.expect("accepted"),
            Submitted {
                id: first.id,
                known: true
            }
        );
    }
    let fresh =
        futures_util::future::join_all((0..50).map(|_| submit(keyed("o/a", b"1", "new")))).await;
    let fresh: std::collections::HashSet<_> =
        fresh.into_iter().map(|f| f.expect("accepted").id).collect();
    assert_eq!(fresh.len(), 1, "submits that come at once are one");
    let other = submit(keyed("o/a", b"2", "k"))
        .await
        .expect_err("another body");
    assert_eq!(other.reason, Reason::IdempotencyConflict);
    let elsewhere = submit(keyed("o/b", b"2", "k")).await.expect("another app");
    assert_ne!(elsewhere.id, first.id);
    // Callers from other organizations may invoke a public app: their keys are separate.
    let by = |org: &str| Submission {
        submitters: vec![org.parse().expect("valid")],
        ..keyed("o/a", b"2", "k")
    };
    for stranger in ["acme", "beta"] {
        let (one, same) = (submit(by(stranger)).await, submit(by(stranger)).await);
        let (one, same) = (one.expect("accepted"), same.expect("accepted"));
        assert!(!one.known && same.known && one.id == same.id, "{stranger}");
    }
    store.close();
    drop(store);

    let (store, _accepted) = bench.open();
    let known = store
        .submit(keyed("o/a", b"1", "k"))
        .await
        .expect("accepted");
    assert_eq!(known.id, first.id);
    bench.later(DAY / 2 + 1);
    let next_day = store
        .submit(keyed("o/a", b"2", "k"))
        .await
        .expect("accepted");
    assert!(!next_day.known);
    // The app is deleted and created again: its keys are gone.
    bench.later(1);
    bench
        .apps
        .lock()
        .insert(id("o/a"), bench.now.load(Ordering::SeqCst));
    let reborn = store
        .submit(keyed("o/a", b"3", "k"))
        .await
        .expect("accepted");
    assert!(!reborn.known);
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_per_app_and_a_full_disk_refuses_before_it_is_full() {
    let bench = Bench::new(|c| c.queue_max = 3);
    let (store, _accepted) = bench.open();
    let all =
        futures_util::future::join_all((0..10).map(|_| store.submit(submission("o/a", b"x"))))
            .await;
    let refused: Vec<_> = all.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(refused.len(), 7);
    assert!(
        refused
            .iter()
            .all(|f| f.reason == Reason::ExecutionQueueFull && f.retry_after.is_some())
    );
    accept(&store, "o/b").await;
    let gone = store
        .submit(submission("o/none", b"x"))
        .await
        .expect_err("no such app");
    assert_eq!(gone.reason, Reason::NotFound);
    let ended = all
        .iter()
        .find_map(|r| r.as_ref().ok())
        .expect("one was accepted")
        .id;
    finish(&store, ended, 200, b"").await;
    accept(&store, "o/a").await;
    store.close();

    let bench = Bench::new(|c| c.min_free_bytes = u64::MAX);
    let (store, _accepted) = bench.open();
    let full = store
        .submit(submission("o/a", b"x"))
        .await
        .expect_err("no room");
    assert_eq!(full.reason, Reason::StoreUnavailable);
    assert!(
        full.message.contains("IGNITE_MIN_FREE_DISK_BYTES"),
        "{full}"
    );
    assert!(store.refusal().is_some());
    store.close();
}

/// A file stands where the database was, as after damage to the file system.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_stops_everything_and_a_start_makes_up_for_it() {
    let bench = Bench::new(|_| ());
    let (store, _accepted) = bench.open();
    let first = accept(&store, "o/a").await;
    assert_eq!(begin(&store, first).await, 1);
    settled_size(&bench, &store);
    let segment = store.shared.segments.of(first).expect("there");
    segment.close_if_idle(Duration::ZERO);
    let (rows, away) = (segment.rows(), bench.dir.path().join("away"));
    std::fs::rename(&rows, &away).expect("moved");
    std::fs::write(&rows, "no database").expect("written");

    bench.later(1);
    let second = accept(&store, "o/a").await;
    let refusal = || store.refusal().filter(|why| why.contains("see the log"));
    while refusal().is_none() {
        tokio::task::yield_now().await;
    }
    let refused = store.submit(submission("o/a", b"x")).await;
    assert_eq!(
        refused.expect_err("no database").reason,
        Reason::StoreUnavailable
    );
    let end = Change::End(Completion::cancelled());
    let refused = store.change(first, end, None).await;
    assert_eq!(
        refused.expect_err("no database").reason,
        Reason::StoreUnavailable
    );
    let running = get(&store, first).await.expect("there");
    assert_eq!(running.state.status, Status::Running);
    let told = retention::in_turn(&Arc::downgrade(&store.inner), |_| Ok(()));
    assert!(told.is_err(), "it would write past the journal");
    store.close();
    drop((store, segment));

    std::fs::remove_file(&rows).expect("removed");
    std::fs::rename(&away, &rows).expect("moved");
    let (store, mut accepted) = bench.open();
    let again = [accepted.recv().await, accepted.recv().await];
    assert_eq!(
        again.map(|live| live.expect("handed over").identity.id),
        [first, second]
    );
    assert_eq!(store.refusal(), None);
    store.close();
}

#[tokio::test]
async fn a_committer_that_dies_is_told_to_callers_and_to_whoever_watches() {
    let bench = Bench::new(|_| {});
    let (store, _accepted) = bench.open();
    let kept = accept(&store, "o/a").await;
    let work = Box::new(|_: Result<&Shared, String>| panic!("on purpose"));
    store.send(Command::Statistics(work)).expect("sent");
    assert_eq!(bench.config.vitals.failure().await, COMMITTER);
    let (change, id) = (Change::End(Completion::cancelled()), kept);
    let failure = store.change(id, change, None).await.expect_err("refused");
    assert!(failure.message.contains(COMMITTER), "{}", failure.message);
    store.close();
    drop(store);
    let (_store, mut accepted) = bench.open();
    let again = accepted.recv().await.expect("handed over");
    assert_eq!(again.identity.id, kept, "what was confirmed is there");
}
