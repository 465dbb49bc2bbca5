//! TLS with real clients: which certificate they get, what they reach by it, and what happens to
//! those that do not get through.

use std::{fs, net::SocketAddr, process::Command};

use hyper::{Method, StatusCode};
use ignite::api::proto::v1::{ListAppsRequest, compute_service_client::ComputeServiceClient};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{
    signals::{Started, serve},
    support::{
        HANGS,
        app::App,
        cleanup, eventually_ok,
        ignite::{Builder, Ignite},
        tls::{self, Authority, Pair},
    },
};

const APP: &str = "web-acme.ignite.localhost";

/// A server with a local authority that serves plain HTTP as well, for the helpers of tests.
pub(crate) fn local() -> Builder {
    Ignite::builder()
        .args(["--tls", "local", "--https-addr", "127.0.0.1:0"])
        .env("IGNITE_HTTP_REDIRECT", "false")
}

pub(crate) fn https(ignite: &Ignite) -> SocketAddr {
    ignite.ready().https.expect("HTTPS listens")
}

pub(crate) async fn add_host(ignite: &Ignite, app: &App, host: &str) -> (StatusCode, Value) {
    let path = format!("/v1/ignite/local/app/{}/{}/hosts", app.org, app.name);
    let body = json!({ "host": host });
    let (status, _, answer) = ignite.api(Method::POST, &path, &app.token, &body).await;
    (status, answer)
}

/// What curl prints, trusting the local authority.
pub(crate) fn curl(
    ignite: &Ignite,
    host: &str,
    path: &str,
    more: &[&str],
) -> Result<String, String> {
    let (ca, port) = (ignite.data_dir().join("tls/ca.pem"), https(ignite).port());
    let resolve = format!("{host}:{port}:127.0.0.1");
    let url = format!("https://{host}:{port}{path}");
    let ca = ca.to_str().expect("text");
    let mut arguments = vec!["-sS", "--cacert", ca, "--resolve", &resolve, &url];
    arguments.extend(more);
    tls::run("curl", &arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_python_tonic_and_the_command_line_trust_the_local_authority() {
    let ignite = local().start().await;
    let app = App::deploy(&ignite, "acme/web", json!({ "allowUnauthenticated": true })).await;
    let long = format!("v1.{APP}");
    for host in ["www.shop.example", &long] {
        let (status, added) = add_host(&ignite, &app, host).await;
        assert_eq!(status, StatusCode::OK, "{added}");
        let url = format!("https://{host}:{}", https(&ignite).port());
        assert_eq!(added["host"]["url"], url);
    }
    let (status, answer) = app.api(&ignite, Method::GET, "", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let url = format!("https://{APP}:{}", https(&ignite).port());
    assert!(answer.to_string().contains(&url), "{answer}");

    // The API, and the app by each of its hosts, in both versions of HTTP.
    let ok = |host: &str, path: &str, more: &[&str]| {
        curl(&ignite, host, path, more).unwrap_or_else(|e| panic!("{host}{path}: {e}"))
    };
    assert_eq!(ok("localhost", "/healthz", &[]), "ok\n");
    let bearer = format!("authorization: Bearer {}", app.token);
    let apps = ok("ignite.localhost", "/v1/ignite/app/acme", &["-H", &bearer]);
    assert!(apps.contains("acme/web"), "{apps}");
    for host in [APP, "www.shop.example", &long] {
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let answer = ok(host, "/headers", &[flag, "-w", "%{http_version}"]);
            assert!(answer.ends_with(version), "{answer}");
            assert!(
                answer.contains(r#"["x-forwarded-proto","https"]"#),
                "{answer}"
            );
            assert!(answer.contains(&format!(r#"["host","{host}"#)), "{answer}");
        }
    }
    // A body in each direction that does not fit into one record.
    let body = ignite.data_dir().join("body");
    fs::write(&body, vec![b'x'; 3_000_000]).expect("written");
    let body = format!("@{}", body.display());
    for version in ["--http1.1", "--http2"] {
        let sent = ok(APP, "/sink", &[version, "--data-binary", &body]);
        assert!(sent.contains("3000000"), "{sent}");
        let received = ok(APP, "/bytes/3000000", &[version]);
        assert_eq!(received.len(), 3_000_000);
    }
    // Names that lead nowhere get no certificate.
    for stranger in [
        "shop.example",
        "v2.web-acme.ignite.localhost",
        "evil.localhost",
    ] {
        let refused = curl(&ignite, stranger, "/", &[]).expect_err("no certificate");
        assert!(refused.contains("unrecognized name"), "{refused}");
    }

    let ca = ignite.data_dir().join("tls/ca.pem");
    python(&ignite, ca.to_str().expect("text"));
    grpc(&ignite, &app, &fs::read(&ca).expect("there")).await;
    // Nothing has to be said to the command line on the same machine.
    let listed = ignite.cli(&["app", "list", "--org", "acme"]);
    let err = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{err}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("web"));
    let path = ignite.cli(&["ca", "path"]);
    assert_eq!(
        String::from_utf8_lossy(&path.stdout).trim(),
        ca.to_str().expect("text")
    );
}

/// With the system's folders of certificates being copies that only this command sees, `$1` is the
/// data directory of a server with a local authority, `$2` its URL, `$3` the binary.
const TRUST: &str = r#"
umask 077
mkdir "$1/certs" "$1/added"
cp -a /etc/ssl/certs/. "$1/certs/"
chmod 755 "$1/certs" "$1/added"
mount --bind "$1/certs" /etc/ssl/certs
mount --bind "$1/added" /usr/local/share/ca-certificates
if curl -sS "$2"; then echo "trusted without it"; exit 1; fi
"$3" ca trust --data-dir "$1" || exit 1
"$3" ca trust --data-dir "$1" || exit 1
curl -fsS "$2" || exit 1
find "$1/added" -type f ! -perm 644
mount -t tmpfs none /usr/local/share
if "$3" ca trust --data-dir "$1"; then echo "no store, and no error"; exit 1; fi
"#;

/// As root: what the command does to the system's store is seen by this command's processes alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a mount namespace of its own"]
async fn ca_trust_has_curl_trust_the_local_authority() {
    let ignite = local().start().await;
    let url = format!("https://localhost:{}/healthz", https(&ignite).port());
    let dir = ignite.data_dir().to_str().expect("text");
    let binary = env!("CARGO_BIN_EXE_ignite");
    let trusts = |more: &[&str]| {
        let mut command = Command::new(more[0]);
        for name in ["CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name);
        }
        command.args(&more[1..]).output().expect("it runs")
    };
    let shell = ["sh", "-uc", TRUST, "sh", dir, &url, binary];
    let output = trusts(&[&["unshare", "--mount"], &shell[..]].concat());
    let err = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "ok\n", "{err}");
    assert!(
        err.contains("this system now trusts the authority"),
        "{err}"
    );
    assert!(err.contains("store is not known here"), "{err}");
    assert!(err.contains("ca.pem"), "{err}");
    // Nobody else trusts it.
    let outside = trusts(&["curl", "-sS", &url]);
    assert_eq!(outside.status.code(), Some(60), "{outside:?}");
}

#[test]
fn ca_trust_by_an_ordinary_user_fails_with_what_to_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("text");
    let trust = [
        env!("CARGO_BIN_EXE_ignite"),
        "ca",
        "trust",
        "--data-dir",
        path,
    ];
    let mut command = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).expect("root may");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
    } else {
        Command::new("env")
    };
    let output = command.args(trust).output().expect("it runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    let copy = format!("sudo cp {path}/tls/ca.pem /usr/local/share/ca-certificates/");
    assert!(err.contains("only root may"), "{err}");
    assert!(err.contains(&copy), "{err}");
    assert!(err.contains("sudo update-ca-certificates"), "{err}");
}

/// Python's own TLS, to an address and to a name.
fn python(ignite: &Ignite, ca: &str) {
    const PROGRAM: &str = r#"
import socket, ssl, sys
ca, port, app = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=ca)
for name, host in (("127.0.0.1", "127.0.0.1"), (app, app)):
    tcp = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(tcp, server_hostname=name) as s:
        s.sendall(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while data := s.recv(65536):
            answer += data
        print(answer.split(b"\r\n")[0].decode(), s.version())
"#;
    let port = https(ignite).port().to_string();
    let printed = tls::run("python3", &["-c", PROGRAM, ca, &port, APP]);
    let printed = printed.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(printed, "HTTP/1.1 200 OK TLSv1.3\n".repeat(2));
}

async fn grpc(ignite: &Ignite, app: &App, ca: &[u8]) {
    let to = |scheme: &str| format!("{scheme}://{}", ignite.grpc_addr());
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(to("https")).expect("a URL");
    let endpoint = endpoint.tls_config(config).expect("TLS");
    let channel = endpoint.connect().await.unwrap_or_else(|e| panic!("{e:?}"));
    let mut client = ComputeServiceClient::new(channel);
    let mut request = tonic::Request::new(ListAppsRequest {
        organization_name: "acme".to_owned(),
        ..Default::default()
    });
    let bearer = format!("Bearer {}", app.token).parse().expect("ASCII");
    request.metadata_mut().insert("authorization", bearer);
    let apps = client.list_apps(request).await.expect("an answer");
    assert_eq!(apps.into_inner().apps.len(), 1);
    // Without TLS the port says what it wants.
    let mut tcp = TcpStream::connect(ignite.grpc_addr())
        .await
        .expect("listens");
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.expect("an end");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("this address speaks TLS"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_and_early_hints_go_through_tls_and_a_client_that_leaves_is_noticed() {
    let ignite = local().start().await;
    let settings = json!({
        "allowUnauthenticated": true,
        "ports": [80, 8081],
        "env": { "PROBE_RAW_PORT": "8081" },
    });
    let app = App::deploy(&ignite, "acme/web", settings).await;
    let ca = [tls::certificate(&ignite.data_dir().join("tls/ca.pem"))];
    let connect = async || tls::connect(https(&ignite), APP, &ca).await.expect("TLS");

    let mut stream = connect().await;
    let head = format!(
        "GET /upgrade HTTP/1.1\r\nhost: {APP}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.expect("a head"));
    }
    assert!(seen.starts_with(b"HTTP/1.1 101"), "{seen:?}");
    stream.write_all(b"hello").await.expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("an echo");
    assert_eq!(&back, b"hello");
    stream.shutdown().await.expect("closed");
    stream.read_to_end(&mut Vec::new()).await.expect("an end");

    let host = "web-acme-8081.ignite.localhost";
    let hints = tls::get(&mut connect().await, host, "/hints").await;
    let hints = hints.expect("an answer");
    let hint = |to: &str| format!("HTTP/1.1 103 Early Hints\r\nlink: <{to}>; rel=preload\r\n\r\n");
    let expected = format!("{}{}HTTP/1.1 200 OK\r\n", hint("/a.css"), hint("/b.js"));
    assert!(hints.starts_with(&expected), "{hints}");

    // Its body is not complete, so hyper reads no more; its end is seen all the same.
    let mut stream = connect().await;
    let head = format!("POST /sleep/600000 HTTP/1.1\r\nhost: {APP}\r\ncontent-length: 9\r\n\r\nx");
    stream.write_all(head.as_bytes()).await.expect("sent");
    app.wait_for(&ignite, "inFlight", 1).await;
    drop(stream);
    app.wait_for(&ignite, "inFlight", 0).await;
}

/// New connections all the time, each with a request; how many succeeded, and every failure.
async fn load(
    to: SocketAddr,
    name: &'static str,
    trusted: CertificateDer<'static>,
    stop: watch::Receiver<bool>,
) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !*stop.borrow() {
        let asked = async {
            let mut stream = tls::connect(to, name, std::slice::from_ref(&trusted)).await?;
            tls::get(&mut stream, "localhost", "/healthz").await
        };
        match asked.await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => answered += 1,
            Ok(other) => failed.push(other),
            Err(error) => failed.push(error.to_string()),
        }
    }
    (answered, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_load_without_a_failed_request() {
    const NAME: &str = "api.example.com";
    let parent = tempfile::tempdir().expect("a directory");
    let root = parent.path().canonicalize().expect("there");
    let dir = root.join("run");
    let _cleanup = cleanup::OnDrop(dir.clone());
    let authority = Authority::new();
    let pair = Pair::at(&root, "a");
    let first = pair.renew(NAME, Some(&authority));
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    let line = format!(
        "exec {} --tls-cert {certificate} --tls-key {key} --https-addr 127.0.0.1:0 --set tls_check_interval=365d",
        serve(&dir)
    );
    // Without a terminal a hangup reloads, wherever the test runs.
    let started = Started::by("setsid", &["sh", "-c", &line]);
    let to = started.ready.https.expect("HTTPS listens");
    let trusted = authority.certificate();
    let (end, stop) = watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(to, NAME, trusted.clone(), stop.clone())))
        .collect();
    let serves = async |wanted: &CertificateDer<'static>| {
        eventually_ok(HANGS, || async {
            let stream = tls::connect(to, NAME, std::slice::from_ref(&trusted)).await;
            let stream = stream.map_err(|e| e.to_string())?;
            let chain = stream.get_ref().1.peer_certificates();
            match chain.is_some_and(|chain| chain[0] == *wanted) {
                true => Ok(()),
                false => Err("another certificate".to_owned()),
            }
        })
        .await;
    };
    serves(&first).await;
    for _ in 0..5 {
        let next = Pair::at(&root, "next");
        let new = next.renew(NAME, Some(&authority));
        fs::rename(&next.certificate, &pair.certificate).expect("renamed");
        // In between, the key is not that of the certificate.
        started.signal(Signal::HUP);
        fs::rename(&next.key, &pair.key).expect("renamed");
        started.signal(Signal::HUP);
        serves(&new).await;
    }
    end.send_replace(true);
    for client in clients {
        let (answered, failed) = client.await.expect("no panic");
        assert_eq!(failed, [""; 0]);
        assert!(answered > 0);
    }
    assert!(started.log.text().contains("A new certificate is used"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_certificate_file_is_a_warning_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let pair = Pair::at(folder.path(), "a");
    let first = [pair.renew("api.example.com", None)];
    let file = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let ignite = Ignite::builder()
        .args([
            "--https-addr",
            "127.0.0.1:0",
            "--set",
            "tls_check_interval=20ms",
        ])
        .args(["--tls-cert", &file(&pair.certificate)])
        .args(["--tls-key", &file(&pair.key)])
        .start()
        .await;
    let warnings = async || {
        let ready = ignite.request(Method::GET, "/readyz").send().await;
        let ready = ready.expect("an answer").json().await;
        ready["warnings"].to_string()
    };
    assert_eq!(warnings().await, "null");
    fs::write(&pair.key, "nothing").expect("written");
    let word = pair.key.to_str().expect("text");
    eventually_ok(HANGS, || async {
        let now = warnings().await;
        if now.contains(word) { Ok(()) } else { Err(now) }
    })
    .await;
    assert!(ignite.log().contains(word));
    tls::connect(https(&ignite), "api.example.com", &first)
        .await
        .expect("as before");
    let second = [pair.renew("api.example.com", None)];
    eventually_ok(HANGS, || async {
        tls::connect(https(&ignite), "api.example.com", &second)
            .await
            .map(drop)
    })
    .await;
    assert_eq!(warnings().await, "null");
    // Nothing is served under a name that no certificate has.
    tls::connect(https(&ignite), "localhost", &second)
        .await
        .expect_err("no such name");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_lead_to_nothing_end_and_count_as_connections() {
    const MOST: usize = 12;
    let ignite = local()
        .env("IGNITE_MAX_CONNECTIONS", MOST.to_string())
        .env("IGNITE_MAX_CONNECTIONS_PER_IP", "0")
        .env("IGNITE_TLS_HANDSHAKES", "2")
        .env("IGNITE_TLS_HANDSHAKE_TIMEOUT", "2s")
        .start()
        .await;
    let to = https(&ignite);
    let say = async |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(to).await.expect("it listens");
        tcp.write_all(bytes).await.expect("sent");
        tcp
    };
    let rest = async |mut tcp: TcpStream| {
        let mut answer = Vec::new();
        // The end of the connection, or a reset.
        let _ = tcp.read_to_end(&mut answer).await;
        answer
    };
    // As many as may be open: some say nothing, some begin a handshake and leave it.
    let mut slow = Vec::new();
    for n in 0..MOST {
        let begun: &[u8] = if n % 2 == 0 {
            b""
        } else {
            b"\x16\x03\x01\x02\x00\x01"
        };
        slow.push(say(begun).await);
    }
    let over = rest(say(b"").await).await;
    assert_eq!(
        over,
        [21, 3, 3, 0, 2, 2, 80],
        "an alert says that there are too many"
    );
    for tcp in slow {
        rest(tcp).await;
    }
    // Others get through once these are gone.
    eventually_ok(HANGS, || async {
        curl(&ignite, "localhost", "/healthz", &[])
    })
    .await;
    let plain = rest(say(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await).await;
    let plain = String::from_utf8_lossy(&plain);
    assert!(plain.starts_with("HTTP/1.1 400"), "{plain}");
    assert!(plain.contains("https://"), "{plain}");
    for garbage in [
        &b"\0\0\0\0"[..],
        b"\x16\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x00\x02\x01\xff",
    ] {
        rest(say(garbage).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_leads_to_https_but_for_health_and_what_a_proxy_has_decrypted() {
    let ignite = Ignite::builder()
        .args(["--tls", "local", "--https-addr", "127.0.0.1:0"])
        .start()
        .await;
    let port = https(&ignite).port();
    for (method, host, path) in [
        (Method::GET, APP, "/a/b?c=d"),
        (Method::POST, APP, "/healthz"),
        (Method::POST, "localhost", "/v1/ignite/app/acme"),
        (Method::GET, "127.0.0.1", "/_app/acme/web/"),
    ] {
        let request = ignite.request(method, path).host(&format!("{host}:80"));
        let answer = request.send().await.expect("an answer");
        assert_eq!(
            answer.status,
            StatusCode::PERMANENT_REDIRECT,
            "{host}{path}"
        );
        let to = format!("https://{host}:{port}{path}");
        assert_eq!(answer.header("location"), Some(to.as_str()));
    }
    let get = async |path: &str, host: &str, scheme: &str| {
        let request = ignite.request(Method::GET, path).host(host);
        let request = request.header("x-forwarded-proto", scheme);
        request.send().await.expect("an answer").status
    };
    assert_eq!(get("/healthz", "localhost", "http").await, StatusCode::OK);
    // The engine may not have answered yet.
    let ready = get("/readyz", "127.0.0.1", "http").await;
    assert!(
        matches!(ready, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE),
        "{ready}"
    );
    let foreign = get("/", "evil.example", "http").await;
    assert_eq!(foreign, StatusCode::MISDIRECTED_REQUEST);
    let decrypted = get("/v1/ignite/app/acme", "localhost", "https").await;
    assert_eq!(decrypted, StatusCode::UNAUTHORIZED);
}
