//! What containers wrote, as an engine reports it.

/// Which lines of a container's log are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery {
    /// Only the newest so many; `None` for all.
    pub tail: Option<u32>,
    /// Only lines from then on, Unix milliseconds.
    pub since_ms: i64,
    /// Go on with what is written later, until the container ends.
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
    /// When it was begun, Unix nanoseconds; no two lines of a container share it in practice.
    pub at_ns: i64,
    /// Where it was written to.
    pub stream: LogStream,
    /// The line without its end.
    pub text: String,
}
