//! Repairs damaged journals: whole batches reach the databases, and the report names the lost
//! ranges.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    super::{
        super::{
            db::{guarded, sync_folder},
            report::{Repaired, RepairedJournal},
        },
        Shared,
        apply::Applier,
        journal::{self, Journal, STATISTICS},
        journaled_databases::JOURNALS,
        rows,
        segment::Segment,
    },
    folder, open,
};
use crate::clock::now_ms;

/// Saves the whole batches of damaged journals; does nothing when no journal is damaged.
///
/// # Errors
/// An error of the disk or of a damaged database. The journals are then left untouched.
pub(in crate::store) fn repair(data_dir: &Path) -> Result<Repaired, String> {
    let folder = folder(data_dir);
    let mut repaired = Repaired::default();
    if !folder.exists() {
        return Ok(repaired);
    }
    let text = |e: io::Error| e.to_string();
    let mut journals = Vec::new();
    for path in JOURNALS.map(|name| folder.join(name)) {
        let is_damaged = journal::damage(&path).map_err(text)?.is_some();
        let saved = journal::salvage(&path).map_err(text)?;
        if is_damaged {
            repaired.journals.push(RepairedJournal {
                copy: keep_copy(&path).map_err(text)?,
                saved: saved.batches.len() as u64,
                lost: saved.lost.clone(),
                path: path.clone(),
            });
        }
        journals.push((saved, path));
    }
    if repaired.journals.is_empty() {
        return Ok(repaired);
    }
    sync_folder(&folder).map_err(text)?;
    // The older first, as at a start.
    journals.sort_by_key(|(saved, _)| saved.number);
    let shared = open(&folder).map_err(|e| e.to_string())?;
    let mut applier = Applier::default();
    let mut targets = BTreeSet::new();
    for (saved, _) in &mut journals {
        for batch in saved.batches.drain(..) {
            targets.extend(batch.iter().map(|operation| operation.target));
            guarded(|| applier.apply(&shared, batch))?;
        }
    }
    guarded(|| applier.flush(&shared))?;
    repaired.removed_rows = remove_orphans(&shared, &targets)?;
    for (_, path) in &journals {
        fs::remove_file(path).map_err(text)?;
        Journal::open(path, |_| Ok(())).map_err(|e| e.to_string())?;
    }
    sync_folder(&folder).map_err(text)?;
    Ok(repaired)
}

/// Copies a journal unchanged.
fn keep_copy(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", now_ms()));
    let copy = PathBuf::from(name);
    fs::copy(path, &copy)?;
    File::open(&copy)?.sync_all()?;
    Ok(copy)
}

/// Removes the rows of executions whose request was lost, since no reader could find them.
fn remove_orphans(shared: &Shared, targets: &BTreeSet<u64>) -> Result<u64, String> {
    let mut removed = 0;
    for target in targets.iter().filter(|target| **target != STATISTICS) {
        if let Some(segment) = shared.segments.starting_at(*target) {
            removed += guarded(|| remove_orphans_of(&segment))?;
        }
    }
    Ok(removed)
}

fn remove_orphans_of(segment: &Segment) -> Result<u64, String> {
    let database = segment.open().map_err(|e| e.to_string())?;
    let mut batch = sled::Batch::default();
    let mut removed = 0;
    for kind in [rows::LIVE, rows::ENDS, rows::RESULTS] {
        for key in database.tree.scan_prefix([kind]).keys() {
            let key = key.map_err(|e| e.to_string())?;
            let Some(id) = rows::id_of(&key) else {
                continue;
            };
            let request = database.tree.contains_key(rows::by_id(rows::REQUESTS, id));
            if !request.map_err(|e| e.to_string())? {
                batch.remove(key);
                removed += 1;
            }
        }
    }
    if removed > 0 {
        database.commit(batch)?;
    }
    Ok(removed)
}
