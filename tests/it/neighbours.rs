//! How an attack by one organization affects another. How much depends on the machine, so it is
//! only printed; that the victim is served at all is asserted.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use ignite_kit::hostile;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    executions::{ended, submit},
    support::{
        HANGS,
        code::{from_code, tar_gz},
        contract::{Published, Via, merge},
        eventually_ok,
        ignite::Ignite,
    },
};

/// The number of requests to the warm app whose slowest hundredth is shown.
const REQUESTS: usize = 200;
/// The number of callers in an attack.
const CALLERS: usize = 4;

/// Both organizations and an app of each.
struct Street {
    ignite: Ignite,
    good: Published,
    evil: Published,
    evil_token: String,
}

impl Street {
    async fn new() -> Self {
        let ignite = Ignite::builder().start().await;
        let open = json!({ "allow_unauthenticated": true, "scaling": { "max_replicas": 1 } });
        let street = Self {
            good: ignite.publish("good", "a", open.clone()).await,
            evil: ignite.publish("evil", "a", open).await,
            evil_token: ignite.token("evil"),
            ignite,
        };
        let token = street.ignite.token("good");
        let built = json!({ "organization_name": "good", "name": "built" });
        street
            .ignite
            .ok(Via::Json, "CreateApp", &token, built)
            .await;
        street
    }

    /// The slowest hundredth of requests to the warm app, an execution, and a build.
    async fn measure(&self) -> [Duration; 3] {
        let mut took = Vec::new();
        for _ in 0..REQUESTS {
            let began = Instant::now();
            let request = self.ignite.request(Method::GET, "/count");
            let answer = request.host(self.good.host()).send().await;
            assert_eq!(answer.expect("an answer").status, StatusCode::OK);
            took.push(began.elapsed());
        }
        took.sort_unstable();
        let token = self.ignite.token("good");
        let began = Instant::now();
        let id = submit(&self.ignite, Via::Json, &self.good, &token, "/count", b"").await;
        ended(&self.ignite, Via::Json, &token, &id).await;
        let execution = began.elapsed();
        let began = Instant::now();
        self.build(&token).await;
        [took[REQUESTS * 99 / 100], execution, began.elapsed()]
    }

    /// An empty build, which the engine completes at once.
    async fn build(&self, token: &str) {
        let of = json!({ "organization_name": "good", "app_name": "built" });
        let archive = tar_gz(&[("Dockerfile", b"FROM scratch\nCOPY Dockerfile /\n")]);
        let mut fields = of.clone();
        merge(
            &mut fields,
            json!({ "code": from_code(&archive, json!({})) }),
        );
        self.ignite.ok(Via::Json, "SaveDraft", token, fields).await;
        self.ignite
            .ok(Via::Json, "CompileDraft", token, of.clone())
            .await;
        eventually_ok(HANGS, || async {
            let info = self
                .ignite
                .ok(Via::Json, "GetDraftInfo", token, of.clone())
                .await;
            match info["draft"]["status"].as_str() {
                Some("VERSION_STATUS_READY") => Ok(()),
                _ => Err(info),
            }
        })
        .await;
    }

    /// What one caller of an attack does until it is stopped.
    async fn attack(self: Arc<Self>, attack: Attack, caller: usize) {
        let token = &self.evil_token;
        let with = |more: Value| {
            let mut fields = json!({ "organization_name": "evil", "app_name": "a" });
            merge(&mut fields, more);
            fields
        };
        // Prepared in advance, as an attacker would.
        let archive = from_code(&hostile::deep_archive(30_000), json!({}));
        let mut silent = Vec::new();
        for round in 0usize.. {
            match attack {
                Attack::Archives => {
                    let fields = with(json!({ "code": archive }));
                    self.ignite
                        .refused(Via::Json, "SaveDraft", token, fields)
                        .await;
                }
                Attack::Schemas => {
                    let schema = hostile::schema_of_references(60 + (round + caller) % 4);
                    let fields = with(json!({ "output_schema": schema }));
                    let _ = self
                        .ignite
                        .call(Via::Grpc, "UpdateAppConfig", token, &fields)
                        .await;
                }
                Attack::Silence if round < 8 => silent.push(self.announce(token).await),
                Attack::Silence => std::future::pending().await,
                Attack::Requests => {
                    let request = self.ignite.request(Method::GET, "/sleep/20");
                    let _ = request.host(self.evil.host()).send().await;
                }
                Attack::Executions => {
                    let fields = crate::executions::envelope(&self.evil, "/sleep/500", b"");
                    let _ = self
                        .ignite
                        .call(Via::Grpc, "InvokeAsync", token, &fields)
                        .await;
                }
            }
        }
    }

    /// A large message that is announced and never sent.
    async fn announce(&self, token: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.ignite.http_addr())
            .await
            .expect("a connection");
        let head = format!(
            "POST /v1/ignite/app/evil/a/draft HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 60000000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    }
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    Archives,
    Schemas,
    Silence,
    Requests,
    Executions,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_served_while_another_one_attacks() {
    let street = Arc::new(Street::new().await);
    street.measure().await;
    let quiet = street.measure().await;
    println!(
        "quiet: p99 {:?}, execution {:?}, build {:?}",
        quiet[0], quiet[1], quiet[2]
    );
    for attack in [
        Attack::Archives,
        Attack::Schemas,
        Attack::Silence,
        Attack::Requests,
        Attack::Executions,
    ] {
        // In separate tasks: the time that a caller takes to write its calls is not waited for.
        let mut callers: JoinSet<_> = (0..CALLERS)
            .map(|caller| street.clone().attack(attack, caller))
            .collect();
        let measured = timeout(HANGS, street.measure()).await;
        let measured = measured.expect("it is served");
        if let Some(ended) = callers.try_join_next() {
            panic!("{attack:?} has ended: {ended:?}");
        }
        callers.shutdown().await;
        let [p99, execution, build] =
            std::array::from_fn(|i| measured[i].as_secs_f64() / quiet[i].as_secs_f64());
        println!("{attack:?}: p99 × {p99:.1}, execution × {execution:.1}, build × {build:.1}");
    }
}
