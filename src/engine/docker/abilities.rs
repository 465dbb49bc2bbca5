//! An engine's abilities, from its description of itself.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum as CgroupVersion, SystemVersion};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::{Error, api_version::ApiVersion, client::Client, raw};
use crate::engine::{Abilities, Limits};

/// Podman's own description of itself. The path has a version of its own API, which every later one
/// serves.
const OF_PODMAN: &str = "/v4.0.0/libpod/info";

/// The cgroup controllers that Podman can use for containers, from its own API; `None`
/// where it does not answer there.
pub(super) async fn controllers(client: &Client) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Answer {
        host: Host,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Host {
        cgroup_controllers: Option<Vec<String>>,
    }
    let socket = client.connector().socket()?;
    let asked = client.run("describe its cgroups", |_| async move {
        raw::request(&socket, Method::GET, OF_PODMAN, Vec::new()).await
    });
    let (status, body) = asked.await.ok()?;
    if status != StatusCode::OK {
        return None;
    }
    let answer: Answer = serde_json::from_slice(&body).ok()?;
    Some(answer.host.cgroup_controllers.unwrap_or_default())
}

/// The abilities of an engine; `controllers` are those from Podman's own API.
pub(super) fn read(
    system: &SystemInfo,
    version: &SystemVersion,
    controllers: Option<&[String]>,
) -> Abilities {
    let driver = system.cgroup_driver.map(|driver| driver.to_string());
    let cgroup_version = system.cgroup_version.and_then(|version| match version {
        CgroupVersion::_1 => Some(1),
        CgroupVersion::_2 => Some(2),
        CgroupVersion::EMPTY => None,
    });
    let rootless = has_option(system, "rootless");
    let has_cgroups = driver.as_deref() != Some("none");
    let runtimes = system.runtimes.iter().flat_map(|all| all.keys().cloned());
    let mut runtimes: Vec<String> = runtimes.collect();
    runtimes.sort_unstable();
    let said = |api: &Option<String>| api.clone().unwrap_or_default();
    Abilities {
        limits: match controllers {
            Some(controllers) => by_controllers(controllers),
            None => as_described(system, is_podman(version)),
        },
        // Without root, version 1 gives no container a freezer.
        freezes: has_cgroups && !(rootless && cgroup_version == Some(1)),
        has_init: has_init(system),
        cgroup_version,
        cgroup_driver: driver.unwrap_or_default(),
        rootless,
        storage_driver: said(&system.driver),
        runtimes,
        api: (said(&version.min_api_version), said(&version.api_version)),
        api_used: match ApiVersion::for_engine(version) {
            Ok(Some(version)) => version.to_string(),
            Ok(None) | Err(_) => "unknown".to_owned(),
        },
    }
}

/// Podman sets a limit where the controller is there.
fn by_controllers(controllers: &[String]) -> Limits {
    let has = |name: &str| controllers.iter().any(|c| c == name);
    Limits {
        memory: has("memory"),
        swap: has("memory"),
        cpu: has("cpu"),
        pids: has("pids"),
    }
}

/// What an engine says in Docker's words; what it does not mention is taken for granted. Podman says
/// the same of processes everywhere, true or not, so its word on memory stands for both.
fn as_described(system: &SystemInfo, is_podman: bool) -> Limits {
    let can = |said: Option<bool>| said.unwrap_or(true);
    let memory = can(system.memory_limit);
    Limits {
        memory,
        swap: can(system.swap_limit),
        cpu: can(system.cpu_cfs_quota),
        pids: if is_podman {
            memory
        } else {
            can(system.pids_limit)
        },
    }
}

/// Whether the engine has found its init. An engine without one says so in place of its version;
/// some builds know no version and say nothing.
fn has_init(system: &SystemInfo) -> bool {
    let program = system.init_binary.as_deref().unwrap_or_default();
    let version = system.init_commit.as_ref().and_then(|c| c.id.as_deref());
    !program.is_empty() && version != Some("N/A")
}

/// Whether the engine has a security option of this name.
pub(super) fn has_option(system: &SystemInfo, name: &str) -> bool {
    let options = system.security_options.iter().flatten();
    let mut parts = options.flat_map(|option| option.split(','));
    parts.any(|part| part.strip_prefix("name=") == Some(name))
}

/// Whether the engine is Podman.
pub(super) fn is_podman(version: &SystemVersion) -> bool {
    let parts = version.components.iter().flatten();
    parts.into_iter().any(|c| c.name.contains("Podman"))
}

/// Refuses an engine on which organizations that do not trust each other cannot be kept apart.
///
/// # Errors
/// [`Error::Refused`] with what it lacks and the remedy.
pub(super) fn check_neighbours(abilities: &Abilities) -> Result<(), Error> {
    let lacks = abilities.lacks().into_iter();
    let lacks: Vec<_> = lacks.filter(|lack| lack.endangers_neighbours()).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let what: Vec<_> = lacks.iter().map(|lack| lack.what()).collect();
    Err(Error::Refused {
        call: "keep organizations apart, as trust tenants needs",
        status: 0,
        message: format!("it cannot {}; {}", what.join(", "), abilities.remedy()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn system(described: Value) -> SystemInfo {
        serde_json::from_value(described).expect("a description")
    }

    fn of(described: Value, controllers: Option<&[&str]>) -> Abilities {
        let version = json!({
            "Components": [{"Name": "Podman Engine", "Version": "5"}],
            "ApiVersion": "1.41", "MinAPIVersion": "1.24",
        });
        let version = match controllers {
            Some(_) => serde_json::from_value(version).expect("a version"),
            None => SystemVersion::default(),
        };
        let controllers: Option<Vec<String>> =
            controllers.map(|all| all.iter().map(|c| (*c).to_owned()).collect());
        read(&system(described), &version, controllers.as_deref())
    }

    #[test]
    fn an_engine_that_cannot_find_its_init_has_none() {
        let with = |program: &str, id: &str| {
            has_init(&system(
                json!({ "InitBinary": program, "InitCommit": { "ID": id } }),
            ))
        };
        assert!(with("docker-init", "de40ad0"));
        assert!(with("docker-init", ""), "Debian's says no version");
        assert!(!with("docker-init", "N/A"));
        assert!(!with("", ""));
        assert!(!has_init(&SystemInfo::default()));
    }

    #[test]
    fn docker_says_itself_what_it_limits_and_podmans_controllers_decide() {
        let none = json!({
            "MemoryLimit": false, "SwapLimit": false, "CpuCfsQuota": false, "PidsLimit": false,
            "CgroupDriver": "none", "CgroupVersion": "2", "SecurityOptions": ["name=rootless"],
        });
        let docker = of(none, None);
        assert_eq!(docker.lacks().len(), 4, "{docker:?}");
        assert!(docker.rootless);
        assert!(check_neighbours(&docker).is_err());
        let podman = json!({
            "MemoryLimit": true, "CpuCfsQuota": false, "PidsLimit": true,
            "CgroupDriver": "systemd", "CgroupVersion": "2",
        });
        let podman = of(podman, Some(&["memory", "pids", "cpu"]));
        assert_eq!(podman.lacks(), []);
        assert_eq!(podman.api, ("1.24".to_owned(), "1.41".to_owned()));
        assert!(check_neighbours(&podman).is_ok());
        let podman = of(json!({"PidsLimit": true}), Some(&["hugetlb"]));
        assert_eq!(podman.lacks().len(), 3);
        let why = check_neighbours(&podman).expect_err("refused").to_string();
        assert!(
            why.contains("limit the memory") && why.contains("subtree_control"),
            "{why}"
        );
        assert_eq!(as_described(&SystemInfo::default(), false), Limits::ALL);
        let silent = system(json!({"MemoryLimit": false, "PidsLimit": true}));
        assert!(!as_described(&silent, true).pids && as_described(&silent, false).pids);
    }
}
