//! Following an execution to its end, and what the end means for the command.

use super::{Context, Error, context::Session, failure::note};
use crate::api::proto::v1::{self, ExecutionStatus};

/// Follows an execution to its end. `each` receives every update, including the last.
///
/// # Errors
/// Those of the server and of `each`, and [`Error::TimedOut`] when `--timeout` was given. A failed
/// execution is not an error here; see [`outcome`].
pub(super) async fn to_end(
    context: &Context,
    session: &Session,
    id: &str,
    mut each: impl FnMut(&v1::WatchExecutionResponse) -> Result<(), Error>,
) -> Result<v1::Execution, Error> {
    let request = v1::WatchExecutionRequest {
        execution_id: id.to_owned(),
    };
    let mut updates = session
        .answer(session.client().watch_execution(request))
        .await?;
    let follow = async {
        while let Some(update) = updates.message().await.map_err(|s| session.refused(s))? {
            each(&update)?;
            if let Some(ended) = update.execution.filter(is_over) {
                return Ok(ended);
            }
        }
        Err(Error::Other(anyhow::anyhow!(
            "the server fell silent before {id} ended; `ignite execution watch {id}` follows it again"
        )))
    };
    let Some(limit) = context.follow_limit else {
        return follow.await;
    };
    match tokio::time::timeout(limit, follow).await {
        Ok(ended) => ended,
        Err(_) => {
            note(&format!(
                "{id} continues; `ignite execution watch {id}` follows it"
            ));
            Err(Error::TimedOut(limit))
        }
    }
}

/// Whether the execution has reached a final status.
pub(super) fn is_over(execution: &v1::Execution) -> bool {
    matches!(
        execution.status(),
        ExecutionStatus::Completed | ExecutionStatus::Failed | ExecutionStatus::Timeout
    )
}

/// Success for an execution that completed.
///
/// # Errors
/// [`Error::ExecutionFailed`] with the reason for every other status.
pub(super) fn outcome(execution: &v1::Execution) -> Result<(), Error> {
    let how = match execution.status() {
        ExecutionStatus::Completed => return Ok(()),
        ExecutionStatus::Failed => "failed",
        ExecutionStatus::Timeout => "ran out of time",
        _ => "has not ended",
    };
    let mut text = format!("{} {how}", execution.id);
    if !execution.error.is_empty() {
        text = format!("{text}: {}", execution.error);
    }
    if !execution.error_reason.is_empty() {
        text = format!("{text} ({})", execution.error_reason);
    }
    Err(Error::ExecutionFailed(text))
}
