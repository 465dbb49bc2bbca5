//! Warm standby: into it, down its depths, and back within one held request.

use http::Request;

use super::*;
use crate::{
    engine::{Container, ContainerState},
    fleet::upstream::{Body, Error},
    model::Reason,
};

pub(super) fn pausing() -> Config {
    Config {
        standby: Standby::Pause,
        ..config()
    }
}

fn preparing() -> Config {
    Config {
        standby: Standby::Prepared,
        ..config()
    }
}

fn paused(w: &World) -> Vec<Container> {
    let all = w.engine.containers();
    let frozen = |c: &Container| matches!(c.state, ContainerState::Paused(_));
    all.into_iter().filter(frozen).collect()
}

pub(super) fn depths(w: &World) -> Vec<&'static str> {
    w.app.replicas().iter().map(|r| r.state).collect()
}

/// Sends a request as the gateway does: a lease, the request through it, and another attempt if it
/// was not sent.
pub(super) async fn ask(w: &World) -> Lease {
    for _ in 0..3 {
        let lease = w.lease().await;
        match send(&lease).await {
            Ok(status) => {
                assert_eq!(status, 200);
                return lease;
            }
            Err(Error::Connect {
                unsent: Some(_), ..
            }) => drop(lease),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never answered");
}

/// Sends one request, then waits until the app is in standby.
pub(super) async fn put_to_sleep(w: &World, state: &str) {
    drop(ask(w).await);
    until(state, || depths(w) == [state]).await;
    let s = w.app.snapshot();
    assert_eq!((s.ready, s.starting, s.desired, s.standby), (0, 0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_not_needed_is_frozen_and_thawed_with_the_request_under_way() {
    let w = World::with(pausing(), revision(1)).await;
    for round in 1..=3 {
        put_to_sleep(&w, "paused").await;
        assert_eq!(paused(&w).len(), 1);
        let began = Instant::now();
        let lease = ask(&w).await;
        let took = began.elapsed();
        assert!(took <= ms(13), "{took:?} for a thaw of 10 ms");
        assert_eq!(lease.cold().map(|_| ()), None, "nothing was started");
        assert_eq!(w.engine.counts().resume, round);
    }
    assert_eq!(w.engine.counts().create, 1);
}

#[tokio::test(start_paused = true)]
async fn standby_goes_deeper_with_time_and_is_gone_when_long_idle() {
    let w = World::with(pausing(), revision(1)).await;
    put_to_sleep(&w, "paused").await;
    let first = paused(&w)[0].id.clone();
    tokio::time::sleep(secs(601)).await;
    assert_eq!(depths(&w), ["prepared"]);
    let left = w.engine.containers();
    assert_eq!(left.len(), 2, "a holder and a container: {left:?}");
    assert!(left.iter().all(|c| c.id != first), "the process is gone");
    assert_eq!(w.engine.counts().stop, 1, "it was stopped as any other");
    let began = Instant::now();
    let lease = ask(&w).await;
    assert!(
        began.elapsed() < ms(215),
        "no create: {:?}",
        began.elapsed()
    );
    assert!(lease.cold().is_some_and(|c| c.create.is_zero()));
    drop(lease);
    // To prepared once more, in the same network; then everything is removed.
    tokio::time::sleep(secs(700)).await;
    assert_eq!(depths(&w), ["prepared"]);
    assert_eq!(w.engine.containers().len(), 2);
    tokio::time::sleep(secs(24 * 3600)).await;
    assert!(w.engine.containers().is_empty() && w.app.replicas().is_empty());
    drop(ask(&w).await);
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_fails_takes_the_next_depth_for_the_same_request() {
    let w = World::with(pausing(), revision(1)).await;
    put_to_sleep(&w, "paused").await;
    let never = Script {
        resume_error: Some(refused()),
        ..Script::default()
    };
    w.engine.script("v1", never);
    let first = w.only_container();
    let lease = ask(&w).await;
    assert_eq!(w.engine.counts().create, 2, "started from nothing");
    assert_eq!(w.app.snapshot().ready, 1);
    assert_ne!(w.only_container(), first);
    let counts = w.engine.counts();
    assert_eq!(
        (counts.resume, counts.stop),
        (1, 0),
        "killed as it was: it had the request too"
    );
    drop(lease);
    // The same from prepared.
    let w = World::with(preparing(), revision(1)).await;
    put_to_sleep(&w, "prepared").await;
    w.engine.script("v1", failing());
    let request = w.request();
    until("it has tried", || w.engine.counts().start > 1).await;
    w.engine.script("v1", Script::default());
    drop(request.await.expect("no panic").expect("is served"));
    assert_eq!(w.engine.counts().create, 2);
    until("what failed is gone", || w.engine.containers().len() == 1).await;
}

/// Sends one request through a lease.
async fn send(lease: &Lease) -> Result<u16, Error> {
    let pool = lease.replica().primary().expect("a port");
    let mut request = Request::get("/").body(Body::Empty).expect("a request");
    let outcome = lease.send(pool, &mut request, None).await;
    outcome.map(|response| response.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_sent_twice_when_nobody_knows_how_its_thaw_ended() {
    // The engine finishes the thaw after the limit, and never.
    for resume in [secs(6), secs(3600)] {
        let w = World::with(pausing(), revision(1)).await;
        put_to_sleep(&w, "paused").await;
        let slow = Script {
            resume,
            ..Script::default()
        };
        w.engine.script("v1", slow);
        let (before, began) = (w.engine.counts().requests, Instant::now());
        let outcome = send(&w.lease().await).await;
        assert!(matches!(outcome, Err(Error::Broke(_))), "{outcome:?}");
        assert!(began.elapsed() < secs(6), "{:?}", began.elapsed());
        tokio::time::sleep(secs(20)).await;
        let ran = w.engine.counts().requests - before;
        assert_eq!(ran, 0, "it was killed in its sleep");
        w.engine.script("v1", Script::default());
        drop(ask(&w).await);
    }
    // The engine is away, so nothing can be killed either.
    let w = World::with(pausing(), revision(1)).await;
    put_to_sleep(&w, "paused").await;
    let lease = w.lease().await;
    w.engine.set_unreachable(true);
    let outcome = send(&lease).await;
    assert!(matches!(outcome, Err(Error::Lost)), "{outcome:?}");
    drop(lease);
    // It ran, and ended before the engine reported it.
    let w = World::with(pausing(), revision(1)).await;
    put_to_sleep(&w, "paused").await;
    let (id, lease) = (w.only_container(), w.lease().await);
    let dies = async {
        tokio::time::sleep(ms(5)).await;
        w.engine.kill(&id, 137);
    };
    let (outcome, ()) = tokio::join!(send(&lease), dies);
    assert!(matches!(outcome, Err(Error::Broke(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_in_its_sleep_is_noticed_and_costs_no_request() {
    for silently in [false, true] {
        let w = World::with(pausing(), revision(1)).await;
        put_to_sleep(&w, "paused").await;
        let id = w.only_container();
        match silently {
            true => w.engine.kill_silently(&id, 137),
            false => w.engine.kill(&id, 137),
        }
        if !silently {
            until("it is removed", || w.engine.containers().is_empty()).await;
        }
        drop(ask(&w).await);
    }
    // Without a request it is removed at the next reconciliation.
    for depth in ["paused", "prepared"] {
        let config = if depth == "paused" {
            pausing()
        } else {
            preparing()
        };
        let w = World::with(config, revision(1)).await;
        put_to_sleep(&w, depth).await;
        let first = w.engine.containers()[0].id.clone();
        w.engine.kill_silently(&first, 137);
        until("all is gone", || w.engine.containers().is_empty()).await;
    }
}

/// A lasting refusal.
fn lasting() -> crate::engine::Error {
    crate::engine::Error::Refused {
        call: "freeze the container",
        status: 0,
        message: "there is no freezer".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_freeze_or_prepare_is_not_asked_again() {
    let w = World::with(pausing(), revision(1)).await;
    w.engine.script(
        "v1",
        Script {
            pause_error: Some(lasting()),
            ..Script::default()
        },
    );
    put_to_sleep(&w, "prepared").await;
    tokio::time::sleep(config().backoff_max * 2).await;
    put_to_sleep(&w, "prepared").await;
    assert_eq!(w.engine.counts().pause, 1);
    w.engine.script(
        "v1",
        Script {
            prepare_error: Some(lasting()),
            ..Script::default()
        },
    );
    for _ in 0..2 {
        drop(ask(&w).await);
        until("it is gone", || w.engine.containers().is_empty()).await;
        tokio::time::sleep(config().backoff_max * 2).await;
    }
    assert_eq!(w.engine.counts().prepare, 3);
}

#[tokio::test(start_paused = true)]
async fn a_passing_refusal_to_freeze_or_prepare_costs_no_standby_later() {
    let w = World::with(pausing(), revision(1)).await;
    let busy = Script {
        pause_error: Some(refused()),
        prepare_error: Some(refused()),
        ..Script::default()
    };
    w.engine.script("v1", busy);
    for asked in 1..=2 {
        drop(ask(&w).await);
        until("it is gone", || w.engine.containers().is_empty()).await;
        let counts = w.engine.counts();
        assert_eq!((counts.pause, counts.prepare), (asked, asked));
        tokio::time::sleep(config().backoff_max).await;
    }
    w.engine.script("v1", Script::default());
    put_to_sleep(&w, "paused").await;
}

#[tokio::test(start_paused = true)]
async fn a_second_replica_comes_from_standby_too() {
    let mut r = revision(1);
    r.scaling.max = 3;
    r.scaling.threshold = 1;
    let w = World::with(pausing(), r).await;
    let leases = [w.lease().await, w.lease().await, w.lease().await];
    until("three are ready", || w.app.snapshot().ready == 3).await;
    drop(leases);
    until("all sleep", || w.app.snapshot().standby == 3).await;
    let (_a, _b) = (ask(&w).await, ask(&w).await);
    settle().await;
    let s = w.app.snapshot();
    assert_eq!((s.ready + s.starting, s.standby), (2, 1));
    assert_eq!(w.engine.counts().create, 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_instant_of_freezing_waits_for_it_and_is_served() {
    for early in 0..40 {
        let w = World::with(pausing(), revision(1)).await;
        drop(ask(&w).await);
        tokio::time::sleep(secs(30) + ms(20) - ms(early)).await;
        drop(ask(&w).await);
        assert_eq!(w.engine.counts().create, 1);
        w.fleet.shutdown(false).await;
        assert!(w.engine.containers().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn standby_of_another_configuration_is_dropped() {
    for config in [pausing(), preparing()] {
        let w = World::with(config, revision(1)).await;
        drop(ask(&w).await);
        until("it sleeps", || w.app.snapshot().standby == 1).await;
        tokio::time::sleep(secs(5)).await;
        w.fleet.activate(revision(2));
        until("it is dropped", || w.engine.containers().is_empty()).await;
        assert_eq!(w.version_of(&ask(&w).await), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_apps_own_choice_of_standby_goes_over_the_platforms() {
    let mut r = revision(1);
    r.standby = Some(Standby::Absent);
    let w = World::with(pausing(), r).await;
    drop(ask(&w).await);
    until("it is gone", || w.engine.containers().is_empty()).await;
    assert_eq!(w.engine.counts().pause, 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_run_takes_up_what_is_frozen_and_removes_what_is_prepared() {
    let w = World::with(pausing(), revision(1)).await;
    put_to_sleep(&w, "paused").await;
    let id = w.only_container();
    w.fleet.shutdown(true).await;
    let (w, starter) = World::before(w.engine.clone(), pausing(), revision(1));
    starter.begin();
    until("it is taken up", || depths(&w) == ["paused"]).await;
    assert_eq!(ask(&w).await.replica().container, id);
    // Without standby a frozen replica is not adopted.
    until("it sleeps", || depths(&w) == ["paused"]).await;
    w.fleet.shutdown(true).await;
    let (w, starter) = World::before(w.engine.clone(), config(), revision(1));
    starter.begin();
    until("it is removed", || w.engine.containers().is_empty()).await;

    let w = World::with(preparing(), revision(1)).await;
    put_to_sleep(&w, "prepared").await;
    w.fleet.shutdown(true).await;
    assert_eq!(w.engine.containers().len(), 2);
    let (w, starter) = World::before(w.engine.clone(), preparing(), revision(1));
    starter.begin();
    until("they are removed", || w.engine.containers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_machine_is_full_standby_goes_first_then_requests_wait_then_they_are_told() {
    let mut config = pausing();
    // Two replicas of 64 MB and a bit.
    config.bounds.memory = 150 << 20;
    let w = World::with(config, revision(1)).await;
    let script = Script {
        memory: Some(60 << 20),
        ..Script::default()
    };
    w.engine.script("v1", script);
    put_to_sleep(&w, "paused").await;
    let other = |name: &str| {
        let mut r = revision(1);
        r.app = name.parse().expect("valid");
        w.fleet.activate(r)
    };
    let (b, c) = (other("acme/b"), other("acme/c"));
    let far = Instant::now() + LONG;
    let first = b.acquire(0, far).await.expect("capacity");
    // The frozen replica is prepared to free memory for the third.
    let second = c.acquire(0, far).await.expect("capacity after a while");
    assert_eq!(depths(&w), ["prepared"]);
    // The first app again: no capacity. It waits, then is refused.
    let began = Instant::now();
    let why = w.failure().await;
    assert_eq!((why.reason, began.elapsed()), (Reason::NoRoom, secs(20)));
    let text = why.text(true);
    assert!(text.contains("acme/b 1 replicas with 64 MB"), "{text}");
    let began = Instant::now();
    assert_eq!(w.failure().await.reason, Reason::NoRoom);
    assert!(began.elapsed() < ms(5), "at once by now");
    // Capacity that is given back is used, also by a waiting app.
    drop(second);
    until("it is frozen", || c.snapshot().paused == 1).await;
    let lease = ask(&w).await;
    drop((lease, first));
}

#[tokio::test(start_paused = true)]
async fn one_shortage_is_told_once_and_waited_for_once_however_often_it_is_looked_at() {
    // The eviction of the frozen replica takes up to a second, or never ends.
    for goes in [true, false] {
        let mut config = pausing();
        config.bounds.memory = 150 << 20;
        let w = World::with(config, revision(1)).await;
        let frozen = Script {
            memory: Some(60 << 20),
            stop: secs(1),
            ..Script::default()
        };
        w.engine.script("v1", frozen.clone());
        put_to_sleep(&w, "paused").await;
        if !goes {
            let create = LONG;
            w.engine.script("v1", Script { create, ..frozen });
        }
        let other = |name: &str| {
            let mut r = revision(2);
            r.app = name.parse().expect("valid");
            w.fleet.activate(r)
        };
        let (b, c) = (other("acme/b"), other("acme/c"));
        let _first = b.acquire(0, Instant::now() + LONG).await.expect("capacity");
        let began = Instant::now();
        let mut requests = Vec::new();
        for _ in 0..80 {
            let c = c.clone();
            let request = async move { c.acquire(0, Instant::now() + LONG).await };
            requests.push(tokio::spawn(request));
            tokio::time::sleep(ms(10)).await;
        }
        let first = requests.remove(0).await.expect("no panic");
        let took = began.elapsed();
        match goes {
            true => assert!(first.is_ok() && took < secs(2), "{took:?}"),
            false => {
                let why = first.expect_err("there is no capacity");
                assert_eq!((why.reason, took), (Reason::NoRoom, secs(20)));
            }
        }
        let told = c.events().newest(1000);
        let told = told.iter().filter(|e| e.kind == EventKind::NoRoom).count();
        assert_eq!(told, 1);
        requests.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_are_moved_and_waited_for_by_hand() {
    use crate::fleet::Until;
    let mut r = revision(1);
    r.scaling.max = 3;
    let w = World::with(pausing(), r).await;
    w.app.scale(3).expect("within bounds");
    let s = w.app.wait(Until::Replicas(3), secs(5)).await;
    assert_eq!(s.expect("three").ready, 3);
    assert!(w.app.scale(4).is_err());
    w.app.scale(1).expect("within bounds");
    w.app.wait(Until::Replicas(1), secs(5)).await.expect("one");
    assert_eq!(w.app.snapshot().paused, 2);
    w.app.idle(Some(Standby::Prepared)).expect("nobody asks");
    let deep = Until::Idle(Some(Standby::Prepared));
    w.app.wait(deep, secs(5)).await.expect("prepared");
    assert_eq!(w.app.snapshot().prepared, 3);
    w.app.idle(Some(Standby::Absent)).expect("nobody asks");
    w.app
        .wait(Until::Idle(Some(Standby::Absent)), secs(5))
        .await
        .expect("gone");
    assert!(w.engine.containers().is_empty());
    let late = w
        .app
        .wait(Until::Replicas(1), secs(5))
        .await
        .expect_err("never");
    assert_eq!(late.reason, Reason::WaitTimeout);
    // Pinned at zero, the app holds requests until it is unpinned.
    w.app.pin(true).expect("open");
    let held = w.request();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(w.held(), 1);
    w.app.pin(false).expect("open");
    let lease = held.await.expect("no panic").expect("served");
    assert!(w.app.idle(None).is_err(), "it is asked");
    drop(lease);
    // Scaled by hand, the app returns to the number for its load after the period.
    w.app.scale(2).expect("within bounds");
    tokio::time::sleep(secs(29)).await;
    assert_eq!(w.app.snapshot().ready, 2);
    tokio::time::sleep(secs(40)).await;
    assert_eq!(w.app.snapshot().ready, 0);
}

#[tokio::test(start_paused = true)]
async fn memory_that_cannot_be_measured_counts_as_the_limit_so_that_the_budget_holds() {
    let mut config = pausing();
    config.bounds.memory = 150 << 20;
    let w = World::with(config, revision(1)).await;
    let unmeasured = Script {
        memory: None,
        ..Script::default()
    };
    w.engine.script("v1", unmeasured);
    put_to_sleep(&w, "paused").await;
    let frozen = w.app.events().newest(1000);
    let frozen = frozen.iter().find(|e| e.kind == EventKind::ReplicaPaused);
    let text = &frozen.expect("it was frozen").message;
    assert!(text.contains("limit of 64 MB"), "{text}");
    let other = |name: &str| {
        let mut r = revision(1);
        r.app = name.parse().expect("valid");
        w.fleet.activate(r)
    };
    let (b, c) = (other("acme/b"), other("acme/c"));
    let far = Instant::now() + LONG;
    let _first = b.acquire(0, far).await.expect("capacity");
    assert_eq!(depths(&w), ["paused"]);
    // Counted as nothing, it would stay, and 192 MB would be taken of the 150.
    let _second = c.acquire(0, far).await.expect("capacity after a while");
    assert_eq!(depths(&w), ["prepared"]);
}
