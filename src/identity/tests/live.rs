//! Keys and accounts that change while they are used.

use std::{path::Path, sync::Arc, time::Duration};

use super::HERE;
use crate::{
    audit::Audit,
    config::Tokens,
    identity::{
        Caller, Identity, SigningKey,
        accounts::{Book, Error, Granted, Secret},
        keyring,
        provider::{Credentials, Provider, Refusal, Token},
        system_clock,
    },
    model::{AccountName, Failure, OrgName, Reason, Role, Scope, Scopes},
};

struct Rig {
    dir: tempfile::TempDir,
    identity: Arc<Identity>,
    provider: Provider,
    book: Book,
    org: OrgName,
    name: AccountName,
}

const ISSUER: &str = "http://localhost/realms/dodil";

fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Tokens::default();
    let identity = Identity::open(dir.path(), &settings, system_clock()).expect("opened");
    Rig {
        provider: Provider::new(identity.clone(), Audit::default()),
        book: Book::of(dir.path()),
        org: "acme".parse().expect("a name"),
        name: "ci".parse().expect("a name"),
        identity,
        dir,
    }
}

fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

impl Rig {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn create(&self, roles: Vec<Granted>) -> Secret {
        let secret = self.book.create(&self.org, &self.name, roles, now());
        self.identity.reload().expect("read");
        secret.expect("made")
    }

    async fn grant(&self, id: &str, secret: &str, scope: Option<&str>) -> Result<Token, Refusal> {
        let credentials = Credentials {
            id: id.to_owned(),
            secret: secret.to_owned(),
            scope: scope.map(str::to_owned),
        };
        self.provider.grant(credentials, ISSUER, HERE).await
    }

    async fn token(&self, secret: &Secret) -> String {
        let granted = self.grant("cli-ci", secret.as_str(), None).await;
        granted.expect("granted").text
    }

    fn verify(&self, token: &str) -> Result<Arc<Caller>, Failure> {
        self.identity.verifier().verify(token, || HERE)
    }

    fn refusal(&self, token: &str) -> String {
        let failure = self.verify(token).expect_err("refused");
        assert_eq!(failure.reason, Reason::Unauthenticated);
        failure.message
    }

    fn kids(&self) -> Vec<String> {
        let set = self.identity.key_set();
        let keys = set["keys"].as_array().expect("a list");
        let kids = keys
            .iter()
            .map(|k| k["kid"].as_str().expect("an id").to_owned());
        kids.collect()
    }
}

fn role(role: Role, app: Option<&str>) -> Granted {
    Granted {
        role,
        app: app.map(str::to_owned),
    }
}

#[tokio::test]
async fn an_account_gets_tokens_for_its_secret_and_for_nothing_else() {
    let rig = rig();
    let secret = rig.create(vec![role(Role::AppViewer, None)]);
    for id in ["cli-ci", "ci@svcacc.dodil.io"] {
        let token = rig.grant(id, secret.as_str(), None).await.expect("granted");
        assert_eq!(token.scopes, Role::AppViewer.scopes());
        let caller = rig.verify(&token.text).expect("good");
        assert!(caller.owns(&rig.org) && caller.subject == "cli-ci");
        assert!(caller.grants.everywhere.has(Scope::GetApp));
        assert!(!caller.grants.everywhere.has(Scope::DeployApp));
    }
    let less = rig
        .grant("cli-ci", secret.as_str(), Some("openid GetApp"))
        .await;
    let less = less.expect("granted");
    assert_eq!(less.scopes, Scopes::of(&[Scope::GetApp]));
    let caller = rig.verify(&less.text).expect("good");
    assert_eq!(caller.grants.everywhere, less.scopes);
    for scope in ["DeployApp", "ignite.app-developer", "Fly"] {
        let refused = rig.grant("cli-ci", secret.as_str(), Some(scope)).await;
        assert!(matches!(refused, Err(Refusal::InvalidScope(_))), "{scope}");
    }
    for (id, secret) in [
        ("cli-ci", ""),
        ("cli-ci", "igs_x"),
        ("cli-cj", secret.as_str()),
        ("ci", secret.as_str()),
        ("", secret.as_str()),
    ] {
        let refused = rig.grant(id, secret, None).await;
        assert_eq!(refused.err(), Some(Refusal::InvalidClient), "{id}");
    }
}

#[tokio::test]
async fn what_is_withdrawn_is_refused_with_the_next_request() {
    let rig = rig();
    let secret = rig.create(vec![role(Role::AppDeveloper, None)]);
    let token = rig.token(&secret).await;
    let may_deploy = || {
        let caller = rig.verify(&token).expect("good");
        caller.grants.everywhere.has(Scope::DeployApp)
    };
    assert!(may_deploy());
    // A role.
    let developer = role(Role::AppDeveloper, None);
    let viewer = role(Role::AppViewer, None);
    for (granted, is_granted) in [(&viewer, true), (&developer, false)] {
        let set = rig.book.set_role(&rig.org, &rig.name, granted, is_granted);
        set.expect("set");
    }
    rig.identity.reload().expect("read");
    assert!(!may_deploy());
    // A secret, after which there is another one.
    let kept = Duration::from_secs(3600);
    let second = rig.book.rotate(&rig.org, &rig.name, Some(kept), now());
    let second = second.expect("rotated");
    rig.identity.reload().expect("read");
    rig.verify(&token).expect("kept");
    rig.token(&secret).await;
    let newer = rig.token(&second).await;
    rig.book
        .rotate(&rig.org, &rig.name, None, now())
        .expect("rotated");
    rig.identity.reload().expect("read");
    for token in [&token, &newer] {
        assert!(rig.refusal(token).contains("was revoked"));
    }
    let refused = rig.grant("cli-ci", second.as_str(), None).await;
    assert_eq!(refused.err(), Some(Refusal::InvalidClient));
    // An account, and one of the same name later.
    rig.book.delete(&rig.org, &rig.name).expect("deleted");
    let again = rig.create(Vec::new());
    assert!(rig.refusal(&newer).contains("was revoked"));
    let caller = rig.verify(&rig.token(&again).await).expect("good");
    assert_eq!(caller.grants.everywhere, Scopes::ALL, "by the setting");
}

#[tokio::test]
async fn a_role_for_one_app_opens_that_app() {
    let rig = rig();
    let secret = rig.create(vec![role(Role::AppDeveloper, Some("a"))]);
    let caller = rig.verify(&rig.token(&secret).await).expect("good");
    let id = |s: &str| s.parse().expect("an id");
    assert!(caller.may_invoke(&id("acme/a")));
    assert!(!caller.may_invoke(&id("acme/b")));
    assert!(!caller.may_invoke(&id("public/b")));
    assert!(caller.grants.everywhere.is_empty());
    for wrong in [
        role(Role::ModelUser, Some("a")),
        role(Role::AppViewer, Some("A b")),
    ] {
        let set = rig.book.set_role(&rig.org, &rig.name, &wrong, true);
        assert!(matches!(set, Err(Error::Role(_))));
    }
}

#[test]
fn an_account_is_one_organizations_and_its_name_is_taken_for_all() {
    let rig = rig();
    let secret = rig.create(Vec::new());
    let other: OrgName = "other".parse().expect("a name");
    assert!(rig.book.list(&other).expect("read").is_empty());
    for outcome in [
        rig.book.rotate(&other, &rig.name, None, now()).map(drop),
        rig.book.delete(&other, &rig.name),
    ] {
        assert!(matches!(outcome, Err(Error::Missing { .. })));
    }
    for org in [&rig.org, &other] {
        let made = rig.book.create(org, &rig.name, Vec::new(), now());
        assert!(matches!(made, Err(Error::Exists(..))));
    }
    // The secret is nowhere.
    for entry in std::fs::read_dir(rig.path().join("identity")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).expect("text");
            assert!(!text.contains(secret.as_str()), "{}", path.display());
        }
    }
}

#[test]
fn accounts_that_several_processes_make_at_once_are_all_there() {
    let rig = rig();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (book, org) = (&rig.book, &rig.org);
            let name = format!("ci-{n}").parse().expect("a name");
            scope.spawn(move || book.create(org, &name, Vec::new(), now()).expect("made"));
        }
    });
    assert_eq!(rig.book.list(&rig.org).expect("read").len(), 4);
}

#[tokio::test]
async fn a_rotation_keeps_tokens_good_and_a_revocation_does_not() {
    let rig = rig();
    let first = SigningKey::open(rig.path()).expect("a key");
    let mint = |key: &SigningKey| key.mint(&rig.org, Duration::from_secs(60), now());
    let before = mint(&first);
    rig.verify(&before).expect("good");
    let rotated = keyring::rotate(rig.path(), now()).expect("rotated");
    assert_eq!(rotated.previous, first.kid());
    rig.identity.reload().expect("read");
    let second = SigningKey::open(rig.path()).expect("a key");
    assert_eq!(second.kid(), rotated.kid);
    let after = mint(&second);
    rig.verify(&before).expect("the key before verifies");
    rig.verify(&after).expect("the new key verifies");
    let mut both = [first.kid().to_owned(), rotated.kid.clone()];
    both.sort();
    assert_eq!(rig.kids(), both);
    let listed = keyring::list(rig.path(), now()).expect("listed");
    assert!(listed[0].signs && listed[0].kid == rotated.kid && listed.len() == 2);

    assert!(keyring::revoke(rig.path(), first.kid(), now()).expect("revoked"));
    assert!(!keyring::revoke(rig.path(), "none", now()).expect("none"));
    rig.identity.reload().expect("read");
    assert!(rig.refusal(&before).contains("not known here"));
    rig.verify(&after).expect("the other key stays");
    // The one that signs is replaced first.
    assert!(keyring::revoke(rig.path(), second.kid(), now()).expect("revoked"));
    rig.identity.reload().expect("read");
    assert!(rig.refusal(&after).contains("not known here"));
    let third = SigningKey::open(rig.path()).expect("a key");
    rig.verify(&mint(&third)).expect("good");
    assert_eq!(rig.kids(), [third.kid()]);
}

/// A command that is killed between two steps of a rotation leaves something with which everything
/// goes on.
#[test]
fn half_a_rotation_harms_nothing() {
    let rig = rig();
    let first = SigningKey::open(rig.path()).expect("a key");
    let old = std::fs::read(rig.path().join("identity/signing-key.pem")).expect("the key");
    keyring::rotate(rig.path(), now()).expect("rotated");
    // As if the last step had not happened.
    let path = rig.path().join("identity/signing-key.pem");
    crate::atomic_file::write(&path, &old).expect("written");
    rig.identity.reload().expect("read");
    let token = first.mint(&rig.org, Duration::from_secs(60), now());
    rig.verify(&token).expect("good");
    let again = keyring::rotate(rig.path(), now()).expect("rotated");
    assert_eq!(again.previous, first.kid());
    rig.identity.reload().expect("read");
    rig.verify(&token).expect("good");
}

#[test]
fn files_that_cannot_be_read_change_nothing() {
    let rig = rig();
    let key = SigningKey::open(rig.path()).expect("a key");
    let token = key.mint(&rig.org, Duration::from_secs(60), now());
    let accounts = rig.path().join("identity/accounts.json");
    for text in ["", "{", r#"{"format":2,"accounts":[]}"#] {
        std::fs::write(&accounts, text).expect("written");
        let refused = rig.identity.reload().expect_err("refused").to_string();
        assert!(refused.contains("accounts.json"), "{refused}");
        rig.verify(&token).expect("as before");
        let list = rig.book.create(&rig.org, &rig.name, Vec::new(), now());
        assert!(list.is_err(), "nothing is written over what cannot be read");
    }
}

#[tokio::test]
async fn a_server_that_runs_confirms_a_change() {
    let rig = rig();
    let tasks = rig
        .identity
        .keep_up_to_date(&crate::vitals::Vitals::default());
    let _tasks = tasks.expect("started");
    let (dir, org, name) = (rig.path().to_owned(), rig.org.clone(), rig.name.clone());
    let aside = tokio::task::spawn_blocking(move || {
        Book::of(&dir)
            .create(&org, &name, Vec::new(), now())
            .expect("made")
    });
    let secret = aside.await.expect("no panic");
    // Without a reload of ours.
    rig.token(&secret).await;
    let dir = rig.path().to_owned();
    std::fs::write(rig.path().join("identity/verify"), "").expect("written");
    let told = tokio::task::spawn_blocking(move || crate::identity::notify(&dir));
    let refused = told.await.expect("no panic").expect_err("not taken");
    assert!(refused.to_string().contains("does not use it"), "{refused}");
}
