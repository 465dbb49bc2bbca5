//! The records of the store and their mapping to the model.
//!
//! They are protobuf messages: fields may be added, and their tags are never reused. Enums are
//! stored as the small integers below.

mod code;
mod settings;

use std::sync::Arc;

use prost::Message;

use self::{
    code::{
        BuiltRecord, OverlayRecord, SourceRecord, built, built_record, overlay, overlay_record,
        source, source_record,
    },
    settings::{SettingsRecord, settings, settings_record},
};
use super::{env::Envs, keys};
use crate::model::{
    App, AppId, Draft, ImageFacts, OrgName, Pulled, Version,
    catalog::{Catalog, Change},
    files::{Content, Home},
    host_name::HostName,
    secret::{self, Sealed, SecretName},
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
    #[prost(string, repeated, tag = "21")]
    hosts: Vec<String>,
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
    /// Empty in records that predate builds: the source names the image.
    #[prost(string, tag = "6")]
    image_ref: String,
    #[prost(message, optional, tag = "7")]
    overlay: Option<OverlayRecord>,
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

pub(super) fn encode_app(app: &App, envs: &Envs) -> Vec<u8> {
    AppRecord {
        created_at_ms: app.created_at_ms,
        updated_at_ms: app.updated_at_ms,
        settings: Some(settings_record(&app.id, &app.settings, envs)),
        draft: app.draft.as_ref().map(|d| DraftRecord {
            source: Some(source_record(&d.source)),
            created_at_ms: d.created_at_ms,
            built: d.built.as_ref().map(built_record),
            base: d.base.clone(),
        }),
        active_version: app.active_version,
        used_at_ms: app.used_at_ms,
        hosts: app.hosts.iter().map(ToString::to_string).collect(),
    }
    .encode_to_vec()
}

pub(super) fn encode_version(app: &AppId, v: &Version, envs: &Envs) -> Vec<u8> {
    VersionRecord {
        number: v.number,
        source: Some(source_record(&v.source)),
        image_id: v.image_id.clone(),
        created_at_ms: v.created_at_ms,
        settings: Some(settings_record(app, &v.settings, envs)),
        image_ref: v.image_ref.clone(),
        overlay: v.overlay.as_ref().map(overlay_record),
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
pub(super) fn read_all(db: &sled::Db, envs: &Envs) -> Result<Catalog, String> {
    let mut catalog = Catalog::default();
    for row in db.scan_prefix([keys::APPS]) {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let id = keys::parse_app(&key).ok_or_else(|| format!("the key {key:?} names no app"))?;
        let app = decode_versions(db, &id, envs)
            .and_then(|versions| decode_app(id.clone(), &value, versions, envs))
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
    for key in db.scan_prefix([keys::VOLUMES_TO_DELETE]).keys() {
        let key = key.map_err(|e| e.to_string())?;
        let (id, since) = keys::parse_volume_to_delete(&key)
            .ok_or_else(|| format!("the key {key:?} names no volume"))?;
        catalog.apply(&Change::MarkVolumeForDeletion(id, since));
    }
    Ok(catalog)
}

fn decode_versions(db: &sled::Db, id: &AppId, envs: &Envs) -> Result<Vec<Arc<Version>>, String> {
    db.scan_prefix(keys::versions(id))
        .values()
        .map(|row| decode_version(id, &row.map_err(|e| e.to_string())?, envs).map(Arc::new))
        .collect()
}

pub(super) fn decode_version(app: &AppId, value: &[u8], envs: &Envs) -> Result<Version, String> {
    let record = VersionRecord::decode(value).map_err(|e| e.to_string())?;
    version(app, record, envs)
}

pub(super) fn decode_app(
    id: AppId,
    value: &[u8],
    versions: Vec<Arc<Version>>,
    envs: &Envs,
) -> Result<App, String> {
    let r = AppRecord::decode(value).map_err(|e| e.to_string())?;
    let settings = settings(&id, r.settings.unwrap_or_default(), envs)?;
    Ok(App {
        id,
        created_at_ms: r.created_at_ms,
        updated_at_ms: r.updated_at_ms,
        used_at_ms: r.used_at_ms,
        settings,
        draft: r.draft.map(draft).transpose()?,
        versions,
        active_version: r.active_version,
        hosts: hosts(&r.hosts)?,
    })
}

fn hosts(names: &[String]) -> Result<Vec<HostName>, String> {
    let names = names.iter().map(|name| name.parse());
    names
        .collect::<Result<_, _>>()
        .map_err(|e: crate::model::id::InvalidName| e.to_string())
}

fn draft(r: DraftRecord) -> Result<Draft, String> {
    Ok(Draft {
        source: source(r.source.unwrap_or_default())?,
        created_at_ms: r.created_at_ms,
        built: r.built.map(built).transpose()?,
        base: r.base,
    })
}

fn version(app: &AppId, r: VersionRecord, envs: &Envs) -> Result<Version, String> {
    let code = r.source.unwrap_or_default();
    let image_ref = if r.image_ref.is_empty() {
        code.image_ref.clone()
    } else {
        r.image_ref
    };
    Ok(Version {
        number: r.number,
        source: source(code)?,
        image_ref,
        image_id: r.image_id,
        facts: facts(r.facts.unwrap_or_default())?,
        overlay: r.overlay.map(overlay).transpose()?,
        created_at_ms: r.created_at_ms,
        settings: settings(app, r.settings.unwrap_or_default(), envs)?,
    })
}

/// A row as it was before environments were sealed.
#[cfg(test)]
pub(super) fn legible(app: &AppId, row: &[u8], is_version: bool, envs: &Envs) -> Vec<u8> {
    if is_version {
        let mut record = VersionRecord::decode(row).expect("a version");
        settings::make_legible(app, &mut record.settings, envs);
        return record.encode_to_vec();
    }
    let mut record = AppRecord::decode(row).expect("an app");
    settings::make_legible(app, &mut record.settings, envs);
    record.encode_to_vec()
}

fn facts_record(facts: &ImageFacts) -> FactsRecord {
    let content = facts.home.content.as_ref();
    FactsRecord {
        user: facts.user.clone(),
        home: facts.home.path.clone(),
        // The only field that earlier versions of `ignite` read.
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
