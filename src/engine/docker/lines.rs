//! A container's log line by line, with times, from the frames that the engine sends.
//!
//! On request the engine puts a time before each piece that it kept. A line longer than its buffer
//! (16 KiB in Docker) is several pieces, of which only the last has a line end; the time of a line
//! is that of its first piece.

use std::future;

use bollard::{container::LogOutput, errors::Error as ClientError, query_parameters::LogsOptions};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ContainerId, Error, LogLine, LogQuery, LogStream, client::Client};

/// Longest line in bytes; the rest is dropped, and a mark says so.
const MAX_LINE: usize = 64 * 1024;
const CALL: &str = "read the container's log";
const SECOND_NS: i64 = 1_000_000_000;

/// The lines of a container that match `ask`.
pub(super) fn read(
    client: &Client,
    id: &ContainerId,
    ask: LogQuery,
) -> BoxStream<'static, Result<LogLine, Error>> {
    let docker = match client.connector().client() {
        Ok(docker) => docker,
        Err(cause) => return stream::once(future::ready(Err(cause))).boxed(),
    };
    let options = LogsOptions {
        follow: ask.follow,
        stdout: true,
        stderr: true,
        timestamps: true,
        // The engine accepts whole seconds; earlier lines of that second are dropped below.
        since: i32::try_from(ask.since_ms / 1000).unwrap_or(i32::MAX),
        tail: ask.tail.map_or_else(|| "all".to_owned(), |n| n.to_string()),
        ..LogsOptions::default()
    };
    let (client, id) = (client.clone(), id.clone());
    let since_ns = ask.since_ms.saturating_mul(1_000_000);
    docker
        .logs(&id.0, Some(options))
        .map(Some)
        .chain(stream::once(future::ready(None)))
        .scan(Lines::default(), move |lines, frame| {
            let items: Vec<_> = match frame {
                Some(Ok(frame)) => lines.push(frame).into_iter().map(Ok).collect(),
                Some(Err(cause)) => vec![Err(translate(&client, &id, cause))],
                None => lines.finish().into_iter().map(Ok).collect(),
            };
            future::ready(Some(stream::iter(items)))
        })
        .flatten()
        .try_filter(move |line| future::ready(is_since(line.at_ns, since_ns)))
        .boxed()
}

/// Whether a line is of this time or later. Podman says whole seconds only: a line of the same second
/// counts then, as it may be later.
fn is_since(at_ns: i64, since_ns: i64) -> bool {
    let is_whole = at_ns % SECOND_NS == 0;
    at_ns >= since_ns || is_whole && at_ns / SECOND_NS == since_ns / SECOND_NS
}

fn translate(client: &Client, id: &ContainerId, cause: ClientError) -> Error {
    super::or_gone::<()>(Err(client.translate(CALL, client.limit(), cause)), id)
        .err()
        .unwrap_or_else(|| Error::NoSuchContainer(id.clone()))
}

/// Assembles lines, separately for stdout and stderr.
#[derive(Default)]
struct Lines {
    out: Option<Open>,
    err: Option<Open>,
}

/// A line that has not ended yet.
struct Open {
    at_ns: i64,
    bytes: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes one frame; returns the lines that ended with it.
    fn push(&mut self, frame: LogOutput) -> Vec<LogLine> {
        let stream = match frame {
            LogOutput::StdErr { .. } => LogStream::Stderr,
            _ => LogStream::Stdout,
        };
        let open = match stream {
            LogStream::Stdout => &mut self.out,
            LogStream::Stderr => &mut self.err,
        };
        let mut ended = Vec::new();
        for piece in frame.into_bytes().split_inclusive(|b| *b == b'\n') {
            let (at_ns, text) = match split_time(piece) {
                Some((at_ns, text)) => (Some(at_ns), text),
                None => (None, piece),
            };
            let line = open.get_or_insert_with(|| Open {
                at_ns: at_ns.unwrap_or_default(),
                bytes: Vec::new(),
                cut: false,
            });
            let whole = text.strip_suffix(b"\n");
            line.add(whole.unwrap_or(text));
            if whole.is_some() {
                ended.extend(open.take().map(|line| line.end(stream)));
            }
        }
        ended
    }

    /// The lines that had no line end.
    fn finish(&mut self) -> Vec<LogLine> {
        let rest = [
            (self.out.take(), LogStream::Stdout),
            (self.err.take(), LogStream::Stderr),
        ];
        let lines = rest.into_iter();
        lines
            .filter_map(|(open, stream)| open.map(|line| line.end(stream)))
            .collect()
    }
}

impl Open {
    fn add(&mut self, piece: &[u8]) {
        let room = MAX_LINE - self.bytes.len();
        self.cut |= piece.len() > room;
        self.bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end(self, stream: LogStream) -> LogLine {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut text = text.strip_suffix('\r').unwrap_or(&text).to_owned();
        if self.cut {
            text.push_str(" … (cut)");
        }
        LogLine {
            at_ns: self.at_ns,
            stream,
            text,
        }
    }
}

/// Splits a piece into its time and its text.
fn split_time(piece: &[u8]) -> Option<(i64, &[u8])> {
    // The longest one is 2026-01-02T03:04:05.123456789+01:00.
    let end = piece.iter().take(40).position(|b| *b == b' ')?;
    let at_ns = parse_time(std::str::from_utf8(&piece[..end]).ok()?)?;
    Some((at_ns, &piece[end + 1..]))
}

/// RFC 3339 in Unix nanoseconds. Docker writes UTC, Podman the host's own time.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_an_engine_that_says_whole_seconds_is_not_lost() {
        let since = 7 * SECOND_NS + 500_000_000;
        for (at, is) in [
            (since, true),
            (since - 1, false),
            (7 * SECOND_NS, true),
            (6 * SECOND_NS, false),
            (8 * SECOND_NS, true),
        ] {
            assert_eq!(is_since(at, since), is, "{at}");
        }
    }

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut {
            message: text.to_owned().into(),
        }
    }

    fn err(text: &str) -> LogOutput {
        LogOutput::StdErr {
            message: text.to_owned().into(),
        }
    }

    #[test]
    fn lines_come_with_the_time_of_their_first_piece() {
        let mut lines = Lines::default();
        assert_eq!(
            lines.push(out("2026-01-02T03:04:05.000000001Z a long ")),
            []
        );
        let whoops = lines.push(err("2026-01-02T03:04:06Z whoops\r\n"));
        assert_eq!(
            (whoops[0].text.as_str(), whoops[0].stream),
            ("whoops", LogStream::Stderr)
        );
        let long = lines.push(out(
            "2026-01-02T03:04:07Z line\n2026-01-02T03:04:08Z no end",
        ));
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].text, "a long line");
        assert_eq!(long[0].at_ns % 1_000_000_000, 1);
        let rest = lines.finish();
        assert_eq!(rest[0].text, "no end");
        assert!(rest[0].at_ns > whoops[0].at_ns && whoops[0].at_ns > long[0].at_ns);
        assert_eq!(lines.finish(), []);
    }

    #[test]
    fn times_are_read_in_utc_and_with_an_offset() {
        let exact = parse_time("2026-01-02T03:04:05.123456789Z");
        assert_eq!(exact, Some(1_767_323_045_123_456_789));
        let utc = parse_time("2026-01-02T03:04:05.5Z").expect("a time");
        assert_eq!(parse_time("2026-01-02T04:34:05.5+01:30"), Some(utc));
        assert_eq!(parse_time("2026-01-02T02:04:05.5-01:00"), Some(utc));
        for bad in [
            "",
            "x",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "yesterday-01:00",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let mut lines = Lines::default();
        lines.push(out(&format!("2026-01-02T03:04:05Z {}", "x".repeat(40_000))));
        let line = lines.push(out(&format!(
            "2026-01-02T03:04:05Z {}\n",
            "x".repeat(40_000)
        )));
        assert!(line[0].text.ends_with("x … (cut)") && line[0].text.len() < MAX_LINE + 20);
    }
}
