//! Who may call what: a table with a row for every method of the contract, read against its
//! descriptors, so that a method without a row fails the test.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use ignite::api::proto::pool;
use prost_reflect::{DynamicMessage, Kind, MethodDescriptor};
use serde_json::{Value, json};

use crate::support::{
    contract::{BOTH, Refusal, Via, bindings},
    ignite::Ignite,
};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Anybody, without a token.
    Anybody,
    /// Members of the organization that the request names.
    Members,
    /// Members of the organization that owns what the request names by id alone. Others get
    /// NOT_FOUND.
    MembersOnly,
    /// Anybody with a valid token, about things of its organization.
    Own,
}
use Who::{Anybody, Members, MembersOnly, Own};

const TABLE: &[(&str, Who)] = &[
    ("BuildService/CancelBuild", Members),
    ("ComputeService/CompileDraft", Members),
    ("ComputeService/CreateApp", Members),
    ("ComputeService/DeleteApp", Members),
    ("ComputeService/GetApp", Members),
    ("ComputeService/GetAppCode", Members),
    ("ComputeService/GetAppEvents", Members),
    ("ComputeService/GetAppLogs", Members),
    ("ComputeService/GetAppState", Members),
    ("ComputeService/GetAppVersion", Members),
    ("ComputeService/GetBuildLog", Members),
    ("ComputeService/GetDraftInfo", Members),
    ("ComputeService/GetExecution", MembersOnly),
    ("ComputeService/GetExecutionStats", Members),
    ("ComputeService/GetMcpToolDefinition", Members),
    ("ComputeService/GetPublicCatalogDetail", Anybody),
    ("ComputeService/HealthCheck", Anybody),
    ("ComputeService/Invoke", Members),
    ("ComputeService/InvokeAsync", Members),
    ("ComputeService/ListAppReplicas", Members),
    ("ComputeService/ListAppVersions", Members),
    ("ComputeService/ListApps", Members),
    ("ComputeService/ListCatalog", Members),
    ("ComputeService/ListMcpTools", Members),
    ("ComputeService/ListPublicCatalog", Anybody),
    ("ComputeService/PublishDraft", Members),
    ("ComputeService/RollbackApp", Members),
    ("ComputeService/SaveDraft", Members),
    ("ComputeService/StreamAppEvents", Members),
    ("ComputeService/StreamAppLogs", Members),
    ("ComputeService/StreamCompileLogs", MembersOnly),
    ("ComputeService/TestAppVersion", Members),
    ("ComputeService/TestDraft", Members),
    ("ComputeService/UpdateAppConfig", Members),
    ("ComputeService/WatchExecution", MembersOnly),
    ("ExecutionService/CancelExecution", MembersOnly),
    ("ExecutionService/ListExecutions", Members),
    ("ScalingService/FreezeAutoscaler", Members),
    ("ScalingService/IdleApp", Members),
    ("ScalingService/ScaleApp", Members),
    ("ScalingService/SetStandby", Members),
    ("ScalingService/UnfreezeAutoscaler", Members),
    ("ScalingService/WaitApp", Members),
    ("SecretService/CreateSecret", Own),
    ("SecretService/DeleteSecret", Own),
    ("SecretService/GetSecret", Own),
    ("SecretService/ListSecrets", Own),
];

/// Paths of the HTTP listener that belong to no method.
const ROUTES: &[(&str, StatusCode)] = &[
    ("/healthz", StatusCode::OK),
    ("/readyz", StatusCode::OK),
    ("/metrics", StatusCode::NOT_FOUND),
    ("/console", StatusCode::NOT_FOUND),
    ("/", StatusCode::NOT_FOUND),
    ("/v1/ignite", StatusCode::NOT_FOUND),
    ("/mcp", StatusCode::METHOD_NOT_ALLOWED),
    ("/v1/ignite/builds", StatusCode::NOT_IMPLEMENTED),
    ("/v1/models", StatusCode::NOT_IMPLEMENTED),
];

/// Every method, by its name in the table.
fn methods() -> BTreeMap<String, MethodDescriptor> {
    pool()
        .services()
        .filter(|service| service.package_name().starts_with("dodil."))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let name = format!("{}/{}", method.parent_service().name(), method.name());
            (name, method)
        })
        .collect()
}

#[test]
fn every_method_of_the_contract_has_a_row_and_a_route() {
    let methods = methods();
    let rows: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    let known: Vec<&str> = methods.keys().map(String::as_str).collect();
    assert_eq!(rows, known, "say in the table who may call each method");
    for (name, method) in &methods {
        assert!(!bindings(method).is_empty(), "{name} has no HTTP route");
    }
}

/// What a request names.
#[derive(Clone, Copy)]
struct Named<'a> {
    app: &'a str,
    execution: &'a str,
}

/// A request of a method about an app of `acme`, built from its descriptor.
fn fields(method: &MethodDescriptor, named: Named<'_>) -> Value {
    let mut fields = serde_json::Map::new();
    for field in method.input().fields() {
        let value = match field.name() {
            "organization_name" => json!("acme"),
            "app_name" | "name" => json!(named.app),
            "execution_id" => json!(named.execution),
            "deploy_id" | "build_id" => json!(named.execution.replace("exec_", "")),
            "version" if matches!(field.kind(), Kind::Uint32 | Kind::Int32) => json!(1),
            _ => continue,
        };
        fields.insert(field.name().to_owned(), value);
    }
    Value::Object(fields)
}

/// The refusal of a call, as far as its head shows; `None` for a call that was admitted.
async fn call(
    ignite: &Ignite,
    via: Via,
    method: &MethodDescriptor,
    token: &str,
    fields: &Value,
) -> Vec<Option<Refusal>> {
    if via == Via::Grpc {
        let message = DynamicMessage::deserialize(method.input(), fields).expect("of the method");
        return vec![ignite.begin(method, token, &message).await.err()];
    }
    let mut answers = Vec::new();
    for (verb, template, has_body) in bindings(method) {
        let mut rest = fields.as_object().expect("an object").clone();
        let segments = template.split('/').map(|segment| {
            let variable = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            match variable.map(|v| {
                rest.remove(v)
                    .unwrap_or_else(|| panic!("{v} of {template}"))
            }) {
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
                None => segment.to_owned(),
            }
        });
        let path = segments.collect::<Vec<_>>().join("/");
        let mut request = ignite.request(verb, &path);
        if !token.is_empty() {
            request = request.token(token);
        }
        if has_body {
            request = request.json(&Value::Object(rest));
        }
        let answer = request.send().await.expect("an answer");
        answers.push(if answer.headers.contains_key("x-ignite-error") {
            let (status, headers) = (answer.status, answer.headers.clone());
            Some(Refusal::of_http(status, &headers, &answer.json().await))
        } else {
            None
        });
    }
    answers
}

/// Whoever calls is let in; what is asked for need not be there.
#[track_caller]
fn let_in(answer: Option<&Refusal>, name: &str) {
    let reason = answer.map(|refusal| refusal.reason.as_str());
    assert!(
        matches!(reason, None | Some("NOT_FOUND")),
        "{name}: {answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_refused_to_nobody_bad_tokens_and_strangers_as_the_table_says() {
    let ignite = Ignite::builder().start().await;
    ignite.publish("acme", "app", json!({})).await;
    let (right, stranger) = (ignite.token("acme"), ignite.token("other"));
    let id = json!({ "organization_name": "acme", "app_name": "app" });
    let begun = ignite
        .ok(Via::Json, "InvokeAsync", &right, id.clone())
        .await;
    let secret = json!({
        "name": "app",
        "value": { "git_secret": { "username": "u", "token": "known-to-acme" } },
    });
    ignite.ok(Via::Json, "CreateSecret", &right, secret).await;
    let before = ignite.ok(Via::Json, "GetApp", &right, id.clone()).await;
    let there = Named {
        app: "app",
        execution: begun["executionId"].as_str().expect("an id"),
    };
    let missing = Named {
        app: "nobody",
        execution: "exec_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    };
    let bad = format!("{}x", &right[..right.len() - 4]);

    let methods = methods();
    for via in BOTH {
        for (name, who) in TABLE {
            let method = &methods[*name];
            let refused = |named, token: &str| {
                let (fields, token) = (fields(method, named), token.to_owned());
                let ignite = &ignite;
                async move { call(ignite, via, method, &token, &fields).await }
            };
            for token in ["", bad.as_str(), "nonsense"] {
                for answer in refused(there, token).await {
                    match who {
                        Anybody => let_in(answer.as_ref(), name),
                        _ => answer
                            .unwrap_or_else(|| panic!("{name} over {via:?} lets {token:?} in"))
                            .is(16, 401, "UNAUTHENTICATED", &[]),
                    }
                }
            }
            // Existing and missing apps are refused alike.
            let of_there = refused(there, &stranger).await;
            let of_missing = refused(missing, &stranger).await;
            for (answer, missed) in std::iter::zip(of_there, of_missing) {
                let alike = missed.clone().map(|mut refused| {
                    let message = refused.message.replace(missing.app, there.app);
                    let ids = [missing, there].map(|n| n.execution.replace("exec_", ""));
                    refused.message = message.replace(&ids[0], &ids[1]);
                    refused
                });
                match who {
                    Anybody => let_in(answer.as_ref(), name),
                    Members => {
                        assert_eq!(answer, alike, "{name} over {via:?}");
                        let answer = answer.unwrap_or_else(|| panic!("{name} lets strangers in"));
                        answer.is(7, 403, "PERMISSION_DENIED", &[]);
                    }
                    MembersOnly => {
                        assert_eq!(answer, alike, "{name} over {via:?}");
                        let answer = answer.unwrap_or_else(|| panic!("{name} lets strangers in"));
                        answer.is(5, 404, "NOT_FOUND", &[]);
                    }
                    // The state of acme's apps is checked below.
                    Own => {}
                }
            }
            // About missing things, so that nothing is changed.
            for answer in refused(missing, &right).await.into_iter().flatten() {
                assert!(
                    !["UNAUTHENTICATED", "PERMISSION_DENIED"].contains(&answer.reason.as_str()),
                    "{name} over {via:?}: {answer:?}"
                );
            }
        }
    }
    // Only acme has changed or seen anything of acme's.
    let after = ignite.ok(Via::Json, "GetApp", &right, id).await;
    assert_eq!(before["app"]["updatedAtMs"], after["app"]["updatedAtMs"]);
    let name = json!({ "name": "app" });
    let kept = ignite
        .ok(Via::Json, "GetSecret", &right, name.clone())
        .await;
    assert!(kept.to_string().contains("known-to-acme"), "{kept}");
    let theirs = ignite.call(Via::Json, "GetSecret", &stranger, &name).await;
    assert!(
        !format!("{theirs:?}").contains("known-to-acme"),
        "{theirs:?}"
    );
    for (path, status) in ROUTES {
        let answer = ignite.request(Method::GET, path).send().await;
        let answer = answer.expect("an answer");
        assert!(
            answer.status == *status || *path == "/readyz",
            "{path}: {answer:?}"
        );
    }
}

/// The API takes a token only from `Authorization`: by path, pages of apps share its origin, and a
/// browser sends cookies by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_takes_no_credential_that_a_browser_sends_by_itself_and_sets_none() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let path = "/v1/ignite/app/acme";
    for (name, value) in [
        (
            "cookie",
            format!("authorization=Bearer {token}; token={token}; access_token={token}"),
        ),
        ("cookie", token.clone()),
        ("proxy-authorization", format!("Bearer {token}")),
        ("x-authorization", format!("Bearer {token}")),
        ("x-access-token", token.clone()),
        ("sec-websocket-protocol", format!("bearer, {token}")),
    ] {
        let answer = ignite.request(Method::GET, path).header(name, &value);
        let answer = answer.send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}");
        // Basic would make the browser ask for and remember a password.
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with("Bearer"), "{challenge}");
    }
    for query in ["access_token", "token", "authorization"] {
        let path = format!("{path}?{query}={token}");
        let (status, headers, _) = ignite.api(Method::GET, &path, "", &Value::Null).await;
        // Only authorized callers learn that a method does not have a field.
        assert!(
            [StatusCode::UNAUTHORIZED, StatusCode::BAD_REQUEST].contains(&status),
            "{query}: {status}"
        );
        assert!(!headers.contains_key("set-cookie"));
    }
    let (status, headers, _) = ignite.api(Method::GET, path, &token, &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    for name in [
        "set-cookie",
        "access-control-allow-origin",
        "access-control-allow-credentials",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    // A page of another origin is allowed nothing.
    let preflight = ignite
        .request(Method::OPTIONS, path)
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization");
    let preflight = preflight.send().await.expect("an answer");
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        None,
        "{preflight:?}"
    );
}
