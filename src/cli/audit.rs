//! `ignite audit`: what is in the audit log of a server on this machine.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    Error, block_on,
    context::Global,
    failure::note,
    output::{self, Format},
    token::{self, Place},
};
use crate::{
    audit::{Filter, Follower},
    clock::now_ms,
    config::parse_duration,
};

/// How many older entries to show before following when neither --limit nor --since says it.
const FOLLOW_TAIL: usize = 10;
/// How often the files are checked for more.
const PACE: Duration = Duration::from_millis(200);
/// The columns for people, with the least width of each while following.
const COLUMNS: [(&str, usize); 7] = [
    ("TIME", 24),
    ("FROM", 15),
    ("WHO", 20),
    ("WHAT", 24),
    ("ORG", 12),
    ("ON", 16),
    ("RESULT", 0),
];

/// What to print: all, or what --org names.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep printing new entries as they are written.
    #[arg(short, long)]
    follow: bool,
    /// Only entries of the time since, such as 1h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only the newest so many; with --follow, how many to print before following.
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
    let tail = (args.follow && since.is_none()).then_some(FOLLOW_TAIL);
    let org = match global.org {
        Some(_) => Some(token::org(global, "entries are of an organization")?.to_string()),
        None => None,
    };
    let filter = Filter {
        org,
        since_ms: since,
        limit: args.limit.map(|n| n as usize).or(tail),
    };
    let dir = args.place.resolve()?;
    if !dir.is_dir() {
        return Err(Error::Usage(format!(
            "there is no data directory {}; name the server's with --data-dir",
            dir.display()
        )));
    }
    let follower = Follower::new(&dir, filter);
    let reader = Reader { follower, dir };
    let format = global.output.unwrap_or_default();
    if args.follow {
        return block_on(follow(reader, format, global.timeout));
    }
    print(reader, format)
}

/// The log, with errors that say where it is.
struct Reader {
    follower: Follower,
    dir: PathBuf,
}

impl Reader {
    fn read(&mut self) -> Result<Vec<String>, Error> {
        let added = self.follower.read().map_err(|e| {
            let log = format!(
                "the audit log in {}, which its server's user and root can read",
                self.dir.display()
            );
            Error::Other(anyhow::Error::new(e).context(log))
        })?;
        if added.has_gap {
            note("warning: the log was rotated faster than it was read; entries may be missing");
        }
        Ok(added.lines)
    }
}

fn print(mut reader: Reader, format: Format) -> Result<(), Error> {
    let lines = reader.read()?;
    if format.is_structured() {
        return lines.iter().try_for_each(|line| structured(line, format));
    }
    let mut table = output::table(&COLUMNS.map(|(name, _)| name));
    for line in &lines {
        table.add_row(row(line));
    }
    output::columns(table)
}

/// Prints entries until a signal or `limit` ends it.
async fn follow(mut reader: Reader, format: Format, limit: Option<Duration>) -> Result<(), Error> {
    let follow = async {
        if !format.is_structured() {
            output::line(&aligned(&COLUMNS.map(|(name, _)| name.to_owned())))?;
        }
        let mut lines = reader.read()?;
        if reader.follower.is_waiting() {
            note(&format!(
                "{} has no audit log yet; waiting for its first entry",
                reader.dir.display()
            ));
        }
        loop {
            for line in &lines {
                if format.is_structured() {
                    structured(line, format)?;
                } else {
                    output::line(&aligned(&row(line)))?;
                }
            }
            tokio::time::sleep(PACE).await;
            lines = reader.read()?;
        }
    };
    let Some(limit) = limit else {
        return follow.await;
    };
    match tokio::time::timeout(limit, follow).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::TimedOut(limit)),
    }
}

/// One entry for programs: a line of JSON, or a document of YAML.
fn structured(line: &str, format: Format) -> Result<(), Error> {
    if format != Format::Yaml {
        return output::line(line);
    }
    let entry: Value = serde_json::from_str(line).map_err(|e| Error::Other(e.into()))?;
    output::line("---")?;
    format.print_value(&entry)
}

/// One entry for people.
fn row(line: &str) -> [String; COLUMNS.len()] {
    let entry: Value = serde_json::from_str(line).unwrap_or_default();
    let of = |name: &str| {
        let text = entry[name].as_str().unwrap_or_default();
        output::or_dash(text).to_owned()
    };
    let what = format!("{} {}", of("kind"), of("action"));
    [
        of("time"),
        of("from"),
        of("subject"),
        what,
        of("org"),
        of("target"),
        of("result"),
    ]
}

/// The columns of a row, before the rows after it are known.
fn aligned(row: &[String; COLUMNS.len()]) -> String {
    let cells = row.iter().zip(COLUMNS);
    let cells: Vec<_> = cells
        .map(|(text, (_, width))| format!("{text:<width$}"))
        .collect();
    cells.join("  ")
}
