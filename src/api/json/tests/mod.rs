//! The gateway against a small service, without sockets.

mod invoke;
mod service;
mod streams;

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tonic::service::Routes;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tower::ServiceExt as _;

use super::*;
use crate::api::{
    anonymous::Bounds,
    proto::{method_names, reflection_services, v1::compute_service_server::ComputeServiceServer},
};

const MAX_BODY: usize = 1 << 20;
const APP: &str = "/v1/ignite/app/acme-corp/my-data-processor";

fn gateway() -> Router {
    gateway_to(service::Probe::default())
}

/// Buffers without bounds.
fn buffers() -> Buffers {
    Buffers::new(usize::MAX, usize::MAX, Duration::ZERO)
}

fn gateway_to(probe: service::Probe) -> Router {
    let limits = Limits {
        max_body_bytes: MAX_BODY,
        max_code_bytes: MAX_BODY,
        decode_concurrency: 1,
    };
    let service = ComputeServiceServer::new(probe).max_decoding_message_size(limits.grpc_bytes());
    router(
        Routes::new(service),
        limits,
        buffers(),
        Arc::new(|_| Ok(())),
        anonymous(),
    )
}

/// As many calls without a token as tests make.
fn anonymous() -> Arc<AnonymousCalls> {
    AnonymousCalls::new(Bounds {
        streams: 64,
        time: Duration::from_secs(600),
    })
}

/// A runtime thread carries other connections as well.
#[tokio::test]
async fn while_a_large_body_is_read_others_on_the_thread_have_their_turn() {
    let turns = Arc::<AtomicUsize>::default();
    let others = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            others.fetch_add(1, SeqCst);
            tokio::task::yield_now().await;
        }
    });
    let at_end = Arc::<AtomicUsize>::default();
    let (whole, now, then) = (large(), turns.clone(), at_end.clone());
    let mut body = Some(whole);
    let body = stream::poll_fn(move |_| {
        then.store(now.load(SeqCst), SeqCst);
        Poll::Ready(body.take().map(Ok::<_, Infallible>))
    });
    let response = send(
        Method::POST,
        &format!("{APP}/invoke"),
        Body::from_stream(body),
    )
    .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        turns.load(SeqCst) > at_end.load(SeqCst),
        "nobody had a turn"
    );
    others.abort();
}

/// An envelope whose body is as large as the limit allows.
fn large() -> String {
    let body = BASE64_STANDARD.encode(vec![7; MAX_BODY]);
    json!({ "body": body }).to_string()
}

#[tokio::test]
async fn a_stranger_is_told_so_before_the_body_is_read() {
    let limits = Limits {
        max_body_bytes: MAX_BODY,
        max_code_bytes: MAX_BODY,
        decode_concurrency: 1,
    };
    let refuse: Admit = Arc::new(|_| Err(Failure::new(Reason::Unauthenticated, "no token")));
    let service = ComputeServiceServer::new(service::Probe::default());
    let request = Request::post(format!("{APP}/invoke"))
        .body(Body::from("{"))
        .unwrap();
    let services = Routes::new(service);
    let gateway = router(services, limits, buffers(), refuse, anonymous());
    let (status, body) = json_of(gateway.oneshot(request).await.unwrap()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
}

async fn send(method: Method, path: &str, body: impl Into<Body>) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer t")
        .body(body.into())
        .unwrap();
    gateway().oneshot(request).await.unwrap()
}

async fn post(path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    json_of(send(Method::POST, path, body).await).await
}

async fn get(path: &str) -> (StatusCode, Value) {
    json_of(send(Method::GET, path, Body::empty()).await).await
}

async fn json_of(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// The wrong fields of an error response, each with its description.
fn violations(body: &Value) -> Vec<(&str, &str)> {
    let all = body["details"][1]["fieldViolations"].as_array();
    all.into_iter()
        .flatten()
        .map(|v| {
            (
                v["field"].as_str().unwrap(),
                v["description"].as_str().unwrap(),
            )
        })
        .collect()
}

fn reason(response: &Response<Body>) -> &str {
    response.headers()["x-ignite-error"].to_str().unwrap()
}

#[test]
fn every_method_has_a_route_of_its_own() {
    let paths = route::by_path(pool());
    let bound: Vec<_> = paths
        .values()
        .flatten()
        .map(|b| b.uri.to_string())
        .collect();
    for name in method_names() {
        assert!(bound.contains(&name), "{name} has no HTTP binding");
    }
    assert_eq!(
        bound.len(),
        method_names().count() + 1,
        "GetAppCode has two"
    );
    for (path, bindings) in &paths {
        for (i, b) in bindings.iter().enumerate() {
            let twice = bindings[..i].iter().any(|o| o.method == b.method);
            assert!(!twice, "{} {path} is bound twice", b.method);
        }
    }
}

#[tokio::test]
async fn bodies_take_camel_and_snake_case_and_answers_leave_defaults_out() {
    for body in [
        json!({"name": "a", "resourceTier": "RESOURCE_TIER_LARGE", "limits": {"memoryMb": 64}}),
        json!({"name": "a", "resource_tier": 3, "limits": {"memory_mb": "64", "timeout_secs": null}}),
        // The path's organization is the one that counts.
        json!({"organizationName": "x", "name": "a", "resourceTier": "RESOURCE_TIER_LARGE",
               "limits": {"memoryMb": 64}}),
    ] {
        let (status, answer) = post("/v1/ignite/app/acme-corp", body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            answer,
            json!({"appId": "acme-corp/a", "deploymentState": "DEPLOYMENT_STATE_CREATED",
                   "appliedTier": "RESOURCE_TIER_LARGE", "appliedLimits": {"memoryMb": 64}})
        );
    }
}

#[tokio::test]
async fn an_update_keeps_absent_and_default_apart() {
    let body = r#"{"healthPath": "", "scaling": {"maxReplicas": 0}, "env": {"A": "1"}}"#;
    let (_, answer) = json_of(send(Method::PATCH, &format!("{APP}/config"), body).await).await;
    let told = answer["app"]["description"].as_str().unwrap();
    assert!(told.starts_with(
        r#"Some("") Some(ScalingConfig { reserved_capacity: None, max_replicas: Some(0)"#
    ));
    assert!(told.ends_with(r#"{"A": "1"}"#));
}

#[tokio::test]
async fn the_contracts_examples_work() {
    let (status, answer) = post(
        &format!("{APP}/invoke-async"),
        r#"{ "body": "eyJrZXkiOiAidmFsdWUifQ==" }"#,
    )
    .await;
    assert_eq!(
        (status.as_u16(), answer),
        (200, json!({"executionId": r#"{"key": "value"}"#}))
    );

    let response = send(
        Method::POST,
        &format!("{APP}/invoke"),
        r#"{ "http": { "method": "HTTP_METHOD_POST", "path": "/",
             "headers": { "content-type": "application/json" } },
             "body": "eyJrZXkiOiAidmFsdWUifQ==" }"#,
    )
    .await;
    assert_eq!(response.status(), 200);
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["total_body_bytes"], "16");
    assert_eq!(whole.to_bytes(), r#"{"key": "value"}"#);
}

#[tokio::test]
async fn an_empty_body_is_an_empty_message() {
    let (status, answer) = post(&format!("{APP}/invoke-async"), " \n").await;
    assert_eq!((status.as_u16(), answer), (200, json!({})));
}

#[tokio::test]
async fn every_wrong_field_is_named_with_its_path() {
    let body = json!({
        "name": 7, "nmae": "x", "resourceTier": "HUGE", "ports": [80, -1],
        "scaling": {"scaleMetric": "SPEED", "maxReplicas": "many"},
        "limits": [], "env": {"A": 1}, "code": {"image": {"prebuilt": {"ref": "a"}}},
    });
    let (status, answer) = post("/v1/ignite/app/acme-corp", body.to_string()).await;
    assert_eq!((status.as_u16(), &answer["code"]), (400, &json!(3)));
    let mut wrong = violations(&answer);
    wrong.sort_unstable();
    let fields: Vec<_> = wrong.iter().map(|(field, _)| *field).collect();
    assert_eq!(
        fields,
        [
            "code.image.prebuilt.ref",
            "env",
            "limits",
            "name",
            "nmae",
            "ports",
            "resource_tier",
            "scaling.max_replicas",
            "scaling.scale_metric"
        ]
    );
    assert_eq!(wrong[0].1, "unknown field; PrebuiltImage has imageRef");
    assert!(
        wrong[6]
            .1
            .starts_with(r#""HUGE" is not a value of ResourceTier; it has"#)
    );
}

#[tokio::test]
async fn what_is_not_json_is_refused_with_line_and_column() {
    for (body, told) in [
        ("{\n  \"name\": }", "line 2 column 11"),
        ("{} {}", "trailing characters at line 1 column 4"),
        ("[]", "line 1 column"),
        ("{\"name\": \"a", "EOF"),
    ] {
        let response = send(Method::POST, "/v1/ignite/app/acme-corp", body).await;
        assert_eq!(reason(&response), "MALFORMED_REQUEST");
        let (status, answer) = json_of(response).await;
        assert_eq!(status, 400);
        assert!(
            answer["message"].as_str().unwrap().contains(told),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn queries_and_paths_are_decoded_into_fields() {
    let (_, answer) = get("/v1/ignite/app/acme?limit=5&cursor=a%2Fb+c").await;
    assert_eq!(answer, json!({"nextCursor": "5|a/b c"}));
    let (_, answer) = get("/v1/ignite/app/acme/x%2Fy%20z").await;
    assert_eq!(
        answer,
        json!({"app": {"id": "acme/x/y z", "createdAtMs": "7"}})
    );
    let (_, answer) = get(&format!("{APP}/code/versions/3")).await;
    assert_eq!(answer, json!({"version": 3}));

    let (status, answer) = get("/v1/ignite/app/acme?limit=five&page=2").await;
    assert_eq!(status, 400);
    let wrong = violations(&answer);
    assert_eq!((wrong[0].0, wrong[1].0), ("limit", "page"));
    assert_eq!(
        wrong[1].1,
        "unknown field; ListAppsRequest has organizationName, limit, cursor"
    );
    let (status, answer) = get(&format!("{APP}/versions/newest")).await;
    assert_eq!(
        (status.as_u16(), violations(&answer)[0].0),
        (400, "version")
    );
    let (status, _) = get("/v1/ignite/app/%ff").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn nested_repeated_and_enum_parameters_are_understood() {
    let query = "scaling.maxReplicas=4&scaling.scale_metric=2&health_path=/h";
    let (_, answer) =
        json_of(send(Method::PATCH, &format!("{APP}/config?{query}"), "{}").await).await;
    let told = answer["app"]["description"].as_str().unwrap();
    assert!(
        told.contains("max_replicas: Some(4), scale_metric: Some(Concurrency)"),
        "{told}"
    );
    let (status, answer) = post(
        "/v1/ignite/app/a?ports=1&ports=2&env=x&name.x=1&mcpEnabled=true",
        "",
    )
    .await;
    assert_eq!(status, 400);
    let fields: Vec<_> = violations(&answer).iter().map(|v| v.0).collect();
    assert_eq!(fields, ["env", "name.x"]);
}

#[tokio::test]
async fn unknown_routes_and_methods_get_json_errors() {
    for path in ["/v1", "/v1/ignite/nothing", "/v1/ignite/app/acme/"] {
        let response = send(Method::GET, path, Body::empty()).await;
        assert_eq!(reason(&response), "NOT_FOUND");
        assert_eq!(json_of(response).await.0, 404);
    }
    let response = send(Method::PUT, "/v1/ignite/app/acme", Body::empty()).await;
    assert_eq!(response.headers()["allow"], "POST, GET, HEAD");
    assert_eq!(json_of(response).await.0, 405);
}

#[tokio::test]
async fn what_the_service_refuses_keeps_its_words_and_headers() {
    let request = Request::post("/v1/ignite/app/acme")
        .body(Body::empty())
        .unwrap();
    let response = gateway().oneshot(request).await.unwrap();
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer realm=\"ignite\""
    );
    assert_eq!(reason(&response), "UNAUTHENTICATED");
    assert_eq!(json_of(response).await.0, 401);

    let (status, answer) = get("/v1/ignite/health").await;
    assert_eq!(
        (status.as_u16(), &answer["message"]),
        (501, &json!("health_check"))
    );
    // A service that is not registered names the method too.
    let (status, answer) = get("/v1/ignite/secrets").await;
    let told = "dodil.ignite.v1.SecretService.ListSecrets is not built yet";
    assert_eq!((status.as_u16(), &answer["message"]), (501, &json!(told)));
}

#[tokio::test]
async fn a_payload_may_have_its_limit_and_not_one_byte_more() {
    let body = |n| json!({"body": BASE64_STANDARD.encode(vec![b'x'; n])}).to_string();
    let path = format!("{APP}/invoke-async");
    let (status, answer) = post(&path, body(MAX_BODY)).await;
    assert_eq!(status, 200);
    assert_eq!(answer["executionId"].as_str().unwrap().len(), MAX_BODY);
    for n in [MAX_BODY + 1, 2 * MAX_BODY] {
        let response = send(Method::POST, &path, body(n)).await;
        assert_eq!(reason(&response), "BODY_TOO_LARGE");
        let (status, answer) = json_of(response).await;
        assert_eq!((status.as_u16(), &answer["code"]), (413, &json!(8)));
        let told = answer["message"].as_str().unwrap();
        assert!(
            told.contains("1048576") && told.contains("IGNITE_MAX_BODY_BYTES"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn reflection_knows_the_contract_and_its_imports() {
    let (v1, v1alpha) = reflection_services();
    let routes = Routes::new(v1).add_service(v1alpha).prepare();
    let mut client = ServerReflectionClient::new(routes);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("dodil.ignite.v1.ComputeService".to_owned()),
        MessageRequest::FileByFilename("google/api/annotations.proto".to_owned()),
    ];
    let requests = asked.map(|r| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(r),
    });
    let answers = client
        .server_reflection_info(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<_> = answers
        .map(|a| a.unwrap().message_response.unwrap())
        .collect()
        .await;
    let MessageResponse::ListServicesResponse(list) = &answers[0] else {
        panic!("{answers:?}");
    };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["dodil.ignite.v1.ComputeService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for answer in &answers[1..] {
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)));
    }
}
