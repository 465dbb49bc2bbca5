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
            // Every request in the meantime gets the old one, at once.
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
    // Left in the middle of the wait.
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
    assert_eq!(failure.reason, Reason::FailedPrecondition);
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
    // Nothing serves, so there is nothing to prepare beside.
    let prepared = w.fleet.prepare(&revision(2)).await.expect("at once");
    w.fleet.activate(revision(2));
    drop(prepared);
    let began = Instant::now();
    assert_eq!(w.version_of(&w.lease().await), 2);
    assert!(began.elapsed() < START + ms(20));
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
