//! Between the wire and the model: values are translated or refused, nothing else is decided.

mod code;
mod settings;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use bytes::Bytes;

use super::proto::v1;
use crate::{
    clock::unix_ms,
    fleet::Snapshot,
    gateway::headers::header_text,
    model::{
        App, AppId, AppName, CodeSource, Failure, FieldViolation, Limits, OrgName, Reason, Scaling,
        Tier, Version, execution,
        process::Init,
        reach::Protocol,
        scaling::Metric,
        settings::{DEFAULT_HEALTH_PATH, Settings, StorageMode},
    },
    store::executions::Record,
};

pub(super) use code::{
    code, code_to_wire, draft_to_wire, kind as code_kind, runtime_to_wire, view_to_wire,
};
pub(super) use settings::Patch;

/// Collects the wrong fields of one request, so that one answer names them all.
#[derive(Default)]
pub(super) struct Fields(Vec<FieldViolation>);

impl Fields {
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation {
            field: field.into(),
            description: description.into(),
        });
    }

    /// The parsed value; `None` records a violation.
    pub(super) fn accept<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parsed: Result<T, E>,
    ) -> Option<T> {
        parsed.map_err(|e| self.add(field, e.to_string())).ok()
    }

    /// As [`Fields::accept`], for a failure that names its fields.
    pub(super) fn accept_all<T>(&mut self, parsed: Result<T, Failure>) -> Option<T> {
        parsed.map_err(|failure| self.0.extend(failure.fields)).ok()
    }

    pub(super) fn check(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Failure::fields(self.0))
        }
    }
}

/// The app that a request names in its path.
pub(super) fn app_id(org: &str, name: &str) -> Result<AppId, Failure> {
    named(org, "app_name", name)
}

/// As [`app_id`], where `field` holds the app's name.
pub(super) fn named(org: &str, field: &str, name: &str) -> Result<AppId, Failure> {
    let mut fields = Fields::default();
    let org = fields.accept("organization_name", org.parse::<OrgName>());
    let name = fields.accept(field, name.parse::<AppName>());
    fields.check()?;
    match (org, name) {
        (Some(org), Some(name)) => Ok(AppId { org, name }),
        _ => Err(Failure::new(
            Reason::Internal,
            "a name was neither taken nor refused",
        )),
    }
}

pub(super) fn org(name: &str) -> Result<OrgName, Failure> {
    name.parse()
        .map_err(|e| Failure::field("organization_name", format!("{e}")))
}

pub(super) fn tier_to_wire(tier: Tier) -> v1::ResourceTier {
    match tier {
        Tier::Small => v1::ResourceTier::Small,
        Tier::Medium => v1::ResourceTier::Medium,
        Tier::Large => v1::ResourceTier::Large,
        Tier::XLarge => v1::ResourceTier::Xlarge,
    }
}

fn limits_to_wire(limits: Limits) -> v1::ResourceLimits {
    v1::ResourceLimits {
        memory_mb: Some(limits.memory_mb),
        cpu_millicores: Some(limits.cpu_millicores),
        timeout_secs: (limits.timeout_secs != 0).then_some(limits.timeout_secs),
    }
}

/// The size of a replica, from tier and overrides together.
pub(super) fn applied_limits(s: &Settings) -> v1::ResourceLimits {
    let (memory_mb, cpu_millicores) = s.size();
    limits_to_wire(Limits {
        memory_mb,
        cpu_millicores,
        timeout_secs: s.limits.timeout_secs,
    })
}

fn scaling_to_wire(s: &Scaling) -> v1::ScalingConfig {
    let or = |v: u32, default: u32| Some(if v == 0 { default } else { v });
    let metric = match s.metric {
        Metric::RequestRate => v1::ScaleMetric::RequestRate,
        Metric::Concurrency => v1::ScaleMetric::Concurrency,
    };
    v1::ScalingConfig {
        reserved_capacity: Some(s.reserved_capacity),
        max_replicas: or(s.max_replicas, crate::model::scaling::DEFAULT_MAX_REPLICAS),
        scale_metric: Some(metric.into()),
        scale_threshold: or(s.threshold, crate::model::scaling::DEFAULT_THRESHOLD),
        scaledown_period_secs: or(
            s.scaledown_period_secs,
            crate::model::scaling::DEFAULT_SCALEDOWN_SECS,
        ),
    }
}

/// The state of an app's deployment.
pub(super) fn deployment_state(app: &App, now: Option<&Snapshot>) -> v1::DeploymentState {
    use v1::DeploymentState as S;
    match now {
        _ if app.active_version == 0 => S::Created,
        Some(s) if s.ready > 0 => S::Running,
        Some(s) if s.failing => S::Failed,
        Some(s) if s.starting > 0 => S::Deploying,
        _ => S::ScaledToZero,
    }
}

/// An app as it is now.
pub(super) fn app_to_wire(
    app: &App,
    now: Option<&Snapshot>,
    public_urls: Vec<String>,
) -> v1::AppMeta {
    // What serves, else what will.
    let source = app.active().map(|v| &v.source);
    let source = source.or_else(|| app.draft.as_ref().map(|d| &d.source));
    v1::AppMeta {
        deployment_state: deployment_state(app, now).into(),
        version: app.active_version,
        public_urls,
        updated_at_ms: app.updated_at_ms,
        ..meta(app, &app.settings, source)
    }
}

/// An app as it was when a version of it was published; the state and the active version are those
/// of now.
pub(super) fn published_to_wire(
    app: &App,
    version: &Version,
    now: Option<&Snapshot>,
    public_urls: Vec<String>,
) -> v1::AppMeta {
    v1::AppMeta {
        deployment_state: deployment_state(app, now).into(),
        version: version.number,
        public_urls,
        updated_at_ms: version.created_at_ms,
        ..meta(app, &version.settings, Some(&version.source))
    }
}

/// What settings and code say of an app.
fn meta(app: &App, s: &Settings, source: Option<&CodeSource>) -> v1::AppMeta {
    let storage = match s.storage_mode {
        StorageMode::Ephemeral => v1::StorageMode::Ephemeral,
        StorageMode::Persistent => v1::StorageMode::Persistent,
        StorageMode::Ttl => v1::StorageMode::Ttl,
    };
    let mode = match source {
        Some(CodeSource::Compile(_)) => v1::DeploymentMode::Sdk,
        Some(_) => v1::DeploymentMode::Image,
        None => v1::DeploymentMode::Unspecified,
    };
    v1::AppMeta {
        id: app.id.to_string(),
        name: app.id.name.to_string(),
        runtime: source.and_then(CodeSource::runtime).map(runtime_to_wire),
        limits: Some(applied_limits(s)),
        env: s.env.clone().into_iter().collect(),
        resource_tier: tier_to_wire(s.tier).into(),
        scaling: Some(scaling_to_wire(&s.scaling)),
        storage_mode: storage.into(),
        storage_ttl_secs: s.storage_ttl_secs,
        organization_name: app.id.org.to_string(),
        active_version: app.active_version,
        description: s.description.clone(),
        input_schema: s.input_schema.clone(),
        output_schema: s.output_schema.clone(),
        mcp_enabled: s.mcp_enabled,
        max_concurrency: s.max_concurrency,
        deployment_mode: mode.into(),
        ports: s.ports().iter().map(|&p| p.into()).collect(),
        health_path: s
            .health_path
            .clone()
            .unwrap_or_else(|| DEFAULT_HEALTH_PATH.to_owned()),
        allow_unauthenticated: s.allow_unauthenticated,
        created_at_ms: app.created_at_ms,
        writable_root_fs: s.writable_root_fs,
        capabilities: s.capabilities.names().map(str::to_owned).collect(),
        egress: s.egress.to_string(),
        api_access: s.api_access,
        init: match s.init {
            Init::Auto => v1::AppInit::Unspecified,
            Init::On => v1::AppInit::On,
            Init::Off => v1::AppInit::Off,
        }
        .into(),
        protocol: match s.protocol {
            Protocol::Auto => v1::AppProtocol::Unspecified,
            Protocol::Http1 => v1::AppProtocol::Http1,
            Protocol::H2c => v1::AppProtocol::H2c,
        }
        .into(),
        cors_origins: s.cors_origins.clone(),
        ..Default::default()
    }
}

/// The tier's name in executions.
fn tier_word(tier: Tier) -> &'static str {
    match tier {
        Tier::Small => "Small",
        Tier::Medium => "Medium",
        Tier::Large => "Large",
        Tier::XLarge => "XLarge",
    }
}

/// The status that a request filters by; `None` for any.
pub(super) fn execution_status(wire: i32) -> Result<Option<execution::Status>, String> {
    use v1::ExecutionStatus as S;
    Ok(Some(match S::try_from(wire) {
        Ok(S::Unspecified) => return Ok(None),
        Ok(S::Pending) => execution::Status::Pending,
        Ok(S::Running) => execution::Status::Running,
        Ok(S::Completed) => execution::Status::Completed,
        Ok(S::Failed) => execution::Status::Failed,
        Ok(S::Timeout) => execution::Status::TimedOut,
        Err(_) => {
            return Err(format!(
                "{wire} is no ExecutionStatus; use EXECUTION_STATUS_PENDING, RUNNING, COMPLETED, FAILED or TIMEOUT"
            ));
        }
    }))
}

/// `owner` is true when the caller belongs to the app's organization.
pub(super) fn execution_to_wire(record: &Record, owner: bool) -> v1::Execution {
    let (identity, s) = (&record.identity, &record.state);
    let status = match s.status {
        execution::Status::Pending => v1::ExecutionStatus::Pending,
        execution::Status::Running => v1::ExecutionStatus::Running,
        execution::Status::Completed => v1::ExecutionStatus::Completed,
        execution::Status::Failed => v1::ExecutionStatus::Failed,
        execution::Status::TimedOut => v1::ExecutionStatus::Timeout,
    };
    let mut out = v1::Execution {
        id: identity.id.to_string(),
        app_id: identity.app.to_string(),
        status: status.into(),
        metrics: s.status.is_terminal().then(|| v1::ExecutionMetrics {
            execution_ms: s.execution_ms,
            result_size_bytes: s.result_bytes as i64,
            resource_tier: tier_word(s.tier).to_owned(),
        }),
        function_version: s.version,
        app_name: identity.app.name.to_string(),
        error: s.error_for(owner).to_owned(),
        error_reason: s.reason.clone(),
        created_at_ms: identity.created_at_ms(),
        started_at_ms: s.started_at_ms,
        completed_at_ms: s.completed_at_ms,
        status_code: s.status_code.into(),
        attempt: s.attempt,
        ..Default::default()
    };
    if let Some((headers, body)) = &record.result {
        out.result = body.clone();
        let pairs = headers.iter().map(|(n, v)| (n.as_str(), &v[..]));
        let headers = wire_headers(&pairs.collect::<Vec<_>>());
        out.response_headers = headers.first;
        out.repeated_headers = headers.repeated;
        out.raw_headers = headers.raw;
    }
    out
}

/// The headers of a response on the wire.
pub(super) struct WireHeaders {
    /// The first value of each name.
    pub(super) first: BTreeMap<String, String>,
    /// Further values of the same names.
    pub(super) repeated: Vec<v1::HeaderField>,
    /// All values of the names that have a value which is not text.
    pub(super) raw: Vec<v1::HeaderField>,
}

/// Headers as a map, and beside it those that a map of text cannot carry.
pub(super) fn wire_headers(headers: &[(&str, &[u8])]) -> WireHeaders {
    let is_text = |value: &[u8]| std::str::from_utf8(value).is_ok();
    let raw: BTreeSet<&str> = headers
        .iter()
        .filter(|(_, value)| !is_text(value))
        .map(|(name, _)| *name)
        .collect();
    let mut out = WireHeaders {
        first: BTreeMap::new(),
        repeated: Vec::new(),
        raw: Vec::new(),
    };
    for &(name, value) in headers {
        if raw.contains(name) {
            out.raw.push(v1::HeaderField {
                name: name.to_owned(),
                value: String::new(),
                raw: Bytes::copy_from_slice(value),
            });
        }
        let value = header_text(value);
        match out.first.entry(name.to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert(value)),
            Entry::Occupied(entry) => out.repeated.push(v1::HeaderField {
                name: entry.key().clone(),
                value,
                raw: Bytes::new(),
            }),
        }
    }
    out
}

pub(super) fn version_to_wire(app: &App, v: &Version) -> v1::AppVersion {
    let status = if v.number == app.active_version {
        v1::VersionStatus::Active
    } else {
        v1::VersionStatus::Superseded
    };
    v1::AppVersion {
        version: v.number,
        code_hash: v.source.code_hash(),
        created_at_ms: v.created_at_ms,
        status: status.into(),
        resource_tier: tier_to_wire(v.settings.tier).into(),
        runtime: v.source.runtime().map(runtime_to_wire),
        scaling: Some(scaling_to_wire(&v.settings.scaling)),
        code_kind: code_kind(&v.source).into(),
        image_ref: v.image_ref.clone(),
        image_id: v.image_id.clone(),
        image_digest: v.facts.digest_ref.clone(),
    }
}

pub(super) fn state_to_wire(
    app: &App,
    now: Option<&Snapshot>,
    now_ms: i64,
) -> v1::GetAppStateResponse {
    let mut out = v1::GetAppStateResponse {
        deployment_state: deployment_state(app, now).into(),
        active_version: app.active_version,
        ..Default::default()
    };
    if let Some(s) = now {
        out.running_replicas = s.ready;
        out.starting_replicas = s.starting;
        out.desired_replicas = s.desired;
        out.held = s.held;
        out.in_flight = s.in_flight;
        out.standby_replicas = s.standby;
        out.not_ready = s.not_ready.clone().unwrap_or_default();
        if let Some((failure, at)) = &s.last_failure {
            out.last_error = failure.text(true);
            out.last_error_at_ms = unix_ms(*at);
        }
        out.last_request_at_ms = s
            .idle_for
            .map_or(0, |idle| now_ms - idle.as_millis() as i64);
    }
    out
}
