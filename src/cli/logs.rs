//! `ignite app logs`: prints the logs of an app's replicas.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Code;

use super::{
    Context, Error,
    context::Session,
    id::AppArg,
    output::{self, Format},
    reconnect::{Newest, Reconnect, is_loss, is_lost},
    text,
};
use crate::{api::proto::v1, config::parse_duration, model::AppId};

/// How many older lines to show before following when no limit is given, as `tail -f` does.
const FOLLOW_TAIL: u32 = 10;

/// Which lines to print.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The app, as org:app or app.
    id: AppArg,
    /// Keep printing new lines as they arrive, including those of replicas that start later.
    #[arg(short, long)]
    follow: bool,
    /// Only lines of this replica.
    #[arg(long, value_name = "ID")]
    replica: Option<String>,
    /// Only lines written within this time, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
    /// How many of the newest lines to print; with --follow, how many to print before following.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    limit: Option<u32>,
}

/// Prints the lines.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.id)?;
    let since_ms = args.since.map_or(0, |since| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(i64::MAX)
    });
    let replica_id = args.replica.unwrap_or_default();
    let lines = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let session = context.connect(&app.org).await?;
    if args.follow {
        // Old lines are filtered here: the contract's stream can only limit the number of lines.
        let all = if since_ms > 0 {
            i32::MAX as u32
        } else {
            FOLLOW_TAIL
        };
        let request = v1::StreamAppLogsRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
            replica_id,
            tail: lines(args.limit.unwrap_or(all)),
        };
        return follow(context, &session, request, since_ms).await;
    }
    let request = v1::GetAppLogsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        limit: args.limit.map_or(0, lines),
        replica_id,
        since_ms,
    };
    print(context, &session, request, &app).await
}

async fn print(
    context: &Context,
    session: &Session,
    request: v1::GetAppLogsRequest,
    app: &AppId,
) -> Result<(), Error> {
    let log = session
        .answer(session.client().get_app_logs(request))
        .await?;
    let nothing = format!("{app} has no log lines; a log goes with its replica");
    show(context, &log, &nothing)
}

/// Prints lines; an empty table gets a note.
pub(super) fn show(
    context: &Context,
    log: &v1::GetAppLogsResponse,
    nothing: &str,
) -> Result<(), Error> {
    if context.format.is_structured() {
        return context
            .format
            .print_value(&output::dynamic("GetAppLogsResponse", log)?);
    }
    if log.lines.is_empty() {
        super::failure::note(nothing);
    }
    log.lines
        .iter()
        .try_for_each(|line| output::line(&line_of(line, context.format)))
}

/// Prints what an app has logged since a time (Unix milliseconds), as far as it is still kept, and
/// what it logs from now on.
pub(super) async fn follow_since(
    context: &Context,
    session: &Session,
    app: &AppId,
    since_ms: i64,
) -> Result<(), Error> {
    let request = v1::StreamAppLogsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        tail: i32::MAX,
        ..Default::default()
    };
    follow(context, session, request, since_ms).await
}

/// Prints lines as they arrive, also after the server was started again, until the app is gone.
async fn follow(
    context: &Context,
    session: &Session,
    mut request: v1::StreamAppLogsRequest,
    since_ms: i64,
) -> Result<(), Error> {
    let org = context.named_org(&request.organization_name)?;
    let reconnect = Reconnect::new(context, org);
    let mut client = session.client();
    let opened = session
        .answer(client.stream_app_logs(request.clone()))
        .await?;
    let follow = async {
        let mut newest = Newest::new();
        let (mut lines, mut later) = (opened, None::<Session>);
        loop {
            match lines.message().await {
                Ok(Some(line)) => {
                    reconnect.is_well();
                    let is_new = line.timestamp_ms >= since_ms
                        && newest.take(line.timestamp_ms, line.clone());
                    if is_new {
                        print_line(context.format, &line)?;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(status) if is_lost(&status) => {}
                Err(status) => return Err(later.as_ref().unwrap_or(session).refused(status)),
            }
            newest.gap();
            // Everything that was missed.
            request.tail = i32::MAX;
            lines = loop {
                let again = reconnect.session().await?;
                let mut client = again.client();
                let opened = again.answer(client.stream_app_logs(request.clone())).await;
                match opened {
                    Ok(lines) => {
                        later = Some(again);
                        break lines;
                    }
                    Err(error) if error.code() == Some(Code::NotFound) => return Ok(()),
                    Err(error) if is_loss(&error) => {}
                    Err(error) => return Err(error),
                }
            };
        }
    };
    let Some(limit) = context.follow_limit else {
        return follow.await;
    };
    match tokio::time::timeout(limit, follow).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::TimedOut(limit)),
    }
}

fn print_line(format: Format, line: &v1::LogLine) -> Result<(), Error> {
    match format {
        // One log line per line, as the HTTP gateway streams it.
        Format::Json => output::line(
            &serde_json::to_string(&output::dynamic("LogLine", line)?)
                .map_err(|e| Error::Other(e.into()))?,
        ),
        Format::Yaml => {
            output::line("---")?;
            format.print_value(&output::dynamic("LogLine", line)?)
        }
        Format::Table | Format::Wide => output::line(&line_of(line, format)),
    }
}

/// A line for people; `wide` adds version and output.
fn line_of(line: &v1::LogLine, format: Format) -> String {
    let ms = u64::try_from(line.timestamp_ms).unwrap_or_default();
    let at = UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .unwrap_or(UNIX_EPOCH);
    let at = humantime::format_rfc3339_millis(at);
    let (replica, message) = (&line.replica_id, text::one_line(&line.message));
    match format {
        Format::Wide => {
            let stream = output::plain(line.stream().as_str_name(), "LOG_STREAM");
            format!("{at} {replica} v{} {stream} {message}", line.version)
        }
        _ => format!("{at} {replica} {message}"),
    }
}
