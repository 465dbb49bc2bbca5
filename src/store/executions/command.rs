//! The commands that the committer accepts.

use super::{
    Shared, StoredResult, Submission, Submitted,
    answers::{Changed, Reply},
};
use crate::model::{AppId, ExecutionId, Failure, execution::Change, stats::OutcomeCounts};

/// Work between two batches; it receives an error when it cannot run.
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
    /// Ends all executions of a deleted app.
    Forget {
        app: AppId,
        reply: Reply<Result<(), Failure>>,
    },
    /// Counts invocations that leave no record.
    Count {
        minute: u32,
        tallies: Vec<(AppId, OutcomeCounts)>,
    },
    /// Work on the statistics that must not overlap with counting; it receives an error when it
    /// cannot run now.
    Statistics(InTurn),
}
