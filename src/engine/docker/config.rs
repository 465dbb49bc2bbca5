//! The settings of the engine client, and where their defaults come from.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use super::{Attach, FreeRanges, Freezer, Profile, PullRecord, Seal};
use crate::{
    metrics::Metrics,
    model::{InstanceId, egress::Ceiling, ulimit::Ulimits},
};

/// Most ordinary calls end within milliseconds; after a minute the engine is stuck.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A start sets up the network namespace and cgroups; on a loaded host it takes seconds.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(120);
/// Tens of gigabytes over a slow line; a longer pull is given up.
pub const DEFAULT_PULL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// The health check must fail soon, even when the engine accepts the call and is stuck.
pub const DEFAULT_INFO_TIMEOUT: Duration = Duration::from_secs(10);
/// Log bytes kept per file and container, and the number of files: 30 MiB in all.
pub const DEFAULT_LOG_MAX_BYTES: u64 = 10 << 20;
/// See [`DEFAULT_LOG_MAX_BYTES`].
pub const DEFAULT_LOG_MAX_FILES: u32 = 3;

/// Most files copied into a home at every creation of a container: some settings and a small tool.
/// Copying that many takes some 30 ms on the slowest storage driver, 20,000 take seconds.
pub const DEFAULT_HOME_COPY_FILES: u32 = 128;
/// See [`DEFAULT_HOME_COPY_FILES`].
pub const DEFAULT_HOME_COPY_BYTES: u64 = 8 << 20;

/// How containers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Directly where the engine is a rootful one on this Linux machine, else published.
    #[default]
    Auto,
    /// At the container's own address.
    Direct,
    /// Through published ports.
    Published,
}

impl FromStr for Reach {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "published" => Ok(Self::Published),
            other => Err(format!(
                "{other:?} is not a way to reach containers; give auto, direct or published"
            )),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Published => "published",
        })
    }
}

/// Settings of [`super::Docker`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The instance that owns the containers.
    pub instance: InstanceId,
    /// Its data directory, which is written into the labels for `ignite prune`.
    pub data_dir: PathBuf,
    /// Seals the labels of its containers.
    pub seal: Seal,
    /// The engine's address; `None` means `DOCKER_HOST`, else the docker command's context, else
    /// the usual sockets of Docker and Podman.
    pub host: Option<String>,
    /// How containers are reached.
    pub reach: Reach,
    /// What freezes containers.
    pub freezer: Freezer,
    /// One more network that every container joins, such as that of a developer's database. Unlike
    /// the instance's own it may let apps talk to each other.
    pub extra_network: Option<String>,
    /// The most that containers may connect to; `None` lets them go anywhere, without any rules.
    pub egress: Option<Ceiling>,
    /// What build steps that ask for a network behind rules may connect to; `None` where no build
    /// does. It needs `egress`.
    pub build_egress: Option<Ceiling>,
    /// The system calls that containers may make; `None` means the engine's own profile.
    pub seccomp: Option<Profile>,
    /// Limits of each process of an app's container, in place of the engine's.
    pub ulimits: Ulimits,
    /// Organizations share the engine that do not trust each other, so it must have every limit.
    pub apart: bool,
    /// The runtime of apps' containers, by its name in the engine; `None` means the engine's
    /// default.
    pub runtime: Option<String>,
    /// Most bytes per log file of a container.
    pub log_max_bytes: u64,
    /// Most log files per container.
    pub log_max_files: u32,
    /// Most files that the image may have in its home for every replica to get a copy.
    pub home_copy_files: u32,
    /// Most bytes of these files.
    pub home_copy_bytes: u64,
    /// Use the credentials of `docker login` for pulls and builds that bring none.
    pub use_docker_login: bool,
    /// Limit of one question to a credential helper of the docker command.
    pub helper_timeout: Duration,
    /// Says what containers get to call apps by their URLs; `None` gives them nothing.
    pub attach: Option<Attach>,
    /// Frees address ranges when the engine has none left for a network; `None` frees none.
    pub free_ranges: Option<FreeRanges>,
    /// Give containers the proxies that the docker command gives them.
    pub container_proxies: bool,
    /// Limit of one ordinary engine call; a stop may take the grace on top.
    pub call_timeout: Duration,
    /// Limit of the start of one container, without its app becoming ready.
    pub start_timeout: Duration,
    /// Limit of one pull.
    pub pull_timeout: Duration,
    /// Records what was pulled.
    pub pull_record: PullRecord,
    /// Limit of the health check.
    pub info_timeout: Duration,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl Config {
    /// The restrictions on containers beyond the engine's own, in words; empty for none.
    pub fn restrictions(&self) -> String {
        let seccomp = self.seccomp.as_ref().map(|p| p.as_str().to_owned());
        let ulimits = (!self.ulimits.is_empty()).then(|| self.ulimits.to_string());
        let all = [seccomp, ulimits, self.runtime.clone()];
        let each = all.into_iter().flatten().map(|one| format!(" {one}"));
        each.collect()
    }

    /// The defaults for an instance.
    pub fn new(instance: InstanceId, data_dir: PathBuf, seal: Seal) -> Self {
        Self {
            instance,
            data_dir,
            seal,
            host: None,
            reach: Reach::default(),
            freezer: Freezer::default(),
            extra_network: None,
            egress: None,
            build_egress: None,
            seccomp: None,
            ulimits: Ulimits::default(),
            apart: false,
            runtime: None,
            log_max_bytes: DEFAULT_LOG_MAX_BYTES,
            log_max_files: DEFAULT_LOG_MAX_FILES,
            home_copy_files: DEFAULT_HOME_COPY_FILES,
            home_copy_bytes: DEFAULT_HOME_COPY_BYTES,
            use_docker_login: true,
            metrics: Arc::default(),
            helper_timeout: super::DEFAULT_HELPER_TIMEOUT,
            attach: None,
            free_ranges: None,
            container_proxies: false,
            call_timeout: DEFAULT_CALL_TIMEOUT,
            start_timeout: DEFAULT_START_TIMEOUT,
            pull_timeout: DEFAULT_PULL_TIMEOUT,
            pull_record: PullRecord::none(),
            info_timeout: DEFAULT_INFO_TIMEOUT,
        }
    }
}
