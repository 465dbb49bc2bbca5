//! Who calls: what `login` and the configuration keep, and tokens of service accounts.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{Ran, fake::Fake, ignite, run};

/// An identity provider with one account, `cli-ci`, whose secret is `s3cret/+`.
struct Issuer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let issuer = Self {
            address: listener.local_addr().expect("an address"),
            asked: Arc::default(),
        };
        let asked = issuer.asked.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &asked);
            }
        });
        issuer
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

/// The token of organization acme that is given on the nth question.
fn token(n: usize) -> String {
    let claims = r#"{"organization":{"acme":{"id":"7"}}}"#;
    format!("a.{}.{n}", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn answer(stream: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let is_known = body.contains("client_id=cli%2Dci&client_secret=s3cret%2F%2B");
    let n = {
        let mut asked = asked.lock().expect("not poisoned");
        asked.push(format!("{path} {body}"));
        asked.len()
    };
    let (status, json) = if path != "/realms/dodil/protocol/openid-connect/token" {
        ("404 Not Found", "{}".to_owned())
    } else if is_known {
        let json = format!(
            r#"{{"access_token":"{}","expires_in":3600,"token_type":"Bearer"}}"#,
            token(n)
        );
        ("200 OK", json)
    } else {
        let json = r#"{"error":"invalid_client","error_description":"Invalid client credentials"}"#;
        ("401 Unauthorized", json.to_owned())
    };
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    )
}

fn with(home: &Path, args: &[&str], vars: &[(&str, &str)]) -> Ran {
    let mut command = ignite(home, args);
    command.envs(vars.iter().copied());
    run(command)
}

#[track_caller]
fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    ran
}

#[test]
fn a_service_account_is_kept_and_its_token_renewed_before_the_end() {
    let (fake, issuer) = (Fake::start(), Issuer::start());
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".config/unified-cli/config.yaml");
    let oidc = [("DODIL_OIDC_URL", issuer.url())];
    let oidc = oidc.each_ref().map(|(name, url)| (*name, url.as_str()));
    let (api, get) = (fake.url(), ["app", "get", "there"]);

    // A secret that is wrong is refused before anything is kept.
    let wrong = ["login", "cli-ci", "guess", "--api-endpoint", &api];
    let refused = with(home.path(), &wrong, &oidc);
    assert_eq!(
        (refused.code, refused.out.as_str()),
        (Some(3), ""),
        "{}",
        refused.err
    );
    assert!(
        refused.err.contains("Invalid client credentials"),
        "{}",
        refused.err
    );
    assert!(!refused.err.contains("guess"), "{}", refused.err);
    assert!(!file.exists());
    issuer.asked();

    let login = ["login", "cli-ci", "s3cret/+", "--api-endpoint", &api];
    let kept = ok(with(home.path(), &login, &oidc));
    assert!(kept.err.contains("history"), "{}", kept.err);
    assert_eq!(
        issuer.asked(),
        [
            "/realms/dodil/protocol/openid-connect/token grant_type=client_credentials&client_id=cli%2Dci&client_secret=s3cret%2F%2B"
        ]
    );
    let mode = std::fs::metadata(&file).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The endpoint, the issuer and the account are known now, and the organization by the token.
    ok(with(home.path(), &get, &[]));
    ok(with(home.path(), &get, &[]));
    assert_eq!(fake.calls(), ["GetApp acme/there", "GetApp acme/there"]);
    assert_eq!(issuer.asked().len(), 1, "the token is used until it ends");
    assert_eq!(fake.tokens(), [token(1), token(1)]);
    let cache = file.with_file_name("ignite-token.json");
    let mode = std::fs::metadata(&cache)
        .expect("kept")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // Once its time is over, the next command fetches another.
    let text = std::fs::read_to_string(&cache).expect("readable");
    let mut kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    kept["renew_at_secs"] = 1.into();
    std::fs::write(&cache, kept.to_string()).expect("written");
    ok(with(home.path(), &get, &[]));
    ok(with(home.path(), &get, &[]));
    assert_eq!(issuer.asked().len(), 1);

    // An organization's id is its name.
    ok(with(
        home.path(),
        &["app", "get", "there", "--org", "7"],
        &[],
    ));
    let calls = fake.calls();
    assert_eq!(calls.last().map(String::as_str), Some("GetApp acme/there"));

    let view = ok(with(home.path(), &["config", "view"], &[]));
    assert!(
        view.out.contains("ignite.service_account_id"),
        "{}",
        view.out
    );
    assert!(!view.out.contains("s3cret"), "{}", view.out);

    // A token takes its place.
    let login = ["login", "--token", "x.y.z", "--org", "acme"];
    ok(with(home.path(), &login, &[]));
    fake.tokens();
    ok(with(home.path(), &get, &[]));
    assert_eq!(fake.tokens(), ["x.y.z"]);
    let text = std::fs::read_to_string(&file).expect("readable");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn variables_name_a_service_account_and_nothing_is_written() {
    let (fake, issuer) = (Fake::start(), Issuer::start());
    let home = tempfile::tempdir().expect("a directory");
    let (api, url) = (fake.url(), issuer.url());
    let get = ["--api-endpoint", &api, "app", "get", "there"];
    for (id, secret) in [
        ("DODIL_SA_ID", "DODIL_SA_SECRET"),
        ("DODIL_SERVICE_ACCOUNT_ID", "DODIL_SERVICE_ACCOUNT_SECRET"),
    ] {
        let vars = [
            (id, "cli-ci"),
            (secret, "s3cret/+"),
            ("DODIL_OIDC_URL", &url),
        ];
        ok(with(home.path(), &get, &vars));
        assert_eq!(issuer.asked().len(), 1);
        assert_eq!(fake.tokens(), [token(1)]);
        let half = with(home.path(), &get, &vars[..1]);
        assert_eq!(half.code, Some(2), "{}", half.err);
        assert!(half.err.contains(secret), "{}", half.err);
    }
    let none = std::fs::read_dir(home.path()).expect("lists").next();
    assert!(none.is_none(), "{none:?}");

    // An issuer without a token endpoint, and none at all.
    let vars = [("DODIL_SA_ID", "cli-ci"), ("DODIL_SA_SECRET", "s")];
    for (issuer, code, word) in [
        (
            format!("{url}/realms/other"),
            1,
            "there is no token endpoint",
        ),
        (
            "http://127.0.0.1:1".to_owned(),
            9,
            "no token can be fetched",
        ),
        ("id.example".to_owned(), 2, "not a URL"),
    ] {
        let vars = [&vars[..], &[("DODIL_OIDC_URL", &issuer)]].concat();
        let refused = with(home.path(), &get, &vars);
        assert_eq!(refused.code, Some(code), "{issuer}: {}", refused.err);
        assert!(refused.err.contains(word), "{issuer}: {}", refused.err);
        assert!(refused.err.contains("DODIL_OIDC_URL"), "{}", refused.err);
    }
}

#[test]
fn a_configuration_of_the_clouds_client_is_read_in_its_sections() {
    let fake = Fake::start();
    let home = tempfile::tempdir().expect("a directory");
    let write = |dir: &str, text: &str| {
        let dir = home.path().join(dir);
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("config.yaml"), text).expect("written");
    };
    let list = |vars: &[(&str, &str)], args: &[&str]| {
        ok(with(home.path(), args, vars));
        (fake.calls(), fake.tokens())
    };
    let get = ["app", "get", "there"];
    let asked = |org: &str| vec![format!("GetApp {org}/there")];
    let endpoint = format!("api_endpoint: {}", fake.url());
    write(
        ".config/dodil",
        &format!("global:\n  {endpoint}\n  token: shared\n  org_id: acme\n"),
    );
    assert_eq!(list(&[], &get), (asked("acme"), vec!["shared".to_owned()]));
    let both =
        format!("global:\n  token: shared\n  org_id: all\nignite:\n  {endpoint}\n  token: own\n");
    write(".config/unified-cli", &both);
    assert_eq!(list(&[], &get), (asked("all"), vec!["own".to_owned()]));
    // Variables before the file, options before both, and an organization's name before its id.
    let vars = [
        ("IGNITE_TOKEN", "t"),
        ("IGNITE_ORG_ID", "env"),
        ("IGNITE_ORG_NAME", "name"),
    ];
    assert_eq!(list(&vars, &get), (asked("name"), vec!["t".to_owned()]));
    let vars = [("DODIL_TOKEN", "d"), ("IGNITE_TOKEN", "t")];
    let named = [&get[..], &["--org", "a", "--org-name", "b"]].concat();
    assert_eq!(list(&vars, &named), (asked("b"), vec!["d".to_owned()]));
    let token = [&["--token", "flag"], &get[..]].concat();
    assert_eq!(list(&vars, &token).1, ["flag"]);

    // What is set goes into this client's section, and only that one is unset.
    ok(with(home.path(), &["config", "set", "org_id", "mine"], &[]));
    assert_eq!(list(&[], &get).0, asked("mine"));
    let unset = ok(with(home.path(), &["config", "set", "org_id", ""], &[]));
    assert!(unset.err.contains("global.org_id"), "{}", unset.err);
    assert_eq!(list(&[], &get).0, asked("all"));
}

#[test]
fn dodil_is_a_name_for_the_same_program() {
    let fake = Fake::start();
    let home = tempfile::tempdir().expect("a directory");
    let link = home.path().join("dodil");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ignite"), &link).expect("a link");
    let dodil = |args: &[&str]| {
        let mut command = Command::new(&link);
        command.env_clear().env("HOME", home.path()).args(args);
        run({
            command.stdin(Stdio::null());
            command
        })
    };
    let api = fake.url();
    ok(dodil(&[
        "login",
        "--token",
        "x.y.z",
        "--api-endpoint",
        &api,
        "--org",
        "acme",
    ]));
    let list = ok(dodil(&["ignite", "app", "list"]));
    assert!(list.out.contains("acme/a"), "{}", list.out);
    ok(dodil(&[
        "ignite", "fn", "get", "there", "-o", "json", "--token", "other",
    ]));
    assert_eq!(fake.tokens().last().map(String::as_str), Some("other"));
    ok(dodil(&["ignite", "config", "set", "org_id", "more"]));
    let status = ok(dodil(&["auth", "status", "-o", "json"]));
    let status: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
    assert_eq!(status["organization"], "more");
    // A role of a service that is the cloud's.
    let grant = [
        "auth",
        "service-account",
        "grant-role",
        "cli-a",
        "k3-authorization-service",
        "k3.admin",
    ];
    let granted = ok(dodil(&grant));
    assert!(
        granted.err.contains("warning") && granted.err.contains("k3.admin"),
        "{}",
        granted.err
    );
    let elsewhere = dodil(&["k3", "bucket", "create", "b"]);
    assert_eq!(elsewhere.code, Some(2));
    assert!(elsewhere.err.contains("dodil k3") && elsewhere.err.contains("dodil ignite"));
    let version = ok(dodil(&["--version"]));
    assert!(version.out.starts_with("dodil "), "{}", version.out);
}
