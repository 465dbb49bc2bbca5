//! Where the server is and who calls, from what is said where.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

fn context(global: Global, pairs: &[(&str, &str)]) -> Context {
    let vars = |name: &str| {
        pairs
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    };
    Context::new(global, &vars).unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn the_server_of_this_machine_is_found_and_overridden() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let home = ("HOME", "/nowhere");
    let none = context(Global::default(), &[home]);
    assert_eq!(none.endpoint.to_string(), "http://127.0.0.1:50051/");
    assert_eq!(none.org().expect("a name").as_str(), "local");

    let serving = Serving {
        http: "http://127.0.0.1:1".to_owned(),
        grpc: "http://127.0.0.1:2".to_owned(),
        pid: 1,
        default_org: "mine".to_owned(),
        plain: None,
        tls: None,
        engine: None,
    };
    serving.write(dir.path()).expect("written");
    let found = context(Global::default(), &[home, ("IGNITE_DATA_DIR", data)]);
    assert_eq!(found.endpoint.to_string(), "http://127.0.0.1:2/");
    assert_eq!(found.org().expect("a name").as_str(), "mine");
    assert!(matches!(&found.credential, Credential::None(why) if why.contains("none can be made")));
    SigningKey::open_or_create(dir.path()).expect("a key");
    let own = context(Global::default(), &[home, ("IGNITE_DATA_DIR", data)]);
    assert!(matches!(&own.credential, Credential::Own(own) if own == dir.path()));
    // What is in the environment for an app is not for who deploys it.
    let account = [("DODIL_SA_ID", "cli-a"), ("DODIL_SA_SECRET", "s")];
    let own = context(
        Global::default(),
        &[&[home, ("IGNITE_DATA_DIR", data)], &account[..]].concat(),
    );
    assert!(matches!(&own.credential, Credential::Own(_)));

    let global = Global {
        api_endpoint: Some("api.example.com".to_owned()),
        ..Default::default()
    };
    let pairs = [
        home,
        ("IGNITE_DATA_DIR", data),
        ("IGNITE_TOKEN", "t"),
        ("DODIL_TOKEN", "d"),
        ("IGNITE_ORG_NAME", "o"),
    ];
    let named = context(global, &pairs);
    assert!(matches!(&named.credential, Credential::Token(t) if t == "d"));
    assert_eq!(named.org().expect("a name").as_str(), "o");
    let elsewhere = |more: &[(&str, &str)]| {
        let global = Global {
            api_endpoint: Some("rpc.dodil.io:443".to_owned()),
            ..Default::default()
        };
        context(global, &[&[home, ("IGNITE_DATA_DIR", data)], more].concat()).credential
    };
    assert!(
        matches!(elsewhere(&[]), Credential::None(_)),
        "a token of this machine must not go elsewhere"
    );
    let other = [
        ("DODIL_SERVICE_ACCOUNT_ID", "cli-b"),
        ("DODIL_SERVICE_ACCOUNT_SECRET", "s"),
    ];
    for (more, id) in [(&[account, other].concat()[..], "cli-a"), (&other, "cli-b")] {
        let Credential::Account(found) = elsewhere(more) else {
            panic!("no account");
        };
        assert_eq!(found.id(), id);
        assert_eq!(found.issuer().host(), Some("id.dodil.io"));
    }
    Serving::remove(dir.path()).expect("removed");
    Serving::remove(dir.path()).expect("gone is success");
}

#[test]
fn a_server_of_this_machine_says_how_its_certificate_is_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let ca = dir.path().join("tls/ca.pem");
    let tls = crate::config::LocalTls {
        https: "127.0.0.1:3".parse().expect("an address"),
        ca: Some(ca.clone()),
        name: None,
    };
    let serving = Serving {
        http: "https://127.0.0.1:3".to_owned(),
        grpc: "https://127.0.0.1:2".to_owned(),
        pid: 1,
        default_org: "mine".to_owned(),
        plain: None,
        tls: Some(tls),
        engine: None,
    };
    serving.write(dir.path()).expect("written");
    let vars = [("HOME", "/nowhere"), ("IGNITE_DATA_DIR", data)];
    let to = |endpoint: Option<&str>, ca_cert: Option<&str>| {
        let global = Global {
            api_endpoint: endpoint.map(str::to_owned),
            ca_cert: ca_cert.map(PathBuf::from),
            ..Default::default()
        };
        let found = context(global, &vars);
        (found.endpoint.to_string(), found.roots)
    };
    let its = Roots::new(None, None, Some(&serving));
    for near in [None, Some("127.0.0.1:2"), Some("https://127.0.0.1:2")] {
        let (endpoint, roots) = to(near, None);
        assert_eq!(endpoint, "https://127.0.0.1:2/", "{near:?}");
        assert_eq!(roots, its, "{near:?}");
    }
    let (_, elsewhere) = to(Some("api.example.com"), None);
    assert_eq!(elsewhere, Roots::new(None, None, None));
    std::fs::create_dir(dir.path().join("tls")).expect("made");
    std::fs::write(&ca, "").expect("written");
    let (_, elsewhere) = to(Some("api.example.com"), None);
    assert_eq!(elsewhere, Roots::new(None, Some(dir.path()), None));
    let (_, given) = to(Some("api.example.com"), Some("/f"));
    assert_eq!(given, Roots::new(Some("/f".into()), None, None));
}

#[test]
fn a_token_is_taken_from_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let given = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let global = Global {
            token_file: Some(file.clone()),
            ..Default::default()
        };
        global.given_token()
    };
    assert_eq!(
        given(" t.o.k\n").expect("a token").as_deref(),
        Some("t.o.k")
    );
    assert!(matches!(given("\n"), Err(Error::Usage(why)) if why.contains("no token in it")));
}

#[test]
fn a_tokens_organization_is_used_when_none_is_named() {
    let payload = URL_SAFE_NO_PAD.encode(r#"{"organization":{"acme":{"id":"1"}}}"#);
    let token = format!("a.{payload}.c");
    let found = context(
        Global::default(),
        &[("HOME", "/nowhere"), ("IGNITE_TOKEN", &token)],
    );
    assert_eq!(found.org().expect("a name").as_str(), "acme");
    assert_eq!(org_of(&claims("nonsense")), None);
    // The cloud's configuration may have the organization's id.
    let by_id = |org: &str| {
        let pairs = [
            ("HOME", "/nowhere"),
            ("IGNITE_TOKEN", &token),
            ("IGNITE_ORG_ID", org),
        ];
        context(Global::default(), &pairs).org().expect("a name")
    };
    assert_eq!((by_id("1").as_str(), by_id("2").as_str()), ("acme", "2"));
}
