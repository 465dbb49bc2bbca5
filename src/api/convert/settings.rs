//! The settings of an app in requests; each may be left out.

use std::collections::BTreeMap;

use super::{Fields, v1};
use crate::model::{
    Failure, Tier,
    capability::Capabilities,
    process::Init,
    reach::Protocol,
    scaling::Metric,
    settings::{Settings, StorageMode},
};

/// Most names of capabilities in one request: more than the kernel has.
const MAX_CAPABILITIES: usize = 64;

/// The settings of a request, `None` where absent. CreateApp and UpdateAppConfig share it.
#[derive(Clone, Default)]
pub(in crate::api) struct Patch {
    pub(in crate::api) tier: Option<i32>,
    pub(in crate::api) limits: Option<v1::ResourceLimits>,
    pub(in crate::api) env: Option<BTreeMap<String, String>>,
    pub(in crate::api) scaling: Option<v1::ScalingConfig>,
    pub(in crate::api) ports: Option<Vec<u32>>,
    pub(in crate::api) health_path: Option<String>,
    pub(in crate::api) description: Option<String>,
    pub(in crate::api) input_schema: Option<String>,
    pub(in crate::api) output_schema: Option<String>,
    pub(in crate::api) mcp_enabled: Option<bool>,
    pub(in crate::api) max_concurrency: Option<u32>,
    pub(in crate::api) allow_unauthenticated: Option<bool>,
    pub(in crate::api) protocol: Option<i32>,
    pub(in crate::api) cors_origins: Option<Vec<String>>,
    pub(in crate::api) storage_mode: Option<i32>,
    pub(in crate::api) writable_root_fs: Option<bool>,
    pub(in crate::api) init: Option<i32>,
    pub(in crate::api) capabilities: Option<Vec<String>>,
    pub(in crate::api) egress: Option<String>,
    pub(in crate::api) api_access: Option<bool>,
    pub(in crate::api) storage_ttl_secs: Option<u32>,
}

impl Patch {
    pub(in crate::api) fn of_create(r: &mut v1::CreateAppRequest) -> Self {
        Self {
            tier: Some(r.resource_tier),
            limits: r.limits.take(),
            env: Some(std::mem::take(&mut r.env).into_iter().collect()),
            scaling: r.scaling.take(),
            ports: Some(std::mem::take(&mut r.ports)),
            health_path: Some(std::mem::take(&mut r.health_path)),
            description: Some(std::mem::take(&mut r.description)),
            input_schema: Some(std::mem::take(&mut r.input_schema)),
            output_schema: Some(std::mem::take(&mut r.output_schema)),
            mcp_enabled: Some(r.mcp_enabled),
            max_concurrency: Some(r.max_concurrency),
            allow_unauthenticated: Some(r.allow_unauthenticated),
            protocol: Some(r.protocol),
            cors_origins: Some(std::mem::take(&mut r.cors_origins)),
            storage_mode: Some(r.storage_mode),
            writable_root_fs: Some(r.writable_root_fs),
            init: Some(r.init),
            capabilities: Some(std::mem::take(&mut r.capabilities)),
            egress: Some(std::mem::take(&mut r.egress)),
            api_access: Some(r.api_access),
            storage_ttl_secs: Some(r.storage_ttl_secs),
        }
    }

    pub(in crate::api) fn of_update(r: v1::UpdateAppConfigRequest) -> Result<Self, Failure> {
        let mut fields = Fields::default();
        if r.clear_env && !r.env.is_empty() {
            fields.add("clear_env", "is set together with `env`; send one of them");
        }
        if r.clear_ports && !r.ports.is_empty() {
            fields.add(
                "clear_ports",
                "is set together with `ports`; send one of them",
            );
        }
        if r.clear_cors_origins && !r.cors_origins.is_empty() {
            fields.add(
                "clear_cors_origins",
                "is set together with `cors_origins`; send one of them",
            );
        }
        if r.clear_capabilities && !r.capabilities.is_empty() {
            fields.add(
                "clear_capabilities",
                "is set together with `capabilities`; send one of them",
            );
        }
        fields.check()?;
        Ok(Self {
            tier: r.resource_tier,
            limits: r.limits,
            env: (r.clear_env || !r.env.is_empty()).then(|| r.env.into_iter().collect()),
            scaling: r.scaling,
            ports: (r.clear_ports || !r.ports.is_empty()).then_some(r.ports),
            health_path: r.health_path,
            description: r.description,
            input_schema: r.input_schema,
            output_schema: r.output_schema,
            mcp_enabled: r.mcp_enabled,
            max_concurrency: r.max_concurrency,
            allow_unauthenticated: r.allow_unauthenticated,
            protocol: r.protocol,
            cors_origins: (r.clear_cors_origins || !r.cors_origins.is_empty())
                .then_some(r.cors_origins),
            storage_mode: r.storage_mode,
            writable_root_fs: r.writable_root_fs,
            init: r.init,
            capabilities: (r.clear_capabilities || !r.capabilities.is_empty())
                .then_some(r.capabilities),
            egress: r.egress,
            api_access: r.api_access,
            storage_ttl_secs: r.storage_ttl_secs,
        })
    }

    /// Overwrites the settings that are present.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for values that the model cannot express.
    pub(in crate::api) fn apply(self, s: &mut Settings) -> Result<(), Failure> {
        let mut fields = Fields::default();
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        set(
            &mut s.tier,
            self.tier
                .and_then(|t| fields.accept("resource_tier", tier(t))),
        );
        set(
            &mut s.storage_mode,
            self.storage_mode
                .and_then(|m| fields.accept("storage_mode", storage_mode(m))),
        );
        set(&mut s.storage_ttl_secs, self.storage_ttl_secs);
        // It goes with the mode that it is for, unless the same request says otherwise.
        if s.storage_mode != StorageMode::Ttl && self.storage_ttl_secs.is_none() {
            s.storage_ttl_secs = 0;
        }
        if let Some(l) = self.limits {
            set(&mut s.limits.memory_mb, l.memory_mb);
            set(&mut s.limits.cpu_millicores, l.cpu_millicores);
            set(&mut s.limits.timeout_secs, l.timeout_secs);
        }
        if let Some(c) = self.scaling {
            set(&mut s.scaling.reserved_capacity, c.reserved_capacity);
            set(&mut s.scaling.max_replicas, c.max_replicas);
            set(
                &mut s.scaling.metric,
                c.scale_metric
                    .and_then(|m| fields.accept("scaling.scale_metric", metric(m))),
            );
            set(&mut s.scaling.threshold, c.scale_threshold);
            set(
                &mut s.scaling.scaledown_period_secs,
                c.scaledown_period_secs,
            );
        }
        if let Some(wire) = self.ports {
            s.ports = ports(&wire, &mut fields);
        }
        if let Some(path) = self.health_path {
            s.health_path = (!path.is_empty()).then_some(path);
        }
        set(&mut s.env, self.env);
        set(&mut s.description, self.description);
        set(&mut s.input_schema, self.input_schema);
        set(&mut s.output_schema, self.output_schema);
        set(&mut s.mcp_enabled, self.mcp_enabled);
        set(&mut s.max_concurrency, self.max_concurrency);
        set(&mut s.allow_unauthenticated, self.allow_unauthenticated);
        set(&mut s.api_access, self.api_access);
        set(&mut s.writable_root_fs, self.writable_root_fs);
        set(
            &mut s.protocol,
            self.protocol
                .and_then(|p| fields.accept("protocol", protocol(p))),
        );
        set(&mut s.cors_origins, self.cors_origins);
        if let Some(names) = self.capabilities {
            s.capabilities = capabilities(&names, &mut fields);
        }
        set(
            &mut s.egress,
            self.egress.and_then(|e| fields.accept("egress", e.parse())),
        );
        set(
            &mut s.init,
            self.init.and_then(|i| fields.accept("init", init(i))),
        );
        fields.check()
    }
}

fn ports(wire: &[u32], fields: &mut Fields) -> Vec<u16> {
    let parsed = wire.iter().enumerate().filter_map(|(i, &port)| {
        let parsed = u16::try_from(port)
            .map_err(|_| format!("{port} is not a port; give one between 1 and 65535"));
        fields.accept(&format!("ports[{i}]"), parsed)
    });
    parsed.collect()
}

fn capabilities(names: &[String], fields: &mut Fields) -> Capabilities {
    if names.len() > MAX_CAPABILITIES {
        let why = format!(
            "has {} entries; the limit is {MAX_CAPABILITIES}",
            names.len()
        );
        fields.add("capabilities", &why);
    }
    let named = names.iter().take(MAX_CAPABILITIES).enumerate();
    let known = named.filter_map(|(i, name)| {
        fields.accept(&format!("capabilities[{i}]"), Capabilities::named(name))
    });
    known.fold(Capabilities::default(), Capabilities::with)
}

fn tier(wire: i32) -> Result<Tier, String> {
    use v1::ResourceTier as W;
    Ok(match W::try_from(wire) {
        Ok(W::Unspecified | W::Medium) => Tier::Medium,
        Ok(W::Small) => Tier::Small,
        Ok(W::Large) => Tier::Large,
        Ok(W::Xlarge) => Tier::XLarge,
        Err(_) => {
            return Err(format!(
                "{wire} is no ResourceTier; use RESOURCE_TIER_SMALL, MEDIUM, LARGE or XLARGE"
            ));
        }
    })
}

fn init(wire: i32) -> Result<Init, String> {
    use v1::AppInit as W;
    Ok(match W::try_from(wire) {
        Ok(W::Unspecified) => Init::Auto,
        Ok(W::On) => Init::On,
        Ok(W::Off) => Init::Off,
        Err(_) => {
            return Err(format!(
                "{wire} is no AppInit; use APP_INIT_UNSPECIFIED, ON or OFF"
            ));
        }
    })
}

fn protocol(wire: i32) -> Result<Protocol, String> {
    use v1::AppProtocol as W;
    Ok(match W::try_from(wire) {
        Ok(W::Unspecified) => Protocol::Auto,
        Ok(W::Http1) => Protocol::Http1,
        Ok(W::H2c) => Protocol::H2c,
        Err(_) => {
            return Err(format!(
                "{wire} is no AppProtocol; use APP_PROTOCOL_HTTP1 or APP_PROTOCOL_H2C"
            ));
        }
    })
}

fn storage_mode(wire: i32) -> Result<StorageMode, String> {
    use v1::StorageMode as W;
    Ok(match W::try_from(wire) {
        Ok(W::Unspecified | W::Ephemeral) => StorageMode::Ephemeral,
        Ok(W::Persistent) => StorageMode::Persistent,
        Ok(W::Ttl) => StorageMode::Ttl,
        Err(_) => {
            return Err(format!(
                "{wire} is no StorageMode; use STORAGE_MODE_EPHEMERAL, PERSISTENT or TTL"
            ));
        }
    })
}

fn metric(wire: i32) -> Result<Metric, String> {
    use v1::ScaleMetric as W;
    Ok(match W::try_from(wire) {
        Ok(W::Unspecified | W::RequestRate) => Metric::RequestRate,
        Ok(W::Concurrency) => Metric::Concurrency,
        Err(_) => {
            return Err(format!(
                "{wire} is no ScaleMetric; use SCALE_METRIC_REQUEST_RATE or SCALE_METRIC_CONCURRENCY"
            ));
        }
    })
}
