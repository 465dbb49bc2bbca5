//! Custom host names of apps.

use hyper::{Method, StatusCode};
use serde_json::json;

use crate::{
    support::{HANGS, app::App, ignite::Ignite},
    tls::{add_host, curl, https, local},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_leads_to_one_app_over_restarts_until_it_is_taken_away() {
    let mut ignite = local().start().await;
    let open = json!({ "allowUnauthenticated": true });
    let app = App::deploy(&ignite, "acme/web", open.clone()).await;
    let other = App::create(&ignite, "other/web", json!({})).await;
    let cli = |ignite: &Ignite, args: &[&str]| {
        let output = ignite.cli(args);
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8(text).expect("text"),
        )
    };
    let (added, text) = cli(&ignite, &["app", "host", "add", "acme:web", "Shop.Example"]);
    assert!(added, "{text}");
    assert!(
        text.contains(&format!("https://shop.example:{}", https(&ignite).port())),
        "{text}"
    );
    for (host, status, word) in [
        ("shop.example", StatusCode::CONFLICT, "another organization"),
        (
            "web-acme.ignite.localhost",
            StatusCode::BAD_REQUEST,
            "ignite.localhost",
        ),
        (
            "x.web-acme.ignite.localhost",
            StatusCode::BAD_REQUEST,
            "ignite.localhost",
        ),
        ("api.localhost", StatusCode::BAD_REQUEST, "API"),
        ("b\u{fc}cher.example", StatusCode::BAD_REQUEST, "xn--"),
        ("10.0.0.1", StatusCode::BAD_REQUEST, "address"),
    ] {
        let (was, answer) = add_host(&ignite, &other, host).await;
        assert_eq!(was, status, "{host}: {answer}");
        assert!(answer.to_string().contains(word), "{answer}");
    }
    let get = async |ignite: &Ignite, host: &str| {
        let request = ignite.request(Method::GET, "/headers").host(host);
        request.send().await.expect("an answer")
    };
    for host in ["shop.example", "SHOP.example.:80"] {
        assert_eq!(get(&ignite, host).await.status, StatusCode::OK, "{host}");
    }
    ignite.terminate(HANGS).await;
    ignite.start().await;
    assert_eq!(get(&ignite, "shop.example").await.status, StatusCode::OK);
    app.update(&ignite, json!({ "allowUnauthenticated": false }))
        .await;
    let refused = get(&ignite, "shop.example").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let answer = ignite.request(Method::GET, "/").host("shop.example");
    let answer = answer.token(&other.token).send().await.expect("an answer");
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let text = answer.text().await;
    assert!(
        !text.contains("acme"),
        "a stranger learns nothing of the app: {text}"
    );

    let (listed, text) = cli(&ignite, &["app", "host", "list", "acme:web"]);
    assert!(listed && text.contains("shop.example"), "{text}");
    let (removed, text) = cli(
        &ignite,
        &["app", "host", "remove", "acme:web", "shop.example"],
    );
    assert!(removed, "{text}");
    let gone = get(&ignite, "shop.example").await;
    assert_eq!(gone.status, StatusCode::MISDIRECTED_REQUEST);
    curl(&ignite, "shop.example", "/", &[]).expect_err("no certificate any more");
    let (status, answer) = add_host(&ignite, &other, "shop.example").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
