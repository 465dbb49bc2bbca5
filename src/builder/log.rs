//! The log of one build: its newest lines within a bound, for any number of readers.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::now_ms;

/// Longest line kept; a longer one is cut.
const MAX_LINE: usize = 8 * 1024;
/// Longest text of last lines: it is stored with the draft, and becomes part of a status.
const MAX_TAIL: usize = 4 * 1024;
/// The memory of a line beside its text.
const LINE_OVERHEAD: usize = 32;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was added, in Unix milliseconds.
    pub at_ms: i64,
    /// The line without its end.
    pub text: String,
}

/// The lines so far.
#[derive(Debug)]
pub struct Log {
    kept: Mutex<Kept>,
    most_bytes: usize,
    /// How many lines there have been; a change wakes readers.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    /// How many lines are not kept any more.
    dropped: u64,
    /// Output whose line end has not arrived yet.
    open: String,
}

impl Log {
    /// An empty log that keeps at most this many bytes.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            kept: Mutex::default(),
            most_bytes,
            count: watch::Sender::new(0),
        }
    }

    /// Adds a whole line.
    pub(super) fn line(&self, text: impl Into<String>) {
        self.push(|kept| {
            let open = std::mem::take(&mut kept.open);
            if !open.is_empty() {
                kept.add(open);
            }
            kept.add(text.into());
        });
    }

    /// Adds output as it arrives.
    pub(super) fn output(&self, text: &str) {
        self.push(|kept| {
            kept.open.push_str(text);
            while let Some(end) = kept.open.find(['\n', '\r']) {
                let rest = kept.open.split_off(end + 1);
                let line = std::mem::replace(&mut kept.open, rest);
                let line = line.trim_end();
                if !line.is_empty() {
                    kept.add(line.to_owned());
                }
            }
            if kept.open.len() > MAX_LINE {
                let open = std::mem::take(&mut kept.open);
                kept.add(open);
            }
        });
    }

    fn push(&self, add: impl FnOnce(&mut Kept)) {
        let count = {
            let mut kept = self.kept.lock();
            add(&mut kept);
            kept.fit(self.most_bytes);
            kept.dropped + kept.lines.len() as u64
        };
        self.count.send_replace(count);
    }

    /// The kept lines from number `from` on, and the number of the next one.
    pub fn since(&self, from: u64) -> (Vec<Line>, u64) {
        let kept = self.kept.lock();
        let skip = usize::try_from(from.saturating_sub(kept.dropped)).unwrap_or(usize::MAX);
        let lines = kept.lines.iter().skip(skip).cloned().collect();
        (lines, kept.dropped + kept.lines.len() as u64)
    }

    /// At most the last `most` lines as one text, fewer when they are long.
    pub(super) fn tail(&self, most: usize) -> String {
        let kept = self.kept.lock();
        let mut room = MAX_TAIL;
        let mut texts: Vec<&str> = Vec::new();
        for line in kept.lines.iter().rev().take(most) {
            let start = line
                .text
                .ceil_char_boundary(line.text.len().saturating_sub(room));
            room -= line.text.len() - start;
            texts.push(&line.text[start..]);
            if room == 0 {
                break;
            }
        }
        texts.reverse();
        texts.join("\n")
    }

    /// How many lines there have been; changes when there are more.
    pub fn count(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}

impl Kept {
    fn add(&mut self, mut text: String) {
        if text.len() > MAX_LINE {
            let cut = text.floor_char_boundary(MAX_LINE);
            text.truncate(cut);
            text.push('…');
        }
        self.bytes += text.len() + LINE_OVERHEAD;
        self.lines.push_back(Line {
            at_ms: now_ms(),
            text,
        });
    }

    fn fit(&mut self, most: usize) {
        while self.bytes > most && self.lines.len() > 1 {
            let Some(line) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= line.text.len() + LINE_OVERHEAD;
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|l| &*l.text).collect()
    }

    #[test]
    fn output_becomes_lines_and_only_the_newest_are_kept() {
        let log = Log::new(3 * (LINE_OVERHEAD + 3));
        log.output("one\ntw");
        log.output("o\r\n\n");
        let (lines, next) = log.since(0);
        assert_eq!(texts(&lines), ["one", "two"]);
        log.output("thr");
        log.line("own");
        log.line("six");
        let (lines, next) = log.since(next);
        assert_eq!(texts(&lines), ["thr", "own", "six"]);
        assert_eq!(log.since(0).0.len(), 3, "the oldest are gone");
        assert_eq!(log.tail(2), "own\nsix");
        log.line("x".repeat(MAX_LINE * 2));
        let (lines, _) = log.since(next);
        assert!(lines[0].text.len() <= MAX_LINE + '…'.len_utf8());
        assert!(log.tail(5).len() <= MAX_TAIL);
    }
}
