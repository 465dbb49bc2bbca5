//! Apps that call apps by their URLs, from inside their containers.

use std::{fs, net::Ipv4Addr, process::Command};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::{
    python,
    support::{
        HANGS,
        app::{App, instance},
        base_image, eventually_ok,
        ignite::Ignite,
        tls::Pair,
        tokens::TOKEN,
    },
    tls,
};

/// What an app got for a request that it sent: the status, and the whole answer.
pub(crate) async fn fetch(ignite: &Ignite, app: &App, wanted: &str) -> (u16, String) {
    sent(ignite, app, "/fetch", wanted).await
}

async fn sent(ignite: &Ignite, app: &App, path: &str, wanted: &str) -> (u16, String) {
    let request = app.request(ignite, Method::POST, path);
    let answer = request.body(wanted.to_owned()).send().await;
    let answer = answer.expect("an answer");
    let (status, text) = (answer.status, answer.text().await);
    assert_eq!(status, StatusCode::OK, "{wanted}: {text}");
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("{text}")), text)
}

async fn variable(ignite: &Ignite, app: &App, name: &str) -> String {
    app.get_ok(ignite, &format!("/env/{name}"))
        .await
        .text()
        .await
}

pub(crate) fn open() -> Value {
    json!({ "allowUnauthenticated": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_sleeping_apps_wakes_by_their_urls() {
    let ignite = Ignite::builder().start().await;
    chain(&ignite).await;
}

/// Apps call each other by all of their URLs.
pub(crate) async fn chain(ignite: &Ignite) {
    let first = App::deploy(ignite, "acme/first", open()).await;
    let second = App::deploy(ignite, "acme/second", open()).await;
    let third = App::deploy(ignite, "acme/third", open()).await;
    for app in [&first, &second, &third] {
        app.wait_for(ignite, "runningReplicas", 0).await;
    }
    // The first fetches from the second, which fetches from the third.
    let wanted = "POST http://second-acme.ignite.internal/fetch\n\nGET http://third-acme.ignite.localhost/headers";
    let (status, text) = fetch(ignite, &first, wanted).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("acme/third"), "{text}");
    assert!(text.contains("x-ignite-cold-start: true"), "{text}");
    // Each asks anew here: the count goes only where an app passes it on.
    assert!(text.contains("[\"x-ignite-hops\",\"1\"]"), "{text}");

    let port = ignite.http_addr().port();
    let base = variable(ignite, &first, "IGNITE_URL").await;
    assert_eq!(base, "http://ignite.internal");
    let own = variable(ignite, &first, "IGNITE_APP_URL").await;
    assert_eq!(own, "http://first-acme.ignite.internal");
    for url in [
        format!("{base}/_app/acme/second/"),
        "http://SECOND-acme.ignite.internal/".to_owned(),
        // As `ignite app list` prints it.
        format!("http://second-acme.ignite.localhost:{port}/"),
    ] {
        let (status, text) = fetch(ignite, &first, &format!("GET {url}")).await;
        assert_eq!(status, 200, "{url}: {text}");
    }
    // What is not to be called without a token is not to be called by apps.
    let closed = App::deploy(ignite, "acme/closed", json!({})).await;
    let url = "http://closed-acme.ignite.internal/";
    let (status, _) = fetch(ignite, &first, &format!("GET {url}")).await;
    assert_eq!(status, 401);
    let bearer = format!("GET {url}\nauthorization: Bearer {}", closed.token);
    let (status, text) = fetch(ignite, &first, &bearer).await;
    assert_eq!(status, 200, "{text}");
    let (status, _) = fetch(ignite, &first, "GET http://nobody-acme.ignite.internal/").await;
    assert_eq!(status, 401);
    // An app's own variable stays.
    let own = json!({ "allowUnauthenticated": true, "env": { "IGNITE_URL": "mine" } });
    let named = App::deploy(ignite, "acme/named", own).await;
    assert_eq!(variable(ignite, &named, "IGNITE_URL").await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_gets_tokens_and_the_api_only_when_it_was_granted() {
    let ignite = Ignite::builder().start().await;
    let app = App::deploy(&ignite, "acme/caller", open()).await;
    let account = ignite.account("acme", "ci", &["--role", "ignite.app-developer"]);
    let form = "application/x-www-form-urlencoded";
    let ask = format!(
        "POST http://ignite.internal{TOKEN}\ncontent-type: {form}\n\n{}",
        account.form()
    );
    let (status, text) = fetch(&ignite, &app, &ask).await;
    assert_eq!(status, 200, "{text}");
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    let given: Value = serde_json::from_str(body).expect("JSON");
    let token = given["access_token"].as_str().expect("a token").to_owned();

    let get = format!(
        "GET http://ignite.internal/v1/ignite/app/acme/caller\nauthorization: Bearer {token}"
    );
    let (status, text) = fetch(&ignite, &app, &get).await;
    assert_eq!(status, 403, "{text}");
    assert!(text.contains("--api-access"), "{text}");
    let health = "GET http://ignite.internal/healthz";
    assert_eq!(fetch(&ignite, &app, health).await.0, 403);

    app.update(&ignite, json!({ "apiAccess": true })).await;
    let (status, text) = fetch(&ignite, &app, &get).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"apiAccess\":true"), "{text}");
    // A token is needed all the same, and another app has no part in it.
    let (bare, _) = get.split_once('\n').expect("two lines");
    assert_eq!(fetch(&ignite, &app, bare).await.0, 401);
    let other = App::deploy(&ignite, "acme/other", open()).await;
    assert_eq!(fetch(&ignite, &other, &get).await.0, 403);
    app.update(&ignite, json!({ "apiAccess": false })).await;
    assert_eq!(fetch(&ignite, &app, &get).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_calls_ends_once_the_count_is_passed_on() {
    let ignite = Ignite::builder().env("IGNITE_MAX_HOPS", "3").start().await;
    let app = App::deploy(&ignite, "acme/loop", open()).await;
    let url = "POST http://loop-acme.ignite.internal/fetch?again";
    let (status, text) = sent(&ignite, &app, "/fetch?again", url).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("HTTP/1.1 508"), "{text}");
    assert!(text.contains("x-ignite-error: LOOP_DETECTED"), "{text}");
    // From outside, the header only makes a client's own request end sooner.
    for (hops, expected) in [("2", StatusCode::OK), ("3", StatusCode::LOOP_DETECTED)] {
        let request = app.request(&ignite, Method::GET, "/");
        let answer = request.header("x-ignite-hops", hops).send().await;
        assert_eq!(answer.expect("an answer").status, expected, "{hops}");
    }
}

/// A name server that says of every name that it is at 203.0.113.7.
async fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            // One answer, and nothing beside it; its name is that at byte 12.
            answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            // Only a bare question has its end here.
            let end = 12 + answer[12..].iter().position(|b| *b == 0).expect("a name") + 5;
            answer.truncate(end);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 7]);
            let _ = socket.send_to(&answer, client).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_world_are_asked_elsewhere_and_hosts_of_apps_are_known() {
    let servers = format!("127.0.0.1:{}", name_server().await);
    let ignite = Ignite::builder()
        .env("IGNITE_APP_CALLS_DNS_SERVERS", &servers)
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/asks", open()).await;
    let added = ignite.cli(&["app", "host", "add", "acme:asks", "shop.example.com"]);
    assert!(added.status.success(), "{added:?}");
    let addresses = async |name: &str| {
        let answer = app.get_ok(&ignite, &format!("/resolve/{name}")).await;
        let answer: Value = answer.json().await;
        let found = answer["addresses"].as_array().expect("a list").clone();
        let found = found.iter().map(|a| a.as_str().expect("text").parse());
        found
            .collect::<Result<Vec<Ipv4Addr>, _>>()
            .expect("addresses")
    };
    let here = addresses("asks-acme.ignite.internal").await;
    assert_eq!(here.len(), 1);
    for name in [
        "shop.example.com",
        "ignite.internal",
        "a.b.ignite.localhost",
    ] {
        assert_eq!(addresses(name).await, here, "{name}");
    }
    assert_eq!(
        addresses("example.com").await,
        [Ipv4Addr::new(203, 0, 113, 7)]
    );
    let (status, text) = fetch(&ignite, &app, "GET http://shop.example.com/").await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_replicas_find_a_server_that_was_started_again() {
    let mut ignite = Ignite::builder()
        .env("IGNITE_KEEP_REPLICAS", "true")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/kept", open()).await;
    let wanted = "GET http://kept-acme.ignite.internal/";
    assert_eq!(fetch(&ignite, &app, wanted).await.0, 200);
    let before = instance(&app.get_ok(&ignite, "/").await);
    ignite.terminate(HANGS).await;
    ignite.start().await;
    eventually_ok(HANGS, || async {
        let request = app.request(&ignite, Method::POST, "/fetch");
        let answer = request
            .body(wanted)
            .send()
            .await
            .map_err(|e| e.to_string())?;
        match answer.status {
            StatusCode::OK => Ok(()),
            status => Err(format!("{status}")),
        }
    })
    .await;
    let after = instance(&app.get_ok(&ignite, "/").await);
    assert_eq!(before, after, "the container was kept");
    // Turned off, nothing is served, and no container is left that was promised it.
    ignite.terminate(HANGS).await;
}

/// A handler that evaluates the expression that it is sent.
const EVAL: &[u8] = b"
import os, ssl, urllib.request

AT = '/run/ignite/certificates'

def get(url, trust=None):
    try:
        with urllib.request.urlopen(url, timeout=170, context=trust) as answer:
            return f'{answer.status} {dict(answer.headers)} {answer.read().decode()}'
    except OSError as e:
        return str(e)

def read(path):
    with open(path) as f: return f.read()

def handler(payload, ctx):
    return str(eval(payload.decode()))
";

#[tokio::test(flavor = "multi_thread")]
async fn programs_in_apps_trust_the_local_authority() {
    let base = base_image("python").await;
    let ignite = tls::local().env("IGNITE_PYTHON_BASE", base).start().await;
    let python = python::create(&ignite, "python", EVAL).await;
    let (status, answer) = python.publish(&ignite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let callee = App::deploy(&ignite, "acme/callee", open()).await;
    callee.wait_for(&ignite, "runningReplicas", 0).await;
    let eval = async |expression: &str| {
        let answer = python::call(&ignite, &python, expression).await;
        assert_eq!(answer.status, StatusCode::OK, "{expression}");
        answer.text().await
    };
    let got = eval("get('https://callee-acme.ignite.internal/headers')").await;
    assert!(got.starts_with("200 "), "{got}");
    assert!(got.contains("'x-ignite-cold-start': 'true'"), "{got}");
    assert!(got.contains(r#"["x-forwarded-proto","https"]"#), "{got}");
    let port = tls::https(&ignite).port();
    for url in [
        "https://callee-acme.ignite.localhost/".to_owned(),
        // As `ignite app list` prints it.
        format!("https://callee-acme.ignite.localhost:{port}/"),
        "https://ignite.internal/_app/acme/callee/".to_owned(),
    ] {
        let got = eval(&format!("get('{url}')")).await;
        assert!(got.starts_with("200 "), "{url}: {got}");
    }
    // Whether an app exists, the certificate does not tell.
    let got = eval("get('https://nobody-acme.ignite.internal/')").await;
    assert!(got.contains("401"), "{got}");
    // It is these files that make it trusted.
    let bare =
        "get('https://callee-acme.ignite.internal/', ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))";
    let got = eval(bare).await;
    assert!(got.contains("CERTIFICATE_VERIFY_FAILED"), "{got}");

    let shown = eval("sorted(os.listdir(AT))").await;
    assert_eq!(shown, "['bundle.pem', 'ca.pem']");
    let authority = fs::read_to_string(ignite.data_dir().join("tls/ca.pem")).expect("there");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        lines(&eval("read(AT + '/ca.pem')").await),
        lines(&authority)
    );
    let bundle = eval("read(AT + '/bundle.pem')").await;
    assert!(lines(&bundle).ends_with(&lines(&authority)));
    let count = bundle.matches("BEGIN CERTIFICATE").count();
    assert!(count > 1, "this machine's roots are there, too: {count}");
    assert!(!bundle.contains("PRIVATE KEY"));
    let mount = "[l.split()[5] for l in open('/proc/self/mountinfo') if l.split()[4] == AT]";
    let mount = eval(mount).await;
    assert!(mount.starts_with("['ro,"), "{mount}");
    for (name, file) in VARIABLES {
        let value = eval(&format!("os.environ['{name}']")).await;
        assert_eq!(value, format!("/run/ignite/certificates/{file}"));
    }

    // An app's own variable stays, and the others come all the same.
    let own = json!({ "allowUnauthenticated": true, "env": { "SSL_CERT_FILE": "mine" } });
    let own = App::deploy(&ignite, "acme/own", own).await;
    assert_eq!(variable(&ignite, &own, "SSL_CERT_FILE").await, "mine");
    let node = variable(&ignite, &own, "NODE_EXTRA_CA_CERTS").await;
    assert_eq!(node, "/run/ignite/certificates/ca.pem");
}

/// The variables that name the files, and which.
const VARIABLES: [(&str, &str); 3] = [
    ("SSL_CERT_FILE", "bundle.pem"),
    ("REQUESTS_CA_BUNDLE", "bundle.pem"),
    ("NODE_EXTRA_CA_CERTS", "ca.pem"),
];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_local_authority_apps_are_shown_no_certificates() {
    let folder = tempfile::tempdir().expect("a directory");
    let pair = Pair::at(folder.path(), "a");
    pair.renew("api.example.com", None);
    let file = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let ignite = Ignite::builder()
        .args(["--https-addr", "127.0.0.1:0"])
        .args(["--tls-cert", &file(&pair.certificate)])
        .args(["--tls-key", &file(&pair.key)])
        .env("IGNITE_HTTP_REDIRECT", "false")
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/plain", open()).await;
    assert_eq!(
        variable(&ignite, &app, "IGNITE_URL").await,
        "http://ignite.internal"
    );
    for (name, _) in VARIABLES {
        let answer = app.get(&ignite, &format!("/env/{name}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}");
    }
    assert!(!ignite.data_dir().join("certificates").exists());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel"]
async fn behind_rules_apps_reach_these_ports_and_nothing_else_of_the_host() {
    let ignite = Ignite::builder().args(["--trust", "team"]).start().await;
    let deny = json!({ "allowUnauthenticated": true, "egress": "deny" });
    let app = App::deploy(&ignite, "acme/denied", deny).await;
    App::deploy(&ignite, "acme/callee", open()).await;
    let wanted = "GET http://callee-acme.ignite.internal/";
    let (status, text) = fetch(&ignite, &app, wanted).await;
    assert_eq!(status, 200, "{text}");
    let answer = app.get_ok(&ignite, "/resolve/ignite.internal").await;
    let answer: Value = answer.json().await;
    let gateway = answer["addresses"][0].as_str().expect("an address");
    let dial = async |port: u16| {
        let path = format!("/dial/{gateway}:{port}/3000");
        app.get_ok(&ignite, &path).await.text().await
    };
    for port in [53, 80] {
        assert_eq!(dial(port).await, "connected", "{port}");
    }
    let other = std::net::TcpListener::bind((gateway, 0)).expect("bound");
    let port = other.local_addr().expect("bound").port();
    assert_eq!(dial(port).await, "unreachable");
    // Names of the world are not asked for an app that reaches nothing.
    let answer = app.get(&ignite, "/resolve/example.com").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let rules = Command::new("nft").args(["list", "ruleset"]).output();
    let rules = String::from_utf8(rules.expect("nft").stdout).expect("text");
    assert!(
        rules.contains(&format!("ip daddr {gateway} udp dport 53")),
        "{rules}"
    );
}
