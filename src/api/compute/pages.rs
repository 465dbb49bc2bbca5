//! Pages of lists: bounded by number and by bytes.

use prost::Message;

/// Most bytes of the entries on a page; an entry that is larger has a page to itself.
const MAX_BYTES: usize = 1 << 20;

/// A page while it is filled: it never has more in memory than is on it.
#[derive(Debug)]
pub(in crate::api) struct Page<T, M> {
    limit: usize,
    messages: Vec<M>,
    bytes: usize,
    last: Option<T>,
    more: bool,
}

impl<T, M: Message> Page<T, M> {
    /// An empty page for at most so many entries.
    pub(in crate::api) fn new(limit: usize) -> Self {
        Self {
            limit,
            messages: Vec::new(),
            bytes: 0,
            last: None,
            more: false,
        }
    }

    /// Adds an entry; `false` when it is left to the next page, and nothing may follow it.
    pub(in crate::api) fn push(&mut self, entry: T, to_wire: impl FnOnce(&T) -> M) -> bool {
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

    /// The entries as messages, and the last of them if there are more.
    pub(in crate::api) fn finish(self) -> (Vec<M>, Option<T>) {
        (self.messages, self.last.filter(|_| self.more))
    }
}

/// The page of what was found as messages, and the last entry on it if there are more. `found` has one
/// more than `limit` if there are; what no longer fits is left to the next page.
pub(in crate::api) fn fill<T, M: Message>(
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
