//! The kit itself: the image is right, the engine can be taken away, cleaning up cleans up.

use std::collections::HashMap;

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, NetworkCreateRequest},
};
use hyper::{Method, StatusCode};
use ignite_kit::owned;
use serde_json::json;

use crate::support::{HANGS, cleanup, engine_proxy::EngineProxy, eventually_ok, http, probe};

/// A running container of the probe, started directly on the engine under its own label.
async fn run_probe(docker: &Docker, dir: &std::path::Path) -> std::net::SocketAddr {
    let labels = HashMap::from([(owned::DATA_DIR_LABEL.to_owned(), dir.display().to_string())]);
    let network = format!("ignite-smoke-{}", std::process::id());
    let request = NetworkCreateRequest {
        name: network.clone(),
        labels: Some(labels.clone()),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await.expect("a network");
    let body = ContainerCreateBody {
        image: Some(probe::image().await),
        env: Some(vec![
            "PORT=8080".to_owned(),
            "PROBE_VERSION=seven".to_owned(),
        ]),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some(network.clone()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let id = docker
        .create_container(None, body)
        .await
        .expect("a container")
        .id;
    docker.start_container(&id, None).await.expect("a start");
    let found = docker
        .inspect_container(&id, None)
        .await
        .expect("an answer");
    let networks = found
        .network_settings
        .and_then(|s| s.networks)
        .expect("networks");
    let ip = networks[&network]
        .ip_address
        .as_deref()
        .expect("an address");
    format!("{ip}:8080").parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_image_serves_as_non_root_and_is_cleaned_up_by_label() {
    let docker = ignite_kit::engine()
        .await
        .unwrap_or_else(|e| panic!("{e:#}"));
    let image = docker
        .inspect_image(&probe::image().await)
        .await
        .expect("the image");
    assert_eq!(image.config.and_then(|c| c.user).as_deref(), Some("65532"));

    let dir = tempfile::tempdir().expect("a directory");
    let cleaner = cleanup::OnDrop(dir.path().to_owned());
    let addr = run_probe(&docker, dir.path()).await;
    let answer = eventually_ok(HANGS, || {
        http::request(addr, Method::POST, "/a?b=c")
            .json(&json!({ "x": 1 }))
            .send()
    })
    .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-probe-version"), Some("seven"));
    let echo = answer.json().await;
    assert_eq!(
        (&echo["method"], &echo["uri"], &echo["body"]),
        (&json!("POST"), &json!("/a?b=c"), &json!("{\"x\":1}"))
    );

    let answer = http::request(addr, Method::GET, "/trailers")
        .header("te", "trailers")
        .send()
        .await;
    let (body, trailers) = answer
        .expect("an answer")
        .whole()
        .await
        .expect("a whole answer");
    assert_eq!(
        (&body[..], &trailers.expect("trailers")["x-probe-trailer"]),
        (&b"hello\n"[..], &"done".parse().expect("text"))
    );

    // The probe notices a client that leaves in mid-answer.
    let mut stream = http::request(addr, Method::GET, "/stream/1000/10")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        stream.chunk().await.expect("a chunk").expect("whole"),
        "chunk 1\n"
    );
    drop(stream);
    eventually_ok(HANGS, || async {
        let cancelled = http::request(addr, Method::GET, "/inflight-cancelled")
            .send()
            .await
            .expect("an answer")
            .json()
            .await;
        if cancelled == json!({ "cancelled": 1 }) {
            Ok(())
        } else {
            Err(cancelled)
        }
    })
    .await;

    drop(cleaner);
    assert!(
        owned::containers(&docker, dir.path(), true)
            .await
            .expect("a list")
            .is_empty()
    );
    assert!(
        owned::networks(&docker, dir.path())
            .await
            .expect("a list")
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_behind_the_proxy_can_be_cut_off_and_brought_back() {
    let mut proxy = EngineProxy::start();
    let docker = Docker::connect_with_host(&proxy.docker_host()).expect("a client");
    docker
        .ping()
        .await
        .expect("the engine answers through the proxy");
    proxy.cut();
    docker.ping().await.expect_err("the engine is gone");
    proxy.restore();
    docker.ping().await.expect("the engine is back");
}
