//! The records of the store and how the model maps to them.
//!
//! Protobuf messages: fields may be added, their tags are never reused. Enums are stored as the
//! small integers below.

mod code;

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;

use self::code::{BuiltRecord, SourceRecord, built, built_record, source, source_record};
use super::keys;
use crate::model::{
    App, AppId, Draft, ImageFacts, Limits, OrgName, Pulled, Scaling, Standby, Tier, Version,
    capability::Capabilities,
    catalog::{Catalog, Change},
    files::{Content, Home},
    process::Init,
    reach::Protocol,
    scaling::Metric,
    secret::{self, Sealed, SecretName},
    settings::{Settings, StorageMode},
};

#[derive(Clone, PartialEq, Message)]
struct AppRecord {
    #[prost(int64, tag = "1")]
    created_at_ms: i64,
    #[prost(int64, tag = "2")]
    updated_at_ms: i64,
    #[prost(message, optional, tag = "3")]
    settings: Option<SettingsRecord>,
    #[prost(message, optional, tag = "4")]
    draft: Option<DraftRecord>,
    #[prost(uint32, tag = "5")]
    active_version: u32,
    #[prost(int64, tag = "20")]
    used_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct DraftRecord {
    #[prost(message, optional, tag = "1")]
    source: Option<SourceRecord>,
    #[prost(int64, tag = "2")]
    created_at_ms: i64,
    #[prost(message, optional, tag = "3")]
    built: Option<BuiltRecord>,
    #[prost(string, tag = "4")]
    base: String,
}

#[derive(Clone, PartialEq, Message)]
struct VersionRecord {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(message, optional, tag = "2")]
    source: Option<SourceRecord>,
    #[prost(string, tag = "3")]
    image_id: String,
    #[prost(int64, tag = "4")]
    created_at_ms: i64,
    #[prost(message, optional, tag = "5")]
    settings: Option<SettingsRecord>,
    /// Empty in records of before there were builds: the source names the image.
    #[prost(string, tag = "6")]
    image_ref: String,
    #[prost(message, optional, tag = "20")]
    facts: Option<FactsRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct FactsRecord {
    #[prost(string, optional, tag = "1")]
    user: Option<String>,
    #[prost(string, tag = "2")]
    home: String,
    #[prost(bool, tag = "3")]
    home_in_image: bool,
    #[prost(string, tag = "4")]
    digest_ref: String,
    /// 0 not counted, 1 nothing, 2 small, 3 large.
    #[prost(uint32, tag = "5")]
    home_content: u32,
    #[prost(string, repeated, tag = "6")]
    read_only: Vec<String>,
    #[prost(uint32, repeated, tag = "7")]
    exposed_ports: Vec<u32>,
    #[prost(bool, optional, tag = "8")]
    brings_init: Option<bool>,
}

/// The name and the owner are in the key.
#[derive(Clone, PartialEq, Message)]
struct SecretRecord {
    /// 0 git, 1 registry.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(int64, tag = "2")]
    created_at_ms: i64,
    #[prost(int64, tag = "3")]
    updated_at_ms: i64,
    #[prost(bytes = "vec", tag = "4")]
    sealed: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PulledRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    digest_ref: String,
    #[prost(int64, tag = "3")]
    at_ms: i64,
    #[prost(string, tag = "4")]
    reference: String,
}

#[derive(Clone, PartialEq, Message)]
struct SettingsRecord {
    /// 0 medium, 1 small, 2 large, 3 extra large.
    #[prost(uint32, tag = "1")]
    tier: u32,
    #[prost(uint32, tag = "2")]
    memory_mb: u32,
    #[prost(uint32, tag = "3")]
    cpu_millicores: u32,
    #[prost(uint32, tag = "4")]
    timeout_secs: u32,
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
}

pub(super) fn encode_app(app: &App) -> Vec<u8> {
    AppRecord {
        created_at_ms: app.created_at_ms,
        updated_at_ms: app.updated_at_ms,
        settings: Some(settings_record(&app.settings)),
        draft: app.draft.as_ref().map(|d| DraftRecord {
            source: Some(source_record(&d.source)),
            created_at_ms: d.created_at_ms,
            built: d.built.as_ref().map(built_record),
            base: d.base.clone(),
        }),
        active_version: app.active_version,
        used_at_ms: app.used_at_ms,
    }
    .encode_to_vec()
}

pub(super) fn encode_version(v: &Version) -> Vec<u8> {
    VersionRecord {
        number: v.number,
        source: Some(source_record(&v.source)),
        image_id: v.image_id.clone(),
        created_at_ms: v.created_at_ms,
        settings: Some(settings_record(&v.settings)),
        image_ref: v.image_ref.clone(),
        facts: Some(facts_record(&v.facts)),
    }
    .encode_to_vec()
}

pub(super) fn encode_secret(s: &Sealed) -> Vec<u8> {
    SecretRecord {
        kind: match s.kind {
            secret::Kind::Git => 0,
            secret::Kind::Registry => 1,
        },
        created_at_ms: s.created_at_ms,
        updated_at_ms: s.updated_at_ms,
        sealed: s.sealed.clone(),
    }
    .encode_to_vec()
}

pub(super) fn encode_pulled(p: &Pulled) -> Vec<u8> {
    PulledRecord {
        id: p.id.clone(),
        digest_ref: p.digest_ref.clone(),
        at_ms: p.at_ms,
        reference: p.reference.clone(),
    }
    .encode_to_vec()
}

pub(super) fn decode_pulled(value: &[u8]) -> Result<Pulled, String> {
    let r = PulledRecord::decode(value).map_err(|e| e.to_string())?;
    Ok(Pulled {
        reference: r.reference,
        id: r.id,
        digest_ref: r.digest_ref,
        at_ms: r.at_ms,
    })
}

pub(super) fn decode_secret(
    org: OrgName,
    name: SecretName,
    value: &[u8],
) -> Result<Sealed, String> {
    let r = SecretRecord::decode(value).map_err(|e| e.to_string())?;
    Ok(Sealed {
        org,
        name,
        kind: match r.kind {
            0 => secret::Kind::Git,
            1 => secret::Kind::Registry,
            n => return Err(format!("kind {n} is not known")),
        },
        created_at_ms: r.created_at_ms,
        updated_at_ms: r.updated_at_ms,
        sealed: r.sealed,
    })
}

/// Reads every app with its versions, and every secret; the error says which row is damaged.
pub(super) fn read_all(db: &sled::Db) -> Result<Catalog, String> {
    let mut catalog = Catalog::default();
    for row in db.scan_prefix([keys::APPS]) {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let id = keys::parse_app(&key).ok_or_else(|| format!("the key {key:?} names no app"))?;
        let app = decode_versions(db, &id)
            .and_then(|versions| decode_app(id.clone(), &value, versions))
            .map_err(|e| format!("the record of app {id} is damaged: {e}"))?;
        catalog.apply(&Change::Put(Arc::new(app)));
    }
    for row in db.scan_prefix([keys::SECRETS]) {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let (org, name) =
            keys::parse_secret(&key).ok_or_else(|| format!("the key {key:?} names no secret"))?;
        let damaged = format!("the record of secret {org}/{name} is damaged");
        let secret = decode_secret(org, name, &value).map_err(|e| format!("{damaged}: {e}"))?;
        catalog.apply(&Change::PutSecret(Arc::new(secret)));
    }
    for row in db.scan_prefix([keys::PULLED]) {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let image =
            keys::parse_pulled(&key).ok_or_else(|| format!("the key {key:?} names no image"))?;
        let damaged = format!("the record of the pulled image {image} is damaged");
        let pulled = decode_pulled(&value).map_err(|e| format!("{damaged}: {e}"))?;
        catalog.apply(&Change::PutPulled(Arc::new(pulled)));
    }
    for key in db.scan_prefix([keys::DOOMED]).keys() {
        let key = key.map_err(|e| e.to_string())?;
        let (id, since) =
            keys::parse_doomed(&key).ok_or_else(|| format!("the key {key:?} names no volume"))?;
        catalog.apply(&Change::DoomVolume(id, since));
    }
    Ok(catalog)
}

fn decode_versions(db: &sled::Db, id: &AppId) -> Result<Vec<Arc<Version>>, String> {
    db.scan_prefix(keys::versions(id))
        .values()
        .map(|row| decode_version(&row.map_err(|e| e.to_string())?).map(Arc::new))
        .collect()
}

pub(super) fn decode_version(value: &[u8]) -> Result<Version, String> {
    version(VersionRecord::decode(value).map_err(|e| e.to_string())?)
}

pub(super) fn decode_app(
    id: AppId,
    value: &[u8],
    versions: Vec<Arc<Version>>,
) -> Result<App, String> {
    let r = AppRecord::decode(value).map_err(|e| e.to_string())?;
    Ok(App {
        id,
        created_at_ms: r.created_at_ms,
        updated_at_ms: r.updated_at_ms,
        used_at_ms: r.used_at_ms,
        settings: settings(r.settings.unwrap_or_default())?,
        draft: r.draft.map(draft).transpose()?,
        versions,
        active_version: r.active_version,
    })
}

fn draft(r: DraftRecord) -> Result<Draft, String> {
    Ok(Draft {
        source: source(r.source.unwrap_or_default())?,
        created_at_ms: r.created_at_ms,
        built: r.built.map(built).transpose()?,
        base: r.base,
    })
}

fn version(r: VersionRecord) -> Result<Version, String> {
    let code = r.source.unwrap_or_default();
    let image_ref = match r.image_ref.is_empty() {
        true => code.image_ref.clone(),
        false => r.image_ref,
    };
    Ok(Version {
        number: r.number,
        source: source(code)?,
        image_ref,
        image_id: r.image_id,
        facts: facts(r.facts.unwrap_or_default())?,
        created_at_ms: r.created_at_ms,
        settings: settings(r.settings.unwrap_or_default())?,
    })
}

fn facts_record(facts: &ImageFacts) -> FactsRecord {
    let content = facts.home.content.as_ref();
    FactsRecord {
        user: facts.user.clone(),
        home: facts.home.path.clone(),
        // The one thing that earlier versions of `ignite` read.
        home_in_image: facts.home.is_in_image(),
        digest_ref: facts.digest_ref.clone(),
        home_content: match content {
            None | Some(Content::Uncounted) => 0,
            Some(Content::Nothing) => 1,
            Some(Content::Small) => 2,
            Some(Content::Large { .. }) => 3,
        },
        read_only: match content {
            Some(Content::Large { read_only }) => read_only.clone(),
            _ => Vec::new(),
        },
        exposed_ports: facts.exposed_ports.iter().map(|&p| p.into()).collect(),
        brings_init: facts.brings_init,
    }
}

fn facts(r: FactsRecord) -> Result<ImageFacts, String> {
    Ok(ImageFacts {
        user: r.user,
        home: Home {
            path: r.home,
            content: Some(match r.home_content {
                0 if r.home_in_image => Content::Uncounted,
                0 | 1 => Content::Nothing,
                2 => Content::Small,
                3 => Content::Large {
                    read_only: r.read_only,
                },
                n => return Err(format!("home content {n} is not known")),
            }),
        },
        brings_init: r.brings_init,
        digest_ref: r.digest_ref,
        exposed_ports: r
            .exposed_ports
            .into_iter()
            .filter_map(|port| port.try_into().ok())
            .collect(),
    })
}

fn settings_record(s: &Settings) -> SettingsRecord {
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
        env: s.env.clone(),
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
        standby: match s.standby {
            None => 0,
            Some(Standby::Pause) => 1,
            Some(Standby::Prepared) => 2,
            Some(Standby::None) => 3,
        },
        writable_root_fs: s.writable_root_fs,
        init: match s.init {
            Init::Auto => 0,
            Init::On => 1,
            Init::Off => 2,
        },
        capabilities: s.capabilities.names().map(str::to_owned).collect(),
        protocol: match s.protocol {
            Protocol::Auto => 0,
            Protocol::Http1 => 1,
            Protocol::H2c => 2,
        },
        cors_origins: s.cors_origins.clone(),
    }
}

fn settings(r: SettingsRecord) -> Result<Settings, String> {
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
        env: r.env,
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
        standby: match r.standby {
            0 => None,
            1 => Some(Standby::Pause),
            2 => Some(Standby::Prepared),
            3 => Some(Standby::None),
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
        protocol: match r.protocol {
            0 => Protocol::Auto,
            1 => Protocol::Http1,
            2 => Protocol::H2c,
            n => return unknown("protocol", n),
        },
        cors_origins: r.cors_origins,
    })
}
