//! The audit log: who did what, when, from where, and with which result.
//!
//! One JSON object a line, in files below the data directory (`writer.rs`, read in `read.rs`).
//! Refusals have files apart from what was done, so that a stranger's attempts never push out the
//! history of changes. Nothing waits for the log: entries that it cannot take are counted, and the
//! count is written once it can.

use std::{
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

mod read;
mod writer;

pub use read::{Added, Filter, Follower};

use crate::{clock, vitals::Vitals};
use writer::Writer;

/// Longest text of an entry. What strangers can choose is part of some.
const MAX_TEXT: usize = 512;
/// The result of what was done.
pub const DONE: &str = "OK";

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call of the API that changes something or shows a secret.
    Api,
    /// A token that was given out or refused.
    Token,
    /// A change to service accounts.
    Account,
    /// A change to the keys that sign tokens.
    Key,
    /// The log itself.
    Audit,
}

/// One entry.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// When, by RFC 3339 with milliseconds.
    time: String,
    kind: Kind,
    /// What was done or tried, such as the method.
    action: String,
    /// `OK`, or why not.
    result: String,
    /// Who: the subject of a token, an account, or a user of this machine.
    subject: String,
    /// The id of the token (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The organization concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    /// What it was done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The client's address, or `local` for this machine's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Entries that are missing before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
}

impl Entry {
    /// An entry of now.
    pub fn new(kind: Kind, action: &str, result: &str, subject: &str) -> Self {
        Self {
            time: timestamp(clock::now_ms()),
            kind,
            action: bounded(action),
            result: bounded(result),
            subject: bounded(subject),
            token: None,
            org: None,
            target: None,
            from: None,
            detail: None,
            dropped: None,
        }
    }

    /// Of a command on this machine: its user is the subject.
    pub fn local(kind: Kind, action: &str) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let mut entry = Self::new(kind, action, DONE, &format!("uid:{uid}"));
        entry.from = Some("local".to_owned());
        entry
    }

    /// Says which token was used.
    #[must_use]
    pub fn token(mut self, id: Option<&str>) -> Self {
        self.token = id.map(bounded);
        self
    }

    /// Says which organization is concerned.
    #[must_use]
    pub fn org(mut self, org: Option<&str>) -> Self {
        self.org = org.map(bounded);
        self
    }

    /// Says what it is done to.
    #[must_use]
    pub fn target(mut self, target: Option<&str>) -> Self {
        self.target = target.map(bounded);
        self
    }

    /// Says where the client is.
    #[must_use]
    pub fn from(mut self, address: Option<IpAddr>) -> Self {
        self.from = address.map(|a| a.to_string());
        self
    }

    /// Says more.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = Some(bounded(&text.into()));
        self
    }

    fn is_refusal(&self) -> bool {
        self.result != DONE
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The entry that says how many are missing.
fn dropped(count: u64) -> Entry {
    let mut entry = Entry::new(Kind::Audit, "dropped", DONE, "ignite");
    entry.dropped = Some(count);
    entry
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

fn timestamp(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// The log of a server. Clones share it.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Writer>>);

impl Audit {
    /// Starts the log below `data_dir`, with at most `max_bytes` in all its files; 0 keeps none.
    ///
    /// # Errors
    /// When its folder or its thread cannot be made.
    pub fn start(data_dir: &Path, max_bytes: u64, vitals: &Vitals) -> io::Result<Self> {
        if max_bytes == 0 {
            return Ok(Self(None));
        }
        let writer = Writer::start(data_dir, max_bytes, vitals)?;
        Ok(Self(Some(Arc::new(writer))))
    }

    /// Adds an entry, and never waits for it.
    pub fn record(&self, entry: Entry) {
        if let Some(writer) = &self.0 {
            writer.record(entry);
        }
    }

    /// Writes what was recorded, and ends the log.
    pub fn close(&self) {
        if let Some(writer) = &self.0 {
            writer.close();
        }
    }
}

/// Adds an entry from the command line, whether or not a server runs.
///
/// # Errors
/// The file system's.
pub fn append(data_dir: &Path, entry: &Entry) -> io::Result<()> {
    writer::append(data_dir, entry)
}
