//! Executions and a server that is killed: nothing acknowledged is lost, nothing that has ended
//! changes, and what was running runs again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    executions::{LIMIT, ended, get, is_terminal, served, submit},
    support::{contract::Via, engine, eventually, eventually_ok, http, ignite::Ignite},
};

/// How often the server is killed.
const KILLS: u32 = 30;
const CLIENTS: usize = 4;

/// What the clients know: each acknowledged id, and how it ended if they saw that.
#[derive(Default)]
struct Known {
    /// In the order of their acknowledgements, which is about that of their runs.
    ids: Vec<String>,
    ends: HashMap<String, Value>,
}

impl Known {
    /// The oldest execution that was not seen to have ended: the next to end, however long the
    /// queue is that a fast machine builds up between two kills.
    fn oldest_open(&self) -> Option<String> {
        let mut open = self.ids.iter().filter(|id| !self.ends.contains_key(*id));
        open.next().cloned()
    }
}

/// Bytes that differ from run to run; a failing test prints them.
fn random() -> u64 {
    ulid::Ulid::generate().random() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thirty_kills_under_load_lose_nothing_that_was_acknowledged() {
    // A journal so short that kills also hit while the databases catch up with it.
    let builder = Ignite::builder().env("IGNITE_EXECUTION_JOURNAL_BYTES", "16384");
    let (mut ignite, _app, token) = served(builder, json!({ "max_concurrency": 8 })).await;
    let known = Arc::new(Mutex::new(Known::default()));
    for round in 0..KILLS {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client {
                addr: ignite.http_addr(),
                token: token.clone(),
                known: known.clone(),
                stop: stop.clone(),
            };
            clients.spawn(client.run());
        }
        // At a random moment, from the first requests to well into the load, however fast the
        // machine is.
        let acknowledged = || known.lock().expect("not poisoned").ids.len();
        let moment = acknowledged() as u64 + random() % 60;
        eventually(LIMIT, || async {
            (acknowledged() as u64 >= moment).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_micros(random() % 50_000)).await;
        ignite.kill9();
        stop.store(true, SeqCst);
        while let Some(client) = clients.join_next().await {
            client.expect("no client panicked");
        }
        ignite.start().await;
        let log = ignite.log();
        assert!(
            !log.contains("panicked"),
            "round {round}, killed after {moment} were acknowledged: {log}"
        );
    }
    let Known { ids, ends } = std::mem::take(&mut *known.lock().expect("not poisoned"));
    assert!(
        ids.len() > 2 * KILLS as usize,
        "only {} were acknowledged",
        ids.len()
    );
    let mut repeated = 0;
    for id in &ids {
        let done = ended(&ignite, Via::Json, &token, id).await;
        assert_ne!(done["status"], "EXECUTION_STATUS_TIMEOUT", "{done}");
        if let Some(seen) = ends.get(id) {
            assert_eq!(seen, &done, "an end that was seen has changed");
        }
        let attempt = done["attempt"].as_i64().expect("an attempt");
        assert_eq!(
            done["responseHeaders"]["x-probe-attempt"],
            attempt.to_string(),
            "{done}"
        );
        repeated += i64::from(attempt > 1);
    }
    println!(
        "{KILLS} kills, {} acknowledged, {} seen ended before, {repeated} ran again",
        ids.len(),
        ends.len()
    );
    assert!(!ends.is_empty(), "no end was seen before a kill");
    assert!(repeated > 0, "no kill hit a running execution");
}

struct Client {
    addr: std::net::SocketAddr,
    token: String,
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// Submits and reads until the server is gone.
    async fn run(self) {
        let paths = [
            "/sleep/1",
            "/sleep/30",
            "/sleep/120",
            "/bytes/100",
            "/status/500",
            "/chunked/100000",
        ];
        while !self.stop.load(SeqCst) {
            let random = random();
            // Now and then a body large enough for its own file, to a path that reads it.
            let (path, size) = if random.is_multiple_of(16) {
                ("/upload", 100_000)
            } else {
                (paths[random as usize % paths.len()], 200)
            };
            let body =
                json!({ "http": { "path": path }, "body": STANDARD.encode(vec![b'x'; size]) });
            let submit = http::request(
                self.addr,
                Method::POST,
                "/v1/ignite/app/acme/app/invoke-async",
            );
            let Some((StatusCode::OK, answer)) = self.ask(submit.json(&body)).await else {
                continue;
            };
            let id = answer["executionId"].as_str().expect("an id").to_owned();
            self.known.lock().expect("not poisoned").ids.push(id);
            // An execution that was seen to have ended may never change again.
            let Some(id) = self.known.lock().expect("not poisoned").oldest_open() else {
                continue;
            };
            let path = format!("/v1/ignite/executions/{id}");
            let get = http::request(self.addr, Method::GET, &path);
            if let Some((StatusCode::OK, answer)) = self.ask(get).await
                && is_terminal(&answer["execution"])
            {
                let seen = answer["execution"].clone();
                let mut known = self.known.lock().expect("not poisoned");
                known.ends.insert(id, seen);
            }
        }
    }

    /// A whole answer, or `None` if the server dies before its end.
    async fn ask(&self, request: http::Request) -> Option<(StatusCode, Value)> {
        let answer = request.token(&self.token).send().await.ok()?;
        let status = answer.status;
        let (body, _) = answer.whole().await.ok()?;
        Some((status, serde_json::from_slice(&body).ok()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_at_a_kill_or_a_stop_runs_again_with_its_id_and_a_higher_attempt() {
    let builder = Ignite::builder().env("IGNITE_DRAIN_TIMEOUT_SECS", "0");
    let (mut ignite, app, token) = served(builder, json!({})).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/attempt/3", b"").await;
    // The third one ends by itself, perhaps before it is seen running.
    for attempt in 1..=2 {
        eventually_ok(LIMIT, || async {
            let now = get(&ignite, Via::Json, &token, &id).await;
            let runs = now["status"] == "EXECUTION_STATUS_RUNNING" && now["attempt"] == attempt;
            if runs { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
        match attempt {
            1 => ignite.kill9(),
            _ => assert!(ignite.terminate(LIMIT).await.success()),
        }
        ignite.start().await;
    }
    let done = ended(&ignite, Via::Grpc, &token, &id).await;
    assert_eq!(
        (&done["status"], &done["attempt"]),
        (&json!("EXECUTION_STATUS_COMPLETED"), &json!(3))
    );
    assert_eq!(done["responseHeaders"]["x-probe-attempt"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_takes_no_execution_with_it() {
    let (ignite, app, token) = served(Ignite::builder(), json!({})).await;
    let id = submit(&ignite, Via::Json, &app, &token, "/attempt/2", b"").await;
    // An attempt is RUNNING before the app has its request: after a kill in between, another
    // replica would get the first attempt, which the probe never answers.
    eventually_ok(LIMIT, || async {
        let request = ignite.request(Method::GET, "/concurrency").host(app.host());
        let answer = request.token(&token).send().await.expect("an answer");
        let busy = answer.json().await;
        if busy["current"] == 1 {
            Ok(())
        } else {
            Err(busy.to_string())
        }
    })
    .await;
    for container in engine::running(&ignite).await {
        engine::kill(&container).await;
    }
    let done = ended(&ignite, Via::Grpc, &token, &id).await;
    assert_eq!(done["status"], "EXECUTION_STATUS_COMPLETED", "{done}");
    assert_eq!(done["responseHeaders"]["x-probe-attempt"], "2", "{done}");
}
