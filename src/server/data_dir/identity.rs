//! The identity of a data directory: the instance whose containers and volumes are its own.
//!
//! It is in the file `instance`, in the directory's record of its last run (`holder`), in
//! the store's folder, and in the labels of everything on the engine. Where the file is damaged or
//! missing, the identity is recovered from one of the others: under another identity the volumes of
//! the apps would be orphaned.
//!
//! A copy of a directory has all of these too. It is recognized by the inode of the directory,
//! which the last run recorded: when the inode differs, and a directory of this identity is still
//! where the last run was, this one is a copy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::super::machine;
use crate::{
    atomic_file,
    config::Config,
    engine::docker::Pruner,
    model::{
        InstanceId,
        instance_lease::{Holder, Record},
    },
    store,
};

/// The file with the id.
pub(super) const INSTANCE: &str = "instance";
/// The file with the last run.
pub(super) const HOLDER: &str = "holder";

/// What is known about a directory before a server uses it.
pub(super) struct Found {
    pub(super) instance: InstanceId,
    pub(super) record: Option<Record>,
}

/// Finds the identity, or makes one for a directory that never had one.
pub(super) async fn find(path: &Path, here: &Holder, config: &Config) -> Result<Found> {
    let record = recall(path);
    let instance = match read(&path.join(INSTANCE))? {
        Some(id) => Some(id),
        None => recover(path, record.as_ref(), config).await?,
    };
    let Some(instance) = instance else {
        let instance = renew(path)?;
        return Ok(Found {
            instance,
            record: None,
        });
    };
    // A directory without a recorded run is of an older `ignite`, and may be a copy.
    let is_known = record
        .as_ref()
        .is_some_and(|r| r.holder.same_directory(here));
    if config.new_instance && !is_known {
        let fresh = renew(path)?;
        tracing::warn!(
            instance = %fresh, before = %instance,
            "The data directory has a new identity; its PERSISTENT apps have the files in its folder volumes/, and volumes of the engine's own stay with the identity before"
        );
        return Ok(Found {
            instance: fresh,
            record: None,
        });
    }
    if let Some(original) = record
        .as_ref()
        .filter(|_| !is_known)
        .and_then(|r| original(&r.holder, here, &instance))
    {
        bail!(
            "{}",
            refusal(
                path,
                &instance,
                &format!("{}, which is still there", original.display())
            )
        );
    }
    Ok(Found { instance, record })
}

/// Why a directory that is a copy of another one is refused.
pub(in crate::server) fn refusal(path: &Path, instance: &InstanceId, original: &str) -> String {
    format!(
        "the data directory {} has the identity {instance}, which belongs to {original}. Two servers of one identity would take each other's containers away. \
         Start the copy with `ignite serve --new-instance`: it gets an identity of its own, and its PERSISTENT apps find the files that were copied along in `volumes/` (volumes of the engine's own stay with the original). \
         To go on with the copy in the original's place, stop the original and move its directory away",
        path.display()
    )
}

/// A fresh id for a directory.
pub(super) fn renew(path: &Path) -> Result<InstanceId> {
    let id = InstanceId::from_random(ulid::Ulid::generate().random() as u64);
    write(&path.join(INSTANCE), &id)?;
    let record = path.join(HOLDER);
    super::remove_if_there(&record)
        .with_context(|| format!("cannot remove {}", record.display()))?;
    Ok(id)
}

/// The token of one run.
pub(super) fn token() -> String {
    // The random half of a ULID, in 20 characters.
    format!("{:020x}", ulid::Ulid::generate().random())
}

/// What the directory remembers of its last run; nothing when that cannot be read.
pub(super) fn recall(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path.join(HOLDER)).ok()?).ok()
}

/// Remembers a run.
pub(super) fn remember(path: &Path, record: &Record) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    atomic_file::write(&path.join(HOLDER), &text)
}

/// Keeps a copy in the store's folder.
pub(super) fn copy(path: &Path, instance: &InstanceId) -> Result<()> {
    let copy = in_store(path);
    match read(&copy) {
        Ok(Some(id)) if id == *instance => Ok(()),
        _ => write(&copy, instance),
    }
}

fn in_store(path: &Path) -> PathBuf {
    path.join(store::FOLDER).join(INSTANCE)
}

fn write(name: &Path, instance: &InstanceId) -> Result<()> {
    atomic_file::write(name, format!("{instance}\n").as_bytes())
        .with_context(|| format!("cannot write {}", name.display()))
}

/// The id that a data directory has; `None` when it is damaged.
///
/// # Errors
/// The file system's, also when there is none.
pub(in crate::server) fn instance_of(path: &Path) -> std::io::Result<Option<InstanceId>> {
    Ok(parsed(&fs::read(path.join(INSTANCE))?))
}

fn parsed(bytes: &[u8]) -> Option<InstanceId> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// The id in a file; `None` when there is none, or it is damaged.
fn read(name: &Path) -> Result<Option<InstanceId>> {
    match fs::read(name) {
        Ok(bytes) => Ok(parsed(&bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", name.display())),
    }
}

/// Recovers the identity from its other copies; `None` for a directory that never had one.
async fn recover(
    path: &Path,
    record: Option<&Record>,
    config: &Config,
) -> Result<Option<InstanceId>> {
    let name = path.join(INSTANCE);
    let remembered = record.and_then(|r| r.instance.parse().ok());
    let (id, from) = match remembered {
        Some(id) => (id, "the directory's record of its last run"),
        None => match read(&in_store(path))? {
            Some(id) => (id, "the copy in the store's folder"),
            None if !store::tools::is_there(path) && !name.exists() => return Ok(None),
            None => match on_engine(path, config).await.with_context(|| {
                format!(
                    "{} is damaged or missing, and the engine, whose labels have the identity, did not respond; start the engine, or restore the file from a backup",
                    name.display()
                )
            })? {
                Some(id) => (id, "the labels on the engine"),
                // Then nothing on the engine depends on it.
                None => return Ok(None),
            },
        },
    };
    tracing::warn!(instance = %id, "{} was damaged or missing; restored from {from}", name.display());
    write(&name, &id)?;
    Ok(Some(id))
}

/// The identity of the instance that served from this path, by the labels on the engine.
async fn on_engine(path: &Path, config: &Config) -> Result<Option<InstanceId>> {
    let found = Pruner::new(config.docker_host.as_deref())?.find().await?;
    let mut ids = found
        .into_values()
        .filter(|r| r.instance.data_dir.as_deref() == Some(path))
        .filter_map(|r| r.instance.id.parse::<InstanceId>().ok());
    let first = ids.next();
    let others: Vec<_> = ids.map(|id| id.to_string()).collect();
    if let (Some(first), false) = (&first, others.is_empty()) {
        bail!(
            "several instances have served from {}: {first}, {}; write the one whose volumes you need into the file {INSTANCE} there (`docker volume ls` shows them)",
            path.display(),
            others.join(", ")
        );
    }
    Ok(first)
}

/// The directory that a copy was made of, when it is where it was and has this identity.
fn original(before: &Holder, here: &Holder, instance: &InstanceId) -> Option<PathBuf> {
    let path = PathBuf::from(&before.path);
    let there = machine::here(&path).ok()?;
    let same = there.device == here.device && there.inode == here.inode;
    let has_it = || read(&path.join(INSTANCE)).ok()?.filter(|id| id == instance);
    (!same && has_it().is_some()).then_some(path)
}
