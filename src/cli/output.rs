//! Answers on stdout: tables for people, JSON and YAML for programs.
//!
//! JSON is the API's: the answer goes through the contract's descriptors, so names, enums and
//! 64-bit numbers are spelled as the HTTP gateway spells them. Unlike there, fields with their default
//! are present.

use std::{
    io::{self, IsTerminal as _, Write},
    time::{Duration, UNIX_EPOCH},
};

use comfy_table::{Table, presets::NOTHING};
use parking_lot::Mutex;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer};

use super::{
    Error,
    spinner::beside,
    text::{self, Pieces},
};
use crate::api::proto::{self, v1};

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The API's JSON.
    Json,
    /// The API's JSON as YAML.
    Yaml,
    /// A table with more columns.
    Wide,
}

impl Format {
    /// Whether the output is meant for programs.
    pub(super) fn is_structured(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }

    /// Prints a message of the contract. `name` is as for [`dynamic`]; `table` builds the table and
    /// takes whether it may be wide.
    pub(super) fn print<M: prost::Message>(
        self,
        name: &str,
        message: &M,
        table: impl FnOnce(bool) -> Table,
    ) -> Result<(), Error> {
        match self {
            Format::Table => columns(table(false)),
            Format::Wide => columns(table(true)),
            Format::Json | Format::Yaml => self.print_value(&dynamic(name, message)?),
        }
    }

    /// Prints a value as JSON or YAML; the table formats fall back to JSON.
    pub(super) fn print_value(self, value: &impl Serialize) -> Result<(), Error> {
        let text = match self {
            Format::Yaml => serde_yaml_ng::to_string(value).map_err(|e| Error::Other(e.into()))?,
            _ => serde_json::to_string_pretty(value).map_err(|e| Error::Other(e.into()))?,
        };
        line(text.trim_end())
    }
}

/// A message of the contract as programs read it: proto3 JSON, in the contract's order, with its
/// zeros and empty lists, so that no field that is asked for is missing.
pub(super) struct Whole(DynamicMessage);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let options = SerializeOptions::new().skip_default_fields(false);
        self.0.serialize_with_options(serializer, &options)
    }
}

/// A message of the contract for printing. `name` is its name in `dodil.ignite.v1`, or its full name.
pub(super) fn dynamic<M: prost::Message>(name: &str, message: &M) -> Result<Whole, Error> {
    sparse(name, message).map(Whole)
}

/// As [`dynamic`], without the fields that have their default.
pub(super) fn sparse<M: prost::Message>(name: &str, message: &M) -> Result<DynamicMessage, Error> {
    // A name with a dot already includes its package.
    let full = if name.contains('.') {
        name.to_owned()
    } else {
        format!("dodil.ignite.v1.{name}")
    };
    let descriptor = proto::pool().get_message_by_name(&full).ok_or_else(|| {
        Error::Other(anyhow::anyhow!(
            "the contract has no message {full}; this is a bug in ignite"
        ))
    })?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic
        .transcode_from(message)
        .map_err(|e| Error::Other(e.into()))?;
    Ok(dynamic)
}

/// Writes bytes to stdout and flushes: unchanged, except that a terminal gets control characters
/// escaped.
pub(super) fn raw(bytes: &[u8]) -> Result<(), Error> {
    static PIECES: Mutex<Pieces> = Mutex::new(Pieces::new());
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        out.write_all(&PIECES.lock().shown(bytes))?
    } else {
        out.write_all(bytes)?
    }
    Ok(out.flush()?)
}

/// Writes text of this program to stdout, unchanged, and flushes.
pub(super) fn script(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints one or more lines on stdout, with hidden characters escaped.
pub(super) fn line(text: &str) -> Result<(), Error> {
    beside(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text::shown(text))?;
        Ok(out.flush()?)
    })
}

/// Prints a table on stdout without left padding; on a terminal that is too narrow for it, one row
/// below the other.
pub(super) fn columns(table: Table) -> Result<(), Error> {
    let out = console::Term::stdout();
    let width = out.size_checked().map(|(_, width)| usize::from(width));
    let width = width.filter(|_| out.is_term());
    let text = text_of(table.clone());
    match width {
        Some(width) if is_wider(&text, width) => line(&rows_apart(&table, width)),
        _ => line(&text),
    }
}

fn is_wider(text: &str, width: usize) -> bool {
    text.lines()
        .any(|line| console::measure_text_width(line) > width)
}

/// A table with one value on each line, beside its name: lines break between words only.
fn rows_apart(table: &Table, width: usize) -> String {
    let names: Vec<String> = table.header().map_or_else(Vec::new, |header| {
        header.cell_iter().map(|cell| cell.content()).collect()
    });
    let mut blocks = Vec::new();
    for row in table.row_iter() {
        let mut cells = row.cell_iter().map(|cell| cell.content());
        let pairs: Vec<(String, String)> = if names.is_empty() {
            vec![(
                cells.next().unwrap_or_default(),
                cells.collect::<Vec<_>>().join("  "),
            )]
        } else {
            names.iter().cloned().zip(cells).collect()
        };
        blocks.push(pairs);
    }
    let longest = |(name, _): &(String, String)| console::measure_text_width(name);
    let indent = blocks
        .iter()
        .flatten()
        .map(longest)
        .max()
        .unwrap_or_default()
        + 2;
    let block = |pairs: &Vec<(String, String)>| {
        let lines: Vec<String> = pairs
            .iter()
            .map(|(name, value)| {
                let value = broken(value, width.saturating_sub(indent).max(20));
                let value = value.join(&format!("\n{:indent$}", ""));
                format!("{name:indent$}{value}").trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    };
    let all: Vec<String> = blocks.iter().map(block).collect();
    // Rows with a name and a value each are a block already.
    all.join(if names.is_empty() { "\n" } else { "\n\n" })
}

/// Lines of at most this width, unless a word alone is wider.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is a first line");
        let with = console::measure_text_width(last) + 1 + console::measure_text_width(word);
        if last.is_empty() {
            last.push_str(word);
        } else if with <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The lines of a table, without left padding.
pub(super) fn text_of(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A table without borders, for reading and for `awk`.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

/// A table with a name and a value in each row.
pub(super) fn rows(rows: &[(&str, String)]) -> Table {
    let mut table = table(&[]);
    for (name, value) in rows {
        table.add_row([*name, or_dash(value)]);
    }
    table
}

/// The name of an enum value without its prefix, in lower case: `DEPLOYMENT_STATE_CREATED` →
/// `created`.
pub(super) fn plain(wire: &str, prefix: &str) -> String {
    let bare = wire.strip_prefix(prefix).unwrap_or(wire);
    bare.trim_start_matches('_')
        .to_ascii_lowercase()
        .replace('_', "-")
}

/// The name of a language, as `--runtime` takes it.
pub(super) fn runtime(wire: Option<&v1::Runtime>) -> Option<&'static str> {
    use v1::runtime::Runtime;
    Some(match wire?.runtime.as_ref()? {
        Runtime::Python(_) => "python",
        Runtime::Rust(_) => "rust",
        Runtime::Go(_) => "go",
        Runtime::Deno(_) => "deno",
    })
}

/// Unix milliseconds for people; `-` for none.
pub(super) fn time(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => UNIX_EPOCH
            .checked_add(Duration::from_millis(ms))
            .map_or_else(
                || ms.to_string(),
                |t| humantime::format_rfc3339_seconds(t).to_string(),
            ),
        _ => "-".to_owned(),
    }
}

/// Bytes for people, in binary units.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for next in units {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    if unit == "B" {
        return format!("{bytes} B");
    }
    format!("{scaled:.1} {unit}")
}

/// The text, or `-` when there is none.
pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::v1;

    #[test]
    fn json_is_spelled_as_the_api_spells_it() {
        let app = v1::AppMeta {
            id: "acme/a".to_owned(),
            resource_tier: v1::ResourceTier::Small.into(),
            created_at_ms: 7,
            ..Default::default()
        };
        let message =
            dynamic("GetAppResponse", &v1::GetAppResponse { app: Some(app) }).expect("known");
        let value = serde_json::to_value(message).expect("json");
        let app = &value["app"];
        let text = |name: &str| app[name].as_str().map(str::to_owned);
        assert_eq!(text("id").as_deref(), Some("acme/a"));
        assert_eq!(text("resourceTier").as_deref(), Some("RESOURCE_TIER_SMALL"));
        assert_eq!(text("createdAtMs").as_deref(), Some("7"));
        // What has its default is there, too, and what was not set at all is not.
        assert_eq!(text("description").as_deref(), Some(""));
        assert_eq!(app["ports"], serde_json::json!([]));
        assert_eq!(app["activeVersion"], 0);
        assert_eq!(app.get("limits"), None);
    }

    #[test]
    fn a_table_that_is_too_wide_has_its_rows_one_below_the_other() {
        let mut wide = table(&["APP", "URL", "STATE"]);
        let url = format!("http://{}.ignite.localhost:8080", "a".repeat(60));
        wide.add_row([
            "acme/a",
            &url,
            "scaled to zero since an hour ago and for reasons that fill a line",
        ]);
        wide.add_row(["acme/b", "-", "running"]);
        assert!(is_wider(&text_of(wide.clone()), 80));
        let text = rows_apart(&wide, 70);
        let expected = format!(
            "APP    acme/a\nURL    {url}\nSTATE  scaled to zero since an hour ago and for reasons that fill a\n       line\n\nAPP    acme/b\nURL    -\nSTATE  running"
        );
        // A word that is wider than the terminal stays whole.
        assert_eq!(text, expected);
        let named = rows(&[("name", "b".repeat(90)), ("other", "c".to_owned())]);
        assert_eq!(
            rows_apart(&named, 80),
            format!("name   {}\nother  c", "b".repeat(90))
        );
    }

    #[test]
    fn times_sizes_and_names_are_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            plain("DEPLOYMENT_STATE_SCALED_TO_ZERO", "DEPLOYMENT_STATE"),
            "scaled-to-zero"
        );
        assert_eq!(time(0), "-");
        assert_eq!(time(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }
}
