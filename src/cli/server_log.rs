//! The log of `ignite serve`: events on stderr, one per line, without the content of messages.
//!
//! Below `info` only this program's own events are logged. Those of libraries, above all the HTTP
//! client, show bodies and headers as sent: container environments, registry credentials, tokens.

use std::io;

use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use super::text;
use crate::config::{Config, LogFormat, process_env};

/// The root of the event targets of this program.
const OURS: &str = "ignite";
/// The crate that implements MCP.
const MCP_LIBRARY: &str = "rmcp";

/// Replaces the log's filter by another level or filter.
pub(super) type SetFilter = Box<dyn Fn(&str) -> anyhow::Result<()> + Send + Sync>;

/// Installs the global subscriber.
///
/// # Errors
/// When the filter is invalid, or a subscriber is already installed.
pub(super) fn install(config: &Config) -> anyhow::Result<SetFilter> {
    let (filter, handle) = reload::Layer::new(filter(&config.log_level)?);
    let ansi = config.log_format == LogFormat::Plain
        && io::IsTerminal::is_terminal(&io::stderr())
        && process_env("NO_COLOR").is_none_or(|value| value.is_empty());
    let written = written(
        config.log_format,
        Lines {
            ansi,
            to: io::stderr,
        },
    );
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_logged))
        .with(written)
        .try_init()
        .map_err(|e| anyhow::anyhow!("the log cannot be set up: {e}"))?;
    Ok(Box::new(move |level| {
        Ok(handle.reload(self::filter(level)?)?)
    }))
}

/// The layer that writes events in a format.
fn written<S, M>(format: LogFormat, lines: Lines<M>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let ansi = lines.ansi;
    // Internal errors would be reported on stderr, the very stream that failed, and panic.
    let layer = fmt::layer().log_internal_errors(false).with_writer(lines);
    match format {
        LogFormat::Plain => layer.with_ansi(ansi).boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

/// The filter of a level, or of a filter as it is written. The library that speaks MCP logs several
/// lines for each message, which are left out unless the filter names it.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    // A word alone would be taken for the name of a target, at its finest level.
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok() || part == OURS;
    if let Some(word) = level
        .split(',')
        .map(str::trim)
        .find(|p| is_word(p) && !is_level(p))
    {
        anyhow::bail!(
            "the log level {word:?} is not valid: write off, error, warn, info, debug or trace, or a filter such as info,ignite::fleet=debug"
        );
    }
    let quieter = if level.contains(MCP_LIBRARY) {
        level.to_owned()
    } else {
        format!("{MCP_LIBRARY}=error,{level}")
    };
    EnvFilter::try_new(quieter)
        .map_err(|e| anyhow::anyhow!("the log level {level:?} is not valid: {e}"))
}

fn may_be_logged(event: &Metadata<'_>) -> bool {
    let target = event.target();
    let is_ours = target
        .strip_prefix(OURS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    is_ours || *event.level() <= Level::INFO
}

/// Writes each event on one line.
struct Lines<M> {
    ansi: bool,
    to: M,
}

/// The writer of one event.
struct Line<W> {
    ansi: bool,
    to: W,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            ansi: self.ansi,
            to: self.to.make_writer(),
        }
    }
}

impl<W: io::Write> io::Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // The layer writes each event as one whole piece of text.
        let line = text::logged(&String::from_utf8_lossy(event), self.ansi);
        self.to.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a log at this level records while `happens` runs.
    fn log(level: &str, format: LogFormat, happens: impl FnOnce()) -> String {
        let sink = Sink::default();
        let to = sink.clone();
        let lines = Lines {
            ansi: false,
            to: move || to.clone(),
        };
        let subscriber = tracing_subscriber::registry()
            .with(filter(level).expect("valid"))
            .with(filter_fn(may_be_logged))
            .with(written(format, lines));
        tracing::subscriber::with_default(subscriber, happens);
        String::from_utf8(sink.0.lock().clone()).expect("text")
    }

    #[test]
    fn what_libraries_say_below_info_is_never_told() {
        for level in [
            "trace",
            "hyper=trace,bollard::docker=trace,log=trace,ignite=trace",
        ] {
            let told = log(level, LogFormat::Plain, || {
                tracing::trace!(target: "bollard::docker", "request: SECRET");
                tracing::debug!(target: "hyper::proto::h1", "headers: SECRET");
                tracing::trace!(target: "ignited", "SECRET");
                tracing::trace!(target: "ignite::fleet", "ours-1");
                tracing::debug!("ours-2");
                tracing::warn!(target: "hyper", "theirs-1");
            });
            assert!(!told.contains("SECRET"), "{told}");
            assert!(told.contains("ours-1") && told.contains("ours-2"), "{told}");
            assert!(told.contains("theirs-1"), "{told}");
        }
    }

    #[test]
    fn an_app_cannot_write_lines_of_the_log() {
        let said = "boom\n2026-01-01T00:00:00Z  INFO ignite: forged\r\u{1b}[2J\u{9b}1m";
        for format in [LogFormat::Plain, LogFormat::Json] {
            let told = log("info", format, || {
                tracing::warn!(app = %said, detail = said, "It said {said}");
            });
            let line = told.strip_suffix('\n').expect("a line");
            assert!(!line.contains(char::is_control), "{line:?}");
            if format == LogFormat::Json {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(event["fields"]["detail"], said);
            }
        }
    }
}
