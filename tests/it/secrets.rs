//! Credentials for registries and git servers, and what they are used for.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    contract::{BOTH, Via},
    engine,
    ignite::Ignite,
    probe,
    registry::{self, Registry},
};

fn named(name: &str) -> Value {
    json!({ "name": name })
}

fn create(name: &str, value: Value) -> Value {
    json!({ "name": name, "value": value })
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_created_overwritten_read_listed_and_deleted() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let (token, other) = (ignite.token("acme"), ignite.token("other"));
    let key = ignite.data_dir().join("identity/secrets.key");
    for via in BOTH {
        let git = json!({ "git_secret": { "username": "u", "token": "hidden-git" } });
        let first = ignite
            .ok(via, "CreateSecret", &token, create("a_1", git))
            .await["secret"]
            .clone();
        assert_eq!(first["name"], "a_1");
        assert_eq!(first["type"], "git_secret");
        assert_eq!(first["createdAtMs"], first["updatedAtMs"]);
        let value = json!({ "registry_secret": {
            "username": "v", "password": "hidden-registry", "server_address": "r.example:5000",
        }});
        let again = create("a_1", value);
        let again = ignite.ok(via, "CreateSecret", &token, again).await["secret"].clone();
        assert_eq!(again["type"], "registry_secret");
        assert_eq!(again["createdAtMs"], first["createdAtMs"]);

        let got = ignite.ok(via, "GetSecret", &token, named("a_1")).await;
        let expected = json!({ "registrySecret": {
            "username": "v", "password": "hidden-registry", "serverAddress": "r.example:5000",
        }});
        assert_eq!(got, json!({ "secret": again, "value": expected }));
        let foreign = ignite.refused(via, "GetSecret", &other, named("a_1")).await;
        foreign.is(5, 404, "NOT_FOUND", &["organization other", "a_1"]);

        for name in ["c", "B-2"] {
            let git = json!({ "git_secret": { "token": "hidden-git" } });
            ignite
                .ok(via, "CreateSecret", &token, create(name, git))
                .await;
        }
        let names = |page: &Value| -> Vec<String> {
            let all = page["secrets"].as_array().cloned().unwrap_or_default();
            let name = |s: &Value| s["name"].as_str().expect("a name").to_owned();
            all.iter().map(name).collect()
        };
        let page = ignite
            .ok(via, "ListSecrets", &token, json!({ "limit": 2 }))
            .await;
        assert_eq!(names(&page), ["B-2", "a_1"]);
        assert!(!page.to_string().contains("hidden"), "{page}");
        let next = json!({ "limit": 2, "cursor": page["nextCursor"] });
        let next = ignite.ok(via, "ListSecrets", &token, next).await;
        assert_eq!(names(&next), ["c"]);
        assert!(next.get("nextCursor").is_none(), "{next}");
        let none = ignite.ok(via, "ListSecrets", &other, json!({})).await;
        assert_eq!(none, json!({}));

        for _ in 0..2 {
            let gone = ignite.ok(via, "DeleteSecret", &token, named("a_1")).await;
            assert_eq!(gone, json!({}));
        }
        let gone = ignite.refused(via, "GetSecret", &token, named("a_1")).await;
        gone.is(5, 404, "NOT_FOUND", &["a_1", "ignite secret create"]);
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&key).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    ignite.kill9();
    ignite.start().await;
    let kept = ignite.ok(Via::Json, "GetSecret", &token, named("c")).await;
    assert_eq!(kept["value"]["gitSecret"]["token"], "hidden-git");
    assert!(!ignite.log().contains("hidden"), "{}", ignite.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_values_cursors_and_callers_are_refused() {
    let ignite = Ignite::builder().start().await;
    let token = ignite.token("acme");
    let good = || json!({ "git_secret": { "token": "hidden" } });
    for via in BOTH {
        for (wrong, fields) in [
            (create("", good()), vec!["name"]),
            (create("a.b", good()), vec!["name"]),
            (create(&"x".repeat(65), good()), vec!["name"]),
            (named("a"), vec!["value"]),
            (create("a", json!({})), vec!["value"]),
            (
                create("a", json!({ "git_secret": {} })),
                vec!["value.git_secret.token"],
            ),
            (
                create(
                    "a",
                    json!({ "registry_secret": { "server_address": "a b" } }),
                ),
                vec![
                    "value.registry_secret.username",
                    "value.registry_secret.password",
                    "value.registry_secret.server_address",
                ],
            ),
            (
                create("a", json!({ "git_secret": { "token": "hidden\n" } })),
                vec!["value.git_secret.token"],
            ),
        ] {
            let refused = ignite.refused(via, "CreateSecret", &token, wrong).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &[]);
            assert_eq!(refused.fields, fields);
            assert!(!refused.message.contains("hidden"), "{refused:?}");
        }
        for rpc in ["GetSecret", "DeleteSecret"] {
            let refused = ignite.refused(via, rpc, &token, named("a.b")).await;
            refused.is(3, 400, "INVALID_ARGUMENT", &["'.'"]);
        }
        for (wrong, field) in [
            (json!({ "cursor": "!" }), "cursor"),
            (json!({ "limit": -1 }), "limit"),
        ] {
            let refused = ignite.refused(via, "ListSecrets", &token, wrong).await;
            assert_eq!(refused.fields, [field]);
        }
        for (rpc, fields) in [
            ("CreateSecret", create("a", good())),
            ("GetSecret", named("a")),
            ("ListSecrets", json!({})),
            ("DeleteSecret", named("a")),
        ] {
            let nobody = ignite.refused(via, rpc, "", fields).await;
            nobody.is(16, 401, "UNAUTHENTICATED", &[]);
        }
        let all = ignite.ok(via, "ListSecrets", &token, json!({})).await;
        assert_eq!(all, json!({}), "nothing was stored");
        let draft = json!({
            "organization_name": "acme", "name": "a", "code": { "image": {
                "prebuilt": { "image_ref": "a:1" }, "registry_secret_ref": "no name",
            }},
        });
        let refused = ignite.refused(via, "CreateApp", &token, draft).await;
        assert_eq!(refused.fields, ["code.image.registry_secret_ref"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_with_the_secret_as_it_is_at_that_moment() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder().start().await;
    let registry = Registry::start("hidden-one").await;
    let unique = format!("private {}", registry.address());
    let image = probe::image_with(&[("PROBE_LOG", &unique)]).await;
    let reference = registry.take(&image).await;
    let code = |secret: &str| {
        json!({ "code": { "image": {
            "prebuilt": { "imageRef": reference }, "registrySecretRef": secret,
        }}})
    };
    let app = App::create(&ignite, "acme/private", code("reg")).await;
    let refused = async |ignite: &Ignite, words: &str| {
        let (status, answer) = app.publish(ignite).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        let message = answer["message"].as_str().expect("a message");
        assert!(
            message.contains(words) && !message.contains("hidden"),
            "{message}"
        );
        assert_eq!(answer["code"], 9, "{answer}");
    };
    let put = async |ignite: &Ignite, value: Value| {
        ignite
            .ok(Via::Json, "CreateSecret", &app.token, create("reg", value))
            .await;
    };
    refused(&ignite, "organization acme has no such secret").await;
    put(&ignite, json!({ "git_secret": { "token": "hidden-one" } })).await;
    refused(&ignite, "is a git_secret, and a registry_secret is needed").await;
    let hub = json!({ "username": "robot", "password": "hidden-one" });
    put(&ignite, json!({ "registry_secret": hub })).await;
    refused(&ignite, "is for the registry docker.io").await;
    put(&ignite, registry.secret("hidden-zero")).await;
    refused(&ignite, "cannot be pulled").await;
    // Without a secret the registry refuses too.
    app.api(&ignite, Method::POST, "/draft", code("")).await;
    refused(&ignite, "cannot be pulled").await;

    app.api(&ignite, Method::POST, "/draft", code("reg")).await;
    put(&ignite, registry.secret("hidden-one")).await;
    let (status, answer) = app.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    app.get_ok(&ignite, "/").await;
    let (_, kept) = app
        .api(&ignite, Method::GET, "/code/versions/1", Value::Null)
        .await;
    assert_eq!(kept["code"]["image"]["registrySecretRef"], "reg", "{kept}");

    let path = "/versions/1";
    let (_, version) = app.api(&ignite, Method::GET, path, Value::Null).await;
    let digest = version["version"]["imageDigest"].as_str();
    let digest = digest.expect("it is from a registry").to_owned();

    // A cold start without the image pulls it again, with the secret's current value.
    registry.set_password("hidden-two").await;
    put(&ignite, registry.secret("hidden-two")).await;
    assert!(ignite.terminate(ENGINE_LIMIT).await.success());
    registry::forget(&reference).await;
    ignite.start().await;
    app.get_ok(&ignite, "/").await;

    // The owner learns that a secret is missing.
    ignite
        .ok(Via::Json, "DeleteSecret", &app.token, named("reg"))
        .await;
    assert!(ignite.terminate(ENGINE_LIMIT).await.success());
    // It was pulled by its digest, whatever the tag names by now.
    registry::forget(&digest).await;
    ignite.start().await;
    let answer = app.get(&ignite, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.header("x-ignite-error"), Some("FAILED_PRECONDITION"));
    let text = answer.text().await;
    assert!(text.contains("no such secret"), "{text}");
    assert!(!ignite.log().contains("hidden"), "{}", ignite.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_keeps_secrets_of_the_organization_in_use() {
    let ignite = Ignite::builder().start().await;
    let run = |args: &[&str]| {
        let output = ignite.cli(args);
        let out = String::from_utf8(output.stdout).expect("text");
        let err = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), out, err)
    };
    let acme = |args: &[&str]| run(&[args, &["--org", "acme"]].concat());
    let (code, out, err) = acme(&[
        "secret",
        "create",
        "reg",
        "--username",
        "u",
        "--password",
        "hidden",
        "--server",
        "r.example",
    ]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("registry_secret") && !out.contains("hidden"),
        "{out}"
    );
    let (code, out, _) = acme(&["secret", "get", "reg"]);
    assert!(
        code == Some(0) && out.contains("hidden") && out.contains("r.example"),
        "{out}"
    );
    let (_, out, _) = acme(&["secret", "list", "-o", "json"]);
    let list: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(list["secrets"][0]["name"], "reg");
    let (_, out, _) = run(&["secret", "list", "--org", "other", "-o", "json"]);
    let none: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(none["secrets"], Value::Array(Vec::new()));
    // Empty stdin is not a password.
    let (code, _, err) = acme(&[
        "secret",
        "create",
        "git",
        "--type",
        "git",
        "--password-stdin",
    ]);
    assert!(
        code == Some(2) && err.contains("value.git_secret.token"),
        "{err}"
    );
    for _ in 0..2 {
        let (code, _, err) = acme(&["secret", "delete", "reg"]);
        assert_eq!(code, Some(0), "{err}");
    }
    let (code, _, err) = acme(&["secret", "get", "reg"]);
    assert!(code == Some(5) && err.contains("no secret reg"), "{err}");
}
