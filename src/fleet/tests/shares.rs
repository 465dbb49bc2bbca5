//! Organizations that compete for the machine: none of them can take everything.

use super::*;
use crate::model::Reason;

/// A fleet on a machine of 400 MB, of which an organization may have 300; apps take 64 each.
async fn world(standby: Standby) -> World {
    let mut config = config();
    config.standby = standby;
    config.bounds.memory = 400 << 20;
    config.bounds.memory_per_org = Share::ThreeQuarters;
    World::with(config, revision(1)).await
}

fn app_of(w: &World, id: &str, reserved: u32) -> Arc<Deployment> {
    let mut r = revision(1);
    r.app = id.parse().expect("valid");
    r.scaling.reserved = reserved;
    w.fleet.activate(r)
}

async fn ask(d: &Arc<Deployment>) -> Result<Lease, Failure> {
    d.acquire(0, Instant::now() + LONG).await
}

fn ready(apps: &[Arc<Deployment>]) -> usize {
    apps.iter().filter(|d| d.snapshot().ready == 1).count()
}

#[tokio::test(start_paused = true)]
async fn reserved_apps_of_one_organization_leave_room_for_another() {
    let w = world(Standby::Absent).await;
    let evil: Vec<_> = (0..6)
        .map(|n| app_of(&w, &format!("evil/a{n}"), 1))
        .collect();
    until("its share is taken", || ready(&evil) == 4).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!(ready(&evil), 4);
    let good = app_of(&w, "good/a", 0);
    let began = Instant::now();
    let served = ask(&good).await.expect("there is capacity for it");
    assert!(began.elapsed() <= START, "at once: {:?}", began.elapsed());
    // The apps over the share say why.
    let waits = evil.iter().find(|d| d.snapshot().ready == 0).expect("two");
    let why = ask(waits).await.expect_err("over the share");
    assert_eq!(why.reason, Reason::NoRoom);
    let text = why.text(true);
    for part in [
        "organization evil has 256 of the 300 MB",
        "IGNITE_MEMORY_BUDGET_PER_ORG",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Capacity that its own organization frees goes to one of them.
    let gone = evil.iter().find(|d| d.snapshot().ready == 1).expect("four");
    w.fleet.remove(gone.id()).await;
    until("another has it", || ready(&evil) == 4).await;
    drop(served);
    w.fleet.shutdown(false).await;
}

#[tokio::test(start_paused = true)]
async fn what_becomes_free_goes_to_the_organization_that_has_least() {
    let w = world(Standby::Absent).await;
    let evil: Vec<_> = (0..4)
        .map(|n| app_of(&w, &format!("evil/a{n}"), 0))
        .collect();
    let other: Vec<_> = (0..3)
        .map(|n| app_of(&w, &format!("other/a{n}"), 0))
        .collect();
    let mut leases = Vec::new();
    for d in evil[..3].iter().chain(&other) {
        leases.push(ask(d).await.expect("capacity"));
    }
    // Six replicas of 64 MB fill the machine. An app of evil asks first, then one whose
    // organization has nothing.
    let good = app_of(&w, "good/a", 0);
    let asks = |d: &Arc<Deployment>| {
        let d = d.clone();
        tokio::spawn(async move { ask(&d).await })
    };
    let (first, second) = (asks(&evil[3]), {
        settle().await;
        asks(&good)
    });
    settle().await;
    drop(leases.remove(3));
    w.fleet.remove(other[0].id()).await;
    let served = second.await.expect("no panic").expect("it has least");
    assert_eq!(good.snapshot().ready, 1);
    assert!(!first.is_finished() && evil[3].snapshot().held == 1);
    // Then it is the turn of the other.
    drop(served);
    w.fleet.remove(good.id()).await;
    first.await.expect("no panic").expect("there is capacity");
    w.fleet.shutdown(false).await;
}

#[tokio::test(start_paused = true)]
async fn frozen_replicas_go_from_the_organization_that_keeps_most() {
    let w = world(Standby::Pause).await;
    let frozen = Script {
        memory: Some(60 << 20),
        ..Script::default()
    };
    w.engine.script("v1", frozen);
    // The least recently used replica belongs to an organization that keeps little.
    let small = app_of(&w, "small/a", 0);
    let large: Vec<_> = (0..4)
        .map(|n| app_of(&w, &format!("large/a{n}"), 0))
        .collect();
    for d in std::iter::once(&small).chain(&large) {
        drop(ask(d).await.expect("capacity"));
        until("it is frozen", || d.snapshot().paused == 1).await;
    }
    // 300 MB are kept and 100 are free: the second request needs an eviction.
    let good: Vec<_> = (0..3)
        .map(|n| app_of(&w, &format!("good/a{n}"), 0))
        .collect();
    let mut leases = Vec::new();
    for d in &good {
        leases.push(ask(d).await.expect("capacity after a while"));
    }
    assert_eq!(small.snapshot().paused, 1);
    let kept = large
        .iter()
        .map(|d| d.snapshot().paused)
        .collect::<Vec<_>>();
    assert_eq!(kept, [0, 0, 1, 1], "the least recently used of them went");
    w.fleet.shutdown(false).await;
}
