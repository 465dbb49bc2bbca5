//! The check of the executions: every row can be read, and rows and files that belong together are
//! all there.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use prost::Message as _;

use super::super::{
    super::{
        db::{self, Database, guarded},
        report::{self, Checked, Counts, Problem, Report},
    },
    rows::{self, BodyRecord, EndRecord, KeyRecord, LiveRecord, RequestRecord, ResultRecord},
    segment::{Segment, Segments},
    stats,
};
use crate::model::ExecutionId;

/// Remedies for one unreadable execution, and for damage that keeps ignite from starting.
const RESTORE_OR_LOSE: &str = "restore the folder of the segment from a backup; without that this execution cannot be read, and the others can";
const CANNOT_START: &str = "ignite does not start with it: restore the folder of the segment from a backup, or move it away and lose the executions in it";

/// Checks the statistics.
pub(super) fn statistics(database: &Database, path: &Path, report: &mut Report) {
    let mut counts = Counts(vec![("minutes", 0), ("hours", 0)]);
    let mut damaged = 0_u64;
    let read = guarded(|| {
        for row in database.tree.iter() {
            let (key, value) = row.map_err(|e| e.to_string())?;
            match stats::kind_of(&key, &value) {
                Some(kind) => counts.add(kind),
                None => damaged += u64::from(&*key != db::FORMAT_KEY),
            }
        }
        Ok(())
    });
    if damaged > 0 {
        report.problems.push(Problem {
            path: path.to_owned(),
            what: format!("{damaged} rows of the statistics are damaged"),
            remedy:
                "counts of some minutes are missing; restore the folder from a backup, or leave it"
                    .to_owned(),
        });
    }
    if let Err(cause) = read {
        report.problems.push(Problem::unreadable(path, cause));
    }
    report::leftover_snapshots(path, report);
    report.databases.push(Checked {
        name: "statistics".to_owned(),
        path: path.to_owned(),
        rows: counts,
    });
}

/// Checks every segment.
pub(super) fn segments(all: &Segments, report: &mut Report) {
    for one in all.all() {
        segment(all, &one, report);
        one.close_if_idle(Duration::ZERO);
    }
}

/// Checks a segment; returns whether every row of it is legible.
pub(super) fn segment(segments: &Segments, segment: &Segment, report: &mut Report) -> bool {
    let path = segment.rows();
    let database = match segment.open() {
        Ok(database) => database,
        Err(e) => {
            report.problems.push(Problem::unopened(&path, e));
            return false;
        }
    };
    let kinds = [
        "requests", "live", "ended", "results", "keys", "counts", "files",
    ];
    let mut check = Check {
        segments,
        segment,
        database: &database,
        counts: Counts(kinds.map(|kind| (kind, 0)).to_vec()),
        files: HashSet::new(),
        problems: Vec::new(),
        is_legible: true,
    };
    let read = guarded(|| check.rows());
    if let Err(cause) = read {
        check.is_legible = false;
        check.problems.push(Problem::unreadable(&path, cause));
    }
    if check.is_legible {
        check.orphans(report);
    }
    report::leftover_snapshots(&path, report);
    report.problems.append(&mut check.problems);
    let start = UNIX_EPOCH.checked_add(Duration::from_millis(segment.start_ms));
    let start = start.map_or_else(
        || segment.start_ms.to_string(),
        |at| humantime::format_rfc3339_millis(at).to_string(),
    );
    report.databases.push(Checked {
        name: format!("executions since {start}"),
        path,
        rows: check.counts,
    });
    check.is_legible
}

/// The check of one segment.
struct Check<'a> {
    segments: &'a Segments,
    segment: &'a Segment,
    database: &'a Database,
    counts: Counts,
    /// Every file that a row names.
    files: HashSet<String>,
    problems: Vec<Problem>,
    /// No row is damaged.
    is_legible: bool,
}

impl Check<'_> {
    fn rows(&mut self) -> Result<(), String> {
        for row in self.database.tree.iter() {
            let (key, value) = row.map_err(|e| e.to_string())?;
            if &*key != db::FORMAT_KEY {
                self.row(&key, &value)?;
            }
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let id = rows::id_of(key);
        match (key.first().copied(), id) {
            (Some(rows::REQUESTS), Some(id)) => self.request(id, value),
            (Some(rows::LIVE), Some(id)) => self.live(id, value),
            (Some(rows::ENDS), Some(id)) => self.end(key, id, value),
            (Some(rows::RESULTS), Some(id)) => self.result(id, value),
            (Some(rows::KEYS), _) => {
                self.counts.add("keys");
                let record = KeyRecord::decode(value).ok();
                let is_whole = record.and_then(|r| r.id()).is_some();
                if rows::app_of(key).is_none() || !is_whole {
                    self.damaged(format!("the idempotency key {}", key.escape_ascii()), "repeating a request with that key answers STORE_UNAVAILABLE for 24 hours; use another one");
                }
                Ok(())
            }
            (Some(rows::COUNTS), _) => {
                self.counts.add("counts");
                let at = rows::app_of(key).zip(rows::minute_of(key));
                if at.is_none() || value.len() != 12 {
                    self.damaged(
                        format!("the count {}", key.escape_ascii()),
                        "the statistics lack it; leave it, or restore the folder from a backup",
                    );
                }
                Ok(())
            }
            _ => {
                self.damaged(
                    format!("the row {}", key.escape_ascii()),
                    "restore the folder from a backup, or run the ignite that wrote it",
                );
                Ok(())
            }
        }
    }

    fn request(&mut self, id: ExecutionId, value: &[u8]) -> Result<(), String> {
        self.counts.add("requests");
        let belongs = self.segments.of(id);
        if belongs.is_none_or(|s| s.start_ms != self.segment.start_ms) {
            self.problem(
                self.segment.rows(),
                format!("{id} is outside the span of this segment, so no reader finds it"),
                "give the folder of the segment its old name back, or restore it from a backup",
            );
        }
        let record = RequestRecord::decode(value).ok();
        let Some((identity, record)) = record.and_then(|r| Some((rows::identity(id, &r)?, r)))
        else {
            self.damaged(format!("the request of {id}"), RESTORE_OR_LOSE);
            return Ok(());
        };
        self.body(id, "request", record.body)?;
        let is_live = self.has(&rows::by_id(rows::LIVE, id))?;
        let has_ended = self.has(&rows::end(&identity.app, id))?;
        match (is_live, has_ended) {
            (true, true) => self.problem(
                self.segment.rows(),
                format!("{id} is both ended and unfinished"),
                RESTORE_OR_LOSE,
            ),
            // It never ran.
            (false, false) => self.counts.add("live"),
            _ => {}
        }
        Ok(())
    }

    fn live(&mut self, id: ExecutionId, value: &[u8]) -> Result<(), String> {
        self.counts.add("live");
        if LiveRecord::decode(value).is_err() {
            self.damaged(format!("the state of {id}"), CANNOT_START);
        }
        if !self.has(&rows::by_id(rows::REQUESTS, id))? {
            self.problem(
                self.segment.rows(),
                format!("{id} is to be run, and its request is lost"),
                CANNOT_START,
            );
        }
        Ok(())
    }

    fn end(&mut self, key: &[u8], id: ExecutionId, value: &[u8]) -> Result<(), String> {
        self.counts.add("ended");
        let state = EndRecord::decode(value).ok().and_then(rows::end_state);
        if state.is_none() || rows::app_of(key).is_none() {
            self.damaged(format!("the end of {id}"), RESTORE_OR_LOSE);
        }
        if !self.has(&rows::by_id(rows::REQUESTS, id))? {
            self.problem(
                self.segment.rows(),
                format!("{id} has ended, and its request is lost"),
                RESTORE_OR_LOSE,
            );
        }
        Ok(())
    }

    fn result(&mut self, id: ExecutionId, value: &[u8]) -> Result<(), String> {
        self.counts.add("results");
        let Ok(record) = ResultRecord::decode(value) else {
            self.damaged(format!("the result of {id}"), RESTORE_OR_LOSE);
            return Ok(());
        };
        let request = self.database.tree.get(rows::by_id(rows::REQUESTS, id));
        let request = request.map_err(|e| e.to_string())?;
        let identity = request
            .and_then(|row| RequestRecord::decode(&*row).ok())
            .and_then(|r| rows::identity(id, &r));
        // A damaged request is reported separately.
        if let Some(identity) = identity
            && !self.has(&rows::end(&identity.app, id))?
        {
            self.problem(
                self.segment.rows(),
                format!("{id} has a result and no end"),
                RESTORE_OR_LOSE,
            );
        }
        self.body(id, "result", record.body)
    }

    /// Checks that a body is there and whole.
    fn body(
        &mut self,
        id: ExecutionId,
        of: &str,
        record: Option<BodyRecord>,
    ) -> Result<(), String> {
        let record = record.unwrap_or_default();
        if record.file.is_empty() {
            if record.inline.len() as u64 != record.len {
                self.damaged(format!("the {of} of {id}"), RESTORE_OR_LOSE);
            }
            return Ok(());
        }
        let path = self.segment.files().join(&record.file);
        let what = match fs::metadata(&path) {
            Ok(file) if file.len() == record.len => None,
            Ok(file) => Some(format!(
                "the {of} of {id} has {} bytes where {} were written",
                file.len(),
                record.len
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Some(format!("the file with the {of} of {id} is missing"))
            }
            Err(e) => Some(format!("the file with the {of} of {id}: {e}")),
        };
        if let Some(what) = what {
            self.problem(path, what, "restore the file from a backup; without it this execution cannot be read, and the others can");
        }
        if self.files.insert(record.file) {
            self.counts.add("files");
        }
        Ok(())
    }

    /// Notes the files that no row names: a crash before their row was written leaves some.
    fn orphans(&self, report: &mut Report) {
        let entries = fs::read_dir(self.segment.files())
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            if !self.files.contains(&*entry.file_name().to_string_lossy()) {
                let path = entry.path();
                report
                    .leftovers
                    .push(format!("{}: a file that no row names", path.display()));
            }
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool, String> {
        self.database
            .tree
            .contains_key(key)
            .map_err(|e| e.to_string())
    }

    fn damaged(&mut self, what: String, remedy: &str) {
        self.is_legible = false;
        self.problem(self.segment.rows(), format!("{what} is damaged"), remedy);
    }

    fn problem(&mut self, path: PathBuf, what: String, remedy: &str) {
        self.problems.push(Problem {
            path,
            what,
            remedy: remedy.to_owned(),
        });
    }
}
