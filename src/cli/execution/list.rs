//! `ignite execution list`: lists the executions of an organization or an app, newest first.

use std::{mem, time::Duration};

use clap::ValueEnum;

use super::{ms_ago, tables};
use crate::{
    api::proto::{local::v1 as local, v1},
    cli::{Context, Error, failure::note, id::AppArg},
    config::parse_duration,
};

/// The API's limit of executions per page.
const MAX_PAGE: u32 = 1000;

/// Which executions to list.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only those of this app, as org:app or app [default: all apps].
    app: Option<AppArg>,
    /// Only those in this status.
    #[arg(long, value_enum, ignore_case = true)]
    status: Option<Status>,
    /// Only those accepted within this time, such as 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
    /// The most executions to list.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// The status of an execution.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Timeout,
}

impl Status {
    fn to_wire(self) -> v1::ExecutionStatus {
        match self {
            Status::Pending => v1::ExecutionStatus::Pending,
            Status::Running => v1::ExecutionStatus::Running,
            Status::Completed => v1::ExecutionStatus::Completed,
            Status::Failed => v1::ExecutionStatus::Failed,
            Status::Timeout => v1::ExecutionStatus::Timeout,
        }
    }
}

/// Reads pages up to the limit and prints them as one list.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let (org, app_name) = match args.app {
        Some(app) => {
            let app = context.app(app)?;
            (app.org, app.name.to_string())
        }
        None => (context.org()?, String::new()),
    };
    let session = context.connect(&org).await?;
    let mut request = local::ListExecutionsRequest {
        organization_name: org.to_string(),
        app_name,
        status: args.status.map_or(0, |status| status.to_wire().into()),
        // Computed once: pages with different start times would not form one list.
        from_ms: args.since.map_or(0, ms_ago),
        ..Default::default()
    };
    let mut all = local::ListExecutionsResponse::default();
    let mut left = args.limit;
    while left > 0 {
        request.limit = i32::try_from(left.min(MAX_PAGE)).unwrap_or(i32::MAX);
        let page = session
            .answer(session.executions().list_executions(request.clone()))
            .await?;
        left = left.saturating_sub(u32::try_from(page.executions.len()).unwrap_or(u32::MAX));
        all.executions.extend(page.executions);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_empty() {
            break;
        }
        request.cursor.clone_from(&all.next_cursor);
    }
    let more = !all.next_cursor.is_empty();
    if !context.format.is_structured() {
        // The cursor is of no use in a table.
        drop(mem::take(&mut all.next_cursor));
    }
    context.format.print(
        "dodil.ignite.local.v1.ListExecutionsResponse",
        &all,
        |wide| tables::many(&all.executions, wide),
    )?;
    if more {
        note(&format!(
            "there are more than these {}; see them with a higher --limit",
            args.limit
        ));
    }
    Ok(())
}
