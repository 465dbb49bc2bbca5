//! Service accounts: their tokens, and what becomes of these when something changes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{Method, StatusCode};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, Scope, TokenResponse as _,
    TokenUrl, basic::BasicClient,
};
use serde_json::{Value, json};

use crate::support::{
    HANGS,
    contract::{BOTH, Published, Via},
    eventually, http,
    ignite::Ignite,
    tokens::{Account, CERTS, TOKEN, said},
};

const DISCOVERY: &str = "/realms/dodil/.well-known/openid-configuration";

async fn server() -> (Ignite, Published) {
    let ignite = Ignite::builder().start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    (ignite, app)
}

/// The status of a GET of the app's URL.
async fn get(ignite: &Ignite, app: &Published, token: &str) -> StatusCode {
    let request = ignite.request(Method::GET, "/").host(app.host());
    let answer = request.token(token).send().await;
    answer.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_fetches_tokens_in_every_way_that_clients_know_and_uses_them() {
    let (ignite, app) = server().await;
    let account = ignite.account("acme", "ci", &["--role", "ignite.app-developer"]);
    assert_eq!(account.id, "cli-ci");
    let long = Account {
        id: "ci@svcacc.dodil.io".to_owned(),
        ..account.clone()
    };
    let grant = "grant_type=client_credentials&scope=GetApp+InvokeApp";
    for request in [
        ignite.form(&account.form()),
        ignite.form(&long.form()),
        ignite.form(grant).header("authorization", &account.basic()),
        ignite.form(grant).header("authorization", &long.basic()),
    ] {
        let given = said(request).await;
        let token = given.token();
        assert_eq!(given.body["token_type"], "Bearer");
        assert_eq!(given.body["expires_in"], 300);
        assert_eq!(given.body["refresh_expires_in"], 0);
        assert_eq!(given.body["not-before-policy"], 0);
        assert!(
            given.body["scope"]
                .as_str()
                .expect("text")
                .contains("InvokeApp")
        );
        assert_eq!(given.headers["cache-control"], "no-store");
        assert_eq!(get(&ignite, &app, &token).await, StatusCode::OK);
        for via in BOTH {
            ignite.ok(via, "GetApp", &token, app.id()).await;
        }
    }
    // What discovery says leads to the keys, which are there for HEAD as well.
    let found = ignite.request(Method::GET, DISCOVERY).send().await;
    let found = found.expect("an answer").json().await;
    let issuer = format!("{}/realms/dodil", ignite.http_url());
    assert_eq!(found["issuer"], issuer.as_str());
    assert_eq!(
        found["token_endpoint"],
        format!("{}{TOKEN}", ignite.http_url())
    );
    assert_eq!(found["jwks_uri"], format!("{}{CERTS}", ignite.http_url()));
    let keys = ignite.request(Method::GET, CERTS).send().await;
    let keys = keys.expect("an answer").json().await;
    let token = ignite.grant(&account).await;
    let header = jsonwebtoken::decode_header(&token).expect("a token");
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys).expect("a key set");
    let key = set
        .find(header.kid.as_deref().expect("an id"))
        .expect("its key");
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.set_issuer(&[issuer]);
    let key = jsonwebtoken::DecodingKey::from_jwk(key).expect("a key");
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &rules)
        .expect("verifies")
        .claims;
    assert_eq!(claims["client_id"], "cli-ci");
    assert_eq!(claims["organization"], json!({ "acme": { "id": "acme" } }));
    for path in [DISCOVERY, CERTS] {
        let head = ignite.request(Method::HEAD, path).send().await;
        assert_eq!(head.expect("an answer").status, StatusCode::OK, "{path}");
        let post = ignite.request(Method::POST, path).send().await;
        assert_eq!(
            post.expect("an answer").status,
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_answers_each_fault_as_the_standard_says() {
    let (ignite, app) = server().await;
    let account = ignite.account("acme", "ci", &["--role", "ignite.app-viewer"]);
    let wrong = Account {
        secret: format!("{}x", account.secret),
        ..account.clone()
    };
    let unknown = Account {
        id: "cli-nobody".to_owned(),
        ..account.clone()
    };
    let form = account.form();
    for (request, status, error) in [
        (ignite.form(&wrong.form()), 401, "invalid_client"),
        (ignite.form(&unknown.form()), 401, "invalid_client"),
        (
            ignite.form("grant_type=client_credentials"),
            401,
            "invalid_client",
        ),
        (ignite.form(""), 400, "invalid_request"),
        (
            ignite.form(&format!("{form}&client_id=x")),
            400,
            "invalid_request",
        ),
        (
            ignite.form(&form).header("authorization", &account.basic()),
            400,
            "invalid_request",
        ),
        (
            ignite
                .form(&form)
                .header("content-type", "application/json"),
            400,
            "invalid_request",
        ),
        (ignite.form(&"a".repeat(20_000)), 400, "invalid_request"),
        (
            ignite.form("grant_type=password&username=u"),
            400,
            "unsupported_grant_type",
        ),
        (
            ignite.form(&format!("{form}&scope=DeployApp")),
            400,
            "invalid_scope",
        ),
        (
            ignite.form(&format!("{form}&scope=Fly")),
            400,
            "invalid_scope",
        ),
    ] {
        let refused = said(request).await;
        refused.is(status, error);
        assert_eq!(refused.headers["cache-control"], "no-store");
        let challenge = refused.headers.get("www-authenticate");
        assert_eq!(challenge.is_some(), status == 401, "{error}");
        assert!(refused.body["error_description"].is_string());
    }
    let read = ignite
        .request(Method::GET, TOKEN)
        .send()
        .await
        .expect("an answer");
    assert_eq!(read.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(read.header("allow"), Some("POST"));
    // A viewer sees and does not touch.
    let token = ignite.grant(&account).await;
    for via in BOTH {
        ignite.ok(via, "GetApp", &token, app.id()).await;
        let refused = ignite.refused(via, "DeleteApp", &token, app.id()).await;
        refused.is(
            7,
            403,
            "PERMISSION_DENIED",
            &["UMA authorization rejected", "DeployApp"],
        );
    }
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_withdraws_is_refused_with_the_next_request() {
    let (ignite, app) = server().await;
    ignite.publish("acme", "other", json!({})).await;
    let account = ignite.account("acme", "ci", &[]);
    let token = ignite.grant(&account).await;
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::OK);
    // A role for one app, and nothing beyond it.
    let role = [
        "ci",
        "ignite.app-developer",
        "--org",
        "acme",
        "--app",
        "app",
    ];
    let granted = ignite.sa(&[&["grant-role"], &role[..]].concat());
    assert_eq!(
        granted["roles"],
        json!([{ "role": "ignite.app-developer", "app": "app" }])
    );
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::OK);
    for via in BOTH {
        ignite.ok(via, "GetApp", &token, app.id()).await;
        for name in ["other", "nobody"] {
            let fields = json!({ "organization_name": "acme", "app_name": name });
            let refused = ignite.refused(via, "GetApp", &token, fields).await;
            refused.is(
                7,
                403,
                "PERMISSION_DENIED",
                &["GetApp", &format!("acme/{name}")],
            );
        }
        let list = json!({ "organization_name": "acme" });
        let refused = ignite.refused(via, "ListApps", &token, list).await;
        refused.is(7, 403, "PERMISSION_DENIED", &["ListApps"]);
    }
    ignite.sa(&[&["revoke-role"], &role[..]].concat());
    ignite.sa(&["grant-role", "cli-ci", "ignite.app-viewer", "--org", "acme"]);
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::FORBIDDEN);
    // The secret, kept for a while and then not.
    let second = ignite.sa(&["rotate", "ci", "--org", "acme", "--keep", "1h"]);
    let second = Account {
        id: "cli-ci".to_owned(),
        secret: second["secret"].as_str().expect("text").to_owned(),
    };
    let list = json!({ "organization_name": "acme" });
    for account in [&account, &second] {
        let token = ignite.grant(account).await;
        ignite.ok(Via::Json, "ListApps", &token, list.clone()).await;
    }
    ignite.sa(&["rotate", "ci", "--org", "acme"]);
    for account in [&account, &second] {
        said(ignite.form(&account.form()))
            .await
            .is(401, "invalid_client");
    }
    let refused = ignite
        .refused(Via::Grpc, "ListApps", &token, list.clone())
        .await;
    refused.is(16, 401, "UNAUTHENTICATED", &["was revoked"]);
    // The account, with a token that is in use.
    let last = ignite.account("acme", "last", &[]);
    let token = ignite.grant(&last).await;
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::OK);
    ignite.sa(&["delete", "last", "--org", "acme", "--yes"]);
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::UNAUTHORIZED);
    let left = ignite.sa(&["list", "--org", "acme"]);
    assert_eq!(left["serviceAccounts"].as_array().map(Vec::len), Some(1));
    // A key, with everything that it signed.
    let by_key = ignite.token("acme");
    assert_eq!(get(&ignite, &app, &by_key).await, StatusCode::OK);
    let rotated = ignite.cli(&["token", "rotate-key", "--revoke"]);
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!(get(&ignite, &app, &by_key).await, StatusCode::UNAUTHORIZED);
    let by_next = ignite.token("acme");
    assert_eq!(get(&ignite, &app, &by_next).await, StatusCode::OK);
}

/// Clients go on with the token that they have and fetch new ones, while keys are rotated.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_keys_rotate() {
    let ignite = Ignite::builder()
        .env("IGNITE_TOKEN_REQUESTS_PER_MINUTE", "0")
        .start()
        .await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let account = ignite.account("acme", "ci", &[]);
    let old = ignite.token("acme");
    let (ignite, done) = (Arc::new(ignite), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicUsize::new(0));
    let host = app.host().to_owned();
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (ignite, done, answered) = (ignite.clone(), done.clone(), answered.clone());
            let (account, old, host) = (account.clone(), old.clone(), host.clone());
            tokio::spawn(async move {
                let mut token = ignite.grant(&account).await;
                for round in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // One keeps an early token, the others renew theirs.
                    if n > 0 && round % 4 == 0 {
                        token = ignite.grant(&account).await;
                    }
                    for token in [&token, &old] {
                        let request = ignite.request(Method::GET, "/").host(&host).token(token);
                        let answer = request.send().await.expect("an answer");
                        let status = answer.status;
                        let body = answer.text().await;
                        assert_eq!(status, StatusCode::OK, "{body}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for _ in 0..8 {
        let before = answered.load(Ordering::Relaxed);
        eventually(HANGS, || async {
            (answered.load(Ordering::Relaxed) >= before + 8).then_some(())
        })
        .await;
        let rotated = ignite.cli(&["token", "rotate-key"]);
        assert!(rotated.status.success(), "{rotated:?}");
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    let keys = ignite.request(Method::GET, CERTS).send().await;
    let keys = keys.expect("an answer").json().await;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_survive_a_crash_of_the_server_and_of_the_command_that_changes_them() {
    let mut ignite = Ignite::builder()
        .env("IGNITE_TOKEN_REQUESTS_PER_MINUTE", "0")
        .start()
        .await;
    let account = ignite.account("acme", "ci", &[]);
    let list = json!({ "organization_name": "acme" });
    for round in 0..12_u64 {
        let name = format!("ci-{round}");
        let args = ["service-account", "create", &name, "--org", "acme"];
        let mut command = ignite.client(&args);
        command.stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("the binary runs");
        // A later point of its work each time.
        tokio::time::sleep(Duration::from_millis(round * 15)).await;
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        // The file is whole, its lock is free, and the server goes on.
        ignite.sa(&["list", "--org", "acme"]);
        let token = ignite.grant(&account).await;
        ignite.ok(Via::Json, "ListApps", &token, list.clone()).await;
    }
    let token = ignite.grant(&account).await;
    ignite.kill9();
    // Changes while no server runs hold as soon as one does.
    let second = ignite.account("acme", "second", &[]);
    ignite.start().await;
    ignite.ok(Via::Grpc, "ListApps", &token, list.clone()).await;
    ignite.grant(&second).await;
    ignite.kill9();
    ignite.sa(&["delete", "ci", "--org", "acme", "--yes"]);
    ignite.start().await;
    let refused = ignite.refused(Via::Grpc, "ListApps", &token, list).await;
    refused.is(16, 401, "UNAUTHENTICATED", &["was revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn brute_force_is_slowed_and_slows_nobody_else() {
    let ignite = Ignite::builder()
        .env("IGNITE_TOKEN_REQUESTS_PER_MINUTE", "20")
        .env("IGNITE_AUTH_FAILURES_PER_MINUTE", "1")
        .start()
        .await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let account = ignite.account("acme", "ci", &[]);
    let attacker = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let from_there = |request: http::Request| request.from(attacker);
    let url = |token: &str| {
        ignite
            .request(Method::GET, "/")
            .host(app.host())
            .token(token)
    };
    // A client at the attacker's address, which is at work already.
    let warm = said(from_there(ignite.form(&account.form()))).await.token();
    let used = from_there(url(&warm)).send().await.expect("an answer");
    assert_eq!(used.status, StatusCode::OK);

    let wrong = Account {
        secret: "igs_guess".to_owned(),
        ..account.clone()
    };
    said(from_there(ignite.form(&wrong.form())))
        .await
        .is(401, "invalid_client");
    for _ in 0..5 {
        said(from_there(ignite.form(&wrong.form())))
            .await
            .is(429, "temporarily_unavailable");
    }
    let slowed = said(from_there(ignite.form(&account.form()))).await;
    slowed.is(429, "temporarily_unavailable");
    assert!(slowed.headers.contains_key("retry-after"));
    // Nor are other tokens checked.
    let guessed = from_there(url("a.b.c")).send().await.expect("an answer");
    assert_eq!(guessed.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(guessed.headers.contains_key("retry-after"));
    // What was in use is, and others notice nothing.
    let used = from_there(url(&warm)).send().await.expect("an answer");
    assert_eq!(used.status, StatusCode::OK);
    let token = ignite.grant(&account).await;
    assert_eq!(get(&ignite, &app, &token).await, StatusCode::OK);
    // Requests alone are bounded, too.
    let busy = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10));
    let mut granted = 0;
    let slowed = loop {
        let answer = said(ignite.form(&account.form()).from(busy)).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        granted += 1;
    };
    slowed.is(429, "temporarily_unavailable");
    assert!(granted >= 20, "{granted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_says_who_did_what_and_has_no_secret_in_it() {
    let mut ignite = Ignite::builder().start().await;
    let account = ignite.account("acme", "ci", &[]);
    let token = ignite.grant(&account).await;
    let wrong = Account {
        secret: "igs_guess".to_owned(),
        ..account.clone()
    };
    said(ignite.form(&wrong.form()))
        .await
        .is(401, "invalid_client");
    let app = json!({ "organization_name": "acme", "app_name": "a" });
    let create = json!({ "organization_name": "acme", "name": "a" });
    ignite.ok(Via::Grpc, "CreateApp", &token, create).await;
    let secret = json!({ "name": "s", "value": { "git_secret": { "token": "hidden" } } });
    ignite.ok(Via::Json, "CreateSecret", &token, secret).await;
    let other = ignite.token("other");
    ignite
        .refused(Via::Json, "DeleteApp", &other, app.clone())
        .await;
    ignite.ok(Via::Json, "GetApp", &token, app.clone()).await;
    ignite.ok(Via::Json, "DeleteApp", &token, app).await;
    let stopped = ignite.terminate(HANGS).await;
    assert!(stopped.success(), "{stopped}");

    let read = |more: &[&str]| -> Vec<Value> {
        let output = ignite.cli(&[&["audit", "-o", "json"], more].concat());
        let text = String::from_utf8(output.stdout).expect("text");
        for hidden in [&account.secret, &token, "hidden", "igs_guess"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("JSON")
    };
    let brief: Vec<_> = read(&["--org", "acme"])
        .iter()
        .map(|e| {
            let of = |name: &str| e[name].as_str().unwrap_or_default().to_owned();
            [
                of("kind"),
                of("action"),
                of("subject"),
                of("target"),
                of("result"),
            ]
            .join(" ")
        })
        .collect();
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    let expected = [
        format!("account create {uid} cli-ci OK"),
        "token grant cli-ci  OK".to_owned(),
        "api CreateApp cli-ci acme/a OK".to_owned(),
        "api CreateSecret cli-ci secret s OK".to_owned(),
        "api DeleteApp cli-ci acme/a OK".to_owned(),
    ];
    let of_acme: Vec<_> = brief
        .iter()
        .filter(|l| l.ends_with("OK"))
        .cloned()
        .collect();
    assert_eq!(of_acme, expected, "{brief:?}");
    let all = read(&[]);
    let refused: Vec<_> = all.iter().filter(|e| e["result"] != "OK").collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(refused[0]["result"], "invalid_client");
    assert_eq!(refused[0]["from"], "127.0.0.1");
    assert_eq!(refused[1]["action"], "DeleteApp");
    assert_eq!(refused[1]["subject"], "ignite:other");
    assert_eq!(read(&["--limit", "1"]).len(), 1);
    let table = ignite.cli(&["audit"]);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.contains("api CreateApp"), "{table}");
}

/// Sends what the library wants sent.
async fn exchange(request: HttpRequest) -> Result<HttpResponse, std::io::Error> {
    let uri = request.uri();
    let addr = uri.authority().expect("a host").as_str().parse();
    let addr = addr.expect("an address");
    let mut sent = http::request(addr, request.method().clone(), uri.path());
    for (name, value) in request.headers() {
        sent = sent.header(name.as_str(), value.to_str().expect("text"));
    }
    let answer = sent.body(request.into_body()).send().await;
    let answer = answer.map_err(std::io::Error::other)?;
    let mut response = hyper::Response::new(Vec::new());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    *response.body_mut() = answer.text().await.into_bytes();
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oauth_client_of_another_make_gets_and_uses_tokens() {
    let (ignite, app) = server().await;
    let account = ignite.account("acme", "ci", &["--role", "ignite.app-developer"]);
    let url = format!("{}{TOKEN}", ignite.http_url());
    for by in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = BasicClient::new(ClientId::new(account.id.clone()))
            .set_client_secret(ClientSecret::new(account.secret.clone()))
            .set_auth_type(by.clone())
            .set_token_uri(TokenUrl::new(url.clone()).expect("a URL"));
        let granted = client
            .exchange_client_credentials()
            .add_scope(Scope::new("InvokeApp".to_owned()))
            .request_async(&exchange)
            .await
            .unwrap_or_else(|e| panic!("{by:?}: {e:?}"));
        assert_eq!(granted.expires_in(), Some(Duration::from_secs(300)));
        let scopes = granted.scopes().expect("scopes");
        assert_eq!(scopes, &[Scope::new("InvokeApp".to_owned())]);
        let token = granted.access_token().secret();
        assert_eq!(get(&ignite, &app, token).await, StatusCode::OK);
        let wrong = client.set_client_secret(ClientSecret::new("wrong".to_owned()));
        let refused = wrong.exchange_client_credentials().request_async(&exchange);
        match refused.await.expect_err("refused") {
            oauth2::RequestTokenError::ServerResponse(error) => {
                let code = error.error();
                assert_eq!(code, &oauth2::basic::BasicErrorResponseType::InvalidClient);
            }
            other => panic!("{other:?}"),
        }
    }
}
