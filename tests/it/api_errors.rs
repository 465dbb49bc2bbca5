//! Refusals, equal over both transports: code, status, reason, and a helpful message.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    HANGS,
    contract::{BOTH, Refusal, Via, acme_app, merge, prebuilt},
    ignite::Ignite,
};

async fn create(ignite: &Ignite, org: &str, name: &str, settings: Value) {
    let mut request = json!({ "organization_name": org, "name": name });
    merge(&mut request, settings);
    let token = ignite.token(org);
    ignite.ok(Via::Json, "CreateApp", &token, request).await;
}

/// A raw request to the JSON API, for input that no client library would send.
async fn post(ignite: &Ignite, path: &str, body: impl Into<bytes::Bytes>) -> Refusal {
    let request = ignite
        .request(Method::POST, path)
        .token(&ignite.token("acme"));
    let answer = request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .expect("an answer");
    let (status, headers) = (answer.status, answer.headers.clone());
    Refusal::of_http(status, &headers, &answer.json().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_exist_is_not_found_by_any_method() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for via in BOTH {
        for (method, more) in [
            ("GetApp", json!({})),
            ("UpdateAppConfig", json!({ "description": "x" })),
            ("DeleteApp", json!({})),
            ("GetAppState", json!({})),
            ("SaveDraft", json!({ "code": prebuilt("x:1") })),
            ("GetDraftInfo", json!({})),
            ("PublishDraft", json!({})),
        ] {
            let mut request = acme_app("nobody");
            merge(&mut request, more);
            let refused = ignite.refused(via, method, &token, request).await;
            refused.is(5, 404, "NOT_FOUND", &["acme/nobody", "does not exist"]);
        }
        // Nor is an unpublished app found by the methods that invoke.
        let name = format!("unpublished-{via:?}").to_lowercase();
        create(&ignite, "acme", &name, json!({})).await;
        let none = ignite
            .refused(via, "PublishDraft", &token, acme_app(&name))
            .await;
        none.is(
            9,
            400,
            "FAILED_PRECONDITION",
            &["no draft", "ignite draft save"],
        );
        let invoked = ignite
            .request(Method::POST, &format!("/v1/ignite/app/acme/{name}/invoke"))
            .token(&token);
        let answer = invoked.send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.header("x-ignite-error"), Some("NOT_PUBLISHED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_fails_the_publish_at_once_and_the_old_version_goes_on() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let app = ignite.publish("acme", "app", json!({})).await;
    for via in BOTH {
        // A registry where nobody listens, and one whose name does not resolve.
        for image in ["127.0.0.1:1/team/app:1", "registry.invalid/team/app:1"] {
            let mut save = app.id();
            merge(&mut save, json!({ "code": prebuilt(image) }));
            ignite.ok(via, "SaveDraft", &token, save).await;
            // Earlier than anything that a publish waits for.
            let refused = ignite.refused(via, "PublishDraft", &token, app.id());
            let refused = timeout(HANGS, refused).await.expect("at once");
            refused.is(9, 400, "IMAGE_UNAVAILABLE", &[image]);
        }
        let still = ignite.ok(via, "GetApp", &token, app.id()).await;
        assert_eq!(still["app"]["activeVersion"], 1);
    }
    let answer = ignite
        .request(Method::GET, "/")
        .host(app.host())
        .token(&token);
    assert_eq!(
        answer.send().await.expect("an answer").status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_is_none_is_refused_when_it_is_saved() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    create(&ignite, "acme", "app", json!({})).await;
    for via in BOTH {
        for (code, field) in [
            (prebuilt(""), "code.image.prebuilt.image_ref"),
            (prebuilt("a b"), "code.image.prebuilt.image_ref"),
            (json!({ "image": {} }), "code.image"),
            (json!({}), "code"),
        ] {
            let mut request = acme_app("app");
            merge(&mut request, json!({ "code": code }));
            let refused = ignite.refused(via, "SaveDraft", &token, request).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[field]);
            assert_eq!(refused.fields, [field]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not_base64_growth_counted() {
    const LIMIT: usize = 3_000_000;
    let ignite = Ignite::builder()
        .env("IGNITE_MAX_BODY_BYTES", LIMIT.to_string())
        .start()
        .await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let token = ignite.token("acme");
    let path = "/v1/ignite/app/acme/app/invoke";
    let mut client = crate::support::grpc_client(&ignite, &token).await;
    for (len, allowed) in [(LIMIT, true), (LIMIT + 1, false), (LIMIT * 2, false)] {
        let request = ignite::api::proto::v1::InvokeRequest {
            organization_name: app.org.clone(),
            app_name: app.name.clone(),
            http: Some(ignite::api::proto::v1::HttpContext {
                path: "/upload".to_owned(),
                ..Default::default()
            }),
            body: vec![b'x'; len].into(),
        };
        let base64 = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(&request.body)
        };
        let over_grpc = client.invoke(request).await;
        let json = json!({ "http": { "path": "/upload" }, "body": base64 });
        if allowed {
            over_grpc.expect("a body at the limit is taken");
            let request = ignite.request(Method::POST, path).token(&token).json(&json);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.json().await["bytes"], len);
            continue;
        }
        let setting = "IGNITE_MAX_BODY_BYTES";
        let limit = LIMIT.to_string();
        let refused = Refusal::of_status(&over_grpc.expect_err("too large"));
        refused.is(8, 413, "BODY_TOO_LARGE", &[setting, &limit]);
        let refused = post(&ignite, path, json.to_string()).await;
        refused.is(8, 413, "BODY_TOO_LARGE", &[setting, &limit]);
    }
    // Without a length, the received bytes are counted.
    let (chunks, body) = tokio::sync::mpsc::channel(1);
    let sending = tokio::spawn(async move {
        for _ in 0..8 {
            chunks
                .send(vec![b' '; 1 << 20].into())
                .await
                .expect("read to the end");
        }
    });
    let request = ignite
        .request(Method::POST, path)
        .token(&token)
        .body_from(body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.header("x-ignite-error"), Some("BODY_TOO_LARGE"));
    sending.await.expect("all was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_json_is_told_with_its_line_and_column() {
    let ignite = Ignite::builder().start().await;
    let path = "/v1/ignite/app/acme";
    let refused = post(&ignite, path, "{\n  \"name\": \"a\",\n  oops\n}").await;
    refused.is(3, 400, "MALFORMED_REQUEST", &["line 3", "column 3"]);
    let refused = post(&ignite, path, "{\"name\": \"a\"").await;
    refused.is(3, 400, "MALFORMED_REQUEST", &["line 1", "EOF"]);
    let refused = post(&ignite, path, "[]").await;
    refused.is(3, 400, "MALFORMED_REQUEST", &["line 1"]);
    let refused = post(&ignite, path, &b"{\"name\": \"\xff\"}"[..]).await;
    refused.is(3, 400, "MALFORMED_REQUEST", &[]);
    let refused = post(&ignite, "/v1/ignite/app/acme/a/invoke", r#"{"body": "%"}"#).await;
    refused.is(3, 400, "INVALID_ARGUMENT", &["body"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_enum_values_and_query_parameters_are_told_with_the_known_ones() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let path = "/v1/ignite/app/acme";
    let json = json!({
        "name": "a", "resourceTier": "HUGE", "colour": "red",
        "scaling": { "maxReplica": 2, "scale_metric": "LOAD" }, "limits": 7,
    });
    let refused = post(&ignite, path, json.to_string()).await;
    let known = [
        "RESOURCE_TIER_SMALL",
        "maxReplicas",
        "healthPath",
        "SCALE_METRIC_CONCURRENCY",
    ];
    refused.is(3, 400, "INVALID_ARGUMENT", &known);
    let mut fields = refused.fields.clone();
    fields.sort();
    let expected = [
        "colour",
        "limits",
        "resource_tier",
        "scaling.maxReplica",
        "scaling.scale_metric",
    ];
    assert_eq!(fields, expected);

    let (status, headers, body) = ignite
        .api(
            Method::GET,
            &format!("{path}?limits=2"),
            &token,
            &Value::Null,
        )
        .await;
    let refused = Refusal::of_http(status, &headers, &body);
    refused.is(3, 400, "INVALID_ARGUMENT", &["limits", "limit, cursor"]);
    assert_eq!(refused.fields, ["limits"]);

    // Over gRPC an enum is a number, and an unknown number is refused too.
    let request = json!({ "organization_name": "acme", "name": "a", "resource_tier": 99 });
    let refused = ignite
        .refused(Via::Grpc, "CreateApp", &token, request)
        .await;
    refused.is(3, 400, "INVALID_ARGUMENT", &["99", "RESOURCE_TIER_SMALL"]);
    assert_eq!(refused.fields, ["resource_tier"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_field_gets_a_violation_of_its_own() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for via in BOTH {
        let wrong = json!({
            "organization_name": "acme", "name": "a",
            "limits": { "memory_mb": 1, "cpu_millicores": 1, "timeout_secs": 100_000 },
            "env": { "PORT": "1" }, "ports": [80, 80, 0], "health_path": "up",
            "scaling": { "max_replicas": 2, "reserved_capacity": 3 },
            "input_schema": "[]", "max_concurrency": 1_000_000,
        });
        let refused = ignite.refused(via, "CreateApp", &token, wrong).await;
        refused.is(
            3,
            400,
            "INVALID_ARGUMENT",
            &["health_path", "reserved_capacity"],
        );
        let mut fields = refused.fields.clone();
        fields.sort();
        let expected = [
            "env",
            "health_path",
            "input_schema",
            "limits.cpu_millicores",
            "limits.memory_mb",
            "limits.timeout_secs",
            "max_concurrency",
            "ports[1]",
            "ports[2]",
            "scaling.reserved_capacity",
        ];
        assert_eq!(fields, expected);
        let none = ignite.refused(via, "GetApp", &token, acme_app("a")).await;
        none.is(5, 404, "NOT_FOUND", &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_app_can_have_are_refused_with_what_is_wrong() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let long = "a".repeat(64);
    for via in BOTH {
        for (name, words) in [
            ("", "empty"),
            ("My-App", "'M'"),
            ("a_b", "'_'"),
            ("-a", "start and end"),
            ("a.", "start and end"),
            ("a..b", "beside"),
            (long.as_str(), "64 characters"),
            ("ä", "'ä'"),
        ] {
            let request = json!({ "organization_name": "acme", "name": name });
            let refused = ignite.refused(via, "CreateApp", &token, request).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[words]);
            assert_eq!(refused.fields, ["name"]);
        }
        let request = json!({ "organization_name": "Acme!", "name": "A" });
        let refused = ignite.refused(via, "CreateApp", &token, request).await;
        assert_eq!(refused.fields, ["organization_name", "name"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_whose_hosts_collide_are_refused_and_the_other_is_named_to_its_own_org_only() {
    let ignite = Ignite::builder().start().await;
    create(&ignite, "c", "a-b", json!({})).await;
    create(&ignite, "acme", "a.b", json!({})).await;
    create(&ignite, "acme", "web", json!({ "ports": [80, 9090] })).await;
    create(&ignite, "acme-9090", "other", json!({})).await;
    for via in BOTH {
        let refuse = async |org: &str, name: &str, more: Value| {
            let mut request = json!({ "organization_name": org, "name": name });
            merge(&mut request, more);
            let token = ignite.token(org);
            ignite.refused(via, "CreateApp", &token, request).await
        };
        let foreign = refuse("b-c", "a", json!({})).await;
        foreign.is(
            6,
            409,
            "ALREADY_EXISTS",
            &["\"a-b-c\"", "another organization"],
        );
        assert!(!foreign.message.contains("c/a-b"), "{}", foreign.message);

        let own = refuse("acme", "a-dot-b", json!({})).await;
        own.is(6, 409, "ALREADY_EXISTS", &["\"a-dot-b-acme\"", "acme/a.b"]);

        let port = refuse("acme-9090", "web", json!({})).await;
        port.is(
            6,
            409,
            "ALREADY_EXISTS",
            &["\"web-acme-9090\"", "another organization"],
        );
        assert!(!port.message.contains("acme/web"), "{}", port.message);

        // A change of ports can collide as well.
        let token = ignite.token("acme");
        let name = format!("other-{via:?}").to_lowercase();
        create(&ignite, "acme-81", &name, json!({})).await;
        create(&ignite, "acme", &name, json!({})).await;
        let mut update = acme_app(&name);
        merge(&mut update, json!({ "ports": [80, 81] }));
        let moved = ignite.refused(via, "UpdateAppConfig", &token, update).await;
        moved.is(
            6,
            409,
            "ALREADY_EXISTS",
            &["port 81", "another organization"],
        );

        let again = refuse("acme", "web", json!({})).await;
        again.is(6, 409, "ALREADY_EXISTS", &["acme/web", "exists"]);

        let (org, name) = ("o".repeat(30), "a".repeat(33));
        let long = refuse(&org, &name, json!({})).await;
        long.is(3, 400, "INVALID_ARGUMENT", &["64 characters", "63"]);
        // With its port the label of a shorter name is too long.
        let long = refuse(&org, &name[1..], json!({ "ports": [80, 9090] })).await;
        long.is(3, 400, "INVALID_ARGUMENT", &["68 characters", "port 9090"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_405_with_allow_and_an_unknown_route_is_404() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for (method, path, allow) in [
        (Method::PUT, "/v1/ignite/app/acme/a", "DELETE, GET, HEAD"),
        (Method::GET, "/v1/ignite/app/acme/a/invoke", "POST"),
        (Method::POST, "/v1/ignite/app/acme/a/config", "PATCH"),
    ] {
        let (status, headers, body) = ignite.api(method, path, &token, &Value::Null).await;
        let refused = Refusal::of_http(status, &headers, &body);
        refused.is(12, 405, "METHOD_NOT_ALLOWED", &[]);
        let mut allowed: Vec<&str> = headers["allow"]
            .to_str()
            .expect("text")
            .split(", ")
            .collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(", "), allow, "{path}");
    }
    for path in [
        "/v1/ignite/nothing/here/x/y",
        "/v1/ignite/app/acme/",
        "/v2",
        "/",
        "/_app/acme/nobody/x",
    ] {
        let (status, headers, body) = ignite.api(Method::GET, path, &token, &Value::Null).await;
        let refused = Refusal::of_http(status, &headers, &body);
        refused.is(5, 404, "NOT_FOUND", &[]);
    }
    let answer = ignite
        .request(Method::GET, "/")
        .host("nobody-acme.ignite.localhost");
    let answer = answer.token(&token).send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("x-ignite-error"), Some("NOT_FOUND"));
}
