//! One request to a draft or a version that is not active.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance},
    contract::{BOTH, Via, acme_app, prebuilt, with},
    engine, eventually_ok,
    ignite::Ignite,
    probe,
};

async fn wait_for_containers(ignite: &Ignite, wanted: usize) {
    eventually_ok(ENGINE_LIMIT, || async {
        match ignite.containers().await.len() {
            n if n == wanted => Ok(()),
            n => Err(format!("{n} containers")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_and_a_version_answer_from_containers_of_their_own_that_go_again() {
    let ignite = Ignite::builder().start().await;
    let settings =
        json!({ "env": { "PROBE_VERSION": "one" }, "scaling": { "reservedCapacity": 1 } });
    let app = App::deploy(&ignite, "acme/a", settings).await;
    let live = instance(&app.get_ok(&ignite, "/").await);
    app.update(
        &ignite,
        json!({ "env": { "PROBE_VERSION": "two", "PROBE_LOG": "begin" } }),
    )
    .await;
    eventually_ok(ENGINE_LIMIT, || async {
        let answer = app.get_ok(&ignite, "/").await;
        match answer.header("x-probe-version") {
            Some("two") if instance(&answer) != live => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    wait_for_containers(&ignite, 1).await;
    let live = instance(&app.get_ok(&ignite, "/").await);
    let draft = probe::image_with(&[("PROBE_HEALTH_PATH", "/healthz")]).await;
    let save = with(acme_app("a"), json!({ "code": prebuilt(&draft) }));
    ignite.ok(Via::Json, "SaveDraft", &app.token, save).await;
    let ask = json!({
        "http": { "method": "HTTP_METHOD_PUT", "path": "/x", "query": "a=b" },
        "body": STANDARD.encode("hello"),
    });
    for via in BOTH {
        let test = with(acme_app("a"), ask.clone());
        let answer = ignite.ok(via, "TestDraft", &app.token, test).await;
        let result = &answer["result"];
        assert_eq!(result["statusCode"], 200, "{answer}");
        assert_eq!(result["responseHeaders"]["x-probe-version"], "two");
        assert_ne!(result["responseHeaders"]["x-probe-instance"], live.as_str());
        assert_eq!(result["logs"][0]["message"], "begin", "{answer}");
        let body = STANDARD.decode(result["body"].as_str().expect("a body"));
        let body: Value = serde_json::from_slice(&body.expect("base64")).expect("json");
        assert_eq!(
            (&body["method"], &body["uri"]),
            (&json!("PUT"), &json!("/x?a=b"))
        );
        assert_eq!(body["body"], "hello");
        let function = json!(["x-ignite-function-id", "acme/a"]);
        let headers = body["headers"].as_array().expect("headers");
        assert!(headers.contains(&function), "{body}");

        // A version runs with the settings that it was published with.
        let test = with(acme_app("a"), json!({ "version": 1 }));
        let answer = ignite.ok(via, "TestAppVersion", &app.token, test).await;
        let headers = &answer["result"]["responseHeaders"];
        assert_eq!(headers["x-probe-version"], "one", "{answer}");
        assert_ne!(headers["x-probe-instance"], live.as_str());

        // Any answer of the app counts, whatever its status.
        let test = with(acme_app("a"), json!({ "http": { "path": "/status/418" } }));
        let answer = ignite.ok(via, "TestDraft", &app.token, test).await;
        assert_eq!(answer["result"]["statusCode"], 418);
    }
    assert_eq!(instance(&app.get_ok(&ignite, "/").await), live);
    assert_eq!(app.figure(&ignite, "activeVersion").await, 1);
    assert_eq!(app.figure(&ignite, "runningReplicas").await, 1);
    wait_for_containers(&ignite, 1).await;

    // When the caller leaves, the container is removed.
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = ignite;
    let sleeping = |ignite: &Ignite| {
        let request = ignite
            .request(hyper::Method::POST, "/v1/ignite/app/acme/a/draft/test")
            .token(&app.token)
            .json(&json!({ "http": { "path": "/sleep/60000" } }));
        tokio::spawn(request.send())
    };
    let test = sleeping(&ignite);
    wait_for_containers(&ignite, 2).await;
    test.abort();
    wait_for_containers(&ignite, 1).await;
    let test = sleeping(&ignite);
    wait_for_containers(&ignite, 2).await;
    ignite.kill9();
    test.abort();
    // Even after a crash no test run is adopted as a replica.
    ignite.start().await;
    app.get_ok(&ignite, "/").await;
    wait_for_containers(&ignite, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tested_is_refused_with_the_reason() {
    let ignite = Ignite::builder()
        .env("IGNITE_MAX_BODY_BYTES", "1000")
        .start()
        .await;
    let broken = probe::image_with(&[("PROBE_EXIT_AT_START", "4"), ("PROBE_LOG", "no key")]).await;
    let app = App::create(&ignite, "acme/a", json!({ "code": prebuilt(&broken) })).await;
    let bare = json!({ "organization_name": "acme", "name": "bare" });
    ignite.ok(Via::Json, "CreateApp", &app.token, bare).await;
    let fine = json!({ "organization_name": "acme", "name": "fine", "code": prebuilt(&probe::image().await) });
    ignite.ok(Via::Json, "CreateApp", &app.token, fine).await;
    let other = ignite.token("other");
    for via in BOTH {
        let exited = ignite
            .refused(via, "TestDraft", &app.token, acme_app("a"))
            .await;
        exited.is(14, 503, "CONTAINER_EXITED", &["exit code 4", "no key"]);
        let none = ignite
            .refused(via, "TestDraft", &app.token, acme_app("bare"))
            .await;
        none.is(5, 404, "NOT_FOUND", &["acme/bare", "no draft"]);
        for (version, code, http, reason) in
            [(0, 3, 400, "INVALID_ARGUMENT"), (7, 5, 404, "NOT_FOUND")]
        {
            let test = with(acme_app("a"), json!({ "version": version }));
            let refused = ignite
                .refused(via, "TestAppVersion", &app.token, test)
                .await;
            refused.is(code, http, reason, &["version"]);
        }
        let path = with(acme_app("fine"), json!({ "http": { "path": "x" } }));
        let path = ignite.refused(via, "TestDraft", &app.token, path).await;
        assert_eq!(path.fields, ["http.path"]);
        let large = with(
            acme_app("fine"),
            json!({ "http": { "path": "/bytes/1001" } }),
        );
        let large = ignite.refused(via, "TestDraft", &app.token, large).await;
        large.is(8, 413, "BODY_TOO_LARGE", &["over 1000 bytes"]);
        for rpc in ["TestDraft", "TestAppVersion"] {
            let test = match rpc {
                "TestDraft" => acme_app("a"),
                _ => with(acme_app("a"), json!({ "version": 1 })),
            };
            let foreign = ignite.refused(via, rpc, &other, test.clone()).await;
            foreign.is(7, 403, "PERMISSION_DENIED", &[]);
            let nobody = ignite.refused(via, rpc, "", test).await;
            nobody.is(16, 401, "UNAUTHENTICATED", &[]);
        }
    }
    // An unpublished app can be tested too.
    let output = ignite.cli(&["draft", "test", "acme:fine", "-p", "{}", "--path", "/raw"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"{}");
    let output = ignite.cli(&["version", "test", "acme:fine", "1"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    wait_for_containers(&ignite, 0).await;
}
