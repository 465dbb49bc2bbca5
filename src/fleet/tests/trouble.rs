//! Starts that fail, and an engine that is away.

use super::*;
use crate::model::Reason;

fn reserved(n: u32) -> Revision {
    let mut r = revision(1);
    r.scaling.reserved = n;
    r.scaling.max = n.max(1);
    r
}

#[tokio::test(start_paused = true)]
async fn two_failed_starts_are_certain_and_the_waits_double_up_to_the_cap() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", failing());
    let began = Instant::now();
    let held = [w.request(), w.request()];
    for h in held {
        let failure = h.await.expect("no panic").expect_err("fails");
        assert_eq!(failure.reason, Reason::StartFailed);
    }
    assert!(began.elapsed() < 2 * START + ms(20), "at once");
    assert_eq!(w.engine.counts().create, 2);
    for (tries, wait) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 8)] {
        let now = Instant::now();
        let failure = w.failure().await;
        assert_eq!(now.elapsed(), Duration::ZERO, "refused without a try");
        let wait_left = failure.retry_after.expect("says when");
        assert!(wait_left <= secs(wait) && wait_left > secs(wait) - ms(50));
        assert_eq!(w.engine.counts().create, tries);
        assert!(w.app.snapshot().failing);
        tokio::time::sleep(wait_left).await;
        w.failure().await;
    }
    tokio::time::sleep(secs(8)).await;
    w.engine.script("v1", Script::default());
    drop(w.lease().await);
    assert!(!w.app.snapshot().failing);
    // After a success the next failure counts as the first, and its retry follows at once.
    tokio::time::sleep(secs(40)).await;
    w.engine.script("v1", failing());
    let request = w.request();
    let before = w.engine.counts().create;
    until("the first failure", || {
        w.engine.counts().create == before + 2
    })
    .await;
    w.engine.script("v1", Script::default());
    request.await.expect("no panic").expect("is served");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_exits_says_its_code_and_last_lines() {
    let w = World::new(revision(1)).await;
    w.engine.script(
        "v1",
        Script {
            exits: Some((ms(30), 3)),
            ready: LONG,
            log: vec!["cannot open config".into()],
            ..Script::default()
        },
    );
    let failure = w.failure().await;
    assert_eq!(failure.reason, Reason::ContainerExited);
    let text = failure.text(true);
    assert!(text.contains("exit code 3") && text.contains("cannot open config"));
    settle().await;
    assert!(w.engine.containers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_certain_at_the_first_failure() {
    let w = World::new(revision(1)).await;
    let missing = Error::NoSuchImage {
        reference: "v1".into(),
        cause: "gone".into(),
    };
    w.engine.script(
        "v1",
        Script {
            create_error: Some(missing.clone()),
            pull_error: Some(missing),
            ..Script::default()
        },
    );
    assert_eq!(w.failure().await.reason, Reason::ImageUnavailable);
    let counts = w.engine.counts();
    assert_eq!((counts.create, counts.ensure_image), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_an_engine_requests_fail_at_once_and_its_return_resets_that() {
    let engine = Fake::new();
    engine.set_unreachable(true);
    let (w, starter) = World::before(engine, config(), revision(1));
    let early = w.request();
    settle().await;
    starter.begin();
    // Nothing is known of an earlier run's containers yet, but requests do not wait for that.
    for _ in 0..3 {
        let began = Instant::now();
        let failure = match early.is_finished() {
            false => w.failure().await,
            true => w.failure().await,
        };
        assert_eq!(failure.reason, Reason::EngineUnavailable);
        assert!(began.elapsed() <= secs(1), "{:?}", began.elapsed());
        tokio::time::sleep(ms(700)).await;
    }
    let failure = early.await.expect("no panic").expect_err("no engine");
    assert_eq!(failure.reason, Reason::EngineUnavailable);
    w.engine.set_unreachable(false);
    until("the engine is seen", || w.fleet.settled()).await;
    drop(w.lease().await);
    // Again, now that the fleet has settled, with the replica gone to zero.
    tokio::time::sleep(secs(40)).await;
    w.engine.set_unreachable(true);
    let began = Instant::now();
    assert_eq!(w.failure().await.reason, Reason::EngineUnavailable);
    assert!(began.elapsed() < ms(100));
    let refused = w.fleet.require_engine().expect_err("no engine");
    assert_eq!(refused.reason, Reason::EngineUnavailable);
    w.engine.set_no_descriptors(true);
    until(
        "the cause is the process's own",
        || matches!(w.fleet.require_engine(), Err(e) if e.reason == Reason::NoDescriptors),
    )
    .await;
    assert_eq!(w.failure().await.reason, Reason::NoDescriptors);
    w.engine.set_no_descriptors(false);
    w.engine.set_unreachable(false);
    until("the engine is seen", || w.fleet.require_engine().is_ok()).await;
    assert!(!w.app.snapshot().failing);
    w.lease().await;
}

#[tokio::test(start_paused = true)]
async fn running_replicas_serve_on_while_the_engine_is_away() {
    let w = World::new(revision(1)).await;
    drop(w.lease().await);
    w.engine.set_unreachable(true);
    tokio::time::sleep(secs(20)).await;
    let lease = w.lease().await;
    assert_eq!(w.engine.counts().create, 1);
    drop(lease);
    // It cannot be removed now, so the return of the engine does it.
    tokio::time::sleep(secs(60)).await;
    assert_eq!(w.engine.containers().len(), 1);
    w.engine.set_unreachable(false);
    until("it is removed", || w.engine.containers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn reserved_capacity_is_tried_again_without_requests() {
    let w = World::new(reserved(3)).await;
    until("three are up", || w.app.snapshot().ready == 3).await;
    w.engine.script("v1", failing());
    for c in w.engine.live() {
        w.engine.kill(&c.id, 1);
    }
    let before = w.engine.counts().create;
    tokio::time::sleep(secs(100)).await;
    let tries = w.engine.counts().create - before;
    // Waits of 1, 2, 4, 8, 8, … s; three missing replicas do not triple them.
    assert!((10..=18).contains(&tries), "{tries} tries in 100 s");
    w.engine.script("v1", Script::default());
    tokio::time::sleep(secs(10)).await;
    assert_eq!(w.app.snapshot().ready, 3);
}

#[tokio::test(start_paused = true)]
async fn a_replicas_task_that_panics_is_told_and_nobody_waits_in_vain() {
    let config = config();
    let vitals = config.vitals.clone();
    let w = World::with(config, revision(1)).await;
    w.engine.script(
        "v1",
        Script {
            start_panics: true,
            ..Script::default()
        },
    );
    let held = w.request();
    let part = vitals.failure().await;
    assert!(
        part.contains("replica") && part.contains("acme/web"),
        "{part}"
    );
    // What the server does then.
    w.fleet
        .fail(&crate::vitals::part_failed(Reason::ShuttingDown, &part));
    for failure in [
        held.await.expect("no panic").expect_err("fails"),
        w.failure().await,
    ] {
        assert!(
            failure.message.contains("of the platform failed"),
            "{failure:?}"
        );
    }
}
