//! A real engine that restarts under the platform.

use hyper::{Method, StatusCode};
use ignite_kit::image::{self, Variant};
use serde_json::{Value, json};

use crate::support::{HANGS as LIMIT, eventually, ignite::Ignite, private_engine::PrivateEngine};

#[tokio::test]
#[ignore = "starts a dockerd of its own, which needs root; scripts/test.sh runs it where it can"]
async fn a_restart_of_the_engine_is_survived_and_leaves_no_container_behind() {
    let mut engine = PrivateEngine::start().await;
    let image = image::probe(&engine.client(), Variant::NonRoot)
        .await
        .expect("the probe's image");
    let ignite = Ignite::builder()
        .env("DOCKER_HOST", engine.docker_host())
        .start()
        .await;
    let token = ignite.token("acme");
    let created = json!({"name": "app", "code": {"image": {"prebuilt": {"imageRef": image}}}});
    let (status, _, answer) = ignite
        .api(Method::POST, "/v1/ignite/app/acme", &token, &created)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, _, answer) = ignite
        .api(
            Method::POST,
            "/v1/ignite/app/acme/app/draft/publish",
            &token,
            &json!({}),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let ask = || async {
        ignite
            .api(Method::GET, "/_app/acme/app/", &token, &Value::Null)
            .await
    };

    let (status, _, before) = ask().await;
    assert_eq!(status, StatusCode::OK, "{before}");

    engine.down().await;
    eventually(LIMIT, || async {
        let (status, headers, _) = ask().await;
        (status == StatusCode::SERVICE_UNAVAILABLE
            && headers["x-ignite-error"] == "ENGINE_UNAVAILABLE")
            .then_some(())
    })
    .await;

    engine.up().await;
    let after = eventually(LIMIT, || async {
        let (status, _, answer) = ask().await;
        (status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_ne!(
        before["instance"], after["instance"],
        "the engine took the old replica with it"
    );
    eventually(LIMIT, || async {
        let all = bollard::query_parameters::ListContainersOptions {
            all: true,
            ..Default::default()
        };
        let listed = engine.client().list_containers(Some(all)).await.ok()?;
        (listed.len() == 1).then_some(())
    })
    .await;
}
