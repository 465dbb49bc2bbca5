//! Executions as tables for people.

use comfy_table::Table;

use crate::{
    api::proto::v1::{self, ExecutionStatus},
    cli::output::{or_dash, plain, rows, table, time},
};

fn status(execution: &v1::Execution) -> String {
    plain(execution.status().as_str_name(), "EXECUTION_STATUS")
}

/// A number, or nothing for 0.
fn number(n: impl Into<i64>) -> String {
    match n.into() {
        0 => "-".to_owned(),
        n => n.to_string(),
    }
}

/// How long it ran, if it has ended.
fn took(execution: &v1::Execution) -> String {
    let ran = execution.metrics.as_ref();
    ran.map_or_else(|| "-".to_owned(), |ran| format!("{} ms", ran.execution_ms))
}

/// Errors may contain an app's log; a row of a list shows only the first line.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Everything about one execution except its headers and result.
pub(super) fn one(execution: &v1::Execution) -> Table {
    let metrics = execution.metrics.clone().unwrap_or_default();
    rows(&[
        ("execution", execution.id.clone()),
        ("app", execution.app_id.clone()),
        ("status", status(execution)),
        ("attempt", number(execution.attempt)),
        ("version", number(execution.function_version)),
        ("tier", metrics.resource_tier.to_ascii_lowercase()),
        ("created", time(execution.created_at_ms)),
        ("started", time(execution.started_at_ms)),
        ("ended", time(execution.completed_at_ms)),
        ("took", took(execution)),
        ("http status", number(execution.status_code)),
        ("reason", execution.error_reason.clone()),
        ("error", execution.error.clone()),
        (
            "result",
            execution
                .metrics
                .as_ref()
                .map_or_else(String::new, |m| format!("{} bytes", m.result_size_bytes)),
        ),
    ])
}

/// One execution per row; `wide` adds columns.
pub(super) fn many(executions: &[v1::Execution], wide: bool) -> Table {
    let mut header = vec!["EXECUTION", "APP", "STATUS", "CREATED", "TOOK", "REASON"];
    if wide {
        header.extend([
            "ATTEMPT", "VERSION", "STARTED", "ENDED", "HTTP", "BYTES", "ERROR",
        ]);
    }
    let mut table = table(&header);
    for execution in executions {
        let mut row = vec![
            execution.id.clone(),
            execution.app_id.clone(),
            status(execution),
            time(execution.created_at_ms),
            took(execution).replace(' ', ""),
            or_dash(&execution.error_reason).to_owned(),
        ];
        if wide {
            let metrics = execution.metrics.as_ref();
            row.extend([
                number(execution.attempt),
                number(execution.function_version),
                time(execution.started_at_ms),
                time(execution.completed_at_ms),
                number(execution.status_code),
                metrics.map_or_else(|| "-".to_owned(), |m| m.result_size_bytes.to_string()),
                or_dash(first_line(&execution.error)).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// One change of an execution on a line: time, status, and details.
pub(super) fn change(execution: &v1::Execution) -> String {
    let metrics = execution.metrics.clone().unwrap_or_default();
    let (at, about) = match execution.status() {
        ExecutionStatus::Running => (
            execution.started_at_ms,
            format!(
                "attempt {}, version {}",
                execution.attempt, execution.function_version
            ),
        ),
        ExecutionStatus::Completed => (
            execution.completed_at_ms,
            format!(
                "status {}, {} bytes, {} ms",
                execution.status_code, metrics.result_size_bytes, metrics.execution_ms
            ),
        ),
        ExecutionStatus::Failed | ExecutionStatus::Timeout => (
            execution.completed_at_ms,
            format!(
                "{}: {}",
                execution.error_reason,
                first_line(&execution.error)
            ),
        ),
        _ => (execution.created_at_ms, String::new()),
    };
    format!("{}  {:<9}  {about}", time(at), status(execution))
        .trim_end()
        .to_owned()
}

/// Counts per bucket and their sum. Buckets in which nothing ended are left out.
pub(super) fn stats(stats: &v1::GetExecutionStatsResponse) -> Table {
    let mut table = table(&["FROM", "TO", "COMPLETED", "FAILED", "TIMEOUT"]);
    let width_ms = i64::from(stats.bucket_secs) * 1000;
    let mut sum = [0i64; 3];
    for bucket in &stats.buckets {
        let counts = [bucket.completed, bucket.failed, bucket.timeout].map(i64::from);
        if counts == [0; 3] {
            continue;
        }
        let mut row = vec![
            time(bucket.timestamp_ms),
            time(bucket.timestamp_ms + width_ms),
        ];
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
            row.push(count.to_string());
        }
        table.add_row(row);
    }
    let mut last = vec!["total".to_owned(), "-".to_owned()];
    last.extend(sum.map(|n| n.to_string()));
    table.add_row(last);
    table
}
