//! Replicas that were once prepared live in the network of their holder, and lose it when the
//! holder ends.

use super::{
    standby::{ask, depths, pausing, put_to_sleep},
    *,
};
use crate::{
    engine::Container,
    fleet::upstream::{Body, Error},
};

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

/// The outcome of a request on the lease's replica.
fn send(lease: &Lease, method: http::Method) -> impl Future<Output = Result<u16, Error>> + use<> {
    let pool = lease.replica().primary().expect("a port").clone();
    let request = http::Request::builder().method(method).uri("/");
    let request = request.header("host", "app").body(Body::Empty);
    async move {
        let answer = pool.send(request.expect("valid")).await?;
        Ok(answer.status().as_u16())
    }
}

/// No packet tells of it: the app runs, and is out of reach.
#[tokio::test(start_paused = true)]
async fn requests_on_a_replica_that_loses_its_network_end_at_once() {
    type End = fn(&Fake, &ContainerId);
    let ends: [End; 2] = [|engine, id| engine.kill(id, 137), Fake::vanish];
    for end in ends {
        let w = World::with(pausing(), revision(1)).await;
        put_to_sleep(&w, "paused").await;
        tokio::time::sleep(secs(601)).await;
        let lease = ask(&w).await;
        // It has a kept connection, and stops answering.
        assert_eq!(
            send(&lease, http::Method::GET).await.expect("answered"),
            200
        );
        w.engine.script("v1", never_ready());
        let [get, post] = [http::Method::GET, http::Method::POST]
            .map(|method| tokio::spawn(send(&lease, method)));
        settle().await;
        assert!(!get.is_finished() && !post.is_finished());
        let holder = w.engine.containers().into_iter().find(|c| c.is_holder);
        end(&w.engine, &holder.expect("it was prepared").id);
        w.engine.script("v1", Script::default());
        let began = Instant::now();
        // The app may have seen it, and it is not repeatable.
        let post = post.await.expect("no panic").expect_err("it is lost");
        assert!(matches!(post, Error::Broke(_)), "{post}");
        // Goes to another replica.
        let get = get.await.expect("no panic").expect_err("not there");
        let unsent = matches!(
            get,
            Error::Connect {
                unsent: Some(_),
                ..
            }
        );
        assert!(unsent, "{get}");
        // By the engine's event, or by the next comparison with its list.
        assert!(began.elapsed() <= secs(11), "{:?}", began.elapsed());
        drop(lease);
        drop(ask(&w).await);
    }
}
