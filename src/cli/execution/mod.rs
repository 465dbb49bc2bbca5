//! `ignite execution`: what `ignite invoke --async` began.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use super::{Context, Error, context::Session};
use crate::model::ExecutionId;

mod cancel;
mod get;
mod list;
mod logs;
mod stats;
mod stream;
mod tables;
mod watch;

/// What to do with executions.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show one execution with its result.
    Get(get::Args),
    /// List executions, newest first.
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Print each change until the end; fails if the execution fails.
    Watch(Id),
    /// Print the app's output as it arrives; fails if the execution fails.
    #[command(
        long_about = "Print only the app's output as it arrives, whatever -o says. If the app does not stream, that is the result, at the end. Fails if the execution fails."
    )]
    Stream(Id),
    /// Print what the app's replicas logged while it ran, other work included.
    Logs(Id),
    /// Cancel an execution that has not ended.
    Cancel(Id),
    /// Count how an app's invocations ended, over time.
    Stats(stats::Args),
}

/// Names one execution.
#[derive(Debug, clap::Args)]
pub(super) struct Id {
    /// The execution's id, exec_...
    id: ExecutionId,
}

/// Runs one of the commands.
pub(super) async fn run(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Get(args) => Box::pin(get::run(context, args)).await,
        Command::List(args) => Box::pin(list::run(context, args)).await,
        Command::Watch(Id { id }) => Box::pin(watch::run(context, id)).await,
        Command::Stream(Id { id }) => Box::pin(stream::run(context, id)).await,
        Command::Logs(Id { id }) => Box::pin(logs::run(context, id)).await,
        Command::Cancel(Id { id }) => Box::pin(cancel::run(context, id)).await,
        Command::Stats(args) => Box::pin(stats::run(context, args)).await,
    }
}

/// Connects as a member of the organization in use, since an execution's id does not contain its
/// organization. Also returns the hint for an execution that is not found there.
async fn connect(context: &Context) -> Result<(Session, Option<String>), Error> {
    let org = context.org()?;
    let session = context.connect(&org).await?;
    Ok((session, context.guess_hint(&org)))
}

/// The time this long ago, in Unix milliseconds.
fn ms_ago(since: Duration) -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(i64::MAX)
}
