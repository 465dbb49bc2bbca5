//! What the edge prevents: pages under foreign names, strangers who probe for apps, apps that claim
//! their neighbours' hosts and cookies, and callers without a token who occupy connections.

use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    contract::{BOTH, Refusal, Via},
    eventually, grpc, http,
    ignite::Ignite,
};

async fn send(request: http::Request) -> http::Answer {
    request.send().await.expect("an answer")
}

async fn refusal(request: http::Request) -> Refusal {
    let answer = send(request).await;
    let (status, headers) = (answer.status, answer.headers.clone());
    Refusal::of_http(status, &headers, &answer.json().await)
}

/// A page of `evil.example` whose name resolves to this machine once it has loaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_name_resolves_here_is_misdirected_and_apps_are_not() {
    let ignite = Ignite::builder()
        .env("IGNITE_API_HOSTS", "api.example.com,*.ci.example")
        .start()
        .await;
    let app = ignite
        .publish("acme", "app", json!({ "allow_unauthenticated": true }))
        .await;
    let port = ignite.http_addr().port();
    for path in [
        "/v1/ignite/health",
        "/healthz",
        "/_app/acme/app/",
        "/v1/ignite/app/acme",
        "/",
    ] {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "a.b.ignite.localhost.evil.example",
        ] {
            let host = format!("{host}:{port}");
            let refused = ignite.request(Method::GET, path).host(&host);
            // Even with a valid token: the page would read the answer.
            let refused = refusal(refused.token(&ignite.token("acme"))).await;
            refused.is(
                9,
                421,
                "MISDIRECTED_REQUEST",
                &["evil.example", "IGNITE_API_HOSTS"],
            );
        }
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    for host in [
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        "localhost".to_owned(),
        format!("ignite.localhost:{port}"),
        "ignite".to_owned(),
        "host.docker.internal".to_owned(),
        "api.example.com".to_owned(),
        "run-7.ci.example:8080".to_owned(),
        name.trim().to_owned(),
    ] {
        let answer = send(ignite.request(Method::GET, "/v1/ignite/health").host(&host)).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
    let answer = send(ignite.request(Method::GET, "/").host(app.host())).await;
    assert_eq!(answer.status, StatusCode::OK);

    // A browser cannot speak gRPC, but a proxy may translate a browser's request.
    for (authority, is_ours) in [
        ("evil.example", false),
        ("localhost:1", true),
        ("ignite_grpc", true),
        ("api.example.com", true),
    ] {
        let origin = format!("http://{authority}").parse().expect("a URI");
        let url = format!("http://{}", ignite.grpc_addr());
        let endpoint = tonic::transport::Endpoint::from_shared(url).expect("a URL");
        let channel = endpoint.origin(origin).connect().await.expect("up");
        let mut client =
            ignite::api::proto::v1::compute_service_client::ComputeServiceClient::new(channel);
        let answer = client.health_check(ignite::api::proto::v1::HealthCheckRequest {});
        match answer.await {
            Ok(_) => assert!(is_ours, "{authority}"),
            Err(status) => {
                assert!(!is_ours, "{authority}: {status}");
                Refusal::of_status(&status).is(9, 421, "MISDIRECTED_REQUEST", &["evil.example"]);
            }
        }
    }
}

/// Everything that an answer reveals, except what differs with each request.
async fn told(request: http::Request, name: &str) -> (StatusCode, HeaderMap, String) {
    let answer = send(request).await;
    let (status, mut headers) = (answer.status, answer.headers.clone());
    for varies in ["date", "x-ignite-execution-id"] {
        assert!(headers.remove(varies).is_some(), "{varies} with {status}");
    }
    // The requested names are all of the same length.
    (status, headers, answer.text().await.replace(name, "NAME"))
}

/// A caller who may not use an app must not learn whether it exists.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_find_out_which_apps_there_are() {
    let ignite = Ignite::builder().start().await;
    ignite.publish("acme", "there", json!({})).await;
    // Its label reads as an app of `c` and of `b-c`, the owner.
    ignite.publish("b-c", "there", json!({})).await;
    let (own, other, c) = (
        ignite.token("acme"),
        ignite.token("other"),
        ignite.token("c"),
    );
    let bad = format!("{}xxxx", &own[..own.len() - 4]);
    for org in ["acme", "b-c"] {
        for token in ["", "nonsense", bad.as_str(), other.as_str(), c.as_str()] {
            for by_path in [false, true] {
                for method in [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS] {
                    for path in ["", "/", "/x?y"] {
                        let ask = |name: &str| {
                            let request = if by_path {
                                let path = format!("/_app/{org}/{name}{path}");
                                ignite.request(method.clone(), &path)
                            } else {
                                let path = if path.is_empty() { "/" } else { path };
                                let host = format!("{name}-{org}.ignite.localhost");
                                ignite.request(method.clone(), path).host(&host)
                            };
                            let request = request.header("origin", "https://a.example");
                            match token {
                                "" => request,
                                token => request.token(token),
                            }
                        };
                        // The redirect to the slash is the same for all, and has no id.
                        if by_path && path.is_empty() {
                            for name in ["there", "where"] {
                                let answer = send(ask(name)).await;
                                assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
                            }
                            continue;
                        }
                        let there = told(ask("there"), "there").await;
                        let missing = told(ask("where"), "where").await;
                        assert_eq!(there, missing, "{method} {path:?} of {org} by {token:?}");
                        let expected = match token {
                            token if token == c && org == "b-c" && !by_path => 404,
                            token if token == c || token == other => 403,
                            _ => 401,
                        };
                        assert_eq!(there.0, expected, "{method} of {org} by {token:?}");
                    }
                }
            }
        }
    }
    // Authorized callers get precise answers.
    for path in ["/", "/_app/acme/where/"] {
        let request = ignite.request(Method::GET, path).token(&own);
        let request = match path {
            "/" => request.host("where-acme.ignite.localhost"),
            _ => request,
        };
        refusal(request).await.is(5, 404, "NOT_FOUND", &["where"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_cannot_take_a_host_that_reads_as_another_organizations() {
    let ignite = Ignite::builder().start().await;
    let create = |org: &str, name: &str, ports: &[u16]| json!({ "organization_name": org, "name": name, "ports": ports });
    let (acme, long) = (ignite.token("acme"), ignite.token("acme-8080"));
    ignite
        .ok(
            Via::Json,
            "CreateApp",
            &long,
            create("acme-8080", "first", &[]),
        )
        .await;
    for via in BOTH {
        let squat = create("acme", "app", &[8080]);
        let refused = ignite.refused(via, "CreateApp", &acme, squat).await;
        refused.is(6, 409, "ALREADY_EXISTS", &["app-acme-8080", "kept for"]);
    }
    ignite
        .ok(
            Via::Json,
            "CreateApp",
            &acme,
            create("acme", "app", &[8081]),
        )
        .await;
    ignite
        .ok(
            Via::Json,
            "CreateApp",
            &long,
            create("acme-8080", "app", &[]),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_cookies_are_its_own_hosts() {
    let ignite = Ignite::builder().start().await;
    let app = ignite
        .publish("acme", "app", json!({ "allow_unauthenticated": true }))
        .await;
    let path = "/with-headers?set-cookie=a=1;Domain=ignite.localhost;Secure\
                &set-cookie=b=2;domain=.LOCALHOST&set-cookie=c=3;Domain=app-acme.ignite.localhost\
                &set-cookie=d=4;Path=/x";
    let answer = send(ignite.request(Method::GET, path).host(app.host())).await;
    let all = answer.headers.get_all("set-cookie").iter();
    let all: Vec<_> = all.map(|v| v.to_str().expect("text")).collect();
    assert_eq!(
        all,
        [
            "a=1;Secure",
            "b=2",
            "c=3;Domain=app-acme.ignite.localhost",
            "d=4;Path=/x"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_by_path_can_be_turned_off() {
    let ignite = Ignite::builder()
        .env("IGNITE_APP_PATHS", "false")
        .start()
        .await;
    let app = ignite
        .publish("acme", "app", json!({ "allow_unauthenticated": true }))
        .await;
    for path in [
        "/_app/acme/app/",
        "/_app/acme/app",
        "/_app/",
        "/_app/acme/nobody/",
    ] {
        let refused = refusal(ignite.request(Method::GET, path)).await;
        refused.is(5, 404, "NOT_FOUND", &["IGNITE_APP_PATHS"]);
    }
    let answer = send(ignite.request(Method::GET, "/").host(app.host())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

/// An open app receives any `Authorization`, except a platform token that did not verify: it may be
/// valid elsewhere, or once a clock is right.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_app_never_sees_a_token_of_the_platform_whatever_is_wrong_with_it() {
    let ignite = Ignite::builder().start().await;
    let elsewhere = Ignite::builder().start().await;
    let app = ignite
        .publish("acme", "app", json!({ "allow_unauthenticated": true }))
        .await;
    let good = ignite.token("acme");
    let parts: Vec<&str> = good.split('.').collect();
    let foreign = elsewhere.token("acme");
    let damaged = format!("{}.{}.{}", parts[0], parts[1], "AAAA");
    for (value, reaches_it) in [
        (format!("Bearer {good}"), false),
        (format!("Bearer {damaged}"), false),
        (format!("Bearer {foreign}"), false),
        (format!("Token {good}"), false),
        (format!("Bearer {good},"), false),
        ("Basic YTpi".to_owned(), true),
        ("Bearer opaque".to_owned(), true),
    ] {
        let by_host = ignite.request(Method::GET, "/headers").host(app.host());
        let by_path = ignite.request(Method::GET, "/_app/acme/app/headers");
        for request in [by_host, by_path] {
            let answer = send(request.header("authorization", &value)).await;
            assert_eq!(answer.status, StatusCode::OK, "{value}");
            let seen = answer.json().await.to_string();
            assert_eq!(seen.contains(&value), reaches_it, "{value}: {seen}");
            assert_eq!(
                seen.contains("authorization"),
                reaches_it,
                "{value}: {seen}"
            );
        }
    }
    // Two values, of which one is meant for the app.
    let both = ignite
        .request(Method::GET, "/headers")
        .host(app.host())
        .header("authorization", "Basic YTpi")
        .add_header("authorization", &format!("Bearer {damaged}"));
    let seen = send(both).await.json().await.to_string();
    assert!(
        seen.contains("Basic YTpi") && !seen.contains(parts[1]),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_need_no_token_are_bounded_in_number_and_in_time() {
    let ignite = Ignite::builder()
        .env("IGNITE_ANONYMOUS_STREAMS", "8")
        .start()
        .await;
    let watch = || async {
        let mut client = HealthClient::new(grpc::channel(&ignite).await);
        let service = "dodil.ignite.v1.ComputeService".to_owned();
        let watched = client.watch(HealthCheckRequest { service }).await;
        watched.map(tonic::Response::into_inner)
    };
    // A quarter for one address.
    let mut first = watch().await.expect("there is room");
    let second = watch().await.expect("there is room");
    let refused = Refusal::of_status(&watch().await.expect_err("no more from here"));
    refused.is(8, 429, "TOO_MANY_REQUESTS", &["IGNITE_ANONYMOUS_STREAMS"]);
    let status = first.message().await.expect("a message").expect("one");
    assert_eq!(status.status, 1, "who is in is served");
    // Calls with a token are not affected.
    let list = json!({ "organization_name": "acme" });
    ignite
        .ok(Via::Grpc, "ListApps", &ignite.token("acme"), list)
        .await;
    ignite.ok(Via::Grpc, "HealthCheck", "", json!({})).await;
    drop(second);
    let third = eventually(crate::support::HANGS, || async { watch().await.ok() }).await;
    drop((first, third));

    let brief = Ignite::builder()
        .env("IGNITE_ANONYMOUS_STREAM_TIME", "250ms")
        .start()
        .await;
    let mut client = HealthClient::new(grpc::channel(&brief).await);
    let service = "dodil.ignite.v1.ComputeService".to_owned();
    let mut watched = client
        .watch(HealthCheckRequest { service })
        .await
        .expect("there is room")
        .into_inner();
    let ended = tokio::time::timeout(crate::support::HANGS, async {
        loop {
            match watched.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let ended = ended.await.expect("it ends").expect_err("with a reason");
    let refused = Refusal::of_status(&ended);
    refused.is(4, 504, "REQUEST_TIMEOUT", &["IGNITE_ANONYMOUS_STREAM_TIME"]);
}
