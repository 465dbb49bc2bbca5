//! `ignite execution stats`: counts how an app's invocations ended, over time.

use std::time::Duration;

use super::{ms_ago, tables};
use crate::{
    api::proto::v1,
    cli::{Context, Error, failure::note, id::AppArg},
    config::parse_duration,
};

/// Which app, how far back, and in which buckets.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The app, as org:app or app.
    app: AppArg,
    /// The width of a bucket, such as 1h [default: chosen by the server from the range].
    #[arg(long, value_name = "TIME", value_parser = width)]
    bucket: Option<Duration>,
    /// How far to look back, such as 90m; at most 90 days [default: 24h].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
}

/// Parses a bucket width that the API accepts.
fn width(text: &str) -> Result<Duration, String> {
    let width = parse_duration(text)?;
    if width < Duration::from_secs(1) {
        return Err(format!("{text} is shorter than a second"));
    }
    Ok(width)
}

/// Fetches the counts and prints them.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), Error> {
    let app = context.app(args.app)?;
    let session = context.connect(&app.org).await?;
    let wanted = args.bucket.map_or(0, |width| {
        i32::try_from(width.as_secs()).unwrap_or(i32::MAX)
    });
    let request = v1::GetExecutionStatsRequest {
        organization_name: app.org.to_string(),
        app_name: app.name.to_string(),
        start_ms: args.since.map_or(0, ms_ago),
        end_ms: 0,
        bucket_secs: wanted,
    };
    let stats = session
        .answer(session.client().get_execution_stats(request))
        .await?;
    context
        .format
        .print("GetExecutionStatsResponse", &stats, |_| {
            tables::stats(&stats)
        })?;
    if wanted != 0 && wanted != stats.bucket_secs {
        let used = Duration::from_secs(u64::try_from(stats.bucket_secs).unwrap_or_default());
        note(&format!(
            "the server counts by {} here",
            humantime::format_duration(used)
        ));
    }
    if !stats.partial_clusters.is_empty() {
        note(&format!(
            "the counts of {} are missing",
            stats.partial_clusters.join(", ")
        ));
    }
    Ok(())
}
