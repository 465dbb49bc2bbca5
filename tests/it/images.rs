//! Which image a version runs, forever; and how long images stay on the machine.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::query_parameters::TagImageOptions;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    app::{App, ENGINE_LIMIT},
    contract::{BOTH, Via},
    engine::{self, docker},
    eventually_ok,
    ignite::Ignite,
    probe,
    registry::{self, Registry},
};

const SECRET: &str = "reg";

/// A registry that the organization has a secret for.
async fn registry(ignite: &Ignite) -> Registry {
    let registry = Registry::start("hidden").await;
    let secret = json!({ "name": SECRET, "value": registry.secret("hidden") });
    let token = ignite.token("acme");
    ignite.ok(Via::Json, "CreateSecret", &token, secret).await;
    registry
}

/// Moves the registry's tag to an image that answers with this version, which is not on the
/// machine. Returns the reference and the image's id.
async fn push(registry: &Registry, version: &str) -> (String, String) {
    // First, so that the engine builds no two images of this machine by way of the same one, of
    // which a test may remove what another one builds upon.
    let unique = format!("{version} {}", registry.address());
    let image = probe::image_with(&[("PROBE_LOG", &unique), ("PROBE_VERSION", version)]).await;
    let id = id_of(&image).await.expect("it was built");
    let reference = registry.take(&image).await;
    (reference, id)
}

/// The id of an image if it is on this machine.
async fn id_of(image: &str) -> Option<String> {
    docker().await.inspect_image(image).await.ok()?.id
}

async fn publish(ignite: &Ignite, app: &App, reference: &str) {
    let draft = json!({ "code": { "image": {
        "prebuilt": { "imageRef": reference }, "registrySecretRef": SECRET,
    }}});
    let (status, answer) = app.api(ignite, Method::POST, "/draft", draft).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = app.publish(ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

async fn version_of(ignite: &Ignite, app: &App) -> String {
    let answer = app.get_ok(ignite, "/").await;
    let version = answer.header("x-probe-version").expect("a version");
    version.to_owned()
}

async fn to_nothing(ignite: &Ignite, id: &str) {
    for step in ["idle", "wait"] {
        let output = ignite.cli(&["app", step, id, "--depth", "absent"]);
        assert!(output.status.success(), "{output:?}");
    }
}

async fn wait_until_gone(image: &str) {
    eventually_ok(ENGINE_LIMIT, || async {
        match id_of(image).await {
            None => Ok(()),
            Some(id) => Err(format!("{id} is there")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_changes_no_version_even_when_its_image_is_gone() {
    let ignite = Ignite::builder().start().await;
    let registry = registry(&ignite).await;
    let (reference, first) = push(&registry, "first").await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    publish(&ignite, &app, &reference).await;
    assert_eq!(version_of(&ignite, &app).await, "first");
    for via in BOTH {
        let id = json!({ "organization_name": "acme", "app_name": "a", "version": 1 });
        let version = ignite.ok(via, "GetAppVersion", &app.token, id).await["version"].clone();
        assert_eq!(version["imageId"], first.as_str());
        assert_eq!(version["imageRef"], reference.as_str());
        let digest = version["imageDigest"].as_str().expect("a digest");
        let repository = reference.strip_suffix(":1").expect("a tag");
        assert!(
            digest.starts_with(&format!("{repository}@sha256:")),
            "{digest}"
        );
    }
    // The tag moves, and the machine loses the image it named.
    let (_, second) = push(&registry, "second").await;
    to_nothing(&ignite, "acme:a").await;
    registry::forget(&first).await;
    assert_eq!(version_of(&ignite, &app).await, "first", "a cold start");
    assert_eq!(id_of(&reference).await, None, "it was pulled by its digest");

    // A publish uses the image that the tag names now; a rollback still works.
    publish(&ignite, &app, &reference).await;
    assert_eq!(version_of(&ignite, &app).await, "second");
    assert_eq!(id_of(&reference).await.as_ref(), Some(&second));
    to_nothing(&ignite, "acme:a").await;
    registry::forget(&first).await;
    let back = json!({ "version": 1 });
    let (status, answer) = app.api(&ignite, Method::POST, "/rollback", back).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(version_of(&ignite, &app).await, "first");
    // This test leaves nothing on the machine.
    drop(ignite);
    registry::forget(&first).await;
    registry::forget(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_no_version_needs_go_and_nothing_else_does() {
    let _guard = engine::PruneGuard::no_prune().await;
    let mut ignite = Ignite::builder()
        .env("IGNITE_IMAGE_VERSIONS_KEPT", "1")
        .env("IGNITE_IMAGE_KEEP_FOR", "2s")
        .env("IGNITE_UPKEEP_INTERVAL", "100ms")
        .start()
        .await;
    let registry = registry(&ignite).await;
    // An image that was on this machine before, and is published from there.
    let unique = format!("own {}", registry.address());
    let own = probe::image_with(&[("PROBE_LOG", &unique), ("PROBE_VERSION", "own")]).await;
    let app = App::create(&ignite, "acme/a", Value::Null).await;
    let (status, answer) = app.publish_image(&ignite, &own).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let (reference, first) = push(&registry, "first").await;
    publish(&ignite, &app, &reference).await;
    assert_eq!(version_of(&ignite, &app).await, "first");
    // The user gives a pulled image another name, so it stays.
    let (_, second) = push(&registry, "second").await;
    publish(&ignite, &app, &reference).await;
    assert_eq!(version_of(&ignite, &app).await, "second");
    wait_until_gone(&first).await;
    let mine = format!("ignite-probe-mine:{}", &second[7..19]);
    let (repo, tag) = mine.split_once(':').expect("a tag");
    let as_mine = TagImageOptions {
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
    };
    let tagged = docker().await.tag_image(&second, Some(as_mine)).await;
    tagged.expect("it is tagged");

    // A crash right after a pull loses no record of it.
    let (_, third) = push(&registry, "third").await;
    publish(&ignite, &app, &reference).await;
    ignite.kill9();
    assert_eq!(id_of(&third).await.as_ref(), Some(&third));
    ignite.start().await;
    assert_eq!(version_of(&ignite, &app).await, "third");

    // The rollback pulls the missing image again; the version it leaves is the newest, so its image
    // stays.
    let back = json!({ "version": 2 });
    let (status, answer) = app.api(&ignite, Method::POST, "/rollback", back).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(version_of(&ignite, &app).await, "first");
    assert_eq!(id_of(&third).await.as_ref(), Some(&third));

    let (status, _) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    wait_until_gone(&first).await;
    wait_until_gone(&third).await;
    assert_eq!(id_of(&mine).await.as_ref(), Some(&second));
    assert!(id_of(&own).await.is_some(), "it was never pulled");
    for image in [&mine, &own] {
        registry::forget(image).await;
    }
}

/// A folder as the docker command has it, with this `config.json`.
fn docker_config(json: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::write(folder.path().join("config.json"), json.to_string()).expect("written");
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_what_docker_login_has_or_a_helper_gives_unless_that_is_off() {
    use std::os::unix::fs::PermissionsExt as _;

    let registry = Registry::start("hidden").await;
    let (server, login) = (registry.address(), STANDARD.encode("robot:hidden"));
    let written_down = docker_config(&json!({ "auths": { &server: { "auth": login } } }));
    let helped = docker_config(&json!({ "credHelpers": { &server: "test" } }));
    let helper = helped.path().join("docker-credential-test");
    let script = "#!/bin/sh\nread server\necho \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"robot\\\",\\\"Secret\\\":\\\"hidden\\\"}\"\n";
    std::fs::write(&helper, script).expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&helper, executable).expect("set");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", helped.path().display());
    for (name, folder, is_on) in [
        ("written", &written_down, true),
        ("helped", &helped, true),
        ("off", &written_down, false),
    ] {
        let ignite = Ignite::builder()
            .env("DOCKER_CONFIG", folder.path())
            .env("PATH", &path)
            .env(
                "IGNITE_DOCKER_CONFIG_AUTH",
                if is_on { "true" } else { "false" },
            )
            .start()
            .await;
        let (reference, _) = push(&registry, name).await;
        let app = App::create(&ignite, "acme/a", Value::Null).await;
        let (status, answer) = app.publish_image(&ignite, &reference).await;
        if is_on {
            assert_eq!(status, StatusCode::OK, "{name}: {answer}");
            assert_eq!(version_of(&ignite, &app).await, name);
        } else {
            assert_ne!(status, StatusCode::OK, "{name}: {answer}")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_that_of_the_docker_commands_context_and_the_log_says_so() {
    let engine = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty());
    let engine = engine.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let folder = docker_config(&json!({ "currentContext": "lab" }));
    let describe = |host: &str| {
        let digest: String = Sha256::digest("lab")
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let meta = folder.path().join("contexts/meta").join(digest);
        std::fs::create_dir_all(&meta).expect("made");
        let text = json!({ "Name": "lab", "Endpoints": { "docker": { "Host": host } } });
        std::fs::write(meta.join("meta.json"), text.to_string()).expect("written");
    };
    let server = || {
        Ignite::builder()
            .env("DOCKER_CONFIG", folder.path())
            .env("DOCKER_CONTEXT", "")
            .env("DOCKER_HOST", "")
    };
    describe(&engine);
    let ignite = server().start().await;
    App::deploy(&ignite, "acme/a", Value::Null)
        .await
        .get_ok(&ignite, "/")
        .await;
    assert!(ignite.log().contains("docker context"), "{}", ignite.log());
    assert!(ignite.log().contains("config.json"), "{}", ignite.log());

    describe("ssh://me@lab.example");
    let refused = server().start_and_fail();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    for word in ["forward the socket", "DOCKER_CONTEXT=default"] {
        assert!(said.contains(word), "{said}");
    }
}
