//! Checks of the relations between settings, and of bounds that no text form knows.

use std::{net::SocketAddr, time::Duration};

use http::Uri;

use super::{Config, Invalid, MAX_TOKEN_TTL, Reach, forms};

/// The smallest buffer that the HTTP library works with.
const MIN_HEADER_BYTES: u64 = 8 * 1024;
/// Least memory that a build step can run with.
const MIN_BUILD_MEMORY: u64 = 64 * 1024 * 1024;
/// More than any machine has use for, and few enough to be started.
pub(super) const MAX_HTTP_THREADS: usize = 256;

/// The deepest tree that can be walked on a thread's stack.
const MAX_DEPTH: usize = 500;
/// The longest path within a tree that can be unpacked below the data directory.
const MAX_PATH_BYTES: usize = 3072;

/// More than synchronized clocks ever differ by.
const MAX_SKEW: Duration = Duration::from_secs(600);
/// The least that a log of two files in two parts can be kept in.
const MIN_AUDIT_BYTES: u64 = 64 * 1024;

/// The faults of a configuration, a sentence each.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn require(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.0.push(otherwise.to_owned());
        }
    }

    /// Refuses settings that are 0.
    fn require_at_least_one(&mut self, settings: &[(&str, u64)]) {
        for (name, value) in settings {
            self.require(*value > 0, &format!("{name} must be at least 1"));
        }
    }

    /// Refuses settings that are given as 0; unset, they default to at least 1.
    fn require_at_least_one_if_given(&mut self, settings: &[(&str, Option<usize>)]) {
        for (name, value) in settings {
            self.require(*value != Some(0), &format!("{name} must be at least 1"));
        }
    }

    /// Refuses times of 0.
    fn require_some_time(&mut self, settings: &[(&str, Duration)]) {
        for (name, value) in settings {
            self.require(!value.is_zero(), &format!("{name} must be more than 0"));
        }
    }
}

impl Config {
    /// Checks what no single value shows.
    ///
    /// # Errors
    /// Every relation that does not hold, each in a sentence that names both sides.
    pub fn validate(&self) -> Result<(), Invalid> {
        let mut problems = Problems::default();
        self.check_addresses(&mut problems);
        self.check_isolation(&mut problems);
        self.check_counts(&mut problems);
        self.check_times(&mut problems);
        self.check_builds(&mut problems);
        self.check_code(&mut problems);
        self.check_http(&mut problems);
        self.check_request_sizes(&mut problems);
        self.check_containers(&mut problems);
        self.check_executions(&mut problems);
        self.check_tokens(&mut problems);
        let problems = problems.0;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Invalid { problems })
        }
    }

    /// An address at which other machines reach a server that trusts everyone who deploys to it;
    /// `None` when it listens on this machine alone, or isolates its host.
    pub fn exposed(&self) -> Option<SocketAddr> {
        let listens = [
            Some(self.http_addr),
            Some(self.grpc_addr),
            self.https_addr(),
        ];
        let mut listens = listens.into_iter().flatten();
        let open = listens.find(|addr| !addr.ip().is_loopback());
        open.filter(|_| !self.trust.isolates_host())
    }

    fn check_addresses(&self, problems: &mut Problems) {
        problems.require(
            self.http_addr != self.grpc_addr || self.http_addr.port() == 0,
            "http_addr and grpc_addr are the same; HTTP and gRPC need separate sockets",
        );
        let is_taken = |https: SocketAddr| {
            https.port() != 0 && (https == self.http_addr || https == self.grpc_addr)
        };
        problems.require(
            !self.https_addr().is_some_and(is_taken),
            "https_addr is the address of another listener; HTTPS needs a separate one",
        );
        for problem in self.app_calls.problems() {
            problems.require(false, problem);
        }
        for problem in self.otlp.problems() {
            problems.require(false, &problem);
        }
        for problem in self.tls.problems() {
            problems.require(false, problem);
        }
        if let Some((setting, addr)) = self.unencrypted() {
            problems.require(
                false,
                &format!("{setting} {addr} is reachable from other machines, and tokens would travel unencrypted; give certificates (--tls-cert FILE --tls-key FILE, or --tls local for a local authority), or pass --insecure-http (IGNITE_INSECURE_HTTP=1) where a TLS proxy in front or a private network protects them"),
            );
        }
        problems.require(
            forms::is_domain(&self.base_domain),
            "base_domain must be a domain of lower-case labels without a dot at either end, such as ignite.localhost",
        );
    }

    /// Refuses settings that would let apps and builds bypass the rules that isolate this machine.
    fn check_isolation(&self, problems: &mut Problems) {
        if !self.trust.isolates_host() {
            return;
        }
        let reaches_host = |network: &str| {
            matches!(network, "host" | "bridge" | "default") || network.starts_with("container:")
        };
        problems.require(
            !self.build_network.as_deref().is_some_and(reaches_host),
            "build_network reaches this machine, which trust team and tenants rule out; name a network of your own whose rules keep builds from it, or leave it out and list in build_egress what builds are to reach",
        );
        problems.require(
            self.reach != Reach::Published,
            "reach published is for an engine elsewhere, and trust team and tenants are for one on this machine; leave reach out",
        );
        problems.require(
            self.network.is_none(),
            "network would lead apps past the rules of trust team and tenants; leave it out, and list in egress_allow what apps are to reach, such as 10.0.0.5:5432",
        );
    }

    fn check_counts(&self, problems: &mut Problems) {
        problems.require_at_least_one(&[
            ("max_replicas_cap", self.max_replicas_cap.into()),
            ("test_max_running", self.test_max_running as u64),
            ("apps_max_per_org", self.apps_max_per_org as u64),
            ("versions_max_per_app", self.versions_max_per_app as u64),
            ("build_concurrency", self.build_concurrency as u64),
            ("hold_max_requests", self.hold_max_requests as u64),
            ("max_connections", self.max_connections as u64),
            (
                "max_connects_per_replica",
                self.max_connects_per_replica as u64,
            ),
            ("decode_concurrency", self.decode_concurrency as u64),
            ("max_headers", self.max_headers as u64),
            ("anonymous_streams", self.anonymous_streams as u64),
            ("mcp_message_bytes", self.mcp_message_bytes),
            ("max_streams", self.max_streams.into()),
            ("max_in_flight_per_app", self.max_in_flight_per_app as u64),
            ("execution_queue_max", self.execution_queue_max as u64),
        ]);
        problems.require_at_least_one_if_given(&[
            (
                "execution_max_running_per_org",
                self.execution_max_running_per_org,
            ),
            ("build_concurrency_per_org", self.build_concurrency_per_org),
            ("test_max_running_per_org", self.test_max_running_per_org),
            ("max_in_flight_per_org", self.max_in_flight_per_org),
            ("hold_max_requests_total", self.hold_max_requests_total),
            ("hold_max_requests_per_org", self.hold_max_requests_per_org),
        ]);
    }

    fn check_times(&self, problems: &mut Problems) {
        problems.require_some_time(&[
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
        ]);
        problems.require(
            self.start_retry_initial <= self.start_retry_max,
            "start_retry_initial must not be longer than start_retry_max",
        );
        problems.require(
            self.readiness_poll_initial <= self.readiness_poll_max,
            "readiness_poll_initial must not be longer than readiness_poll_max",
        );
        problems.require(
            self.readiness_poll_max < self.startup_timeout,
            "readiness_poll_max must be shorter than startup_timeout_secs, or a start would time out between two probes",
        );
    }

    fn check_builds(&self, problems: &mut Problems) {
        let images = [
            &self.python_base,
            &self.deno_base,
            &self.rust_builder,
            &self.rust_base,
            &self.go_builder,
            &self.go_base,
        ];
        problems.require(
            images
                .iter()
                .all(|i| !i.is_empty() && !i.contains(char::is_whitespace)),
            "python_base, deno_base, rust_builder, rust_base, go_builder and go_base must be references of images, such as python:3.12-slim",
        );
        problems.require(
            self.build_memory == 0 || self.build_memory >= MIN_BUILD_MEMORY,
            "build_memory must be 0 or at least 64MiB",
        );
        problems.require(
            self.build_cpu_millicores == 0 || self.build_cpu_millicores >= 100,
            "build_cpu_millicores must be 0 or at least 100",
        );
    }

    /// Checks the bounds on source trees.
    fn check_code(&self, problems: &mut Problems) {
        problems.require(
            self.max_code_bytes > 0 && self.code_max_unpacked_bytes > 0,
            "max_code_bytes and code_max_unpacked_bytes must be at least 1",
        );
        problems.require(
            self.code_max_files > 0 && self.code_max_ratio > 0,
            "code_max_files and code_max_ratio must be at least 1",
        );
        problems.require(
            (1..=MAX_DEPTH).contains(&self.code_max_depth),
            "code_max_depth must be from 1 to 500, since trees are gone through by recursion",
        );
        problems.require(
            (1..=MAX_PATH_BYTES).contains(&self.code_max_path_bytes),
            "code_max_path_bytes must be from 1 to 3072: the kernel takes paths of 4096 bytes, and the tree is unpacked below another path",
        );
    }

    fn check_http(&self, problems: &mut Problems) {
        problems.require(
            (1..=MAX_HTTP_THREADS).contains(&self.http_threads),
            "http_threads must be from 1 to 256",
        );
        problems.require(
            self.max_header_bytes >= MIN_HEADER_BYTES,
            "max_header_bytes must be at least 8KiB, the least buffer of a connection",
        );
        problems.require(
            self.keep_alive_timeout <= self.header_read_timeout,
            "keep_alive_timeout must not be longer than header_read_timeout, which runs on an idle HTTP/1.1 connection as well",
        );
    }

    /// Checks that every request that may be sent is also able to wait for a start.
    fn check_request_sizes(&self, problems: &mut Problems) {
        problems.require(self.max_body_bytes > 0, "max_body_bytes must be at least 1");
        for (name, value) in [
            ("hold_max_bytes", Some(self.hold_max_bytes)),
            ("hold_max_bytes_total", self.hold_max_bytes_total),
            ("hold_max_bytes_per_org", self.hold_max_bytes_per_org),
        ] {
            problems.require(
                value.is_none_or(|bytes| bytes >= self.max_body_bytes),
                &format!(
                    "{name} must be at least max_body_bytes, or a large request could never wait for a start"
                ),
            );
        }
    }

    fn check_containers(&self, problems: &mut Problems) {
        problems.require(
            !(self.ephemeral && self.keep_replicas),
            "ephemeral keeps nothing and keep_replicas keeps containers; set one of them",
        );
        problems.require(
            self.liveness_failures > 0,
            "liveness_failures must be at least 1; liveness_interval 0 turns the probes off",
        );
        problems.require(self.pids_limit > 0, "pids_limit must be at least 1");
        problems.require(
            (1..=100).contains(&self.scratch_percent),
            "scratch_percent must be between 1 and 100",
        );
        problems.require(
            self.container_log_max_bytes > 0,
            "container_log_max_bytes must be at least 1",
        );
        problems.require(
            self.container_log_files > 0,
            "container_log_files must be at least 1",
        );
    }

    fn check_tokens(&self, problems: &mut Problems) {
        let tokens = &self.tokens;
        problems.require(
            tokens.ttl >= Duration::from_secs(1) && tokens.ttl <= MAX_TOKEN_TTL,
            "token_ttl must be from 1s to 24h; for one that lives longer there is `ignite token create --ttl`",
        );
        problems.require(
            tokens.skew <= MAX_SKEW,
            "clock_skew must not be longer than 10m: expired tokens are taken for as long",
        );
        problems.require(
            tokens.audience.as_deref() != Some(""),
            "token_audience must not be empty; leave it out to demand none",
        );
        problems.require(
            tokens.issuer.as_deref().is_none_or(is_issuer),
            "token_issuer must be an http or https URL that ends in /realms/dodil, such as https://id.example.com/realms/dodil",
        );
        problems.require(
            tokens.issuer_refresh >= Duration::from_secs(10),
            "oidc_refresh must be at least 10s",
        );
        problems.require(
            tokens.issuer_ca.as_deref() != Some(""),
            "oidc_ca must not be empty; leave it out to trust the system's authorities alone",
        );
        problems.require(tokens.secret_checks > 0, "secret_checks must be at least 1");
        problems.require(
            tokens.audit_max_bytes == 0 || tokens.audit_max_bytes >= MIN_AUDIT_BYTES,
            "audit_max_bytes must be 0 or at least 64KiB",
        );
        for issuer in tokens.issuers.iter().filter(|i| !i.is_private()) {
            problems.require(
                !self.trust.isolates_host(),
                &format!(
                    "oidc_issuers: the keys of {} would come without TLS, so an attacker on the way could sign tokens; use https (plain http is for this machine, and for a sandbox)",
                    issuer.url
                ),
            );
        }
    }

    fn check_executions(&self, problems: &mut Problems) {
        problems.require(
            self.execution_concurrency > 0 && self.execution_max_running > 0,
            "execution_concurrency and execution_max_running must be at least 1",
        );
        problems.require(
            self.execution_max_per_app > 0 && self.execution_journal_bytes > 0,
            "execution_max_per_app and execution_journal_bytes must be at least 1",
        );
        problems.require(
            self.execution_retry_initial <= self.execution_retry_max,
            "execution_retry_initial must not be longer than execution_retry_max",
        );
    }
}

/// Whether a text is an issuer of tokens made here.
fn is_issuer(url: &str) -> bool {
    let parsed = url.parse::<Uri>().ok();
    let is_web = parsed.is_some_and(|u| {
        matches!(u.scheme_str(), Some("http" | "https"))
            && u.host().is_some()
            && u.query().is_none()
    });
    is_web && url.ends_with("/realms/dodil")
}
