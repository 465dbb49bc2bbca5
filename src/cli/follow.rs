//! Following an execution to its end, and what the end means for the command.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Context, Error,
    context::Session,
    failure::note,
    reconnect::{Reconnect, is_loss, is_lost},
};
use crate::api::proto::v1::{self, ExecutionStatus};

/// A stream that ends sooner says nothing new.
const SHORT: Duration = Duration::from_secs(1);
/// Most of such streams in a row.
const MOST_SHORT: u32 = 3;

/// Follows an execution to its end. `each` receives every update, including the last; with
/// `across_restarts` also those of a server that was started again, which begin with its state.
///
/// # Errors
/// Those of the server and of `each`, and [`Error::TimedOut`] when `--timeout` was given. A failed
/// execution is not an error here; see [`outcome`].
pub(super) async fn to_end(
    context: &Context,
    session: &Session,
    id: &str,
    across_restarts: bool,
    mut each: impl FnMut(&v1::WatchExecutionResponse) -> Result<(), Error>,
) -> Result<v1::Execution, Error> {
    let request = v1::WatchExecutionRequest {
        execution_id: id.to_owned(),
    };
    let mut client = session.client();
    let first = session
        .answer(client.watch_execution(request.clone()))
        .await?;
    let follow = async {
        let reconnect = Reconnect::new(context, context.org()?);
        let (mut updates, mut connected, mut short) = (first, Instant::now(), 0);
        loop {
            match updates.message().await {
                Ok(Some(update)) => {
                    reconnect.is_well();
                    each(&update)?;
                    if let Some(ended) = update.execution.filter(is_over) {
                        return Ok(ended);
                    }
                    continue;
                }
                // A server that stops ends its streams in order, but not again and again.
                Ok(None) if connected.elapsed() < SHORT => short += 1,
                Ok(None) => short = 0,
                Err(status) if is_lost(&status) => {}
                Err(status) => return Err(session.refused(status)),
            }
            if !across_restarts || short >= MOST_SHORT {
                return Err(Error::Other(anyhow::anyhow!(
                    "the server fell silent before {id} ended; `ignite execution watch {id}` follows it again"
                )));
            }
            updates = loop {
                let again = reconnect.session().await?;
                let mut client = again.client();
                match again.answer(client.watch_execution(request.clone())).await {
                    Ok(updates) => break updates,
                    Err(error) if is_loss(&error) => {}
                    Err(error) => return Err(error),
                }
            };
            connected = Instant::now();
        }
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
