//! The last lines of a container's log, from the frames that the engine sends.
//!
//! A frame is a piece of one of the two streams, with no promise about line ends: long lines come
//! in several frames. Lines are assembled per stream and kept in the order in which they ended.

use std::collections::VecDeque;

use bollard::container::LogOutput;

/// Longest line kept, in bytes; the rest is dropped and marked.
const MAX_LINE: usize = 4096;

/// Collects the newest lines.
#[derive(Debug)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    keep: usize,
    out: Partial,
    err: Partial,
}

/// A line that has not ended yet.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Keeps at most `lines`.
    pub(super) fn new(lines: u32) -> Self {
        let keep = usize::try_from(lines).unwrap_or(usize::MAX);
        Self {
            lines: VecDeque::new(),
            keep,
            out: Partial::default(),
            err: Partial::default(),
        }
    }

    /// Takes one frame.
    pub(super) fn push(&mut self, frame: LogOutput) {
        let partial = if matches!(frame, LogOutput::StdErr { .. }) {
            &mut self.err
        } else {
            &mut self.out
        };
        let bytes = frame.into_bytes();
        let mut pieces = bytes.split(|b| *b == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            partial.add(piece);
            if pieces.peek().is_some() {
                let line = partial.take();
                self.lines.push_back(line);
                if self.lines.len() > self.keep {
                    self.lines.pop_front();
                }
            }
        }
    }

    /// The lines, oldest first; unfinished ones come last.
    pub(super) fn finish(mut self) -> Vec<String> {
        for partial in [&mut self.out, &mut self.err] {
            if !partial.bytes.is_empty() {
                self.lines.push_back(partial.take());
            }
        }
        let surplus = self.lines.len().saturating_sub(self.keep);
        self.lines.into_iter().skip(surplus).collect()
    }
}

impl Partial {
    fn add(&mut self, piece: &[u8]) {
        let room = MAX_LINE - self.bytes.len();
        self.cut |= piece.len() > room;
        self.bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.bytes);
        let mut line = String::from_utf8_lossy(&bytes)
            .trim_end_matches('\r')
            .to_owned();
        if std::mem::take(&mut self.cut) {
            line.push_str(" … (cut)");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn lines_are_put_together_per_stream_and_bounded() {
        let mut tail = Tail::new(3);
        for frame in [
            out("dropped\n"),
            out("a "),
            err("whoops\n"),
            out("b\r\n"),
            err("no end"),
        ] {
            tail.push(frame);
        }
        assert_eq!(tail.finish(), ["whoops", "a b", "no end"]);
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let mut tail = Tail::new(2);
        tail.push(out(&"x".repeat(3000)));
        tail.push(out(&"x".repeat(3000)));
        tail.push(out("\nnext\n"));
        let lines = tail.finish();
        assert!(
            lines[0].starts_with("xxx")
                && lines[0].ends_with("(cut)")
                && lines[0].len() < MAX_LINE + 20
        );
        assert_eq!(lines[1], "next");
    }
}
