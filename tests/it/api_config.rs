//! Every setting of an app with an invalid value: each method refuses it with the field and the
//! reason, and changes nothing.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    contract::{BOTH, merge},
    ignite::Ignite,
};

/// Invalid settings, the reported field, and words of the reason.
fn wrong() -> Vec<(Value, &'static str, &'static str)> {
    let env = |name: &str, value: &str| json!({ "env": { name: value } });
    let many: Value = (0..513)
        .map(|n| (format!("A{n}"), json!("")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let ports: Vec<u32> = (1000..1017).collect();
    vec![
        (env("", "x"), "env", "empty name"),
        (env("A=B", "x"), "env", "only letters"),
        (env("A B", "x"), "env", "only letters"),
        (env("1A", "x"), "env", "no digit first"),
        (env("PORT", "1"), "env", "set by the platform"),
        (env("A", "x\0y"), "env", "NUL"),
        (env(&"A".repeat(257), "x"), "env", "the limit is 256"),
        (env("A", &"x".repeat(100_000)), "env", "bytes in all"),
        (json!({ "env": many }), "env", "513 variables"),
        (json!({ "ports": [80, 0] }), "ports[1]", "not a port"),
        (json!({ "ports": [80, 81, 80] }), "ports[2]", "listed twice"),
        (
            json!({ "ports": [65536] }),
            "ports[0]",
            "between 1 and 65535",
        ),
        (json!({ "ports": ports }), "ports", "the limit is 16"),
        (
            json!({ "health_path": "healthz" }),
            "health_path",
            "start with '/'",
        ),
        (
            json!({ "health_path": "/a b" }),
            "health_path",
            "not a path",
        ),
        (json!({ "health_path": "/a#b" }), "health_path", "'#'"),
        (
            json!({ "health_path": format!("/{}", "a".repeat(1024)) }),
            "health_path",
            "the limit is 1024",
        ),
        (
            json!({ "description": "x".repeat(4097) }),
            "description",
            "the limit is 4096",
        ),
        (
            json!({ "input_schema": "{\"type\":" }),
            "input_schema",
            "not a JSON object",
        ),
        (
            json!({ "input_schema": "{\"type\":\"strng\"}" }),
            "input_schema",
            "at /type",
        ),
        (
            json!({ "output_schema": "{\"properties\":{\"a\":{\"minLength\":-1}}}" }),
            "output_schema",
            "at /properties/a/minLength",
        ),
        (
            json!({ "max_concurrency": 100_001 }),
            "max_concurrency",
            "over 100000",
        ),
        (
            json!({ "limits": { "memory_mb": 5 } }),
            "limits.memory_mb",
            "between 6",
        ),
        (
            json!({ "limits": { "cpu_millicores": 9 } }),
            "limits.cpu_millicores",
            "between 10",
        ),
        (
            json!({ "limits": { "timeout_secs": 86_401 } }),
            "limits.timeout_secs",
            "a day",
        ),
        (
            json!({ "resource_tier": 9 }),
            "resource_tier",
            "RESOURCE_TIER_SMALL",
        ),
        (
            json!({ "storage_mode": 9 }),
            "storage_mode",
            "STORAGE_MODE_EPHEMERAL",
        ),
        (
            json!({ "scaling": { "scale_metric": 9 } }),
            "scaling.scale_metric",
            "SCALE_METRIC",
        ),
    ]
}

fn with(mut fields: Value, more: &Value) -> Value {
    merge(&mut fields, more.clone());
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_is_refused_with_its_field_and_nothing_changes() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let right = json!({
        "organization_name": "acme", "name": "right",
        "env": { "A_b.C-1": "=\n\u{e4}" }, "ports": [8080, 80, 65535], "health_path": "/up?deep=1",
        "description": "x".repeat(4096), "max_concurrency": 100_000, "allow_unauthenticated": true,
        "input_schema": "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}",
    });
    ignite.ok(BOTH[0], "CreateApp", &token, right).await;
    let id = json!({ "organization_name": "acme", "app_name": "right" });
    let before = ignite.ok(BOTH[0], "GetApp", &token, id.clone()).await;
    for via in BOTH {
        for (settings, field, words) in wrong() {
            let create = json!({ "organization_name": "acme", "name": "wrong" });
            for (rpc, request) in [
                ("CreateApp", with(create, &settings)),
                ("UpdateAppConfig", with(id.clone(), &settings)),
            ] {
                let refused = ignite.refused(via, rpc, &token, request).await;
                refused.is(3, 400, "INVALID_ARGUMENT", &[words]);
                assert_eq!(refused.fields, [field], "{rpc} over {via:?}: {refused:?}");
            }
        }
        // All errors are reported at once.
        let all = json!({ "ports": [0], "health_path": "x", "env": { "PORT": "1" } });
        let all = with(id.clone(), &all);
        let refused = ignite.refused(via, "UpdateAppConfig", &token, all).await;
        assert_eq!(refused.fields, ["ports[0]", "env", "health_path"]);
        let gone = json!({ "organization_name": "acme", "app_name": "wrong" });
        let gone = ignite.refused(via, "GetApp", &token, gone).await;
        gone.is(5, 404, "NOT_FOUND", &[]);
        let after = ignite.ok(via, "GetApp", &token, id.clone()).await;
        assert_eq!(after["app"], before["app"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_another_type_are_refused_by_json_with_their_place() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for (wrong, place) in [
        (
            json!({ "allowUnauthenticated": "yes" }),
            "allowUnauthenticated",
        ),
        (json!({ "maxConcurrency": -1 }), "maxConcurrency"),
        (json!({ "ports": ["http"] }), "ports"),
        (json!({ "ports": 80 }), "ports"),
        (json!({ "env": { "A": 1 } }), "env"),
        (
            json!({ "inputSchema": { "type": "object" } }),
            "inputSchema",
        ),
        (json!({ "description": 1 }), "description"),
        (json!({ "storageMode": "FOREVER" }), "storageMode"),
        (json!({ "healthPath": ["/"] }), "healthPath"),
        (
            json!({ "allowUnauthenticted": true }),
            "allowUnauthenticted",
        ),
    ] {
        let body = with(json!({ "name": "a" }), &wrong);
        let (status, headers, answer) = ignite
            .api(Method::POST, "/v1/ignite/app/acme", &token, &body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {answer}");
        let reason = headers.get("x-ignite-error").and_then(|v| v.to_str().ok());
        assert!(
            matches!(reason, Some("MALFORMED_REQUEST" | "INVALID_ARGUMENT")),
            "{wrong}: {reason:?} {answer}"
        );
        // Fields are reported in the contract's spelling.
        let told = answer.to_string().replace('_', "").to_lowercase();
        assert!(told.contains(&place.to_lowercase()), "{wrong}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_refuses_wrong_settings_with_code_2_and_the_reason() {
    let ignite = Ignite::builder().start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("schema.json");
    std::fs::write(&file, "{\"type\":\"objekt\"}").expect("written");
    let at_file = format!("@{}", file.display());
    let long = "x".repeat(4097);
    for (flags, words) in [
        (["--env", "1A=x"], "no digit first"),
        (["--env", "PORT=1"], "set by the platform"),
        (["--env", "A"], "KEY=VALUE"),
        (["--port", "0"], "not a port"),
        (["--port", "65536"], "65536"),
        (["--health-path", "healthz"], "start with '/'"),
        (["--description", &long], "the limit is 4096"),
        (["--input-schema", "{\"type\":1}"], "at /type"),
        (["--output-schema", &at_file], "objekt"),
        (["--output-schema", "@/nowhere"], "/nowhere"),
        (["--max-concurrency", "100001"], "over 100000"),
        (["--max-concurrency", "-1"], "-1"),
        (["--allow-unauthenticated=maybe", "-o=json"], "maybe"),
        (["--storage", "forever"], "persistent"),
        (["--memory", "5"], "between 6"),
    ] {
        let args = [&["app", "create", "local:a"], &flags[..]].concat();
        let output = ignite.cli(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(words), "{flags:?}: {said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    std::fs::write(&file, "{\"type\":\"object\"}").expect("written");
    let args = ["app", "create", "local:a", "--input-schema", &at_file];
    let output = ignite.cli(&args);
    assert!(output.status.success(), "{output:?}");
    let output = ignite.cli(&["app", "get", "local:a", "-o", "json"]);
    let app: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(app["app"]["inputSchema"], "{\"type\":\"object\"}");
}
