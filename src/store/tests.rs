use std::collections::BTreeMap;

use super::*;
use crate::model::{
    App, AppId, Blob, BuildArgs, BuildId, CodeSource, Draft, ImageSource, Limits, Scaling, Tier,
    Version,
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
        // Build arguments in clear would be sealed at the next start.
        build_args: BuildArgs::default(),
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
        storage_ttl_secs: 9,
        writable_root_fs: true,
        init: crate::model::process::Init::Off,
        capabilities: "CHOWN,SETUID".parse().expect("good"),
        egress: "10.0.0.0/8,1.1.1.1:443".parse().expect("good"),
        api_access: true,
        standby: Some(crate::model::Standby::Prepared),
    };
    let version = Version {
        number: 1,
        source,
        image_ref: "reg/a:1".into(),
        image_id: "sha256:1".into(),
        overlay: None,
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
        // Each app has another.
        hosts: vec![
            format!("{}.example", id.replace('/', "."))
                .parse()
                .expect("valid"),
        ],
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

/// Whether any file below `dir` contains these bytes.
pub(super) fn on_disk(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            on_disk(&path, needle)
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            bytes.windows(needle.len()).any(|w| w == needle)
        }
    })
}

/// Puts the app into a fresh store, with an environment in recognizable clear text.
async fn with_env(dir: &Path) -> App {
    let mut app = full_app("o/a");
    let env = || [("TOKEN".to_owned(), "plain-to-see".to_owned())].into();
    app.settings.env = env();
    let mut version = Version::clone(&app.versions[0]);
    version.settings.env = env();
    app.versions = vec![Arc::new(version)];
    let store = Store::open(dir).expect("opens");
    let put = app.clone();
    let put = store.commit(move |c| Ok((vec![c.create(put)?], ()))).await;
    put.expect("commits");
    store.close();
    app
}

fn reopened(dir: &Path, id: &AppId) -> Option<App> {
    let store = Store::open(dir).expect("opens");
    let found = store.catalog().get(id).map(|a| App::clone(a));
    store.close();
    found
}

#[tokio::test]
async fn environments_are_sealed_at_rest_and_bound_to_their_app() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = with_env(dir.path()).await;
    assert!(!on_disk(dir.path(), b"plain-to-see"));
    assert_eq!(reopened(dir.path(), &app.id), Some(app.clone()));
    let envs = Envs::new(Arc::new(KeyFile::new(dir.path())));
    let sealed = envs.seal(&app.id, &app.settings.env);
    assert_eq!(envs.open(&app.id, &sealed), Ok(app.settings.env));
    let other = "o/b".parse().expect("valid");
    envs.open(&other, &sealed).expect_err("of another app");
}

#[tokio::test]
async fn what_an_older_one_wrote_legibly_is_read_and_sealed_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = with_env(dir.path()).await;
    let envs = Envs::new(Arc::new(KeyFile::new(dir.path())));
    {
        let db = sled::open(dir.path().join(FOLDER)).expect("opens");
        let (row, version) = (keys::app(&app.id), keys::version(&app.id, 1));
        let old = |key: &[u8]| {
            let new = db.get(key).expect("reads").expect("there");
            records::legible(&app.id, &new, key == version, &envs)
        };
        let (old_row, old_version) = (old(&row), old(&version));
        db.insert(row, old_row).expect("writes");
        db.insert(version, old_version).expect("writes");
        db.insert(db::FORMAT_KEY, &1_u32.to_be_bytes())
            .expect("writes");
        db.flush().expect("flushes");
    }
    std::fs::remove_file(dir.path().join("identity/secrets.key")).expect("as before it was made");
    assert!(on_disk(dir.path(), b"plain-to-see"));
    assert_eq!(reopened(dir.path(), &app.id), Some(app.clone()));
    assert!(!on_disk(dir.path(), b"plain-to-see"));
    assert_eq!(reopened(dir.path(), &app.id), Some(app));
    let path = dir.path().join(FOLDER);
    let database = Database::open(&path, FORMAT, CACHE_BYTES).expect("opens");
    assert_eq!(database.format, FORMAT);
    assert!(!path.join(SEALING).exists());
}

#[tokio::test]
async fn build_arguments_that_an_older_one_kept_in_clear_are_sealed_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut app = full_app("o/a");
    let values = BTreeMap::from([("TOKEN".to_owned(), "plain-to-see".to_owned())]);
    let mut code = app.draft.as_ref().expect("a draft").source.clone();
    if let CodeSource::FromCode(code) = &mut code {
        code.build_args = BuildArgs::Clear(values.clone());
    }
    let mut version = Version::clone(&app.versions[0]);
    version.source = code.clone();
    app.versions = vec![Arc::new(version)];
    app.draft.as_mut().expect("a draft").source = code;
    let store = Store::open(dir.path()).expect("opens");
    let put = app.clone();
    let put = store.commit(move |c| Ok((vec![c.create(put)?], ()))).await;
    put.expect("commits");
    store.close();
    assert!(on_disk(dir.path(), b"plain-to-see"));

    let sealed = reopened(dir.path(), &app.id).expect("there");
    assert!(!on_disk(dir.path(), b"plain-to-see"));
    assert!(app.has_clear_args() && !sealed.has_clear_args());
    let draft = &sealed.draft.as_ref().expect("a draft").source;
    assert_eq!(draft.code_hash(), sealed.versions[0].source.code_hash());
    assert_eq!(
        reopened(dir.path(), &app.id).as_ref(),
        Some(&sealed),
        "once"
    );
    let CodeSource::FromCode(code) = draft else {
        panic!("{draft:?}");
    };
    let store = Store::open(dir.path()).expect("opens");
    let secrets = secrets::Secrets::new(store.clone());
    let opened = secrets
        .open_args(&app.id.org, code.build_args.clone())
        .await;
    assert_eq!(opened.expect("they open"), values);
    store.close();
}

#[tokio::test]
async fn without_its_key_a_store_is_refused_and_still_gives_out_the_rest() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = with_env(dir.path()).await;
    let key = dir.path().join("identity/secrets.key");
    let kept = std::fs::read(&key).expect("a key");
    let another = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (damage, words) in [(None, "missing"), (Some(another), "another key")] {
        std::fs::remove_file(&key).expect("there");
        if let Some(text) = damage {
            crate::atomic_file::write(&key, text.as_bytes()).expect("written");
        }
        let refused = Store::open(dir.path()).err().expect("refused").to_string();
        assert!(
            refused.contains("secrets.key") && refused.contains(words),
            "{refused}"
        );
        let mut apps = Vec::new();
        let problems = tools::export(dir.path(), &mut |item| {
            if let tools::Exported::App(app) = item {
                apps.push(app);
            }
            Ok::<_, ()>(())
        });
        let problems = problems.expect("goes on");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(apps.len() == 1 && apps[0].settings.env.is_empty());
        let report = tools::check(dir.path());
        assert!(
            report.problems.iter().any(|p| p.what.contains(words)),
            "{report:?}"
        );
        assert_eq!(key.exists(), damage.is_some(), "none is made");
        crate::atomic_file::write(&key, &kept).expect("written");
    }
    assert_eq!(reopened(dir.path(), &app.id), Some(app));
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
    // A new app of the same name must not find the versions of the old one.
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

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_keeps_what_it_may_and_a_start_counts_the_same() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = full_app("o/a");
    let one = crate::model::stored::of_app(&app);
    let org = app.id.org.clone();
    // Space for four and a half.
    let most = one * 9 / 2;
    let open = || {
        let ledger = Ledger::new(Some(most));
        Store::open_watched(dir.path(), &Vitals::default(), ledger).expect("opens")
    };
    let store = open();
    let create = |n: usize| {
        let store = store.clone();
        async move {
            let mut app = full_app(&format!("o/{n}"));
            app.settings.ports.clear();
            let create = move |c: &Catalog| Ok((vec![c.create_within(app, 3)?], ()));
            store.commit_within(create).await
        }
    };
    // All at once: none slips through between the check and the write.
    let done = futures_util::future::join_all((0..50).map(create)).await;
    let refusals: Vec<_> = done.into_iter().filter_map(Result::err).collect();
    assert_eq!((refusals.len(), store.catalog().iter().count()), (47, 3));
    assert!(refusals.iter().all(|f| f.reason == Reason::StoreQuota));
    assert!(refusals[0].message.contains("IGNITE_APPS_MAX_PER_ORG"));

    let id = store.catalog().iter().next().expect("one").id.clone();
    let grow = |bytes: u64| {
        let id = id.clone();
        move |c: &Catalog| {
            let edit = |app: &mut App| {
                app.settings.description = "x".repeat(usize::try_from(bytes).expect("few"));
                Ok(())
            };
            Ok((vec![c.update(&id, edit)?], ()))
        }
    };
    let refused = store.commit_within(grow(2 * one)).await;
    assert_eq!(refused.expect_err("full").reason, Reason::StoreQuota);
    store.commit_within(grow(one)).await.expect("room");
    // What the platform itself writes is counted and never refused.
    store.commit(grow(3 * one)).await.expect("never refused");
    assert!(store.ledger().of(&org) > most);
    let refused = store.commit_within(grow(3 * one + 1)).await;
    assert!(refused.is_err());
    let counted = store.ledger().of(&org);
    store.close();
    drop(store);

    let store = open();
    assert_eq!(store.ledger().of(&org), counted, "a start counts the same");
    // Above the bound a change that shrinks is accepted, and makes space.
    store.commit_within(grow(1)).await.expect("less");
    let gone = id.clone();
    let delete = move |c: &Catalog| Ok((vec![c.delete(&gone)?], ()));
    store.commit(delete).await.expect("deleted");
    let again = id.clone();
    let create = move |c: &Catalog| {
        let mut app = full_app(&again.to_string());
        app.settings.ports.clear();
        Ok((vec![c.create_within(app, 3)?], ()))
    };
    store.commit_within(create).await.expect("there is room");
    let catalog = store.catalog();
    let there = catalog.iter().map(|app| crate::model::stored::of_app(app));
    assert_eq!(store.ledger().of(&org), there.sum::<u64>());
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
    let store = Store::open_watched(dir.path(), &vitals, Ledger::default()).expect("opens");
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
