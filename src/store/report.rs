//! What `ignite store` reports: databases with their rows, problems with their remedies.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::{
    Error,
    db::{self, Database},
};

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Each database that could be opened.
    pub databases: Vec<Checked>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Useless but harmless files, such as those a crash left.
    pub leftovers: Vec<String>,
}

/// One database and what is in it.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Its content, for people.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// How many rows there are of each kind.
    pub rows: Counts,
}

/// Numbers by name, in reading order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(&'static str, u64)>);

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// The folder or file.
    pub path: PathBuf,
    /// What is wrong there.
    pub what: String,
    /// What can be done.
    pub remedy: String,
}

/// What a repair did.
#[derive(Debug, Default, Serialize)]
pub struct Repaired {
    /// Each damaged journal.
    pub journals: Vec<RepairedJournal>,
    /// Rows that were removed because the request of their execution is lost.
    pub removed_rows: u64,
}

/// A journal that was damaged.
#[derive(Debug, Serialize)]
pub struct RepairedJournal {
    /// The journal.
    pub path: PathBuf,
    /// The unchanged copy of it.
    pub copy: PathBuf,
    /// Whole writes that were saved.
    pub saved: u64,
    /// Offset and length of each range that could not be read.
    pub lost: Vec<(u64, u64)>,
}

/// The remedy for a damaged journal.
const REPAIR: &str = "restore the data directory from a backup, or run `ignite store repair`: it keeps a copy of the journal, saves every whole write in it and says what is lost";

/// The remedy for a key that cannot open what it sealed.
pub(super) const KEY: &str = "ignite does not start with it: restore identity/secrets.key of the data directory from a backup";

// === impl Counts ===

impl Counts {
    pub(super) fn add(&mut self, kind: &'static str) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, n)) => *n += 1,
            None => self.0.push((kind, 1)),
        }
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

// === impl Problem ===

impl Problem {
    /// A database that cannot be opened.
    pub(super) fn unopened(path: &Path, error: Error) -> Self {
        match error {
            Error::Corrupt { path, cause } => Self::unreadable(Path::new(&path), cause),
            Error::Journal { what } => Self {
                path: path.to_owned(),
                what,
                remedy: REPAIR.to_owned(),
            },
            Error::Key { cause } => Self {
                path: path.to_owned(),
                what: cause,
                remedy: KEY.to_owned(),
            },
            Error::Newer { found, known, .. } => Self {
                path: path.to_owned(),
                what: format!("it has format {found}, and this ignite reads up to {known}"),
                remedy: "run the newer ignite that wrote it".to_owned(),
            },
        }
    }

    /// A database that cannot be read completely.
    pub(super) fn unreadable(path: &Path, cause: String) -> Self {
        Self {
            path: path.to_owned(),
            what: format!("the database cannot be read: {cause}"),
            remedy: "restore the folder from a backup, or move it away: ignite then starts without what was in it".to_owned(),
        }
    }
}

/// Rewrites one database, or reports why it stays unchanged.
pub(super) fn rewrite(path: &Path, format: u32, cache_bytes: u64, left: &mut Vec<Problem>) {
    if let Err(cause) = Database::rewrite(path, format, cache_bytes) {
        left.push(not_compacted(path, &cause));
    }
}

/// A database that stays unchanged, and why.
pub(super) fn not_compacted(path: &Path, cause: &str) -> Problem {
    Problem {
        path: path.to_owned(),
        what: format!("it was left as it is: {cause}"),
        remedy: "run `ignite store check`, do what it says, and compact again".to_owned(),
    }
}

/// Reports the snapshots that a start set aside: the log has everything that was in them.
pub(super) fn leftover_snapshots(path: &Path, report: &mut Report) {
    // If the folder cannot be listed, its database has been reported already.
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        if db::is_aside(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            report
                .leftovers
                .push(format!("{}: a damaged snapshot", path.display()));
        }
    }
}
