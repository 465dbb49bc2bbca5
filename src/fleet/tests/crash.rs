//! Replicas that die, lost events, and containers that belong to no replica.

use super::*;
use crate::{engine::ContainerState, fleet::replica::Replica};

fn one_reserved() -> Revision {
    let mut r = revision(1);
    r.scaling.reserved = 1;
    r
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_replaced_when_it_is_wanted_and_only_then() {
    let w = World::new(revision(1)).await;
    drop(w.lease().await);
    w.engine.kill(&w.only_container(), 1);
    tokio::time::sleep(secs(5)).await;
    assert!(w.engine.containers().is_empty(), "nobody asked for another");

    let w = World::new(one_reserved()).await;
    until("it is up", || w.app.snapshot().ready == 1).await;
    tokio::time::sleep(secs(60)).await;
    w.engine.kill(&w.only_container(), 1);
    tokio::time::sleep(START + ms(20)).await;
    assert_eq!((w.app.snapshot().ready, w.engine.counts().create), (1, 2));

    let w = World::new(Revision {
        max_concurrency: 1,
        ..revision(1)
    })
    .await;
    let lease = w.lease().await;
    let held = w.request();
    settle().await;
    w.engine.kill(&lease.replica().container, 1);
    let other = held.await.expect("no panic").expect("is served");
    assert_ne!(other.replica().id, lease.replica().id);
    drop((lease, other));
    assert_eq!(w.app.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_a_calm_run_forgets_it() {
    let w = World::new(one_reserved()).await;
    w.engine.script(
        "v1",
        Script {
            exits: Some((secs(1), 1)),
            ..Script::default()
        },
    );
    until("the first is up", || w.app.snapshot().ready == 1).await;
    w.engine.kill(&w.only_container(), 1);
    let before = w.engine.counts().create;
    tokio::time::sleep(secs(100)).await;
    let starts = w.engine.counts().create - before;
    assert!((9..=15).contains(&starts), "{starts} starts in 100 s");
    w.engine.script("v1", Script::default());
    tokio::time::sleep(secs(30)).await;
    w.engine.kill(&w.only_container(), 1);
    tokio::time::sleep(START + ms(20)).await;
    assert_eq!(w.app.snapshot().ready, 1, "no wait after a calm run");
}

#[tokio::test(start_paused = true)]
async fn reconciliation_finds_what_events_did_not_tell() {
    let w = World::new(one_reserved()).await;
    until("it is up", || w.app.snapshot().ready == 1).await;
    let first = w.only_container();
    w.engine.kill_silently(&first, 1);
    tokio::time::sleep(secs(11)).await;
    assert_eq!((w.app.snapshot().ready, w.engine.counts().create), (1, 2));
    assert_ne!(w.only_container(), first);

    let orphan = spec_of(&revision(1));
    w.engine
        .leave_behind(&orphan, ContainerState::Running(None));
    tokio::time::sleep(secs(11)).await;
    assert_eq!(
        (w.engine.containers().len(), w.app.snapshot().ready),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_without_events_is_asked_at_intervals() {
    let w = World::new(one_reserved()).await;
    until("it is up", || w.app.snapshot().ready == 1).await;
    w.engine.mute();
    let before = w.engine.counts().list;
    tokio::time::sleep(secs(100)).await;
    let asked = w.engine.counts().list - before;
    assert!((10..=220).contains(&asked), "asked {asked} times in 100 s");
    w.engine.kill(&w.only_container(), 1);
    tokio::time::sleep(secs(2)).await;
    assert_eq!((w.app.snapshot().ready, w.engine.counts().create), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_container_of_a_create_that_timed_out_is_removed() {
    let w = World::new(revision(1)).await;
    let slow = Error::TimedOut {
        call: "create a container",
        after: secs(60),
    };
    w.engine.script(
        "v1",
        Script {
            create_error: Some(slow),
            ..Script::default()
        },
    );
    let request = w.request();
    until("it is asked", || w.engine.counts().create == 1).await;
    // From the next call on.
    w.engine.script("v1", Script::default());
    let lease = request.await.expect("no panic").expect("the second start");
    assert_eq!(w.engine.containers().len(), 2);
    tokio::time::sleep(secs(11)).await;
    assert_eq!(w.only_container(), lease.replica().container);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_removes_containers_that_no_replica_knows() {
    let w = World::new(revision(1)).await;
    w.engine
        .leave_behind(&spec_of(&revision(1)), ContainerState::Created);
    w.fleet.shutdown(false).await;
    assert!(w.engine.containers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_called_off_in_create_takes_its_container_along() {
    let slow_create = Script {
        create: secs(5),
        ..Script::default()
    };
    for shutdown in [true, false] {
        let w = World::new(revision(1)).await;
        w.engine.script("v1", slow_create.clone());
        let request = w.request();
        tokio::time::sleep(secs(1)).await;
        match shutdown {
            true => w.fleet.shutdown(false).await,
            false => w.fleet.remove(&app()).await,
        }
        request.await.expect("no panic").expect_err("is refused");
        tokio::time::sleep(secs(5)).await;
        assert_eq!(w.engine.counts().create, 1);
        assert!(w.engine.containers().is_empty(), "shutdown: {shutdown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_between_ready_and_in_service_is_not_lost() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", never_ready());
    let request = w.request();
    until("it starts", || w.live() == 1).await;
    let (key, id) = w.app.state.lock().oldest();
    assert_eq!(w.app.state.lock().phase_of(key), "starting");
    let container = w.only_container();
    w.app.container_ended(&container);
    let replica = Arc::new(Replica::new(id, container, None, Vec::new()));
    w.app.state.lock().started(key, replica);
    assert_eq!(w.app.snapshot().in_flight, 0);
    assert!(!request.is_finished());
    assert_eq!(w.app.state.lock().phase_of(key), "failed");
}
