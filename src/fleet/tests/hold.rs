//! Requests that wait for a replica.

use std::sync::Mutex;

use super::*;
use crate::model::Reason;

#[tokio::test(start_paused = true)]
async fn one_start_serves_all_that_wait_for_it() {
    let w = World::new(revision(1)).await;
    let began = Instant::now();
    let requests: Vec<_> = (0..200).map(|_| w.request()).collect();
    let mut leases = Vec::new();
    for r in requests {
        leases.push(r.await.expect("no panic").expect("is served"));
    }
    assert!(began.elapsed() < START + ms(20), "{:?}", began.elapsed());
    assert!(leases.iter().all(|l| l.cold().is_some()));
    assert_eq!((w.engine.counts().create, w.engine.counts().start), (1, 1));
    assert_eq!(w.app.snapshot().in_flight, 200);
    assert!(w.lease().await.cold().is_none(), "that one was warm");
    drop(leases);
    assert_eq!(w.app.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn leases_are_granted_in_the_order_of_arrival_and_never_over_the_limit() {
    let w = World::new(Revision {
        max_concurrency: 2,
        ..revision(1)
    })
    .await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for i in 0..20u32 {
        let (app, order) = (w.app.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let lease = app.acquire(0, Instant::now() + LONG).await;
            let _lease = lease.expect("is served");
            order.lock().expect("no panic").push(i);
            assert!(app.snapshot().in_flight <= 2);
            tokio::time::sleep(secs(1)).await;
        }));
        settle().await;
    }
    tasks.remove(4).abort();
    for t in tasks {
        t.await.expect("no panic");
    }
    let expected: Vec<_> = (0..20).filter(|i| *i != 4).collect();
    assert_eq!(*order.lock().expect("no panic"), expected);
    assert_eq!(w.engine.counts().create, 1);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_number_and_bytes() {
    let w = World::with(
        Config {
            hold_max_requests: 3,
            hold_max_bytes: 100,
            ..config()
        },
        revision(1),
    )
    .await;
    let hold = |bytes| {
        let app = w.app.clone();
        tokio::spawn(async move { app.acquire(bytes, Instant::now() + LONG).await })
    };
    let first = hold(60);
    settle().await;
    let full = hold(60).await.expect("no panic").expect_err("too much");
    assert_eq!(full.reason, Reason::HoldQueueFull);
    assert!(full.retry_after.is_some() && full.message.contains("100 bytes"));
    first.abort();
    settle().await;
    let others = [hold(60), hold(0), hold(40)];
    settle().await;
    let full = hold(0).await.expect("no panic").expect_err("too many");
    assert_eq!(full.reason, Reason::HoldQueueFull);
    for o in others {
        o.await.expect("no panic").expect("is served");
    }
    assert_eq!(w.app.state.lock().queued_bytes(), 0);
}

/// Apps of two organizations; those of the first never become ready.
async fn street(requests: (usize, usize), bytes: (usize, usize)) -> (World, [Arc<Deployment>; 3]) {
    let config = Config {
        hold_max_requests: 3,
        hold_limiter: limiter(requests, bytes),
        ..config()
    };
    let w = World::with(config, revision(1)).await;
    w.engine.script("v1", never_ready());
    let of = |id: &str, version| {
        w.fleet.activate(Revision {
            app: id.parse().expect("valid"),
            ..revision(version)
        })
    };
    let apps = [w.app.clone(), of("acme/other", 1), of("good/app", 2)];
    (w, apps)
}

fn hold(app: &Arc<Deployment>, bytes: usize) -> JoinHandle<Result<Lease, Failure>> {
    let app = app.clone();
    tokio::spawn(async move { app.acquire(bytes, Instant::now() + LONG).await })
}

/// Refused before any time has passed.
async fn refusal(app: &Arc<Deployment>, bytes: usize) -> String {
    let began = Instant::now();
    let failure = app.acquire(bytes, began + LONG).await.expect_err("full");
    assert_eq!(failure.reason, Reason::HoldQueueFull);
    assert!(failure.retry_after.is_some() && began.elapsed().is_zero());
    failure.message
}

#[tokio::test(start_paused = true)]
async fn an_organization_holds_its_share_and_another_wakes_beside_it() {
    let (w, [late, other, good]) = street((6, 4), (1000, 1000)).await;
    let limiter = w.app.config.hold_limiter.clone();
    for _ in 0..2 {
        let mut waiting: Vec<_> = (0..3).map(|_| hold(&late, 0)).collect();
        settle().await;
        // The app's own bound leaves part of the share to the owner's other apps.
        assert!(
            refusal(&late, 0)
                .await
                .contains("3 requests held already (IGNITE_HOLD_MAX_REQUESTS)")
        );
        waiting.push(hold(&other, 0));
        settle().await;
        let why = refusal(&other, 0).await;
        assert!(
            why.contains("organization acme has 4 requests")
                && why.contains("(IGNITE_HOLD_MAX_REQUESTS_PER_ORG)"),
            "{why}"
        );
        let lease = hold(&good, 0).await.expect("no panic").expect("is served");
        // A request that gets a replica at once takes no permit.
        waiting.extend([hold(&good, 0), hold(&good, 0)]);
        settle().await;
        assert_eq!(limiter.held(), (4, 0));
        assert_eq!(good.snapshot().in_flight, 3);
        drop(lease);
        for request in waiting {
            request.abort();
        }
        settle().await;
        assert_eq!(limiter.held(), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_all_hold_together_is_bounded_and_ends_with_the_app() {
    let (w, [late, other, good]) = street((5, 4), (100, 70)).await;
    w.engine.script("v2", never_ready());
    let limiter = w.app.config.hold_limiter.clone();
    let waiting = [
        hold(&late, 40),
        hold(&other, 30),
        hold(&good, 20),
        hold(&good, 0),
    ];
    settle().await;
    let why = refusal(&late, 1).await;
    assert!(
        why.contains("organization acme's apps") && why.contains("IGNITE_HOLD_MAX_BYTES_PER_ORG"),
        "{why}"
    );
    let why = refusal(&good, 11).await;
    assert!(
        why.contains("100 bytes (IGNITE_HOLD_MAX_BYTES_TOTAL)"),
        "{why}"
    );
    // A request that was refused for its bytes has taken no permit for a request.
    let last = hold(&late, 0);
    settle().await;
    assert_eq!(limiter.held(), (5, 90));
    let why = refusal(&good, 0).await;
    assert!(
        why.contains("5 requests") && why.contains("IGNITE_HOLD_MAX_REQUESTS_TOTAL"),
        "{why}"
    );
    w.fleet.shutdown(false).await;
    for request in waiting.into_iter().chain([last]) {
        let failure = request.await.expect("no panic").expect_err("it stops");
        assert_eq!(failure.reason, Reason::ShuttingDown);
    }
    assert_eq!(limiter.held(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_gives_up_at_its_own_deadline_and_says_what_it_waited_for() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", never_ready());
    let patient = w.request();
    let began = Instant::now();
    let failure = w.app.acquire(0, began + secs(5)).await.expect_err("late");
    assert_eq!(failure.reason, Reason::ColdStartTimeout);
    assert!(failure.message.contains("is starting"), "{failure}");
    assert!(began.elapsed() < secs(5) + ms(5));
    assert_eq!((w.held(), w.engine.counts().create), (1, 1));
    // The patient one is served although the first start never becomes ready.
    until("the second start", || w.engine.counts().create == 2).await;
    w.engine.script("v1", Script::default());
    patient.await.expect("no panic").expect("is served");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_leaves_in_the_instant_of_its_grant_passes_the_lease_on() {
    let w = World::new(Revision {
        max_concurrency: 1,
        ..revision(1)
    })
    .await;
    let mut leaves = Box::pin(w.app.acquire(7, Instant::now() + LONG));
    assert!(futures_util::poll!(&mut leaves).is_pending());
    let stays = w.request();
    until("the grant", || w.app.snapshot().in_flight == 1).await;
    assert!(!stays.is_finished(), "the lease is on its way to the first");
    drop(leaves);
    let lease = stays.await.expect("no panic").expect("is served");
    assert_eq!(w.app.snapshot().in_flight, 1);
    drop(lease);
    assert_eq!(w.app.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn leaving_at_any_time_leaks_nothing() {
    let mut one_at_a_time = revision(1);
    one_at_a_time.max_concurrency = 1;
    one_at_a_time.scaling.scaledown = ms(100);
    let w = World::new(one_at_a_time).await;
    for after in (0..300).map(ms) {
        let leaving = w.app.acquire(3, Instant::now() + LONG);
        let other = w.request();
        let _ = tokio::time::timeout(after, leaving).await;
        drop(other.await.expect("no panic").expect("is served"));
        settle().await;
        let s = w.app.snapshot();
        assert_eq!((s.in_flight, s.held), (0, 0), "left after {after:?}");
        assert_eq!(w.app.state.lock().queued_bytes(), 0);
        // Cold again, so that the next one leaves at another point of a start.
        until("zero", || w.engine.containers().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_for_the_primary_port_reaches_the_one_there_is_when_it_is_let_go() {
    use crate::{
        fleet::upstream::Body,
        gateway::invoke::{Client, Invocation, invoke},
        model::ExecutionId,
    };
    let on = |version, port| Revision {
        ports: vec![port],
        ..revision(version)
    };
    let w = World::new(on(1, 80)).await;
    w.engine.script("v1", never_ready());
    let upgrades = Default::default();
    let send = |port| {
        let invocation = Invocation {
            deployment: &w.app,
            port,
            execution: ExecutionId(ulid::Ulid::generate()),
            cold_start_budget: LONG,
            attempt: None,
            stall: Duration::ZERO,
            held_bytes: 0,
            half_closed: Duration::ZERO,
            max_hops: 16,
            upgrades: &upgrades,
        };
        let request = http::Request::get("/").body(Body::Empty);
        invoke(invocation, request.expect("a request"), Client::default())
    };
    let mends = async {
        until("they are held", || w.held() == 2).await;
        w.fleet.activate(on(2, 8080));
    };
    let (primary, named, ()) = tokio::join!(send(None), send(Some(80)), mends);
    assert_eq!(primary.expect("an answer").status(), 200);
    let gone = named.err().expect("nobody is there any more");
    assert_eq!(gone.reason, Reason::ReplicaRefused);
    assert!(gone.message.contains("no port 80"), "{}", gone.message);
}
