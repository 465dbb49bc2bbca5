//! Which certificate a name gets, what stays when a file breaks, and what a client says to them.

use std::{fs, net::Ipv4Addr, path::Path};

use rcgen::KeyPair;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::*;

/// Writes a certificate for these names that signs itself, and its key.
fn write_pair(folder: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<_> = names.iter().map(|&n| n.to_owned()).collect();
    let params = rcgen::CertificateParams::new(names).expect("names");
    let certificate = params.self_signed(&key).expect("signed");
    let paths = (
        folder.join(format!("{file}.pem")),
        folder.join(format!("{file}.key")),
    );
    let certificate = pem::Pem::new("CERTIFICATE", certificate.der().to_vec());
    fs::write(&paths.0, pem::encode(&certificate)).expect("written");
    let key = pem::Pem::new("PRIVATE KEY", key.serialize_der());
    fs::write(&paths.1, pem::encode(&key)).expect("written");
    paths
}

fn exists(hosts: &'static [&str]) -> Exists {
    Arc::new(|host| hosts.contains(&host))
}

/// Asks for a name as a client that trusts these roots; an error when it does not like the answer.
async fn ask(
    tls: &Tls,
    roots: &[u8],
    server: &str,
    exists: &Exists,
) -> Option<Result<(), rustls::Error>> {
    let name = ServerName::try_from(server.to_owned()).expect("a name");
    let sni = matches!(name, ServerName::DnsName(_)).then_some(server);
    let here = Ipv4Addr::LOCALHOST.into();
    let config = tls.choose(sni, here, Protocol::Web, exists).await?;
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots) {
        store.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = ServerConnection::new(config).expect("a server");
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("in memory");
        server.read_tls(&mut &bytes[..]).expect("in memory");
        server.process_new_packets().expect("the client's part");
        bytes.clear();
        server.write_tls(&mut bytes).expect("in memory");
        client.read_tls(&mut &bytes[..]).expect("in memory");
        if let Err(error) = client.process_new_packets() {
            return Some(Err(error));
        }
    }
    Some(Ok(()))
}

fn local(data_dir: &Path) -> Tls {
    let own = Own {
        base_domain: "apps.example".to_owned(),
        names: vec![
            "box".to_owned(),
            "*.ci.example".to_owned(),
            "a b".to_owned(),
        ],
    };
    let config = Config {
        files: Vec::new(),
        local: Some(LocalConfig {
            data_dir: data_dir.to_owned(),
            own,
            hosts_cached: 2,
        }),
    };
    Tls::open(config).unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn the_local_authority_answers_for_hosts_that_exist_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = local(dir.path());
    let ca = fs::read(authority::certificate_path(dir.path())).expect("made");
    let hosts = exists(&["www.shop.example", "v1.web-acme.apps.example"]);
    for known in [
        "apps.example",
        "web-acme.apps.example",
        "localhost",
        "box",
        "r1.ci.example",
        "www.shop.example",
        "v1.web-acme.apps.example",
        "127.0.0.1",
        "::1",
    ] {
        let answer = ask(&tls, &ca, known, &hosts).await;
        assert_eq!(answer, Some(Ok(())), "{known}");
    }
    for stranger in [
        "shop.example",
        "v2.web-acme.apps.example",
        "a.r1.ci.example",
        "evil.localhost",
        "other",
    ] {
        let answer = ask(&tls, &ca, stranger, &hosts).await;
        assert_eq!(answer, None, "{stranger}");
    }
    // The authority is the same one after a restart, and when its certificate is lost.
    fs::remove_file(authority::certificate_path(dir.path())).expect("there");
    let again = local(dir.path());
    assert_eq!(ask(&again, &ca, "localhost", &hosts).await, Some(Ok(())));
    let new = fs::read(authority::certificate_path(dir.path())).expect("made again");
    assert_eq!(ask(&tls, &new, "localhost", &hosts).await, Some(Ok(())));
}

#[test]
fn the_authoritys_key_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    authority::Authority::open_or_create(dir.path()).expect("made");
    let key = dir.path().join("tls/ca-key.pem");
    let mode = fs::metadata(&key).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    let refused = authority::Authority::open_or_create(dir.path());
    let refused = refused.err().expect("others can read it").to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
}

#[tokio::test]
async fn a_name_gets_the_certificate_that_has_it_before_one_with_a_wildcard() {
    let dir = tempfile::tempdir().expect("a directory");
    let wide = write_pair(dir.path(), "wide", &["*.shop.example", "shop.example"]);
    let exact = write_pair(dir.path(), "exact", &["www.shop.example"]);
    let (wide_root, exact_root) = (wide.0.clone(), exact.0.clone());
    let config = Config {
        files: vec![wide, exact],
        local: None,
    };
    let tls = Tls::open(config).unwrap_or_else(|e| panic!("{e}"));
    let none = exists(&[]);
    let root = |path: &Path| fs::read(path).expect("there");
    for (name, file) in [
        ("www.shop.example", &exact_root),
        ("a.shop.example", &wide_root),
        ("shop.example", &wide_root),
    ] {
        let answer = ask(&tls, &root(file), name, &none).await;
        assert_eq!(answer, Some(Ok(())), "{name}");
    }
    assert_eq!(
        ask(&tls, &root(&wide_root), "else.example", &none).await,
        None
    );
    assert_eq!(tls.name_here().as_deref(), Some("shop.example"));
    // A client that asks for an address gets something, and says itself that it is not for it.
    let answer = ask(&tls, &root(&wide_root), "127.0.0.1", &none).await;
    assert!(matches!(answer, Some(Err(_))), "{answer:?}");
}

#[tokio::test]
async fn a_broken_file_leaves_the_certificate_of_before_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = write_pair(dir.path(), "a", &["one.example"]);
    let none = exists(&[]);
    let first = fs::read(&pair.0).expect("there");
    let config = Config {
        files: vec![pair.clone()],
        local: None,
    };
    let tls = Tls::open(config).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tls.reload(), "the certificates are as they were");
    for (broken, word) in [("", "no certificate"), ("-----BEGIN", "PEM")] {
        fs::write(&pair.0, broken).expect("written");
        assert!(tls.reload().contains(word), "{:?}", tls.warnings());
        assert!(tls.warnings()[0].contains(word), "{:?}", tls.warnings());
        assert_eq!(ask(&tls, &first, "one.example", &none).await, Some(Ok(())));
    }
    // The new certificate is there, its key not yet.
    let next = write_pair(dir.path(), "b", &["two.example"]);
    fs::copy(&next.0, &pair.0).expect("copied");
    assert!(tls.reload().contains("a.key"), "{:?}", tls.warnings());
    fs::copy(&next.1, &pair.1).expect("copied");
    assert!(tls.reload().contains("is new"));
    assert_eq!(tls.warnings(), [""; 0]);
    let second = fs::read(&pair.0).expect("there");
    assert_eq!(ask(&tls, &second, "two.example", &none).await, Some(Ok(())));
    assert_eq!(ask(&tls, &second, "one.example", &none).await, None);
}
