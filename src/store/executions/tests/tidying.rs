//! What retention drops and when, and what it keeps.

use super::*;

pub(super) fn tidy(store: &Executions) {
    let mut ended = retention::Ended::default();
    // Twice: the second round acts on what the first has learnt.
    for _ in 0..2 {
        retention::round(&store.shared, &Arc::downgrade(&store.inner), &mut ended).expect("tidies");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_segments_go_by_age_what_has_not_ended_stays_and_counts_outlive_them() {
    let bench = Bench::new(|_| ());
    let (store, _accepted) = bench.open();
    let old = accept(&store, "o/a").await;
    finish(&store, old, 200, &vec![1; 2 * INLINE]).await;
    store.count(vec![(
        id("o/a"),
        OutcomeCounts {
            completed: 2,
            failed: 1,
            timeout: 0,
        },
    )]);
    bench.later(2 * DAY);
    let (kept, waiting) = (accept(&store, "o/a").await, accept(&store, "o/a").await);
    finish(&store, kept, 500, b"").await;
    bench.later(2 * DAY);
    let young = accept(&store, "o/a").await;
    bench.later(3 * DAY + DAY);
    let before = settled_size(&bench, &store);
    tidy(&store);
    assert!(get(&store, old).await.is_none(), "over 7 days");
    assert!(settled_size(&bench, &store) < before, "the disk follows");
    assert!(get(&store, young).await.is_some());
    bench.later(3 * DAY);
    tidy(&store);
    assert_eq!(
        get(&store, waiting).await.expect("kept").state.status,
        Status::Pending
    );
    assert!(
        get(&store, kept).await.is_some(),
        "it shares the segment of one that has not ended"
    );
    finish(&store, waiting, 200, b"").await;
    tidy(&store);
    assert!(get(&store, waiting).await.is_none());
    let counts = store
        .counts(id("o/a"), 0, u32::MAX)
        .await
        .expect("readable");
    let sum = counts
        .iter()
        .fold(OutcomeCounts::default(), |sum, (_, t)| sum.plus(*t));
    assert_eq!(
        sum,
        OutcomeCounts {
            completed: 4,
            failed: 2,
            timeout: 0
        }
    );
    bench.later(91 * DAY);
    finish(&store, young, 200, b"").await;
    tidy(&store);
    let counts = store
        .counts(id("o/a"), 0, u32::MAX)
        .await
        .expect("readable");
    assert_eq!(
        counts.iter().map(|(_, t)| t.completed).sum::<u32>(),
        1,
        "90 days"
    );
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_retention_drops_nothing_that_is_younger_and_an_unreadable_segment_keeps_no_other()
 {
    let mut bench = Bench::new(|_| ());
    let (store, _accepted) = bench.open();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = accept(&store, "o/a").await;
        finish(&store, id, 200, b"").await;
        ids.push(id);
        bench.later(18 * HOUR);
    }
    // In a new segment.
    bench.later(2 * DAY);
    let last = accept(&store, "o/a").await;
    finish(&store, last, 200, b"").await;
    store.close();
    drop(store);

    bench.config.retention = Duration::from_millis(3 * DAY);
    let (store, _accepted) = bench.open();
    tidy(&store);
    assert!(get(&store, ids[1]).await.is_some(), "it is 66 hours old");
    let first = store.shared.segments.of(ids[0]).expect("a segment");
    bench.later(8 * DAY);
    first.close_if_idle(Duration::ZERO);
    std::fs::write(first.rows().join("db"), b"no log of sled's").expect("writes");
    let mut ended = retention::Ended::default();
    let inner = Arc::downgrade(&store.inner);
    retention::round(&store.shared, &inner, &mut ended).expect_err("it says so");
    let left = store.shared.segments.all();
    assert!(left.len() == 1 && left[0].start_ms == first.start_ms);
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_beyond_the_number_are_compacted_away_and_the_disk_follows() {
    let bench = Bench::new(|c| c.max_per_app = 64);
    let (store, _accepted) = bench.open();
    let other = accept(&store, "o/b").await;
    finish(&store, other, 200, &vec![9; 2 * INLINE]).await;
    let mut ids = Vec::new();
    for _ in 0..400 {
        bench.later(1);
        let id = accept(&store, "o/a").await;
        finish(&store, id, 200, &vec![1; 20_000]).await;
        ids.push(id);
    }
    let waiting = accept(&store, "o/a").await;
    bench.later(HOUR);
    let before = settled_size(&bench, &store);
    tidy(&store);
    let after = settled_size(&bench, &store);
    assert!(after < before / 2, "{before} → {after}");
    let filter = Filter {
        apps: vec![id("o/a")],
        status: Some(Status::Completed),
        from_ms: 0,
        to_ms: u64::MAX,
        before: None,
        limit: 1000,
    };
    // A segment whose executions are all surplus is removed whole, unless it has keys.
    assert!(store.shared.segments.all().len() < 400 / 16);
    // Their counts stay in their minutes, for as long as records would be kept.
    let last = (START + 400) / 60_000;
    let counts = store.counts(id("o/a"), 0, u32::MAX).await;
    let counts = counts.expect("readable");
    assert!(counts.iter().all(|(minute, _)| u64::from(*minute) == last));
    let completed: u32 = counts.iter().map(|(_, t)| t.completed).sum();
    assert_eq!(completed, 400);
    let left = listed(&store, filter.clone()).await;
    assert!((64..=64 + 24).contains(&left.len()), "{}", left.len());
    let newest: Vec<_> = ids.iter().rev().take(left.len()).copied().collect();
    assert_eq!(
        left.iter().map(|r| r.identity.id).collect::<Vec<_>>(),
        newest
    );
    assert_eq!(
        get(&store, waiting).await.expect("kept").state.status,
        Status::Pending
    );
    let other = get(&store, other).await.expect("another app's stays");
    assert_eq!(
        other.result.expect("a result").1.len(),
        2 * INLINE,
        "with its file"
    );
    // All of it reads the same after a restart.
    store.close();
    drop(store);
    let (store, mut accepted) = bench.open();
    assert_eq!(
        accepted.try_recv().expect("handed over").identity.id,
        waiting
    );
    assert_eq!(listed(&store, filter).await.len(), left.len());
    // Executions of a deleted app are invisible at once, and dropped later.
    bench.apps.lock().remove(&id("o/a"));
    store.forget(id("o/a")).await.expect("forgotten");
    assert!(get(&store, newest[0]).await.is_none() && store.live(waiting).is_none());
    let before = settled_size(&bench, &store);
    tidy(&store);
    assert!(settled_size(&bench, &store) < before);
    store.close();
}
