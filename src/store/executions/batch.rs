//! What one sync makes durable, and its effects afterwards.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
};

use super::{
    super::Ledger,
    StoredBody, Submitted,
    answers::{Changed, Reply},
    journal::Operation,
    live::Live,
    rows::KeyRecord,
    segment::{Segment, Unended},
    stored,
};
use crate::model::{
    AppId, ExecutionId, Failure, OrgName, Reason,
    execution::{Refused, State},
};

/// An effect of the batch, published once the batch is on disk or has failed.
pub(super) enum Effect {
    Accepted(Arc<Live>, Unended, Reply<Result<Submitted, Failure>>),
    Deduplicated(ExecutionId, Reply<Result<Submitted, Failure>>),
    Changed(Arc<Live>, Arc<State>, Option<Reply<Changed>>),
    /// Refused because of an earlier decision, which may be in the same batch.
    Refused(Refused, Reply<Changed>),
    Forgotten(Reply<Result<(), Failure>>),
}

/// Everything that one sync makes durable.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) operations: Vec<Operation>,
    /// The segments that the batch writes to; the flag says that files were added beside their
    /// rows.
    pub(super) segments: BTreeMap<u64, (Arc<Segment>, bool)>,
    pub(super) effects: Vec<Effect>,
    /// States decided in this batch; they override those that are shown.
    pub(super) states: HashMap<ExecutionId, State>,
    /// Idempotency keys used in this batch.
    pub(super) keys: HashMap<Vec<u8>, KeyRecord>,
    /// Executions accepted minus executions ended in this batch, by app.
    pub(super) unfinished: HashMap<AppId, isize>,
    pub(super) counts: HashSet<(u64, AppId, u32)>,
    /// Bytes added for each organization, by segment; the ledger has them already.
    pub(super) stored: HashMap<(u64, OrgName), u64>,
}

impl Batch {
    pub(super) fn put(&mut self, segment: &Arc<Segment>, key: Vec<u8>, value: Vec<u8>) {
        self.touch(segment);
        self.operations.push(Operation {
            target: segment.start_ms,
            key,
            value: Some(value),
        });
    }

    /// As [`Batch::put`], for a row that counts as stored; returns its size in bytes.
    pub(super) fn put_counted(
        &mut self,
        segment: &Arc<Segment>,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> u64 {
        let bytes = stored::of_row(&key, &value);
        self.put(segment, key, value);
        bytes
    }

    /// Records bytes that were added for an organization.
    pub(super) fn enter(&mut self, ledger: &Ledger, segment: &Segment, org: &OrgName, bytes: u64) {
        ledger.add(org, bytes);
        *self
            .stored
            .entry((segment.start_ms, org.clone()))
            .or_default() += bytes;
    }

    pub(super) fn remove(&mut self, segment: &Arc<Segment>, key: Vec<u8>) {
        self.touch(segment);
        self.operations.push(Operation {
            target: segment.start_ms,
            key,
            value: None,
        });
    }

    /// Moves a large body beside the rows of its segment; returns its size there in bytes.
    pub(super) fn keep(
        &mut self,
        segment: &Arc<Segment>,
        body: StoredBody,
        name: &str,
    ) -> Result<u64, Failure> {
        let StoredBody::File(mut spooled) = body else {
            return Ok(0);
        };
        spooled
            .keep(&segment.files().join(name))
            .map_err(|e| unavailable(&e.to_string()))?;
        *self.touch(segment) = true;
        Ok(spooled.len())
    }

    fn touch(&mut self, segment: &Arc<Segment>) -> &mut bool {
        let entry = self.segments.entry(segment.start_ms);
        &mut entry.or_insert_with(|| (segment.clone(), false)).1
    }
}

/// The answer to a command that could not be written.
pub(super) fn unavailable(cause: &str) -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        format!(
            "the executions cannot be written ({cause}): free disk space when the data directory's volume is full, else see the log and start ignite again; until then nothing is accepted, and nothing is lost"
        ),
    )
}

/// The answer to a command that may have been written in part and could not be undone.
pub(super) fn uncertain(cause: &io::Error) -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        format!(
            "the executions could be neither written nor undone ({cause}): whether this was accepted is certain only after the next start; check the disk and start ignite again"
        ),
    )
}

/// The answer to a change that is on disk and cannot be shown.
pub(super) fn unshown(cause: &str) -> Failure {
    Failure::new(
        Reason::StoreUnavailable,
        format!(
            "the change is saved, and shows once ignite is started again: a database of the executions failed ({cause})"
        ),
    )
}
