//! Untrusted text on a terminal and in a log: its control characters are escaped.
//!
//! Text from an app, a build or an image can carry escape sequences that move the cursor, change
//! the title or type for the user, and line breaks that forge the next line of a log. Hidden
//! characters are escaped as in JSON (`\u001b`), which is also right inside JSON.

use std::{borrow::Cow, fmt::Write as _};

/// The prefix of the lines of untrusted text after its first.
const QUOTE: &str = "\n  | ";

/// Whether a character acts instead of being seen: control characters of both sets, line and
/// paragraph separators, and characters that change the text direction.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with its hidden characters escaped, except line ends and tabs.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// The text on one line.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\t')
}

/// A text of several lines; the prefix keeps all but the first from passing for one of ours.
pub(super) fn quoted(text: &str) -> String {
    shown(text.trim_end_matches('\n')).replace('\n', QUOTE)
}

/// A log event on one line, with its own line end. With `ansi`, colours are kept; untrusted text in
/// the event has been escaped by then.
pub(super) fn logged(event: &str, ansi: bool) -> String {
    let (event, end) = match event.strip_suffix('\n') {
        Some(event) => (event, "\n"),
        None => (event, ""),
    };
    let mut out = escaped(event, |c| ansi && c == '\u{1b}').into_owned();
    out.push_str(end);
    out
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_hidden(c) && !keep(c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if !is_escaped(c) => out.push(c),
            '\r' if keep('\n') && rest.peek() == Some(&'\n') => {}
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All hidden characters are in the first plane, so four digits are enough.
            c => drop(write!(out, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Escapes arbitrary bytes for a terminal, piece by piece.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The previous piece ended with a byte that may begin a two-byte control character.
    lead: bool,
}

/// The first byte of the second set (C1) of control characters in UTF-8.
const LEAD: u8 = 0xc2;

impl Pieces {
    pub(super) const fn new() -> Self {
        Self { lead: false }
    }

    /// One piece, with its control characters escaped, except line ends and tabs.
    pub(super) fn shown(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len());
        for byte in piece {
            let after_lead = std::mem::take(&mut self.lead);
            match byte {
                0x80..=0x9f if after_lead => out.extend(format!("\\u{byte:04x}").bytes()),
                byte => {
                    if after_lead {
                        out.push(LEAD);
                    }
                    match byte {
                        &LEAD => self.lead = true,
                        b'\n' | b'\t' => out.push(*byte),
                        0..=0x1f | 0x7f => out.extend(format!("\\u{byte:04x}").bytes()),
                        _ => out.push(*byte),
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\r\u{9b}2J\u{202e}\u{2028}z\u{0}\u{7f}";
    const HARMLESS: &str = "a\\u001b]0;owned\\u0007\\r\\u009b2J\\u202e\\u2028z\\u0000\\u007f";

    #[test]
    fn what_would_do_something_is_written_out_and_lines_are_told_apart() {
        assert_eq!(shown(HOSTILE), HARMLESS);
        assert_eq!(one_line("a\nb\tc\r\nd"), "a\\nb\tc\\r\\nd");
        assert_eq!(shown("a\r\nb\tc\n"), "a\nb\tc\n");
        assert_eq!(
            quoted("died; last lines:\nx\n\u{1b}y\n"),
            "died; last lines:\n  | x\n  | \\u001by"
        );
        let plain = "äöü 日本 \u{200e}\u{1f600}";
        assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn written_out_inside_of_json_it_is_the_same_value() {
        let json = serde_json::to_string(HOSTILE).expect("json");
        assert!(json.contains('\u{9b}'), "which JSON lets pass");
        let safe = shown(&json).into_owned();
        assert!(!safe.contains(is_hidden));
        let back: String = serde_json::from_str(&safe).expect("json still");
        assert_eq!(back, HOSTILE);
    }

    #[test]
    fn an_event_of_the_log_is_one_line_whatever_is_in_it() {
        let forged = format!("2026 INFO app said {HOSTILE}\n2026 INFO forged\n");
        let line = logged(&forged, false);
        assert_eq!(
            line,
            format!("2026 INFO app said {HARMLESS}\\n2026 INFO forged\n")
        );
        assert_eq!(
            logged("\u{1b}[32mINFO\u{1b}[0m a\nb\n", true),
            "\u{1b}[32mINFO\u{1b}[0m a\\nb\n"
        );
    }

    #[test]
    fn bytes_are_harmless_however_they_are_cut() {
        let text = format!("{HOSTILE}é\u{a0}\n");
        let whole = Pieces::new().shown(text.as_bytes());
        let mut cut = Pieces::new();
        let cut: Vec<u8> = text.bytes().flat_map(|b| cut.shown(&[b])).collect();
        assert_eq!(whole, cut);
        let whole = String::from_utf8(whole).expect("text");
        assert!(
            !whole.trim_end_matches('\n').contains(char::is_control),
            "{whole:?}"
        );
        assert!(whole.ends_with("é\u{a0}\n"));
    }
}
