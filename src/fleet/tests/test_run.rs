//! A replica beside the published ones.

use super::*;
use crate::{fleet::TestRun, model::Reason};

async fn lease(test_run: &TestRun) -> Result<Lease, Failure> {
    test_run
        .deployment()
        .acquire(0, Instant::now() + LONG)
        .await
}

#[tokio::test(start_paused = true)]
async fn a_test_run_takes_its_share_of_the_room_and_never_rests() {
    let mut config = config();
    config.standby = Standby::Pause;
    // One of 64 MB, and one that is frozen.
    config.bounds.memory = 100 << 20;
    let w = World::with(config, revision(1)).await;
    let serving = w.lease().await;
    let mut tested = revision(2);
    tested.standby = Some(Standby::Prepared);
    tested.scaling.reserved = 1;
    tested.scaling.max = 3;
    let test_run = w.fleet.test_run(tested);
    let refused = lease(&test_run).await.expect_err("there is no capacity");
    assert_eq!(refused.reason, Reason::NoRoom);
    drop(serving);
    until("the app sleeps", || w.app.snapshot().paused == 1).await;
    settle().await;

    let tests = lease(&test_run).await.expect("has capacity");
    let container = tests.replica().container.clone();
    assert_eq!(w.version_of(&tests), 2);
    // Reconciliation does not take it for an orphan.
    tokio::time::sleep(secs(60)).await;
    w.version_in(&container);
    assert_eq!(w.failure().await.reason, Reason::NoRoom);
    drop(tests);
    until("it is gone", || test_run.deployment().replicas().is_empty()).await;
    let left = w.engine.containers();
    assert!(left.iter().all(|c| c.id != container), "{left:?}");

    // A test run that ends in the middle of a request gives its capacity back as well.
    let tests = lease(&test_run).await.expect("has capacity");
    let waiting = w.request();
    settle().await;
    assert_eq!(w.held(), 1);
    drop(test_run);
    let serving = waiting.await.expect("no panic").expect("is served");
    assert_eq!(w.version_of(&serving), 1);
    drop(tests);
    w.fleet.shutdown(false).await;
    assert!(w.engine.containers().is_empty());
}
