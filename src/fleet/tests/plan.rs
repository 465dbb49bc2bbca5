//! The decision of one step, without the tasks around it.

use super::*;
use crate::{
    fleet::state::{Action, Plan, testing::In},
    model::Reason,
};

fn fixture(reserved: u32, max: u32) -> Arc<Deployment> {
    let mut r = revision(1);
    r.scaling.reserved = reserved;
    r.scaling.max = max;
    {
        let config = config();
        let capacity = crate::fleet::capacity::Capacity::new(config.bounds);
        Deployment::new(Arc::new(config), capacity, r, true, Arc::default())
    }
}

/// Adds a replica; its key is the number that orders it by use.
fn add(d: &Deployment, phase: In, in_flight: u32) -> u64 {
    d.state.lock().add(phase, in_flight)
}

fn plan(d: &Deployment) -> Plan {
    d.state.lock().plan(Instant::now())
}

fn starts(plan: &Plan) -> usize {
    let is_start = |a: &&Action| matches!(a, Action::Start { .. });
    plan.actions.iter().filter(is_start).count()
}

fn stops(plan: &Plan) -> Vec<u64> {
    let key = |a: &Action| match a {
        Action::Stop { key, .. } => Some(*key),
        _ => None,
    };
    plan.actions.iter().filter_map(key).collect()
}

fn called_off(d: &Deployment) -> Vec<u64> {
    d.state.lock().called_off()
}

fn phase(d: &Deployment, key: u64) -> &'static str {
    d.state.lock().phase_of(key)
}

#[tokio::test(start_paused = true)]
async fn surplus_goes_in_the_order_starting_then_longest_unused_and_never_busy() {
    let d = fixture(4, 4);
    let busy = add(&d, In::Ready, 1);
    let older = add(&d, In::Ready, 0);
    let newer = add(&d, In::Ready, 0);
    let starts_up = add(&d, In::Starting, 0);
    let first = plan(&d);
    assert_eq!((starts(&first), stops(&first)), (0, Vec::new()));
    let shrink = |max| {
        let mut r = revision(1);
        r.scaling.reserved = max;
        r.scaling.max = max;
        d.activate(r);
    };
    shrink(3);
    assert!(stops(&plan(&d)).is_empty());
    assert_eq!(called_off(&d), [starts_up]);
    shrink(2);
    assert_eq!(stops(&plan(&d)), [older]);
    shrink(1);
    assert_eq!(stops(&plan(&d)), [newer]);
    assert!(!d.state.lock().wakes_when_spare());
    let other = add(&d, In::Ready, 1);
    assert!(stops(&plan(&d)).is_empty() && d.state.lock().wakes_when_spare());
    // The least recently used of the busy ones takes no more and finishes what it has.
    assert_eq!(phase(&d, busy), "draining");
    assert_eq!(phase(&d, other), "ready");
    // The other is idle first, so it is stopped instead.
    d.state.lock().end_one(other);
    assert_eq!(stops(&plan(&d)), [other]);
    assert_eq!(phase(&d, busy), "ready");
}

#[tokio::test(start_paused = true)]
async fn replicas_of_an_old_generation_drain_and_its_starts_are_called_off() {
    let d = fixture(0, 1);
    let idle = add(&d, In::Ready, 0);
    let busy = add(&d, In::Ready, 1);
    let starts_up = add(&d, In::Starting, 0);
    d.activate(revision(2));
    let plan = plan(&d);
    assert_eq!(
        (stops(&plan), called_off(&d)),
        (vec![idle], vec![starts_up])
    );
    // The running request is demand for which the new revision needs a replica.
    assert_eq!(starts(&plan), 1);
    assert_eq!(phase(&d, busy), "draining");
}

#[tokio::test(start_paused = true)]
async fn missing_replicas_start_at_once_or_one_at_a_time_while_starts_fail() {
    let d = fixture(3, 3);
    assert_eq!(starts(&plan(&d)), 3);
    let d = fixture(3, 3);
    d.state.lock().fail_a_start();
    assert_eq!(starts(&plan(&d)), 1);
    assert_eq!(starts(&plan(&d)), 0, "one tries already");
    let d = fixture(3, 3);
    let later = Instant::now() + secs(4);
    let away = Failure::new(Reason::EngineUnavailable, "away");
    d.state.lock().engine_gone(&away, secs(4));
    let waits = plan(&d);
    assert_eq!((starts(&waits), waits.wake_at), (0, Some(later)));
    tokio::time::sleep(secs(4)).await;
    assert_eq!(starts(&plan(&d)), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_app_is_looked_at_when_its_period_ends_and_a_busy_one_tells() {
    let d = fixture(0, 1);
    let key = add(&d, In::Ready, 1);
    assert_eq!(plan(&d).wake_at, None);
    assert!(d.state.lock().wakes_when_idle());
    d.state.lock().end_one(key);
    assert_eq!(plan(&d).wake_at, Some(Instant::now() + secs(30)));
    tokio::time::sleep(secs(30)).await;
    let end = plan(&d);
    assert_eq!((stops(&end), end.wake_at), (vec![key], None));
}

#[tokio::test(start_paused = true)]
async fn a_closed_app_waits_for_its_requests_and_then_forces() {
    let d = fixture(1, 2);
    let busy = add(&d, In::Ready, 1);
    let idle = add(&d, In::Ready, 0);
    let ended = add(&d, In::Failed, 1);
    let starts_up = add(&d, In::Starting, 0);
    d.close(Failure::new(Reason::AppDeleted, "gone"), true);
    let first = plan(&d);
    assert_eq!(stops(&first), [idle, ended]);
    assert_eq!(called_off(&d), [starts_up]);
    assert_eq!(first.wake_at, Some(Instant::now() + secs(30)));
    // The platform stops: the grace is over.
    d.close(Failure::new(Reason::ShuttingDown, "stops"), false);
    let last = plan(&d);
    assert_eq!((stops(&last), last.wake_at), (vec![busy], None));
    let why = d.acquire(0, Instant::now()).await.expect_err("is closed");
    assert_eq!(why.reason, Reason::AppDeleted);
}
