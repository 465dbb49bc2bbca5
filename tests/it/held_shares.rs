//! What one organization's held requests leave to others: permits in the hold, and connections.

use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    HANGS,
    app::{App, is_cold},
    ignite::Ignite,
};

/// A request without a token, on a connection that its client would keep.
async fn ask(ignite: &Ignite, app: &App) -> TcpStream {
    let mut stream = TcpStream::connect(ignite.http_addr())
        .await
        .expect("a connection");
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {}-{}.ignite.localhost\r\n\r\n",
        app.name, app.org
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

/// The refusal of one request more, after which the server closes the connection.
async fn refusal(ignite: &Ignite, app: &App) -> String {
    let mut stream = ask(ignite, app).await;
    let mut answer = String::new();
    timeout(HANGS, stream.read_to_string(&mut answer))
        .await
        .expect("an answer and an end")
        .expect("text");
    for part in [
        "HTTP/1.1 429",
        "x-ignite-error: HOLD_QUEUE_FULL",
        "retry-after: 1",
        "connection: close",
    ] {
        assert!(answer.contains(part), "{answer}");
    }
    answer
}

/// Strangers who flooded one sleeping app could occupy every connection until it started, and with
/// several apps every byte and permit of the hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_organizations_sleeping_apps_leaves_others_their_connections() {
    // Of 32 connections 4 serve the API alone, of the rest 21 may be under held requests, and
    // 15 under those of one organization.
    let ignite = Ignite::builder()
        .env("IGNITE_MAX_CONNECTIONS", "32")
        .env("IGNITE_HOLD_MAX_REQUESTS", "12")
        .start()
        .await;
    let settings = json!({
        "allowUnauthenticated": true,
        "env": { "PROBE_START_DELAY_MS": "600000" },
    });
    let late = App::deploy(&ignite, "acme/late", settings.clone()).await;
    let other = App::deploy(&ignite, "acme/other", settings).await;
    let good = App::deploy(&ignite, "good/app", json!({})).await;
    for round in 0..2 {
        let mut flood = Vec::new();
        for _ in 0..12 {
            flood.push(ask(&ignite, &late).await);
        }
        late.wait_for(&ignite, "held", 12).await;
        let answer = refusal(&ignite, &late).await;
        assert!(
            answer
                .contains("app acme/late has 12 requests held already (IGNITE_HOLD_MAX_REQUESTS)"),
            "{answer}"
        );
        for _ in 0..3 {
            flood.push(ask(&ignite, &other).await);
        }
        other.wait_for(&ignite, "held", 3).await;
        // More than there are connections: a refused client gives its connection back.
        for _ in 0..40 {
            let answer = refusal(&ignite, &other).await;
            assert!(
                answer.contains("organization acme has 15 requests held"),
                "{answer}"
            );
            assert!(
                answer.contains("IGNITE_HOLD_MAX_REQUESTS_PER_ORG"),
                "{answer}"
            );
        }
        let answer = good.get_ok(&ignite, "/").await;
        assert_eq!(is_cold(&answer), round == 0, "it waited for its start once");
        drop(flood);
        for app in [&late, &other] {
            app.wait_for(&ignite, "held", 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_held_for_one_organization_leave_room_for_anothers() {
    let ignite = Ignite::builder()
        .env("IGNITE_MAX_BODY_BYTES", "100KiB")
        .env("IGNITE_HOLD_MAX_BYTES_TOTAL", "200KiB")
        .env("IGNITE_HOLD_MAX_BYTES_PER_ORG", "100KiB")
        .start()
        .await;
    let settings = json!({ "env": { "PROBE_START_DELAY_MS": "600000" } });
    let late = App::deploy(&ignite, "acme/late", settings).await;
    let good = App::deploy(&ignite, "good/app", json!({})).await;
    let invoke = |app: &App| {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; 80 << 10]);
        let path = format!("/v1/ignite/app/{}/{}/invoke", app.org, app.name);
        let request = ignite.request(Method::POST, &path).token(&app.token);
        request
            .json(&json!({ "http": { "method": "HTTP_METHOD_POST", "path": "/" }, "body": body }))
            .send()
    };
    let held = tokio::spawn(invoke(&late));
    late.wait_for(&ignite, "held", 1).await;
    let refused = invoke(&late).await.expect("an answer");
    assert_eq!(refused.status.as_u16(), 429);
    let message = refused.text().await;
    assert!(
        message.contains("102400 bytes (IGNITE_HOLD_MAX_BYTES_PER_ORG)"),
        "{message}"
    );
    let served = invoke(&good).await.expect("an answer");
    assert_eq!(served.status.as_u16(), 200);
    held.abort();
    late.wait_for(&ignite, "held", 0).await;
    let again = tokio::spawn(invoke(&late));
    late.wait_for(&ignite, "held", 1).await;
    again.abort();
}
