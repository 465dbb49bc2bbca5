//! Delete, shutdown, and what an earlier run left.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    engine::{ContainerState, Endpoints},
    fleet::Until,
    gateway::Routes,
    model::Reason,
};

fn running_at(last: u8) -> ContainerState {
    let ip = Ipv4Addr::new(10, 1, 0, last);
    ContainerState::Running(Some(Endpoints::Direct(ip.into())))
}

#[tokio::test(start_paused = true)]
async fn a_delete_fails_the_held_lets_the_running_finish_and_forces_at_its_limit() {
    for (lasts, takes) in [(secs(10), secs(10)), (LONG, secs(30))] {
        let w = World::new(Revision {
            max_concurrency: 1,
            ..revision(1)
        })
        .await;
        let lease = w.lease().await;
        let held = w.request();
        settle().await;
        let (fleet, began) = (w.fleet.clone(), Instant::now());
        let removal = tokio::spawn(async move { fleet.remove(&app()).await });
        let failure = held.await.expect("no panic").expect_err("is gone");
        assert_eq!(failure.reason, Reason::AppDeleted);
        assert_eq!(w.failure().await.reason, Reason::AppDeleted);
        tokio::time::sleep(lasts.min(secs(60))).await;
        drop(lease);
        removal.await.expect("no panic");
        let took = began.elapsed().min(lasts.min(secs(30)) + ms(50));
        assert!(took >= takes, "{took:?}");
        assert!(w.engine.containers().is_empty() && w.fleet.get(&app()).is_none());
        assert_eq!(w.app.snapshot().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_in_a_start_or_a_publish_leaves_nothing() {
    for at in (0..400).step_by(25).map(ms) {
        let w = World::new(revision(1)).await;
        let request = w.request();
        tokio::time::sleep(at).await;
        w.fleet.remove(&app()).await;
        assert!(w.engine.containers().is_empty(), "after {at:?}");
        let _ = request.await.expect("no panic");

        let w = World::new(revision(1)).await;
        drop(w.lease().await);
        let fleet = w.fleet.clone();
        let publish = tokio::spawn(async move { fleet.prepare(&revision(2)).await });
        tokio::time::sleep(at).await;
        w.fleet.remove(&app()).await;
        assert!(w.engine.containers().is_empty(), "publish, after {at:?}");
        let _ = publish.await.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_takes_everything_or_keeps_what_is_ready() {
    for keep in [false, true] {
        for at in (0..400).step_by(10).map(ms) {
            let w = World::new(Revision {
                max_concurrency: 1,
                ..revision(1)
            })
            .await;
            let served = w.request();
            let held = w.request();
            tokio::time::sleep(at).await;
            let ready = w.app.snapshot().ready;
            w.fleet.shutdown(keep).await;
            let kept = if keep { ready as usize } else { 0 };
            assert_eq!(w.engine.containers().len(), kept, "{keep} {at:?}");
            assert_eq!(w.live(), kept);
            let failure = held.await.expect("no panic").expect_err("is refused");
            assert_eq!(failure.reason, Reason::ShuttingDown);
            assert_eq!(served.await.expect("no panic").is_ok(), ready == 1);
            assert_eq!(w.app.snapshot().in_flight, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_run_adopts_what_matches_and_removes_the_rest() {
    let engine = Fake::new();
    let kept = engine.leave_behind(&spec_of(&revision(2)), running_at(1));
    let mut stranger = spec_of(&revision(2));
    stranger.owner.app = "acme/gone".parse().expect("valid");
    engine.leave_behind(&stranger, running_at(2));
    engine.leave_behind(&spec_of(&revision(1)), running_at(3));
    let mut other = spec_of(&revision(2));
    other.owner.config_hash = "other".into();
    engine.leave_behind(&other, running_at(4));
    let ended = ContainerState::Exited {
        code: 0,
        oom_killed: false,
    };
    engine.leave_behind(&spec_of(&revision(2)), ended);
    let (w, starter) = World::before(engine, config(), revision(2));
    let early = w.request();
    settle().await;
    assert_eq!(w.engine.counts().create, 0, "it may be running already");
    starter.begin();
    let lease = early.await.expect("no panic").expect("is served");
    assert_eq!(lease.replica().container, kept);
    assert!(lease.cold().is_none());
    assert_eq!((w.only_container(), w.engine.counts().create), (kept, 0));
    drop(lease);
    tokio::time::sleep(secs(31)).await;
    assert!(
        w.engine.containers().is_empty(),
        "it scales down as others do"
    );
}

#[tokio::test(start_paused = true)]
async fn adoption_in_excess_is_undone_and_one_that_never_gets_ready_is_replaced() {
    let engine = Fake::new();
    for n in 1..=3 {
        let mut spec = spec_of(&revision(1));
        spec.owner.replica = format!("000000000{n}").parse().expect("valid");
        engine.leave_behind(&spec, running_at(n));
    }
    let (w, starter) = World::before(engine, config(), revision(1));
    starter.begin();
    until("one is left", || w.engine.containers().len() == 1).await;
    assert_eq!(w.version_of(&w.lease().await), 1);

    let engine = Fake::new();
    engine.script("v1", never_ready());
    engine.leave_behind(&spec_of(&revision(1)), running_at(1));
    let (w, starter) = World::before(engine, config(), revision(1));
    starter.begin();
    let held = w.request();
    tokio::time::sleep(secs(59)).await;
    assert_eq!(w.engine.counts().create, 0);
    w.engine.script(
        "v1",
        Script {
            ready: ms(10),
            ..never_ready()
        },
    );
    until("another is started", || w.engine.counts().create == 1).await;
    w.engine.script("v1", Script::default());
    held.await.expect("no panic").expect("is served");
    assert_eq!(w.engine.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publish_or_delete_in_the_midst_of_adoption_wins() {
    for delete in [true, false] {
        let engine = Fake::new();
        engine.script("v1", never_ready());
        engine.leave_behind(&spec_of(&revision(1)), running_at(1));
        let (w, starter) = World::before(engine, config(), revision(1));
        starter.begin();
        until("it is being adopted", || w.app.snapshot().starting == 1).await;
        if delete {
            w.fleet.remove(&app()).await;
            assert!(w.engine.containers().is_empty());
        } else {
            w.fleet.activate(revision(2));
            let lease = w.lease().await;
            assert_eq!(w.only_container(), lease.replica().container);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_platform() {
    let w = World::new(revision(1)).await;
    let app = w.app.clone();
    let wait = tokio::spawn(async move { app.wait(Until::Replicas(1), LONG).await });
    settle().await;
    // As in a stop: event streams end first, and the deployment stays open for a while.
    w.fleet.end_followers();
    let ended = wait
        .await
        .expect("no panic")
        .expect_err("the platform stops");
    assert_eq!(ended.reason, Reason::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_host_stays_with_the_app_that_took_it() {
    let w = World::new(revision(1)).await;
    let routes = Routes::default();
    let on = |app: &str, ports: &[u16]| {
        w.fleet.activate(Revision {
            app: app.parse().expect("valid"),
            ports: ports.to_vec(),
            ..revision(1)
        })
    };
    let leads_to = |routes: &Routes| {
        let route = routes.find("a-dot-b-acme").expect("a route");
        route.deployment.id().to_string()
    };
    // Both names make this label. The first has given it up, and its new route comes late.
    routes.set(&on("acme/a.b", &[80]));
    assert_eq!(leads_to(&routes), "acme/a.b");
    routes.set(&on("acme/a-dot-b", &[80]));
    routes.set(&on("acme/a.b", &[8080]));
    assert_eq!(leads_to(&routes), "acme/a-dot-b");
    routes.remove(&"acme/a.b".parse().expect("valid"));
    assert_eq!(leads_to(&routes), "acme/a-dot-b");
}
