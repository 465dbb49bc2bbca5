//! What `ignite store` does while no server runs: check, compact, export, repair. The caller holds
//! the data directory's lock.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};

use serde::Serialize;

use self::copy::Copy;
use super::{
    CACHE_BYTES, FOLDER, FORMAT, blobs,
    db::{self, Database, guarded},
    env::Envs,
    executions::tools as executions,
    keys, records,
    report::{self, KEY},
    secrets::key::KeyFile,
};
use crate::model::{App, AppId, catalog::Catalog};

mod copy;

pub use super::{
    executions::tools::Execution,
    report::{Checked, Counts, Problem, Repaired, RepairedJournal, Report},
};

/// The result of a compaction.
#[derive(Debug, Serialize)]
pub struct Compacted {
    /// Bytes of the files before.
    pub before: u64,
    /// Bytes of the files after.
    pub after: u64,
    /// Databases that were left unchanged because they are damaged.
    pub left: Vec<Problem>,
}

/// One exported item of the store.
pub enum Exported {
    /// An app with its versions.
    App(Arc<App>),
    /// An execution with its request and result.
    Execution(Box<Execution>),
}

/// Whether a data directory has a store at all.
pub fn is_there(data_dir: &Path) -> bool {
    db::is_there(&data_dir.join(FOLDER)) || executions::folder(data_dir).exists()
}

/// Reads every row and every file. The databases are copied first, and nothing is written to the
/// data directory: what a crash left in the journal is applied to the copy.
pub fn check(data_dir: &Path) -> Report {
    let mut report = Report::default();
    let copy = match Copy::of(data_dir) {
        Ok(copy) => copy,
        Err(problem) => {
            report.problems.push(problem);
            return report;
        }
    };
    check_copy(&copy, data_dir, &mut report);
    copy.restore_names(&mut report);
    report
}

fn check_copy(copy: &Copy, data_dir: &Path, report: &mut Report) {
    let path = copy.path().join(FOLDER);
    if db::is_there(&path) {
        match Database::open(&path, FORMAT, CACHE_BYTES) {
            Ok(database) => {
                let envs = envs(data_dir);
                check_apps(&database, &path, &envs, report);
                report.problems.extend(key_problem(data_dir, &envs));
                // Unreadable rows have been reported.
                if let Ok(catalog) = guarded(|| records::read_all(&database.tree, &envs)) {
                    blobs::check(data_dir, &catalog, report);
                }
            }
            Err(e) => report.problems.push(Problem::unopened(&path, e)),
        }
    }
    executions::check(copy.path(), report);
}

/// Rewrites every database without unused space, and drops leftovers beside and in the databases.
/// Each old database stays until its successor is on disk.
///
/// # Errors
/// An error of the disk or of a damaged database; what was done until then stays done.
pub fn compact(data_dir: &Path) -> Result<Compacted, String> {
    let size = || size(data_dir).map_err(|e| e.to_string());
    let before = size()?;
    let path = data_dir.join(FOLDER);
    let mut left = Vec::new();
    if db::is_there(&path) {
        report::rewrite(&path, FORMAT, CACHE_BYTES, &mut left);
    }
    executions::compact(data_dir, &mut left)?;
    Ok(Compacted {
        before,
        after: size()?,
        left,
    })
}

/// Saves the whole writes of damaged journals; copies each journal first.
///
/// # Errors
/// An error of the disk or of a damaged database. The journals are then left untouched.
pub fn repair(data_dir: &Path) -> Result<Repaired, String> {
    executions::repair(data_dir)
}

/// Hands out every app and every execution that the API would show, but no secret; returns what
/// could not be read. Like [`check`], it reads a copy.
///
/// # Errors
/// The error of `each`, which ends the export.
pub fn export<E>(
    data_dir: &Path,
    each: &mut impl FnMut(Exported) -> Result<(), E>,
) -> Result<Vec<Problem>, E> {
    let mut problems = Vec::new();
    match Copy::of(data_dir) {
        Ok(copy) => {
            export_copy(&copy, data_dir, &mut problems, each)?;
            copy.name_originals(&mut problems);
        }
        Err(problem) => problems.push(problem),
    }
    Ok(problems)
}

fn export_copy<E>(
    copy: &Copy,
    data_dir: &Path,
    problems: &mut Vec<Problem>,
    each: &mut impl FnMut(Exported) -> Result<(), E>,
) -> Result<(), E> {
    let path = copy.path().join(FOLDER);
    // Without the catalog it is unknown which executions are hidden, so all are exported.
    let mut catalog = None;
    if db::is_there(&path) {
        let envs = envs(data_dir);
        match read_apps(&path, &envs) {
            Ok(apps) => {
                problems.extend(key_problem(data_dir, &envs));
                catalog = Some(apps);
            }
            Err(problem) => problems.push(problem),
        }
    }
    for app in catalog.iter().flat_map(Catalog::iter) {
        each(Exported::App(app.clone()))?;
    }
    let since = |app: &AppId| match &catalog {
        Some(catalog) => catalog.get(app).map(|a| a.created_at_ms),
        None => Some(0),
    };
    let is_visible = |e: &Execution| {
        let identity = &e.record.identity;
        since(&identity.app).is_some_and(|since| identity.created_at_ms() >= since)
    };
    executions::export(copy.path(), problems, &mut |execution| {
        if is_visible(&execution) {
            each(Exported::Execution(Box::new(execution)))
        } else {
            Ok(())
        }
    })
}

/// The environments of a data directory's apps. The key stays in the original; it is not copied.
fn envs(data_dir: &Path) -> Envs {
    Envs::lenient(Arc::new(KeyFile::new(data_dir)))
}

/// What is wrong with the key, if reading needed it.
fn key_problem(data_dir: &Path, envs: &Envs) -> Option<Problem> {
    Some(Problem {
        path: data_dir.join(FOLDER),
        what: envs.key_error()?,
        remedy: KEY.to_owned(),
    })
}

fn read_apps(path: &Path, envs: &Envs) -> Result<Catalog, Problem> {
    let database =
        Database::open(path, FORMAT, CACHE_BYTES).map_err(|e| Problem::unopened(path, e))?;
    guarded(|| records::read_all(&database.tree, envs)).map_err(|e| Problem::unreadable(path, e))
}

fn check_apps(database: &Database, path: &Path, envs: &Envs, report: &mut Report) {
    let mut rows = Counts(vec![("apps", 0), ("versions", 0)]);
    let mut wrong = Vec::new();
    let read = guarded(|| read_rows(database, envs, &mut rows, &mut wrong));
    let problem = |what: String| {
        Problem {
        path: path.to_owned(),
        what,
        remedy: "ignite does not start with it: restore the folder from a backup, or move it away and deploy the apps again; `ignite store export` still gives out the executions".to_owned(),
    }
    };
    report.problems.extend(wrong.into_iter().map(problem));
    if let Err(cause) = read {
        report.problems.push(Problem::unreadable(path, cause));
    }
    report::leftover_snapshots(path, report);
    report.databases.push(Checked {
        name: "catalog".to_owned(),
        path: path.to_owned(),
        rows,
    });
}

fn read_rows(
    database: &Database,
    envs: &Envs,
    rows: &mut Counts,
    wrong: &mut Vec<String>,
) -> Result<(), String> {
    let mut active: HashMap<AppId, u32> = HashMap::new();
    let mut versions: HashSet<(AppId, u32)> = HashSet::new();
    for row in database.tree.iter() {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let kind = key.first().copied();
        if let (Some(keys::APPS), Some(id)) = (kind, keys::parse_app(&key)) {
            rows.add("apps");
            match records::decode_app(id.clone(), &value, Vec::new(), envs) {
                Ok(app) => drop(active.insert(id, app.active_version)),
                Err(e) => wrong.push(format!("the record of app {id} is damaged: {e}")),
            }
        } else if let (Some(keys::VERSIONS), Some((id, n))) = (kind, keys::parse_version(&key)) {
            rows.add("versions");
            match records::decode_version(&id, &value, envs) {
                Ok(v) if v.number == n => drop(versions.insert((id, n))),
                Ok(v) => wrong.push(format!(
                    "version {n} of app {id} has the record of version {}",
                    v.number
                )),
                Err(e) => wrong.push(format!("version {n} of app {id} is damaged: {e}")),
            }
        } else if let (Some(keys::SECRETS), Some((org, name))) = (kind, keys::parse_secret(&key)) {
            rows.add("secrets");
            let damaged = format!("the record of secret {org}/{name} is damaged");
            if let Err(e) = records::decode_secret(org, name, &value) {
                wrong.push(format!("{damaged}: {e}"));
            }
        } else if let (Some(keys::PULLED), Some(image)) = (kind, keys::parse_pulled(&key)) {
            rows.add("images");
            let damaged = format!("the record of the pulled image {image} is damaged");
            if let Err(e) = records::decode_pulled(&value) {
                wrong.push(format!("{damaged}: {e}"));
            }
        } else if kind == Some(keys::VOLUMES_TO_DELETE)
            && keys::parse_volume_to_delete(&key).is_some()
        {
            rows.add("volumes to go");
        } else if &*key != db::FORMAT_KEY {
            wrong.push(format!(
                "the key {} names nothing known",
                key.escape_ascii()
            ));
        }
    }
    let mut missing: Vec<_> = active
        .iter()
        .filter(|(id, n)| **n != 0 && !versions.contains(&((*id).clone(), **n)))
        .map(|(id, n)| format!("app {id} runs version {n}, which cannot be read"))
        .collect();
    missing.extend(
        versions
            .iter()
            .filter(|(id, _)| !active.contains_key(id))
            .map(|(id, n)| format!("version {n} is of app {id}, which cannot be read")),
    );
    missing.sort();
    wrong.append(&mut missing);
    Ok(())
}

/// Bytes of all databases and files.
fn size(data_dir: &Path) -> io::Result<u64> {
    Ok(folder_size(&data_dir.join(FOLDER))? + folder_size(&executions::folder(data_dir))?)
}

fn folder_size(path: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            folder_size(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
