//! Pages of executions, and watchers of one.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_newest_first_over_apps_segments_and_what_has_not_ended() {
    let bench = Bench::new(|_| ());
    let (store, _accepted) = bench.open();
    let mut ids = Vec::new();
    for n in 0..30 {
        bench.later(HOUR * 3);
        let id = accept(&store, if n % 3 == 0 { "o/b" } else { "o/a" }).await;
        match n % 4 {
            0 => {}
            1 => drop(begin(&store, id).await),
            _ => finish(&store, id, 200, b"").await,
        }
        ids.push(id);
    }
    ids.reverse();
    let all = Filter {
        apps: vec![id("o/a"), id("o/b")],
        status: None,
        from_ms: 0,
        to_ms: u64::MAX,
        before: None,
        limit: 7,
    };
    let mut seen = Vec::new();
    let mut filter = all.clone();
    loop {
        let page = listed(&store, filter.clone()).await;
        seen.extend(page.iter().map(|r| r.identity.id));
        match page.last() {
            Some(last) if page.len() == 7 => filter.before = Some(last.identity.id),
            _ => break,
        }
    }
    assert_eq!(seen, ids);
    let within = Filter {
        from_ms: ids[20].0.timestamp_ms(),
        to_ms: ids[10].0.timestamp_ms(),
        status: Some(Status::Completed),
        limit: 100,
        ..all
    };
    let page = listed(&store, within).await;
    let wanted: Vec<_> = (11..=20)
        .filter(|at| (29 - at) % 4 >= 2)
        .map(|at| ids[at])
        .collect();
    assert_eq!(
        page.iter().map(|r| r.identity.id).collect::<Vec<_>>(),
        wanted
    );
    store.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_watcher_gets_what_is_kept_then_what_comes_and_the_end_and_a_slow_one_holds_nobody()
{
    let bench = Bench::new(|_| ());
    let (store, mut accepted) = bench.open();
    let id = accept(&store, "o/a").await;
    let live = accepted.recv().await.expect("handed over");
    let mut early = live.watch();
    let attempt = begin(&store, id).await;
    // 1024 bytes are kept: a late watcher misses the first of three pieces.
    for n in 0..3u8 {
        live.put_out(Bytes::from(vec![n; 500]), store.output_keep());
    }
    let mut late = live.watch();
    let completion = Completion::answered(200, Duration::ZERO, 0);
    let change = Change::Finish {
        attempt,
        completion,
    };
    store
        .change(id, change, None)
        .await
        .expect("saved")
        .expect("ends");
    let mut heard = Vec::new();
    for watcher in [&mut early, &mut late] {
        loop {
            match watcher.next().await {
                Update::Output(piece) => heard.push(format!("output {}", piece[0])),
                Update::State(state) => {
                    heard.push(format!("{:?}", state.status));
                    if state.status.is_terminal() {
                        break;
                    }
                }
            }
        }
    }
    assert_eq!(
        heard,
        [
            "Pending",
            "Running",
            "output 1",
            "output 2",
            "Completed", //
            "Running",
            "output 1",
            "output 2",
            "Completed"
        ]
    );
    store.close();
}
