//! Loss of the container engine: at the start, and during work.

use bollard::models::NetworkCreateRequest;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    HANGS,
    app::{App, ENGINE_LIMIT, instance, is_cold},
    engine,
    engine_proxy::EngineProxy,
    eventually_ok, http,
    ignite::Ignite,
    private_engine::PrivateEngine,
};

async fn get(ignite: &Ignite, path: &str) -> http::Answer {
    ignite
        .request(Method::GET, path)
        .send()
        .await
        .expect("the server answers")
}

/// Waits until `/readyz` answers this status and returns what it says about the engine.
async fn readyz(ignite: &Ignite, wanted: StatusCode) -> String {
    check("engine", ignite, wanted).await
}

/// Waits until `/readyz` answers this status and this check agrees with it, and returns what it
/// says.
async fn check(name: &str, ignite: &Ignite, wanted: StatusCode) -> String {
    eventually_ok(ENGINE_LIMIT, || async {
        let answer = get(ignite, "/readyz").await;
        let status = answer.status;
        let body = answer.json().await;
        let said = body["checks"][name].as_str().unwrap_or_default().to_owned();
        if status == wanted && (said == "ok") == (wanted == StatusCode::OK) {
            Ok(said)
        } else {
            Err(format!("{status}: {body}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_it_serves_says_so_and_recovers_when_the_engine_comes() {
    let mut proxy = EngineProxy::start();
    let mut ignite = Ignite::builder()
        .env("DOCKER_HOST", proxy.docker_host())
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/patient", Value::Null).await;
    assert!(ignite.terminate(ENGINE_LIMIT).await.success());

    proxy.cut();
    ignite.start().await;
    assert_eq!(get(&ignite, "/healthz").await.status, StatusCode::OK);
    let why = readyz(&ignite, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(why.contains("docker.sock"), "{why}");
    let (status, answer) = app.api(&ignite, Method::GET, "", Value::Null).await;
    assert_eq!(
        status,
        StatusCode::OK,
        "what needs no engine works: {answer}"
    );

    // Neither an app nor a publish waits for an engine that is not there, as both do for a start:
    // ten minutes.
    let answer = timeout(HANGS, app.get(&ignite, "/")).await.expect("soon");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("x-ignite-error"), Some("ENGINE_UNAVAILABLE"));
    assert!(answer.header("retry-after").is_some());
    let (status, answer) = timeout(HANGS, app.publish_image(&ignite, "some/image:1"))
        .await
        .expect("soon");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert!(
        answer.to_string().contains("ENGINE_UNAVAILABLE"),
        "{answer}"
    );

    proxy.restore();
    assert_eq!(readyz(&ignite, StatusCode::OK).await, "ok");
    assert!(is_cold(&app.get_ok(&ignite, "/").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_engine_is_away_warm_requests_go_on_and_deaths_are_noticed_after() {
    let mut proxy = EngineProxy::start();
    let ignite = Ignite::builder()
        .env("DOCKER_HOST", proxy.docker_host())
        .env("IGNITE_RECONCILE_INTERVAL", "500ms")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/warm", Value::Null).await;
    let cold = App::deploy(&ignite, "acme/cold", Value::Null).await;
    let dying = App::deploy(&ignite, "acme/dying", Value::Null).await;
    let before = instance(&app.get_ok(&ignite, "/").await);
    let others = engine::running(&ignite).await;
    let first_life = instance(&dying.get_ok(&ignite, "/").await);
    let both = engine::running(&ignite).await;
    let victim = both.iter().find(|id| !others.contains(id));
    let victim = victim.expect("a second container").clone();

    proxy.cut();
    readyz(&ignite, StatusCode::SERVICE_UNAVAILABLE).await;
    for _ in 0..5 {
        assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
    }
    let answer = timeout(HANGS, cold.get(&ignite, "/")).await.expect("soon");
    assert_eq!(answer.header("x-ignite-error"), Some("ENGINE_UNAVAILABLE"));
    engine::kill(&victim).await;

    proxy.restore();
    readyz(&ignite, StatusCode::OK).await;
    dying.wait_for(&ignite, "runningReplicas", 0).await;
    let answer = dying.get_ok(&ignite, "/").await;
    assert!(is_cold(&answer));
    assert_ne!(instance(&answer), first_life);
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), before);
    cold.get_ok(&ignite, "/").await;
}

#[tokio::test]
#[ignore = "starts a dockerd of its own, which needs root; scripts/test.sh runs it where it can"]
async fn an_engine_without_an_address_range_left_is_not_ready_until_one_is_free() {
    // One pool for the engine's own bridge, and a free one.
    let two = json!({ "default-address-pools": [{ "base": "10.213.6.0/23", "size": 24 }] });
    let engine = PrivateEngine::configured(&two).await;
    let docker = engine.client();
    let taken = NetworkCreateRequest {
        name: "of-somebody-else".into(),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(taken).await.expect("the last one");
    let ignite = Ignite::builder()
        .env("DOCKER_HOST", engine.docker_host())
        .start()
        .await;
    let why = check("network", &ignite, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(why.contains("ignite prune"), "{why}");
    docker
        .remove_network("of-somebody-else")
        .await
        .expect("removed");
    assert_eq!(check("network", &ignite, StatusCode::OK).await, "ok");

    // The network of an instance that was killed makes room for the next one's, and the other way
    // round: the first makes its own again.
    let _guard = engine::PruneGuard::no_prune().await;
    let mut killed = ignite;
    killed.kill9();
    let mut next = Ignite::builder()
        .env("DOCKER_HOST", engine.docker_host())
        .start()
        .await;
    assert_eq!(check("network", &next, StatusCode::OK).await, "ok");
    next.kill9();
    killed.start().await;
    assert_eq!(check("network", &killed, StatusCode::OK).await, "ok");
}
