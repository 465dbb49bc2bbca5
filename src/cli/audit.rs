//! `ignite audit`: what is in the audit log of a server on this machine.

use std::time::Duration;

use serde_json::Value;

use super::{Error, context::Global, output, token::Place};
use crate::{
    audit::{self, Filter},
    clock::now_ms,
    config::parse_duration,
};

/// What to print: all, or what --org names.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only entries of the time since, such as 1h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only the newest so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    place: Place,
}

/// Prints the entries, oldest first; with `-o json` one object a line, as they are kept.
pub(super) fn run(args: Args, global: &Global) -> Result<(), Error> {
    let since = args
        .since
        .map(|since| now_ms().saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
    let filter = Filter {
        org: global.org.clone(),
        since_ms: since,
        limit: args.limit.map(|n| n as usize),
    };
    let lines = audit::read(&args.place.resolve()?, &filter)
        .map_err(|e| Error::Other(anyhow::Error::new(e).context("the audit log")))?;
    let format = global.output.unwrap_or_default();
    if format.is_structured() {
        return lines.iter().try_for_each(|line| output::line(line));
    }
    let mut table = output::table(&["TIME", "FROM", "WHO", "WHAT", "ORG", "ON", "RESULT"]);
    for line in &lines {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        let of = |name: &str| {
            let text = entry[name].as_str().unwrap_or_default();
            output::or_dash(text).to_owned()
        };
        let what = format!("{} {}", of("kind"), of("action"));
        table.add_row([
            of("time"),
            of("from"),
            of("subject"),
            what,
            of("org"),
            of("target"),
            of("result"),
        ]);
    }
    output::columns(table)
}
