//! The script's executions.

use ignite::api::proto::{
    local::v1::{
        CancelExecutionRequest, CancelExecutionResponse, ListExecutionsRequest,
        ListExecutionsResponse, execution_service_server::ExecutionService,
    },
    v1::{self, ExecutionStatus},
};
use tonic::{Code, Request, Response, Status};

use super::{Script, refuse};

// Each named by a letter after the prefix and the 0.
/// Completed with a result that is text.
pub(crate) const COMPLETED: &str = "exec_0C000000000000000000000000";
pub(crate) const FAILED: &str = "exec_0F000000000000000000000000";
pub(crate) const TIMED_OUT: &str = "exec_0T000000000000000000000000";
pub(crate) const RUNNING: &str = "exec_0R000000000000000000000000";
/// Streams its output; two bytes of it are gone.
pub(crate) const STREAMING: &str = "exec_0S000000000000000000000000";
/// Has a result that is no text.
pub(crate) const BINARY: &str = "exec_0B000000000000000000000000";
/// The watch ends before it does.
pub(crate) const SILENT: &str = "exec_0X000000000000000000000000";
/// Completed with a result over tonic's own limit for a message.
pub(crate) const LARGE: &str = "exec_0M000000000000000000000000";
/// More than tonic accepts by default.
pub(crate) const LARGE_BYTES: usize = 5 << 20;

const CREATED_MS: i64 = 1_700_000_000_000;

fn base(id: &str, status: ExecutionStatus) -> v1::Execution {
    v1::Execution {
        id: id.to_owned(),
        app_id: "local/there".to_owned(),
        app_name: "there".to_owned(),
        status: status.into(),
        created_at_ms: CREATED_MS,
        ..Default::default()
    }
}

fn running(id: &str) -> v1::Execution {
    v1::Execution {
        started_at_ms: CREATED_MS + 1000,
        attempt: 2,
        function_version: 3,
        ..base(id, ExecutionStatus::Running)
    }
}

/// The execution as GetExecution has it; `None` for an id that the script does not know.
fn execution(id: &str) -> Option<v1::Execution> {
    let (status, code, result, reason, error) = match id {
        COMPLETED => (ExecutionStatus::Completed, 200, &b"{\"ok\":1}"[..], "", ""),
        STREAMING => (ExecutionStatus::Completed, 200, &b"abcdef"[..], "", ""),
        BINARY => (
            ExecutionStatus::Completed,
            200,
            &b"\x00\xff\x1b"[..],
            "",
            "",
        ),
        LARGE => (
            ExecutionStatus::Completed,
            200,
            &[b'x'; LARGE_BYTES][..],
            "",
            "",
        ),
        FAILED => (
            ExecutionStatus::Failed,
            500,
            &b"oops"[..],
            "APP_ERROR",
            "the app answered with HTTP status 500",
        ),
        TIMED_OUT => (
            ExecutionStatus::Timeout,
            0,
            &b""[..],
            "REQUEST_TIMEOUT",
            "it took longer than 5s\nlog: busy",
        ),
        RUNNING | SILENT => return Some(running(id)),
        _ => return None,
    };
    Some(v1::Execution {
        status: status.into(),
        status_code: code,
        result: result.to_vec().into(),
        response_headers: [("content-type".to_owned(), "text/plain".to_owned())].into(),
        error: error.to_owned(),
        error_reason: reason.to_owned(),
        completed_at_ms: CREATED_MS + 2000,
        metrics: Some(v1::ExecutionMetrics {
            execution_ms: 142,
            result_size_bytes: i64::try_from(result.len()).expect("small"),
            resource_tier: "Medium".to_owned(),
        }),
        ..running(id)
    })
}

fn known(id: &str) -> Result<v1::Execution, Status> {
    execution(id).ok_or_else(|| {
        refuse(
            Code::NotFound,
            "NOT_FOUND",
            &format!("execution {id} does not exist"),
        )
    })
}

pub(super) fn get(request: &v1::GetExecutionRequest) -> Result<v1::GetExecutionResponse, Status> {
    Ok(v1::GetExecutionResponse {
        execution: Some(known(&request.execution_id)?),
    })
}

/// The id of an app's executions: the app's name says how its executions end.
pub(super) fn accept(request: &v1::InvokeRequest) -> v1::InvokeAsyncResponse {
    let id = match request.app_name.as_str() {
        "failing" => FAILED,
        "stuck" => RUNNING,
        "late" => TIMED_OUT,
        _ => COMPLETED,
    };
    v1::InvokeAsyncResponse {
        execution_id: id.to_owned(),
    }
}

/// All updates for a watcher, and whether the stream ends after them.
pub(super) fn watch(
    request: &v1::WatchExecutionRequest,
) -> Result<(Vec<v1::WatchExecutionResponse>, bool), Status> {
    let id = request.execution_id.as_str();
    let end = known(id)?;
    let state = |execution| v1::WatchExecutionResponse {
        execution: Some(execution),
        ..Default::default()
    };
    let output = |text: &'static [u8]| v1::WatchExecutionResponse {
        output_chunk: text.into(),
        ..Default::default()
    };
    let mut updates = vec![
        state(base(id, ExecutionStatus::Pending)),
        state(running(id)),
    ];
    if id == STREAMING {
        updates.extend([output(b"cd"), output(b"ef")]);
    }
    if end.status() != ExecutionStatus::Running {
        updates.push(state(end));
    }
    Ok((updates, id != RUNNING))
}

pub(super) fn stats(request: &v1::GetExecutionStatsRequest) -> v1::GetExecutionStatsResponse {
    let bucket = |hour: i64, completed, failed, timeout| v1::ExecutionBucket {
        timestamp_ms: 1_699_999_200_000 + hour * 3_600_000,
        completed,
        failed,
        timeout,
    };
    v1::GetExecutionStatsResponse {
        buckets: vec![bucket(0, 2, 1, 0), bucket(1, 0, 0, 0), bucket(2, 3, 0, 1)],
        bucket_secs: 3600.max(request.bucket_secs),
        partial_clusters: Vec::new(),
    }
}

#[tonic::async_trait]
impl ExecutionService for Script {
    /// Three executions, at most two per page.
    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let r = request.into_inner();
        let since = if r.from_ms > 0 { " since" } else { "" };
        let what = format!(
            "{} {} {}{since} {:?}",
            r.app_name, r.status, r.limit, r.cursor
        );
        self.note("ListExecutions", &r.organization_name, &what);
        let (ids, next) = match (r.cursor.as_str(), r.limit) {
            ("", 1) => (&[FAILED][..], FAILED),
            ("", _) => (&[FAILED, COMPLETED][..], COMPLETED),
            _ => (&[RUNNING][..], ""),
        };
        let executions = ids.iter().filter_map(|id| execution(id));
        Ok(Response::new(ListExecutionsResponse {
            executions: executions
                .map(|e| v1::Execution {
                    result: Default::default(),
                    ..e
                })
                .collect(),
            next_cursor: next.to_owned(),
        }))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let id = request.into_inner().execution_id;
        let known = known(&id)?;
        if known.status() != ExecutionStatus::Running {
            return Err(refuse(
                Code::FailedPrecondition,
                "FAILED_PRECONDITION",
                &format!("{id} has ended already"),
            ));
        }
        Ok(Response::new(CancelExecutionResponse {
            execution: Some(v1::Execution {
                status: ExecutionStatus::Failed.into(),
                error_reason: "CANCELLED".to_owned(),
                error: "it was cancelled".to_owned(),
                ..known
            }),
        }))
    }
}
