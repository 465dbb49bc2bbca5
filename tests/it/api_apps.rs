//! The methods of the API, each over gRPC and over JSON, and what both say of themselves.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use ignite::api::proto::pool;
use serde_json::json;
use tonic_reflection::pb;

use crate::support::{
    contract::{BOTH, Via, acme_app, prebuilt, with},
    grpc,
    ignite::Ignite,
    probe,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_created_drafted_published_and_deleted_over_grpc_and_over_json() {
    let image = probe::image().await;
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for (via, name) in [(Via::Grpc, "grpc.app"), (Via::Json, "json.app")] {
        let create = json!({
            "organization_name": "acme", "name": name, "resource_tier": "RESOURCE_TIER_SMALL",
            "limits": { "memory_mb": 300 }, "description": "a probe", "ports": [80, 9090],
        });
        let created = ignite.ok(via, "CreateApp", &token, create).await;
        assert_eq!(
            created,
            json!({
                "appId": format!("acme/{name}"),
                "deploymentState": "DEPLOYMENT_STATE_CREATED",
                "appliedTier": "RESOURCE_TIER_SMALL",
                "appliedLimits": { "memoryMb": 300, "cpuMillicores": 250 },
            })
        );

        let app = ignite.ok(via, "GetApp", &token, acme_app(name)).await["app"].clone();
        assert_eq!(app["id"], format!("acme/{name}"));
        assert_eq!(app["organizationName"], "acme");
        assert_eq!(app["deploymentState"], "DEPLOYMENT_STATE_CREATED");
        assert_eq!(app["healthPath"], "/healthz");
        assert_eq!(app["ports"], json!([80, 9090]));
        assert_eq!(app["storageMode"], "STORAGE_MODE_EPHEMERAL");
        let scaling = &app["scaling"];
        assert_eq!(scaling["maxReplicas"], 10);
        assert_eq!(scaling["scaleThreshold"], 10);
        assert_eq!(scaling["scaledownPeriodSecs"], 300);
        assert_eq!(scaling["scaleMetric"], "SCALE_METRIC_REQUEST_RATE");
        assert!(
            app.get("publicUrls").is_none() && app.get("activeVersion").is_none(),
            "nothing is published: {app}"
        );
        for unset in ["runtime", "deploymentMode"] {
            assert!(app.get(unset).is_none(), "no code is saved: {app}");
        }
        let none = ignite
            .refused(via, "GetDraftInfo", &token, acme_app(name))
            .await;
        none.is(5, 404, "NOT_FOUND", &["no draft", "ignite draft save"]);

        let save = |image: &str| with(acme_app(name), json!({ "code": prebuilt(image) }));
        let first = ignite.ok(via, "SaveDraft", &token, save("other:1")).await;
        let saved = ignite.ok(via, "SaveDraft", &token, save(&image)).await["draft"].clone();
        assert_eq!(saved["status"], "VERSION_STATUS_DRAFT");
        assert_eq!(saved["codeKind"], "CODE_KIND_IMAGE");
        assert_ne!(saved["codeHash"], first["draft"]["codeHash"]);
        assert!(
            saved["createdAtMs"]
                .as_str()
                .is_some_and(|ms| ms.len() == 13)
        );
        let info = ignite.ok(via, "GetDraftInfo", &token, acme_app(name)).await["draft"].clone();
        assert_eq!(info, saved, "saving again replaced the slot");
        assert_eq!(info["imageRef"], image.as_str());

        let published = ignite.ok(via, "PublishDraft", &token, acme_app(name)).await;
        let version = &published["version"];
        assert_eq!(version["version"], 1);
        assert_eq!(version["status"], "VERSION_STATUS_ACTIVE");
        assert_eq!(version["codeHash"], saved["codeHash"]);
        assert_eq!(version["imageRef"], image.as_str());
        assert_eq!(version["resourceTier"], "RESOURCE_TIER_SMALL");
        let label = name.replace('.', "-dot-");
        let port = ignite.http_addr().port();
        let urls = json!([
            format!("http://{label}-acme.ignite.localhost:{port}"),
            format!("http://{label}-acme-9090.ignite.localhost:{port}"),
        ]);
        assert_eq!(published["publicUrls"], urls);
        let app = ignite.ok(via, "GetApp", &token, acme_app(name)).await["app"].clone();
        assert_eq!(
            (&app["publicUrls"], &app["activeVersion"]),
            (&urls, &json!(1))
        );
        assert!(app.get("runtime").is_none(), "{app}");
        assert_eq!(app["deploymentMode"], "DEPLOYMENT_MODE_IMAGE");

        let state = ignite.ok(via, "GetAppState", &token, acme_app(name)).await;
        assert_eq!(state["activeVersion"], 1);
        assert_eq!(state["deploymentState"], "DEPLOYMENT_STATE_RUNNING");

        let deleted = ignite.ok(via, "DeleteApp", &token, acme_app(name)).await;
        assert_eq!(deleted, json!({ "appId": format!("acme/{name}") }));
        let gone = ignite.refused(via, "GetApp", &token, acme_app(name)).await;
        gone.is(5, 404, "NOT_FOUND", &[&format!("acme/{name}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_app_with_code_saves_the_first_draft_too() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for (via, name) in [(Via::Grpc, "a"), (Via::Json, "b")] {
        let create = json!({
            "organization_name": "acme", "name": name, "code": prebuilt("some/image:1"),
        });
        let created = ignite.ok(via, "CreateApp", &token, create).await;
        assert_eq!(created["draft"]["imageRef"], "some/image:1");
        let info = ignite.ok(via, "GetDraftInfo", &token, acme_app(name)).await;
        assert_eq!(info["draft"], created["draft"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_apps_hands_out_pages_by_name_that_a_cursor_continues() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for name in ["c", "a", "e", "b", "d"] {
        let create = json!({ "organization_name": "acme", "name": name });
        ignite.ok(Via::Json, "CreateApp", &token, create).await;
    }
    let foreign = json!({ "organization_name": "other", "name": "x" });
    let other = ignite.token("other");
    ignite.ok(Via::Json, "CreateApp", &other, foreign).await;
    for via in BOTH {
        let mut pages = Vec::new();
        let mut cursor = String::new();
        loop {
            let request = json!({ "organization_name": "acme", "limit": 2, "cursor": cursor });
            let page = ignite.ok(via, "ListApps", &token, request).await;
            let names = page["apps"].as_array().expect("apps").iter();
            pages.push(names.map(|a| a["name"].clone()).collect::<Vec<_>>());
            match page["nextCursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        let expected: [&[&str]; 3] = [&["a", "b"], &["c", "d"], &["e"]];
        assert_eq!(pages, expected);
        let all = json!({ "organization_name": "acme" });
        let all = ignite.ok(via, "ListApps", &token, all).await;
        assert_eq!(all["apps"].as_array().map(Vec::len), Some(5));
        assert!(all.get("nextCursor").is_none());
        for (request, field) in [
            (json!({ "cursor": "!" }), "cursor"),
            (json!({ "limit": -1 }), "limit"),
        ] {
            let request = with(json!({ "organization_name": "acme" }), request);
            let wrong = ignite.refused(via, "ListApps", &token, request).await;
            wrong.is(3, 400, "INVALID_ARGUMENT", &[field]);
            assert_eq!(wrong.fields, [field]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_a_limit_has_a_hundred_apps() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for n in 0..101 {
        let create = json!({ "organization_name": "acme", "name": format!("app-{n:03}") });
        ignite.ok(Via::Json, "CreateApp", &token, create).await;
    }
    let request = json!({ "organization_name": "acme" });
    let page = ignite.ok(Via::Json, "ListApps", &token, request).await;
    assert_eq!(page["apps"].as_array().map(Vec::len), Some(100));
    assert!(page.get("nextCursor").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn update_app_config_changes_only_the_fields_that_are_sent() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    for (via, name) in [(Via::Grpc, "a"), (Via::Json, "b")] {
        let create = json!({
            "organization_name": "acme", "name": name, "env": { "A": "1", "B": "2" },
            "description": "before", "health_path": "/up", "ports": [81],
            "limits": { "memory_mb": 100, "cpu_millicores": 100 },
            "scaling": { "max_replicas": 3, "scaledown_period_secs": 60 },
        });
        ignite.ok(via, "CreateApp", &token, create).await;
        let mut expected = ignite.ok(via, "GetApp", &token, acme_app(name)).await["app"].clone();
        let steps = [
            (
                json!({ "description": "after" }),
                vec![("/description", json!("after"))],
            ),
            (
                json!({ "limits": { "memory_mb": 200 } }),
                vec![("/limits/memoryMb", json!(200))],
            ),
            (
                json!({ "scaling": { "reserved_capacity": 0, "scale_threshold": 7 } }),
                vec![("/scaling/scaleThreshold", json!(7))],
            ),
            (
                json!({ "env": { "C": "3" } }),
                vec![("/env", json!({ "C": "3" }))],
            ),
            (
                json!({ "ports": [80, 82] }),
                vec![("/ports", json!([80, 82]))],
            ),
            (
                json!({ "clear_ports": true }),
                vec![("/ports", json!([80]))],
            ),
            (
                json!({ "health_path": "" }),
                vec![("/healthPath", json!("/healthz"))],
            ),
            (
                json!({ "resource_tier": "RESOURCE_TIER_LARGE" }),
                vec![("/resourceTier", json!("RESOURCE_TIER_LARGE"))],
            ),
            (
                json!({ "limits": { "memory_mb": 0 } }),
                vec![("/limits/memoryMb", json!(1024))],
            ),
        ];
        for (change, effects) in steps {
            let request = with(acme_app(name), change);
            let app = ignite.ok(via, "UpdateAppConfig", &token, request).await["app"].clone();
            for (at, value) in effects {
                *expected
                    .pointer_mut(at)
                    .unwrap_or_else(|| panic!("no {at}")) = value;
            }
            expected["updatedAtMs"] = app["updatedAtMs"].clone();
            assert_eq!(app, expected);
            let got = ignite.ok(via, "GetApp", &token, acme_app(name)).await;
            assert_eq!(got["app"], expected);
        }
        let clear = with(acme_app(name), json!({ "clear_env": true }));
        let cleared = ignite.ok(via, "UpdateAppConfig", &token, clear).await;
        assert!(cleared["app"].get("env").is_none(), "{cleared}");
        let both = with(
            acme_app(name),
            json!({ "clear_env": true, "env": { "A": "1" } }),
        );
        let refused = ignite.refused(via, "UpdateAppConfig", &token, both).await;
        refused.is(3, 400, "INVALID_ARGUMENT", &["clear_env", "`env`"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_contract_is_served() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let mut asked = 0;
    for service in ["ComputeService", "SecretService"] {
        let service = pool()
            .get_service_by_name(&format!("dodil.ignite.v1.{service}"))
            .expect("a service");
        for rpc in service.methods() {
            if let Err(status) = ignite.raw(&rpc, &token, "".into()).await {
                assert_ne!(status.code(), tonic::Code::Unimplemented, "{status:?}");
                assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
            }
            asked += 1;
        }
    }
    assert_eq!(asked, 38, "the contract's methods");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_by_the_api_without_a_token_and_by_the_grpc_health_service() {
    let ignite = Ignite::builder().start().await;
    for via in BOTH {
        let health = ignite.ok(via, "HealthCheck", "", json!({})).await;
        assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
        assert!(
            health["engine"].as_str().is_some_and(|e| !e.is_empty()),
            "{health}"
        );
    }
    for path in ["/healthz", "/v1/ignite/health"] {
        let answer = ignite.request(Method::GET, path).send().await;
        assert_eq!(answer.expect("an answer").status, StatusCode::OK);
    }
    let channel = grpc::channel(&ignite).await;
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    for service in ["", "dodil.ignite.v1.ComputeService"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client
            .check(request)
            .await
            .expect("health answers")
            .into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
}

/// Lists the services and asks for the file of one, by one version of the protocol.
macro_rules! reflect {
    ($version:ident, $channel:expr) => {{
        use pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest as Ask,
            server_reflection_response::MessageResponse as Answer,
        };
        let mut client = ServerReflectionClient::new($channel);
        let ask = |what| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(what),
        };
        let asked = tokio_stream::iter([
            ask(Ask::ListServices(String::new())),
            ask(Ask::FileContainingSymbol(
                "dodil.ignite.v1.ComputeService".to_owned(),
            )),
        ]);
        let mut answers = client
            .server_reflection_info(asked)
            .await
            .expect("a stream")
            .into_inner();
        let mut next = async || {
            let answer = answers
                .message()
                .await
                .expect("an answer")
                .expect("one more");
            answer.message_response.expect("content")
        };
        let Answer::ListServicesResponse(list) = next().await else {
            panic!("no list")
        };
        let Answer::FileDescriptorResponse(file) = next().await else {
            panic!("no file")
        };
        let names: BTreeSet<String> = list.service.into_iter().map(|s| s.name).collect();
        (names, file.file_descriptor_proto)
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_tells_the_services_and_their_files_in_both_of_its_versions() {
    let ignite = Ignite::builder().start().await;
    let channel = grpc::channel(&ignite).await;
    for (names, files) in [
        reflect!(v1, channel.clone()),
        reflect!(v1alpha, channel.clone()),
    ] {
        for service in ["dodil.ignite.v1.ComputeService", "grpc.health.v1.Health"] {
            assert!(names.contains(service), "{names:?}");
        }
        let described = prost::bytes::Bytes::from(files.concat());
        assert!(
            described.windows(12).any(|w| w == b"UpdateAppCon"),
            "the file has the methods"
        );
    }
}
