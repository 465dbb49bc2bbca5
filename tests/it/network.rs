//! What apps can reach under each `trust`: this host, private networks, the public network, each
//! other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, ENGINE_LIMIT, instance, read},
    cleanup,
    contract::Via,
    engine, eventually_ok,
    ignite::{Builder, Ignite},
    probe,
    public_host::{HOST, PUBLIC, PUBLIC_PORT, PublicHost, id_of, run, run_ok, service},
    registry::Registry,
};

/// How long the app waits for a connection: on one machine connecting takes far less, and a dropped
/// packet would never be answered.
const PATIENCE_MS: u32 = 3000;
/// A server, and the name of the table that its rules are in.
struct Isolated {
    ignite: Ignite,
    table: String,
}

impl Isolated {
    async fn start(builder: Builder) -> Self {
        let ignite = builder.start().await;
        let table = format!("ignite_{}", id_of(ignite.data_dir()));
        Self { ignite, table }
    }

    fn has_table(&self) -> bool {
        run("nft", &["list", "table", "inet", &self.table])
            .status
            .success()
    }
}

/// The outcome of a connection from the app to an address.
async fn dial(ignite: &Ignite, app: &App, ip: Ipv4Addr, port: u16) -> String {
    let path = format!("/dial/{}/{PATIENCE_MS}", SocketAddr::from((ip, port)));
    app.get_ok(ignite, &path).await.text().await
}

/// The app's route to this host, as its kernel has it.
async fn gateway(ignite: &Ignite, app: &App) -> Ipv4Addr {
    let routes = read(ignite, app, "/proc/net/route").await.expect("routes");
    let fields = routes
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = fields.into_iter().find(|f| f.get(1) == Some(&"00000000"));
    let gateway = u32::from_str_radix(default.expect("a default route")[2], 16);
    Ipv4Addr::from(gateway.expect("hexadecimal").to_le_bytes())
}

/// The address under which the app reaches this host.
async fn docker_internal(ignite: &Ignite, app: &App) -> Ipv4Addr {
    let hosts = read(ignite, app, "/etc/hosts").await.expect("hosts");
    let line = hosts
        .lines()
        .find(|line| line.contains("host.docker.internal"));
    let address = line.expect("its line").split_whitespace().next();
    address.expect("an address").parse().expect("IPv4")
}

/// The app's own address.
async fn own_address(ignite: &Ignite, app: &App) -> Ipv4Addr {
    let hosts = read(ignite, app, "/etc/hosts").await.expect("hosts");
    let last = hosts.lines().rfind(|line| !line.trim().is_empty());
    let address = last.expect("lines").split_whitespace().next();
    address.expect("an address").parse().expect("IPv4")
}

/// The app's Ethernet address.
async fn mac(ignite: &Ignite, app: &App) -> String {
    let mac = read(ignite, app, "/sys/class/net/eth0/address").await;
    mac.expect("an address").trim().to_owned()
}

/// The Ethernet address under which this host knows the app.
async fn known_by(ignite: &Ignite, app: &App) -> String {
    let address = own_address(ignite, app).await.to_string();
    let shown = run("ip", &["neigh", "show", &address]).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "lladdr");
    words.nth(1).unwrap_or_else(|| panic!("{shown}")).to_owned()
}

/// Changes what the app may reach, and waits until only replicas with the new rules are left.
async fn change(ignite: &Ignite, app: &App, list: &str) {
    let before = instance(&app.get_ok(ignite, "/").await);
    app.update(ignite, egress(list)).await;
    eventually_ok(ENGINE_LIMIT, || async {
        match instance(&app.get_ok(ignite, "/").await) {
            now if now != before => Ok(()),
            _ => Err("the replica of before still answers"),
        }
    })
    .await;
}

fn egress(list: &str) -> Value {
    json!({ "egress": list })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "looks at the kernel's rules, which needs root; scripts/test.sh runs it where it can"]
async fn a_sandbox_holds_nothing_back_sets_no_rules_and_says_so() {
    let server = Isolated::start(Ignite::builder()).await;
    let ignite = &server.ignite;
    let app = App::deploy(ignite, "acme/a", Value::Null).await;
    let port = service().await;
    let host = gateway(ignite, &app).await;
    assert_eq!(dial(ignite, &app, host, port).await, "connected");
    assert!(!server.has_table());
    let (status, answer) = app
        .api(ignite, Method::PATCH, "/config", egress("deny"))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(
        answer["warnings"].to_string().contains("sandbox"),
        "{answer}"
    );
    assert_eq!(dial(ignite, &app, host, port).await, "connected");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn apps_of_a_team_reach_the_public_network_and_of_this_host_what_is_listed() {
    let _public = PublicHost::start().await;
    let (open, closed) = (service().await, service().await);
    let mut server = Isolated::start(
        Ignite::builder()
            .arg("--trust=team")
            .arg("--ephemeral")
            .env("IGNITE_EGRESS_ALLOW", format!("0.0.0.0/0:{open}")),
    )
    .await;
    let ignite = &server.ignite;
    assert!(server.has_table());
    let app = App::deploy(ignite, "acme/a", Value::Null).await;
    let other = App::deploy(ignite, "acme/b", Value::Null).await;
    let (host, internal) = (
        gateway(ignite, &app).await,
        docker_internal(ignite, &app).await,
    );
    let neighbour = own_address(ignite, &other).await;

    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let outcomes = |of: App| async move {
        let mut all = Vec::new();
        for (ip, port) in [
            (host, closed),
            (internal, closed),
            (HOST, closed),
            (metadata, 80),
        ] {
            all.push(dial(ignite, &of, ip, port).await);
        }
        all
    };
    for depth in ["absent", "prepared", "paused"] {
        assert_eq!(outcomes(app.clone()).await, ["unreachable"; 4], "{depth}");
        for listed in [host, internal, HOST] {
            assert_eq!(
                dial(ignite, &app, listed, open).await,
                "connected",
                "{depth}"
            );
        }
        assert_eq!(
            dial(ignite, &app, PUBLIC, PUBLIC_PORT).await,
            "connected",
            "{depth}"
        );
        assert_ne!(
            dial(ignite, &app, neighbour, 80).await,
            "connected",
            "{depth}"
        );
        assert_eq!(
            known_by(ignite, &app).await,
            mac(ignite, &app).await,
            "{depth}"
        );
        for step in ["idle", "wait"] {
            let output = ignite.cli(&["app", step, "acme:a", "--depth", depth]);
            assert!(output.status.success(), "{output:?}");
        }
    }

    // The owner's setting can narrow this, never widen it.
    change(ignite, &app, "deny").await;
    assert_eq!(dial(ignite, &app, PUBLIC, PUBLIC_PORT).await, "unreachable");
    assert_eq!(dial(ignite, &app, host, open).await, "unreachable");
    let list = format!("{PUBLIC}:{PUBLIC_PORT},{HOST}:{open}");
    change(ignite, &app, &list).await;
    assert_eq!(dial(ignite, &app, PUBLIC, PUBLIC_PORT).await, "connected");
    assert_eq!(dial(ignite, &app, HOST, open).await, "connected");
    assert_eq!(
        dial(ignite, &app, PUBLIC, PUBLIC_PORT + 1).await,
        "unreachable"
    );
    assert_eq!(dial(ignite, &app, host, open).await, "unreachable");
    // HOST is in this public range but belongs to this host, so the range does not open it.
    change(ignite, &app, "203.0.113.0/24").await;
    assert_eq!(dial(ignite, &app, PUBLIC, PUBLIC_PORT).await, "connected");
    assert_eq!(dial(ignite, &app, HOST, closed).await, "unreachable");
    for (list, why) in [
        ("169.254.169.254:80", "not within"),
        ("db.internal:5432", "is a name"),
    ] {
        let (status, answer) = app
            .api(ignite, Method::PATCH, "/config", egress(list))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        let said = answer.to_string();
        assert!(said.contains("egress") && said.contains(why), "{said}");
    }
    let raw = json!({ "capabilities": ["NET_RAW"], "writableRootFs": true });
    let (status, answer) = app.api(ignite, Method::PATCH, "/config", raw).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");

    // Flushed rules are restored, for running and for future replicas.
    run_ok("nft", &["flush", "table", "inet", &server.table]);
    eventually_ok(ENGINE_LIMIT, || async {
        match dial(ignite, &app, HOST, closed).await.as_str() {
            "unreachable" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    eventually_ok(ENGINE_LIMIT, || async {
        if ignite.log().contains("removed or changed the rules") {
            Ok(())
        } else {
            Err("nothing in the log")
        }
    })
    .await;
    run_ok("nft", &["delete", "table", "inet", &server.table]);
    let late = App::deploy(ignite, "acme/late", egress("deny")).await;
    assert_eq!(dial(ignite, &late, HOST, closed).await, "unreachable");

    let ended = server.ignite.terminate(ENGINE_LIMIT).await;
    assert!(ended.success(), "{ended}");
    assert!(!server.has_table());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn apps_of_tenants_reach_what_they_ask_for_within_what_is_listed_also_after_a_crash() {
    let _public = PublicHost::start().await;
    let (open, closed) = (service().await, service().await);
    // Dropped after the server, whose containers use it.
    let _pulled;
    let mut server = Isolated::start(
        Ignite::builder()
            .arg("--trust=tenants")
            .env("IGNITE_BUILD_ALLOW", "127.0.0.0/8")
            .env("IGNITE_EGRESS_ALLOW", format!("{HOST}:{open}")),
    )
    .await;
    let ignite = &server.ignite;
    // Tenants use only images from registries. This one sets labels that no image may set.
    let registry = Registry::start("hidden").await;
    let labels = format!(
        "LABEL io.dodil.ignite.egress=allow of={}\nEXPOSE 80\nENTRYPOINT [\"/probe\"]",
        registry.address()
    );
    let image = registry.take(&probe::image_described(&labels).await).await;
    for org in ["acme", "other"] {
        let secret = json!({ "name": "reg", "value": registry.secret("hidden") });
        ignite
            .ok(Via::Json, "CreateSecret", &ignite.token(org), secret)
            .await;
    }
    let settings = |egress: &str| {
        let image = json!({ "prebuilt": { "imageRef": image }, "registrySecretRef": "reg" });
        json!({ "code": { "image": image }, "egress": egress })
    };
    let silent = App::deploy(ignite, "acme/silent", settings("")).await;
    let asking = App::deploy(ignite, "other/asking", settings("allow")).await;
    let before = [
        instance(&silent.get_ok(ignite, "/").await),
        instance(&asking.get_ok(ignite, "/").await),
    ];
    let running = &engine::running(ignite).await[0];
    let docker = engine::docker().await;
    let running = docker.inspect_container(running, None);
    let image = running.await.expect("it runs").image;
    _pulled = cleanup::Image(image.expect("an image"));
    let expected = [
        "unreachable",
        "unreachable",
        "connected",
        "unreachable",
        "unreachable",
    ];
    let outcomes = async |ignite: &Ignite| {
        [
            dial(ignite, &silent, HOST, open).await,
            dial(ignite, &silent, PUBLIC, PUBLIC_PORT).await,
            dial(ignite, &asking, HOST, open).await,
            dial(ignite, &asking, HOST, closed).await,
            dial(ignite, &asking, PUBLIC, PUBLIC_PORT).await,
        ]
    };
    assert_eq!(outcomes(ignite).await, expected);

    server.ignite.kill9();
    assert!(server.has_table(), "what runs on stays behind the rules");
    run_ok("nft", &["delete", "table", "inet", &server.table]);
    server.ignite.start().await;
    let ignite = &server.ignite;
    let after = [
        instance(&silent.get_ok(ignite, "/").await),
        instance(&asking.get_ok(ignite, "/").await),
    ];
    assert_eq!(after, before, "both were adopted");
    assert_eq!(outcomes(ignite).await, expected);

    // A prune also removes the rules of vanished instances.
    server.ignite.kill9();
    assert!(server.has_table());
    let output = server
        .ignite
        .cli(&["prune", "--gone", &id_of(server.ignite.data_dir())]);
    assert!(output.status.success(), "{output:?}");
    assert!(!server.has_table(), "{output:?}");
}

/// The output of `serve`, run by `wrapper`, under which it must not become ready.
fn refusal(wrapper: &[&str], docker_host: Option<&str>) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let _cleanup = cleanup::OnDrop(PathBuf::from(dir.path()));
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(env!("CARGO_BIN_EXE_ignite"))
        .args(["serve", "--trust=team", "--ephemeral"])
        .args(["--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::null());
    if let Some(host) = docker_host {
        command.env("DOCKER_HOST", host);
    }
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "it never was ready");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "gives up privileges, which needs root; scripts/test.sh runs it where it can"]
async fn a_server_that_cannot_hold_apps_back_does_not_start_and_says_why() {
    for (wrapper, host, why) in [
        (
            &[
                "setpriv",
                "--bounding-set=-net_admin",
                "--inh-caps=-net_admin",
            ][..],
            None,
            "CAP_NET_ADMIN",
        ),
        (&["unshare", "--net"], None, "network of its own"),
        (&["env"], Some("tcp://127.0.0.1:1"), "socket file"),
    ] {
        let said = refusal(wrapper, host);
        assert!(
            said.contains(why) && said.contains("--trust sandbox"),
            "{said}"
        );
    }
}
