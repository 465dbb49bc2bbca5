//! Third-party clients: Python's gRPC with reflection only, and curl with the contract's own
//! examples.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{ignite::Ignite, probe, python};

/// Python's gRPC, and what it reads reflection with.
const GRPC: [&str; 2] = ["grpcio~=1.62", "grpcio-reflection~=1.62"];
/// Python's OAuth.
const OAUTH: [&str; 2] = ["authlib~=1.3", "requests~=2.31"];

fn stdout(output: Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {err}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_with_nothing_but_reflection_creates_publishes_and_invokes() {
    let image = probe::image().await;
    let ignite = Ignite::builder().start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/client.py");
    let output = Command::new(python::with("client", &GRPC))
        .arg(script)
        .args([
            &ignite.grpc_addr().to_string(),
            &ignite.token("acme-corp"),
            &image,
        ])
        .output();
    let lines = stdout(output.expect("Python runs"));
    let said: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert_eq!(said.len(), 8, "{lines}");
    let services = said[0].to_string();
    assert!(
        services.contains("dodil.ignite.v1.ComputeService"),
        "{services}"
    );
    assert_eq!(said[1]["appId"], "acme-corp/snake");
    assert_eq!(said[2]["draft"]["imageRef"], image.as_str());
    assert_eq!(said[3]["version"]["version"], 1);
    assert_eq!(said[4]["head"]["statusCode"], 200);
    assert_eq!(said[5], json!({ "chunk": "aGVsbG8=" }));
    assert_eq!(said[6]["trailer"]["totalBodyBytes"], "5");
    assert_eq!(said[7][0], "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_library_of_oauth_discovers_the_endpoint_and_uses_its_tokens() {
    let ignite = Ignite::builder().start().await;
    let account = ignite.account("acme", "ci", &["--role", "ignite.app-viewer"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/oauth_client.py");
    let output = Command::new(python::with("oauth", &OAUTH))
        .arg(script)
        .args([&ignite.http_url(), &account.id, &account.secret])
        .output();
    let lines = stdout(output.expect("Python runs"));
    let said: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let used = json!({ "scope": "ListApps", "client": "cli-ci", "status": 200 });
    let issuer = format!("{}/realms/dodil", ignite.http_url());
    assert_eq!(
        said,
        [
            json!({ "issuer": issuer }),
            used.clone(),
            used,
            json!({ "error": "invalid_client" }),
        ]
    );
}

/// Runs an example of the contract as printed there, except for the hosts.
fn curl(ignite: &Ignite, token: &str, example: &str) -> String {
    let http = ignite.http_addr();
    let app = format!(
        "my-data-processor-acme-corp.ignite.localhost:{}",
        http.port()
    );
    let line = example
        .replace(
            "https://my-data-processor-acme-corp.ignite.dodil.cloud",
            &format!("http://{app}"),
        )
        .replace("https://api.dev.dodil.io", &format!("http://{http}"))
        // Not every resolver maps names under localhost to this machine.
        .replacen("curl ", &format!("curl --resolve {app}:127.0.0.1 "), 1);
    let output = Command::new("sh")
        .args(["-c", &line])
        .env("DODIL_TOKEN", token)
        .output();
    stdout(output.expect("a shell runs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_works_with_the_very_examples_of_the_contract() {
    let ignite = Ignite::builder().start().await;
    ignite
        .publish("acme-corp", "my-data-processor", json!({}))
        .await;
    let token = ignite.token("acme-corp");
    let json = |example: &str| -> Value {
        let out = curl(&ignite, &token, example);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out:?}"))
    };
    let echo = json(
        r#"curl -sS -X POST "https://my-data-processor-acme-corp.ignite.dodil.cloud/" \
  -H "Authorization: Bearer $DODIL_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{ "key": "value" }'"#,
    );
    assert_eq!(
        (&echo["method"], &echo["uri"], &echo["body"]),
        (
            &json!("POST"),
            &json!("/"),
            &json!("{ \"key\": \"value\" }")
        )
    );

    let echo = json(
        r#"curl -sS -X POST "https://api.dev.dodil.io/v1/ignite/app/acme-corp/my-data-processor/invoke" \
  -H "Authorization: Bearer $DODIL_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{ "http": { "method": "HTTP_METHOD_POST", "path": "/", "headers": { "content-type": "application/json" } }, "body": "eyJrZXkiOiAidmFsdWUifQ==" }'"#,
    );
    assert_eq!(
        (&echo["uri"], &echo["body"]),
        (&json!("/"), &json!("{\"key\": \"value\"}"))
    );
    assert!(
        echo["headers"]
            .to_string()
            .contains(r#"["content-type","application/json"]"#),
        "{echo}"
    );

    let app = json(
        r#"curl -sS "https://api.dev.dodil.io/v1/ignite/app/acme-corp/my-data-processor" \
  -H "Authorization: Bearer $DODIL_TOKEN""#,
    );
    assert_eq!(app["app"]["id"], "acme-corp/my-data-processor");
    assert_eq!(app["app"]["activeVersion"], 1);
}
