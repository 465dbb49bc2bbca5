//! What `ignite store` does to executions while no server runs: check, compact, export, repair.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    super::{
        Error,
        db::{Database, guarded},
        report::{self, Problem, Report},
    },
    Config, FOLDER, INCOMING, SEGMENTS, STATS, Shared,
    journaled_databases::{Disk, JOURNALS},
    read,
    read::Record,
    retention,
    rows::{self, BodyRecord, EndRecord, LiveRecord, RequestRecord, ResultRecord},
    segment::{Segment, Segments},
    stats,
};
use crate::model::{Failure, execution::State};

mod check;
mod repair;

pub(in crate::store) use repair::repair;

/// An execution with everything that is stored of it.
pub struct Execution {
    /// Its identity, state and result.
    pub record: Record,
    /// The method of its request.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: Vec<(String, Bytes)>,
    /// The body; `None` when it cannot be read.
    pub body: Option<Bytes>,
}

/// The folder of a data directory's executions.
pub(in crate::store) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// Reads every row and file of the executions and their statistics.
pub(in crate::store) fn check(data_dir: &Path, report: &mut Report) {
    let folder = folder(data_dir);
    if !folder.exists() {
        return;
    }
    let statistics = folder.join(STATS);
    match open(&folder) {
        Ok(shared) => {
            if let Err(problem) = replay(&shared) {
                report.problems.push(problem);
            }
            // With a damaged journal, the remaining findings hold for the store without that
            // journal.
            check::statistics(&shared.stats.database(), &statistics, report);
            check::segments(&shared.segments, report);
        }
        Err(error) => {
            report.problems.push(Problem::unopened(&statistics, error));
            // The executions can be read without their statistics.
            match Segments::open(folder.join(SEGMENTS)) {
                Ok(segments) => check::segments(&segments, report),
                Err(e) => report
                    .problems
                    .push(Problem::unreadable(&folder, e.to_string())),
            }
        }
    }
}

/// Rewrites every segment and the statistics.
///
/// # Errors
/// When the journal cannot be applied, without which nothing may be touched.
pub(in crate::store) fn compact(data_dir: &Path, left: &mut Vec<Problem>) -> Result<(), String> {
    let folder = folder(data_dir);
    if !folder.exists() {
        return Ok(());
    }
    {
        let shared = open(&folder).map_err(|e| e.to_string())?;
        replay(&shared).map_err(|problem| format!("{}; {}", problem.what, problem.remedy))?;
        for segment in shared.segments.all() {
            if let Err(cause) = compact_segment(&shared, &segment) {
                left.push(report::not_compacted(&segment.rows(), &cause));
            }
        }
    }
    match fs::remove_dir_all(folder.join(INCOMING)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.to_string()),
        _ => {}
    }
    report::rewrite(&folder.join(STATS), stats::FORMAT, stats::CACHE_BYTES, left);
    Ok(())
}

/// Hands out every execution, oldest first; problems with unreadable ones go to `problems`.
///
/// # Errors
/// The error of `each`, which ends the export.
pub(in crate::store) fn export<E>(
    data_dir: &Path,
    problems: &mut Vec<Problem>,
    each: &mut impl FnMut(Execution) -> Result<(), E>,
) -> Result<(), E> {
    let folder = folder(data_dir);
    if !folder.exists() {
        return Ok(());
    }
    let shared = match open(&folder) {
        Ok(shared) => shared,
        Err(e) => {
            problems.push(Problem::unopened(&folder, e));
            return Ok(());
        }
    };
    if let Err(problem) = replay(&shared) {
        problems.push(problem);
    }
    for segment in shared.segments.all() {
        let mut stopped = None;
        let mut wrong = Vec::new();
        let all = guarded(|| {
            let database = segment.open().map_err(|e| e.to_string())?;
            for row in database.tree.scan_prefix([rows::REQUESTS]) {
                let (key, value) = row.map_err(|e| e.to_string())?;
                match load(&segment, &database, &key, &value, &mut wrong) {
                    Ok(execution) => {
                        if let Err(e) = each(execution) {
                            stopped = Some(e);
                            break;
                        }
                    }
                    Err(what) => wrong.push(what),
                }
            }
            Ok(())
        });
        segment.close_if_idle(Duration::ZERO);
        if let Some(e) = stopped {
            return Err(e);
        }
        let path = segment.rows();
        problems.extend(wrong.into_iter().map(|what| Problem {
            path: path.clone(),
            what,
            remedy: "`ignite store check` says more".to_owned(),
        }));
        if let Err(cause) = all {
            problems.push(Problem::unreadable(&path, cause));
        }
    }
    Ok(())
}

/// Opens what is on disk, without committer and retention.
fn open(folder: &Path) -> Result<Arc<Shared>, Error> {
    let config = Config {
        queue_max: 0,
        retention: Duration::MAX,
        max_per_app: u64::MAX,
        min_free_bytes: 0,
        output_keep: 0,
        journal_bytes: u64::MAX,
        retention_interval: Duration::MAX,
        settled: Arc::new(|| true),
        vitals: crate::vitals::Vitals::default(),
        metrics: Default::default(),
        ledger: crate::store::Ledger::default(),
        clock: Arc::new(SystemTime::now),
    };
    Shared::open(folder.to_owned(), config, Arc::new(|_| Some(0))).map(Arc::new)
}

fn replay(shared: &Arc<Shared>) -> Result<(), Problem> {
    let path = shared.folder.join(JOURNALS[0]);
    let cause = match guarded(|| Ok(Disk::open(shared.clone()))) {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(damaged @ Error::Journal { .. })) => {
            return Err(Problem::unopened(&path, damaged));
        }
        Ok(Err(Error::Corrupt { cause, .. })) | Err(cause) => cause,
        Ok(Err(newer)) => newer.to_string(),
    };
    Err(Problem {
        path,
        what: format!("what the last run wrote at its end cannot be applied: {cause}"),
        remedy: "do first what is said of the other databases; when there is nothing, run the ignite that wrote it, or restore the folder of the executions from a backup".to_owned(),
    })
}

fn compact_segment(shared: &Shared, segment: &Segment) -> Result<(), String> {
    // The successor gets only the files that rows name, so every row must be legible.
    let mut found = Report::default();
    let is_legible = check::segment(&shared.segments, segment, &mut found);
    if !is_legible {
        let first = found.problems.into_iter().next();
        return Err(first.map_or_else(|| "it is damaged".to_owned(), |p| p.what));
    }
    guarded(|| {
        let has_live = {
            let database = segment.open().map_err(|e| e.to_string())?;
            let count = |kind| database.tree.scan_prefix([kind]).keys().count();
            count(rows::REQUESTS) > count(rows::ENDS)
        };
        let is_newest = shared.segments.end_ms(segment).is_none();
        retention::compact(shared, segment, &HashMap::new(), !has_live && !is_newest)
    })
}

fn load(
    segment: &Segment,
    database: &Database,
    key: &[u8],
    value: &[u8],
    wrong: &mut Vec<String>,
) -> Result<Execution, String> {
    let id = rows::id_of(key).ok_or("a key names no execution")?;
    let damaged = |what: &str| format!("{id}: the {what} is damaged");
    let get = |key: &[u8]| database.tree.get(key).map_err(|e| e.to_string());
    let request = RequestRecord::decode(value).map_err(|_| damaged("request"))?;
    let identity = rows::identity(id, &request).ok_or_else(|| damaged("request"))?;
    let state = match get(&rows::end(&identity.app, id))? {
        Some(row) => EndRecord::decode(&*row).ok().and_then(rows::end_state),
        None => match get(&rows::by_id(rows::LIVE, id))? {
            Some(row) => LiveRecord::decode(&*row).ok().map(|r| rows::live_state(&r)),
            // It never ran.
            None => Some(State::default()),
        },
    };
    let state: State = state.ok_or_else(|| damaged("state"))?;
    let mut body_of = |record: Option<BodyRecord>| {
        let read = read::body(segment, record.unwrap_or_default(), id);
        read.map_err(|failure: Failure| wrong.push(failure.message))
            .ok()
    };
    let body = body_of(request.body);
    let result = match get(&rows::by_id(rows::RESULTS, id))? {
        None => None,
        Some(row) => {
            let result = ResultRecord::decode(&*row).map_err(|_| damaged("result"))?;
            body_of(result.body).map(|body| (read::pairs(result.headers), body))
        }
    };
    Ok(Execution {
        record: Record {
            identity,
            state: Arc::new(state),
            result,
        },
        method: request.method,
        target: request.target,
        headers: read::pairs(request.headers),
        body,
    })
}
