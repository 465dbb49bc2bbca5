//! How much disk an organization may use, and what happens to an app that writes more.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, write},
    eventually_ok,
    ignite::Ignite,
};

const MIB: usize = 1 << 20;

fn persistent() -> Value {
    json!({ "storageMode": "STORAGE_MODE_PERSISTENT" })
}

async fn is_stopped(ignite: &Ignite, app: &App) -> Result<(), String> {
    let answer = app.get(ignite, "/").await;
    match (answer.status, answer.header("x-ignite-error")) {
        (StatusCode::TOO_MANY_REQUESTS, Some("DISK_QUOTA")) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn events(ignite: &Ignite, app: &App) -> String {
    let (_, answer) = app.api(ignite, Method::GET, "/events", Value::Null).await;
    answer.to_string()
}

/// A server with a small disk quota per organization, checked often.
async fn with_quota() -> Ignite {
    Ignite::builder()
        .args(["--set", "disk_quota_per_org=8MiB"])
        .args(["--set", "disk_interval=500ms"])
        .args(["--set", "container_log_max_bytes=16KiB"])
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_that_writes_too_much_is_stopped_and_its_neighbours_serve() {
    let ignite = with_quota().await;
    let writer = App::deploy(&ignite, "acme/writer", persistent()).await;
    let still = App::deploy(&ignite, "acme/still", persistent()).await;
    let other = App::deploy(&ignite, "globex/other", persistent()).await;
    for app in [&still, &other] {
        let written = write(&ignite, app, "/home/ignite/file", &"x".repeat(MIB / 2)).await;
        assert_eq!(written, Ok(()));
    }
    let content = "x".repeat(4 * MIB);
    let mut written = 0;
    while written < 50 && is_stopped(&ignite, &writer).await.is_err() {
        let path = format!("/home/ignite/file-{written}");
        // The app may be stopped in the middle of the write.
        let _ = write(&ignite, &writer, &path, &content).await;
        written += 1;
    }
    eventually_ok(ENGINE_LIMIT, || is_stopped(&ignite, &writer)).await;
    for app in [&still, &other] {
        app.get_ok(&ignite, "/").await;
    }
    // Its containers are gone, and a publish starts none.
    eventually_ok(ENGINE_LIMIT, || async {
        let of_writer = ignite.containers().await.into_iter().filter(|c| {
            let names = c.names.as_deref().unwrap_or_default();
            names.iter().any(|name| name.contains("-acme-writer-"))
        });
        match of_writer.count() {
            0 => Ok(()),
            n => Err(format!("{n} containers")),
        }
    })
    .await;
    let told = events(&ignite, &writer).await;
    assert!(
        told.contains("DISK_QUOTA") && told.contains("of 8 MiB of the disk"),
        "{told}"
    );
    assert!(!events(&ignite, &still).await.contains("DISK_QUOTA"));
    // The operator frees space.
    let folder = ignite.data_dir().join("volumes/acme");
    let entries = std::fs::read_dir(&folder).expect("it is there").flatten();
    let mine = entries.filter(|e| e.file_name().to_string_lossy().starts_with("writer-"));
    for folder in mine {
        for file in std::fs::read_dir(folder.path())
            .expect("a folder")
            .flatten()
        {
            std::fs::remove_file(file.path()).expect("removed");
        }
    }
    eventually_ok(ENGINE_LIMIT, || async {
        match app_status(&ignite, &writer).await {
            StatusCode::OK => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn app_status(ignite: &Ignite, app: &App) -> StatusCode {
    app.get(ignite, "/").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_beside_volumes_counts_and_goes_with_the_container() {
    let ignite = with_quota().await;
    let app = App::create(&ignite, "acme/root", json!({ "writableRootFs": true })).await;
    let image = crate::support::probe::root_image().await;
    let (status, answer) = app.publish_image(&ignite, &image).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        write(&ignite, &app, "/large", &"x".repeat(16 * MIB)).await,
        Ok(())
    );
    eventually_ok(ENGINE_LIMIT, || async {
        match events(&ignite, &app).await {
            told if told.contains("DISK_QUOTA") => Ok(()),
            told => Err(told),
        }
    })
    .await;
    // Its layer was removed with it, so there is space again.
    eventually_ok(ENGINE_LIMIT, || async {
        match app_status(&ignite, &app).await {
            StatusCode::OK => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let found = crate::support::app::read(&ignite, &app, "/large").await;
    assert!(found.is_err(), "the layer is another one");
}
