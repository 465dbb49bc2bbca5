//! The scripted engine follows its script.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::*;
use crate::engine::{Engine as _, Owner};

fn spec() -> ContainerSpec {
    ContainerSpec {
        owner: Owner {
            app: "acme/a".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 1,
            config_hash: String::new(),
        },
        image: "app".into(),
        overlay: None,
        env: BTreeMap::new(),
        capabilities: Default::default(),
        egress: Default::default(),
        init: false,
        files: crate::model::files::Files {
            read_only: true,
            always_read_only: false,
            home: Default::default(),
            scratch_bytes: 0,
            kept_since: None,
        },
        host_label: "a-acme".into(),
        ports: vec![80],
        memory_bytes: 0,
        cpu_millicores: 0,
        pids: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_and_ends_by_its_script() {
    let fake = Fake::new();
    let (start, exits) = (Duration::from_secs(2), Some((Duration::from_secs(5), 3)));
    fake.script(
        "app",
        Script {
            start,
            exits,
            log: vec!["a".into(), "b".into()],
            ..Script::default()
        },
    );
    let mut deaths = fake.deaths();
    let id = fake.create(&spec()).await.expect("creates");
    let begin = Instant::now();
    fake.start(&id).await.expect("starts");
    assert_eq!((begin.elapsed(), fake.live().len()), (start, 1));
    assert_eq!(deaths.next().await, Some(id.clone()));
    assert_eq!(begin.elapsed(), Duration::from_secs(7));
    let ended = fake.inspect(&id).await.expect("is there");
    assert_eq!(
        ended.state,
        ContainerState::Exited {
            code: 3,
            oom_killed: false
        }
    );
    assert_eq!(fake.log_tail(&id, 1).await.expect("has a log"), ["b"]);
    fake.remove(&id).await.expect("removes");
    assert!(matches!(
        fake.inspect(&id).await,
        Err(Error::NoSuchContainer(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_fails_calls_and_ends_events() {
    let fake = Fake::new();
    let mut deaths = fake.deaths();
    fake.set_unreachable(true);
    assert_eq!(deaths.next().await, None);
    assert!(matches!(
        fake.create(&spec()).await,
        Err(Error::Unreachable { .. })
    ));
    fake.set_unreachable(false);
    assert!(fake.create(&spec()).await.is_ok());
    assert_eq!(fake.counts().create, 2);
}
