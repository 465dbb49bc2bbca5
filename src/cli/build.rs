//! Builds on the command line: start, follow, cancel.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::{
    Context, Error,
    context::Session,
    failure::note,
    output::{self, Format},
    spinner::spinner,
    text,
};
use crate::{
    api::proto::{local::v1 as local, v1},
    model::AppId,
};

/// How many lines of a hidden log a failure shows.
const TAIL: usize = 15;

/// Where the lines of a log go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// To stdout: the log is the command's output.
    Data,
    /// To stderr, with other progress.
    Beside,
    /// Nowhere, unless the build fails.
    Hidden,
}

/// What Ctrl-C does to a build that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// It goes on: only following it ends.
    Leaves,
    /// It ends, with the command that started it.
    Cancels,
}

/// Longest time that cancelling a build may delay the end of the command.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// Starts the build of the draft.
pub(super) async fn start(
    session: &Session,
    app: &AppId,
) -> Result<v1::CompileDraftResponse, Error> {
    let request = v1::CompileDraftRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
    };
    session
        .answer(session.client().compile_draft(request))
        .await
}

/// Follows a build to its end.
///
/// # Errors
/// [`Error::BuildFailed`], and the server's errors; [`Error::Interrupted`] after Ctrl-C.
pub(super) async fn follow(
    context: &Context,
    session: &Session,
    app: &AppId,
    deploy_id: &str,
    lines: Lines,
    on_interrupt: Interrupt,
) -> Result<(), Error> {
    // Before the first line is shown: from then on the user may interrupt.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Error::Other(e.into()))?;
    tokio::select! {
        ended = listen(context, session, deploy_id, lines) => ended,
        _ = interrupt.recv() => {
            interrupted(session, app, deploy_id, on_interrupt).await;
            Err(Error::Interrupted)
        }
    }
}

/// Says what becomes of the build.
async fn interrupted(session: &Session, app: &AppId, deploy_id: &str, what: Interrupt) {
    let (org, name) = (&app.org, &app.name);
    if what == Interrupt::Leaves {
        note(&format!(
            "\nthe build {deploy_id} continues; `ignite draft cancel {org}:{name}` ends it, `ignite draft compile-logs {org}:{name}` follows it again"
        ));
        return;
    }
    let cancelled = tokio::time::timeout(CANCEL_LIMIT, cancel(session, app)).await;
    note(&match cancelled {
        Ok(Ok(_)) => format!("\nthe build {deploy_id} is cancelled"),
        _ => {
            format!("\nthe build {deploy_id} may go on; `ignite draft cancel {org}:{name}` ends it")
        }
    });
}

/// Reads a build's log to its end.
///
/// # Errors
/// [`Error::BuildFailed`], and the server's errors.
async fn listen(
    context: &Context,
    session: &Session,
    deploy_id: &str,
    lines: Lines,
) -> Result<(), Error> {
    let request = v1::StreamCompileLogsRequest {
        deploy_id: deploy_id.to_owned(),
    };
    let stream = session
        .answer(session.client().stream_compile_logs(request))
        .await?;
    let read = read(context.format, session, stream, lines);
    match context.follow_limit {
        None => read.await,
        Some(limit) => match tokio::time::timeout(limit, read).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::TimedOut(limit)),
        },
    }
}

async fn read(
    format: Format,
    session: &Session,
    mut stream: Streaming<v1::CompileLogLine>,
    lines: Lines,
) -> Result<(), Error> {
    let progress = progress(lines);
    let mut unseen = std::collections::VecDeque::new();
    while let Some(line) = stream.message().await.map_err(|s| session.refused(s))? {
        let said = text::one_line(&line.message).into_owned();
        if said.starts_with("Step ") {
            progress.set_message(said.clone());
        }
        match lines {
            Lines::Data if format.is_structured() => {
                output::line(
                    &serde_json::to_string(&output::dynamic("CompileLogLine", &line)?)
                        .map_err(|e| Error::Other(e.into()))?,
                )?;
            }
            Lines::Data => output::line(&said)?,
            Lines::Beside => note(&said),
            Lines::Hidden => {
                unseen.push_back(said);
                if unseen.len() > TAIL {
                    unseen.pop_front();
                }
            }
        }
        if line.done {
            progress.finish_and_clear();
            if line.status() == v1::VersionStatus::Ready {
                return Ok(());
            }
            unseen.pop_back();
            unseen.iter().for_each(|line| note(line));
            return Err(Error::BuildFailed(line.message));
        }
    }
    progress.finish_and_clear();
    Err(Error::Unreachable(
        "the server fell silent before the build ended; `ignite draft info` shows its state"
            .to_owned(),
    ))
}

/// A line that says what is under way; hidden if stderr is not a terminal.
fn progress(lines: Lines) -> ProgressBar {
    let shown = io::stderr().is_terminal() && !(lines == Lines::Data && io::stdout().is_terminal());
    spinner("Building".to_owned(), shown)
}

/// Cancels the running build of the draft.
pub(super) async fn cancel(session: &Session, app: &AppId) -> Result<v1::DraftInfo, Error> {
    let request = local::CancelBuildRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        build_id: String::new(),
    };
    let cancelled = session
        .answer(session.builds().cancel_build(request))
        .await?;
    Ok(cancelled.draft.unwrap_or_default())
}
