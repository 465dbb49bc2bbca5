//! The kind of engine, and its consequences for every container.
//!
//! Queried once and kept, so that no start pays for it; [`fetch`] also runs on each health check of
//! the engine, which refreshes the copy after the engine was exchanged.

use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{SystemInfo, SystemVersion};

use super::{
    Config, ContainerId, Error, Info, Reach,
    abilities::{self, has_option, is_podman},
    api_version::ApiVersion,
    client::Client,
    lines::parse_time,
    own_container,
};
use crate::{
    engine::{Abilities, Limits},
    model::Platform,
};

/// The log driver of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogDriver {
    /// Docker's, bounded in size and number of files.
    JsonFile,
    /// Podman's, bounded in size.
    K8sFile,
    /// The engine's own setting, with its own bounds.
    EngineDefault,
}

/// How containers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// At their own address.
    Direct,
    /// Through ports bound to `bind` on the engine's host and reached at `at`.
    Published {
        /// The address on the engine's host.
        bind: IpAddr,
        /// The same address, as seen from here.
        at: IpAddr,
    },
}

/// The traits of this engine that shape the configuration of every container.
#[derive(Debug, Clone, Copy)]
pub(super) struct EngineTraits {
    /// Cores of the engine's host.
    pub(super) cpus: u32,
    /// Where ports are published; `None` when containers are reached directly.
    pub(super) publish: Option<IpAddr>,
    /// The log driver of containers.
    pub(super) log: LogDriver,
    /// The limits that the engine sets; it refuses a container that asks for another one.
    pub(super) limits: Limits,
    /// Whether the engine has an init to run before the program.
    pub(super) has_init: bool,
    /// Whether it is Podman.
    pub(super) is_podman: bool,
}

/// The remembered parts of an engine's description of itself.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The part that other modules see.
    pub(super) info: Info,
    /// How its containers are reached.
    pub(super) via: Via,
    /// The log driver of its containers.
    pub(super) log: LogDriver,
    /// Whether it is Podman.
    pub(super) is_podman: bool,
    /// The architecture of its host as `uname -m` names it.
    pub(super) architecture: String,
    /// The container of this process on it, whose network is not the host's.
    pub(super) own: Option<ContainerId>,
}

impl Facts {
    /// The traits for the configuration of every container.
    pub(super) fn traits(&self) -> EngineTraits {
        let publish = match self.via {
            Via::Direct => None,
            Via::Published { bind, .. } => Some(bind),
        };
        EngineTraits {
            cpus: self.info.cpus,
            publish,
            log: self.log,
            limits: self.info.abilities.limits,
            has_init: self.info.abilities.has_init,
            is_podman: self.is_podman,
        }
    }
}

/// Asks the engine for its description.
pub(super) async fn fetch(client: &Client, config: &Config) -> Result<Facts, Error> {
    let (system, version) = client
        .run_within(
            "describe itself",
            client.limit().min(config.info_timeout),
            |docker| async move { tokio::try_join!(docker.info(), docker.version()) },
        )
        .await?;
    client
        .connector()
        .speak(
            ApiVersion::for_engine(&version).map_err(|message| Error::Refused {
                call: "speak a version of its API that is known here",
                status: 0,
                message,
            })?,
        );
    let address = client.connector().address();
    // Joined to the instance's network, this process reaches it whatever kind of host is below.
    let own = match config.reach {
        Reach::Published => None,
        Reach::Auto | Reach::Direct => own_container::find(client).await?,
    };
    let via = match address.remote_host() {
        _ if own.is_some() => Via::Direct,
        _ if direct(config.reach, address.is_unix(), &system) => Via::Direct,
        None => Via::Published {
            bind: Ipv4Addr::LOCALHOST.into(),
            at: Ipv4Addr::LOCALHOST.into(),
        },
        Some(host) => Via::Published {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            at: resolve(client, host).await?,
        },
    };
    if let Some(runtime) = &config.runtime {
        check_runtime(runtime, &system)?;
    }
    let is_podman = is_podman(&version);
    let controllers = if is_podman {
        abilities::controllers(client).await
    } else {
        None
    };
    let abilities = abilities::read(&system, &version, controllers.as_deref());
    if config.apart {
        abilities::check_neighbours(&abilities)?;
    }
    Ok(Facts {
        via,
        log: log_driver(&system),
        is_podman,
        architecture: system.architecture.clone().unwrap_or_default(),
        own,
        info: describe(&system, &version, abilities),
    })
}

/// Whether a container's own address can be reached from this process: only a rootful engine
/// on this Linux machine puts its bridges into our network namespace.
fn direct(reach: Reach, unix_socket: bool, system: &SystemInfo) -> bool {
    match reach {
        Reach::Direct => true,
        Reach::Published => false,
        Reach::Auto => {
            let desktop = system
                .operating_system
                .as_deref()
                .is_some_and(|os| os.contains("Docker Desktop"));
            cfg!(target_os = "linux") && unix_socket && !desktop && !has_option(system, "rootless")
        }
    }
}

/// Refuses a runtime that the engine does not have, and names those that it has. An engine that
/// lists none reports the fault itself.
fn check_runtime(wanted: &str, system: &SystemInfo) -> Result<(), Error> {
    let known = system.runtimes.as_ref().filter(|all| !all.is_empty());
    let Some(known) = known.filter(|all| !all.contains_key(wanted)) else {
        return Ok(());
    };
    let mut names: Vec<&str> = known.keys().map(String::as_str).collect();
    names.sort_unstable();
    Err(Error::Refused {
        call: "run containers as the setting runtime says",
        status: 0,
        message: format!("it has no runtime {wanted:?}; it has {}", names.join(", ")),
    })
}

async fn resolve(client: &Client, host: &str) -> Result<IpAddr, Error> {
    let unreachable = |cause: String| Error::Unreachable {
        address: client.connector().describe(),
        cause,
    };
    let found = tokio::time::timeout(client.limit(), tokio::net::lookup_host((host, 0))).await;
    let mut addresses: Vec<IpAddr> = match found {
        Ok(Ok(addresses)) => addresses.map(|a| a.ip()).collect(),
        Ok(Err(cause)) => {
            return Err(unreachable(format!(
                "the name {host:?} cannot be resolved: {cause}"
            )));
        }
        Err(_) => {
            return Err(unreachable(format!(
                "resolving the name {host:?} took too long"
            )));
        }
    };
    // Ports are bound to 0.0.0.0, so only an IPv4 address is certain to answer.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
        .first()
        .copied()
        .ok_or_else(|| unreachable(format!("the name {host:?} has no address")))
}

fn log_driver(system: &SystemInfo) -> LogDriver {
    let known = system
        .plugins
        .as_ref()
        .and_then(|p| p.log.as_deref())
        .unwrap_or_default();
    let has = |name: &str| known.iter().any(|driver| driver == name);
    if has("json-file") {
        LogDriver::JsonFile
    } else if has("k8s-file") {
        LogDriver::K8sFile
    } else {
        LogDriver::EngineDefault
    }
}

fn describe(system: &SystemInfo, version: &SystemVersion, abilities: Abilities) -> Info {
    let number = version
        .version
        .as_deref()
        .or(system.server_version.as_deref())
        .unwrap_or("of unknown version");
    Info {
        name: format!(
            "{} {number}",
            if is_podman(version) {
                "Podman"
            } else {
                "Docker"
            }
        ),
        // Rootless engines always do.
        maps_users: has_option(system, "userns") || has_option(system, "rootless"),
        cpus: system
            .ncpu
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(u32::MAX),
        memory_bytes: system
            .mem_total
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        platform: Platform::new(
            system.os_type.as_deref().unwrap_or_default(),
            system.architecture.as_deref().unwrap_or_default(),
            "",
        ),
        time_ms: system
            .system_time
            .as_deref()
            .and_then(parse_time)
            .map(|ns| ns / 1_000_000),
        abilities,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_one_of_the_engines_and_users_are_mapped_where_it_says_so() {
        let described = serde_json::json!({
            "Runtimes": { "runc": { "path": "runc" }, "runsc": { "path": "runsc" } },
            "SecurityOptions": ["name=seccomp,profile=default", "name=userns"],
        });
        let system: SystemInfo = serde_json::from_value(described).expect("a description");
        assert!(check_runtime("runsc", &system).is_ok());
        let why = check_runtime("kata", &system)
            .expect_err("none")
            .to_string();
        assert!(why.contains("it has runc, runsc"), "{why}");
        assert!(check_runtime("kata", &SystemInfo::default()).is_ok());
        assert!(has_option(&system, "userns") && !has_option(&system, "rootless"));
    }

    #[test]
    fn only_a_rootful_local_engine_is_reached_directly() {
        let plain = SystemInfo {
            operating_system: Some("Debian GNU/Linux 12".into()),
            ..SystemInfo::default()
        };
        let desktop = SystemInfo {
            operating_system: Some("Docker Desktop".into()),
            ..SystemInfo::default()
        };
        let rootless = SystemInfo {
            security_options: Some(vec![
                "name=seccomp,profile=default".into(),
                "name=rootless".into(),
            ]),
            ..SystemInfo::default()
        };
        assert_eq!(direct(Reach::Auto, true, &plain), cfg!(target_os = "linux"));
        assert!(!direct(Reach::Auto, false, &plain));
        assert!(!direct(Reach::Auto, true, &desktop));
        assert!(!direct(Reach::Auto, true, &rootless));
        assert!(direct(Reach::Direct, false, &desktop));
        assert!(!direct(Reach::Published, true, &plain));
    }
}
