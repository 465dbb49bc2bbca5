//! The configuration of `ignite serve`: one plain struct, built from four layers.
//!
//! Lowest first: the defaults (`defaults.rs`), a TOML file, `IGNITE_*` variables, flags (see
//! `layers.rs`). `forms.rs` parses and prints single values (durations, sizes, switches);
//! `check.rs` checks relations between values. All faults are reported at once. Nothing here reads
//! the process's environment by itself.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::model::{
    OrgName, Standby, Trust, capability::Capabilities, destination::Networks, egress::EgressAllow,
    ulimit::Ulimits,
};

mod app_calls;
mod check;
mod defaults;
mod forms;
mod hosts;
mod issuers;
mod kinds;
mod layers;
mod otlp;
mod proxies;
mod serving;
mod shares;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

pub use app_calls::{AppCalls, DnsServers, Via};
pub use forms::parse_duration;
pub use hosts::ApiHosts;
pub use issuers::{Issuer, Issuers};
pub use kinds::{Freezer, IndexUrl, LogFormat, PublicUrl, Reach};
pub use layers::{Flags, Invalid, Source, default_data_dir, process_env};
pub use otlp::Otlp;
pub use proxies::Proxies;
pub use serving::{LocalTls, Serving};
pub use tls::{Files, Tls, TlsMode};
pub use tokens::{MAX_TOKEN_TTL, Tokens};

/// Every setting of `ignite serve`.
///
/// Each field names its setting in the TOML file and its variable. A flag, where there is one, is
/// the file's name with dashes; every setting can be given as `--set name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http_addr`, `IGNITE_HTTP_ADDR`: where the JSON API and the app URLs listen. Port 0 takes a
    /// free one. Default `127.0.0.1:8080`.
    pub http_addr: SocketAddr,
    /// `grpc_addr`, `IGNITE_API_LISTEN_ADDR`: where gRPC listens. Default `127.0.0.1:50051`.
    pub grpc_addr: SocketAddr,
    /// The settings of TLS.
    pub tls: Tls,
    /// `data_dir`, `IGNITE_DATA_DIR`: where the store, the signing key, the key of the secrets and
    /// the lock live; only its owner may enter it (mode 700, which it is given). Default:
    /// `$XDG_DATA_HOME/ignite`, else `~/.local/share/ignite`.
    pub data_dir: PathBuf,
    /// `base_domain`, `IGNITE_BASE_DOMAIN`: app URLs are `<label>.<base domain>`, in lower case.
    /// Default `ignite.localhost`.
    pub base_domain: String,
    /// `public_url`, `IGNITE_PUBLIC_URL`: scheme and port that public URLs show when a TLS proxy
    /// stands before `ignite`, as `https://:443`. Default: `https` with certificates, else `http`,
    /// and the port that listens.
    pub public_url: Option<PublicUrl>,
    /// `ephemeral`, `IGNITE_EPHEMERAL`: keep nothing; containers, network and state are removed
    /// on exit. Default `false`.
    pub ephemeral: bool,
    /// `keep_replicas`, `IGNITE_KEEP_REPLICAS`: on a clean stop leave containers running, for
    /// the next start to adopt. Default `false`: they are removed.
    pub keep_replicas: bool,
    /// `new_instance`, `IGNITE_NEW_INSTANCE`: give a data directory that is a copy of another one a
    /// new identity instead of refusing it. Default `false`.
    pub new_instance: bool,
    /// `lease_interval`, `IGNITE_LEASE_INTERVAL`: time between two renewals of the lease on the
    /// engine that shows others that this instance lives; it lasts for four. Default 15 s.
    pub lease_interval: Duration,
    /// `prune_after`, `IGNITE_PRUNE_AFTER`: how long ago the lease of an instance that cannot be
    /// seen must have expired for `ignite prune` to consider it gone (`--after`). Default 24 h.
    pub prune_after: Duration,
    /// `network`, `IGNITE_NETWORK`: one more network of the engine that every app joins, such as a
    /// database's; in a sandbox only. Default: none.
    pub network: Option<String>,
    /// `reach`, `IGNITE_REACH`: how containers are reached: `direct` at their addresses, or through
    /// `published` ports (in a sandbox only); `auto` finds out which works. A server in a container
    /// joins the network of its apps by itself. Default `auto`.
    pub reach: Reach,
    /// `strict`, `IGNITE_STRICT`: refuse what the cloud platform would refuse (an image that runs
    /// as root, a health path that answers 401). Default `false`: run it and warn.
    pub strict: bool,
    /// `trust`, `IGNITE_TRUST`: whom the platform serves: `sandbox` (one person's machine), `team`
    /// (one organization's) or `tenants` (organizations that do not trust each other). Decides what
    /// apps and builds may reach. Default `sandbox`.
    pub trust: Trust,
    /// `egress_allow`, `IGNITE_EGRESS_ALLOW`: what apps may connect to despite `trust`: IPv4
    /// addresses and networks, separated by commas, each with an optional port, and `public` for
    /// every public address. A sandbox restricts nothing. Default `none`.
    pub egress_allow: EgressAllow,
    /// `seccomp`, `IGNITE_SECCOMP`: a file with the seccomp profile of containers (JSON, at most
    /// 256 KiB); steps of builds have the engine's. Default: the engine's own, and with `trust`
    /// `tenants` the shipped one.
    pub seccomp: Option<String>,
    /// `ulimits`, `IGNITE_ULIMITS`: limits of each process of a container, separated by commas:
    /// `name=value`, or `name=first:most`, such as `nofile=1024:65536,core=0`; `none` for the
    /// engine's. An engine that may not raise its own limits starts nothing with higher ones.
    /// Default: the engine's, and with `trust` `tenants` `core=0,nofile=16384`.
    pub ulimits: Option<Ulimits>,
    /// `runtime`, `IGNITE_RUNTIME`: the runtime of apps' containers, by its name in the engine,
    /// such as `runsc`; one that the engine does not have ends the start. Default: the engine's
    /// default.
    pub runtime: Option<String>,
    /// `allow_foreign_arch`, `IGNITE_ALLOW_FOREIGN_ARCH`: accept images for another processor than
    /// the engine's, which an engine with emulation (binfmt) runs. Default `false`: refuse them.
    pub allow_foreign_arch: bool,
    /// `docker_host`, `DOCKER_HOST`: the engine's address, `unix://…`, `tcp://…` or `https://…`
    /// (with `DOCKER_CERT_PATH`, `DOCKER_TLS_VERIFY`). Default: the docker command's context, else
    /// the usual sockets of engines.
    pub docker_host: Option<String>,
    /// `docker_config_auth`, `IGNITE_DOCKER_CONFIG_AUTH`: pull and build with the `docker login` of
    /// the user who runs `ignite`, where an app names no secret; never with `trust` `tenants`.
    /// Default `true`.
    pub docker_config_auth: bool,
    /// `credential_helper_timeout`, `IGNITE_CREDENTIAL_HELPER_TIMEOUT`: longest time for one
    /// question to a credential helper of the docker command. Default 10 s.
    pub credential_helper_timeout: Duration,
    /// `container_proxies`, `IGNITE_CONTAINER_PROXIES`: give apps the proxies of the docker
    /// command's configuration, else of this process, as variables. Builds always get them. Default
    /// `false`.
    pub container_proxies: bool,
    /// `default_org`, `IGNITE_DEFAULT_ORG`: the organization of the client on this machine when
    /// none is given. Default `local`.
    pub default_org: OrgName,
    /// `cold_start_budget_secs`, `IGNITE_COLD_START_BUDGET_SECS`: longest wait of a request for a
    /// replica. Default 600 s.
    pub cold_start_budget: Duration,
    /// `startup_timeout_secs`, `IGNITE_STARTUP_TIMEOUT_SECS`: longest time that a live container
    /// may take to become ready. Default: `cold_start_budget_secs`.
    pub startup_timeout: Duration,
    /// `min_scaledown_secs`, `IGNITE_MIN_SCALEDOWN_SECS`: floor under an app's
    /// `scaledown_period_secs`. Default 30 s.
    pub min_scaledown: Duration,
    /// `max_replicas_cap`, `IGNITE_MAX_REPLICAS_CAP`: most replicas of one app, whatever its
    /// `max_replicas` says. Default 5.
    pub max_replicas_cap: u32,
    /// `app_timeout_secs`, `IGNITE_APP_TIMEOUT_SECS`: an app's timeout when its
    /// `limits.timeout_secs` is 0. Default 300 s.
    pub app_timeout: Duration,
    /// `hold_max_requests`, `IGNITE_HOLD_MAX_REQUESTS`: most requests held per app. Default 1000.
    pub hold_max_requests: usize,
    /// `hold_max_bytes`, `IGNITE_HOLD_MAX_BYTES`: most bytes of Invoke bodies buffered for held
    /// requests of one app. Default 64 MiB.
    pub hold_max_bytes: u64,
    /// `hold_max_requests_total`, `IGNITE_HOLD_MAX_REQUESTS_TOTAL`: most requests held over all
    /// apps; whatever is set, a part of the connections is never held. Default: three quarters of
    /// the connections that apps may have.
    pub hold_max_requests_total: Option<usize>,
    /// `hold_max_requests_per_org`, `IGNITE_HOLD_MAX_REQUESTS_PER_ORG`: most requests held for apps
    /// of one organization. Default: three quarters of `hold_max_requests_total`.
    pub hold_max_requests_per_org: Option<usize>,
    /// `hold_max_bytes_total`, `IGNITE_HOLD_MAX_BYTES_TOTAL`: most bytes of Invoke bodies buffered
    /// for held requests over all apps. Default: half of `api_buffer_bytes`, at least two bodies of
    /// the largest size.
    pub hold_max_bytes_total: Option<u64>,
    /// `hold_max_bytes_per_org`, `IGNITE_HOLD_MAX_BYTES_PER_ORG`: most of those bytes for apps of
    /// one organization. Default: three quarters of `hold_max_bytes_total`, at least one body of
    /// the largest size.
    pub hold_max_bytes_per_org: Option<u64>,
    /// `max_body_bytes`, `IGNITE_MAX_BODY_BYTES`: largest body in an Invoke envelope, in bytes
    /// before base64; bodies to app URLs stream. Default 6 MiB.
    pub max_body_bytes: u64,
    /// `http_threads`, `IGNITE_HTTP_THREADS`: threads for HTTP connections. Default: one per CPU.
    pub http_threads: usize,
    /// `max_connects_per_replica`, `IGNITE_MAX_CONNECTS_PER_REPLICA`: most connections being opened
    /// to one replica at a time. Default 32.
    pub max_connects_per_replica: usize,
    /// `drain_timeout_secs`, `IGNITE_DRAIN_TIMEOUT_SECS`: how long requests in flight may continue
    /// after a stop or a delete. 0 cuts them off. Default 30 s.
    pub drain_timeout: Duration,
    /// `stop_grace_secs`, `IGNITE_STOP_GRACE_SECS`: time between SIGTERM and SIGKILL of a
    /// container. Default 10 s.
    pub stop_grace: Duration,
    /// `pids_limit`, `IGNITE_PIDS_LIMIT`: most processes and threads of a container. Default 512.
    pub pids_limit: u32,
    /// `storage_ttl_secs`, `IGNITE_STORAGE_TTL_SECS`: how long an unused app keeps its volume when
    /// its storage mode is not persistent. Default 3 days.
    pub storage_ttl: Duration,
    /// `image_versions_kept`, `IGNITE_IMAGE_VERSIONS_KEPT`: newest versions of each app whose
    /// pulled images stay on this machine, beside the active one's. Default 5.
    pub image_versions_kept: usize,
    /// `image_keep_for`, `IGNITE_IMAGE_KEEP_FOR`: shortest time that a pulled image stays, counted
    /// from the pull. Default 1 h.
    pub image_keep_for: Duration,
    /// `upkeep_interval`, `IGNITE_UPKEEP_INTERVAL`: time between two searches for volumes and
    /// images to remove. Default 60 s.
    pub upkeep_interval: Duration,
    /// `scratch_percent`, `IGNITE_SCRATCH_PERCENT`: percent of a replica's memory that its `/tmp`
    /// may take, and as much again its home directory. Default 25.
    pub scratch_percent: u32,
    /// `allowed_caps`, `IGNITE_ALLOWED_CAPS`: the capabilities that apps may ask for, separated by
    /// commas, or `none`; outside a sandbox never NET_ADMIN and NET_RAW. Default: those that Docker
    /// gives containers.
    pub allowed_caps: Capabilities,
    /// `home_copy_files`, `IGNITE_HOME_COPY_FILES`: most files, folders and links that an image may
    /// have in its home for every replica to get a copy; more are changed in place. Default 128.
    pub home_copy_files: u32,
    /// `home_copy_bytes`, `IGNITE_HOME_COPY_BYTES`: most bytes of these files. Default 8 MiB.
    pub home_copy_bytes: u64,
    /// `container_log_max_bytes`, `IGNITE_CONTAINER_LOG_MAX_BYTES`: size at which a container's
    /// log file is rotated. Default 10 MiB.
    pub container_log_max_bytes: u64,
    /// `container_log_files`, `IGNITE_CONTAINER_LOG_FILES`: log files kept per container. Default
    /// 3.
    pub container_log_files: u32,
    /// `disk_quota_per_org`, `IGNITE_DISK_QUOTA_PER_ORG`: most bytes of disk that the volumes,
    /// containers and logs of one organization may use; 0 sets no bound. Default: none, and with
    /// `trust` `tenants` 10 GiB.
    pub disk_quota_per_org: Option<u64>,
    /// `inode_quota_per_org`, `IGNITE_INODE_QUOTA_PER_ORG`: most files, folders and links in the
    /// volumes of one organization; 0 sets no bound. Default: none, and with `trust` `tenants`
    /// 500,000.
    pub inode_quota_per_org: Option<u64>,
    /// `apps_max_per_org`, `IGNITE_APPS_MAX_PER_ORG`: most apps of one organization. Default 1000.
    pub apps_max_per_org: usize,
    /// `hosts_max_per_app`, `IGNITE_HOSTS_MAX_PER_APP`: most host names given to an app. Default 32.
    pub hosts_max_per_app: usize,
    /// `versions_max_per_app`, `IGNITE_VERSIONS_MAX_PER_APP`: most versions of one app. All are
    /// kept, and an app with as many cannot be published again. Default 1000.
    pub versions_max_per_app: usize,
    /// `stored_bytes_per_org`, `IGNITE_STORED_BYTES_PER_ORG`: most bytes that an organization keeps
    /// in the store: apps, versions, code, secrets and executions; 0 sets no bound. Default: half
    /// of the data directory's volume, and with `trust` `tenants` a quarter of it and at most 10
    /// GiB.
    pub stored_bytes_per_org: Option<u64>,
    /// `disk_interval`, `IGNITE_DISK_INTERVAL`: time between two measurements of organizations'
    /// disk use, where they have a quota. Default 30 s.
    pub disk_interval: Duration,
    /// `start_retry_initial`, `IGNITE_START_RETRY_INITIAL`: pause after the first failed start;
    /// it doubles with each further one. Default 500 ms.
    pub start_retry_initial: Duration,
    /// `start_retry_max`, `IGNITE_START_RETRY_MAX`: longest pause between starts that fail. Default
    /// 30 s.
    pub start_retry_max: Duration,
    /// `readiness_poll_initial`, `IGNITE_READINESS_POLL_INITIAL`: pause after the first
    /// unanswered readiness probe; it doubles. Default 1 ms.
    pub readiness_poll_initial: Duration,
    /// `readiness_poll_max`, `IGNITE_READINESS_POLL_MAX`: longest pause between readiness probes.
    /// Default 100 ms.
    pub readiness_poll_max: Duration,
    /// `reconcile_interval`, `IGNITE_RECONCILE_INTERVAL`: time between comparisons with the
    /// engine's container list. Default 5 s.
    pub reconcile_interval: Duration,
    /// `execution_queue_max`, `IGNITE_EXECUTION_QUEUE_MAX`: most asynchronous executions of one app
    /// that have not ended. Default 10,000.
    pub execution_queue_max: usize,
    /// `execution_concurrency`, `IGNITE_EXECUTION_CONCURRENCY`: most asynchronous executions of one
    /// app that run at once; `max_concurrency` and `max_replicas` bound them too. Default 64.
    pub execution_concurrency: usize,
    /// `execution_max_running`, `IGNITE_EXECUTION_MAX_RUNNING`: most asynchronous executions that
    /// run at once over all apps. Default 512.
    pub execution_max_running: usize,
    /// `execution_max_running_per_org`, `IGNITE_EXECUTION_MAX_RUNNING_PER_ORG`: most of those of
    /// one organization. Default: three quarters of `execution_max_running`.
    pub execution_max_running_per_org: Option<usize>,
    /// `max_result_bytes`, `IGNITE_MAX_RESULT_BYTES`: largest result of an asynchronous execution.
    /// Default 6 MiB.
    pub max_result_bytes: u64,
    /// `execution_output_bytes`, `IGNITE_EXECUTION_OUTPUT_BYTES`: output of a running execution
    /// kept for late watchers. Default 1 MiB.
    pub execution_output_bytes: u64,
    /// `execution_journal_bytes`, `IGNITE_EXECUTION_JOURNAL_BYTES`: length at which the journal of
    /// the executions is applied to their databases; a start after a crash applies up to twice as
    /// much. Default 64 MiB.
    pub execution_journal_bytes: u64,
    /// `execution_retry_initial`, `IGNITE_EXECUTION_RETRY_INITIAL`: pause after an execution could
    /// not be sent to its app; it doubles. Default 250 ms.
    pub execution_retry_initial: Duration,
    /// `execution_retry_max`, `IGNITE_EXECUTION_RETRY_MAX`: longest such pause. Default 15 s.
    pub execution_retry_max: Duration,
    /// `execution_retention_secs`, `IGNITE_EXECUTION_RETENTION_SECS`: how long ended executions are
    /// kept. Default 7 days.
    pub execution_retention: Duration,
    /// `execution_max_per_app`, `IGNITE_EXECUTION_MAX_PER_APP`: most ended executions kept per app,
    /// give or take a quarter. Default 100,000.
    pub execution_max_per_app: u64,
    /// `retention_interval`, `IGNITE_RETENTION_INTERVAL`: time between two searches for executions
    /// to remove. Default 60 s.
    pub retention_interval: Duration,
    /// `clock_settle`, `IGNITE_CLOCK_SETTLE`: how long the clock has to be steady, after a start or
    /// a step, before anything is deleted for its age. Default 10 min.
    pub clock_settle: Duration,
    /// `min_free_disk_bytes`, `IGNITE_MIN_FREE_DISK_BYTES`: executions are refused while the data
    /// directory's volume has less free space than this. Default 64 MiB.
    pub min_free_disk_bytes: u64,
    /// `log_max_lines`, `IGNITE_LOG_MAX_LINES`: most lines of an app's log in one response, and
    /// most earlier lines when following it. Default 10,000.
    pub log_max_lines: usize,
    /// `log_max_bytes`, `IGNITE_LOG_MAX_BYTES`: most bytes of these lines; the newest are kept.
    /// Default 8 MiB.
    pub log_max_bytes: u64,
    /// `test_max_running`, `IGNITE_TEST_MAX_RUNNING`: most concurrent tests of drafts and versions,
    /// each in a separate container; further ones wait. Default 4.
    pub test_max_running: usize,
    /// `test_max_running_per_org`, `IGNITE_TEST_MAX_RUNNING_PER_ORG`: most of those of one
    /// organization. Default: all but one.
    pub test_max_running_per_org: Option<usize>,
    /// `max_code_bytes`, `IGNITE_MAX_CODE_BYTES`: largest archive or file of code. Default 50 MiB.
    pub max_code_bytes: u64,
    /// `code_max_unpacked_bytes`, `IGNITE_CODE_MAX_UNPACKED_BYTES`: most bytes of all files of an
    /// archive or repository. Default 512 MiB.
    pub code_max_unpacked_bytes: u64,
    /// `code_max_files`, `IGNITE_CODE_MAX_FILES`: most files, folders and links of an archive or
    /// repository. Default 50,000.
    pub code_max_files: usize,
    /// `code_max_ratio`, `IGNITE_CODE_MAX_RATIO`: most bytes that an archive unpacks to for each of
    /// its own. Default 200.
    pub code_max_ratio: u64,
    /// `code_max_depth`, `IGNITE_CODE_MAX_DEPTH`: most folders within each other in an archive or
    /// repository; at most 500. Default 100.
    pub code_max_depth: usize,
    /// `code_max_path_bytes`, `IGNITE_CODE_MAX_PATH_BYTES`: longest path, and target of a link, in
    /// an archive or repository; at most 3072. Default 1024.
    pub code_max_path_bytes: usize,
    /// `code_max_links`, `IGNITE_CODE_MAX_LINKS`: most links of an archive or repository. Default
    /// 10,000.
    pub code_max_links: usize,
    /// `build_concurrency`, `IGNITE_BUILD_CONCURRENCY`: most builds at once, over all apps; those
    /// of one app run one after another. Default 3.
    pub build_concurrency: usize,
    /// `build_concurrency_per_org`, `IGNITE_BUILD_CONCURRENCY_PER_ORG`: most of those of one
    /// organization. Default: all but one.
    pub build_concurrency_per_org: Option<usize>,
    /// `build_queue_max`, `IGNITE_BUILD_QUEUE_MAX`: most waiting builds. Default 64.
    pub build_queue_max: usize,
    /// `build_queue_max_per_org`, `IGNITE_BUILD_QUEUE_MAX_PER_ORG`: most of those of one
    /// organization. Default: all but one.
    pub build_queue_max_per_org: Option<usize>,
    /// `build_timeout_secs`, `IGNITE_BUILD_TIMEOUT_SECS`: longest build. Default 1800 s.
    pub build_timeout: Duration,
    /// `build_log_bytes`, `IGNITE_BUILD_LOG_BYTES`: most bytes of a build's log; the newest lines
    /// are kept, on disk up to twice as much while the build runs. Default 1 MiB.
    pub build_log_bytes: u64,
    /// `build_logs_kept`, `IGNITE_BUILD_LOGS_KEPT`: most logs of builds on disk; above it, the
    /// oldest of the organization with most is removed. Default 200.
    pub build_logs_kept: usize,
    /// `build_logs_bytes`, `IGNITE_BUILD_LOGS_BYTES`: most bytes of all logs of builds, likewise.
    /// Default 64 MiB.
    pub build_logs_bytes: u64,
    /// `build_network`, `IGNITE_BUILD_NETWORK`: the network of build steps that run commands, such
    /// as `host` or `none`. Outside a sandbox it may be a network whose rules are the operator's,
    /// but not the host's or the default one. Default: the engine's in a sandbox; elsewhere each
    /// running build has a network behind rules (`build_egress`).
    pub build_network: Option<String>,
    /// `build_egress`, `IGNITE_BUILD_EGRESS`: what build steps may connect to with `trust` `team`
    /// and `tenants`, where `build_network` is unset: as `egress_allow`. Default `public`.
    pub build_egress: EgressAllow,
    /// `build_allow`, `IGNITE_BUILD_ALLOW`: addresses and networks, separated by commas, that
    /// registries and git hosts may have although they are private or this machine's; a sandbox
    /// allows all. Default `none`.
    pub build_allow: Networks,
    /// `build_memory`, `IGNITE_BUILD_MEMORY`: most memory of a build step. 0 means the memory of
    /// the engine's host, and outside a sandbox half of it shared by `build_concurrency` builds.
    /// Default 0.
    pub build_memory: u64,
    /// `build_cpu_millicores`, `IGNITE_BUILD_CPU_MILLICORES`: most CPU of a build step in
    /// thousandths of a core. 0 as for `build_memory`. Default 0.
    pub build_cpu_millicores: u32,
    /// `build_cgroup_parent`, `IGNITE_BUILD_CGROUP_PARENT`: the parent cgroup of build steps, with
    /// limits that the operator sets; a slice where the engine uses systemd. Default: the engine's.
    pub build_cgroup_parent: Option<String>,
    /// `image_grant_ttl`, `IGNITE_IMAGE_GRANT_TTL`: with `trust` `tenants`, how long a registry's
    /// grant of an image to an organization is valid. Default 10 min.
    pub image_grant_ttl: Duration,
    /// `git_file_urls`, `IGNITE_GIT_FILE_URLS`: accept code from repositories on this machine's own
    /// disk, by `file://`. Default: in a sandbox only.
    pub git_file_urls: Option<bool>,
    /// `python_base`, `IGNITE_PYTHON_BASE`: the image that handlers in Python are built on; it has
    /// `python3` (3.9 or later), pip and a shell, and the packages that handlers find without a
    /// list. Default `python:3.12-slim`.
    pub python_base: String,
    /// `deno_base`, `IGNITE_DENO_BASE`: the image that handlers in Deno are built on; it has `deno`
    /// (2 or later) and a shell. Default `denoland/deno:debian`.
    pub deno_base: String,
    /// `rust_builder`, `IGNITE_RUST_BUILDER`: the image that compiles handlers in Rust; it has
    /// `cargo`, a linker and a shell, and `rustup` for other toolchains and targets. Default
    /// `rust:1-slim-bookworm`.
    pub rust_builder: String,
    /// `rust_base`, `IGNITE_RUST_BASE`: the image that compiled Rust is put into; it has the
    /// builder's C library. Default `gcr.io/distroless/cc-debian12`.
    pub rust_base: String,
    /// `go_builder`, `IGNITE_GO_BUILDER`: the image that compiles handlers in Go; it has `go` (1.19
    /// or later) and a shell. Default `golang:1`.
    pub go_builder: String,
    /// `go_base`, `IGNITE_GO_BASE`: the image that compiled Go is put into; the program needs
    /// nothing in it. Default `gcr.io/distroless/static-debian12`.
    pub go_base: String,
    /// `pip_index_url`, `IGNITE_PIP_INDEX_URL`: the package index for `requirements.txt`, an
    /// `http://` or `https://` URL. Default: pip's own choice.
    pub pip_index_url: Option<IndexUrl>,
    /// `git_timeout_secs`, `IGNITE_GIT_TIMEOUT_SECS`: longest fetch of a repository. Default 300 s.
    pub git_timeout: Duration,
    /// `standby`, `IGNITE_STANDBY`: what becomes of unneeded replicas: `pause` (frozen, later
    /// prepared), `prepared` (the process ends, container and network are kept) or `none`. Default
    /// `pause`.
    pub standby: Standby,
    /// `standby_pause_for`, `IGNITE_STANDBY_PAUSE_FOR`: how long a replica stays frozen before it
    /// is prepared. Default 10 min.
    pub standby_pause_for: Duration,
    /// `standby_memory`, `IGNITE_STANDBY_MEMORY`: most memory that frozen replicas of all apps
    /// keep; the least recently used are prepared above it. Default 1 GiB.
    pub standby_memory: u64,
    /// `teardown_after`, `IGNITE_TEARDOWN_AFTER`: time without a request after which an app's
    /// standby is removed. Default 24 h.
    pub teardown_after: Duration,
    /// `memory_budget`, `IGNITE_MEMORY_BUDGET`: most memory of all replicas together, running ones
    /// by their limit, frozen ones as measured. 0 means the memory of the engine's host. Default 0.
    pub memory_budget: u64,
    /// `memory_budget_per_org`, `IGNITE_MEMORY_BUDGET_PER_ORG`: most of `memory_budget` for the
    /// replicas of one organization. 0 sets no bound. Default: all; three quarters with `trust`
    /// `tenants`.
    pub memory_budget_per_org: Option<u64>,
    /// `replica_budget`, `IGNITE_REPLICA_BUDGET`: most replicas of all apps that run at a time.
    /// 0 sets no bound. Default 0.
    pub replica_budget: u32,
    /// `replica_budget_per_org`, `IGNITE_REPLICA_BUDGET_PER_ORG`: most of those of one
    /// organization. 0 sets no bound. Default: all; three quarters with `trust` `tenants`.
    pub replica_budget_per_org: Option<u64>,
    /// `room_wait`, `IGNITE_ROOM_WAIT`: how long requests wait for capacity within these budgets
    /// before they are refused. Default 30 s.
    pub room_wait: Duration,
    /// `freezer`, `IGNITE_FREEZER`: what freezes containers: `engine`, `cgroup` (written directly,
    /// faster) or `auto`, which writes cgroups where that is safe (v2). Default `auto`.
    pub freezer: Freezer,
    /// `liveness_interval`, `IGNITE_LIVENESS_INTERVAL`: time between liveness probes of a ready
    /// replica on its health path. 0 turns them off. Default 10 s.
    pub liveness_interval: Duration,
    /// `liveness_timeout`, `IGNITE_LIVENESS_TIMEOUT`: longest wait for the answer to such a probe.
    /// Default 5 s.
    pub liveness_timeout: Duration,
    /// `liveness_failures`, `IGNITE_LIVENESS_FAILURES`: failed probes in a row after which a
    /// replica is replaced. Default 3.
    pub liveness_failures: u32,
    /// `wrong_port_timeout`, `IGNITE_WRONG_PORT_TIMEOUT`: how long an app may listen on other ports
    /// than the probed one before a publish, or a start that is known to fail, ends. 0 waits as
    /// long as for any start, as `strict` does. Default 30 s.
    pub wrong_port_timeout: Duration,
    /// `max_connections`, `IGNITE_MAX_CONNECTIONS`: most connections to each listener (HTTP, gRPC);
    /// more are refused with 503, in gRPC with GOAWAY. Fewer where the limit of open files (`ulimit
    /// -n`, raised to the hard limit) leaves no room for as many and for connections to replicas; a
    /// warning in the log then names both numbers. Default 16384.
    pub max_connections: usize,
    /// `max_connections_per_ip`, `IGNITE_MAX_CONNECTIONS_PER_IP`: most connections from one address
    /// to each listener; 0 sets no bound, and none holds for `trusted_proxies`. Default: a quarter
    /// of the listener's.
    pub max_connections_per_ip: Option<usize>,
    /// `reserved_connections`, `IGNITE_RESERVED_CONNECTIONS`: the last connections to the HTTP
    /// listener, at most an eighth of them, which serve only the API and the health paths, so that
    /// these answer while the apps' URLs are flooded. Default 64.
    pub reserved_connections: usize,
    /// `max_headers`, `IGNITE_MAX_HEADERS`: most header lines of an HTTP/1.1 request; other values
    /// than 100 cost each request an allocation. Default 100.
    pub max_headers: usize,
    /// `max_header_bytes`, `IGNITE_MAX_HEADER_BYTES`: most bytes of a request's head; a longer one
    /// gets 431. Also the size of a connection's buffer. Default 64 KiB.
    pub max_header_bytes: u64,
    /// `header_read_timeout`, `IGNITE_HEADER_READ_TIMEOUT`: longest time for the head of an
    /// HTTP/1.1 request to arrive. Default 60s.
    pub header_read_timeout: Duration,
    /// `keep_alive_timeout`, `IGNITE_KEEP_ALIVE_TIMEOUT`: a connection without a request is closed
    /// after this, or half as much again; gRPC clients open the next by themselves. Default 60s.
    pub keep_alive_timeout: Duration,
    /// `max_streams`, `IGNITE_MAX_STREAMS`: most requests at a time on one HTTP/2 connection, gRPC
    /// calls too. Default 200.
    pub max_streams: u32,
    /// `max_in_flight_per_app`, `IGNITE_MAX_IN_FLIGHT_PER_APP`: most requests of one app in flight,
    /// held ones included; more are refused with 429. Default 16384.
    pub max_in_flight_per_app: usize,
    /// `max_in_flight_per_org`, `IGNITE_MAX_IN_FLIGHT_PER_ORG`: most requests of all apps of one
    /// organization in flight. Default: three quarters of the connections that apps may have.
    pub max_in_flight_per_org: Option<usize>,
    /// `max_request_body_bytes`, `IGNITE_MAX_REQUEST_BODY_BYTES`: largest body of a request to an
    /// app URL; 0 sets no bound, since bodies stream. Default 0.
    pub max_request_body_bytes: u64,
    /// `client_stall_timeout`, `IGNITE_CLIENT_STALL_TIMEOUT`: how long a client may read nothing of
    /// a pending response, or send nothing of a body, before the exchange is cut off. A body of
    /// unknown length to an app may pause once the app has begun its response. 0 waits as long as
    /// the request may take. Default 60s.
    pub client_stall_timeout: Duration,
    /// `half_closed_timeout`, `IGNITE_HALF_CLOSED_TIMEOUT`: how long the other side of an upgraded
    /// connection (WebSocket) may be silent once one side has ended, before the connection is
    /// closed. 0 sets no bound. Default 60s.
    pub half_closed_timeout: Duration,
    /// `api_buffer_bytes`, `IGNITE_API_BUFFER_BYTES`: most bytes of the messages of all running API
    /// calls, as they arrive; more are refused with 429 before they are read, and one of the
    /// largest always fits. Default 256 MiB.
    pub api_buffer_bytes: u64,
    /// `api_buffer_bytes_per_org`, `IGNITE_API_BUFFER_BYTES_PER_ORG`: most of those bytes of one
    /// organization, likewise. Default 128 MiB.
    pub api_buffer_bytes_per_org: u64,
    /// `mcp_message_bytes`, `IGNITE_MCP_MESSAGE_BYTES`: longest message of an MCP client. Default
    /// 1 MiB.
    pub mcp_message_bytes: u64,
    /// `decode_concurrency`, `IGNITE_DECODE_CONCURRENCY`: most large API messages converted from or
    /// to JSON at a time, and as many archives and schemas parsed, half of them of one
    /// organization; others wait. Default 2.
    pub decode_concurrency: usize,
    /// `trusted_proxies`, `IGNITE_TRUSTED_PROXIES`: addresses and networks, separated by commas,
    /// whose `X-Forwarded-*` headers are believed; `none` for no proxy. Default
    /// `127.0.0.0/8,::1/128`.
    pub trusted_proxies: Proxies,
    /// `api_hosts`, `IGNITE_API_HOSTS`: host names, separated by commas, for which the API answers,
    /// such as that of a reverse proxy, beside addresses, `localhost`, names without a dot,
    /// `*.internal`, this machine's name and the base domain; `*.name` for all below a name, `*`
    /// for any. Default `none`.
    pub api_hosts: ApiHosts,
    /// `app_paths`, `IGNITE_APP_PATHS`: serve apps below `/_app/` of the API's hosts, too. Pages of
    /// all organizations share an origin there. Default `true`.
    pub app_paths: bool,
    /// `anonymous_streams`, `IGNITE_ANONYMOUS_STREAMS`: most calls at a time that need no token
    /// (reflection, gRPC's health, the public catalog), a quarter of them from one address.
    /// Default 64.
    pub anonymous_streams: usize,
    /// `anonymous_stream_time`, `IGNITE_ANONYMOUS_STREAM_TIME`: longest time of such a call.
    /// Default 10 min.
    pub anonymous_stream_time: Duration,
    /// `metrics_addr`, `IGNITE_METRICS_ADDR`: a listener of its own for `/metrics`, which shows all
    /// metrics without a token. Default: none; the API's address has `/metrics` with a token.
    pub metrics_addr: Option<SocketAddr>,
    /// `metrics_apps_max`, `IGNITE_METRICS_APPS_MAX`: most apps with a name of their own in the
    /// metrics; others share one. Default 200.
    pub metrics_apps_max: usize,
    /// `log_format`, `IGNITE_LOG_FORMAT`: `plain` or `json` lines on stderr. Default `plain`.
    pub log_format: LogFormat,
    /// `log_level`, `IGNITE_LOG`: a level, or a filter such as `info,ignite::fleet=debug`. Below
    /// `info` only events of `ignite` itself are logged, since those of libraries contain headers
    /// and bodies. Default `info`.
    pub log_level: String,
    /// How apps call apps.
    pub app_calls: AppCalls,
    /// How tokens are made and checked.
    pub tokens: Tokens,
    /// Where traces go.
    pub otlp: Otlp,
}
