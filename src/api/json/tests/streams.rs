//! Responses of streaming methods, and responses to HEAD.

use super::*;

#[tokio::test]
async fn streams_are_lines_or_events_and_end_with_their_error() {
    let watch = async |id: &str, accept: &str| {
        let request = Request::get(format!("/v1/ignite/executions/{id}/watch"))
            .header("accept", accept)
            .body(Body::empty())
            .unwrap();
        let response = gateway().oneshot(request).await.unwrap();
        let kind = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
    };
    let running = r#"{"execution":{"status":"EXECUTION_STATUS_RUNNING"}}"#;
    let done = r#"{"execution":{"status":"EXECUTION_STATUS_COMPLETED"}}"#;
    let (_, kind, text) = watch("e", "*/*").await;
    assert_eq!(
        (kind.as_str(), text),
        ("application/json", format!("{running}\n{done}\n"))
    );
    let (_, kind, text) = watch("e", "text/event-stream").await;
    assert_eq!(
        (kind.as_str(), text),
        (
            "text/event-stream",
            format!("data: {running}\n\ndata: {done}\n\n")
        )
    );

    let (_, _, text) = watch("broken", "*/*").await;
    let (first, last) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(first, running);
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["details"][0]["reason"], "REPLICA_BROKE");
    let (_, _, text) = watch("broken", "text/event-stream").await;
    assert!(
        text.contains("\n\nevent: error\ndata: {\"error\":{"),
        "{text}"
    );
    // The error is known before the head is sent, so it is a plain HTTP error.
    assert_eq!(watch("unknown", "*/*").await.0, 404);
}

#[tokio::test]
async fn a_silent_stream_still_sends_its_head() {
    let response = send(Method::GET, &format!("{APP}/logs/stream"), Body::empty()).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let response = send(Method::HEAD, APP, Body::empty()).await;
    assert_eq!(response.status(), 200);
    let (_, whole) = get(APP).await;
    let len = whole.to_string().len().to_string();
    assert_eq!(response.headers()["content-length"], *len);
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}
