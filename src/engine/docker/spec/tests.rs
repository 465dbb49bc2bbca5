//! The configuration that every container is made with.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    engine::{
        Limits, Owner,
        docker::{Profile, Seal, names::container_name},
    },
    model::{
        InstanceId,
        files::{Content, Files, Home},
    },
};

/// An engine without peculiarities.
const TRAITS: EngineTraits = EngineTraits {
    cpus: 2,
    publish: None,
    log: LogDriver::EngineDefault,
    limits: Limits::ALL,
    has_init: false,
    is_podman: false,
};

pub(in crate::engine::docker) fn spec() -> ContainerSpec {
    ContainerSpec {
        owner: Owner {
            app: "acme/my.app".parse().expect("valid"),
            replica: "0123456789".parse().expect("valid"),
            version: 3,
            config_hash: "abc".into(),
        },
        image: "sha256:1234".into(),
        overlay: None,
        env: [
            ("A".to_owned(), "b=c".to_owned()),
            ("PORT".to_owned(), "1".to_owned()),
        ]
        .into(),
        files: Files {
            read_only: true,
            always_read_only: false,
            home: Home {
                path: "/home/app".into(),
                content: Some(Content::Nothing),
            },
            scratch_bytes: 1 << 20,
            kept_since: None,
        },
        capabilities: Default::default(),
        egress: Default::default(),
        init: false,
        host_label: "a-acme".into(),
        ports: vec![8080, 9090],
        memory_bytes: 64 << 20,
        cpu_millicores: 500,
        pids: 100,
    }
}

fn config() -> Config {
    Config::new(
        InstanceId::from_random(7),
        "/data".into(),
        Seal::new(&[7; 32]),
    )
}

#[test]
fn limits_and_hardening_are_in_every_container() {
    let traits = EngineTraits {
        log: LogDriver::JsonFile,
        ..TRAITS
    };
    let body = container(&config(), traits, &spec());
    assert_eq!(
        body.env,
        Some(vec![
            "A=b=c".to_owned(),
            "PORT=8080".to_owned(),
            "HOME=/home/app".to_owned()
        ])
    );
    assert_eq!(body.exposed_ports, None);
    let host = body.host_config.expect("host config");
    assert_eq!(
        (host.memory, host.memory_swap),
        (Some(64 << 20), Some(64 << 20))
    );
    assert_eq!(
        (host.nano_cpus, host.pids_limit),
        (Some(500_000_000), Some(100))
    );
    assert_eq!(host.network_mode.as_deref(), Some("ignite-000000000007"));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(
        host.extra_hosts,
        Some(vec![
            "host.docker.internal:host-gateway".to_owned(),
            "host.containers.internal:host-gateway".to_owned(),
        ])
    );
    assert_eq!(host.port_bindings, None);
    assert_eq!(host.readonly_rootfs, Some(true));
    let mut scratch: Vec<_> = host.tmpfs.expect("scratch").into_iter().collect();
    scratch.sort();
    assert_eq!(scratch[0].0, "/home/app");
    assert_eq!(scratch[1].0, "/tmp");
    assert!(scratch[1].1.contains("size=1048576"), "{scratch:?}");
    assert_eq!(host.mounts, None);
    let log = host.log_config.expect("log config");
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    assert_eq!(log.config.expect("options").len(), 2);
}

#[test]
fn a_profile_goes_to_apps_and_holders_as_the_engine_takes_it() {
    let mut config = config();
    let mut traits = EngineTraits {
        log: LogDriver::JsonFile,
        ..TRAITS
    };
    config.seccomp = Some(Profile::shipped("/data/seccomp.json".into()));
    for body in [
        container(&config, traits, &spec()),
        holder(&config, traits, &spec(), "holder"),
        within(&config, traits, &spec(), &ContainerId("h".into())),
    ] {
        let options = body.host_config.and_then(|h| h.security_opt);
        let options = options.expect("some");
        assert_eq!(options[0], "no-new-privileges");
        assert!(options[1].starts_with("seccomp={\""), "{options:?}");
    }
    traits.is_podman = true;
    let host = container(&config, traits, &spec()).host_config;
    let options = host.and_then(|h| h.security_opt).expect("some");
    assert_eq!(options[1], "seccomp=/data/seccomp.json");
}

#[test]
fn limits_of_processes_go_to_all_and_a_runtime_to_what_is_run() {
    let mut config = config();
    let traits = EngineTraits {
        log: LogDriver::JsonFile,
        ..TRAITS
    };
    let host = container(&config, traits, &spec())
        .host_config
        .expect("one");
    assert_eq!((host.ulimits, host.runtime), (None, None));
    config.ulimits = "nofile=10:20".parse().expect("good");
    config.runtime = Some("runsc".to_owned());
    let host = container(&config, traits, &spec())
        .host_config
        .expect("one");
    let limit = ResourcesUlimits {
        name: Some("nofile".to_owned()),
        soft: Some(10),
        hard: Some(20),
    };
    assert_eq!(host.ulimits, Some(vec![limit]));
    assert_eq!(host.runtime.as_deref(), Some("runsc"));
    let keeper = holder(&config, traits, &spec(), "holder").host_config;
    assert_eq!(keeper.and_then(|h| h.runtime), None);
}

#[test]
fn every_port_is_published_where_addresses_are_not_routable() {
    let traits = EngineTraits {
        publish: Some(Ipv4Addr::LOCALHOST.into()),
        ..TRAITS
    };
    let body = container(&config(), traits, &spec());
    let host = body.host_config.expect("host config");
    assert_eq!(host.log_config, None);
    let bindings = host.port_bindings.expect("bindings");
    for port in ["8080/tcp", "9090/tcp"] {
        let bound = bindings[port].as_ref().expect(port);
        assert_eq!(bound[0].host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(bound[0].host_port.as_deref(), Some("0"));
    }
}

#[test]
fn a_home_of_the_image_keeps_its_files_and_a_writable_root_needs_no_places() {
    let traits = TRAITS;
    let mut spec = spec();
    spec.files.home.content = Some(Content::Small);
    let host = container(&config(), traits, &spec).host_config;
    let host = host.expect("host config");
    let paths: Vec<_> = host.tmpfs.expect("scratch").into_keys().collect();
    assert_eq!(paths, ["/tmp"]);
    let mounts = host.mounts.expect("a volume");
    assert_eq!(mounts[0].target.as_deref(), Some("/home/app"));
    assert_eq!(mounts[0].source, None, "it goes with the container");

    spec.files.kept_since = Some(5);
    let host = container(&config(), traits, &spec).host_config;
    let volume = host.and_then(|h| h.mounts).expect("a volume").remove(0);
    assert_eq!(
        volume.source.as_deref(),
        Some("ignite-000000000007_acme_my.app_5")
    );
    let labels = volume.volume_options.and_then(|o| o.labels);
    let whose = labels::kept_for(&labels.expect("labels"));
    assert_eq!(whose, Some((spec.owner.app.clone(), 5)));

    spec.files.kept_since = None;
    spec.files.read_only = false;
    let body = container(&config(), traits, &spec);
    assert!(
        !body
            .env
            .expect("some")
            .iter()
            .any(|e| e.starts_with("HOME"))
    );
    let host = body.host_config.expect("host config");
    assert_eq!((host.tmpfs, host.mounts), (None, None));
    assert_eq!(host.readonly_rootfs, Some(false));
}

#[test]
fn a_home_with_too_much_to_copy_is_changed_in_place_and_what_is_around_it_is_read_only() {
    let traits = TRAITS;
    let mut spec = spec();
    spec.files.home.content = Some(Content::Large {
        read_only: vec!["/etc".into(), "/app".into()],
    });
    let host_of = |spec: &ContainerSpec| {
        let body = container(&config(), traits, spec);
        body.host_config.expect("host config")
    };
    let host = host_of(&spec);
    assert_eq!((host.readonly_rootfs, host.mounts), (Some(false), None));
    let guarded = host.readonly_paths.expect("some");
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/etc", "/app"] {
        assert!(guarded.iter().any(|p| p == path), "{guarded:?}");
    }
    let scratch: Vec<_> = host.tmpfs.expect("scratch").into_keys().collect();
    assert_eq!(scratch, ["/tmp"]);

    // Nothing is mounted over the home, wherever it is.
    spec.files.home.path = "/tmp/home".into();
    assert_eq!(host_of(&spec).tmpfs, Some(HashMap::new()));
    // A persistent volume takes a copy once, and nothing else changes.
    spec.files.kept_since = Some(5);
    let host = host_of(&spec);
    assert_eq!(
        (host.readonly_rootfs, host.readonly_paths),
        (Some(true), None)
    );
    assert_eq!(host.mounts.expect("a volume").len(), 1);
}

#[test]
fn capabilities_are_those_that_were_asked_for_and_never_the_holders() {
    let traits = TRAITS;
    let mut spec = spec();
    let host = container(&config(), traits, &spec).host_config;
    assert_eq!(host.and_then(|h| h.cap_add), None);
    spec.capabilities = "SETUID,CHOWN".parse().expect("good");
    let host = container(&config(), traits, &spec)
        .host_config
        .expect("one");
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(
        host.cap_add,
        Some(vec!["CHOWN".to_owned(), "SETUID".to_owned()])
    );
    let keeper = holder(&config(), traits, &spec, "holder").host_config;
    assert_eq!(keeper.and_then(|h| h.cap_add), None);
}

#[test]
fn an_init_is_asked_for_where_the_engine_has_one_and_takes_no_process_from_the_app() {
    let mut traits = EngineTraits {
        cpus: 2,
        publish: None,
        log: LogDriver::EngineDefault,
        limits: Limits::ALL,
        has_init: true,
        is_podman: false,
    };
    let mut spec = spec();
    let of = |traits, spec: &ContainerSpec| {
        let host = container(&config(), traits, spec).host_config;
        host.map(|host| (host.init, host.pids_limit))
            .expect("host config")
    };
    assert_eq!(of(traits, &spec), (Some(false), Some(100)));
    spec.init = true;
    assert_eq!(of(traits, &spec), (Some(true), Some(101)));
    let keeper = holder(&config(), traits, &spec, "holder");
    assert_eq!(keeper.host_config.and_then(|h| h.init), Some(false));
    traits.has_init = false;
    assert_eq!(of(traits, &spec), (Some(false), Some(100)));
}

#[test]
fn cpu_is_clamped_to_the_host() {
    assert_eq!(nano_cpus(250, 2), 250_000_000);
    assert_eq!(nano_cpus(4000, 2), 2_000_000_000);
    assert_eq!(nano_cpus(u32::MAX, u32::MAX), 4_294_967_295_000_000);
}

#[test]
fn a_name_tells_instance_app_and_replica() {
    let name = container_name(&config().instance, &spec().owner);
    assert_eq!(name, "ignite-000000000007-acme-my.app-0123456789");
}

#[test]
fn a_limit_that_the_engine_cannot_set_is_left_out_for_the_holder_too() {
    let none = Limits {
        memory: false,
        swap: false,
        cpu: false,
        pids: false,
    };
    let of = |limits: Limits| {
        let traits = EngineTraits { limits, ..TRAITS };
        let bodies = [
            container(&config(), traits, &spec()),
            holder(&config(), traits, &spec(), "holder"),
        ];
        bodies.map(|body| {
            let host = body.host_config.expect("host config");
            (
                host.memory,
                host.memory_swap,
                host.nano_cpus,
                host.pids_limit,
            )
        })
    };
    // Unset, Podman would limit processes on its own, and start nothing where it cannot.
    assert_eq!(of(none), [(None, None, None, Some(0)); 2]);
    let only_memory = Limits {
        memory: true,
        ..none
    };
    let [app, keeper] = of(only_memory);
    assert_eq!(app, (Some(64 << 20), None, None, Some(0)));
    assert_eq!(keeper, (Some(HOLDER_MEMORY), None, None, Some(0)));
    let [app, keeper] = of(Limits::ALL);
    assert_eq!(app.3, Some(100));
    assert_eq!(keeper.3, Some(HOLDER_PIDS));
    assert!(app.1 == app.0 && app.2.is_some());
}
