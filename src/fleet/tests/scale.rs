//! Replicas that are stopped when they are not needed.

use super::*;

fn up_to(max: u32, reserved: u32, max_concurrency: u32) -> Revision {
    let mut r = revision(1);
    r.scaling.max = max;
    r.scaling.reserved = reserved;
    r.max_concurrency = max_concurrency;
    r
}

#[tokio::test(start_paused = true)]
async fn an_app_goes_to_zero_a_period_after_its_last_lease_and_wakes_again() {
    let w = World::new(revision(1)).await;
    for round in 1..=3 {
        let lease = w.lease().await;
        assert_eq!(w.engine.counts().create, round);
        // A stream that outlives the period many times.
        tokio::time::sleep(LONG).await;
        assert_eq!(w.live(), 1);
        drop(lease);
        tokio::time::sleep(secs(29)).await;
        // A short request restarts the period.
        drop(w.lease().await);
        tokio::time::sleep(secs(30) - ms(10)).await;
        assert_eq!(w.live(), 1, "too early");
        tokio::time::sleep(ms(40)).await;
        assert!(w.engine.containers().is_empty(), "too late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_in_the_instant_of_scaling_down_is_on_a_replica_that_stays() {
    for early in 0..20 {
        let w = World::new(revision(1)).await;
        drop(w.lease().await);
        tokio::time::sleep(secs(30) + ms(10) - ms(early)).await;
        let lease = w.lease().await;
        let replica = lease.replica().container.clone();
        tokio::time::sleep(secs(100)).await;
        assert!(w.engine.live().iter().any(|c| c.id == replica));
        w.fleet.shutdown(false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_any_more_scales_down_too() {
    let w = World::new(revision(1)).await;
    let request = w.request();
    settle().await;
    request.abort();
    tokio::time::sleep(secs(40)).await;
    assert!(w.engine.containers().is_empty());
    assert_eq!(w.engine.counts().create, 1);
}

#[tokio::test(start_paused = true)]
async fn reserved_replicas_are_always_up() {
    let w = World::new(up_to(3, 2, 0)).await;
    until("two are up", || w.app.snapshot().ready == 2).await;
    tokio::time::sleep(LONG).await;
    assert_eq!((w.live(), w.engine.counts().create), (2, 2));
    // Requests spread over both.
    let (a, b) = (w.lease().await, w.lease().await);
    assert_ne!(a.replica().id, b.replica().id);
}

#[tokio::test(start_paused = true)]
async fn a_busy_replica_in_excess_goes_as_soon_as_it_is_idle() {
    let w = World::new(up_to(2, 2, 1)).await;
    until("two are up", || w.app.snapshot().ready == 2).await;
    let (a, b) = (w.lease().await, w.lease().await);
    w.fleet.activate(up_to(1, 0, 1));
    tokio::time::sleep(secs(5)).await;
    assert_eq!(w.live(), 2, "both are busy");
    drop(b);
    tokio::time::sleep(secs(5)).await;
    assert_eq!(w.live(), 1);
    assert_eq!(w.engine.live()[0].id, a.replica().container);
}
