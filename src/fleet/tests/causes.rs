//! Requests that wait for a replica learn why there is none.

use super::*;
use crate::{engine::Listening, fleet::ProbeOutcome, model::Reason};

/// An app that never becomes ready, and the outcome of its last probe then.
fn unready() -> Vec<(Script, &'static str)> {
    let script = |change: fn(&mut Script)| {
        let mut script = Script::default();
        change(&mut script);
        script
    };
    vec![
        (
            script(|s| s.ready = LONG),
            "GET / on port 8080: nothing listens there (connection refused)",
        ),
        (
            script(|s| s.status = Some(500)),
            "GET / on port 8080: answered 500 Internal Server Error",
        ),
        (
            script(|s| s.status = None),
            "GET / on port 8080: no answer within 5s",
        ),
        (
            script(|s| s.create = LONG),
            "its container is being created",
        ),
        (
            script(|s| s.start = LONG),
            "the engine is starting its container",
        ),
    ]
}

/// The 504 used to say "a replica is starting and not ready yet", whatever the cause.
#[tokio::test(start_paused = true)]
async fn a_held_caller_the_state_and_the_replicas_tell_the_last_probe() {
    for (script, cause) in unready() {
        let w = World::new(revision(1)).await;
        w.engine.script("v1", script);
        let give_up = Instant::now() + secs(20);
        let failure = w.app.acquire(0, give_up).await.expect_err("never ready");
        assert_eq!(failure.reason, Reason::ColdStartTimeout);
        assert!(failure.message.contains(cause), "{cause}: {failure}");
        assert_eq!(w.app.snapshot().not_ready.as_deref(), Some(cause));
        assert_eq!(w.app.replicas()[0].not_ready.as_deref(), Some(cause));
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_lasts_is_an_event_from_the_third_second_on_and_when_its_outcome_changes() {
    let w = World::new(revision(1)).await;
    let answers = |status| Script {
        status: Some(status),
        ..Script::default()
    };
    w.engine.script("v1", answers(503));
    let request = w.request();
    let told = || {
        let of =
            |e: crate::fleet::Event| (e.kind == EventKind::ReplicaNotReady).then_some(e.message);
        w.app
            .events()
            .newest(99)
            .into_iter()
            .filter_map(of)
            .collect::<Vec<_>>()
    };
    tokio::time::sleep(START + ms(2900)).await;
    assert!(told().is_empty());
    until("it is told", || told().len() == 1).await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(
        told(),
        ["GET / on port 8080: answered 503 Service Unavailable"]
    );
    w.engine.script("v1", answers(500));
    until("the change is told", || told().len() == 2).await;
    w.engine.script("v1", Script::default());
    let lease = request.await.expect("no panic").expect("is served");
    let cold = lease.cold().expect("a cold start");
    assert_eq!(cold.last_probe, Some(ProbeOutcome::Status(500)));
    assert_eq!(w.app.snapshot().not_ready, None);
}

#[tokio::test(start_paused = true)]
async fn between_two_starts_a_held_caller_hears_why_the_last_one_failed() {
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
    // The request gives up during the second start.
    let give_up = Instant::now() + START + ms(200);
    let failure = w.app.acquire(0, give_up).await.expect_err("late");
    assert_eq!(failure.reason, Reason::ColdStartTimeout);
    let text = failure.text(true);
    assert!(
        text.contains("the replica before it failed") && text.contains("cannot open config"),
        "{text}"
    );
    assert!(!failure.message.contains("config"), "that is the owner's");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_nobody_chose_is_ready_below_500_and_the_owner_is_told_once() {
    for status in [301, 400, 401, 403, 404, 405] {
        let w = World::new(revision(1)).await;
        let script = Script {
            status: Some(status),
            ..Script::default()
        };
        w.engine.script("v1", script);
        drop(w.lease().await);
        // Down and up again.
        until("it is gone", || w.live() == 0).await;
        drop(w.lease().await);
        let found = w.app.events().cloud_incompatibilities(1);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(&status.to_string()), "{found:?}");

        let mut strict = revision(2);
        strict.health = HealthCheck::Strict;
        strict.image = "v1".into();
        strict.config_hash = "strict".into();
        let refused = w.fleet.prepare(&strict).await;
        // Nothing serves, so nothing is readied; the new version is probed like any other.
        drop(refused);
        w.fleet.activate(strict);
        let late = w.app.acquire(0, Instant::now() + secs(10)).await;
        let failure = late.expect_err("only 2xx is ready");
        assert!(failure.message.contains(&status.to_string()), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_below_500_on_a_path_that_nobody_chose_is_no_liveness_failure() {
    let config = Config {
        liveness_interval: secs(10),
        ..config()
    };
    let mut r = revision(1);
    r.scaling.reserved = 1;
    let w = World::with(config, r).await;
    drop(w.lease().await);
    for status in [401, 429] {
        let script = Script {
            status: Some(status),
            ..Script::default()
        };
        w.engine.script("v1", script);
        tokio::time::sleep(secs(100)).await;
    }
    assert_eq!(w.engine.counts().create, 1, "it is left alone");
}

/// An app that listens on these ports, but not on the one that is probed.
fn elsewhere(open: &[u16]) -> Script {
    Script {
        ready: LONG,
        listening: Some(Listening {
            open: open.iter().copied().collect(),
            loopback: Default::default(),
        }),
        ..Script::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_port_is_shown_early_to_the_owner_and_costs_a_slow_starter_nothing() {
    let w = World::new(revision(1)).await;
    w.engine.script("v1", elsewhere(&[9090]));
    let request = w.request();
    let hint = "the app listens on 9090, and not on port 8080";
    let shown = || {
        w.app
            .snapshot()
            .not_ready
            .is_some_and(|why| why.contains(hint))
    };
    let began = Instant::now();
    until("it is shown", shown).await;
    until("it is an event", || {
        let all = w.app.events().newest(99);
        all.iter()
            .any(|e| e.kind == EventKind::ReplicaNotReady && e.message.contains(hint))
    })
    .await;
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    let late = w.app.acquire(0, Instant::now() + secs(1)).await;
    let failure = late.expect_err("not ready");
    assert!(failure.text(true).contains(hint) && !failure.text(false).contains("9090"));
    // Its first port was one for metrics.
    tokio::time::sleep(secs(50)).await;
    w.engine.script("v1", Script::default());
    request.await.expect("no panic").expect("is served");
    assert_eq!(w.engine.counts().create, 1);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_port_ends_a_check_a_second_start_and_one_of_the_only_exposed_port() {
    let fails = |failure: &Failure| {
        assert_eq!(failure.reason, Reason::NotReady);
        let text = failure.text(true);
        assert!(
            text.contains("listens on 9090") && text.contains("--port"),
            "{text}"
        );
    };
    // The version's first start has its full time; the finding of the first ends the next one
    // early.
    let w = World::new(revision(1)).await;
    w.engine.script("v1", elsewhere(&[9090]));
    let began = Instant::now();
    fails(&w.failure().await);
    let limit = config().startup_timeout + config().wrong_port_timeout;
    let took = began.elapsed();
    assert!(
        took > config().startup_timeout && took < limit + secs(10),
        "{took:?}"
    );

    let mut only = revision(1);
    only.exposed_ports = vec![9090];
    let w = World::new(only).await;
    w.engine.script("v1", elsewhere(&[9090]));
    let began = Instant::now();
    fails(&w.failure().await);
    assert!(
        began.elapsed() < config().startup_timeout,
        "the first caller hears it"
    );

    // A publish beside what serves.
    let w = World::new(revision(1)).await;
    drop(w.lease().await);
    w.engine.script("v2", elsewhere(&[9090]));
    let mut next = revision(2);
    next.config_hash = "other".into();
    let began = Instant::now();
    let Err(failure) = w.fleet.prepare(&next).await else {
        panic!("it cannot get ready")
    };
    fails(&failure);
    assert!(began.elapsed() < config().startup_timeout);
    drop(w.lease().await);

    // Turned off, as under --strict.
    let off = Config {
        wrong_port_timeout: Duration::ZERO,
        ..config()
    };
    let w = World::with(off, revision(1)).await;
    w.engine.script("v1", elsewhere(&[9090]));
    let began = Instant::now();
    fails(&w.failure().await);
    assert!(began.elapsed() > 2 * config().startup_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_follows_the_image_is_reached_by_the_declared_one() {
    let mut r = revision(1);
    (r.ports, r.inner_ports) = (vec![80], vec![8080]);
    let w = World::new(r).await;
    let lease = w.lease().await;
    let (port, pool) = lease.replica().reached(Some(80)).expect("declared");
    assert_eq!((port, pool.addr().port()), (80, 8080));
    assert!(lease.replica().reached(Some(8080)).is_none());
}

/// A single-threaded app with `max_concurrency` 1 used to be killed in the middle of a long
/// request.
#[tokio::test(start_paused = true)]
async fn a_busy_replica_is_not_killed_for_its_health_until_its_request_is_older_than_the_timeout() {
    let config = Config {
        liveness_interval: secs(10),
        ..config()
    };
    let mut r = revision(1);
    r.max_concurrency = 1;
    r.timeout = secs(120);
    let world = || World::with(config.clone(), r.clone());
    let silent = never_ready;
    let failed = |w: &World| {
        let all = w.app.events().newest(99);
        all.iter().any(|e| e.kind == EventKind::ReplicaFailed)
    };

    let w = world().await;
    let lease = w.lease().await;
    w.engine.script("v1", silent());
    tokio::time::sleep(secs(115)).await;
    assert!(!failed(&w), "it is busy");
    tokio::time::sleep(secs(80)).await;
    assert!(failed(&w), "an older request excuses nothing");
    drop(lease);

    // A request whose connection has left HTTP excuses nothing.
    let w = world().await;
    let mut lease = w.lease().await;
    lease.outlive();
    w.engine.script("v1", silent());
    tokio::time::sleep(secs(60)).await;
    assert!(failed(&w));
    drop(lease);

    // Nothing listens any more: being busy does not explain that.
    let w = world().await;
    let lease = w.lease().await;
    w.engine.script(
        "v1",
        Script {
            ready: LONG,
            ..Script::default()
        },
    );
    tokio::time::sleep(secs(60)).await;
    assert!(failed(&w));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_replica_is_told_with_code_and_log_to_its_requests_and_its_owner() {
    let w = World::new(revision(1)).await;
    let log: Vec<String> = (0..30).map(|n| format!("line {n}")).collect();
    w.engine.script(
        "v1",
        Script {
            log,
            ..Script::default()
        },
    );
    let broke = || Failure::new(Reason::ReplicaBroke, "closed").with_detail("eof");
    for (oom, words) in [(false, "SIGSEGV (exit code 139)"), (true, "memory limit")] {
        let lease = w.lease().await;
        let id = lease.replica().container.clone();
        // The connection breaks before the engine reports why.
        let replica = lease.replica().clone();
        let told = tokio::spawn(async move { replica.explain(broke()).await });
        tokio::time::sleep(ms(300)).await;
        match oom {
            true => w.engine.oom_kill(&id),
            false => w.engine.kill(&id, 139),
        }
        let failure = told.await.expect("no panic");
        let text = failure.text(true);
        assert!(text.contains("eof") && text.contains(words), "{text}");
        assert!(
            text.contains("line 0\n") && text.contains("line 29"),
            "{text}"
        );
        assert_eq!(failure.text(false), "closed");
        let (last, _) = w.app.snapshot().last_failure.expect("one");
        assert!(last.text(true).contains(words), "{last:?}");
        let events = w.app.events().newest(99);
        assert!(
            events
                .iter()
                .any(|e| e.kind == EventKind::ReplicaFailed && e.message.contains(words))
        );
        drop(lease);
    }
    // An app that keeps running delays its caller by the wait for that report, and no more.
    let lease = w.lease().await;
    let began = Instant::now();
    let failure = lease.replica().explain(broke()).await;
    assert_eq!(failure.text(true), "closed: eof");
    assert!(began.elapsed() < secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_death_is_said_to_be_a_lack_of_requests() {
    let w = World::new(revision(1)).await;
    drop(w.lease().await);
    let id = w.only_container();
    w.engine.kill(&id, 1);
    until("it is gone", || w.engine.containers().is_empty()).await;
    settle().await;
    let all = w.app.events().newest(99);
    let scaled = all
        .iter()
        .rfind(|e| e.kind == EventKind::Scaled)
        .expect("down");
    assert!(
        scaled
            .message
            .ends_with("no replica is left, and nobody waits for one"),
        "{}",
        scaled.message
    );
}
