//! The layers of the configuration and the table of settings.
//!
//! A layer is raw text by setting, with its origin. The highest layer that has a setting wins, and
//! only that value is parsed and reported when it is wrong.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::{
    AppCalls, Config, Otlp, Tls, Tokens,
    forms::{
        Bytes, Count, Form, Hidden, Listen, Maybe, MaybeBytes, MaybeListen, Path, Plain, Secs,
        Span, Switch,
    },
};

/// Where variables come from: the process's environment, or a test's closure.
pub trait Source {
    /// The variable's value; `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Source for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// The process's environment. Text that is not UTF-8 gets replacement characters, which the checks
/// then show.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Config {
    /// The variable of a setting, by its name in the file.
    pub fn variable_of(name: &str) -> Option<&'static str> {
        let found = SETTINGS.iter().find(|(setting, _)| *setting == name);
        found.map(|(_, variable)| *variable)
    }

    /// Whether the data directory is the default one.
    pub fn data_dir_is_default(&self) -> bool {
        default_data_dir(&process_env).is_some_and(|default| default == self.data_dir)
    }
}

/// A configuration that cannot be used, with all its faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// One sentence per problem, with the setting and its origin.
    pub problems: Vec<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        self.problems
            .iter()
            .try_for_each(|p| write!(f, "\n  - {p}"))
    }
}

/// The settings from the command line: an overlay in which everything is optional.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    values: Vec<(String, String, String)>,
}

impl Flags {
    /// Sets one setting by its name in the file, if there is a value; a later call wins. `origin`
    /// is the flag as the user wrote it.
    pub fn set(&mut self, name: &str, value: Option<&str>, origin: &str) {
        if let Some(value) = value {
            self.values
                .push((name.to_owned(), value.to_owned(), origin.to_owned()));
        }
    }
}

/// The raw text of one setting, and its origin.
struct Raw {
    text: String,
    origin: String,
}

type Winners = BTreeMap<&'static str, Raw>;

macro_rules! settings {
    (
        $($field:ident = $name:literal, $env:literal, $form:ty;)*
        // Settings of one subject, in a struct of their own.
        $(@$group:ident: $type:ident {
            $($inner:ident = $inner_name:literal, $inner_env:literal, $inner_form:ty;)*
        })*
    ) => {
        /// The name in the file and the variable of every setting.
        const SETTINGS: &[(&str, &str)] = &[
            $(($name, $env),)*
            $($(($inner_name, $inner_env),)*)*
        ];

        fn apply(config: &mut Config, winners: &Winners, problems: &mut Vec<String>) {
            $(if let Some(raw) = winners.get($name) {
                match <$form>::parse(&raw.text) {
                    Ok(value) => config.$field = value,
                    Err(why) => problems.push(format!("{}: {why}", raw.origin)),
                }
            })*
            $($(if let Some(raw) = winners.get($inner_name) {
                match <$inner_form>::parse(&raw.text) {
                    Ok(value) => config.$group.$inner = value,
                    Err(why) => problems.push(format!("{}: {why}", raw.origin)),
                }
            })*)*
        }

        impl Config {
            /// The configuration as a TOML file that yields it; unset settings are comments.
            pub fn to_toml(&self) -> String {
                // Without `..`: a field that the table forgets does not compile.
                let Config { $($field,)* $($group,)* } = self;
                let mut out = String::new();
                $(match <$form>::show($field) {
                    Some(value) => out.push_str(&format!("{} = {value}\n", $name)),
                    None => out.push_str(&format!("# {} is not set\n", $name)),
                })*
                $({
                    let $type { $($inner,)* } = $group;
                    $(match <$inner_form>::show($inner) {
                        Some(value) => out.push_str(&format!("{} = {value}\n", $inner_name)),
                        None => out.push_str(&format!("# {} is not set\n", $inner_name)),
                    })*
                })*
                out
            }
        }
    };
}

settings! {
    http_addr = "http_addr", "IGNITE_HTTP_ADDR", Listen;
    grpc_addr = "grpc_addr", "IGNITE_API_LISTEN_ADDR", Listen;
    data_dir = "data_dir", "IGNITE_DATA_DIR", Path;
    base_domain = "base_domain", "IGNITE_BASE_DOMAIN", Plain;
    public_url = "public_url", "IGNITE_PUBLIC_URL", Maybe;
    ephemeral = "ephemeral", "IGNITE_EPHEMERAL", Switch;
    keep_replicas = "keep_replicas", "IGNITE_KEEP_REPLICAS", Switch;
    new_instance = "new_instance", "IGNITE_NEW_INSTANCE", Switch;
    lease_interval = "lease_interval", "IGNITE_LEASE_INTERVAL", Span;
    prune_after = "prune_after", "IGNITE_PRUNE_AFTER", Span;
    network = "network", "IGNITE_NETWORK", Maybe;
    reach = "reach", "IGNITE_REACH", Plain;
    strict = "strict", "IGNITE_STRICT", Switch;
    trust = "trust", "IGNITE_TRUST", Plain;
    egress_allow = "egress_allow", "IGNITE_EGRESS_ALLOW", Plain;
    seccomp = "seccomp", "IGNITE_SECCOMP", Maybe;
    ulimits = "ulimits", "IGNITE_ULIMITS", Maybe;
    runtime = "runtime", "IGNITE_RUNTIME", Maybe;
    allow_foreign_arch = "allow_foreign_arch", "IGNITE_ALLOW_FOREIGN_ARCH", Switch;
    docker_host = "docker_host", "DOCKER_HOST", Maybe;
    docker_config_auth = "docker_config_auth", "IGNITE_DOCKER_CONFIG_AUTH", Switch;
    credential_helper_timeout = "credential_helper_timeout", "IGNITE_CREDENTIAL_HELPER_TIMEOUT", Span;
    container_proxies = "container_proxies", "IGNITE_CONTAINER_PROXIES", Switch;
    default_org = "default_org", "IGNITE_DEFAULT_ORG", Plain;
    cold_start_budget = "cold_start_budget_secs", "IGNITE_COLD_START_BUDGET_SECS", Secs;
    startup_timeout = "startup_timeout_secs", "IGNITE_STARTUP_TIMEOUT_SECS", Secs;
    min_scaledown = "min_scaledown_secs", "IGNITE_MIN_SCALEDOWN_SECS", Secs;
    max_replicas_cap = "max_replicas_cap", "IGNITE_MAX_REPLICAS_CAP", Count;
    app_timeout = "app_timeout_secs", "IGNITE_APP_TIMEOUT_SECS", Secs;
    hold_max_requests = "hold_max_requests", "IGNITE_HOLD_MAX_REQUESTS", Count;
    hold_max_bytes = "hold_max_bytes", "IGNITE_HOLD_MAX_BYTES", Bytes;
    hold_max_requests_total = "hold_max_requests_total", "IGNITE_HOLD_MAX_REQUESTS_TOTAL", Maybe;
    hold_max_requests_per_org = "hold_max_requests_per_org", "IGNITE_HOLD_MAX_REQUESTS_PER_ORG", Maybe;
    hold_max_bytes_total = "hold_max_bytes_total", "IGNITE_HOLD_MAX_BYTES_TOTAL", MaybeBytes;
    hold_max_bytes_per_org = "hold_max_bytes_per_org", "IGNITE_HOLD_MAX_BYTES_PER_ORG", MaybeBytes;
    max_body_bytes = "max_body_bytes", "IGNITE_MAX_BODY_BYTES", Bytes;
    http_threads = "http_threads", "IGNITE_HTTP_THREADS", Count;
    max_connects_per_replica = "max_connects_per_replica", "IGNITE_MAX_CONNECTS_PER_REPLICA", Count;
    drain_timeout = "drain_timeout_secs", "IGNITE_DRAIN_TIMEOUT_SECS", Secs;
    stop_grace = "stop_grace_secs", "IGNITE_STOP_GRACE_SECS", Secs;
    storage_ttl = "storage_ttl_secs", "IGNITE_STORAGE_TTL_SECS", Secs;
    image_versions_kept = "image_versions_kept", "IGNITE_IMAGE_VERSIONS_KEPT", Count;
    image_keep_for = "image_keep_for", "IGNITE_IMAGE_KEEP_FOR", Span;
    upkeep_interval = "upkeep_interval", "IGNITE_UPKEEP_INTERVAL", Span;
    scratch_percent = "scratch_percent", "IGNITE_SCRATCH_PERCENT", Count;
    allowed_caps = "allowed_caps", "IGNITE_ALLOWED_CAPS", Plain;
    home_copy_files = "home_copy_files", "IGNITE_HOME_COPY_FILES", Count;
    home_copy_bytes = "home_copy_bytes", "IGNITE_HOME_COPY_BYTES", Bytes;
    pids_limit = "pids_limit", "IGNITE_PIDS_LIMIT", Count;
    container_log_max_bytes = "container_log_max_bytes", "IGNITE_CONTAINER_LOG_MAX_BYTES", Bytes;
    container_log_files = "container_log_files", "IGNITE_CONTAINER_LOG_FILES", Count;
    disk_quota_per_org = "disk_quota_per_org", "IGNITE_DISK_QUOTA_PER_ORG", MaybeBytes;
    inode_quota_per_org = "inode_quota_per_org", "IGNITE_INODE_QUOTA_PER_ORG", Maybe;
    apps_max_per_org = "apps_max_per_org", "IGNITE_APPS_MAX_PER_ORG", Count;
    hosts_max_per_app = "hosts_max_per_app", "IGNITE_HOSTS_MAX_PER_APP", Count;
    versions_max_per_app = "versions_max_per_app", "IGNITE_VERSIONS_MAX_PER_APP", Count;
    stored_bytes_per_org = "stored_bytes_per_org", "IGNITE_STORED_BYTES_PER_ORG", MaybeBytes;
    disk_interval = "disk_interval", "IGNITE_DISK_INTERVAL", Span;
    start_retry_initial = "start_retry_initial", "IGNITE_START_RETRY_INITIAL", Span;
    start_retry_max = "start_retry_max", "IGNITE_START_RETRY_MAX", Span;
    readiness_poll_initial = "readiness_poll_initial", "IGNITE_READINESS_POLL_INITIAL", Span;
    readiness_poll_max = "readiness_poll_max", "IGNITE_READINESS_POLL_MAX", Span;
    reconcile_interval = "reconcile_interval", "IGNITE_RECONCILE_INTERVAL", Span;
    execution_queue_max = "execution_queue_max", "IGNITE_EXECUTION_QUEUE_MAX", Count;
    execution_concurrency = "execution_concurrency", "IGNITE_EXECUTION_CONCURRENCY", Count;
    execution_max_running = "execution_max_running", "IGNITE_EXECUTION_MAX_RUNNING", Count;
    execution_max_running_per_org = "execution_max_running_per_org", "IGNITE_EXECUTION_MAX_RUNNING_PER_ORG", Maybe;
    max_result_bytes = "max_result_bytes", "IGNITE_MAX_RESULT_BYTES", Bytes;
    execution_output_bytes = "execution_output_bytes", "IGNITE_EXECUTION_OUTPUT_BYTES", Bytes;
    execution_journal_bytes = "execution_journal_bytes", "IGNITE_EXECUTION_JOURNAL_BYTES", Bytes;
    execution_retry_initial = "execution_retry_initial", "IGNITE_EXECUTION_RETRY_INITIAL", Span;
    execution_retry_max = "execution_retry_max", "IGNITE_EXECUTION_RETRY_MAX", Span;
    execution_retention = "execution_retention_secs", "IGNITE_EXECUTION_RETENTION_SECS", Secs;
    execution_max_per_app = "execution_max_per_app", "IGNITE_EXECUTION_MAX_PER_APP", Count;
    retention_interval = "retention_interval", "IGNITE_RETENTION_INTERVAL", Span;
    clock_settle = "clock_settle", "IGNITE_CLOCK_SETTLE", Span;
    min_free_disk_bytes = "min_free_disk_bytes", "IGNITE_MIN_FREE_DISK_BYTES", Bytes;
    log_max_lines = "log_max_lines", "IGNITE_LOG_MAX_LINES", Count;
    test_max_running = "test_max_running", "IGNITE_TEST_MAX_RUNNING", Count;
    test_max_running_per_org = "test_max_running_per_org", "IGNITE_TEST_MAX_RUNNING_PER_ORG", Maybe;
    log_max_bytes = "log_max_bytes", "IGNITE_LOG_MAX_BYTES", Bytes;
    max_code_bytes = "max_code_bytes", "IGNITE_MAX_CODE_BYTES", Bytes;
    code_max_unpacked_bytes = "code_max_unpacked_bytes", "IGNITE_CODE_MAX_UNPACKED_BYTES", Bytes;
    code_max_files = "code_max_files", "IGNITE_CODE_MAX_FILES", Count;
    code_max_ratio = "code_max_ratio", "IGNITE_CODE_MAX_RATIO", Count;
    code_max_depth = "code_max_depth", "IGNITE_CODE_MAX_DEPTH", Count;
    code_max_path_bytes = "code_max_path_bytes", "IGNITE_CODE_MAX_PATH_BYTES", Count;
    code_max_links = "code_max_links", "IGNITE_CODE_MAX_LINKS", Count;
    build_concurrency = "build_concurrency", "IGNITE_BUILD_CONCURRENCY", Count;
    build_concurrency_per_org = "build_concurrency_per_org", "IGNITE_BUILD_CONCURRENCY_PER_ORG", Maybe;
    build_queue_max = "build_queue_max", "IGNITE_BUILD_QUEUE_MAX", Count;
    build_queue_max_per_org = "build_queue_max_per_org", "IGNITE_BUILD_QUEUE_MAX_PER_ORG", Maybe;
    build_timeout = "build_timeout_secs", "IGNITE_BUILD_TIMEOUT_SECS", Secs;
    build_log_bytes = "build_log_bytes", "IGNITE_BUILD_LOG_BYTES", Bytes;
    build_logs_kept = "build_logs_kept", "IGNITE_BUILD_LOGS_KEPT", Count;
    build_logs_bytes = "build_logs_bytes", "IGNITE_BUILD_LOGS_BYTES", Bytes;
    build_network = "build_network", "IGNITE_BUILD_NETWORK", Maybe;
    build_egress = "build_egress", "IGNITE_BUILD_EGRESS", Plain;
    build_allow = "build_allow", "IGNITE_BUILD_ALLOW", Plain;
    build_memory = "build_memory", "IGNITE_BUILD_MEMORY", Bytes;
    build_cpu_millicores = "build_cpu_millicores", "IGNITE_BUILD_CPU_MILLICORES", Count;
    build_cgroup_parent = "build_cgroup_parent", "IGNITE_BUILD_CGROUP_PARENT", Maybe;
    image_grant_ttl = "image_grant_ttl", "IGNITE_IMAGE_GRANT_TTL", Span;
    git_file_urls = "git_file_urls", "IGNITE_GIT_FILE_URLS", Maybe;
    python_base = "python_base", "IGNITE_PYTHON_BASE", Plain;
    deno_base = "deno_base", "IGNITE_DENO_BASE", Plain;
    rust_builder = "rust_builder", "IGNITE_RUST_BUILDER", Plain;
    rust_base = "rust_base", "IGNITE_RUST_BASE", Plain;
    go_builder = "go_builder", "IGNITE_GO_BUILDER", Plain;
    go_base = "go_base", "IGNITE_GO_BASE", Plain;
    pip_index_url = "pip_index_url", "IGNITE_PIP_INDEX_URL", Maybe;
    git_timeout = "git_timeout_secs", "IGNITE_GIT_TIMEOUT_SECS", Secs;
    standby = "standby", "IGNITE_STANDBY", Plain;
    standby_pause_for = "standby_pause_for", "IGNITE_STANDBY_PAUSE_FOR", Span;
    standby_memory = "standby_memory", "IGNITE_STANDBY_MEMORY", Bytes;
    teardown_after = "teardown_after", "IGNITE_TEARDOWN_AFTER", Span;
    memory_budget = "memory_budget", "IGNITE_MEMORY_BUDGET", Bytes;
    memory_budget_per_org = "memory_budget_per_org", "IGNITE_MEMORY_BUDGET_PER_ORG", MaybeBytes;
    replica_budget = "replica_budget", "IGNITE_REPLICA_BUDGET", Count;
    replica_budget_per_org = "replica_budget_per_org", "IGNITE_REPLICA_BUDGET_PER_ORG", Maybe;
    room_wait = "room_wait", "IGNITE_ROOM_WAIT", Span;
    freezer = "freezer", "IGNITE_FREEZER", Plain;
    liveness_interval = "liveness_interval", "IGNITE_LIVENESS_INTERVAL", Span;
    liveness_timeout = "liveness_timeout", "IGNITE_LIVENESS_TIMEOUT", Span;
    wrong_port_timeout = "wrong_port_timeout", "IGNITE_WRONG_PORT_TIMEOUT", Span;
    liveness_failures = "liveness_failures", "IGNITE_LIVENESS_FAILURES", Count;
    max_connections = "max_connections", "IGNITE_MAX_CONNECTIONS", Count;
    max_connections_per_ip = "max_connections_per_ip", "IGNITE_MAX_CONNECTIONS_PER_IP", Maybe;
    reserved_connections = "reserved_connections", "IGNITE_RESERVED_CONNECTIONS", Count;
    max_headers = "max_headers", "IGNITE_MAX_HEADERS", Count;
    max_header_bytes = "max_header_bytes", "IGNITE_MAX_HEADER_BYTES", Bytes;
    header_read_timeout = "header_read_timeout", "IGNITE_HEADER_READ_TIMEOUT", Span;
    keep_alive_timeout = "keep_alive_timeout", "IGNITE_KEEP_ALIVE_TIMEOUT", Span;
    max_streams = "max_streams", "IGNITE_MAX_STREAMS", Count;
    max_in_flight_per_app = "max_in_flight_per_app", "IGNITE_MAX_IN_FLIGHT_PER_APP", Count;
    max_in_flight_per_org = "max_in_flight_per_org", "IGNITE_MAX_IN_FLIGHT_PER_ORG", Maybe;
    max_request_body_bytes = "max_request_body_bytes", "IGNITE_MAX_REQUEST_BODY_BYTES", Bytes;
    client_stall_timeout = "client_stall_timeout", "IGNITE_CLIENT_STALL_TIMEOUT", Span;
    half_closed_timeout = "half_closed_timeout", "IGNITE_HALF_CLOSED_TIMEOUT", Span;
    api_buffer_bytes = "api_buffer_bytes", "IGNITE_API_BUFFER_BYTES", Bytes;
    api_buffer_bytes_per_org = "api_buffer_bytes_per_org", "IGNITE_API_BUFFER_BYTES_PER_ORG", Bytes;
    mcp_message_bytes = "mcp_message_bytes", "IGNITE_MCP_MESSAGE_BYTES", Bytes;
    decode_concurrency = "decode_concurrency", "IGNITE_DECODE_CONCURRENCY", Count;
    trusted_proxies = "trusted_proxies", "IGNITE_TRUSTED_PROXIES", Plain;
    api_hosts = "api_hosts", "IGNITE_API_HOSTS", Plain;
    app_paths = "app_paths", "IGNITE_APP_PATHS", Switch;
    anonymous_streams = "anonymous_streams", "IGNITE_ANONYMOUS_STREAMS", Count;
    anonymous_stream_time = "anonymous_stream_time", "IGNITE_ANONYMOUS_STREAM_TIME", Span;
    metrics_addr = "metrics_addr", "IGNITE_METRICS_ADDR", MaybeListen;
    metrics_apps_max = "metrics_apps_max", "IGNITE_METRICS_APPS_MAX", Count;
    log_format = "log_format", "IGNITE_LOG_FORMAT", Plain;
    log_level = "log_level", "IGNITE_LOG", Plain;
    @app_calls: AppCalls {
        enabled = "app_calls", "IGNITE_APP_CALLS", Switch;
        via = "app_calls_via", "IGNITE_APP_CALLS_VIA", Plain;
        http_port = "app_calls_http_port", "IGNITE_APP_CALLS_HTTP_PORT", Count;
        fallback_port = "app_calls_fallback_port", "IGNITE_APP_CALLS_FALLBACK_PORT", Count;
        https_port = "app_calls_https_port", "IGNITE_APP_CALLS_HTTPS_PORT", Count;
        connections = "app_calls_connections", "IGNITE_APP_CALLS_CONNECTIONS", Count;
        max_hops = "max_hops", "IGNITE_MAX_HOPS", Count;
        dns_servers = "app_calls_dns_servers", "IGNITE_APP_CALLS_DNS_SERVERS", Maybe;
        dns_queries = "app_calls_dns_queries", "IGNITE_APP_CALLS_DNS_QUERIES", Count;
        dns_connections = "app_calls_dns_connections", "IGNITE_APP_CALLS_DNS_CONNECTIONS", Count;
        dns_timeout = "app_calls_dns_timeout", "IGNITE_APP_CALLS_DNS_TIMEOUT", Span;
    }
    @tokens: Tokens {
        ttl = "token_ttl", "IGNITE_TOKEN_TTL", Span;
        skew = "clock_skew", "IGNITE_CLOCK_SKEW", Span;
        audience = "token_audience", "IGNITE_TOKEN_AUDIENCE", Maybe;
        issuer = "token_issuer", "IGNITE_TOKEN_ISSUER", Maybe;
        default_scopes = "default_scopes", "IGNITE_DEFAULT_SCOPES", Plain;
        issuers = "oidc_issuers", "IGNITE_OIDC_ISSUERS", Plain;
        issuer_refresh = "oidc_refresh", "IGNITE_OIDC_REFRESH", Span;
        issuer_ca = "oidc_ca", "IGNITE_OIDC_CA", Maybe;
        requests_per_minute = "token_requests_per_minute", "IGNITE_TOKEN_REQUESTS_PER_MINUTE", Count;
        failures_per_minute = "auth_failures_per_minute", "IGNITE_AUTH_FAILURES_PER_MINUTE", Count;
        secret_checks = "secret_checks", "IGNITE_SECRET_CHECKS", Count;
        audit_max_bytes = "audit_max_bytes", "IGNITE_AUDIT_MAX_BYTES", Bytes;
    }
    @otlp: Otlp {
        endpoint = "otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", Maybe;
        protocol = "otlp_protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", Plain;
        headers = "otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS", Hidden;
        ratio = "trace_ratio", "OTEL_TRACES_SAMPLER_ARG", Plain;
    }
    @tls: Tls {
        mode = "tls", "IGNITE_TLS", Plain;
        certificates = "tls_cert", "IGNITE_TLS_CERT", Maybe;
        keys = "tls_key", "IGNITE_TLS_KEY", Maybe;
        https_addr = "https_addr", "IGNITE_HTTPS_ADDR", MaybeListen;
        redirect = "http_redirect", "IGNITE_HTTP_REDIRECT", Switch;
        insecure_http = "insecure_http", "IGNITE_INSECURE_HTTP", Switch;
        check_interval = "tls_check_interval", "IGNITE_TLS_CHECK_INTERVAL", Span;
        handshake_timeout = "tls_handshake_timeout", "IGNITE_TLS_HANDSHAKE_TIMEOUT", Span;
        handshakes = "tls_handshakes", "IGNITE_TLS_HANDSHAKES", Count;
        hosts_cached = "tls_hosts_cached", "IGNITE_TLS_HOSTS_CACHED", Count;
    }
}

impl Config {
    /// Builds the configuration: defaults, then the file, then variables, then flags.
    ///
    /// `file` is the TOML file's path; without one `IGNITE_CONFIG` names it. An empty variable
    /// counts as unset.
    ///
    /// # Errors
    /// Everything that is wrong in any layer, and every relation that does not hold.
    pub fn load(vars: &impl Source, file: Option<PathBuf>, flags: &Flags) -> Result<Self, Invalid> {
        let mut problems = Vec::new();
        let mut winners = Winners::new();
        if let Some(path) = file.or_else(|| set(vars, "IGNITE_CONFIG").map(PathBuf::from)) {
            match std::fs::read_to_string(&path) {
                Ok(text) => from_file(
                    &text,
                    &path.display().to_string(),
                    &mut winners,
                    &mut problems,
                ),
                Err(e) => problems.push(format!("the file {} cannot be read: {e}", path.display())),
            }
        }
        for &(name, env) in SETTINGS {
            if let Some(text) = set(vars, env) {
                winners.insert(
                    name,
                    Raw {
                        text,
                        origin: env.to_owned(),
                    },
                );
            }
        }
        for (name, value, origin) in &flags.values {
            match known(name) {
                Some(name) => {
                    winners.insert(name, Raw { text: value.clone(), origin: origin.clone() });
                }
                None => problems.push(format!("{origin}: there is no setting {name:?}; `ignite serve --dump-config` lists them")),
            }
        }
        let data_dir = default_data_dir(vars);
        if data_dir.is_none() && !winners.contains_key("data_dir") {
            problems.push(
                "neither HOME nor XDG_DATA_HOME is set; name the directory of the state with --data-dir"
                    .to_owned(),
            );
        }
        let mut config = Self::defaults(data_dir.unwrap_or_default());
        apply(&mut config, &winners, &mut problems);
        if !winners.contains_key("startup_timeout_secs") {
            config.startup_timeout = config.cold_start_budget;
        }
        if let Err(Invalid {
            problems: relations,
        }) = config.validate()
        {
            problems.extend(relations);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Invalid { problems })
        }
    }
}

/// The data directory when none is configured: `$XDG_DATA_HOME/ignite`, else
/// `~/.local/share/ignite`. `None` without a home.
pub fn default_data_dir(vars: &impl Source) -> Option<PathBuf> {
    set(vars, "XDG_DATA_HOME")
        .map(PathBuf::from)
        // The XDG specification says to ignore a relative path.
        .filter(|p| p.is_absolute())
        .or_else(|| set(vars, "HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .map(|base| base.join("ignite"))
}

fn set(vars: &impl Source, name: &str) -> Option<String> {
    vars.get(name).filter(|value| !value.is_empty())
}

fn known(name: &str) -> Option<&'static str> {
    SETTINGS
        .iter()
        .map(|(known, _)| *known)
        .find(|known| *known == name)
}

fn from_file(text: &str, path: &str, winners: &mut Winners, problems: &mut Vec<String>) {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(e) => {
            return problems.push(format!("{path} is not TOML: {}", e.to_string().trim_end()));
        }
    };
    for (name, value) in table {
        let origin = format!("{name} in {path}");
        let Some(name) = known(&name) else {
            problems.push(format!("{origin}: no such setting"));
            continue;
        };
        let text = match value {
            toml::Value::String(s) => s,
            toml::Value::Integer(i) => i.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            other => {
                problems.push(format!(
                    "{origin}: a TOML {} is not expected; write text, a number, true or false",
                    other.type_str()
                ));
                continue;
            }
        };
        winners.insert(name, Raw { text, origin });
    }
}
