//! gRPC at the address of the JSON API, as clients of the platform's older days send it.

use bytes::Bytes;
use hyper::Method;
use ignite::api::proto::v1::{GetAppRequest, HealthCheckRequest, SaveDraftRequest};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest as Health, health_client::HealthClient};

use crate::support::{
    contract::{Refusal, raw_on},
    grpc::{channel_to, client_on},
    ignite::Ignite,
};

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_answered_at_both_addresses_and_alike() {
    let ignite = Ignite::builder()
        .env("IGNITE_ANONYMOUS_STREAMS", "4")
        .start()
        .await;
    let token = ignite.token("acme");
    let create = json!({ "name": "app" });
    let (status, _, answer) = ignite
        .api(Method::POST, "/v1/ignite/app/acme", &token, &create)
        .await;
    assert!(status.is_success(), "{answer}");
    for address in [ignite.http_addr(), ignite.grpc_addr()] {
        let channel = channel_to(address).await;
        let named = || GetAppRequest {
            organization_name: "acme".to_owned(),
            app_name: "app".to_owned(),
        };
        let mut client = client_on(channel.clone(), &token);
        let app = client.get_app(named()).await.expect("an app").into_inner();
        assert_eq!(app.app.expect("one").id, "acme/app");
        let mut nobody = client_on(channel.clone(), "");
        let refused = nobody.get_app(named()).await.expect_err("no token");
        assert_eq!(refused.code(), Code::Unauthenticated);
        let health = nobody.health_check(HealthCheckRequest {}).await;
        assert_eq!(
            health.expect("health").into_inner().version,
            env!("CARGO_PKG_VERSION")
        );
        // What is unknown, what is too large, and what the platform has elsewhere.
        let unknown = raw_on(channel.clone(), "/no.Such/Method", &token, Bytes::new()).await;
        assert_eq!(unknown.expect_err("unknown").code(), Code::Unimplemented);
        let large = SaveDraftRequest {
            organization_name: "a".repeat(60 << 20),
            ..Default::default()
        };
        let path = "/dodil.ignite.v1.ComputeService/SaveDraft";
        let large = raw_on(channel.clone(), path, &token, large.encode_to_vec().into()).await;
        let large = Refusal::of_status(&large.expect_err("too large"));
        large.is(8, 413, "BODY_TOO_LARGE", &["IGNITE_MAX_CODE_BYTES"]);
        for (method, words) in [
            ("BuildService/CreateBuild", ["CompileDraft", "SaveDraft"]),
            ("ModelService/ChatCompletion", ["MODEL_API_BASE", "cloud"]),
        ] {
            let path = format!("/dodil.ignite.v1.{method}");
            let elsewhere = raw_on(channel.clone(), &path, &token, Bytes::new()).await;
            let elsewhere = Refusal::of_status(&elsewhere.expect_err("elsewhere"));
            elsewhere.is(12, 501, "UNIMPLEMENTED", &words);
        }
    }
    // Calls without a token share one bound, of which an address has a part.
    let watch = |address| async move {
        let mut client = HealthClient::new(channel_to(address).await);
        client
            .watch(Health::default())
            .await
            .map(|stream| stream.into_inner())
    };
    let first = watch(ignite.http_addr()).await.expect("the first");
    let refused = watch(ignite.grpc_addr())
        .await
        .expect_err("its share is one");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let path = "/v1/ignite/public/catalog";
    let (status, _, answer) = ignite.api(Method::GET, path, "", &Value::Null).await;
    assert_eq!(status, 429, "{answer}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_in_http_1_hears_what_is_wrong() {
    let ignite = Ignite::builder().start().await;
    for path in [
        "/dodil.ignite.v1.ComputeService/GetApp",
        "/v1/ignite/app/acme",
    ] {
        let request = ignite.request(Method::POST, path);
        let request = request.header("content-type", "application/grpc").body("x");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status, 400);
        assert_eq!(answer.header("x-ignite-error"), Some("MALFORMED_REQUEST"));
        let answer = answer.json().await;
        let message = answer["message"].as_str().expect("words");
        assert!(
            message.contains("HTTP/1.1") && message.contains("h2c"),
            "{message}"
        );
    }
    // Services that the platform has and that are not here.
    for (method, path, word) in [
        (Method::POST, "/v1/ignite/builds", "CompileDraft"),
        (
            Method::GET,
            "/v1/ignite/builds/b/logs/stream",
            "CompileDraft",
        ),
        (Method::PUT, "/v1/ignite/builds/secrets", "CreateSecret"),
        (Method::POST, "/v1/chat/completions", "MODEL_API_BASE"),
        (
            Method::POST,
            "/v1/chat/completions/stream",
            "MODEL_API_BASE",
        ),
        (Method::POST, "/v1/audio/transcriptions", "MODEL_API_BASE"),
        (Method::GET, "/v1/models", "MODEL_API_BASE"),
    ] {
        let (status, headers, answer) = ignite.api(method, path, "", &Value::Null).await;
        Refusal::of_http(status, &headers, &answer).is(12, 501, "UNIMPLEMENTED", &[word]);
    }
}
