//! Settings as they are stored, with the environment sealed.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    model::{
        AppId, Limits, Scaling, Standby, Tier,
        capability::Capabilities,
        process::Init,
        reach::Protocol,
        scaling::Metric,
        settings::{Settings, StorageMode},
    },
    store::env::Envs,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingsRecord {
    /// 0 medium, 1 small, 2 large, 3 extra large.
    #[prost(uint32, tag = "1")]
    tier: u32,
    #[prost(uint32, tag = "2")]
    memory_mb: u32,
    #[prost(uint32, tag = "3")]
    cpu_millicores: u32,
    #[prost(uint32, tag = "4")]
    timeout_secs: u32,
    /// In clear; from before environments were sealed.
    #[prost(btree_map = "string, string", tag = "5")]
    env: BTreeMap<String, String>,
    #[prost(uint32, tag = "6")]
    reserved_capacity: u32,
    #[prost(uint32, tag = "7")]
    max_replicas: u32,
    /// 0 request rate, 1 concurrency.
    #[prost(uint32, tag = "8")]
    metric: u32,
    #[prost(uint32, tag = "9")]
    threshold: u32,
    #[prost(uint32, tag = "10")]
    scaledown_period_secs: u32,
    #[prost(uint32, repeated, tag = "11")]
    ports: Vec<u32>,
    #[prost(string, optional, tag = "12")]
    health_path: Option<String>,
    #[prost(string, tag = "13")]
    description: String,
    #[prost(string, tag = "14")]
    input_schema: String,
    #[prost(string, tag = "15")]
    output_schema: String,
    #[prost(bool, tag = "16")]
    mcp_enabled: bool,
    #[prost(uint32, tag = "17")]
    max_concurrency: u32,
    #[prost(bool, tag = "18")]
    allow_unauthenticated: bool,
    /// 0 ephemeral, 1 persistent, 2 time to live.
    #[prost(uint32, tag = "19")]
    storage_mode: u32,
    /// 0 not set, 1 pause, 2 prepared, 3 none.
    #[prost(uint32, tag = "20")]
    standby: u32,
    /// 0 not set, 1 HTTP/1.1, 2 HTTP/2 without TLS.
    #[prost(uint32, tag = "21")]
    protocol: u32,
    #[prost(string, repeated, tag = "22")]
    cors_origins: Vec<String>,
    #[prost(bool, tag = "30")]
    writable_root_fs: bool,
    /// 0 not set, 1 on, 2 off.
    #[prost(uint32, tag = "31")]
    init: u32,
    #[prost(string, repeated, tag = "32")]
    capabilities: Vec<String>,
    #[prost(bytes = "vec", tag = "33")]
    sealed_env: Vec<u8>,
    #[prost(string, tag = "34")]
    egress: String,
    #[prost(uint32, tag = "35")]
    storage_ttl_secs: u32,
    #[prost(bool, tag = "36")]
    api_access: bool,
}

pub(super) fn settings_record(app: &AppId, s: &Settings, envs: &Envs) -> SettingsRecord {
    SettingsRecord {
        tier: match s.tier {
            Tier::Medium => 0,
            Tier::Small => 1,
            Tier::Large => 2,
            Tier::XLarge => 3,
        },
        memory_mb: s.limits.memory_mb,
        cpu_millicores: s.limits.cpu_millicores,
        timeout_secs: s.limits.timeout_secs,
        env: BTreeMap::new(),
        sealed_env: envs.seal(app, &s.env),
        reserved_capacity: s.scaling.reserved_capacity,
        max_replicas: s.scaling.max_replicas,
        metric: match s.scaling.metric {
            Metric::RequestRate => 0,
            Metric::Concurrency => 1,
        },
        threshold: s.scaling.threshold,
        scaledown_period_secs: s.scaling.scaledown_period_secs,
        ports: s.ports.iter().map(|&p| p.into()).collect(),
        health_path: s.health_path.clone(),
        description: s.description.clone(),
        input_schema: s.input_schema.clone(),
        output_schema: s.output_schema.clone(),
        mcp_enabled: s.mcp_enabled,
        max_concurrency: s.max_concurrency,
        allow_unauthenticated: s.allow_unauthenticated,
        storage_mode: match s.storage_mode {
            StorageMode::Ephemeral => 0,
            StorageMode::Persistent => 1,
            StorageMode::Ttl => 2,
        },
        storage_ttl_secs: s.storage_ttl_secs,
        standby: match s.standby {
            None => 0,
            Some(Standby::Pause) => 1,
            Some(Standby::Prepared) => 2,
            Some(Standby::Absent) => 3,
        },
        writable_root_fs: s.writable_root_fs,
        init: match s.init {
            Init::Auto => 0,
            Init::On => 1,
            Init::Off => 2,
        },
        capabilities: s.capabilities.names().map(str::to_owned).collect(),
        egress: s.egress.to_string(),
        api_access: s.api_access,
        protocol: match s.protocol {
            Protocol::Auto => 0,
            Protocol::Http1 => 1,
            Protocol::H2c => 2,
        },
        cors_origins: s.cors_origins.clone(),
    }
}

pub(super) fn settings(app: &AppId, r: SettingsRecord, envs: &Envs) -> Result<Settings, String> {
    let unknown = |what: &str, n: u32| Err(format!("{what} {n} is not known"));
    Ok(Settings {
        tier: match r.tier {
            0 => Tier::Medium,
            1 => Tier::Small,
            2 => Tier::Large,
            3 => Tier::XLarge,
            n => return unknown("tier", n),
        },
        limits: Limits {
            memory_mb: r.memory_mb,
            cpu_millicores: r.cpu_millicores,
            timeout_secs: r.timeout_secs,
        },
        env: if r.sealed_env.is_empty() {
            r.env
        } else {
            envs.open(app, &r.sealed_env)?
        },
        scaling: Scaling {
            reserved_capacity: r.reserved_capacity,
            max_replicas: r.max_replicas,
            metric: match r.metric {
                0 => Metric::RequestRate,
                1 => Metric::Concurrency,
                n => return unknown("metric", n),
            },
            threshold: r.threshold,
            scaledown_period_secs: r.scaledown_period_secs,
        },
        ports: r
            .ports
            .iter()
            .map(|&p| u16::try_from(p).map_err(|_| format!("port {p} is no port")))
            .collect::<Result<_, _>>()?,
        health_path: r.health_path,
        description: r.description,
        input_schema: r.input_schema,
        output_schema: r.output_schema,
        mcp_enabled: r.mcp_enabled,
        max_concurrency: r.max_concurrency,
        allow_unauthenticated: r.allow_unauthenticated,
        storage_mode: match r.storage_mode {
            0 => StorageMode::Ephemeral,
            1 => StorageMode::Persistent,
            2 => StorageMode::Ttl,
            n => return unknown("storage mode", n),
        },
        storage_ttl_secs: r.storage_ttl_secs,
        standby: match r.standby {
            0 => None,
            1 => Some(Standby::Pause),
            2 => Some(Standby::Prepared),
            3 => Some(Standby::Absent),
            n => return unknown("standby", n),
        },
        writable_root_fs: r.writable_root_fs,
        init: match r.init {
            0 => Init::Auto,
            1 => Init::On,
            2 => Init::Off,
            n => return unknown("init", n),
        },
        capabilities: r
            .capabilities
            .iter()
            .map(|name| Capabilities::named(name))
            .try_fold(Capabilities::default(), |all, one| {
                Ok::<_, String>(all.with(one?))
            })?,
        egress: r.egress.parse()?,
        api_access: r.api_access,
        protocol: match r.protocol {
            0 => Protocol::Auto,
            1 => Protocol::Http1,
            2 => Protocol::H2c,
            n => return unknown("protocol", n),
        },
        cors_origins: r.cors_origins,
    })
}

/// The settings of a row as it was before environments were sealed.
#[cfg(test)]
pub(super) fn make_legible(app: &AppId, settings: &mut Option<SettingsRecord>, envs: &Envs) {
    let settings = settings.as_mut().expect("every row has settings");
    let sealed = std::mem::take(&mut settings.sealed_env);
    settings.env = envs.open(app, &sealed).expect("sealed for the app");
}
