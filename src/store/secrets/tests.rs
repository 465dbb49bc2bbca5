use std::{os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::{
    model::{BuildArgs, CodeSource},
    store::tests::on_disk,
};

fn registry(password: &str) -> Value {
    Value {
        kind: Kind::Registry,
        username: "user".into(),
        password: password.into(),
        server_address: "registry.example".into(),
    }
}

fn name(name: &str) -> SecretName {
    name.parse().expect("valid")
}

fn org(name: &str) -> OrgName {
    name.parse().expect("valid")
}

fn open_secrets(dir: &Path) -> (Store, Secrets) {
    let store = Store::open(dir).expect("opens");
    (store.clone(), Secrets::new(store))
}

/// As after a restart: the key is read again.
fn reread(store: &Store, dir: &Path) -> Secrets {
    Secrets {
        store: store.clone(),
        key: Arc::new(KeyFile::new(dir)),
    }
}

#[tokio::test]
async fn secrets_survive_a_restart_and_are_never_legible_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("identity/secrets.key");
    let (store, secrets) = open_secrets(dir.path());
    assert!(!key.exists(), "made at first use");
    let derived = secrets.derive("a").expect("made");
    assert_ne!(secrets.derive("b").expect("another"), derived);
    let first = registry("plain-to-see-1");
    let put = |value, at| secrets.put(org("acme"), name("reg"), value, at);
    put(first, 1).await.expect("stored");
    let again = put(registry("plain-to-see-2"), 2).await.expect("stored");
    assert_eq!((again.created_at_ms, again.updated_at_ms), (1, 2));
    let mode = std::fs::metadata(&key).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.close();
    drop((store, secrets));
    assert!(!on_disk(dir.path(), b"plain-to-see"));

    let (store, secrets) = open_secrets(dir.path());
    let (meta, value) = secrets
        .get(&org("acme"), &name("reg"))
        .await
        .expect("there");
    assert_eq!(value, registry("plain-to-see-2"));
    assert_eq!(meta.updated_at_ms, 2);
    assert_eq!(secrets.derive("a").expect("made before"), derived);
    for _ in 0..2 {
        let gone = secrets.delete(org("acme"), name("reg")).await;
        gone.expect("idempotent");
    }
    assert!(secrets.page(&org("acme"), None, 9).is_empty());
    store.close();
}

#[tokio::test]
async fn pages_hold_one_organization_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, secrets) = open_secrets(dir.path());
    for (owner, n) in [("a", "z"), ("b", "2"), ("b", "1"), ("b", "_3"), ("c", "0")] {
        let put = secrets.put(org(owner), name(n), registry("x"), 1);
        put.await.expect("stored");
    }
    let names = |after: Option<&str>, limit| {
        let page = secrets.page(&org("b"), after.map(name).as_ref(), limit);
        page.iter().map(|s| s.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(None, 2), ["1", "2"]);
    assert_eq!(names(Some("2"), 2), ["_3"]);
    store.close();
}

#[tokio::test]
async fn a_secret_opens_in_its_own_slot_only() {
    let key = {
        let dir = tempfile::tempdir().expect("a directory");
        let file = KeyFile::new(dir.path());
        let key = file.open_or_create(false).expect("made");
        seal(key, &org("acme"), &name("a"), &registry("x")).map(|sealed| (file, sealed))
    };
    let (file, sealed) = key.expect("sealed");
    let key = file.open().expect("kept in memory");
    let secret = |owner: &str, n: &str, kind, sealed: &[u8]| Sealed {
        org: org(owner),
        name: name(n),
        kind,
        created_at_ms: 0,
        updated_at_ms: 0,
        sealed: sealed.to_vec(),
    };
    let opens = |s: Sealed| open(key, &s).is_ok();
    assert!(opens(secret("acme", "a", Kind::Registry, &sealed)));
    assert!(!opens(secret("acme", "b", Kind::Registry, &sealed)));
    assert!(!opens(secret("other", "a", Kind::Registry, &sealed)));
    assert!(!opens(secret("acme", "a", Kind::Git, &sealed)));
    assert!(!opens(secret("acme", "a", Kind::Registry, &sealed[1..])));
    assert!(!opens(secret("acme", "a", Kind::Registry, b"")));
}

#[tokio::test]
async fn a_key_that_is_gone_exposed_or_another_one_is_told_and_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("identity/secrets.key");
    let (store, secrets) = open_secrets(dir.path());
    let put = secrets.put(org("acme"), name("a"), registry("x"), 1);
    put.await.expect("stored");
    let kept = std::fs::read(&key).expect("a key");
    let refused = |words: &'static str| {
        let secrets = reread(&store, dir.path());
        async move {
            let got = secrets.get(&org("acme"), &name("a")).await;
            let failure = got.expect_err("not to be opened");
            assert_eq!(failure.reason, Reason::FailedPrecondition);
            assert!(failure.message.contains(words), "{failure}");
        }
    };
    std::fs::remove_file(&key).expect("removed");
    refused("key for secrets cannot be used").await;
    let derived = reread(&store, dir.path()).derive("a");
    derived.expect_err("it would be another one");
    let put = reread(&store, dir.path());
    let put = put.put(org("acme"), name("b"), registry("x"), 1).await;
    put.expect_err("it would make the others illegible for good");
    assert!(!key.exists());
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::write(&key, &kept).expect("restored");
    std::fs::set_permissions(&key, mode(0o644)).expect("ours");
    refused("key for secrets cannot be used").await;
    std::fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("written");
    std::fs::set_permissions(&key, mode(0o600)).expect("ours");
    refused("another key").await;
    store.close();
}

#[tokio::test]
async fn a_reference_is_refused_with_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, secrets) = open_secrets(dir.path());
    let git = Value {
        kind: Kind::Git,
        server_address: String::new(),
        ..registry("x")
    };
    let hub = Value {
        server_address: String::new(),
        ..registry("x")
    };
    for (n, value) in [("git", git), ("hub", hub), ("reg", registry("x"))] {
        let put = secrets.put(org("acme"), name(n), value, 1);
        put.await.expect("stored");
    }
    let image = "registry.example/team/app:1";
    for (owner, n, words) in [
        ("acme", "nope", "no such secret"),
        ("acme", "no name", "no such secret"),
        ("other", "reg", "no such secret"),
        ("acme", "git", "is a git_secret"),
        ("acme", "hub", "for the registry docker.io"),
    ] {
        let refused = secrets.for_image(&org(owner), n, image).await;
        let failure = refused.expect_err(n);
        assert_eq!(failure.reason, Reason::FailedPrecondition);
        assert!(failure.text(true).contains(words), "{}", failure.text(true));
        assert!(!failure.text(false).contains(n), "for the owner only");
    }
    let found = secrets.for_image(&org("acme"), "reg", image).await;
    assert_eq!(found.expect("fits"), registry("x"));
    store.close();
}

#[tokio::test]
async fn build_arguments_are_never_legible_on_disk_and_open_for_their_organization_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let clear = || BuildArgs::Clear([("TOKEN".to_owned(), "plain-to-see".to_owned())].into());
    let (store, secrets) = open_secrets(dir.path());
    let sealed = secrets.seal_args(org("o"), clear()).await.expect("sealed");
    let again = secrets.seal_args(org("o"), clear()).await.expect("sealed");
    let others = secrets.seal_args(org("b"), clear()).await.expect("sealed");
    let mark = |args: &BuildArgs| match args {
        BuildArgs::Sealed(args) => args.mark.clone(),
        BuildArgs::Clear(_) => panic!("in clear"),
    };
    assert_eq!(mark(&sealed), mark(&again), "equal code has equal hashes");
    assert_ne!(mark(&sealed), mark(&others));
    let mut app = super::super::tests::full_app("o/app");
    // With an environment the store could not be opened without its key.
    app.settings.env.clear();
    app.versions.clear();
    app.active_version = 0;
    let draft = app.draft.as_mut().expect("a draft");
    let CodeSource::FromCode(code) = &mut draft.source else {
        panic!("the draft is an archive");
    };
    code.build_args = sealed.clone();
    let put = app.clone();
    let put = store.commit(move |_| Ok((vec![Change::Put(Arc::new(put))], ())));
    put.await.expect("stored");
    store.close();
    drop((store, secrets));
    assert!(!on_disk(dir.path(), b"plain-to-see"));

    let (store, secrets) = open_secrets(dir.path());
    let kept = store.catalog().get(&app.id).cloned().expect("kept");
    assert_eq!(*kept, app);
    let opened = secrets.open_args(&org("o"), sealed.clone()).await;
    assert_eq!(opened.map(BuildArgs::Clear).expect("opens"), clear());
    assert!(secrets.open_args(&org("b"), sealed).await.is_err());
    let none = secrets.seal_args(org("o"), BuildArgs::default()).await;
    assert!(none.expect("as it is").is_empty());
    store.close();
    drop((store, secrets));
    // A lost key is not created anew over what it sealed.
    std::fs::remove_file(dir.path().join("identity/secrets.key")).expect("a key");
    let (store, secrets) = open_secrets(dir.path());
    assert!(secrets.seal_args(org("o"), clear()).await.is_err());
    store.close();
}

#[tokio::test]
async fn a_git_secret_is_for_one_host_from_its_first_use_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, secrets) = open_secrets(dir.path());
    let value = Value {
        kind: Kind::Git,
        server_address: String::new(),
        ..registry("x")
    };
    let put = secrets.put(org("o"), name("git"), value, 1);
    put.await.expect("stored");
    let owner = org("o");
    let get = |host: &'static str| secrets.for_git(&owner, "git", host);
    // A repository on this machine's disk needs no login and binds no host.
    assert_eq!(get("").await.expect("any").server_address, "");
    assert_eq!(get("h:1").await.expect("the first").server_address, "h:1");
    assert_eq!(get("H:1").await.expect("the same").server_address, "h:1");
    let why = get("h").await.expect_err("another");
    assert!(why.message.contains("no other host"), "{why}");
    store.close();
    drop((store, secrets));
    let (store, secrets) = open_secrets(dir.path());
    assert!(secrets.for_git(&org("o"), "git", "evil").await.is_err());
    store.close();
}
