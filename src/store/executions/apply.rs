//! Applies the operations of the journal to the databases.
//!
//! The live rows of unfinished executions are read only at a start, which has the journal. So they
//! stay in memory until the checkpoint, and executions that end before it cost no database write
//! for them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::{
    super::db::Database,
    Shared,
    journal::{Operation, STATISTICS},
    rows,
};

/// What the journal has and the databases do not have on disk yet.
#[derive(Default)]
pub(super) struct Applier {
    /// Databases that are ahead of their last flush.
    dirty: BTreeMap<u64, Arc<Database>>,
    /// Deferred rows, by database and key; `None` removes the row.
    waiting: BTreeMap<(u64, Vec<u8>), Option<Vec<u8>>>,
}

impl Applier {
    /// Applies operations that are in the journal. Those of a removed segment are dropped.
    pub(super) fn apply(
        &mut self,
        shared: &Shared,
        operations: Vec<Operation>,
    ) -> Result<(), String> {
        // Row by row: the journal is what makes a batch whole, and sled's own batches cost more.
        for Operation { target, key, value } in operations {
            if target != STATISTICS && key.first() == Some(&rows::LIVE) {
                self.waiting.insert((target, key), value);
            } else {
                self.write(shared, target, &key, value)?;
            }
        }
        Ok(())
    }

    /// Returns once everything that was applied is on disk.
    pub(super) fn flush(&mut self, shared: &Shared) -> Result<(), String> {
        let waiting = std::mem::take(&mut self.waiting);
        let mut outcome = waiting
            .iter()
            .try_for_each(|((target, key), value)| self.write(shared, *target, key, value.clone()));
        if outcome.is_ok() {
            outcome = self
                .dirty
                .values()
                .try_for_each(|database| database.flush());
        }
        match &outcome {
            Ok(()) => self.dirty.clear(),
            // The journal stays untouched, and so do the rows that must reach the databases before
            // it is reset.
            Err(_) => self.waiting = waiting,
        }
        outcome
    }

    /// Takes over what an earlier applier could not flush; newer rows here win.
    pub(super) fn absorb(&mut self, earlier: Self) {
        for (place, value) in earlier.waiting {
            self.waiting.entry(place).or_insert(value);
        }
        for (target, database) in earlier.dirty {
            self.dirty.entry(target).or_insert(database);
        }
    }

    fn write(
        &mut self,
        shared: &Shared,
        target: u64,
        key: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), String> {
        let database = match self.dirty.entry(target) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) if target == STATISTICS => place.insert(shared.stats.database()),
            Entry::Vacant(place) => match shared.segments.starting_at(target) {
                Some(segment) => place.insert(segment.open().map_err(|e| e.to_string())?),
                None => return Ok(()),
            },
        };
        let written = match value {
            Some(value) => database.tree.insert(key, value),
            None => database.tree.remove(key),
        };
        written.map(drop).map_err(|e| e.to_string())
    }
}
