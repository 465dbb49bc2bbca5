//! [`Docker`] against a stub of the engine's API on a loopback port: failures that a real engine
//! shows only rarely. The integration tests cover the rest on a real engine.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

use super::*;
use crate::model::InstanceId;

const NETWORK: &str = "ignite-000000000007";

/// An engine that answers by `answer`, except for the calls that every engine answers alike. It
/// serves until the set is dropped.
async fn engine<F>(
    answer: impl Fn(String) -> F + Clone + Send + Sync + 'static,
) -> (Docker, JoinSet<()>)
where
    F: Future<Output = (u16, serde_json::Value)> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("is bound").port();
    let serve = move |request: Request| {
        let (answer, call) = (
            answer.clone(),
            format!("{} {}", request.method(), request.uri().path()),
        );
        async move {
            let (status, body) = match call.as_str() {
                "GET /info" => (200, json!({"NCPU": 2, "Plugins": {"Log": ["json-file"]}})),
                "GET /version" => (200, json!({"Version": "1"})),
                _ => answer(call).await,
            };
            let body = if body.is_null() {
                Body::empty()
            } else {
                Body::from(format!("{body}\n"))
            };
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        axum::serve(listener, Router::new().fallback(serve))
            .await
            .expect("serves")
    });
    let mut config = Config::new(
        InstanceId::from_random(7),
        "/data".into(),
        Seal::new(&[7; 32]),
    );
    config.host = Some(format!("http://127.0.0.1:{port}"));
    config.call_timeout = Duration::from_secs(120);
    (Docker::new(config).expect("a good address"), tasks)
}

#[tokio::test]
async fn many_waiters_share_one_pull_which_outlives_the_first() {
    let (pulls, begun, go) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
    );
    let (count, notify, wait) = (Arc::clone(&pulls), Arc::clone(&begun), Arc::clone(&go));
    let (docker, _serving) = engine(move |call| {
        let (count, notify, wait) = (Arc::clone(&count), Arc::clone(&notify), Arc::clone(&wait));
        async move {
            if call == "POST /images/create" {
                count.fetch_add(1, Ordering::SeqCst);
                notify.notify_one();
                wait.notified().await;
                count.fetch_add(100, Ordering::SeqCst);
                return (200, json!({"status": "done"}));
            }
            match (count.load(Ordering::SeqCst), call.as_str()) {
                (0..100, _) => (404, json!({"message": "No such image"})),
                // The home of its user is looked up in the image, which has no files.
                (_, "POST /containers/create") => (201, json!({"Id": "c", "Warnings": []})),
                (_, "GET /containers/c/archive" | "HEAD /containers/c/archive") => {
                    (404, json!({"message": "no such file"}))
                }
                (_, "GET /containers/c/json" | "DELETE /containers/c") => (200, json!({})),
                _ => (200, json!({"Id": "sha256:1", "Config": {"User": "7"}})),
            }
        }
    })
    .await;
    let docker = Arc::new(docker);
    let mut waiters = JoinSet::new();
    let wait_for_image = |docker: &Arc<Docker>| {
        let docker = Arc::clone(docker);
        async move { docker.ensure_image("app", None).await }
    };
    let first = waiters.spawn(wait_for_image(&docker));
    begun.notified().await;
    first.abort();
    assert!(
        waiters.join_next().await.expect("the first").is_err(),
        "the first was aborted"
    );
    for _ in 0..5 {
        waiters.spawn(wait_for_image(&docker));
    }
    go.notify_one();
    while let Some(image) = waiters.join_next().await {
        assert_eq!(image.expect("ends").expect("has the image").id, "sha256:1");
    }
    assert_eq!(
        pulls.load(Ordering::SeqCst),
        101,
        "one pull began and ended"
    );
}

#[tokio::test]
async fn a_failure_inside_the_pull_stream_is_the_cause() {
    let (docker, _serving) = engine(|call| async move {
        match call.as_str() {
            "POST /images/create" => (
                200,
                json!({"errorDetail": {"message": "disk full"}, "error": "disk full"}),
            ),
            _ => (404, json!({"message": "No such image"})),
        }
    })
    .await;
    let err = docker
        .ensure_image("app", None)
        .await
        .expect_err("cannot be had");
    assert!(
        matches!(&err, Error::NoSuchImage { cause, .. } if cause == "disk full"),
        "{err}"
    );
}

#[tokio::test]
async fn a_network_that_was_removed_is_made_again_and_the_start_repeated() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let (docker, _serving) = engine(move |call| {
        let count = Arc::clone(&count);
        async move {
            match call.as_str() {
                "GET /networks" => (200, json!([])),
                "POST /networks/create" => {
                    count.fetch_add(1, Ordering::SeqCst);
                    (201, json!({"Id": "n", "Warning": ""}))
                }
                "POST /containers/c/start" if count.load(Ordering::SeqCst) == 0 => (
                    404,
                    json!({"message": format!("network {NETWORK} not found")}),
                ),
                "POST /containers/c/start" => (204, serde_json::Value::Null),
                "GET /containers/c/json" => (
                    200,
                    json!({
                        "Id": "c", "State": {"Status": "running", "Running": true},
                        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "0"}]}},
                        "NetworkSettings": {"Ports": {"80/tcp": [{"HostPort": "4000"}]}}
                    }),
                ),
                other => panic!("unexpected {other}"),
            }
        }
    })
    .await;
    let endpoints = docker
        .start(&ContainerId("c".into()))
        .await
        .expect("starts");
    assert_eq!(
        endpoints.addr(80),
        Some("127.0.0.1:4000".parse().expect("an address"))
    );
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn creates_at_once_make_one_network() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let (docker, _serving) = engine(move |call| {
        let count = Arc::clone(&count);
        async move {
            match call.as_str() {
                "GET /networks" => (200, json!([])),
                "POST /networks/create" => {
                    count.fetch_add(1, Ordering::SeqCst);
                    (201, json!({"Id": "n", "Warning": ""}))
                }
                _ => (201, json!({"Id": "c", "Warnings": []})),
            }
        }
    })
    .await;
    let spec = spec::tests::spec();
    let created = future::join_all((0..20).map(|_| docker.create(&spec))).await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn gone_is_success_or_named_and_other_refusals_pass() {
    let (docker, _serving) = engine(|call| async move {
        match call.as_str() {
            "DELETE /containers/busy" => (
                409,
                json!({"message": "removal of container busy is already in progress"}),
            ),
            "DELETE /containers/bad" => (500, json!({"message": "device busy"})),
            _ => (404, json!({"message": "No such container: c"})),
        }
    })
    .await;
    let id = |name: &str| ContainerId(name.into());
    assert!(docker.stop(&id("c"), Duration::from_secs(1)).await.is_ok());
    assert!(docker.remove(&id("c")).await.is_ok());
    assert!(docker.remove(&id("busy")).await.is_ok());
    let err = docker.remove(&id("bad")).await.expect_err("refused");
    assert!(
        err.retryable() && err.to_string().contains("device busy"),
        "{err}"
    );
    assert!(matches!(
        docker.inspect(&id("c")).await,
        Err(Error::NoSuchContainer(_))
    ));
    assert!(matches!(
        docker.start(&id("c")).await,
        Err(Error::NoSuchContainer(_))
    ));
    assert!(matches!(
        docker.log_tail(&id("c"), 1).await,
        Err(Error::NoSuchContainer(_))
    ));
}

#[tokio::test]
async fn a_stuck_engine_times_out_and_an_absent_one_is_unreachable() {
    let (mut docker, serving) = engine(|_| future::pending()).await;
    docker.facts().await.expect("answers this much");
    docker.client = Client::new(
        Connector::new(Address::find(docker.config.host.as_deref(), |_| None).expect("good")),
        Duration::from_millis(50),
        Default::default(),
    );
    let id = ContainerId("c".into());
    assert!(matches!(
        docker.inspect(&id).await,
        Err(Error::TimedOut { .. })
    ));
    drop(serving);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let nobody = format!("tcp://{}", listener.local_addr().expect("is bound"));
    drop(listener);
    for host in [nobody.as_str(), "unix:///nowhere/docker.sock"] {
        let mut config = Config::new(
            InstanceId::from_random(7),
            "/data".into(),
            Seal::new(&[7; 32]),
        );
        config.host = Some(host.into());
        let docker = Docker::new(config).expect("connects later");
        let err = docker.ensure_image("app", None).await.expect_err(host);
        assert!(
            matches!(&err, Error::Unreachable { address, .. } if address == host),
            "{err}"
        );
        assert_eq!(docker.deaths().next().await, None);
    }
}

#[tokio::test]
async fn calls_are_made_in_a_version_that_the_engine_takes_also_after_it_was_exchanged() {
    use std::sync::atomic::AtomicU32;
    /// What an engine answers to a call that names no version, or one outside of its range.
    fn refuse(version: Option<u32>, newest: u32) -> Option<String> {
        match version {
            Some(minor) if minor < 44 => Some(format!(
                "client version 1.{minor} is too old. Minimum supported API version is 1.44"
            )),
            Some(minor) if minor > newest => Some(format!(
                "client version 1.{minor} is too new. Maximum supported API version is 1.{newest}"
            )),
            _ => None,
        }
    }
    let newest = Arc::new(AtomicU32::new(52));
    let calls = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (of_engine, seen) = (Arc::clone(&newest), Arc::clone(&calls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("is bound").port();
    let serve = move |request: Request| {
        let newest = of_engine.load(Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        let (version, rest) = match path.strip_prefix("/v1.").and_then(|p| p.split_once('/')) {
            Some((minor, rest)) => (minor.parse().ok(), format!("/{rest}")),
            None => (None, path.clone()),
        };
        let (status, body) = match (refuse(version, newest), rest.as_str()) {
            (Some(message), _) => (400, json!({ "message": message })),
            (None, "/info") => (200, json!({"NCPU": 2})),
            (None, "/version") => (
                200,
                json!({"ApiVersion": format!("1.{newest}"), "MinAPIVersion": "1.44"}),
            ),
            (None, _) => (200, json!([])),
        };
        seen.lock().push((path, status));
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        std::future::ready(response)
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let router = Router::new().fallback(serve);
        axum::serve(listener, router).await.expect("serves")
    });
    let mut config = Config::new(
        InstanceId::from_random(7),
        "/data".into(),
        Seal::new(&[7; 32]),
    );
    config.host = Some(format!("http://127.0.0.1:{port}"));
    let docker = Docker::new(config).expect("a good address");
    let info = docker.info().await.expect("it answers");
    assert_eq!(info.abilities.api_used, "1.52");
    docker.list().await.expect("in a version that it takes");
    let last = calls.lock().last().cloned();
    assert_eq!(last, Some(("/v1.52/containers/json".to_owned(), 200)));
    // An older engine takes its place.
    newest.store(47, Ordering::SeqCst);
    assert!(docker.list().await.is_err(), "that version is too new");
    docker.list().await.expect("without a version");
    assert_eq!(
        docker.info().await.expect("it answers").abilities.api_used,
        "1.47"
    );
    docker
        .list()
        .await
        .expect("in the version of the other one");
    let last = calls.lock().last().cloned();
    assert_eq!(last, Some(("/v1.47/containers/json".to_owned(), 200)));
}
