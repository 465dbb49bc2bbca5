//! `ignite df`: what this machine's instance takes of the disk, and how it is freed.
//!
//! The operator's view, with or without a running server: the data directory is walked, and the
//! engine asked for what has the instance's labels. The store itself is not opened, since a server
//! that runs has it to itself; so what the store says of apps (such as the images of those without
//! a container) is not here.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::statvfs;
use serde::Serialize;

use super::data_dir;
use crate::{
    config::Config,
    engine::docker::{EngineUsage, Pruner, Used, UsedKind, folders_of_apps},
    model::{AppId, InstanceId},
    tree_size::TreeSize,
};

/// What takes the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The database: apps, versions, secrets.
    Store,
    /// The code of drafts and versions.
    Code,
    /// Executions: the journal, rows, requests and results.
    Executions,
    /// The logs of builds.
    BuildLogs,
    /// The audit log.
    AuditLog,
    /// The files of an app, in the data directory or in a volume of the engine.
    Files,
    /// Keys, certificates and whatever else is in the data directory.
    Other,
    /// What the containers of an app wrote, beside files that are kept.
    Containers,
    /// Images that were built here.
    BuiltImages,
    /// Other images that containers run.
    PulledImages,
    /// Images of `ignite` itself, which all instances on the engine use.
    PlatformImages,
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// The app that it belongs to, as `org/app`; `None` where it belongs to none or several.
    pub app: Option<String>,
    /// How many containers, images or volumes; files and folders of a part of the data directory.
    pub count: u64,
    /// The bytes on disk; `None` where they cannot be known from here.
    pub bytes: Option<u64>,
    /// Of them, what other images have as well; `None` where the engine does not say.
    pub shared_bytes: Option<u64>,
    /// Whether the figure is too small, since something could not be read.
    pub partial: bool,
    /// What frees it.
    pub freed_by: String,
}

/// What the instance takes.
#[derive(Debug, Serialize)]
pub struct Usage {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The instance.
    pub instance: String,
    /// Whether a server uses the directory now.
    pub in_use: bool,
    /// What is free where the data directory is; `None` where the system does not say.
    pub free_bytes: Option<u64>,
    /// What the data directory takes in all.
    pub data_dir_bytes: u64,
    /// What is in the engine, at most: layers that images share count with each; `None` without an
    /// engine.
    pub engine_bytes: Option<u64>,
    /// How many other instances have something in the engine; `None` without one.
    pub other_instances: Option<usize>,
    /// Why nothing is known of the engine; `None` when it answered.
    pub engine_error: Option<String>,
    /// Each part.
    pub items: Vec<Item>,
}

/// The parts of a data directory by the names of their folders.
const PARTS: [(&str, Kind); 5] = [
    ("store", Kind::Store),
    ("code", Kind::Code),
    ("executions", Kind::Executions),
    ("build-logs", Kind::BuildLogs),
    ("audit", Kind::AuditLog),
];

/// Measures what the instance of the configured data directory takes. An engine that does not
/// answer leaves its part out.
///
/// # Errors
/// When there is no data directory, or it cannot be read.
pub async fn usage(config: &Config) -> Result<Usage> {
    let data_dir = &config.data_dir;
    let instance = instance(data_dir)?;
    let path = data_dir.canonicalize().context("data_dir")?;
    let walked = tokio::task::spawn_blocking({
        let path = path.clone();
        move || of_data_dir(&path)
    });
    let asked = async {
        let pruner = Pruner::new(config.docker_host.as_deref()).context("docker_host")?;
        anyhow::Ok(pruner.usage(&instance).await?)
    };
    let (walked, asked) = tokio::join!(walked, asked);
    let mut items = walked.context("the walk through the data directory")??;
    let data_dir_bytes = sum(&items);
    let (engine_bytes, other_instances, engine_error) = match asked {
        Ok(EngineUsage { used, others }) => {
            let found = of_engine(used);
            let bytes = sum(&found);
            items.extend(found);
            (Some(bytes), Some(others), None)
        }
        Err(error) => (None, None, Some(format!("{error:#}"))),
    };
    items.sort_by(|a, b| (a.kind, b.bytes, &a.app).cmp(&(b.kind, a.bytes, &b.app)));
    let space = statvfs(&path).ok();
    Ok(Usage {
        in_use: data_dir::is_in_use(&path),
        data_dir: path,
        instance: instance.to_string(),
        free_bytes: space.map(|of| of.f_bavail.saturating_mul(of.f_frsize)),
        data_dir_bytes,
        engine_bytes,
        other_instances,
        engine_error,
        items,
    })
}

fn instance(data_dir: &Path) -> Result<InstanceId> {
    let shown = data_dir.display();
    match data_dir::instance_of(data_dir) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => bail!(
            "the file instance in {shown} is damaged; the next `ignite serve` restores it from its copies"
        ),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            bail!(
                "{shown} is no data directory: no server has run on it; name another with --data-dir (IGNITE_DATA_DIR)"
            )
        }
        Err(e) => Err(e).with_context(|| format!("cannot read the data directory {shown}")),
    }
}

/// What is in the data directory: a row for each part, and one for each app's files.
fn of_data_dir(path: &Path) -> Result<Vec<Item>> {
    fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let stop = AtomicBool::new(false);
    let mut whole = TreeSize::default();
    whole.add(path, &stop);
    let mut items = Vec::new();
    for (name, kind) in PARTS {
        let folder = path.join(name);
        if folder.is_dir() {
            items.push(row(kind, None, &folder, &stop));
        }
    }
    for (app, _, folder) in folders_of_apps(path) {
        items.push(row(Kind::Files, Some(&app), &folder, &stop));
    }
    let known: u64 = items.iter().map(|item| item.count).sum();
    items.push(Item {
        kind: Kind::Other,
        app: None,
        count: whole.inodes.saturating_sub(known),
        // A server that runs writes between the walks.
        bytes: Some(whole.bytes.saturating_sub(sum(&items))),
        shared_bytes: None,
        partial: whole.partial,
        freed_by: freed_by(Kind::Other, None),
    });
    Ok(items)
}

fn row(kind: Kind, app: Option<&AppId>, folder: &Path, stop: &AtomicBool) -> Item {
    let mut size = TreeSize::default();
    size.add(folder, stop);
    Item {
        kind,
        app: app.map(ToString::to_string),
        count: size.inodes,
        bytes: Some(size.bytes),
        shared_bytes: None,
        partial: size.partial,
        freed_by: freed_by(kind, app),
    }
}

/// What is in the engine, by kind and app.
fn of_engine(used: Vec<Used>) -> Vec<Item> {
    let mut groups = BTreeMap::<(UsedKind, Option<AppId>), Vec<Used>>::new();
    for used in used {
        let key = (used.kind, used.app.clone());
        groups.entry(key).or_default().push(used);
    }
    let item = |((kind, app), used): ((UsedKind, Option<AppId>), Vec<Used>)| {
        let kind = match kind {
            UsedKind::Container => Kind::Containers,
            UsedKind::Volume => Kind::Files,
            UsedKind::Built => Kind::BuiltImages,
            UsedKind::Pulled => Kind::PulledImages,
            UsedKind::Shared => Kind::PlatformImages,
        };
        let known = || used.iter().filter_map(|u| u.bytes);
        Item {
            kind,
            app: app.as_ref().map(ToString::to_string),
            count: used.len() as u64,
            bytes: known().reduce(u64::saturating_add),
            shared_bytes: used.iter().map(|u| u.shared).sum(),
            partial: used.iter().any(|u| u.partial || u.bytes.is_none()),
            freed_by: freed_by(kind, app.as_ref()),
        }
    };
    groups.into_iter().map(item).collect()
}

fn sum(items: &[Item]) -> u64 {
    items.iter().filter_map(|item| item.bytes).sum()
}

/// What frees the space, as a command where there is one.
fn freed_by(kind: Kind, app: Option<&AppId>) -> String {
    let id = app.map_or_else(
        || "ID".to_owned(),
        |app| format!("{}:{}", app.org, app.name),
    );
    match kind {
        Kind::Store => "ignite store compact, while no server runs".to_owned(),
        Kind::Code => "ignite app delete ID; kept for each version".to_owned(),
        Kind::Executions => {
            "execution_retention_secs, execution_max_per_app; ignite store compact".to_owned()
        }
        Kind::BuildLogs => "build_logs_kept, build_logs_bytes".to_owned(),
        Kind::AuditLog => "audit_max_bytes".to_owned(),
        Kind::Files => format!("ignite app delete {id}"),
        Kind::Other => "nothing: keys and certificates are needed".to_owned(),
        Kind::Containers => format!("ignite app idle {id} --depth absent"),
        Kind::BuiltImages => format!("ignite app delete {id}; each version keeps its own"),
        Kind::PulledImages => "by itself once no version needs it, if ignite pulled it".to_owned(),
        Kind::PlatformImages => "ignite prune, where nothing uses them".to_owned(),
    }
}
