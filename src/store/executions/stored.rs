//! Counts the bytes that each organization's executions take in a segment: their rows and the files
//! beside them. Idempotency keys are left out: a request has at most one, of some hundred bytes. An
//! execution counts for its app's organization, whoever submitted it.
//!
//! The committer adds what it writes (`batch.rs`). The mark of a sealed segment contains its
//! counts, so that a start need not read the segment.

use std::collections::HashMap;

use prost::Message as _;

use super::{
    super::db::Database,
    rows::{self, BodyRecord, RequestRecord, ResultRecord},
};
use crate::model::{ExecutionId, OrgName};

/// Bytes by organization.
pub(super) type Counts = HashMap<OrgName, u64>;

/// The last line of a complete mark; no organization has this name.
const END: &str = ".";

/// Counts rows in key order, in which requests come before results.
#[derive(Default)]
pub(super) struct Counter {
    owners: HashMap<ExecutionId, OrgName>,
    counts: Counts,
}

impl Counter {
    /// Counts a row; returns its body, if it is a request or a result.
    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> Option<BodyRecord> {
        let (owner, body) = match *key.first()? {
            rows::REQUESTS => {
                let request = RequestRecord::decode(value).ok()?;
                let id = rows::id_of(key)?;
                let owner = rows::identity(id, &request).map(|identity| identity.app.org);
                if let Some(owner) = &owner {
                    self.owners.insert(id, owner.clone());
                }
                (owner, request.body)
            }
            rows::RESULTS => {
                let owner = self.owners.get(&rows::id_of(key)?).cloned();
                (owner, ResultRecord::decode(value).ok()?.body)
            }
            rows::ENDS => (rows::app_of(key).map(|app| app.org), None),
            _ => return None,
        };
        if let Some(owner) = owner {
            let bytes = of_row(key, value) + body.as_ref().map_or(0, of_file);
            *self.counts.entry(owner).or_default() += bytes;
        }
        body
    }

    pub(super) fn counts(self) -> Counts {
        self.counts
    }
}

/// Reads a whole segment.
///
/// # Errors
/// When it cannot be read. Damaged rows are not counted.
pub(super) fn count(database: &Database) -> Result<Counts, String> {
    let mut counter = Counter::default();
    for kind in [rows::REQUESTS, rows::ENDS, rows::RESULTS] {
        for row in database.tree.scan_prefix([kind]) {
            let (key, value) = row.map_err(|e| e.to_string())?;
            counter.row(&key, &value);
        }
    }
    Ok(counter.counts())
}

/// The bytes of a row.
pub(super) fn of_row(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// The bytes of a body outside its row.
fn of_file(body: &BodyRecord) -> u64 {
    if body.file.is_empty() { 0 } else { body.len }
}

/// The content of a sealed segment's mark.
pub(super) fn to_text(counts: &Counts) -> String {
    let mut text = String::new();
    for (org, bytes) in counts {
        text += &format!("{org} {bytes}\n");
    }
    text + END
}

/// The counts in a mark; `None` when an older `ignite` wrote it or a crash cut it short.
pub(super) fn from_text(text: &str) -> Option<Counts> {
    let lines = text.strip_suffix(END)?.lines();
    let count = |line: &str| {
        let (org, bytes) = line.split_once(' ')?;
        Some((org.parse().ok()?, bytes.parse().ok()?))
    };
    lines.map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_all_of_its_counts_or_nothing() {
        let org = |name: &str| -> OrgName { name.parse().expect("valid") };
        for counts in [
            Counts::new(),
            Counts::from([(org("acme"), 10), (org("end"), u64::MAX)]),
        ] {
            let text = to_text(&counts);
            assert_eq!(from_text(&text), Some(counts));
            for cut in 0..text.len() {
                assert_eq!(from_text(&text[..cut]), None, "{text:?} {cut}");
            }
        }
    }
}
