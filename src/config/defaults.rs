//! The defaults of all settings, each with its reason.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    thread::available_parallelism,
    time::Duration,
};

use super::{
    ApiHosts, AppCalls, Config, Freezer, LogFormat, Otlp, Proxies, Reach, Tls, Tokens,
    check::MAX_HTTP_THREADS,
};
use crate::{
    metrics::Apps,
    model::{Standby, Trust, capability::Capabilities, destination::Networks, egress::EgressAllow},
};

const MIB: u64 = 1024 * 1024;

/// `*.localhost` resolves to the loopback address in browsers and in most resolvers.
const DEFAULT_BASE_DOMAIN: &str = "ignite.localhost";
/// The organization of tokens and ids that name none.
const DEFAULT_ORG: &str = "local";
/// A helper may ask a cloud for a token, but a password prompt has no one to answer it.
const DEFAULT_CREDENTIAL_HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// The contract's cold-start budget.
const DEFAULT_COLD_START_BUDGET: Duration = Duration::from_secs(600);
/// The shortest stabilisation that the cloud platform's autoscaler (KEDA) works with.
const DEFAULT_MIN_SCALEDOWN: Duration = Duration::from_secs(30);
/// The contract's typical platform maximum.
const DEFAULT_MAX_REPLICAS_CAP: u32 = 5;
/// As long as an app may stay up without traffic, so that an app with a long request is not stopped
/// earlier than an idle one.
const DEFAULT_APP_TIMEOUT: Duration = Duration::from_secs(300);
/// A burst of a load generator fits; a runaway client does not.
const DEFAULT_HOLD_MAX_REQUESTS: usize = 1000;
/// Ten bodies of the largest size per app, and small ones by the thousand.
const DEFAULT_HOLD_MAX_BYTES: u64 = 64 * MIB;
/// The limit of large function platforms for a synchronous payload.
const DEFAULT_MAX_BODY_BYTES: u64 = 6 * MIB;
/// Under the listen backlog of 128 that many small servers use.
const DEFAULT_MAX_CONNECTS_PER_REPLICA: usize = 32;
/// Small, and with the C library that wheels are built for.
const DEFAULT_PYTHON_BASE: &str = "python:3.12-slim";
/// With a shell, which builds need.
const DEFAULT_DENO_BASE: &str = "denoland/deno:debian";
/// Its C library is that of [`DEFAULT_RUST_BASE`].
const DEFAULT_RUST_BUILDER: &str = "rust:1-slim-bookworm";
/// The C library, certificates, and no shell.
const DEFAULT_RUST_BASE: &str = "gcr.io/distroless/cc-debian12";
const DEFAULT_GO_BUILDER: &str = "golang:1";
/// Certificates and time zones, and no programs.
const DEFAULT_GO_BASE: &str = "gcr.io/distroless/static-debian12";
/// The time that orchestrators usually allow a process to end.
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The engine's own default for `stop`.
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
/// Enough for a JVM or a pre-forking server, and a bound for a fork bomb.
const DEFAULT_PIDS_LIMIT: u32 = 512;
/// Files of an app that is used on working days live over a weekend.
const DEFAULT_STORAGE_TTL: Duration = Duration::from_secs(3 * 24 * 3600);
/// A few steps back without a pull.
const DEFAULT_IMAGE_VERSIONS_KEPT: usize = 5;
/// Tests of a draft, and a delete that is followed by a new deploy, find the image there.
const DEFAULT_IMAGE_KEEP_FOR: Duration = Duration::from_secs(3600);
/// No request waits for it.
const DEFAULT_UPKEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Three small calls of the engine; a holder that cannot be seen is watched for two of them.
const DEFAULT_LEASE_INTERVAL: Duration = Duration::from_secs(15);
/// A machine that was off over night, or an engine whose clock was wrong, is back by then.
const DEFAULT_PRUNE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// With `/tmp` and home full, half of the memory is left to the processes.
const DEFAULT_SCRATCH_PERCENT: u32 = 25;
/// Some settings and a small tool: copying them takes some 30 ms on the slowest storage driver, and
/// copying 20,000 files takes seconds.
const DEFAULT_HOME_COPY_FILES: u32 = 128;
const DEFAULT_HOME_COPY_BYTES: u64 = 8 * MIB;
const DEFAULT_CONTAINER_LOG_MAX_BYTES: u64 = 10 * MIB;
const DEFAULT_CONTAINER_LOG_FILES: u32 = 3;
/// For each measurement the engine walks the files that containers have written.
const DEFAULT_DISK_INTERVAL: Duration = Duration::from_secs(30);
/// The first pause is short, since a port still in use is usually free by then.
const DEFAULT_START_RETRY_INITIAL: Duration = Duration::from_millis(500);
/// A crash loop costs two starts a minute at most.
const DEFAULT_START_RETRY_MAX: Duration = Duration::from_secs(30);
/// A static binary listens within a few milliseconds; the poll must not be what it waits for.
const DEFAULT_READINESS_POLL_INITIAL: Duration = Duration::from_millis(1);
/// A slow app loses at most a tenth of a second to the poll.
const DEFAULT_READINESS_POLL_MAX: Duration = Duration::from_millis(100);
/// How long a missed event of the engine can stay unnoticed.
const DEFAULT_RECONCILE_INTERVAL: Duration = Duration::from_secs(5);
/// A burst of a batch job fits; a client in a loop is stopped.
const DEFAULT_EXECUTION_QUEUE_MAX: usize = 10_000;
/// Enough to keep five replicas of a typical server busy.
const DEFAULT_EXECUTION_CONCURRENCY: usize = 64;
/// Bounds memory and descriptors: each running one has a connection and a part of its response.
const DEFAULT_EXECUTION_MAX_RUNNING: usize = 512;
/// The first pause is short, since most trouble is a replica that has just gone.
const DEFAULT_EXECUTION_RETRY_INITIAL: Duration = Duration::from_millis(250);
const DEFAULT_EXECUTION_RETRY_MAX: Duration = Duration::from_secs(15);
/// A week, so that a failure on Friday can be examined on Monday.
const DEFAULT_EXECUTION_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// More than one machine runs for one organization. All of them are in memory, with environments of
/// up to some 100 KB each.
const DEFAULT_APPS_MAX_PER_ORG: usize = 1000;
/// A site in a few languages, with and without `www`.
const DEFAULT_HOSTS_MAX_PER_APP: usize = 32;
/// A publish a day for almost three years. They are in memory like apps.
const DEFAULT_VERSIONS_MAX_PER_APP: usize = 1000;
/// Some hundred megabytes of ordinary executions.
const DEFAULT_EXECUTION_MAX_PER_APP: u64 = 100_000;
const DEFAULT_RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// Space for running executions to end, and for the database to keep writing.
const DEFAULT_MIN_FREE_DISK_BYTES: u64 = 64 * MIB;
/// Some minutes: a user who comes back does so within them, and memory is cheap for that long.
const DEFAULT_STANDBY_PAUSE_FOR: Duration = Duration::from_secs(600);
/// A few dozen small apps, or one large one.
const DEFAULT_STANDBY_MEMORY: u64 = 1024 * MIB;
/// The contract speaks of "long idle" without a figure.
const DEFAULT_TEARDOWN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Long enough for another app to go to standby, short enough for a caller to learn what is wrong.
const DEFAULT_ROOM_WAIT: Duration = Duration::from_secs(30);
/// As often as orchestrators usually probe.
const DEFAULT_LIVENESS_INTERVAL: Duration = Duration::from_secs(10);
/// Long for an app whose first port is one for metrics or debugging, short for a person who waits.
const DEFAULT_WRONG_PORT_TIMEOUT: Duration = Duration::from_secs(30);
/// An app with one thread that is busy with a request may answer late.
const DEFAULT_LIVENESS_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_LIVENESS_FAILURES: u32 = 3;

/// Some MB of ordinary lines, read and sorted in memory for one response.
const DEFAULT_LOG_MAX_LINES: usize = 10_000;
/// Ten thousand lines of some hundred bytes; each replica's newest are in memory for one response.
const DEFAULT_LOG_MAX_BYTES: u64 = 8 * MIB;

/// A folder of source with a few assets, which still fits in one message after base64.
const DEFAULT_MAX_CODE_BYTES: u64 = 50 * MIB;
/// Ten times that: somewhat more than large function platforms allow for an unpacked archive.
const DEFAULT_CODE_MAX_UNPACKED_BYTES: u64 = 512 * MIB;
const DEFAULT_CODE_MAX_FILES: usize = 50_000;
/// Text compresses to a tenth, a file of zeros to a thousandth.
const DEFAULT_CODE_MAX_RATIO: u64 = 200;
/// Several times the depth of nested packages.
const DEFAULT_CODE_MAX_DEPTH: usize = 100;
/// A quarter of the kernel's limit, since the tree is unpacked below another path.
const DEFAULT_CODE_MAX_PATH_BYTES: usize = 1024;
/// The number that package managers with links make for a large project.
const DEFAULT_CODE_MAX_LINKS: usize = 10_000;
/// A build takes a core or more; one organization alone has two at a time.
const DEFAULT_BUILD_CONCURRENCY: usize = 3;
const DEFAULT_BUILD_QUEUE_MAX: usize = 64;
/// Compilers take their time on small machines.
const DEFAULT_BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Some thousand lines.
const DEFAULT_BUILD_LOG_BYTES: u64 = MIB;
/// Some weeks of a few apps.
const DEFAULT_BUILD_LOGS_KEPT: usize = 200;
/// An ordinary log has some dozen kilobytes.
const DEFAULT_BUILD_LOGS_BYTES: u64 = 64 * MIB;
/// Models write some kilobytes. A message is read on a thread that carries connections.
const DEFAULT_MCP_MESSAGE_BYTES: u64 = MIB;
/// One commit of a large repository over a slow line.
const DEFAULT_GIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Long enough for a draft, its tests and its publish, short enough after a secret was withdrawn.
const DEFAULT_IMAGE_GRANT_TTL: Duration = Duration::from_secs(600);

/// As many as a small machine starts in parallel.
const DEFAULT_TEST_MAX_RUNNING: usize = 4;

/// As many descriptors as many systems allow, and as many again for the connections to replicas.
const DEFAULT_MAX_CONNECTIONS: usize = 16_384;
/// Some clients, a monitor and an operator.
const DEFAULT_RESERVED_CONNECTIONS: usize = 64;
/// What the HTTP library parses without allocating.
const DEFAULT_MAX_HEADERS: usize = 100;
/// Eight times the limit of common servers.
const DEFAULT_MAX_HEADER_BYTES: u64 = 64 * 1024;
/// Enough for a phone in a tunnel to send its request head; a client that needs longer is stuck or
/// hostile.
const DEFAULT_HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// As long as common servers and proxies keep idle connections.
const DEFAULT_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Twice what a server should at least allow.
const DEFAULT_MAX_STREAMS: u32 = 200;
/// No single app gets more than there are connections by default.
const DEFAULT_MAX_IN_FLIGHT_PER_APP: usize = 16_384;
/// The usual limit of proxies between two writes.
const DEFAULT_CLIENT_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Twice the pings that WebSocket libraries usually send.
const DEFAULT_HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// A few drafts of the largest size at a time; each is in memory about twice while it is decoded.
const DEFAULT_API_BUFFER_BYTES: u64 = 256 << 20;
/// Half of them, so that another organization always finds space.
const DEFAULT_API_BUFFER_BYTES_PER_ORG: u64 = 128 << 20;
/// Archives are rare, and each occupies a core for a moment.
const DEFAULT_DECODE_CONCURRENCY: usize = 2;
/// Tools ask once and leave; a few that watch the health of a server stay.
const DEFAULT_ANONYMOUS_STREAMS: usize = 64;
/// A client that watches for longer calls again.
const DEFAULT_ANONYMOUS_STREAM_TIME: Duration = Duration::from_secs(600);

impl Config {
    /// The defaults, with the state in `data_dir`.
    pub fn defaults(data_dir: PathBuf) -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            http_addr: loopback(8080),
            grpc_addr: loopback(50051),
            tls: Tls::default(),
            data_dir,
            base_domain: DEFAULT_BASE_DOMAIN.to_owned(),
            public_url: None,
            ephemeral: false,
            keep_replicas: false,
            new_instance: false,
            lease_interval: DEFAULT_LEASE_INTERVAL,
            prune_after: DEFAULT_PRUNE_AFTER,
            network: None,
            reach: Reach::Auto,
            strict: false,
            trust: Trust::Sandbox,
            egress_allow: EgressAllow::default(),
            seccomp: None,
            ulimits: None,
            runtime: None,
            allow_foreign_arch: false,
            docker_host: None,
            docker_config_auth: true,
            credential_helper_timeout: DEFAULT_CREDENTIAL_HELPER_TIMEOUT,
            container_proxies: false,
            default_org: DEFAULT_ORG
                .parse()
                .expect("the default organization's name is valid"),
            cold_start_budget: DEFAULT_COLD_START_BUDGET,
            startup_timeout: DEFAULT_COLD_START_BUDGET,
            min_scaledown: DEFAULT_MIN_SCALEDOWN,
            max_replicas_cap: DEFAULT_MAX_REPLICAS_CAP,
            app_timeout: DEFAULT_APP_TIMEOUT,
            hold_max_requests: DEFAULT_HOLD_MAX_REQUESTS,
            hold_max_bytes: DEFAULT_HOLD_MAX_BYTES,
            hold_max_requests_total: None,
            hold_max_requests_per_org: None,
            hold_max_bytes_total: None,
            hold_max_bytes_per_org: None,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            http_threads: available_parallelism()
                .map_or(1, NonZero::get)
                .min(MAX_HTTP_THREADS),
            max_connects_per_replica: DEFAULT_MAX_CONNECTS_PER_REPLICA,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            stop_grace: DEFAULT_STOP_GRACE,
            pids_limit: DEFAULT_PIDS_LIMIT,
            storage_ttl: DEFAULT_STORAGE_TTL,
            image_versions_kept: DEFAULT_IMAGE_VERSIONS_KEPT,
            image_keep_for: DEFAULT_IMAGE_KEEP_FOR,
            upkeep_interval: DEFAULT_UPKEEP_INTERVAL,
            scratch_percent: DEFAULT_SCRATCH_PERCENT,
            allowed_caps: Capabilities::of_docker(),
            home_copy_files: DEFAULT_HOME_COPY_FILES,
            home_copy_bytes: DEFAULT_HOME_COPY_BYTES,
            container_log_max_bytes: DEFAULT_CONTAINER_LOG_MAX_BYTES,
            container_log_files: DEFAULT_CONTAINER_LOG_FILES,
            disk_quota_per_org: None,
            inode_quota_per_org: None,
            apps_max_per_org: DEFAULT_APPS_MAX_PER_ORG,
            hosts_max_per_app: DEFAULT_HOSTS_MAX_PER_APP,
            versions_max_per_app: DEFAULT_VERSIONS_MAX_PER_APP,
            stored_bytes_per_org: None,
            disk_interval: DEFAULT_DISK_INTERVAL,
            start_retry_initial: DEFAULT_START_RETRY_INITIAL,
            start_retry_max: DEFAULT_START_RETRY_MAX,
            readiness_poll_initial: DEFAULT_READINESS_POLL_INITIAL,
            readiness_poll_max: DEFAULT_READINESS_POLL_MAX,
            reconcile_interval: DEFAULT_RECONCILE_INTERVAL,
            execution_queue_max: DEFAULT_EXECUTION_QUEUE_MAX,
            execution_concurrency: DEFAULT_EXECUTION_CONCURRENCY,
            execution_max_running: DEFAULT_EXECUTION_MAX_RUNNING,
            execution_max_running_per_org: None,
            max_result_bytes: DEFAULT_MAX_BODY_BYTES,
            execution_output_bytes: MIB,
            execution_journal_bytes: 64 * MIB,
            execution_retry_initial: DEFAULT_EXECUTION_RETRY_INITIAL,
            execution_retry_max: DEFAULT_EXECUTION_RETRY_MAX,
            execution_retention: DEFAULT_EXECUTION_RETENTION,
            execution_max_per_app: DEFAULT_EXECUTION_MAX_PER_APP,
            retention_interval: DEFAULT_RETENTION_INTERVAL,
            clock_settle: crate::clock::SETTLE,
            min_free_disk_bytes: DEFAULT_MIN_FREE_DISK_BYTES,
            log_max_lines: DEFAULT_LOG_MAX_LINES,
            log_max_bytes: DEFAULT_LOG_MAX_BYTES,
            test_max_running: DEFAULT_TEST_MAX_RUNNING,
            test_max_running_per_org: None,
            max_code_bytes: DEFAULT_MAX_CODE_BYTES,
            code_max_unpacked_bytes: DEFAULT_CODE_MAX_UNPACKED_BYTES,
            code_max_files: DEFAULT_CODE_MAX_FILES,
            code_max_ratio: DEFAULT_CODE_MAX_RATIO,
            code_max_depth: DEFAULT_CODE_MAX_DEPTH,
            code_max_path_bytes: DEFAULT_CODE_MAX_PATH_BYTES,
            code_max_links: DEFAULT_CODE_MAX_LINKS,
            build_concurrency: DEFAULT_BUILD_CONCURRENCY,
            build_concurrency_per_org: None,
            build_queue_max: DEFAULT_BUILD_QUEUE_MAX,
            build_queue_max_per_org: None,
            build_timeout: DEFAULT_BUILD_TIMEOUT,
            build_log_bytes: DEFAULT_BUILD_LOG_BYTES,
            build_logs_kept: DEFAULT_BUILD_LOGS_KEPT,
            build_logs_bytes: DEFAULT_BUILD_LOGS_BYTES,
            build_network: None,
            build_egress: EgressAllow::PUBLIC,
            build_allow: Networks::default(),
            build_memory: 0,
            build_cpu_millicores: 0,
            build_cgroup_parent: None,
            image_grant_ttl: DEFAULT_IMAGE_GRANT_TTL,
            git_file_urls: None,
            python_base: DEFAULT_PYTHON_BASE.to_owned(),
            deno_base: DEFAULT_DENO_BASE.to_owned(),
            rust_builder: DEFAULT_RUST_BUILDER.to_owned(),
            rust_base: DEFAULT_RUST_BASE.to_owned(),
            go_builder: DEFAULT_GO_BUILDER.to_owned(),
            go_base: DEFAULT_GO_BASE.to_owned(),
            pip_index_url: None,
            git_timeout: DEFAULT_GIT_TIMEOUT,
            standby: Standby::Pause,
            standby_pause_for: DEFAULT_STANDBY_PAUSE_FOR,
            standby_memory: DEFAULT_STANDBY_MEMORY,
            teardown_after: DEFAULT_TEARDOWN_AFTER,
            memory_budget: 0,
            memory_budget_per_org: None,
            replica_budget: 0,
            replica_budget_per_org: None,
            room_wait: DEFAULT_ROOM_WAIT,
            freezer: Freezer::Auto,
            liveness_interval: DEFAULT_LIVENESS_INTERVAL,
            liveness_timeout: DEFAULT_LIVENESS_TIMEOUT,
            liveness_failures: DEFAULT_LIVENESS_FAILURES,
            wrong_port_timeout: DEFAULT_WRONG_PORT_TIMEOUT,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_per_ip: None,
            reserved_connections: DEFAULT_RESERVED_CONNECTIONS,
            max_headers: DEFAULT_MAX_HEADERS,
            max_header_bytes: DEFAULT_MAX_HEADER_BYTES,
            header_read_timeout: DEFAULT_HEADER_READ_TIMEOUT,
            keep_alive_timeout: DEFAULT_KEEP_ALIVE_TIMEOUT,
            max_streams: DEFAULT_MAX_STREAMS,
            max_in_flight_per_app: DEFAULT_MAX_IN_FLIGHT_PER_APP,
            max_in_flight_per_org: None,
            max_request_body_bytes: 0,
            client_stall_timeout: DEFAULT_CLIENT_STALL_TIMEOUT,
            half_closed_timeout: DEFAULT_HALF_CLOSED_TIMEOUT,
            api_buffer_bytes: DEFAULT_API_BUFFER_BYTES,
            api_buffer_bytes_per_org: DEFAULT_API_BUFFER_BYTES_PER_ORG,
            mcp_message_bytes: DEFAULT_MCP_MESSAGE_BYTES,
            decode_concurrency: DEFAULT_DECODE_CONCURRENCY,
            metrics_addr: None,
            metrics_apps_max: Apps::DEFAULT_MAX,
            trusted_proxies: Proxies::loopback(),
            api_hosts: ApiHosts::default(),
            app_paths: true,
            anonymous_streams: DEFAULT_ANONYMOUS_STREAMS,
            anonymous_stream_time: DEFAULT_ANONYMOUS_STREAM_TIME,
            log_format: LogFormat::Plain,
            log_level: "info".to_owned(),
            app_calls: AppCalls::default(),
            tokens: Tokens::default(),
            otlp: Otlp::default(),
        }
    }
}
