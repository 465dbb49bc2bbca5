//! `ignite execution cancel`.

use super::{connect, tables};
use crate::{
    api::proto::local::v1 as local,
    cli::{Context, Error},
    model::ExecutionId,
};

/// Cancels the execution and shows its state afterwards.
pub(super) async fn run(context: &Context, id: ExecutionId) -> Result<(), Error> {
    let (session, hint) = connect(context).await?;
    let request = local::CancelExecutionRequest {
        execution_id: id.to_string(),
    };
    let cancelled = session
        .answer(session.executions().cancel_execution(request))
        .await
        .map_err(|e| e.or_hint(hint))?;
    context.format.print(
        "dodil.ignite.local.v1.CancelExecutionResponse",
        &cancelled,
        |_| tables::one(&cancelled.execution.clone().unwrap_or_default()),
    )
}
