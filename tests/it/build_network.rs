//! What build steps can reach where the host is isolated: the public network, but neither this host
//! nor another build.

use std::{collections::HashMap, net::Ipv4Addr};

use bollard::{
    models::{ContainerSummary, NetworkCreateRequest},
    query_parameters::{ListContainersOptions, ListNetworksOptions},
};
use serde_json::{Value, json};

use crate::{
    support::{
        app::{App, ENGINE_LIMIT},
        contract::Via,
        engine::docker,
        eventually_ok,
        ignite::Ignite,
        probe,
        public_host::{HOST, PUBLIC, PUBLIC_PORT, PublicHost, id_of, run, run_ok, service},
    },
    trust::{bare, build_log, built, folder, refused, save, with},
};

/// The engine's networks for builds of a server, by name, with the gateway of each.
async fn networks(ignite: &Ignite) -> Vec<(String, Ipv4Addr)> {
    let label = format!("io.dodil.ignite.instance={}", id_of(ignite.data_dir()));
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let options = ListNetworksOptions {
        filters: Some(filters),
    };
    let found = docker().await.list_networks(Some(options)).await;
    let found = found.expect("the engine lists networks").into_iter();
    let mut found: Vec<(String, Ipv4Addr)> = found
        .filter_map(|network| {
            let ipam = network.ipam?.config?.into_iter().next()?;
            Some((network.name?, ipam.gateway?.parse().expect("IPv4")))
        })
        .filter(|(name, _)| name.contains("-build-"))
        .collect();
    found.sort();
    found
}

/// Builds a step that dials these addresses and returns the outcome of each.
async fn dialled(ignite: &Ignite, app: &App, to: &[(Ipv4Addr, u16)]) -> Vec<String> {
    let to: Vec<_> = to.iter().map(|(ip, port)| format!("{ip}:{port}")).collect();
    let args = to.iter().map(|to| format!(", \"{to}\""));
    // No two are alike, so none is taken from the cache.
    let nonce = ulid::Ulid::generate();
    let file = format!(
        "FROM {}\nENV NONCE={nonce}\nRUN [\"/probe\", \"dial\"{}]\n",
        probe::image().await,
        args.collect::<String>()
    );
    let draft = built(ignite, app, &file).await;
    let log = build_log(ignite, app, &draft).await;
    let outcome = |to: &String| {
        let (_, rest) = log.split_once(&format!("dial {to} ")).expect(&log);
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(0);
        rest[..end].to_owned()
    };
    to.iter().map(outcome).collect()
}

/// Starts a build of a step that runs until it is cancelled and returns its container.
async fn endless(ignite: &Ignite, app: &App) -> ContainerSummary {
    let unique = format!("{}-{}", id_of(ignite.data_dir()), app.name);
    let image = probe::image().await;
    let file = format!("FROM {image}\nENV NONCE={unique}\nENV PORT=80\nRUN [\"/probe\"]\n");
    save(ignite, app, folder(&file)).await;
    let compile = ignite.ok(Via::Json, "CompileDraft", &app.token, with(app, json!({})));
    compile.await;
    let docker = docker().await;
    eventually_ok(ENGINE_LIMIT, || async {
        let all = docker.list_containers(None::<ListContainersOptions>).await;
        let all = all.expect("the engine lists containers");
        for found in all {
            let id = found.id.clone().unwrap_or_default();
            let inspected = docker.inspect_container(&id, None).await;
            let env = inspected
                .ok()
                .and_then(|c| c.config?.env)
                .unwrap_or_default();
            if env.contains(&format!("NONCE={unique}")) {
                return Ok(found);
            }
        }
        Err("the step does not run yet")
    })
    .await
}

async fn cancel(ignite: &Ignite, app: &App) {
    let cancel = with(app, json!({}));
    ignite
        .ok(Via::Json, "CancelBuild", &app.token, cancel)
        .await;
}

fn has_table(ignite: &Ignite) -> bool {
    let table = format!("ignite_{}", id_of(ignite.data_dir()));
    run("nft", &["list", "table", "inet", &table])
        .status
        .success()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn steps_of_builds_reach_the_public_network_and_of_this_host_what_is_listed() {
    let _public = PublicHost::start().await;
    let (open, closed) = (service().await, service().await);
    let mut ignite = Ignite::builder()
        .arg("--trust=team")
        .env("IGNITE_BUILD_EGRESS", format!("public,0.0.0.0/0:{open}"))
        .start()
        .await;
    let app = bare(&ignite, "acme", "a").await;
    let public = (PUBLIC, PUBLIC_PORT);
    assert!(networks(&ignite).await.is_empty(), "made when it is needed");
    assert_eq!(dialled(&ignite, &app, &[public]).await, ["connected"]);
    let gateway = networks(&ignite).await[0].1;
    let service_of_apps = App::deploy(&ignite, "acme/serves", Value::Null).await;
    service_of_apps.get_ok(&ignite, "/").await;
    let neighbour = ignite.containers().await.remove(0);
    let neighbour = neighbour.network_settings.and_then(|s| s.networks);
    let neighbour = neighbour.and_then(|all| all.into_values().next()?.ip_address);
    let neighbour: Ipv4Addr = neighbour.expect("an address").parse().expect("IPv4");
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let to = [
        public,
        (gateway, closed),
        (HOST, closed),
        (metadata, 80),
        (Ipv4Addr::LOCALHOST, closed),
        (gateway, open),
        (HOST, open),
    ];
    let expected = [
        "connected",
        "unreachable",
        "unreachable",
        "unreachable",
        "refused",
        "connected",
        "connected",
    ];
    assert_eq!(dialled(&ignite, &app, &to).await, expected);
    let to_app = dialled(&ignite, &app, &[(neighbour, 80)]).await;
    assert_ne!(
        to_app,
        ["connected"],
        "an app is reached through the platform"
    );

    // Removed rules are back before a step runs, also after a crash.
    let table = format!("ignite_{}", id_of(ignite.data_dir()));
    run_ok("nft", &["delete", "table", "inet", &table]);
    assert_eq!(dialled(&ignite, &app, &to).await, expected);
    ignite.kill9();
    assert!(has_table(&ignite), "what may still run is behind the rules");
    run_ok("nft", &["delete", "table", "inet", &table]);
    ignite.start().await;
    assert_eq!(dialled(&ignite, &app, &to).await, expected);
    assert_eq!(
        networks(&ignite).await.len(),
        1,
        "it is lent again and again"
    );

    let ended = ignite.terminate(ENGINE_LIMIT).await;
    assert!(ended.success(), "{ended}");
    assert!(networks(&ignite).await.is_empty() && !has_table(&ignite));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn no_two_builds_share_a_network_and_none_stays_after_a_stop() {
    let mut ignite = Ignite::builder().arg("--trust=team").start().await;
    let (a, b) = (
        bare(&ignite, "acme", "a").await,
        bare(&ignite, "acme", "b").await,
    );
    let (one, two) = (endless(&ignite, &a).await, endless(&ignite, &b).await);
    let mode = |c: &ContainerSummary| c.host_config.as_ref()?.network_mode.clone();
    assert!(mode(&one).is_some() && mode(&one) != mode(&two));
    assert_eq!(networks(&ignite).await.len(), 2);
    cancel(&ignite, &a).await;
    // A network lent to a cancelled build is lent again once nothing is attached to it.
    let again = endless(&ignite, &bare(&ignite, "acme", "c").await).await;
    assert_ne!(mode(&again), mode(&two));
    let ended = ignite.terminate(ENGINE_LIMIT).await;
    assert!(ended.success(), "{ended}");
    assert!(networks(&ignite).await.is_empty(), "{}", ignite.log());

    // After a crash the next start or a prune removes them.
    ignite.start().await;
    endless(&ignite, &a).await;
    ignite.kill9();
    assert_eq!(networks(&ignite).await.len(), 1);
    let pruned = || async {
        let output = ignite.cli(&["prune", "--gone", &id_of(ignite.data_dir())]);
        let left = networks(&ignite).await;
        // The engine is still stopping the step.
        if output.status.success() && left.is_empty() && !has_table(&ignite) {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    };
    eventually_ok(ENGINE_LIMIT, pruned).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets rules in the kernel, which needs root; scripts/test.sh runs it where it can"]
async fn a_build_whose_network_cannot_be_made_has_none_and_says_so() {
    let _public = PublicHost::start().await;
    let ignite = Ignite::builder().arg("--trust=team").start().await;
    let app = bare(&ignite, "acme", "a").await;
    let id = id_of(ignite.data_dir());
    // Something else holds the bridge's name.
    let bridge = format!("igb{}00", &id[2..]);
    let name = format!("{id}-in-the-way");
    let option = ("com.docker.network.bridge.name".to_owned(), bridge);
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        options: Some([option].into()),
        ..NetworkCreateRequest::default()
    };
    let docker = docker().await;
    docker.create_network(request).await.expect("made");
    let outcome = dialled(&ignite, &app, &[(PUBLIC, PUBLIC_PORT)]).await;
    let image = probe::image().await;
    let why = refused(
        &ignite,
        &app,
        &format!("FROM {image}\nRUN [\"/probe\", \"x\"]\n"),
    )
    .await;
    docker.remove_network(&name).await.expect("removed");
    assert_eq!(outcome, ["unreachable"]);
    assert!(why.contains("have no network"), "{why}");
    let log = ignite.log();
    assert_eq!(
        log.matches("Steps of builds run without a network").count(),
        1
    );
    // It is created as soon as that is possible.
    let outcome = dialled(&ignite, &app, &[(PUBLIC, PUBLIC_PORT)]).await;
    assert_eq!(outcome, ["connected"]);
}
