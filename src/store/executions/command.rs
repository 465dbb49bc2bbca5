//! What the committer is asked for.

use super::{
    Shared, StoredResult, Submission, Submitted,
    answers::{Changed, Reply},
};
use crate::model::{AppId, ExecutionId, Failure, execution::Change, stats::OutcomeCounts};

/// Work between two batches, or why it cannot be done.
type InTurn = Box<dyn FnOnce(Result<&Shared, String>) + Send>;

/// A command to the committer.
pub(super) enum Command {
    Submit {
        submission: Submission,
        reply: Reply<Result<Submitted, Failure>>,
    },
    Change {
        id: ExecutionId,
        change: Change,
        result: Option<StoredResult>,
        reply: Reply<Changed>,
    },
    /// Ends everything of an app that is gone.
    Forget {
        app: AppId,
        reply: Reply<Result<(), Failure>>,
    },
    /// Counts invocations that leave no record.
    Count {
        minute: u32,
        tallies: Vec<(AppId, OutcomeCounts)>,
    },
    /// Work on the statistics that must not overlap with counting; it gets the error when it cannot
    /// be done now.
    Statistics(InTurn),
}
