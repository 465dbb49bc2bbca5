//! Who may call what: a table with a row for every method of the contract, read against its
//! descriptors, so that a method without a row fails the test.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use hyper::{Method, StatusCode};
use ignite::{
    api::proto::pool,
    identity::{Mint, SigningKey},
    model::{Scope, Scopes},
};
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

/// Each method, who may call it, and the scope that the token needs; none where it is empty.
const TABLE: &[(&str, Who, &str)] = &[
    ("BuildService/CancelBuild", Members, "CancelBuild"),
    ("ComputeService/CompileDraft", Members, "DeployApp"),
    ("ComputeService/CreateApp", Members, "DeployApp"),
    ("ComputeService/DeleteApp", Members, "DeployApp"),
    ("ComputeService/GetApp", Members, "GetApp"),
    ("ComputeService/GetAppCode", Members, "GetApp"),
    ("ComputeService/GetAppEvents", Members, "GetApp"),
    ("ComputeService/GetAppLogs", Members, "GetApp"),
    ("ComputeService/GetAppState", Members, "GetApp"),
    ("ComputeService/GetAppVersion", Members, "ListAppVersions"),
    ("ComputeService/GetBuildLog", Members, "GetBuild"),
    ("ComputeService/GetDraftInfo", Members, "GetApp"),
    ("ComputeService/GetExecution", MembersOnly, "GetExecution"),
    ("ComputeService/GetExecutionStats", Members, "GetExecution"),
    ("ComputeService/GetMcpToolDefinition", Members, "GetApp"),
    ("ComputeService/GetPublicCatalogDetail", Anybody, ""),
    ("ComputeService/HealthCheck", Anybody, ""),
    ("ComputeService/Invoke", Members, "InvokeApp"),
    ("ComputeService/InvokeAsync", Members, "InvokeApp"),
    ("ComputeService/ListAppReplicas", Members, "GetApp"),
    ("ComputeService/ListAppVersions", Members, "ListAppVersions"),
    ("ComputeService/ListApps", Members, "ListApps"),
    ("ComputeService/ListCatalog", Members, "ListApps"),
    ("ComputeService/ListMcpTools", Members, "ListApps"),
    ("ComputeService/ListPublicCatalog", Anybody, ""),
    ("ComputeService/PublishDraft", Members, "DeployApp"),
    ("ComputeService/RollbackApp", Members, "RollbackApp"),
    ("ComputeService/SaveDraft", Members, "DeployApp"),
    ("ComputeService/StreamAppEvents", Members, "GetApp"),
    ("ComputeService/StreamAppLogs", Members, "GetApp"),
    ("ComputeService/StreamCompileLogs", MembersOnly, "GetBuild"),
    ("ComputeService/TestAppVersion", Members, "DeployApp"),
    ("ComputeService/TestDraft", Members, "DeployApp"),
    ("ComputeService/UpdateAppConfig", Members, "DeployApp"),
    ("ComputeService/WatchExecution", MembersOnly, "GetExecution"),
    ("DevService/DropVersion", Members, "DeployApp"),
    ("DevService/GetDevSupport", Members, "GetApp"),
    ("DevService/StopDev", Members, "DeployApp"),
    ("DevService/SyncDraft", Members, "DeployApp"),
    ("ExecutionService/CancelExecution", MembersOnly, "InvokeApp"),
    ("ExecutionService/ListExecutions", Members, "GetExecution"),
    ("HostService/AddHost", Members, "DeployApp"),
    ("HostService/ListHosts", Members, "GetApp"),
    ("HostService/RemoveHost", Members, "DeployApp"),
    ("ScalingService/FreezeAutoscaler", Members, "DeployApp"),
    ("ScalingService/IdleApp", Members, "DeployApp"),
    ("ScalingService/ScaleApp", Members, "DeployApp"),
    ("ScalingService/SetStandby", Members, "DeployApp"),
    ("ScalingService/UnfreezeAutoscaler", Members, "DeployApp"),
    ("ScalingService/WaitApp", Members, "GetApp"),
    ("SecretService/CreateSecret", Own, "CreateSecret"),
    ("SecretService/DeleteSecret", Own, "DeleteSecret"),
    ("SecretService/GetSecret", Own, "GetSecret"),
    ("SecretService/ListSecrets", Own, "ListSecrets"),
    ("VersionService/PruneVersions", Members, "DeployApp"),
];

/// Paths of the HTTP listener that belong to no method.
const ROUTES: &[(&str, StatusCode)] = &[
    ("/healthz", StatusCode::OK),
    ("/readyz", StatusCode::OK),
    ("/openapi.json", StatusCode::OK),
    ("/metrics", StatusCode::UNAUTHORIZED),
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
    let rows: Vec<&str> = TABLE.iter().map(|(name, ..)| *name).collect();
    let known: Vec<&str> = methods.keys().map(String::as_str).collect();
    assert_eq!(
        rows, known,
        "say in the table who may call each method, and with which scope"
    );
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
            "host" => json!("shop.example"),
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
        for (name, who, _) in TABLE {
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

/// A token of the right organization opens a method with its scope, and only with that.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_refused_without_its_scope_and_let_in_with_it_alone() {
    let ignite = Ignite::builder().start().await;
    ignite.publish("acme", "app", json!({})).await;
    let key = SigningKey::open(ignite.data_dir()).expect("the server's key");
    let org = "acme".parse().expect("a name");
    let with = |scopes: Scopes| {
        key.mint_for(&Mint {
            org: &org,
            ttl: Duration::from_secs(600),
            scopes: Some(scopes),
            audience: None,
            now: SystemTime::now(),
        })
    };
    let tokens: BTreeMap<&str, (String, String)> = Scope::ALL
        .iter()
        .map(|scope| {
            let rest: Vec<Scope> = Scope::ALL.iter().copied().filter(|s| s != scope).collect();
            let tokens = (with(Scopes::of(&[*scope])), with(Scopes::of(&rest)));
            (scope.as_str(), tokens)
        })
        .collect();
    let none = with(Scopes::NONE);
    let missing = Named {
        app: "nobody",
        execution: "exec_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    };
    let there = Named {
        app: "app",
        ..missing
    };
    let methods = methods();
    for via in BOTH {
        for (name, _, scope) in TABLE {
            let method = &methods[*name];
            let of_missing = fields(method, missing);
            let Some((alone, without)) = tokens.get(scope) else {
                assert_eq!(*scope, "", "{name}: there is no such scope");
                for answer in call(&ignite, via, method, &none, &of_missing).await {
                    let reason = answer.map(|a| a.reason);
                    assert_ne!(reason.as_deref(), Some("PERMISSION_DENIED"), "{name}");
                }
                continue;
            };
            for about in [there, missing] {
                for token in [without, &none] {
                    let about = fields(method, about);
                    for answer in call(&ignite, via, method, token, &about).await {
                        let answer = answer.unwrap_or_else(|| panic!("{name} over {via:?}"));
                        let words = ["UMA authorization rejected", *scope];
                        answer.is(7, 403, "PERMISSION_DENIED", &words);
                    }
                }
            }
            for answer in call(&ignite, via, method, alone, &of_missing).await {
                let reason = answer.map(|a| a.reason).unwrap_or_default();
                assert!(
                    !["UNAUTHENTICATED", "PERMISSION_DENIED"].contains(&reason.as_str()),
                    "{name} over {via:?}: {reason}"
                );
            }
        }
    }
    // App URLs are invocations.
    let (alone, without) = &tokens["InvokeApp"];
    for (token, status) in [(alone, StatusCode::OK), (without, StatusCode::FORBIDDEN)] {
        let request = ignite.request(Method::GET, "/_app/acme/app/").token(token);
        assert_eq!(request.send().await.expect("an answer").status, status);
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
