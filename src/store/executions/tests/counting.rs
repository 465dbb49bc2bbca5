//! The bytes that are counted for each organization, and the bound on them.

use proptest::prelude::*;

use super::{tidying::tidy, *};

/// The result of recounting every segment.
fn recounted(store: &Executions) -> HashMap<OrgName, u64> {
    let mut all = HashMap::new();
    // Afterwards nothing is only in the journals.
    retention::in_turn(&Arc::downgrade(&store.inner), |_| Ok(())).expect("settles");
    for segment in store.shared.segments.all() {
        let database = segment.open().expect("opens");
        for (org, bytes) in stored::count(&database).expect("counts") {
            *all.entry(org).or_default() += bytes;
        }
    }
    all.retain(|_, bytes| *bytes > 0);
    all
}

fn counted(store: &Executions) -> HashMap<OrgName, u64> {
    let ledger = &store.shared.config.ledger;
    let orgs = ["o", "p"].map(|org| org.parse::<OrgName>().expect("valid"));
    let all = orgs.into_iter().map(|org| (org.clone(), ledger.of(&org)));
    all.filter(|(_, bytes)| *bytes > 0).collect()
}

const APPS: [&str; 3] = ["o/a", "o/b", "p/a"];

/// Accepts, ends, ages and tidies at random; then compares after a crash and after a clean stop.
async fn go_through(steps: Vec<(u8, usize, usize)>) -> Result<(), TestCaseError> {
    let bench = Bench::new(|config| config.max_per_app = 8);
    bench.apps.lock().insert(id("p/a"), 0);
    let (store, _accepted) = bench.open();
    let mut open = Vec::new();
    for (what, which, size) in steps {
        bench.later(HOUR);
        match what {
            0..4 => {
                let body = vec![1; size];
                let mut spool = store.spool();
                spool.push(&body).await.expect("spooled");
                let mut submission = keyed(APPS[which % 3], b"", &which.to_string());
                submission.request.body = spool.finish().await.expect("spooled");
                submission.digest = vec![];
                open.push(store.submit(submission).await.expect("accepted").id);
            }
            4..7 if !open.is_empty() => {
                let id = open.swap_remove(which % open.len());
                if store.live(id).is_some() {
                    finish(&store, id, 200, &vec![2; size]).await;
                }
            }
            7 => bench.later(DAY * (size as u64 % 3)),
            _ => tidy(&store),
        }
    }
    prop_assert_eq!(counted(&store), recounted(&store));

    let copied = tempfile::tempdir().expect("temp dir");
    copy(bench.dir.path(), copied.path());
    let known = counted(&store);
    store.close();
    drop(store);
    for dir in [copied.path(), bench.dir.path()] {
        let fresh = Bench::new(|_| ());
        let (store, _accepted) = fresh.open_at(dir);
        prop_assert_eq!(counted(&store), known.clone(), "after a start");
        prop_assert_eq!(counted(&store), recounted(&store));
        store.close();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn counts_are_those_of_a_recount_through_retention_crashes_and_starts(
        steps in prop::collection::vec(
            (0u8..9, 0usize..1000, prop_oneof![0usize..200, INLINE..INLINE + 200]), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(go_through(steps))?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_bound_nothing_is_accepted_and_what_was_ends_with_its_result() {
    let bench = Bench::new(|config| config.ledger = Ledger::new(Some(10_000)));
    bench.apps.lock().insert(id("p/a"), 0);
    let (store, _accepted) = bench.open();
    let first = store.submit(keyed("o/a", b"body", "once")).await;
    let first = first.expect("accepted");
    // Its result exceeds the bound and is kept.
    finish(&store, first.id, 200, &[7; 20_000]).await;
    let ended = store.get(first.id).await.expect("readable").expect("kept");
    assert_eq!(ended.result.expect("a result").1.len(), 20_000);
    for app in ["o/a", "o/b"] {
        let refused = store.submit(submission(app, b"more")).await;
        let refused = refused.expect_err("above the bound");
        assert_eq!(refused.reason, Reason::StoreQuota, "{refused}");
    }
    // A repeat of an accepted request is recognized, and other organizations are not affected.
    let again = store.submit(keyed("o/a", b"body", "once")).await;
    assert_eq!(again.expect("known").id, first.id);
    let other = accept(&store, "p/a").await;
    finish(&store, other, 200, b"").await;
    // Retention frees space.
    bench.later(9 * DAY);
    accept(&store, "p/a").await;
    tidy(&store);
    accept(&store, "o/a").await;
    assert_eq!(counted(&store), recounted(&store));
    store.close();
}
