//! Whatever a user prunes by hand while an app is absent is recreated, and its files are still
//! there.

use std::collections::HashMap;

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{
        CreateContainerOptions, ListContainersOptions, ListVolumesOptions, PruneContainersOptions,
        PruneImagesOptions, PruneNetworksOptions, PruneVolumesOptions, RemoveVolumeOptions,
    },
};
use hyper::{Method, StatusCode};
use ignite_kit::image::{self, Variant};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, read, write},
    eventually_ok,
    ignite::Ignite,
    private_engine::PrivateEngine,
};

const FILE: &str = "/home/ignite/note";

/// An engine of its own, a client of it, and the probe's image there.
async fn engine_with_probe() -> (PrivateEngine, Docker, String) {
    let engine = PrivateEngine::start().await;
    let docker = engine.client();
    let image = image::probe(&docker, Variant::NonRoot)
        .await
        .expect("the image");
    (engine, docker, image)
}

async fn deploy(ignite: &Ignite, image: &str, settings: Value) -> App {
    let app = App {
        org: "acme".into(),
        name: "a".into(),
        token: ignite.token("acme"),
    };
    let mut body =
        json!({ "name": "a", "code": { "image": { "prebuilt": { "imageRef": image } } } });
    let fields = settings.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("an object").extend(fields);
    let (status, _, answer) = ignite
        .api(Method::POST, "/v1/ignite/app/acme", &app.token, &body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = app.publish(ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    app
}

fn rest(ignite: &Ignite, depth: &str) {
    for step in ["idle", "wait"] {
        let output = ignite.cli(&["app", step, "acme:a", "--depth", depth]);
        assert!(output.status.success(), "{step} {depth}: {output:?}");
    }
}

/// A foreign container that keeps the app's image from being pruned too.
async fn run_beside(docker: &Docker, image: &str) {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let none = None::<CreateContainerOptions>;
    let made = docker.create_container(none, body).await.expect("made");
    docker.start_container(&made.id, None).await.expect("runs");
}

fn filter(name: &str, value: &str) -> Option<HashMap<String, Vec<String>>> {
    Some([(name.to_owned(), vec![value.to_owned()])].into())
}

/// `docker volume prune`; newer engines spare named ones unless told otherwise.
async fn prune_volumes(docker: &Docker) {
    let all = PruneVolumesOptions {
        filters: filter("all", "true"),
    };
    let pruned = match docker.prune_volumes(Some(all)).await {
        Err(_) => docker.prune_volumes(None::<PruneVolumesOptions>).await,
        pruned => pruned,
    };
    pruned.expect("pruned");
}

/// `docker volume rm` of the app's volume: some engines do not prune volumes with options.
async fn remove_volume(docker: &Docker) {
    eventually_ok(ENGINE_LIMIT, || async {
        let named = ListVolumesOptions {
            filters: filter("name", "_acme_a_"),
        };
        let found = docker.list_volumes(Some(named)).await.expect("a list");
        for volume in found.volumes.unwrap_or_default() {
            let none = None::<RemoveVolumeOptions>;
            docker.remove_volume(&volume.name, none).await?;
        }
        Ok::<_, bollard::errors::Error>(())
    })
    .await;
}

async fn prune_containers(docker: &Docker) {
    let none = None::<PruneContainersOptions>;
    docker.prune_containers(none).await.expect("pruned");
}

async fn prune_images(docker: &Docker) {
    let all = PruneImagesOptions {
        filters: filter("dangling", "false"),
    };
    docker.prune_images(Some(all)).await.expect("pruned");
}

#[tokio::test]
#[ignore = "starts a dockerd of its own, which needs root; scripts/test.sh runs it where it can"]
async fn files_of_a_persistent_app_outlive_every_prune() {
    let (engine, docker, image) = engine_with_probe().await;
    let ignite = Ignite::builder()
        .env("DOCKER_HOST", engine.docker_host())
        .env("IGNITE_UPKEEP_INTERVAL", "100ms")
        .start()
        .await;
    let persistent = json!({ "storageMode": "STORAGE_MODE_PERSISTENT" });
    let app = deploy(&ignite, &image, persistent).await;
    assert_eq!(write(&ignite, &app, FILE, "kept").await, Ok(()));
    run_beside(&docker, &image).await;
    for command in [
        "volume prune",
        "container prune",
        "system prune",
        "volume rm",
    ] {
        rest(&ignite, "absent");
        match command {
            "volume prune" => {}
            "container prune" => prune_containers(&docker).await,
            _ => {
                prune_containers(&docker).await;
                let none = None::<PruneNetworksOptions>;
                docker.prune_networks(none).await.expect("pruned");
            }
        }
        prune_volumes(&docker).await;
        if command == "volume rm" {
            remove_volume(&docker).await;
        }
        if command == "system prune" {
            prune_images(&docker).await;
        }
        let found = read(&ignite, &app, FILE).await;
        assert_eq!(found, Ok("kept".to_owned()), "{command}");
    }
    // The app's files are deleted with it, even if the engine has lost its volume.
    let folder = ignite.data_dir().join("volumes/acme");
    assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1);
    rest(&ignite, "absent");
    remove_volume(&docker).await;
    let (status, answer) = app.api(&ignite, Method::DELETE, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    eventually_ok(ENGINE_LIMIT, || async {
        if folder.exists() {
            Err("its files are still there")
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "starts a dockerd of its own, which needs root; scripts/test.sh runs it where it can"]
async fn a_holder_whose_image_was_pruned_is_made_again() {
    let (engine, docker, image) = engine_with_probe().await;
    let ignite = Ignite::builder()
        .env("DOCKER_HOST", engine.docker_host())
        .env("IGNITE_STANDBY", "prepared")
        .start()
        .await;
    let app = deploy(&ignite, &image, Value::Null).await;
    run_beside(&docker, &image).await;
    for _ in 0..2 {
        app.get_ok(&ignite, "/").await;
        rest(&ignite, "prepared");
        let all = docker
            .list_containers(Some(ListContainersOptions {
                all: true,
                ..ListContainersOptions::default()
            }))
            .await
            .expect("a list");
        assert_eq!(
            all.len(),
            3,
            "the container, its holder, and the one beside"
        );
        rest(&ignite, "absent");
        prune_images(&docker).await;
    }
}
