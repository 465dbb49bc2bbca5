//! Answers in gRPC, read with types that have nothing but what the platform's pages publish: field
//! numbers and types, written down here once more by hand.

use std::collections::HashMap;

use hyper::StatusCode;
use prost::Message;
use serde_json::{Value, json};

use crate::support::{
    contract::{BOTH, Via, acme_app, merge, method},
    ignite::Ignite,
};

#[derive(Clone, PartialEq, Message)]
struct GetAppResponse {
    #[prost(message, optional, tag = "1")]
    app: Option<AppMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct AppMeta {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    runtime: Option<Runtime>,
    #[prost(message, optional, tag = "4")]
    limits: Option<Anything>,
    #[prost(map = "string, string", tag = "5")]
    env: HashMap<String, String>,
    #[prost(int32, tag = "9")]
    resource_tier: i32,
    #[prost(message, optional, tag = "10")]
    scaling: Option<Anything>,
    #[prost(int32, tag = "11")]
    storage_mode: i32,
    #[prost(int32, tag = "15")]
    deployment_state: i32,
    #[prost(uint32, tag = "26")]
    version: u32,
    #[prost(string, tag = "27")]
    organization_name: String,
    #[prost(uint32, tag = "28")]
    active_version: u32,
    #[prost(string, tag = "29")]
    description: String,
    #[prost(string, tag = "30")]
    input_schema: String,
    #[prost(string, tag = "31")]
    output_schema: String,
    #[prost(bool, tag = "32")]
    mcp_enabled: bool,
    #[prost(uint32, tag = "38")]
    max_concurrency: u32,
    #[prost(int32, tag = "39")]
    deployment_mode: i32,
}

/// A message of which the pages give no numbers.
#[derive(Clone, PartialEq, Message)]
struct Anything {}

/// The numbers within it are not published; these are ours.
#[derive(Clone, PartialEq, Message)]
struct Runtime {
    #[prost(message, optional, tag = "1")]
    python: Option<Anything>,
    #[prost(message, optional, tag = "2")]
    rust: Option<RustRuntime>,
}

#[derive(Clone, PartialEq, Message)]
struct RustRuntime {
    /// An enum: 1 is native.
    #[prost(int32, tag = "1")]
    target: i32,
    #[prost(string, tag = "2")]
    toolchain_version: String,
}

/// A list or a detail; the names of their fields are not published, nor are the numbers.
#[derive(Clone, PartialEq, Message)]
struct Catalog {
    #[prost(message, repeated, tag = "1")]
    items: Vec<CatalogItem>,
}

#[derive(Clone, PartialEq, Message)]
struct CatalogItem {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, repeated, tag = "4")]
    tags: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    category: Vec<String>,
    #[prost(string, tag = "6")]
    author: String,
    #[prost(string, tag = "7")]
    input_modality: String,
    #[prost(int64, tag = "8")]
    created_at_ms: i64,
    #[prost(string, tag = "9")]
    output_modality: String,
    #[prost(oneof = "Source", tags = "10, 11")]
    source: Option<Source>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Source {
    #[prost(message, tag = "10")]
    App(AppCatalogFields),
    #[prost(message, tag = "11")]
    Model(Anything),
}

#[derive(Clone, PartialEq, Message)]
struct AppCatalogFields {
    #[prost(string, tag = "1")]
    runtime: String,
    #[prost(bool, tag = "2")]
    mcp_enabled: bool,
    #[prost(bool, tag = "3")]
    has_streaming: bool,
    #[prost(uint32, tag = "4")]
    model_count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct GetMcpToolDefinitionResponse {
    #[prost(message, optional, tag = "1")]
    tool: Option<McpToolDefinition>,
}

#[derive(Clone, PartialEq, Message)]
struct McpToolDefinition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    input_schema: String,
    #[prost(string, tag = "4")]
    output_schema: String,
    #[prost(string, tag = "5")]
    app_id: String,
    #[prost(uint32, tag = "6")]
    version: u32,
    #[prost(string, tag = "7")]
    runtime: String,
}

#[derive(Clone, PartialEq, Message)]
struct GetExecutionStatsResponse {
    #[prost(message, repeated, tag = "1")]
    buckets: Vec<ExecutionBucket>,
    #[prost(int32, tag = "2")]
    bucket_secs: i32,
    #[prost(string, repeated, tag = "3")]
    partial_clusters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecutionBucket {
    #[prost(int64, tag = "1")]
    timestamp_ms: i64,
    #[prost(int32, tag = "2")]
    completed: i32,
    #[prost(int32, tag = "3")]
    failed: i32,
    #[prost(int32, tag = "4")]
    timeout: i32,
}

/// The answer of a method in gRPC, read with a type of ours.
async fn typed<M: Message + Default>(
    ignite: &Ignite,
    name: &str,
    token: &str,
    fields: &Value,
) -> M {
    let method = method(name);
    let message = prost_reflect::DynamicMessage::deserialize(method.input(), fields);
    let message = message.expect("of the method").encode_to_vec();
    let answer = ignite.raw(&method, token, message.into()).await;
    let answer = answer.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    M::decode(answer).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn rust(more: Value) -> Value {
    let mut rust = json!({ "toolchain_version": "1.90.0" });
    merge(&mut rust, more);
    // "fn main() {}"
    json!({ "compile": { "runtime": { "rust": rust }, "source_code": "Zm4gbWFpbigpIHt9" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_is_a_message_and_the_target_of_rust_an_enum() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let create = json!({ "organization_name": "acme", "name": "fn" });
    ignite.ok(Via::Json, "CreateApp", &token, create).await;
    let native = json!({ "target": "RUST_COMPILATION_TARGET_NATIVE" });
    for (target, triple) in [
        (native.clone(), None),
        (json!({}), None),
        (
            json!({ "target_triple": "x86_64-unknown-linux-musl" }),
            Some("x86_64-unknown-linux-musl"),
        ),
    ] {
        for via in BOTH {
            let mut save = acme_app("fn");
            merge(&mut save, json!({ "code": rust(target.clone()) }));
            ignite.ok(via, "SaveDraft", &token, save).await;
            let app: GetAppResponse = typed(&ignite, "GetApp", &token, &acme_app("fn")).await;
            let app = app.app.expect("an app");
            let expected = RustRuntime {
                target: 1,
                toolchain_version: "1.90.0".to_owned(),
            };
            assert_eq!(app.runtime.and_then(|r| r.rust), Some(expected));
            let app = ignite.ok(via, "GetApp", &token, acme_app("fn")).await;
            let mut expected = json!({
                "target": "RUST_COMPILATION_TARGET_NATIVE", "toolchainVersion": "1.90.0",
            });
            if let Some(triple) = triple {
                merge(&mut expected, json!({ "targetTriple": triple }));
            }
            assert_eq!(app["app"]["runtime"], json!({ "rust": expected }));
            let code = ignite.ok(via, "GetAppCode", &token, acme_app("fn")).await;
            assert_eq!(code["code"]["compile"]["runtime"]["rust"], expected);
        }
    }
    for via in BOTH {
        for (target, field, word) in [
            (
                json!({ "target": "RUST_COMPILATION_TARGET_WASM" }),
                "target",
                "WebAssembly",
            ),
            (
                json!({ "target": 9 }),
                "target",
                "RUST_COMPILATION_TARGET_NATIVE",
            ),
            (
                json!({ "target_triple": "$(id)" }),
                "target_triple",
                "x86_64",
            ),
        ] {
            let mut save = acme_app("fn");
            merge(&mut save, json!({ "code": rust(target) }));
            let refused = ignite.refused(via, "SaveDraft", &token, save).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[word]);
            assert_eq!(
                refused.fields,
                [format!("code.compile.runtime.rust.{field}")]
            );
        }
    }
    // A triple where the enum is.
    let mut save = json!({ "code": rust(json!({ "target": "x86_64-unknown-linux-musl" })) });
    let path = "/v1/ignite/app/acme/fn/draft";
    let (status, _, answer) = ignite
        .api(hyper::Method::POST, path, &token, &save.take())
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(
        answer
            .to_string()
            .contains("RUST_COMPILATION_TARGET_NATIVE"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_with_published_numbers_is_read_by_them() {
    let ignite = Ignite::builder().start().await;
    let settings = json!({
        "description": "says", "input_schema": "{}", "output_schema": "{\"type\":\"object\"}",
        "mcp_enabled": true, "max_concurrency": 3, "env": { "A": "b" },
        "resource_tier": "RESOURCE_TIER_LARGE", "storage_mode": "STORAGE_MODE_PERSISTENT",
    });
    for org in ["acme", "public"] {
        ignite.publish(org, "web", settings.clone()).await;
    }
    let token = ignite.token("acme");
    let app: GetAppResponse = typed(&ignite, "GetApp", &token, &acme_app("web")).await;
    let app = app.app.expect("an app");
    let expected = AppMeta {
        id: "acme/web".to_owned(),
        name: "web".to_owned(),
        runtime: None,
        limits: Some(Anything {}),
        env: [("A".to_owned(), "b".to_owned())].into(),
        resource_tier: 3,
        scaling: Some(Anything {}),
        storage_mode: 1,
        deployment_state: app.deployment_state,
        version: 1,
        organization_name: "acme".to_owned(),
        active_version: 1,
        description: "says".to_owned(),
        input_schema: "{}".to_owned(),
        output_schema: "{\"type\":\"object\"}".to_owned(),
        mcp_enabled: true,
        max_concurrency: 3,
        deployment_mode: 2,
    };
    assert_eq!(app, expected);

    let named = json!({ "name": "web" });
    let item = |catalog: Catalog| catalog.items.into_iter().next().expect("an item");
    let own = json!({ "organization_name": "acme" });
    let own = item(typed(&ignite, "ListCatalog", &token, &own).await);
    let listed = item(typed(&ignite, "ListPublicCatalog", "", &json!({})).await);
    let detail = item(typed(&ignite, "GetPublicCatalogDetail", "", &named).await);
    assert_eq!(listed, detail);
    for (item, id) in [(own, "acme/web"), (listed, "public/web")] {
        let expected = CatalogItem {
            id: id.to_owned(),
            name: "web".to_owned(),
            description: "says".to_owned(),
            created_at_ms: item.created_at_ms,
            source: Some(Source::App(AppCatalogFields {
                runtime: "image".to_owned(),
                mcp_enabled: true,
                ..Default::default()
            })),
            ..Default::default()
        };
        assert!(item.created_at_ms > 0);
        assert_eq!(item, expected);
    }

    let tool: GetMcpToolDefinitionResponse =
        typed(&ignite, "GetMcpToolDefinition", &token, &acme_app("web")).await;
    let expected = McpToolDefinition {
        name: "ignite_acme_web".to_owned(),
        description: "says".to_owned(),
        input_schema: "{}".to_owned(),
        output_schema: "{\"type\":\"object\"}".to_owned(),
        app_id: "acme/web".to_owned(),
        version: 1,
        runtime: "image".to_owned(),
    };
    assert_eq!(tool.tool, Some(expected));

    let mut range = acme_app("web");
    merge(&mut range, json!({ "bucket_secs": 86400 }));
    let stats: GetExecutionStatsResponse =
        typed(&ignite, "GetExecutionStats", &token, &range).await;
    assert_eq!(stats.bucket_secs, 86400);
    let buckets = &stats.buckets;
    assert!(
        buckets.iter().all(|b| b.timestamp_ms > 0 && b.failed == 0),
        "{buckets:?}"
    );
}
