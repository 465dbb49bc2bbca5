//! Following something across a restart of the server.

use std::{cell::Cell, time::Duration};

use tonic::{Code, Status};

use super::{
    Context, Error,
    context::Session,
    failure::{is_answer, note},
};
use crate::model::OrgName;

/// Pause between two tries to reach the server.
const RETRY: Duration = Duration::from_millis(500);

/// What is followed, and whether a loss was told.
pub(super) struct Reconnect<'a> {
    context: &'a Context,
    org: OrgName,
    /// Tries since the last thing that was received.
    tries: Cell<u32>,
}

impl<'a> Reconnect<'a> {
    pub(super) fn new(context: &'a Context, org: OrgName) -> Self {
        Self {
            context,
            org,
            tries: Cell::new(0),
        }
    }

    /// Something was received.
    pub(super) fn is_well(&self) {
        self.tries.set(0);
    }

    /// Waits until the server answers again.
    ///
    /// # Errors
    /// When it cannot be asked, for another reason than that it is not there.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        loop {
            if self.tries.get() == 0 {
                note("the connection to the server is lost; it is taken up again once it answers");
            }
            self.tries.set(self.tries.get().saturating_add(1));
            tokio::time::sleep(RETRY).await;
            match self.context.connect(&self.org).await {
                Err(Error::Unreachable(_)) => {}
                session => return session,
            }
        }
    }
}

/// Whether a status only says that the server is gone, or is not ready yet.
pub(super) fn is_lost(status: &Status) -> bool {
    !is_answer(status) || status.code() == Code::Unavailable
}

/// As [`is_lost`], for the error of a call.
pub(super) fn is_loss(error: &Error) -> bool {
    match error {
        Error::Api { status, .. } => is_lost(status),
        Error::Unreachable(_) => true,
        _ => false,
    }
}

/// What has been printed of a log, so that nothing is printed twice after a gap.
pub(super) struct Newest<T> {
    ms: i64,
    /// What was printed of that time.
    of_it: Vec<T>,
    /// The newest time that was printed before a gap.
    gap_ms: Option<i64>,
}

impl<T: PartialEq> Newest<T> {
    pub(super) fn new() -> Self {
        Self {
            ms: 0,
            of_it: Vec::new(),
            gap_ms: None,
        }
    }

    /// What comes now may have been printed.
    pub(super) fn gap(&mut self) {
        self.gap_ms = Some(self.ms);
    }

    /// Whether an entry is to be printed; it counts as printed then.
    pub(super) fn take(&mut self, ms: i64, entry: T) -> bool {
        let may_be_old = self.gap_ms.is_some_and(|gap| ms <= gap);
        if may_be_old && (ms < self.ms || self.of_it.contains(&entry)) {
            return false;
        }
        if ms > self.ms {
            (self.ms, self.of_it) = (ms, Vec::new());
        }
        if ms == self.ms {
            self.of_it.push(entry);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_gap_only_what_is_new_is_printed() {
        let mut newest = Newest::new();
        // Replicas are not in step.
        for (ms, entry) in [(5, "a"), (4, "b"), (6, "c"), (6, "c"), (6, "d")] {
            assert!(newest.take(ms, entry), "{entry}");
        }
        newest.gap();
        for (ms, entry, is_new) in [
            (5, "a", false),
            (6, "c", false),
            (6, "e", true),
            (7, "a", true),
            (6, "d", false),
            (8, "f", true),
        ] {
            assert_eq!(newest.take(ms, entry), is_new, "{ms} {entry}");
        }
    }
}
