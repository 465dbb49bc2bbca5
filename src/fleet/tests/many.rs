//! A thousand apps for a day: bounds, and that every replica follows the formula.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;

use super::*;

const APPS: u64 = 1000;
const HOURS: u64 = 24;

/// A small generator (splitmix64): variety, not quality.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 11
}

#[test]
fn a_thousand_apps_for_a_day_stay_in_bounds_and_follow_the_formula() {
    // The CPU time of this thread alone, which does all the work: other tests run beside it.
    let clock = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let began = clock();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (served, most) = runtime.block_on(day());
    let took = clock().tv_sec - began.tv_sec;
    // The cost depends on the machine, so it is printed and not asserted.
    println!("{served} requests, at most {most} containers ran at once; {took} s of a core");
    assert!(served > 10_000);
}

async fn day() -> (u64, usize) {
    let engine = Fake::new();
    net::lead_to(&engine);
    let config = Config {
        standby: Standby::Pause,
        standby_pause_for: secs(900),
        teardown_after: secs(6 * 3600),
        reconcile_interval: secs(600),
        ..config()
    };
    let (fleet, starter) = Fleet::new(config, Arc::new(engine.clone()));
    let served = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + secs(HOURS * 3600);
    let mut apps = Vec::new();
    let mut clients = JoinSet::new();
    for n in 0..APPS {
        let mut seed = n;
        let mut r = revision(1);
        r.app = format!("acme/app-{n}").parse().expect("valid");
        let max = 1 + next(&mut seed) as u32 % 5;
        r.scaling = Effective {
            reserved: u32::from(n % 100 == 0),
            max,
            scaledown: secs(30 + next(&mut seed) % 270),
            metric: match n % 2 {
                0 => Metric::Concurrency,
                _ => Metric::RequestRate,
            },
            threshold: 1 + next(&mut seed) as u32 % 5,
        };
        let scaling = r.scaling;
        let app = fleet.activate(r);
        apps.push((app.clone(), scaling));
        let served = served.clone();
        // A burst now and then, of some requests at once.
        clients.spawn(async move {
            loop {
                tokio::time::sleep(secs(600 + next(&mut seed) % 14_400)).await;
                if Instant::now() >= end {
                    return;
                }
                let mut leases = Vec::new();
                for _ in 0..1 + next(&mut seed) % 12 {
                    let far = Instant::now() + LONG;
                    leases.push(app.acquire(0, far).await.expect("served"));
                    served.fetch_add(1, Relaxed);
                }
                let in_flight = leases.len() as u32;
                if scaling.metric == Metric::Concurrency {
                    let s = app.snapshot();
                    let formula = in_flight.div_ceil(scaling.threshold).clamp(1, scaling.max);
                    assert!(s.desired >= formula.max(scaling.reserved), "{s:?}");
                    let coming = s.ready + s.starting + s.moving;
                    settle().await;
                    assert!(coming <= scaling.max + 1);
                }
                tokio::time::sleep(ms(50 + next(&mut seed) % 20_000)).await;
            }
        });
    }
    starter.begin();
    let checks = async {
        while Instant::now() < end {
            tokio::time::sleep(secs(397)).await;
            for (app, scaling) in &apps {
                let s = app.snapshot();
                assert!(s.ready + s.starting <= scaling.max, "over the cap: {s:?}");
                assert!(s.ready >= scaling.reserved, "under what is reserved: {s:?}");
            }
        }
    };
    let deaths = async {
        let mut seed = 7;
        while Instant::now() < end {
            tokio::time::sleep(secs(607)).await;
            // Only apps without waiting requests: the others start again at once.
            let idle = apps.iter().find(|(a, s)| {
                let now = a.snapshot();
                s.reserved == 0 && now.ready > 0 && now.in_flight == 0
            });
            if let Some((app, _)) = idle
                && next(&mut seed).is_multiple_of(4)
                && let Some(replica) = app.replicas().first()
                && let Some(id) = &replica.container
            {
                engine.kill(id, 1);
            }
        }
    };
    tokio::join!(checks, deaths);
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    fleet.shutdown(false).await;
    assert!(engine.containers().is_empty());
    (served.load(Relaxed), engine.most_running())
}
