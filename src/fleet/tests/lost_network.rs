//! Replicas that were once prepared live in the network of their holder, and lose it when the
//! holder ends.

use super::{
    standby::{ask, depths, pausing, put_to_sleep},
    *,
};
use crate::engine::Container;

#[tokio::test(start_paused = true)]
async fn a_replica_that_loses_what_keeps_its_network_is_replaced_whatever_it_does() {
    type End = fn(&Fake, &ContainerId);
    let ends: [End; 3] = [
        |engine, id| engine.kill(id, 137),
        |engine, id| engine.kill_silently(id, 137),
        Fake::vanish,
    ];
    for end in ends {
        for state in ["ready", "paused", "prepared", "starting"] {
            let w = World::with(pausing(), revision(1)).await;
            put_to_sleep(&w, "paused").await;
            tokio::time::sleep(secs(601)).await;
            match state {
                "starting" => w.engine.script("v1", never_ready()),
                "ready" | "paused" => drop(ask(&w).await),
                _ => {}
            }
            let request = (state == "starting").then(|| w.request());
            until(state, || depths(&w) == [state]).await;
            let all = w.engine.containers();
            let holder = all.iter().find(|c| c.is_holder).expect("it was prepared");
            end(&w.engine, &holder.id);
            w.engine.script("v1", Script::default());
            // An event reports it at once; otherwise the next reconciliation finds it.
            tokio::time::sleep(secs(11)).await;
            if let Some(request) = request {
                drop(request.await.expect("no panic").expect("is served"));
            }
            drop(ask(&w).await);
            let left = w.engine.containers();
            let is_new = |c: &Container| all.iter().all(|was| was.id != c.id);
            assert!(left.iter().all(is_new), "{state}: {left:?}");
        }
    }
}
