//! A clock that is wrong, for a moment or for longer.

use proptest::prelude::*;

use super::*;

const YEAR: u64 = 365 * DAY;

fn tidy(store: &Executions) {
    let mut ended = retention::Ended::default();
    // Twice: the second round acts on what the first has learnt.
    for _ in 0..2 {
        retention::round(&store.shared, &Arc::downgrade(&store.inner), &mut ended).expect("tidies");
    }
}

fn back(bench: &Bench, ms: u64) {
    bench.now.fetch_sub(ms, Ordering::SeqCst);
}

fn is_near(bench: &Bench, id: ExecutionId) -> bool {
    let now = bench.now.load(Ordering::SeqCst);
    id.0.timestamp_ms().abs_diff(now) < HOUR
}

/// The store as a start finds it after a kill at this moment, and the executions it hands over.
fn after_a_kill(bench: &Bench) -> (TempDir, Executions, Vec<ExecutionId>) {
    let dir = tempfile::tempdir().expect("temp dir");
    copy(bench.dir.path(), dir.path());
    let (store, mut accepted) = bench.open_at(dir.path());
    let mut handed = Vec::new();
    while let Ok(live) = accepted.try_recv() {
        handed.push(live.identity.id);
    }
    handed.sort_unstable();
    (dir, store, handed)
}

#[tokio::test(flavor = "multi_thread")]
async fn years_ahead_for_a_moment_hold_nothing_up_and_lose_nothing() {
    let bench = Bench::new(|_| {});
    let (store, _accepted) = bench.open();
    let before = accept(&store, "o/a").await;
    finish(&store, before, 200, b"out").await;

    bench.later(10 * YEAR);
    let then = bench.now.load(Ordering::SeqCst);
    let ahead = store.submit(keyed("o/a", b"x", "k")).await;
    let ahead = ahead.expect("accepted").id;
    bench.apps.lock().insert(id("o/new"), then);
    let of_new = accept(&store, "o/new").await;
    back(&bench, 10 * YEAR);

    let mut after = Vec::new();
    for app in ["o/a", "o/new", "o/a"] {
        bench.later(1);
        let id = accept(&store, app).await;
        assert!(is_near(&bench, id), "{id} of {app} is not of now");
        after.push(id);
    }
    let again = store.submit(keyed("o/a", b"x", "k")).await;
    let again = again.expect("accepted");
    assert!(!again.known, "a key of then holds for ten years");
    bench.later(2 * DAY);
    let later = accept(&store, "o/a").await;
    assert!(is_near(&bench, later));
    finish(&store, ahead, 200, b"out").await;
    finish(&store, after[0], 200, b"out").await;
    tidy(&store);
    let all = [&[before, ahead, of_new, again.id, later], &after[..]].concat();
    for id in &all {
        assert!(get(&store, *id).await.is_some(), "{id} is lost");
    }
    let (_dir, killed, handed) = after_a_kill(&bench);
    let mut open = all.clone();
    open.retain(|id| ![before, ahead, after[0]].contains(id));
    open.sort_unstable();
    assert_eq!(handed, open);
    for id in &all {
        assert!(get(&killed, *id).await.is_some(), "{id} is lost by a kill");
    }

    // Ended executions expire by their own time, not after ten years.
    for id in open {
        finish(&store, id, 200, b"out").await;
    }
    bench.later(9 * DAY);
    tidy(&store);
    for id in [before, after[0], again.id] {
        assert!(get(&store, id).await.is_none(), "{id} is kept");
    }
}

/// Nothing is deleted by a clock that may be wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_has_not_settled_deletes_nothing() {
    let settled = Arc::new(AtomicBool::new(false));
    let asked = settled.clone();
    let bench = Bench::new(|config| {
        config.settled = Arc::new(move || asked.load(Ordering::SeqCst));
    });
    let (store, _accepted) = bench.open();
    let kept = accept(&store, "o/a").await;
    finish(&store, kept, 200, b"out").await;
    bench.later(10 * YEAR);
    tidy(&store);
    assert!(get(&store, kept).await.is_some());
    settled.store(true, Ordering::SeqCst);
    tidy(&store);
    assert!(get(&store, kept).await.is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Forward(u64),
    Back(u64),
    Accept,
    Finish,
    Tidy,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..40 * HOUR).prop_map(Step::Forward),
        2 => (1..40 * HOUR).prop_map(Step::Back),
        1 => Just(Step::Forward(YEAR)),
        1 => Just(Step::Back(YEAR)),
        6 => Just(Step::Accept),
        3 => Just(Step::Finish),
        2 => Just(Step::Tidy),
        1 => Just(Step::Kill),
    ]
}

async fn walk(steps: Vec<Step>) {
    // Nothing is old enough to be dropped by age.
    let bench = Bench::new(|config| config.retention = Duration::from_millis(1000 * YEAR));
    let (store, _accepted) = bench.open();
    let (mut open, mut ended) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Forward(ms) => bench.later(ms),
            Step::Back(ms) => back(&bench, ms),
            Step::Accept => open.push(accept(&store, "o/a").await),
            Step::Finish if open.is_empty() => {}
            Step::Finish => {
                let id = open.remove(open.len() / 2);
                finish(&store, id, 200, b"out").await;
                ended.push(id);
            }
            Step::Tidy => tidy(&store),
            Step::Kill => {
                let (_dir, killed, handed) = after_a_kill(&bench);
                let mut expected = open.clone();
                expected.sort_unstable();
                assert_eq!(handed, expected);
                for id in open.iter().chain(&ended) {
                    let found = get(&killed, *id).await;
                    assert!(found.is_some(), "{id} is lost by a kill");
                }
            }
        }
    }
    for id in open.iter().chain(&ended) {
        assert!(get(&store, *id).await.is_some(), "{id} is lost");
    }
    let ids: HashSet<_> = open.iter().chain(&ended).collect();
    assert_eq!(ids.len(), open.len() + ended.len(), "an id came twice");
}

/// A start used to skip a segment that was sealed, even if executions had joined it since because
/// the clock had gone back.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_a_segment_that_was_left_is_run_after_a_kill() {
    use Step::{Accept, Back, Finish, Forward, Kill, Tidy};
    walk(vec![
        Accept,
        Accept,
        Back(37 * HOUR),
        Accept,
        Forward(YEAR),
        Accept,
        Accept,
        Finish,
        Tidy,
        Back(YEAR),
        Accept,
        Kill,
        Finish,
        Tidy,
        Kill,
    ])
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However the clock jumps: every accepted execution is found, and unfinished ones run after a
    /// kill.
    #[test]
    fn nothing_is_lost_however_the_clock_jumps(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(walk(steps));
    }
}
