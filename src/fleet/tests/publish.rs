//! A new revision beside the one that serves.

use super::*;
use crate::model::Reason;

#[tokio::test(start_paused = true)]
async fn a_publish_swaps_without_a_gap_and_lets_the_old_one_finish() {
    let w = World::new(revision(1)).await;
    let old = w.lease().await;
    assert!(w.fleet.must_prepare(&revision(2)));
    let next = revision(2);
    let prepared = {
        let preparing = w.fleet.prepare(&next);
        tokio::pin!(preparing);
        loop {
            // Meanwhile every request gets the old replica, at once.
            tokio::select! {
                prepared = &mut preparing => break prepared.expect("gets ready"),
                () = tokio::time::sleep(ms(10)) => {
                    let lease = w.app.acquire(0, Instant::now()).await.expect("is served");
                    assert_eq!(w.version_of(&lease), 1);
                }
            }
        }
    };
    w.fleet.activate(revision(2));
    drop(prepared);
    let new = w.app.acquire(0, Instant::now()).await.expect("no gap");
    assert_eq!((w.version_of(&new), new.cold().is_some()), (2, false));
    tokio::time::sleep(LONG).await;
    assert_eq!((w.version_of(&old), w.live()), (1, 2));
    assert_eq!(w.engine.most_running(), 2);
    drop(old);
    settle().await;
    tokio::time::sleep(secs(2)).await;
    assert_eq!(w.version_in(&w.only_container()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_does_not_get_ready_leaves_the_old_one_serving() {
    let w = World::new(revision(1)).await;
    w.engine.script("v2", failing());
    let lease = w.lease().await;
    let failure = w.fleet.prepare(&revision(2)).await.err().expect("fails");
    assert_eq!(failure.reason, Reason::StartFailed);
    assert_eq!(w.only_container(), lease.replica().container);
    let s = w.app.snapshot();
    assert!(!s.failing && s.last_failure.is_some() && s.ready == 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_goes_with_those_who_wanted_it() {
    let w = World::new(revision(1)).await;
    let _lease = w.lease().await;
    // The publish is cancelled in the middle of the wait.
    let next = revision(2);
    let left = tokio::time::timeout(ms(100), w.fleet.prepare(&next)).await;
    assert!(left.is_err());
    tokio::time::sleep(secs(5)).await;
    assert_eq!(w.version_in(&w.only_container()), 1);
    // Ready, and not activated.
    let prepared = w.fleet.prepare(&revision(3)).await.expect("gets ready");
    assert_eq!(w.live(), 2);
    drop(prepared);
    tokio::time::sleep(secs(5)).await;
    assert_eq!(w.version_in(&w.only_container()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_later_publish_supersedes_and_is_not_harmed_by_the_earlier_ones_end() {
    let w = World::new(revision(1)).await;
    let _lease = w.lease().await;
    let prepare = |version| {
        let fleet = w.fleet.clone();
        tokio::spawn(async move { fleet.prepare(&revision(version)).await })
    };
    let second = prepare(2);
    settle().await;
    let third = prepare(3);
    let failure = second.await.expect("no panic").err().expect("superseded");
    assert_eq!(failure.reason, Reason::Aborted);
    let third = third.await.expect("no panic").expect("gets ready");
    let fourth = prepare(4);
    settle().await;
    drop(third);
    let fourth = fourth.await.expect("no panic").expect("gets ready");
    w.fleet.activate(revision(4));
    drop(fourth);
    assert_eq!(w.version_of(&w.lease().await), 4);
    assert!(!w.engine.containers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_prepared_replica_that_dies_before_its_time_fails_the_publish() {
    let w = World::new(revision(1)).await;
    let lease = w.lease().await;
    w.engine.script(
        "v2",
        Script {
            exits: Some((ms(50), 9)),
            ready: secs(1),
            ..Script::default()
        },
    );
    let failure = w.fleet.prepare(&revision(2)).await.err().expect("fails");
    assert_eq!(failure.reason, Reason::ContainerExited);
    // Dead between ready and activated: the activation starts another.
    let prepared = w.fleet.prepare(&revision(3)).await.expect("gets ready");
    let surge = w.engine.live().last().expect("is there").id.clone();
    w.engine.kill(&surge, 1);
    settle().await;
    w.fleet.activate(revision(3));
    drop((prepared, lease));
    assert_eq!(w.version_of(&w.lease().await), 3);
}

#[tokio::test(start_paused = true)]
async fn a_publish_forgets_the_failures_before_it() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", failing());
    w.failure().await;
    assert!(w.app.snapshot().failing);
    let prepared = w.fleet.prepare(&revision(2)).await.expect("gets ready");
    assert!(w.app.snapshot().failing, "the old one still does");
    w.fleet.activate(revision(2));
    drop(prepared);
    assert!(!w.app.snapshot().failing);
    let lease = w.app.acquire(0, Instant::now()).await.expect("at once");
    assert_eq!(w.version_of(&lease), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_held_for_the_old_revision_are_served_by_the_new_one() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", never_ready());
    let held = w.request();
    tokio::time::sleep(secs(1)).await;
    w.fleet.activate(revision(2));
    let lease = held.await.expect("no panic").expect("is served");
    assert_eq!(w.version_of(&lease), 2);
    tokio::time::sleep(secs(1)).await;
    assert_eq!(w.only_container(), lease.replica().container);
}

#[tokio::test(start_paused = true)]
async fn at_zero_a_version_that_does_not_start_replaces_nothing() {
    let w = World::new(revision(1)).await;
    for script in [failing(), never_ready()] {
        w.engine.script("v2", script);
        let failure = w.fleet.prepare(&revision(2)).await.err().expect("fails");
        assert!(
            matches!(failure.reason, Reason::StartFailed | Reason::NotReady),
            "{failure}"
        );
        let s = w.app.snapshot();
        assert!(!s.failing && s.desired == 0, "the old one is not blamed");
        assert_eq!(w.version_of(&w.lease().await), 1);
        until("nothing runs", || w.live() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_zero_the_old_version_answers_until_the_new_one_is_ready_and_that_one_stays_a_period() {
    let w = World::new(revision(1)).await;
    w.engine.script(
        "v2",
        Script {
            ready: secs(20),
            ..Script::default()
        },
    );
    let fleet = w.fleet.clone();
    let preparing = tokio::spawn(async move { fleet.prepare(&revision(2)).await });
    tokio::time::sleep(secs(5)).await;
    let old = w.lease().await;
    assert_eq!((w.version_of(&old), w.live()), (1, 2));
    let prepared = preparing.await.expect("no panic").expect("gets ready");
    w.fleet.activate(revision(2));
    drop((prepared, old));
    let new = w.app.acquire(0, Instant::now()).await.expect("at once");
    assert_eq!(w.version_of(&new), 2);
    drop(new);

    // The same without requests: it stays as after a request, and is stopped then.
    tokio::time::sleep(LONG).await;
    let prepared = w.fleet.prepare(&revision(3)).await.expect("gets ready");
    w.fleet.activate(revision(3));
    drop(prepared);
    tokio::time::sleep(secs(29)).await;
    assert_eq!(w.app.snapshot().ready, 1);
    tokio::time::sleep(secs(2)).await;
    assert!(w.engine.containers().is_empty());
}

/// A fleet without any app.
async fn nothing_published() -> (World, AppId) {
    let w = World::new(revision(1)).await;
    w.fleet.remove(&app()).await;
    (w, app())
}

#[tokio::test(start_paused = true)]
async fn a_first_version_serves_nobody_before_it_is_ready() {
    let (w, id) = nothing_published().await;
    w.engine.script("v1", failing());
    let failure = w.fleet.prepare(&revision(1)).await.err().expect("fails");
    assert_eq!(failure.reason, Reason::StartFailed);
    assert!(w.fleet.get(&id).is_none(), "nothing leads to it");
    let events = w
        .fleet
        .find(&id)
        .expect("can be looked at")
        .events()
        .newest(9);
    assert!(events.iter().any(|e| e.kind == EventKind::StartFailed));
    w.engine.script("v1", Script::default());
    let fleet = w.fleet.clone();
    let preparing = tokio::spawn(async move { fleet.prepare(&revision(1)).await });
    until("it starts", || w.live() == 1).await;
    // Reconciliation does not take it for an orphan.
    tokio::time::sleep(secs(60)).await;
    let prepared = preparing.await.expect("no panic").expect("gets ready");
    assert!(w.fleet.get(&id).is_none());
    let app = w.fleet.activate(revision(1));
    drop(prepared);
    assert!(Arc::ptr_eq(&app, &w.fleet.get(&id).expect("published")));
    app.acquire(0, Instant::now()).await.expect("at once");
    let last = app.events().newest(1);
    assert_eq!(last[0].kind, EventKind::Activated);
    assert_eq!(w.engine.counts().create, 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_version_that_waits_hears_of_a_delete_and_of_the_end() {
    for end in [Reason::AppDeleted, Reason::ShuttingDown] {
        let (w, id) = nothing_published().await;
        w.engine.script("v1", never_ready());
        let fleet = w.fleet.clone();
        let preparing = tokio::spawn(async move { fleet.prepare(&revision(1)).await });
        until("it starts", || w.live() == 1).await;
        match end {
            Reason::AppDeleted => w.fleet.remove(&id).await,
            _ => w.fleet.shutdown(false).await,
        }
        let failure = preparing.await.expect("no panic").err().expect("ends");
        assert_eq!(failure.reason, end, "{failure}");
        assert!(w.engine.containers().is_empty());
        assert!(w.fleet.find(&id).is_none() || end == Reason::ShuttingDown);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_version_without_room_is_refused_unless_it_takes_over_from_one_that_runs() {
    let mut config = config();
    // Two of 64 MB do not fit.
    config.bounds.memory = 100 << 20;
    let w = World::with(config, revision(1)).await;
    let mut other = revision(1);
    other.app = "acme/other".parse().expect("valid");
    other.scaling.reserved = 1;
    let big = w.fleet.activate(other.clone());
    until("the other is up", || big.snapshot().ready == 1).await;
    let failure = w
        .fleet
        .prepare(&revision(2))
        .await
        .err()
        .expect("no capacity");
    assert_eq!(failure.reason, Reason::NoRoom);
    assert!(failure.text(true).contains("acme/other"), "{failure}");
    let told = w.app.events().newest(9);
    assert!(
        told.iter()
            .any(|e| e.kind == EventKind::NoRoom && e.version == 2)
    );

    // Capacity that is freed in time is taken.
    let fleet = w.fleet.clone();
    let preparing = tokio::spawn(async move { fleet.prepare(&revision(2)).await });
    tokio::time::sleep(secs(10)).await;
    other.scaling.reserved = 0;
    w.fleet.activate(other);
    big.idle(None).expect("it rests");
    let prepared = preparing.await.expect("no panic").expect("gets ready");
    w.fleet.activate(revision(2));
    drop(prepared);
    // The next replica takes over from this one, over the bound.
    let prepared = w.fleet.prepare(&revision(3)).await.expect("gets ready");
    w.fleet.activate(revision(3));
    drop(prepared);
    until("the old one has gone", || w.live() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn settings_that_need_no_other_container_leave_what_is_being_readied_alone() {
    let w = World::new(revision(1)).await;
    let fleet = w.fleet.clone();
    let preparing = tokio::spawn(async move { fleet.prepare(&revision(2)).await });
    settle().await;
    let mut changed = revision(1);
    changed.scaling.max = 3;
    w.fleet.activate(changed);
    let prepared = preparing.await.expect("no panic").expect("gets ready");
    w.fleet.activate(revision(2));
    drop(prepared);
    assert_eq!(w.version_of(&w.lease().await), 2);
    assert_eq!(w.engine.counts().create, 1);
}
