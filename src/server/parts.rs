//! Derives the settings of each part from the configuration.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, TryFutureExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{clamp, data_dir::DataDir, limits::Shares, machine, prune};
use crate::{
    api::{anonymous, buffers::Buffers, compute::PublicUrls},
    clock,
    config::{Config, Freezer, Proxies, Reach},
    engine::{Keychain, docker},
    executor,
    fleet::{self, upstream::Connects},
    gateway, gc,
    metrics::Metrics,
    model::{
        InstanceId, capability::Capabilities, egress::Ceiling, revision::Defaults, scaling::Bounds,
        ulimit::Ulimits,
    },
    store::{Ledger, Store, executions, secrets::Secrets},
    test_runs,
    vitals::Vitals,
};

/// What the key is for that seals the labels of containers.
pub(super) const SEAL: &str = "labels of containers";
/// Where the seccomp profile is, below the data directory.
const SECCOMP_FILE: &str = "seccomp.json";

/// The key that authenticates the labels of containers. Where the data directory's key is not
/// available, a key for this run alone serves; then only the run after a crash is worse off.
///
/// # Errors
/// When the system gives no random bytes.
pub(super) fn seal(secrets: &Secrets) -> Result<docker::Seal> {
    match secrets.derive(SEAL) {
        Ok(key) => Ok(docker::Seal::new(&key)),
        Err(error) => {
            tracing::warn!(%error, "Containers are sealed for this run only: after a crash the next run replaces them instead of adopting them");
            docker::Seal::for_this_run().context("the system gives no random bytes")
        }
    }
}

/// The seccomp profile of containers; the program's own is written to the data directory.
///
/// # Errors
/// When the configured file is not a profile.
pub(super) fn seccomp(config: &Config, data_dir: &Path) -> Result<Option<docker::Profile>> {
    match &config.seccomp {
        Some(file) => {
            let profile = docker::Profile::read(Path::new(file));
            Ok(Some(
                profile.map_err(|why| anyhow::anyhow!("seccomp: {why}"))?,
            ))
        }
        None if config.trust.isolates_organizations() => {
            Ok(Some(docker::Profile::shipped(data_dir.join(SECCOMP_FILE))))
        }
        None => Ok(None),
    }
}

pub(super) fn engine_config(
    config: &Config,
    data: &DataDir,
    store: &Store,
    seal: docker::Seal,
) -> Result<docker::Config> {
    let seccomp = seccomp(config, data.path())?;
    if config.seccomp.is_none()
        && let Some(ours) = &seccomp
    {
        ours.write().context("the seccomp profile")?;
    }
    Ok(docker::Config {
        seccomp,
        ulimits: match (&config.ulimits, config.trust.isolates_organizations()) {
            (Some(set), _) => set.clone(),
            (None, true) => Ulimits::for_tenants(),
            (None, false) => Ulimits::default(),
        },
        apart: config.trust.isolates_organizations(),
        runtime: config.runtime.clone(),
        host: config.docker_host.clone(),
        reach: match config.reach {
            Reach::Auto => docker::Reach::Auto,
            Reach::Direct => docker::Reach::Direct,
            Reach::Published => docker::Reach::Published,
        },
        freezer: match config.freezer {
            Freezer::Auto => docker::Freezer::Auto,
            Freezer::Engine => docker::Freezer::Engine,
            Freezer::Cgroup => docker::Freezer::Cgroup,
        },
        extra_network: config.network.clone(),
        egress: Ceiling::of(config.trust, &config.egress_allow),
        build_egress: match &config.build_network {
            Some(_) => None,
            None => Ceiling::of_builds(config.trust, &config.build_egress),
        },
        log_max_bytes: config.container_log_max_bytes,
        log_max_files: config.container_log_files,
        // Organizations must not pull images with the operator's credentials.
        use_docker_login: config.docker_config_auth && !config.trust.isolates_organizations(),
        helper_timeout: config.credential_helper_timeout,
        container_proxies: config.container_proxies,
        home_copy_files: config.home_copy_files,
        home_copy_bytes: config.home_copy_bytes,
        pull_record: gc::pull_record(store),
        free_ranges: Some(free_ranges(config, data.instance())),
        ..docker::Config::new(data.instance().clone(), data.path().to_owned(), seal)
    })
}

/// Frees address ranges of instances that are gone.
fn free_ranges(config: &Config, own: &InstanceId) -> docker::FreeRanges {
    let (host, after) = (config.docker_host.clone(), config.prune_after);
    let own = own.clone();
    docker::FreeRanges::new(move || {
        let (host, own) = (host.clone(), own.clone());
        let freeing = async move { prune::free_ranges(host.as_deref(), &own, after).await };
        let freed = freeing.unwrap_or_else(|cause| {
            tracing::debug!(%cause, "No address range was freed");
            0
        });
        freed.boxed()
    })
}

/// One address gets at most this fraction (1/n) of a listener's connections, unless configured.
const SHARES: usize = 4;
/// At most this fraction (1/n) of a listener's connections is reserved for the API.
const MOST_RESERVED: usize = 8;

/// How many of a listener's connections, the last ones, serve no apps.
fn reserved(c: &Config, shares: &Shares) -> usize {
    c.reserved_connections.min(shares.listener / MOST_RESERVED)
}

/// How many connections to the HTTP listener serve apps.
fn app_connections(c: &Config, shares: &Shares) -> usize {
    shares.listener - reserved(c, shares)
}

pub(super) fn listener_limits(c: &Config, shares: &Shares) -> gateway::limits::Limits {
    gateway::limits::Limits {
        max_connections: shares.listener,
        connections: shares.connections.clone(),
        max_connections_per_ip: c
            .max_connections_per_ip
            .unwrap_or_else(|| shares.listener.div_ceil(SHARES)),
        reserved: reserved(c, shares),
        trusted_proxies: c.trusted_proxies.clone(),
        header_read_timeout: c.header_read_timeout,
        keep_alive_timeout: c.keep_alive_timeout,
        max_headers: c.max_headers,
        max_header_bytes: clamp(c.max_header_bytes),
        max_streams: c.max_streams,
    }
}

/// The bounds of listeners for apps in containers: a part of what clients outside may take.
pub(super) fn app_calls_limits(
    c: &Config,
    shares: &Shares,
    no_proxies: Proxies,
) -> gateway::limits::Limits {
    let connections = c.app_calls.connections.min(shares.listener).max(1);
    gateway::limits::Limits {
        max_connections: connections,
        max_connections_per_ip: connections.div_ceil(SHARES),
        reserved: 0,
        trusted_proxies: no_proxies,
        ..listener_limits(c, shares)
    }
}

/// The hosts for which the API answers.
pub(super) fn own_hosts(c: &Config) -> gateway::Hosts {
    gateway::Hosts {
        base_domain: c.base_domain.clone(),
        machine: machine::name(),
        listed: c.api_hosts.clone(),
    }
}

/// What calls that need no token may take.
pub(super) fn anonymous(c: &Config) -> anonymous::Bounds {
    anonymous::Bounds {
        streams: c.anonymous_streams,
        time: c.anonymous_stream_time,
    }
}

pub(super) fn fleet_config(
    c: &Config,
    keychain: Keychain,
    may_adopt: watch::Receiver<bool>,
    vitals: &Vitals,
    metrics: &Arc<Metrics>,
    shares: &Shares,
) -> fleet::Config {
    fleet::Config {
        startup_timeout: c.startup_timeout,
        hold_max_requests: c.hold_max_requests,
        max_in_flight_per_app: c.max_in_flight_per_app,
        max_in_flight_per_org: c.in_flight_per_org(app_connections(c, shares)),
        hold_max_bytes: clamp(c.hold_max_bytes),
        hold_limiter: hold_limiter(c, shares),
        max_connects: Connects::new(c.max_connects_per_replica, shares.connections.clone()),
        stop_grace: c.stop_grace,
        drain_timeout: c.drain_timeout,
        backoff_initial: c.start_retry_initial,
        backoff_max: c.start_retry_max,
        poll_initial: c.readiness_poll_initial,
        poll_max: c.readiness_poll_max,
        pids_limit: c.pids_limit,
        reconcile_interval: c.reconcile_interval,
        keychain,
        may_adopt,
        vitals: vitals.clone(),
        metrics: metrics.clone(),
        standby: c.standby,
        standby_pause_for: c.standby_pause_for,
        bounds: fleet::Bounds {
            memory: c.memory_budget,
            memory_per_org: c.memory_per_org(),
            replicas: c.replica_budget,
            replicas_per_org: c.replicas_per_org(),
            standby_memory: c.standby_memory,
        },
        room_wait: c.room_wait,
        teardown_after: c.teardown_after,
        liveness_interval: c.liveness_interval,
        liveness_timeout: c.liveness_timeout,
        liveness_failures: c.liveness_failures,
        wrong_port_timeout: if c.strict {
            std::time::Duration::ZERO
        } else {
            c.wrong_port_timeout
        },
    }
}

fn hold_limiter(c: &Config, shares: &Shares) -> fleet::HoldLimiter {
    let connections = app_connections(c, shares);
    let requests = c.held_requests(connections);
    if let Some(wanted) = c.hold_max_requests_total
        && wanted > requests.all
    {
        tracing::warn!(
            hold_max_requests_total = wanted,
            connections,
            "hold_max_requests_total is {wanted}, and apps may have {connections} connections to the HTTP listener, of which some must stay for requests that do not wait: at most {} requests are held; raise IGNITE_MAX_CONNECTIONS, or lower IGNITE_HOLD_MAX_REQUESTS_TOTAL",
            requests.all,
        );
    }
    fleet::HoldLimiter::new(requests, c.held_bytes())
}

pub(super) fn gc_config(c: &Config, vitals: &Vitals) -> gc::Config {
    gc::Config {
        interval: c.upkeep_interval,
        storage_ttl: c.storage_ttl,
        versions_kept: c.image_versions_kept,
        image_keep_for: c.image_keep_for,
        disk: disk_quota(c),
        vitals: vitals.clone(),
    }
}

/// Default disk quota of an organization where organizations do not trust each other.
const TENANT_DISK_BYTES: u64 = 10 << 30;
/// Default inode quota of an organization: the files of some dozens of apps. A small file system
/// has a few million inodes.
const TENANT_INODES: u64 = 500_000;

fn disk_quota(c: &Config) -> gc::DiskQuota {
    let by_trust = |tenants| {
        if c.trust.isolates_organizations() {
            tenants
        } else {
            0
        }
    };
    let (bytes, inodes) = (by_trust(TENANT_DISK_BYTES), by_trust(TENANT_INODES));
    gc::DiskQuota {
        bytes: c.disk_quota_per_org.unwrap_or(bytes),
        inodes: c.inode_quota_per_org.unwrap_or(inodes),
        interval: c.disk_interval,
    }
}

pub(super) fn test_run_bounds(c: &Config) -> test_runs::Bounds {
    test_runs::Bounds {
        running: c.test_max_running,
        per_org: c.test_permits_per_org(),
        answer_bytes: clamp(c.max_body_bytes),
        lines: c.log_max_lines,
    }
}

/// Default bound on what an organization keeps in the store where organizations do not trust each
/// other.
const TENANT_STORED_BYTES: u64 = 10 << 30;

/// The ledger of what organizations keep in the store, with the bound on each.
///
/// # Errors
/// When the size of the data directory's volume cannot be read.
pub(super) fn ledger(c: &Config, data_dir: &Path) -> Result<Ledger> {
    let most = match c.stored_bytes_per_org {
        Some(set) => set,
        None => {
            let volume = rustix::fs::statvfs(data_dir).context("the data directory's volume")?;
            let size = volume.f_blocks.saturating_mul(volume.f_frsize);
            stored_bytes(c.trust.isolates_organizations(), size)
        }
    };
    Ok(Ledger::new((most > 0).then_some(most)))
}

/// The default bound per organization: half of the volume where one has the machine alone, so that
/// images and files fit as well; up to a quarter where several share it.
fn stored_bytes(are_several: bool, volume: u64) -> u64 {
    if are_several {
        (volume / 4).min(TENANT_STORED_BYTES)
    } else {
        volume / 2
    }
}

pub(super) fn executions_config(
    c: &Config,
    vitals: &Vitals,
    metrics: &Arc<Metrics>,
    ledger: Ledger,
) -> executions::Config {
    executions::Config {
        queue_max: c.execution_queue_max,
        retention: c.execution_retention,
        max_per_app: c.execution_max_per_app,
        min_free_bytes: c.min_free_disk_bytes,
        output_keep: clamp(c.execution_output_bytes),
        journal_bytes: c.execution_journal_bytes,
        retention_interval: c.retention_interval,
        clock: Arc::new(clock::now),
        settled: Arc::new(clock::is_settled),
        vitals: vitals.clone(),
        metrics: metrics.clone(),
        ledger,
    }
}

pub(super) fn executor_config(
    c: &Config,
    vitals: &Vitals,
    metrics: &Arc<Metrics>,
) -> executor::Config {
    executor::Config {
        per_app: c.execution_concurrency,
        overall: c.execution_max_running,
        per_org: c.execution_permits_per_org(),
        max_result_bytes: c.max_result_bytes,
        cold_start_budget: c.cold_start_budget,
        retry_initial: c.execution_retry_initial,
        retry_max: c.execution_retry_max,
        vitals: vitals.clone(),
        metrics: metrics.clone(),
    }
}

/// Bounds the memory of API calls' messages; one of the largest always fits.
pub(super) fn buffers(c: &Config, largest: usize) -> Buffers {
    Buffers::new(
        clamp(c.api_buffer_bytes).max(largest),
        clamp(c.api_buffer_bytes_per_org).max(largest),
        c.client_stall_timeout,
    )
}

/// The defaults of apps' settings. `restrictions` is what the engine holds containers to.
pub(super) fn defaults(c: &Config, restrictions: &str) -> Defaults {
    Defaults {
        bounds: Bounds {
            max_replicas_cap: c.max_replicas_cap,
            min_scaledown: c.min_scaledown,
        },
        timeout: c.app_timeout,
        strict: c.strict,
        scratch_percent: c.scratch_percent,
        // With these an app could spoof another one's address and evade its own egress rules.
        capabilities: if c.trust.isolates_host() {
            c.allowed_caps.without(Capabilities::of_links())
        } else {
            c.allowed_caps
        },
        api_access: !c.trust.isolates_organizations(),
        containers: container_digest(c, restrictions),
    }
}

/// A digest of the settings that shape every container, so that a container of an earlier run under
/// other settings (without a network that apps now need, say) is replaced and not adopted.
fn container_digest(c: &Config, restrictions: &str) -> u64 {
    let isolated = Ceiling::of(c.trust, &c.egress_allow);
    let isolated = isolated.map_or_else(String::new, |ceiling| format!(" behind rules: {ceiling}"));
    let settings = format!(
        "{:?} {:?} {} {} {}{}{}{isolated}",
        c.network,
        c.reach,
        c.pids_limit,
        c.container_log_max_bytes,
        c.container_log_files,
        // Empty where it is off, so that containers of an earlier version are still adopted.
        if c.container_proxies { " proxies" } else { "" },
        restrictions,
    );
    let digest: [u8; 32] = Sha256::digest(settings).into();
    digest[..8]
        .iter()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// How public URLs look; `listens` is where their requests arrive.
pub(super) fn public_urls(config: &Config, listens: SocketAddr) -> PublicUrls {
    let (scheme, own_port) = if config.tls.is_on() {
        ("https", 443)
    } else {
        ("http", 80)
    };
    let base_domain = config.base_domain.clone();
    match &config.public_url {
        Some(url) => PublicUrls {
            scheme: url.scheme.clone(),
            base_domain,
            port: url.port,
        },
        None => PublicUrls {
            scheme: scheme.to_owned(),
            base_domain,
            port: Some(listens.port()).filter(|p| *p != own_port),
        },
    }
}
