//! Apps that are stopped because their organization uses too much of the disk.

use super::*;
use crate::model::Reason;

fn why() -> Failure {
    Failure::new(Reason::DiskQuota, "too much")
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_stopped_ends_at_once_and_starts_nothing_until_it_may_write() {
    let mut reserved = revision(1);
    reserved.scaling.reserved = 1;
    let w = World::new(reserved).await;
    let busy = w.lease().await;
    w.fleet.stop_writing(&app(), &why());
    let began = Instant::now();
    until("its container is gone", || w.engine.containers().is_empty()).await;
    assert!(
        began.elapsed() < secs(5),
        "requests in flight hold nothing up"
    );
    drop(busy);
    tokio::time::sleep(LONG).await;
    assert_eq!((w.live(), w.engine.counts().create), (0, 1));
    assert_eq!(w.failure().await.reason, Reason::DiskQuota);
    // Neither does a publish, which fails with the reason.
    let mut next = revision(2);
    next.config_hash = "other".into();
    let refused = w.fleet.prepare(&next).await.err().expect("is refused");
    assert_eq!(refused.reason, Reason::DiskQuota);
    assert_eq!(w.engine.counts().create, 1);

    w.fleet.let_write(&app());
    until("the reserved replica is back", || w.live() == 1).await;
    drop(w.lease().await);
    let events = w.app.events().newest(usize::MAX);
    let told = events.iter().filter(|e| e.kind == EventKind::DiskQuota);
    assert_eq!(told.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_takes_starts_those_who_wait_and_frozen_replicas_and_leaves_other_apps() {
    let w = World::with(
        Config {
            standby: Standby::Pause,
            ..config()
        },
        revision(1),
    )
    .await;
    let other = Revision {
        app: "acme/other".parse().expect("valid"),
        ..revision(1)
    };
    let other = w.fleet.activate(other);
    let waits = w.request();
    until("it starts", || w.app.snapshot().starting == 1).await;
    w.fleet.stop_writing(&app(), &why());
    let failure = waits.await.expect("no panic").expect_err("is refused");
    assert_eq!(failure.reason, Reason::DiskQuota);
    until("nothing is left", || w.engine.containers().is_empty()).await;
    let served = other.acquire(0, Instant::now() + LONG).await;
    drop(served.expect("another app is served"));
    w.fleet.let_write(&app());
    drop(w.lease().await);
    until("both sleep", || {
        w.app.snapshot().paused + other.snapshot().paused == 2
    })
    .await;
    w.fleet.stop_writing(&app(), &why());
    until("the frozen one is gone", || {
        w.engine.containers().len() == 1
    })
    .await;
    assert_eq!(other.snapshot().paused, 1);
}
