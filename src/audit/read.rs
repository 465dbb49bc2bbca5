//! Reads the audit log, for the command line.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
};

use serde::Deserialize;

use super::{timestamp, writer};

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of one organization.
    pub org: Option<String>,
    /// Those since a time in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// The newest of them, so many.
    pub limit: Option<usize>,
}

#[derive(Deserialize)]
struct Head {
    time: String,
    org: Option<String>,
}

/// The entries below `data_dir` as lines of JSON, oldest first.
///
/// # Errors
/// The file system's. No log is no error: it has no entries then.
pub fn read(data_dir: &Path, filter: &Filter) -> io::Result<Vec<String>> {
    let folder = writer::folder(data_dir);
    let since = filter.since_ms.map(timestamp);
    let mut found: Vec<(String, String)> = Vec::new();
    for path in [false, true]
        .map(|r| writer::generations(&folder, r))
        .concat()
    {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for line in BufReader::new(file).split(b'\n') {
            let Ok(line) = String::from_utf8(line?) else {
                continue;
            };
            // A line that a crash broke off is no entry.
            let Ok(head) = serde_json::from_str::<Head>(&line) else {
                continue;
            };
            // RFC 3339 in one length sorts as text.
            let is_wanted = since.as_ref().is_none_or(|since| head.time >= *since)
                && (filter.org.is_none() || filter.org == head.org);
            if is_wanted {
                found.push((head.time, line));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let skip = filter.limit.map_or(0, |n| found.len().saturating_sub(n));
    Ok(found.into_iter().skip(skip).map(|(_, line)| line).collect())
}
