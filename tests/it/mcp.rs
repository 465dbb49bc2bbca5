//! Apps as tools of the Model Context Protocol: over the API, and at `/mcp` to the protocol's own
//! client.

use std::{path::Path, process::Command};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::App,
    contract::{BOTH, Via, acme_app, merge},
    ignite::Ignite,
    python,
};

const SCHEMA: &str = r#"{"type":"object","properties":{"question":{"type":"string"}}}"#;

fn tool(more: Value) -> Value {
    let mut settings = json!({
        "mcp_enabled": true, "description": "Answers questions.", "input_schema": SCHEMA,
    });
    merge(&mut settings, more);
    settings
}

fn names(page: &Value, list: &str) -> Vec<String> {
    let all = page[list].as_array().cloned().unwrap_or_default();
    let name = |t: &Value| t["name"].as_str().expect("a name").to_owned();
    all.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_a_tool_once_it_says_so_and_is_published() {
    let ignite = Ignite::builder().start().await;
    let (acme, other) = (ignite.token("acme"), ignite.token("other"));
    // Names that are parts of the routes.
    for name in ["mcp", "tools"] {
        ignite.publish("acme", name, tool(json!({}))).await;
    }
    ignite.publish("acme", "plain", json!({})).await;
    let mut unpublished = json!({ "organization_name": "acme", "name": "draft" });
    merge(&mut unpublished, tool(json!({})));
    ignite.ok(Via::Json, "CreateApp", &acme, unpublished).await;
    let of = |org: &str| json!({ "organization_name": org });
    for via in BOTH {
        let got = ignite
            .ok(via, "GetMcpToolDefinition", &acme, acme_app("mcp"))
            .await;
        let expected = json!({
            "name": "ignite_acme_mcp", "description": "Answers questions.", "inputSchema": SCHEMA,
            "appId": "acme/mcp", "version": 1, "runtime": "image",
        });
        assert_eq!(got["tool"], expected);
        let all = ignite.ok(via, "ListMcpTools", &acme, of("acme")).await;
        assert_eq!(
            names(&all, "tools"),
            ["ignite_acme_mcp", "ignite_acme_tools"]
        );
        assert_eq!(all["tools"][0], expected);
        let mut page = of("acme");
        merge(&mut page, json!({ "limit": 1 }));
        let page = ignite.ok(via, "ListMcpTools", &acme, page).await;
        assert_eq!(names(&page, "tools"), ["ignite_acme_mcp"]);
        let mut next = of("acme");
        merge(
            &mut next,
            json!({ "limit": 1, "cursor": page["nextCursor"] }),
        );
        let next = ignite.ok(via, "ListMcpTools", &acme, next).await;
        assert_eq!(names(&next, "tools"), ["ignite_acme_tools"]);
        assert!(next.get("nextCursor").is_none(), "{next}");
        let none = ignite.ok(via, "ListMcpTools", &other, of("public")).await;
        assert_eq!(names(&none, "tools"), [""; 0]);

        for (name, lacks) in [
            ("plain", &["mcp_enabled", "description", "input schema"][..]),
            ("draft", &["published version"][..]),
        ] {
            let refused = ignite
                .refused(via, "GetMcpToolDefinition", &acme, acme_app(name))
                .await;
            refused.is(9, 400, "FAILED_PRECONDITION", lacks);
        }
        let foreign = ignite
            .refused(via, "ListMcpTools", &other, of("acme"))
            .await;
        foreign.is(7, 403, "PERMISSION_DENIED", &["acme"]);
    }
    // The app of that name has its own routes.
    let (status, _, app) = ignite
        .api(Method::GET, "/v1/ignite/app/acme/mcp", &acme, &Value::Null)
        .await;
    assert_eq!(
        (status, &app["app"]["id"]),
        (StatusCode::OK, &json!("acme/mcp"))
    );
    let path = "/v1/ignite/app/acme/mcp/versions";
    let (status, _, all) = ignite.api(Method::GET, path, &acme, &Value::Null).await;
    assert_eq!(
        (status, &all["versions"][0]["version"]),
        (StatusCode::OK, &json!(1))
    );
}

/// Runs the client, which prints a JSON object a line.
fn client(ignite: &Ignite, token: &str, mode: &str, tools: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mcp_client.py");
    let output = Command::new(python::with("mcp", &["mcp~=2.3"]))
        .arg(script)
        .args([&format!("{}/mcp", ignite.http_url()), token, mode])
        .args(tools)
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{wrong}", output.status);
    let lines = said.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocols_own_client_lists_and_calls_the_apps_of_its_organization() {
    let ignite = Ignite::builder().start().await;
    ignite.publish("acme", "echo", tool(json!({}))).await;
    let dies = tool(json!({ "env": { "PROBE_EXIT_AT_START": "3" } }));
    ignite.publish("acme", "dies", dies).await;
    // Not offered: another's, one that takes no object, one that is not enabled.
    ignite.publish("other", "echo", tool(json!({}))).await;
    let list = tool(json!({ "input_schema": r#"{"type":"array"}"# }));
    ignite.publish("acme", "list", list).await;
    ignite.publish("acme", "plain", json!({})).await;
    let token = ignite.token("acme");
    for mode in ["legacy", "auto"] {
        let tools = ["ignite_acme_echo", "ignite_acme_dies", "ignite_other_echo"];
        let said = client(&ignite, &token, mode, &tools);
        assert_eq!(said.len(), 5, "{said:?}");
        assert_eq!(said[0]["server"], "ignite");
        let newest = said[0]["version"].as_str().expect("a version") >= "2026";
        assert_eq!(newest, mode == "auto", "{said:?}");
        assert_eq!(
            names(&said[1], "tools"),
            ["ignite_acme_dies", "ignite_acme_echo"]
        );
        let echo = &said[1]["tools"][1];
        assert_eq!(echo["description"], "Answers questions.");
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        assert_eq!(echo["inputSchema"], schema);

        // What the app has seen is what it answered.
        let result = &said[2]["result"];
        assert_ne!(result["isError"], true, "{result}");
        let seen = &result["structuredContent"];
        assert_eq!(
            (&seen["method"], &seen["uri"]),
            (&json!("POST"), &json!("/"))
        );
        let body: Value = serde_json::from_str(seen["body"].as_str().expect("text")).expect("JSON");
        assert_eq!(body, json!({ "question": "why", "n": 7 }));
        let headers = seen["headers"].to_string();
        assert!(
            headers.contains(r#"["content-type","application/json"]"#),
            "{headers}"
        );
        assert!(
            headers.contains(r#"["x-ignite-function-id","acme/echo"]"#),
            "{headers}"
        );
        assert!(!headers.contains("authorization"), "{headers}");
        let text = result["content"][0]["text"].as_str().expect("text");
        assert_eq!(&serde_json::from_str::<Value>(text).expect("JSON"), seen);

        let failed = &said[3]["result"];
        assert_eq!(failed["isError"], true, "{failed}");
        let text = failed["content"][0]["text"].as_str().expect("text");
        assert!(text.starts_with("CONTAINER_EXITED: "), "{text}");

        let unknown = said[4]["error"].as_str().expect("an error");
        assert!(unknown.contains("ignite_other_echo"), "{unknown}");
    }
    // Calls count as others do.
    let app = App {
        org: "acme".to_owned(),
        name: "echo".to_owned(),
        token,
    };
    let (status, state) = app.api(&ignite, Method::GET, "/state", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{state}");
    assert!(state["lastRequestAtMs"].is_string(), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_is_bounded_and_for_those_with_a_token() {
    let ignite = Ignite::builder()
        .env("IGNITE_MCP_MESSAGE_BYTES", "10KiB")
        .start()
        .await;
    let token = ignite.token("acme");
    let ask = |token: String, host: Option<&str>, origin: Option<&str>, body: String| {
        let mut request = ignite.request(Method::POST, "/mcp");
        if !token.is_empty() {
            request = request.token(&token);
        }
        if let Some(host) = host {
            request = request.host(host);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(body);
        async move {
            let answer = request.send().await.expect("an answer");
            let reason = answer.header("x-ignite-error").map(str::to_owned);
            (answer.status.as_u16(), reason.unwrap_or_default())
        }
    };
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let answer = ask(token.clone(), None, None, list.clone()).await;
    assert_eq!(answer, (200, String::new()));
    let local = Some("http://localhost:3000");
    assert_eq!(ask(token.clone(), None, local, list.clone()).await.0, 200);
    let (good, list, long) = (token.as_str(), list.as_str(), "x".repeat(20_000));
    let long = long.as_str();
    for (token, host, origin, body, status, reason) in [
        ("", None, None, list, 401, "UNAUTHENTICATED"),
        (
            good,
            Some("evil.example"),
            None,
            list,
            421,
            "MISDIRECTED_REQUEST",
        ),
        (
            good,
            None,
            Some("https://evil.example"),
            list,
            403,
            "PERMISSION_DENIED",
        ),
        (good, None, Some("null"), list, 403, "PERMISSION_DENIED"),
        (good, None, None, long, 413, "BODY_TOO_LARGE"),
        (good, None, None, "{", 400, "MALFORMED_REQUEST"),
        (good, None, None, "[]", 415, "MALFORMED_REQUEST"),
    ] {
        let answer = ask(token.to_owned(), host, origin, body.to_owned()).await;
        assert_eq!(answer, (status, reason.to_owned()), "{host:?} {origin:?}");
    }
    for method in [Method::GET, Method::DELETE] {
        let answer = ignite.request(method, "/mcp").token(&token).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), Some("POST"));
        assert_eq!(answer.header("x-ignite-error"), Some("METHOD_NOT_ALLOWED"));
    }
}
