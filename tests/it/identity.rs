//! Tokens of this machine, and what each of them authorizes.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use hyper::{Method, StatusCode};
use ignite::{api::proto::v1, identity::SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    contract::{BOTH, Published, Refusal, Via, prebuilt},
    grpc_client, http,
    ignite::Ignite,
};

/// The longest wait for an answer that needs nothing more.
const LIMIT: Duration = crate::support::HANGS;

/// A GET of the app's URL.
fn get(ignite: &Ignite, app: &Published, token: &str) -> http::Request {
    let request = ignite.request(Method::GET, "/headers").host(app.host());
    if token.is_empty() {
        request
    } else {
        request.token(token)
    }
}

async fn refusal(request: http::Request) -> Refusal {
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status, answer.headers.clone());
    Refusal::of_http(status, &headers, &answer.json().await)
}

/// Invokes over one transport and returns the app's status.
async fn invoke(ignite: &Ignite, via: Via, app: &Published, token: &str) -> Result<i32, Refusal> {
    if via == Via::Grpc {
        let request = v1::InvokeRequest {
            organization_name: app.org.clone(),
            app_name: app.name.clone(),
            ..Default::default()
        };
        let mut client = grpc_client(ignite, token).await;
        let answer = client.invoke(request).await;
        let mut frames = answer.map_err(|s| Refusal::of_status(&s))?.into_inner();
        let head = frames.message().await.expect("a frame").expect("a head");
        return match head.frame {
            Some(v1::invoke_response::Frame::Head(head)) => Ok(head.status_code),
            other => panic!("{other:?} is no head"),
        };
    }
    let path = format!("/v1/ignite/app/{}/{}/invoke", app.org, app.name);
    let (status, headers, body) = ignite.api(Method::POST, &path, token, &Value::Null).await;
    if headers.contains_key("x-ignite-error") {
        return Err(Refusal::of_http(status, &headers, &body));
    }
    Ok(status.as_u16().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_every_way_in_answers_401_and_says_what_is_wrong() {
    let ignite = Ignite::builder().start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let good = ignite.token("acme");

    let elsewhere = tempfile::tempdir().expect("a directory");
    let org = "acme".parse().expect("a name");
    let hour = Duration::from_secs(3600);
    let foreign = SigningKey::open_or_create(elsewhere.path()).expect("a key");
    let foreign = foreign.mint(&org, hour, SystemTime::now());
    let own = SigningKey::open(ignite.data_dir()).expect("the server's key");
    let expired = own.mint(&org, hour, SystemTime::now() - 2 * hour);
    // Foreign claims between the header and signature of a valid token.
    let other = ignite.token("other");
    let parts: Vec<&str> = good.split('.').collect();
    let claims = other.split('.').nth(1).expect("claims");
    let forged = format!("{}.{claims}.{}", parts[0], parts[2]);

    for (token, words) in [
        ("", "no bearer token"),
        ("garbage", "malformed"),
        (&expired, "expired at"),
        (&foreign, "not known here"),
        (&forged, "signature"),
    ] {
        let mut all = vec![refusal(get(&ignite, &app, token)).await];
        let by_path = ignite.request(Method::GET, "/_app/acme/app/");
        let by_path = if token.is_empty() {
            by_path
        } else {
            by_path.token(token)
        };
        all.push(refusal(by_path).await);
        for via in BOTH {
            all.push(ignite.refused(via, "GetApp", token, app.id()).await);
            all.push(
                invoke(&ignite, via, &app, token)
                    .await
                    .expect_err("refused"),
            );
        }
        for refused in all {
            refused.is(16, 401, "UNAUTHENTICATED", &[words]);
            let challenge = refused.challenge.as_deref().expect("www-authenticate");
            assert!(challenge.starts_with("Bearer"), "{challenge}");
        }
    }
    let basic = get(&ignite, &app, "").header("authorization", "Basic YTpi");
    refusal(basic)
        .await
        .is(16, 401, "UNAUTHENTICATED", &["Bearer <token>"]);
    assert_eq!(
        get(&ignite, &app, &good)
            .send()
            .await
            .expect("an answer")
            .status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_org_is_refused_with_403_by_every_way_in() {
    let ignite = Ignite::builder().start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let token = ignite.token("other");
    let mut all = vec![refusal(get(&ignite, &app, &token)).await];
    for via in BOTH {
        all.push(
            invoke(&ignite, via, &app, &token)
                .await
                .expect_err("refused"),
        );
        for method in [
            "GetApp",
            "DeleteApp",
            "PublishDraft",
            "GetAppState",
            "GetDraftInfo",
        ] {
            all.push(ignite.refused(via, method, &token, app.id()).await);
        }
        let create = json!({ "organization_name": "acme", "name": "mine" });
        all.push(ignite.refused(via, "CreateApp", &token, create).await);
        let list = json!({ "organization_name": "acme" });
        all.push(ignite.refused(via, "ListApps", &token, list).await);
    }
    for refused in all {
        refused.is(7, 403, "PERMISSION_DENIED", &["acme"]);
    }
    // A missing app is refused in the same way, so names cannot be probed.
    for via in BOTH {
        let nobody = json!({ "organization_name": "acme", "app_name": "nobody" });
        let refused = ignite.refused(via, "GetApp", &token, nobody).await;
        refused.is(7, 403, "PERMISSION_DENIED", &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_of_the_org_public_are_invoked_by_any_valid_token_and_managed_by_their_own_only() {
    let ignite = Ignite::builder().start().await;
    let app = ignite.publish("public", "app", json!({})).await;
    let token = ignite.token("anyone");
    let answer = get(&ignite, &app, &token).send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    refusal(get(&ignite, &app, ""))
        .await
        .is(16, 401, "UNAUTHENTICATED", &[]);
    for via in BOTH {
        assert_eq!(invoke(&ignite, via, &app, &token).await, Ok(200));
        for method in ["GetApp", "DeleteApp", "PublishDraft"] {
            let refused = ignite.refused(via, method, &token, app.id()).await;
            refused.is(7, 403, "PERMISSION_DENIED", &["public"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_app_needs_no_token_on_its_url_and_one_for_invoke() {
    let ignite = Ignite::builder().start().await;
    let app = ignite
        .publish("acme", "app", json!({ "allow_unauthenticated": true }))
        .await;
    let other = ignite.token("other");
    for token in ["", other.as_str()] {
        let answer = get(&ignite, &app, token).send().await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
    }
    // Another scheme is a matter of the client and the app.
    let basic = get(&ignite, &app, "").header("authorization", "Basic YTpi");
    let seen = basic.send().await.expect("an answer").json().await;
    assert!(seen.to_string().contains("Basic YTpi"), "{seen}");
    for via in BOTH {
        let none = invoke(&ignite, via, &app, "").await.expect_err("refused");
        none.is(16, 401, "UNAUTHENTICATED", &[]);
        let wrong = invoke(&ignite, via, &app, &other)
            .await
            .expect_err("refused");
        wrong.is(7, 403, "PERMISSION_DENIED", &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_never_sees_the_platforms_token() {
    let ignite = Ignite::builder().start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let token = ignite.token("acme");
    let by_path = ignite
        .request(Method::GET, "/_app/acme/app/headers")
        .token(&token);
    let invoke = ignite
        .request(Method::POST, "/v1/ignite/app/acme/app/invoke")
        .token(&token)
        .json(&json!({ "http": { "path": "/headers" } }));
    for request in [get(&ignite, &app, &token), by_path, invoke] {
        let seen = request
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .to_string();
        assert!(
            !seen.contains("authorization") && !seen.contains(&token),
            "{seen}"
        );
        assert!(seen.contains("x-ignite-execution-id"), "{seen}");
    }
    // A header in the envelope is for the app.
    let own = ignite
        .request(Method::POST, "/v1/ignite/app/acme/app/invoke")
        .token(&token)
        .json(&json!({ "http": { "path": "/headers", "headers": { "authorization": "mine" } } }));
    let seen = own.send().await.expect("an answer").json().await;
    assert!(
        seen["headers"]
            .to_string()
            .contains(r#"["authorization","mine"]"#),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_while_it_serves_by_a_key_that_only_its_owner_can_read() {
    let ignite = Ignite::builder().start().await;
    let dir = ignite.data_dir().to_str().expect("text");
    let made = ignite.cli(&[
        "token",
        "create",
        "--org",
        "acme",
        "--ttl",
        "1h",
        "--data-dir",
        dir,
    ]);
    assert!(made.status.success());
    let out = String::from_utf8(made.stdout).expect("text");
    let token = out.strip_suffix('\n').expect("one line");
    assert!(
        token.split('.').count() == 3 && !token.contains(char::is_whitespace),
        "{out:?}"
    );
    let create = json!({
        "organization_name": "acme", "name": "a", "code": prebuilt("x:1"),
    });
    ignite.ok(Via::Grpc, "CreateApp", token, create).await;

    let key = ignite.data_dir().join("identity/signing-key.pem");
    let content = std::fs::read_to_string(&key).expect("the key");
    assert!(content.contains("PRIVATE KEY"), "{}", key.display());
    let mode = key.metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

/// A message may be as large as code: strangers must not be able to make the server buffer it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_over_grpc_before_the_message_has_come() {
    let ignite = Ignite::builder().start().await;
    let tcp = TcpStream::connect(ignite.grpc_addr()).await.expect("up");
    let (mut client, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    // A message of 40 MiB that has begun, and an empty one.
    let mut long = vec![0; 8192];
    long[1..5].copy_from_slice(&(40_u32 << 20).to_be_bytes());
    for (method, message, expected) in [
        ("SaveDraft", None, "16"),
        ("HealthCheck", Some((long, false)), "8"),
        ("HealthCheck", Some((vec![0; 5], true)), "0"),
    ] {
        let url = format!("http://x/dodil.ignite.v1.ComputeService/{method}");
        let request = hyper::Request::post(url)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        client = client.ready().await.expect("open");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        if let Some((message, whole)) = message {
            body.send_data(message.into(), whole).expect("open");
        }
        let answer = tokio::time::timeout(LIMIT, answer).await;
        let mut answer = answer.expect("no more is waited for").expect("an answer");
        let status = match answer.headers().get("grpc-status") {
            Some(status) => status.clone(),
            None => {
                while let Some(data) = answer.body_mut().data().await {
                    data.expect("data");
                }
                let trailers = answer.body_mut().trailers().await.expect("trailers");
                trailers.expect("trailers")["grpc-status"].clone()
            }
        };
        assert_eq!(status, expected, "{method}");
    }
    drop(client);
    driver.abort();
}
