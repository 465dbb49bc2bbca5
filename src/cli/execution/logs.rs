//! `ignite execution logs`: prints what the app's replicas logged while an execution ran.

use super::connect;
use crate::{
    api::proto::v1,
    cli::{Context, Error, follow, logs},
    model::{AppId, ExecutionId, id::InvalidName},
};

/// The engine records a line slightly after the app has written it.
const LATE_MS: i64 = 1000;

/// Prints the lines of its last attempt: those of the version that ran it, from start to end.
pub(super) async fn run(context: &Context, id: ExecutionId) -> Result<(), Error> {
    let (session, hint) = connect(context).await?;
    let request = v1::GetExecutionRequest {
        execution_id: id.to_string(),
    };
    let got = session
        .answer(session.client().get_execution(request))
        .await
        .map_err(|e| e.or_hint(hint))?;
    let execution = got.execution.unwrap_or_default();
    let app: AppId = execution
        .app_id
        .parse()
        .map_err(|e: InvalidName| Error::Other(e.into()))?;
    let nothing = match execution.started_at_ms {
        0 => format!("{id} has not run"),
        _ => format!(
            "no replica of {app} logged anything while {id} ran, or its log is gone; a log goes with its replica"
        ),
    };
    let mut log = v1::GetAppLogsResponse::default();
    if execution.started_at_ms > 0 {
        let request = v1::GetAppLogsRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            // As many lines as the server allows.
            limit: i32::MAX,
            replica_id: String::new(),
            since_ms: execution.started_at_ms,
        };
        log = session
            .answer(session.client().get_app_logs(request))
            .await?;
        let until = if follow::is_over(&execution) {
            execution.completed_at_ms.saturating_add(LATE_MS)
        } else {
            i64::MAX
        };
        log.lines.retain(|line| {
            line.timestamp_ms <= until && line.version == execution.function_version
        });
    }
    logs::show(context, &log, &nothing)
}
