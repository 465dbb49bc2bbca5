//! Pages of lists: bounded by number and by bytes, each with a cursor to the next.

use std::{fmt::Display, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use crate::model::Failure;

/// Entries on a page of a list when no limit is given, as the contract says.
const DEFAULT_ENTRIES: usize = 100;
/// Most entries on a page of a list.
const MAX_ENTRIES: usize = 1000;
/// Most bytes of the entries on a page; an entry that is larger has a page to itself.
const MAX_BYTES: usize = 1 << 20;

/// A page being filled; it holds no more in memory than the page itself.
#[derive(Debug)]
pub(super) struct Page<T, M> {
    limit: usize,
    messages: Vec<M>,
    bytes: usize,
    last: Option<T>,
    more: bool,
}

impl<T, M: Message> Page<T, M> {
    /// An empty page for at most `limit` entries.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            messages: Vec::new(),
            bytes: 0,
            last: None,
            more: false,
        }
    }

    /// Adds an entry; `false` when it belongs to the next page, and no more may follow.
    pub(super) fn push(&mut self, entry: T, to_wire: impl FnOnce(&T) -> M) -> bool {
        if self.messages.len() < self.limit {
            let message = to_wire(&entry);
            self.bytes += message.encoded_len();
            if self.bytes <= MAX_BYTES || self.messages.is_empty() {
                self.messages.push(message);
                self.last = Some(entry);
                return true;
            }
        }
        self.more = true;
        false
    }

    /// The entries as messages, and the last of them if there are more pages.
    pub(super) fn finish(self) -> (Vec<M>, Option<T>) {
        (self.messages, self.last.filter(|_| self.more))
    }
}

/// The page of these entries as messages, and the last entry on it if there are more. Callers fetch
/// one entry more than `limit` to learn whether there are; entries that do not fit are left to the
/// next page.
pub(super) fn fill<T, M: Message>(
    found: &[T],
    limit: usize,
    mut to_wire: impl FnMut(&T) -> M,
) -> (Vec<M>, Option<&T>) {
    let mut page = Page::new(limit);
    let _ = found
        .iter()
        .all(|entry| page.push(entry, |entry| to_wire(entry)));
    page.finish()
}

/// How many entries a page has for this `limit`.
///
/// # Errors
/// INVALID_ARGUMENT for a negative one.
pub(super) fn size(limit: i32) -> Result<usize, Failure> {
    match limit {
        0 => Ok(DEFAULT_ENTRIES),
        n => usize::try_from(n).map(|n| n.min(MAX_ENTRIES)).map_err(|_| {
            Failure::field(
                "limit",
                format!("{n} is negative; give 1 to {MAX_ENTRIES}, or 0 for {DEFAULT_ENTRIES}"),
            )
        }),
    }
}

/// The cursor that asks for the page after this one's last entry; empty after the last page.
pub(super) fn next_cursor(last: Option<impl Display>) -> String {
    last.map_or_else(String::new, |last| URL_SAFE_NO_PAD.encode(last.to_string()))
}

/// The entry that a cursor made by [`next_cursor`] stands for; `None` for the first page. `made_by`
/// names the method in the failure.
///
/// # Errors
/// INVALID_ARGUMENT for any other text.
pub(super) fn parse_cursor<T: FromStr>(cursor: &str, made_by: &str) -> Result<Option<T>, Failure> {
    let decode = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        String::from_utf8(bytes).ok()?.parse().ok()
    };
    parse_cursor_by(cursor, made_by, decode)
}

/// As [`parse_cursor`], for a cursor in another encoding, which `decode` reads.
///
/// # Errors
/// As [`parse_cursor`].
pub(super) fn parse_cursor_by<T>(
    cursor: &str,
    made_by: &str,
    decode: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    if cursor.is_empty() {
        return Ok(None);
    }
    decode(cursor).map(Some).ok_or_else(|| {
        Failure::field(
            "cursor",
            format!("was not made by {made_by}; pass on next_cursor as it came, or leave it out"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages of strings of these lengths, as the lengths on each.
    fn pages(mut lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
        let mut pages = Vec::new();
        loop {
            let found = &lengths[..lengths.len().min(limit + 1)];
            let (page, last) = fill(found, limit, |n| "x".repeat(*n));
            let more = last.is_some();
            lengths = &lengths[page.len()..];
            pages.push(page.iter().map(String::len).collect());
            if !more {
                assert!(lengths.is_empty(), "entries are lost");
                return pages;
            }
        }
    }

    #[test]
    fn a_page_ends_at_its_bytes_and_nothing_is_lost() {
        assert_eq!(pages(&[], 2), [[0; 0]]);
        assert_eq!(pages(&[1, 2, 3], 2), [vec![1, 2], vec![3]]);
        assert_eq!(pages(&[1, 2], 2), [[1, 2]]);
        let many = pages(&[90_000; 1500], 1000);
        assert!(many.iter().all(|p| p.len() <= 11), "{}", many[0].len());
        assert_eq!(many.concat().len(), 1500);
        let huge = 3 * MAX_BYTES;
        assert_eq!(pages(&[huge, 1, huge], 9), [[huge], [1], [huge]]);
    }
}
