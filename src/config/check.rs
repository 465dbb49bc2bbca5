//! What no single value shows to be wrong.

use super::{Config, Invalid, Reach, forms};

/// The least buffer that the HTTP library works with.
const MIN_HEADER_BYTES: u64 = 8 * 1024;
/// No build step gets along with less.
const MIN_BUILD_MEMORY: u64 = 64 * 1024 * 1024;
/// More than any machine has use for, and few enough to be started.
pub(super) const MAX_HTTP_THREADS: usize = 256;

/// Deepest tree that can be gone through on a thread's stack.
const MAX_DEPTH: usize = 500;
/// Longest path within a tree that can be unpacked below the data directory.
const MAX_PATH_BYTES: usize = 3072;

impl Config {
    /// Checks what no single value shows.
    ///
    /// # Errors
    /// Every relation that does not hold, each in a sentence that names both sides.
    pub fn validate(&self) -> Result<(), Invalid> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, otherwise: &str| {
            if !holds {
                problems.push(otherwise.to_owned());
            }
        };
        require(
            self.http_addr != self.grpc_addr || self.http_addr.port() == 0,
            "http_addr and grpc_addr are the same; HTTP and gRPC listen on sockets of their own",
        );
        require(
            forms::is_domain(&self.base_domain),
            "base_domain must be a domain of lower-case labels without a dot at either end, such as ignite.localhost",
        );
        require(
            !(self.ephemeral && self.keep_replicas),
            "ephemeral keeps nothing and keep_replicas keeps containers; set one of them",
        );
        require(
            self.max_replicas_cap > 0,
            "max_replicas_cap must be at least 1",
        );
        require(
            self.test_max_running > 0,
            "test_max_running must be at least 1",
        );
        let images = [
            &self.python_base,
            &self.deno_base,
            &self.rust_builder,
            &self.rust_base,
            &self.go_builder,
            &self.go_base,
        ];
        require(
            images
                .iter()
                .all(|i| !i.is_empty() && !i.contains(char::is_whitespace)),
            "python_base, deno_base, rust_builder, rust_base, go_builder and go_base must be references of images, such as python:3.12-slim",
        );
        let reaches_host = |network: &str| {
            matches!(network, "host" | "bridge" | "default") || network.starts_with("container:")
        };
        require(
            !self.trust.isolates_host() || !self.build_network.as_deref().is_some_and(reaches_host),
            "build_network reaches this machine, which trust team and tenants rule out; name a network of your own whose rules keep builds from it, or leave it out and list in build_egress what builds are to reach",
        );
        require(
            self.build_memory == 0 || self.build_memory >= MIN_BUILD_MEMORY,
            "build_memory must be 0 or at least 64MiB",
        );
        require(
            self.build_cpu_millicores == 0 || self.build_cpu_millicores >= 100,
            "build_cpu_millicores must be 0 or at least 100",
        );
        require(
            self.reach != Reach::Published || !self.trust.isolates_host(),
            "reach published is for an engine elsewhere, and trust team and tenants are for one on this machine; leave reach out",
        );
        require(
            self.network.is_none() || !self.trust.isolates_host(),
            "network would lead apps past the rules of trust team and tenants; leave it out, and list in egress_allow what apps are to reach, such as 10.0.0.5:5432",
        );
        require(
            self.build_concurrency > 0,
            "build_concurrency must be at least 1",
        );
        require(
            self.max_code_bytes > 0 && self.code_max_unpacked_bytes > 0,
            "max_code_bytes and code_max_unpacked_bytes must be at least 1",
        );
        require(
            self.code_max_files > 0 && self.code_max_ratio > 0,
            "code_max_files and code_max_ratio must be at least 1",
        );
        require(
            (1..=MAX_DEPTH).contains(&self.code_max_depth),
            "code_max_depth must be from 1 to 500, since trees are gone through by recursion",
        );
        require(
            (1..=MAX_PATH_BYTES).contains(&self.code_max_path_bytes),
            "code_max_path_bytes must be from 1 to 3072: the kernel takes paths of 4096 bytes, and the tree is unpacked below a path of its own",
        );
        require(
            self.hold_max_requests > 0,
            "hold_max_requests must be at least 1",
        );
        require(
            (1..=MAX_HTTP_THREADS).contains(&self.http_threads),
            "http_threads must be from 1 to 256",
        );
        require(
            self.max_connects_per_replica > 0,
            "max_connects_per_replica must be at least 1",
        );
        require(
            self.liveness_failures > 0,
            "liveness_failures must be at least 1; liveness_interval 0 turns the probes off",
        );
        for (name, value) in [
            ("apps_max_per_org", self.apps_max_per_org),
            ("versions_max_per_app", self.versions_max_per_app),
            ("max_connections", self.max_connections),
            ("decode_concurrency", self.decode_concurrency),
            ("max_headers", self.max_headers),
            ("anonymous_streams", self.anonymous_streams),
            ("max_streams", self.max_streams as usize),
            ("max_in_flight_per_app", self.max_in_flight_per_app),
        ] {
            require(value > 0, &format!("{name} must be at least 1"));
        }
        require(
            self.max_header_bytes >= MIN_HEADER_BYTES,
            "max_header_bytes must be at least 8KiB, the least buffer of a connection",
        );
        require(
            self.keep_alive_timeout <= self.header_read_timeout,
            "keep_alive_timeout must not be longer than header_read_timeout, which runs on an idle HTTP/1.1 connection as well",
        );
        require(self.pids_limit > 0, "pids_limit must be at least 1");
        require(
            (1..=100).contains(&self.scratch_percent),
            "scratch_percent must be between 1 and 100",
        );
        require(self.max_body_bytes > 0, "max_body_bytes must be at least 1");
        require(
            self.hold_max_bytes >= self.max_body_bytes,
            "hold_max_bytes must be at least max_body_bytes, or a large request could never wait for a start",
        );
        for (name, value) in [
            ("hold_max_bytes_total", self.hold_max_bytes_total),
            ("hold_max_bytes_per_org", self.hold_max_bytes_per_org),
        ] {
            require(
                value.is_none_or(|bytes| bytes >= self.max_body_bytes),
                &format!(
                    "{name} must be at least max_body_bytes, or a large request could never wait for a start"
                ),
            );
        }
        require(
            self.container_log_max_bytes > 0,
            "container_log_max_bytes must be at least 1",
        );
        require(
            self.container_log_files > 0,
            "container_log_files must be at least 1",
        );
        require(
            self.execution_queue_max > 0,
            "execution_queue_max must be at least 1",
        );
        require(
            self.execution_concurrency > 0 && self.execution_max_running > 0,
            "execution_concurrency and execution_max_running must be at least 1",
        );
        for (name, value) in [
            (
                "execution_max_running_per_org",
                self.execution_max_running_per_org,
            ),
            ("build_concurrency_per_org", self.build_concurrency_per_org),
            ("test_max_running_per_org", self.test_max_running_per_org),
            ("max_in_flight_per_org", self.max_in_flight_per_org),
            ("hold_max_requests_total", self.hold_max_requests_total),
            ("hold_max_requests_per_org", self.hold_max_requests_per_org),
        ] {
            require(value != Some(0), &format!("{name} must be at least 1"));
        }
        require(
            self.execution_max_per_app > 0 && self.execution_journal_bytes > 0,
            "execution_max_per_app and execution_journal_bytes must be at least 1",
        );
        require(
            self.execution_retry_initial <= self.execution_retry_max,
            "execution_retry_initial must not be longer than execution_retry_max",
        );
        for (name, value) in [
            ("execution_retry_initial", self.execution_retry_initial),
            ("execution_retention_secs", self.execution_retention),
            ("retention_interval", self.retention_interval),
            ("header_read_timeout", self.header_read_timeout),
            ("keep_alive_timeout", self.keep_alive_timeout),
            ("anonymous_stream_time", self.anonymous_stream_time),
            ("cold_start_budget_secs", self.cold_start_budget),
            ("startup_timeout_secs", self.startup_timeout),
            ("app_timeout_secs", self.app_timeout),
            ("start_retry_initial", self.start_retry_initial),
            ("readiness_poll_initial", self.readiness_poll_initial),
            ("reconcile_interval", self.reconcile_interval),
            ("liveness_timeout", self.liveness_timeout),
            ("teardown_after", self.teardown_after),
            ("storage_ttl_secs", self.storage_ttl),
            ("upkeep_interval", self.upkeep_interval),
            ("lease_interval", self.lease_interval),
            ("build_timeout_secs", self.build_timeout),
            ("git_timeout_secs", self.git_timeout),
            ("image_grant_ttl", self.image_grant_ttl),
            ("credential_helper_timeout", self.credential_helper_timeout),
        ] {
            require(!value.is_zero(), &format!("{name} must be more than 0"));
        }
        require(
            self.start_retry_initial <= self.start_retry_max,
            "start_retry_initial must not be longer than start_retry_max",
        );
        require(
            self.readiness_poll_initial <= self.readiness_poll_max,
            "readiness_poll_initial must not be longer than readiness_poll_max",
        );
        require(
            self.readiness_poll_max < self.startup_timeout,
            "readiness_poll_max must be shorter than startup_timeout_secs, or a start would time out between two probes",
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Invalid { problems })
        }
    }
}
