//! The output of containers, as an engine reports it.

/// Which lines of a container's log to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery {
    /// Only this many of the newest lines; `None` for all.
    pub tail: Option<u32>,
    /// Only lines from this time on, Unix milliseconds.
    pub since_ms: i64,
    /// Continue with later lines until the container ends.
    pub follow: bool,
}

/// Which output a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it began, in Unix nanoseconds; no two lines of a container share it in practice.
    pub at_ns: i64,
    /// The output that it was written to.
    pub stream: LogStream,
    /// The line without its end.
    pub text: String,
}
