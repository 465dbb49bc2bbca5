//! Tokens of an identity provider elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    HANGS,
    contract::{BOTH, Published, Refusal, Via},
    eventually,
    ignite::{Builder, Ignite},
    issuer::{Issuer, Key},
    tls::{Authority, Pair},
};

fn taking(issuer: &Issuer, more: &str) -> Builder {
    let setting = format!("{} audience=ignite {more}", issuer.url());
    Ignite::builder().args(["--oidc-issuer", &setting])
}

/// The status of a GET of the app's URL, and what it says.
async fn get(ignite: &Ignite, app: &Published, token: &str) -> (StatusCode, Value) {
    let request = ignite.request(Method::GET, "/").host(app.host());
    let answer = request.token(token).send().await.expect("an answer");
    (answer.status, answer.json().await)
}

async fn list(ignite: &Ignite, via: Via, token: &str) -> Result<Value, Refusal> {
    let fields = json!({ "organization_name": "acme" });
    ignite.call(via, "ListApps", token, &fields).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_each_kind_of_key_are_taken_and_others_refused_with_the_reason() {
    let issuer = Issuer::start(None).await;
    let keys = [Key::es256("es"), Key::rs256("rs"), Key::eddsa("ed")];
    for key in &keys {
        issuer.show(key);
    }
    let ignite = taking(&issuer, "orgs=acme,beta scopes=all").start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    for key in &keys {
        let token = issuer.token(key, json!({}));
        assert_eq!(
            get(&ignite, &app, &token).await.0,
            StatusCode::OK,
            "{}",
            key.kid
        );
        for via in BOTH {
            list(&ignite, via, &token).await.expect("taken");
        }
    }
    // A local token is as good as before.
    list(&ignite, Via::Grpc, &ignite.token("acme"))
        .await
        .expect("taken");

    let key = &keys[0];
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let good = issuer.token(key, json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let head = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    let stranger = Key::es256("es");
    let claims = |more: Value| issuer.token(key, more);
    let header = |header: Value| format!("{}.{}.{}", head(header), parts[1], parts[2]);
    for (token, words) in [
        (claims(json!({ "exp": now - 60 })), "expired"),
        (claims(json!({ "exp": null })), "no `exp`"),
        (claims(json!({ "iat": now + 600 })), "clock_skew"),
        (claims(json!({ "nbf": now + 600 })), "not valid before"),
        (claims(json!({ "aud": "other" })), "not for ignite"),
        (claims(json!({ "aud": null })), "names no audience"),
        (
            claims(json!({ "organization": { "evil": {} } })),
            "may not speak for",
        ),
        (claims(json!({ "organization": null })), "no organization"),
        (
            claims(json!({ "iss": "http://127.0.0.1:1/other" })),
            "not known here",
        ),
        (issuer.token(&stranger, json!({})), "signature is wrong"),
        (header(json!({ "alg": "none", "kid": "es" })), "\"none\""),
        (header(json!({ "alg": "HS256", "kid": "es" })), "\"HS256\""),
        (
            header(json!({ "alg": "RS256", "kid": "es" })),
            "its key is for ES256",
        ),
        (
            header(json!({ "alg": "ES256", "kid": "rs" })),
            "its key is for RS256",
        ),
        (
            header(json!({ "alg": "ES256", "kid": "es", "crit": ["exp"] })),
            "crit",
        ),
        (header(json!({ "alg": "ES256" })), "names no key"),
        (format!("{}.{}x.{}", parts[0], parts[1], parts[2]), ""),
    ] {
        for via in BOTH {
            let refused = list(&ignite, via, &token).await.expect_err(words);
            refused.is(16, 401, "UNAUTHENTICATED", &[words]);
        }
        let (status, _) = get(&ignite, &app, &token).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{words}");
    }
    // Of several organizations, those that it may not speak for are left out.
    let both = claims(json!({ "organization": { "beta": {}, "evil": {} } }));
    let refused = list(&ignite, Via::Json, &both).await.expect_err("of beta");
    refused.is(7, 403, "PERMISSION_DENIED", &["acme"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_opens_is_said_by_it_or_by_the_configuration() {
    let issuer = Issuer::start(None).await;
    let key = Key::es256("k");
    issuer.show(&key);
    let ignite = taking(&issuer, "orgs=acme").start().await;
    let roles = |role: &str| json!({ "ignite-authorization-service": { "roles": [role] } });
    for (claims, is_in) in [
        (json!({}), false),
        (json!({ "scope": null }), false),
        (json!({ "scope": "openid ListApps" }), true),
        (json!({ "scp": ["ListApps"], "scope": null }), true),
        (json!({ "scope": "openid GetApp" }), false),
        (
            json!({ "resource_access": roles("ignite.app-viewer") }),
            true,
        ),
        (
            json!({ "resource_access": roles("ignite.model-user") }),
            false,
        ),
        (json!({ "resource_access": roles("admin") }), false),
    ] {
        let token = issuer.token(&key, claims.clone());
        match list(&ignite, Via::Json, &token).await {
            Ok(_) => assert!(is_in, "{claims}"),
            Err(refused) => {
                assert!(!is_in, "{claims}: {refused:?}");
                refused.is(7, 403, "PERMISSION_DENIED", &["ListApps"]);
            }
        }
    }
}

/// Clients go on while the provider rotates its keys, and while it is down.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_issuer_rotates_its_keys_and_is_down() {
    let issuer = Issuer::start(None).await;
    let first = Key::es256("k0");
    issuer.show(&first);
    let mut ignite = taking(&issuer, "orgs=acme scopes=all").start().await;
    let app = ignite.publish("acme", "app", json!({})).await;
    let (addr, old) = (ignite.http_addr(), issuer.token(&first, json!({})));
    let (done, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let current = Arc::new(std::sync::Mutex::new(old.clone()));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (done, answered, current) = (done.clone(), answered.clone(), current.clone());
            let (host, old) = (app.host().to_owned(), old.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let newest = current.lock().expect("no panic").clone();
                    for token in [&newest, &old] {
                        let request = crate::support::http::request(addr, Method::GET, "/");
                        let answer = request.host(&host).token(token).send().await;
                        let answer = answer.expect("an answer");
                        let status = answer.status;
                        assert_eq!(status, StatusCode::OK, "{}", answer.text().await);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let proceed = || async {
        let before = answered.load(Ordering::Relaxed);
        eventually(HANGS, || async {
            (answered.load(Ordering::Relaxed) >= before + 8).then_some(())
        })
        .await;
    };
    proceed().await;
    for n in 1..3 {
        let next = Key::es256(&format!("k{n}"));
        issuer.show(&next);
        // Its first token comes at once: the requests wait for the keys.
        *current.lock().expect("no panic") = issuer.token(&next, json!({}));
        proceed().await;
    }
    // Both keys are known; the provider is not needed any more.
    let (at, made) = (
        issuer.addr(),
        issuer.token(&first, json!({ "sub": "late" })),
    );
    drop(issuer);
    proceed().await;
    assert_eq!(get(&ignite, &app, &made).await.0, StatusCode::OK);
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    // Nor by the next start.
    assert!(ignite.terminate(HANGS).await.success());
    ignite.start().await;
    list(&ignite, Via::Grpc, &made).await.expect("taken");
    // It comes back without that key.
    let issuer = Issuer::start(Some(at)).await;
    let other = Key::es256("other");
    issuer.show(&other);
    let token = issuer.token(&other, json!({}));
    eventually(HANGS, || async {
        list(&ignite, Via::Json, &token).await.ok()
    })
    .await;
    let refused = list(&ignite, Via::Json, &made).await.expect_err("revoked");
    refused.is(16, 401, "UNAUTHENTICATED", &["\"k0\""]);
}

/// Whoever sends unknown keys has the issuer asked now and then, not each time.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_do_not_flood_the_issuer() {
    let issuer = Issuer::start(None).await;
    let key = Key::es256("k");
    issuer.show(&key);
    let ignite = Arc::new(taking(&issuer, "orgs=acme scopes=all").start().await);
    let good = issuer.token(&key, json!({}));
    list(&ignite, Via::Json, &good).await.expect("taken");
    let before = issuer.fetches();
    let attempts = (0..64).map(|n| {
        let token = issuer.token(&key.named(&format!("x{n}")), json!({}));
        let ignite = ignite.clone();
        tokio::spawn(async move { list(&ignite, Via::Json, &token).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        let refused = attempt.await.expect("no panic").expect_err("unknown");
        refused.is(16, 401, "UNAUTHENTICATED", &["is not among the keys"]);
    }
    let fetched = issuer.fetches() - before;
    assert!(
        (1..=8).contains(&fetched),
        "{fetched} fetches for 64 requests"
    );
}

/// Companies have their providers behind certificates of an authority of their own.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_with_a_certificate_of_a_private_authority_is_asked_once_that_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let (theirs, other) = (Authority::new(), Authority::new());
    let file = |name: &str| folder.path().join(name);
    theirs.write(&file("theirs.pem"));
    other.write(&file("other.pem"));
    std::fs::write(file("none.pem"), "nothing\n").expect("written");
    let pair = Pair::at(folder.path(), "issuer");
    pair.renew("localhost", Some(&theirs));
    let issuer = Issuer::over_tls(&pair).await;
    let key = Key::es256("k");
    issuer.show(&key);
    let token = issuer.token(&key, json!({}));
    let taking = || taking(&issuer, "orgs=acme scopes=all");
    let named = |name: &str| file(name).into_os_string();

    for builder in [
        taking().arg("--oidc-ca").arg(named("theirs.pem")),
        taking().env("IGNITE_OIDC_CA", named("theirs.pem")),
        // Instead of the system's.
        taking().env("SSL_CERT_FILE", named("theirs.pem")),
    ] {
        let ignite = builder.start().await;
        let listed = list(&ignite, Via::Json, &token).await;
        listed.unwrap_or_else(|e| panic!("{e:?}: {}", ignite.log()));
    }
    for builder in [taking(), taking().arg("--oidc-ca").arg(named("other.pem"))] {
        let ignite = builder.start().await;
        let refused = list(&ignite, Via::Json, &token).await;
        let words = ["is not among the keys"];
        refused
            .expect_err("not known")
            .is(16, 401, "UNAUTHENTICATED", &words);
        let log = ignite.log();
        assert!(
            log.contains("an authority that is not trusted here"),
            "{log}"
        );
        assert!(log.contains("--oidc-ca"), "{log}");
    }
    for (name, words) in [
        ("none.pem", "has no certificate"),
        ("missing.pem", "No such file"),
    ] {
        let output = taking().arg("--oidc-ca").arg(named(name)).start_and_fail();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains(name) && err.contains(words), "{err}");
    }
    // The right authority does not help a certificate for another name.
    pair.renew("id.example.com", Some(&theirs));
    let issuer = Issuer::over_tls(&pair).await;
    issuer.show(&key);
    let ignite = self::taking(&issuer, "orgs=acme scopes=all");
    let ignite = ignite
        .arg("--oidc-ca")
        .arg(named("theirs.pem"))
        .start()
        .await;
    eventually(HANGS, || async {
        ignite.log().contains("id.example.com").then_some(())
    })
    .await;
}
