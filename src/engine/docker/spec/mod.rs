//! From a [`ContainerSpec`] to the engine's container configuration: a pure function.
//!
//! [`container`] shows everything that the container contract promises or forbids: limits,
//! hardening, network, log bounds.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    PortBinding, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::{
    Config, ContainerId, ContainerSpec,
    info::{EngineTraits, LogDriver},
    labels,
    names::{FROM_CONTAINERS, network_name, volume_name},
};
use crate::model::files::TMP;

/// Engines refuse a limit under some 6 MB; the holder itself needs a page or two.
const HOLDER_MEMORY: i64 = 16 << 20;
/// Directories of programs, settings and data that are no links in usual images; those that an image
/// lacks are passed over.
const USUAL: [&str; 6] = ["/etc", "/mnt", "/opt", "/srv", "/usr", "/var"];
/// One process, and spare ones for the way engines start it.
const HOLDER_PIDS: i64 = 16;

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
    traits: EngineTraits,
    spec: &ContainerSpec,
) -> ContainerCreateBody {
    let memory = i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX);
    let (limits, init) = (traits.limits, spec.init && traits.has_init);
    let bindings = traits.publish.map(|ip| {
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
        memory: limits.memory.then_some(memory),
        // Memory and swap together: equal to memory means no swap.
        memory_swap: (limits.memory && limits.swap).then_some(memory),
        nano_cpus: limits
            .cpu
            .then(|| nano_cpus(spec.cpu_millicores, traits.cpus)),
        // The init is one process beside the app's. 0 is none; unset, Podman would set its own.
        pids_limit: Some(if limits.pids {
            i64::from(spec.pids) + i64::from(init)
        } else {
            0
        }),
        network_mode: Some(network_name(config)),
        port_bindings: bindings,
        // Whatever the engine calls its host by itself, both names work on every engine.
        extra_hosts: Some(
            FROM_CONTAINERS
                .map(|name| format!("{name}:host-gateway"))
                .into(),
        ),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: (!spec.capabilities.is_empty())
            .then(|| spec.capabilities.names().map(str::to_owned).collect()),
        security_opt: Some(security(config, traits)),
        ulimits: ulimits(config),
        runtime: config.runtime.clone(),
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
        log_config: log_config(config, traits.log),
        readonly_rootfs: Some(
            spec.files.read_only
                && spec.files.changed_in_place().is_none()
                && spec.overlay.is_none(),
        ),
        readonly_paths: protected(spec).map(|paths| read_only_paths(&paths)),
        tmpfs: tmpfs(spec),
        mounts: home(config, spec).map(|mount| vec![mount]),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        env: Some(environment(spec)),
        exposed_ports: traits
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

/// The configuration of a container in the network of a holder, which has the ports, the addresses
/// of hosts and the kernel settings of the network.
pub(super) fn within(
    config: &Config,
    traits: EngineTraits,
    spec: &ContainerSpec,
    holder: &ContainerId,
) -> ContainerCreateBody {
    let mut body = container(config, traits, spec);
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

/// The configuration of a holder for a container: only its network.
pub(super) fn holder(
    config: &Config,
    traits: EngineTraits,
    spec: &ContainerSpec,
    image: &str,
) -> ContainerCreateBody {
    let mut body = container(config, traits, spec);
    body.image = Some(image.to_owned());
    body.entrypoint = Some(vec![super::holder::PROGRAM.to_owned()]);
    body.env = None;
    // Any user but root; it has no files and needs no rights.
    body.user = Some("65534:65534".to_owned());
    let labels = labels::of_holder(config, &spec.owner);
    body.labels = Some(labels::with_egress(labels, &spec.egress));
    if let Some(host) = &mut body.host_config {
        host.init = Some(false);
        host.cap_add = None;
        // It only keeps a network, which a runtime with its own kernel would take over.
        host.runtime = None;
        // No other limits than the container has itself.
        host.memory = host.memory.map(|_| HOLDER_MEMORY);
        host.memory_swap = host.memory_swap.map(|_| HOLDER_MEMORY);
        host.pids_limit = host.pids_limit.map(|limit| limit.min(HOLDER_PIDS));
        host.readonly_rootfs = Some(true);
        host.tmpfs = None;
        host.mounts = None;
    }
    body
}

/// The security options that confine a container.
pub(super) fn security(config: &Config, traits: EngineTraits) -> Vec<String> {
    let profile = config.seccomp.as_ref().map(|profile| {
        // Docker is sent the profile, Podman where it is on the engine's host.
        if traits.is_podman {
            format!("seccomp={}", profile.file().display())
        } else {
            format!("seccomp={}", profile.as_str())
        }
    });
    let ours = ["no-new-privileges".to_owned()];
    ours.into_iter().chain(profile).collect()
}

fn ulimits(config: &Config) -> Option<Vec<ResourcesUlimits>> {
    let limits = config.ulimits.iter().map(|limit| ResourcesUlimits {
        name: Some(limit.name.to_owned()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    (!config.ulimits.is_empty()).then(|| limits.collect())
}

/// The paths that are mounted read-only where the root file system as a whole is not: around a home
/// that is changed in place, and around files that are put into the container after its creation,
/// which engines refuse for a read-only root file system.
fn protected(spec: &ContainerSpec) -> Option<Vec<String>> {
    let of_home = spec.files.changed_in_place();
    let Some(overlay) = spec.overlay.as_ref().filter(|_| spec.files.read_only) else {
        return of_home.map(<[String]>::to_vec);
    };
    let mut paths = match of_home {
        Some(paths) => paths.to_vec(),
        None => USUAL.map(str::to_owned).to_vec(),
    };
    if !paths.contains(&overlay.path) {
        paths.push(overlay.path.clone());
    }
    Some(paths)
}

/// The paths that the engine mounts read-only by default, and the given ones.
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
    // Set even where the image has the same: engines would look it up in the image's users.
    let home = has_home.then(|| format!("HOME={}", spec.files.home.path));
    given.chain(port).chain(home).collect()
}

/// The writable paths in memory: `/tmp`, and a home directory that the image lacks. Programs may be
/// run from there, as from a writable root file system.
fn tmpfs(spec: &ContainerSpec) -> Option<HashMap<String, String>> {
    let files = &spec.files;
    let options = format!(
        "rw,exec,nosuid,nodev,mode=1777,size={}",
        files.scratch_bytes
    );
    let path = files.home.path.as_str();
    let in_memory = !files.home.is_in_image() && files.kept_since.is_none();
    let home = in_memory.then_some(path);
    // Nothing may be mounted over a home that is changed in place, and nothing twice in one path.
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

/// The app's volume as its home; or, for a home with few files of the image, an anonymous volume
/// that is removed with the container. The engine copies those files into an empty volume.
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
        // Podman's file driver keeps one file and has no option for a count.
        LogDriver::K8sFile => ("k8s-file", vec![size]),
        LogDriver::EngineDefault => return None,
    };
    Some(HostConfigLogConfig {
        typ: Some(name.into()),
        config: Some(options.into_iter().collect()),
    })
}

#[cfg(test)]
pub(super) mod tests;
