//! From a [`ContainerSpec`] to the engine's container configuration: a pure function.
//!
//! Everything that the container contract promises or forbids is visible in [`container`]:
//! limits, hardening, network, log bounds.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    PortBinding, RestartPolicy, RestartPolicyNameEnum,
};

use super::{Config, ContainerId, ContainerSpec, Owner, info::LogDriver, labels};
use crate::model::{AppId, InstanceId, files::TMP};

/// What of this engine goes into every container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Cores of the engine's host.
    pub(super) cpus: u32,
    /// Where ports are published; `None` when containers are reached directly.
    pub(super) publish: Option<IpAddr>,
    /// Who writes the container's log.
    pub(super) log: LogDriver,
    /// The engine has an init to put before the program.
    pub(super) has_init: bool,
    /// It is Podman.
    pub(super) is_podman: bool,
}

/// Under some 6 MB engines refuse a limit; the holder itself needs a page or two.
const HOLDER_MEMORY: i64 = 16 << 20;
/// One process; some room for how engines start it.
const HOLDER_PIDS: i64 = 16;

/// The name of the network of an instance.
pub(super) fn network_name(config: &Config) -> String {
    let [open, isolated] = network_names(&config.instance);
    match config.egress {
        None => open,
        Some(_) => isolated,
    }
}

/// The names that the network of an instance may have had: without rules, and behind rules. A
/// network keeps the bridge that it was made with, so that one never turns into the other.
pub(super) fn network_names(instance: &InstanceId) -> [String; 2] {
    [
        format!("ignite-{instance}"),
        format!("ignite-{instance}-isolated"),
    ]
}

/// The name of a container: for people, and under the seal of its labels; nothing is ever found by it.
pub(super) fn container_name(instance: &InstanceId, owner: &Owner) -> String {
    format!(
        "ignite-{instance}-{}-{}-{}",
        owner.app.org, owner.app.name, owner.replica
    )
}

/// The name of a container that keeps another one's network.
pub(super) fn holder_name(instance: &InstanceId, owner: &Owner) -> String {
    format!("{}-net", container_name(instance, owner))
}

/// A name for a container that is never run; no two have the same.
pub(super) fn look_name(instance: &InstanceId) -> String {
    let which = ulid::Ulid::generate().to_string().to_ascii_lowercase();
    format!("ignite-{instance}-look-{which}")
}

/// The name of an app's volume: for people, and the same for every replica.
pub(super) fn volume_name(instance: &InstanceId, app: &AppId, since: i64) -> String {
    // Names of organizations and apps have no underscore.
    format!("ignite-{instance}_{}_{}_{since}", app.org, app.name)
}

/// CPU limit in billionths of a core, at most the host's cores: the engine refuses more.
pub(super) fn nano_cpus(millicores: u32, host_cpus: u32) -> i64 {
    i64::from(millicores.min(host_cpus.saturating_mul(1000))) * 1_000_000
}

/// A container port as the engine's API names it.
pub(super) fn port_key(port: u16) -> String {
    format!("{port}/tcp")
}

/// The whole configuration of one replica's container.
pub(super) fn container(
    config: &Config,
    place: Place,
    spec: &ContainerSpec,
) -> ContainerCreateBody {
    let memory = i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX);
    let init = spec.init && place.has_init;
    let bindings = place.publish.map(|ip| {
        // Port 0 lets the engine choose; two replicas never ask for the same one.
        let binding = PortBinding {
            host_ip: Some(ip.to_string()),
            host_port: Some("0".into()),
        };
        spec.ports
            .iter()
            .map(|port| (port_key(*port), Some(vec![binding.clone()])))
            .collect()
    });
    let host = HostConfig {
        memory: Some(memory),
        // Memory and swap together: equal to memory means no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(nano_cpus(spec.cpu_millicores, place.cpus)),
        // The init is one process more than the app's.
        pids_limit: Some(i64::from(spec.pids) + i64::from(init)),
        network_mode: Some(network_name(config)),
        port_bindings: bindings,
        extra_hosts: Some(vec!["host.docker.internal:host-gateway".into()]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: (!spec.capabilities.is_empty())
            .then(|| spec.capabilities.names().map(str::to_owned).collect()),
        security_opt: Some(security(config, place)),
        // A non-root user may bind port 80; the namespace is the container's own.
        sysctls: Some(HashMap::from([(
            "net.ipv4.ip_unprivileged_port_start".into(),
            "0".into(),
        )])),
        init: Some(init),
        // `ignite` decides when something runs; the engine must not.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: log_config(config, place.log),
        readonly_rootfs: Some(spec.files.read_only && spec.files.changed_in_place().is_none()),
        readonly_paths: spec.files.changed_in_place().map(read_only_paths),
        tmpfs: tmpfs(spec),
        mounts: home(config, spec).map(|mount| vec![mount]),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        env: Some(environment(spec)),
        exposed_ports: place
            .publish
            .map(|_| spec.ports.iter().map(|p| port_key(*p)).collect()),
        labels: Some(labels::with_egress(
            labels::of_container(config, &spec.owner),
            &spec.egress,
        )),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// The configuration of a container in the network of a holder: ports, addresses of hosts and
/// the settings of the network's kernel are the holder's.
pub(super) fn within(
    config: &Config,
    place: Place,
    spec: &ContainerSpec,
    holder: &ContainerId,
) -> ContainerCreateBody {
    let mut body = container(config, place, spec);
    body.exposed_ports = None;
    body.labels = Some(labels::of_prepared(config, &spec.owner, holder));
    if let Some(host) = &mut body.host_config {
        host.network_mode = Some(format!("container:{}", holder.0));
        host.port_bindings = None;
        host.extra_hosts = None;
        host.sysctls = None;
    }
    body
}

/// The configuration of a holder for a container: its network and nothing else of it.
pub(super) fn holder(
    config: &Config,
    place: Place,
    spec: &ContainerSpec,
    image: &str,
) -> ContainerCreateBody {
    let mut body = container(config, place, spec);
    body.image = Some(image.to_owned());
    body.entrypoint = Some(vec![super::holder::PROGRAM.to_owned()]);
    body.env = None;
    // Any but root; it has no files and asks for nothing.
    body.user = Some("65534:65534".to_owned());
    let labels = labels::of_holder(config, &spec.owner);
    body.labels = Some(labels::with_egress(labels, &spec.egress));
    if let Some(host) = &mut body.host_config {
        host.init = Some(false);
        host.cap_add = None;
        host.memory = Some(HOLDER_MEMORY);
        host.memory_swap = Some(HOLDER_MEMORY);
        host.pids_limit = Some(HOLDER_PIDS);
        host.readonly_rootfs = Some(true);
        host.tmpfs = None;
        host.mounts = None;
    }
    body
}

/// What holds the processes of a container back.
fn security(config: &Config, place: Place) -> Vec<String> {
    let profile = config.seccomp.as_ref().map(|profile| {
        // Docker is sent the profile, Podman where it is on the engine's host.
        match place.is_podman {
            true => format!("seccomp={}", profile.file().display()),
            false => format!("seccomp={}", profile.as_str()),
        }
    });
    let ours = ["no-new-privileges".to_owned()];
    ours.into_iter().chain(profile).collect()
}

/// What the engine mounts read-only by itself, and the given paths.
fn read_only_paths(of_image: &[String]) -> Vec<String> {
    let kernels = [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ];
    let kernels = kernels.map(str::to_owned).into_iter();
    kernels.chain(of_image.iter().cloned()).collect()
}

fn environment(spec: &ContainerSpec) -> Vec<String> {
    let has_home = spec.files.has_home();
    let ours = |key: &str| key == "PORT" || (key == "HOME" && has_home);
    let given = spec
        .env
        .iter()
        .filter(|(key, _)| !ours(key))
        .map(|(key, value)| format!("{key}={value}"));
    let port = spec.ports.first().map(|port| format!("PORT={port}"));
    // Said even where the image says the same: engines look it up in the image's users.
    let home = has_home.then(|| format!("HOME={}", spec.files.home.path));
    given.chain(port).chain(home).collect()
}

/// What is writable in memory: `/tmp`, and a home directory that the image does not have. Programs
/// may be run from there, as they may from a writable root file system.
fn tmpfs(spec: &ContainerSpec) -> Option<HashMap<String, String>> {
    let files = &spec.files;
    let options = format!(
        "rw,exec,nosuid,nodev,mode=1777,size={}",
        files.scratch_bytes
    );
    let path = files.home.path.as_str();
    let in_memory = !files.home.is_in_image() && files.kept_since.is_none();
    let home = in_memory.then_some(path);
    // Nothing may be mounted over a home that is changed in place, and twice in one place.
    let has_own_tmp = match files.changed_in_place() {
        Some(_) => path == TMP || path.starts_with("/tmp/"),
        None => path == TMP,
    };
    let tmp = (!has_own_tmp).then_some(TMP);
    let paths = home.into_iter().chain(tmp);
    (files.read_only).then(|| {
        paths
            .map(|path| (path.to_owned(), options.clone()))
            .collect()
    })
}

/// The app's volume as its home; or, for a home with few files of the image, an anonymous one which
/// goes with the container. The engine copies those files into a volume that is empty.
pub(super) fn home(config: &Config, spec: &ContainerSpec) -> Option<Mount> {
    let files = &spec.files;
    let app = &spec.owner.app;
    let kept = files.kept_since;
    let of_container =
        files.read_only && files.home.is_in_image() && files.changed_in_place().is_none();
    (kept.is_some() || of_container).then(|| Mount {
        source: kept.map(|since| volume_name(&config.instance, app, since)),
        target: Some(files.home.path.clone()),
        typ: Some(MountType::VOLUME),
        volume_options: Some(MountVolumeOptions {
            labels: Some(match kept {
                Some(since) => labels::of_volume(config, app, since),
                None => labels::of_instance(config),
            }),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    })
}

fn log_config(config: &Config, driver: LogDriver) -> Option<HostConfigLogConfig> {
    let size = (
        "max-size".to_owned(),
        config.log_max_bytes.max(1).to_string(),
    );
    let (name, options) = match driver {
        LogDriver::JsonFile => (
            "json-file",
            vec![
                size,
                (
                    "max-file".to_owned(),
                    config.log_max_files.max(1).to_string(),
                ),
            ],
        ),
        // Podman's file driver keeps one file and knows no count.
        LogDriver::K8sFile => ("k8s-file", vec![size]),
        LogDriver::EngineDefault => return None,
    };
    Some(HostConfigLogConfig {
        typ: Some(name.into()),
        config: Some(options.into_iter().collect()),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::engine::docker::{Profile, Seal};
    use crate::model::files::{Content, Files, Home};

    pub(in super::super) fn spec() -> ContainerSpec {
        ContainerSpec {
            owner: Owner {
                app: "acme/my.app".parse().expect("valid"),
                replica: "0123456789".parse().expect("valid"),
                version: 3,
                config_hash: "abc".into(),
            },
            image: "sha256:1234".into(),
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
        let place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::JsonFile,
            has_init: false,
            is_podman: false,
        };
        let body = container(&config(), place, &spec());
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
            Some(vec!["host.docker.internal:host-gateway".to_owned()])
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
        let mut place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::JsonFile,
            has_init: false,
            is_podman: false,
        };
        config.seccomp = Some(Profile::shipped("/data/seccomp.json".into()));
        for body in [
            container(&config, place, &spec()),
            holder(&config, place, &spec(), "holder"),
            within(&config, place, &spec(), &ContainerId("h".into())),
        ] {
            let options = body.host_config.and_then(|h| h.security_opt);
            let options = options.expect("some");
            assert_eq!(options[0], "no-new-privileges");
            assert!(options[1].starts_with("seccomp={\""), "{options:?}");
        }
        place.is_podman = true;
        let host = container(&config, place, &spec()).host_config;
        let options = host.and_then(|h| h.security_opt).expect("some");
        assert_eq!(options[1], "seccomp=/data/seccomp.json");
    }

    #[test]
    fn every_port_is_published_where_addresses_are_not_routable() {
        let place = Place {
            cpus: 2,
            publish: Some(Ipv4Addr::LOCALHOST.into()),
            log: LogDriver::EngineDefault,
            has_init: false,
            is_podman: false,
        };
        let body = container(&config(), place, &spec());
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
        let place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::EngineDefault,
            has_init: false,
            is_podman: false,
        };
        let mut spec = spec();
        spec.files.home.content = Some(Content::Small);
        let host = container(&config(), place, &spec).host_config;
        let host = host.expect("host config");
        let paths: Vec<_> = host.tmpfs.expect("scratch").into_keys().collect();
        assert_eq!(paths, ["/tmp"]);
        let mounts = host.mounts.expect("a volume");
        assert_eq!(mounts[0].target.as_deref(), Some("/home/app"));
        assert_eq!(mounts[0].source, None, "it goes with the container");

        spec.files.kept_since = Some(5);
        let host = container(&config(), place, &spec).host_config;
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
        let body = container(&config(), place, &spec);
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
        let place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::EngineDefault,
            has_init: false,
            is_podman: false,
        };
        let mut spec = spec();
        spec.files.home.content = Some(Content::Large {
            read_only: vec!["/etc".into(), "/app".into()],
        });
        let host_of = |spec: &ContainerSpec| {
            let body = container(&config(), place, spec);
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
        // A volume that is kept takes a copy once, and nothing else changes.
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
        let place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::EngineDefault,
            has_init: false,
            is_podman: false,
        };
        let mut spec = spec();
        let host = container(&config(), place, &spec).host_config;
        assert_eq!(host.and_then(|h| h.cap_add), None);
        spec.capabilities = "SETUID,CHOWN".parse().expect("good");
        let host = container(&config(), place, &spec).host_config.expect("one");
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(
            host.cap_add,
            Some(vec!["CHOWN".to_owned(), "SETUID".to_owned()])
        );
        let keeper = holder(&config(), place, &spec, "holder").host_config;
        assert_eq!(keeper.and_then(|h| h.cap_add), None);
    }

    #[test]
    fn an_init_is_asked_for_where_the_engine_has_one_and_takes_no_process_from_the_app() {
        let mut place = Place {
            cpus: 2,
            publish: None,
            log: LogDriver::EngineDefault,
            has_init: true,
            is_podman: false,
        };
        let mut spec = spec();
        let of = |place, spec: &ContainerSpec| {
            let host = container(&config(), place, spec).host_config;
            host.map(|host| (host.init, host.pids_limit))
                .expect("host config")
        };
        assert_eq!(of(place, &spec), (Some(false), Some(100)));
        spec.init = true;
        assert_eq!(of(place, &spec), (Some(true), Some(101)));
        let keeper = holder(&config(), place, &spec, "holder");
        assert_eq!(keeper.host_config.and_then(|h| h.init), Some(false));
        place.has_init = false;
        assert_eq!(of(place, &spec), (Some(false), Some(100)));
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
}
