use super::*;
use crate::model::{
    App, AppId, Blob, BuildId, CodeSource, Draft, ImageSource, Limits, Scaling, Tier, Version,
    code::{Built, BuiltImage, FromCode},
    files::Content,
    scaling::Metric,
    settings::{Settings, StorageMode},
};

pub(super) fn full_app(id: &str) -> App {
    let source = CodeSource::Prebuilt(ImageSource {
        image_ref: "reg/a:1".into(),
        registry_secret_ref: "s".into(),
    });
    let blob = Blob {
        id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        len: 4,
        // Of "code".
        sha256: "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b".into(),
    };
    let code = CodeSource::FromCode(FromCode {
        archive: blob,
        dockerfile_path: "d/Dockerfile".into(),
        build_args: [("A".to_owned(), "B".to_owned())].into(),
        registry_secret_ref: "s".into(),
    });
    let settings = Settings {
        tier: Tier::XLarge,
        limits: Limits {
            memory_mb: 64,
            cpu_millicores: 20,
            timeout_secs: 3,
        },
        env: [("A".to_owned(), "B".to_owned())].into(),
        scaling: Scaling {
            reserved_capacity: 1,
            max_replicas: 2,
            metric: Metric::Concurrency,
            threshold: 3,
            scaledown_period_secs: 4,
        },
        ports: vec![80, 9090],
        health_path: Some("/up".into()),
        description: "d".into(),
        input_schema: "{}".into(),
        output_schema: "{}".into(),
        mcp_enabled: true,
        max_concurrency: 7,
        allow_unauthenticated: true,
        protocol: crate::model::reach::Protocol::H2c,
        cors_origins: vec!["https://a.example".to_owned()],
        storage_mode: StorageMode::Ttl,
        writable_root_fs: true,
        init: crate::model::process::Init::Off,
        capabilities: "CHOWN,SETUID".parse().expect("good"),
        standby: Some(crate::model::Standby::Prepared),
    };
    let version = Version {
        number: 1,
        source,
        image_ref: "reg/a:1".into(),
        image_id: "sha256:1".into(),
        facts: crate::model::ImageFacts {
            exposed_ports: vec![8080, 9090],
            user: Some(String::new()),
            home: crate::model::files::Home {
                path: "/root".into(),
                content: Some(Content::Large {
                    read_only: vec!["/etc".into()],
                }),
            },
            brings_init: Some(true),
            digest_ref: "r.example/a@sha256:1".into(),
        },
        created_at_ms: 5,
        settings: settings.clone(),
    };
    App {
        id: id.parse().expect("valid"),
        created_at_ms: 1,
        updated_at_ms: 2,
        used_at_ms: 7,
        settings,
        draft: Some(Draft {
            source: code,
            created_at_ms: 3,
            built: Some(Built {
                id: BuildId(ulid::Ulid(7)),
                outcome: Ok(BuiltImage {
                    image_ref: "i:1".into(),
                    image_id: "sha256:2".into(),
                }),
            }),
            base: "i:0".into(),
        }),
        versions: vec![Arc::new(version)],
        active_version: 1,
    }
}

#[tokio::test]
async fn every_field_survives_a_reopen_and_a_delete_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = full_app("o/a");
    let store = Store::open(dir.path()).expect("opens");
    let put = app.clone();
    store
        .commit(move |c| Ok((vec![c.create(put)?], ())))
        .await
        .expect("commits");
    store.close();
    drop(store);

    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(
        store.catalog().get(&app.id).map(|a| App::clone(a)),
        Some(app.clone())
    );
    let id = app.id.clone();
    store
        .commit(move |c| Ok((vec![c.delete(&id)?], ())))
        .await
        .expect("deletes");
    // The same name again must not find the versions of the one before.
    let mut again = full_app("o/a");
    again.versions.clear();
    again.active_version = 0;
    let put = again.clone();
    store
        .commit(move |c| Ok((vec![c.create(put)?], ())))
        .await
        .expect("commits");
    store.close();
    drop(store);
    let store = Store::open(dir.path()).expect("opens");
    assert_eq!(
        store.catalog().get(&again.id).map(|a| App::clone(a)),
        Some(again)
    );
}

#[tokio::test]
async fn concurrent_changes_of_one_app_are_all_kept() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Store::open(dir.path()).expect("opens");
    let app = full_app("o/a");
    let id = app.id.clone();
    store
        .commit(move |c| Ok((vec![c.create(app)?], ())))
        .await
        .expect("commits");
    let add = |i: u32| {
        let (store, id) = (store.clone(), id.clone());
        async move {
            let edit = move |a: &mut App| {
                a.settings.env.insert(format!("V{i}"), String::new());
                Ok(())
            };
            store
                .commit(move |c| Ok((vec![c.update(&id, edit)?], ())))
                .await
        }
    };
    let done = futures_util::future::join_all((0..50).map(add)).await;
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(
        store.catalog().get(&id).map(|a| a.settings.env.len()),
        Some(51)
    );
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let dir = tempfile::tempdir().expect("temp dir");
    let db = sled::open(dir.path().join(FOLDER)).expect("opens");
    db.insert(db::FORMAT_KEY, &(FORMAT + 1).to_be_bytes())
        .expect("writes");
    db.flush().expect("flushes");
    drop(db);
    let message = Store::open(dir.path()).err().expect("refused").to_string();
    assert!(message.contains("newer ignite"), "{message}");
}

#[tokio::test]
async fn a_writer_that_dies_is_told_to_callers_and_to_whoever_watches() {
    let dir = tempfile::tempdir().expect("temp dir");
    let vitals = Vitals::default();
    let store = Store::open_watched(dir.path(), &vitals).expect("opens");
    let app = full_app("o/a");
    let made = store.commit(move |c| Ok((vec![c.create(app)?], ())));
    made.await.expect("commits");
    let dying = store.commit::<()>(|_| panic!("on purpose")).await;
    let later = store.commit(|_| Ok((Vec::new(), ()))).await;
    assert_eq!(vitals.failure().await, "the catalog's writer");
    for failure in [dying.expect_err("refused"), later.expect_err("refused")] {
        let said = &failure.message;
        assert!(
            said.contains("the catalog's writer of the platform failed"),
            "{said}"
        );
    }
    assert!(
        store
            .catalog()
            .get(&"o/a".parse().expect("valid"))
            .is_some()
    );
    store.close();
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert!(
        store
            .catalog()
            .get(&"o/a".parse().expect("valid"))
            .is_some()
    );
    store.close();
    let closed = store.commit(|_| Ok((Vec::new(), ()))).await;
    assert!(closed.expect_err("refused").message.contains("stopping"));
}
