//! The number of replicas follows the formula, up at once and down by the period.

use super::*;

fn scaled(metric: Metric, threshold: u32, max: u32) -> Revision {
    let mut r = revision(1);
    r.scaling = Effective {
        reserved: 0,
        max,
        scaledown: secs(30),
        metric,
        threshold,
    };
    r
}

fn messages(w: &World, kind: EventKind) -> Vec<String> {
    let of = |e: &crate::fleet::Event| (e.kind == kind).then(|| e.message.clone());
    w.app.events().newest(1000).iter().filter_map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_scale_up_at_once_and_down_by_the_largest_of_the_period() {
    let w = World::new(scaled(Metric::Concurrency, 2, 5)).await;
    let mut leases = vec![w.lease().await];
    for n in 2..=8u32 {
        leases.push(w.lease().await);
        settle().await;
        let s = w.app.snapshot();
        assert_eq!(s.ready + s.starting, n.div_ceil(2), "within one decision");
        assert_eq!(s.desired, n.div_ceil(2));
    }
    until("four are ready", || w.app.snapshot().ready == 4).await;
    // Three more than the cap allows.
    for _ in 0..10 {
        leases.push(w.lease().await);
    }
    until("five are ready", || w.app.snapshot().ready == 5).await;
    assert_eq!(w.app.snapshot().desired, 5);
    leases.truncate(3);
    settle().await;
    tokio::time::sleep(secs(29)).await;
    assert_eq!(w.app.snapshot().desired, 5, "the period is not over");
    tokio::time::sleep(secs(3)).await;
    assert_eq!(w.app.snapshot().desired, 2);
    until("two are left", || w.live() == 2).await;
    for lease in &leases {
        let on = &lease.replica().container;
        assert!(
            w.engine.live().iter().any(|c| c.id == *on),
            "no replica is removed under a request"
        );
    }
    leases.clear();
    tokio::time::sleep(secs(31)).await;
    settle().await;
    assert_eq!(w.live(), 0);
    let said = messages(&w, EventKind::Scaled);
    assert_eq!(said[0], "0 → 1: 0 in flight, 1 waiting / 2 per replica");
    assert_eq!(said[1], "1 → 2: 3 in flight / 2 per replica");
    let last = said.last().expect("one");
    assert_eq!(last, "2 → 0: nothing was asked for 30s", "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_minute_scales_up_and_down_without_oscillation() {
    let w = World::new(scaled(Metric::RequestRate, 1, 5)).await;
    // Three requests a second for three minutes: in the end 180 a minute for a target of 60.
    let mut seen = Vec::new();
    for _ in 0..3 * 180 {
        drop(w.lease().await);
        tokio::time::sleep(ms(333)).await;
        let n = w.app.snapshot().desired;
        if seen.last() != Some(&n) {
            seen.push(n);
        }
    }
    assert!(seen == [1, 2, 3] || seen == [1, 2, 3, 4], "{seen:?}");
    let steady = w.app.snapshot().ready;
    assert!((3..=4).contains(&steady));
    // A fall of the rate to almost nothing: the window empties, then the period passes.
    for _ in 0..12 {
        drop(w.lease().await);
        tokio::time::sleep(secs(10)).await;
    }
    assert_eq!(w.app.snapshot().desired, 1);
    until("one is left", || w.live() == 1).await;
    // At zero the window of arrivals wakes nothing.
    tokio::time::sleep(secs(31)).await;
    settle().await;
    assert_eq!((w.live(), w.app.snapshot().desired), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn executions_that_wait_count() {
    let w = World::new(scaled(Metric::Concurrency, 10, 5)).await;
    w.app.set_backlog(25);
    until("three are ready", || w.app.snapshot().ready == 3).await;
    let began = std::time::SystemTime::now();
    for n in 0..100_000u32 {
        w.app.set_backlog(21 + n % 9);
    }
    println!("100,000 changes took {:?}", began.elapsed());
    assert_eq!(w.app.snapshot().desired, 3);
    w.app.set_backlog(0);
    tokio::time::sleep(secs(32)).await;
    settle().await;
    assert_eq!(w.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_draining_replica_serves_again_when_the_load_comes_back() {
    let mut r = scaled(Metric::Concurrency, 1, 2);
    r.max_concurrency = 1;
    let w = World::new(r).await;
    let (a, b) = (w.lease().await, w.lease().await);
    let both = [a.replica().id.clone(), b.replica().id.clone()];
    // Only one may stay; both are busy.
    w.fleet.activate({
        let mut r = scaled(Metric::Concurrency, 1, 1);
        r.max_concurrency = 1;
        r
    });
    settle().await;
    let states: Vec<_> = w.app.replicas().iter().map(|r| r.state).collect();
    assert!(states.contains(&"draining"), "{states:?}");
    w.fleet.activate({
        let mut r = scaled(Metric::Concurrency, 1, 2);
        r.max_concurrency = 1;
        r
    });
    settle().await;
    assert_eq!(w.app.snapshot().ready, 2);
    assert_eq!(w.engine.counts().create, 2, "no start was needed");
    drop((a, b));
    assert!(both.contains(&w.lease().await.replica().id));
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_answering_is_replaced_and_its_requests_may_end() {
    let mut r = scaled(Metric::Concurrency, 10, 1);
    r.scaling.reserved = 1;
    let config = Config {
        liveness_interval: secs(10),
        ..config()
    };
    let w = World::with(config, r).await;
    let lease = w.lease().await;
    let sick = lease.replica().container.clone();
    tokio::time::sleep(secs(100)).await;
    assert_eq!(w.engine.counts().create, 1, "healthy ones are left alone");
    w.engine.script(
        "v1",
        Script {
            status: Some(500),
            ..Script::default()
        },
    );
    until("it is noticed", || {
        !messages(&w, EventKind::ReplicaFailed).is_empty()
    })
    .await;
    w.engine.script("v1", Script::default());
    let other = w.lease().await;
    assert_ne!(other.replica().container, sick);
    assert!(w.engine.live().iter().any(|c| c.id == sick), "it drains");
    // The request on it never ends: it is stopped at the drain timeout.
    tokio::time::sleep(secs(31)).await;
    assert!(!w.engine.live().iter().any(|c| c.id == sick));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_a_replica_reached_is_told_first_and_when_the_count_has_doubled() {
    let config = Config {
        liveness_interval: secs(10),
        ..config()
    };
    let mut r = revision(1);
    r.scaling.reserved = 1;
    let w = World::with(config, r).await;
    drop(w.lease().await);
    for (refused, told) in [(0, 0), (3, 1), (5, 1), (6, 2), (7, 2), (100, 3)] {
        let script = Script {
            forks_refused: refused,
            ..Script::default()
        };
        w.engine.script("v1", script);
        tokio::time::sleep(secs(30)).await;
        let events = messages(&w, EventKind::LimitReached);
        assert_eq!(events.len(), told, "{refused}: {events:?}");
    }
    let events = messages(&w, EventKind::LimitReached);
    assert!(events[0].contains("3 times") && events[0].contains("pids_limit"));
    assert_eq!(w.engine.counts().create, 1, "it is left alone");
}
