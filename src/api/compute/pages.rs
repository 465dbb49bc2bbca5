//! Pages of lists: bounded by number and by bytes.

use prost::Message;

/// Most bytes of the entries on a page; an entry that is larger has a page to itself.
const MAX_BYTES: usize = 1 << 20;

/// The entries of a page as messages, and the last of them if there are more. `found` has one more
/// than `limit` if there are; what no longer fits is left to the next page.
pub(in crate::api) fn fill<T, M: Message>(
    found: &[T],
    limit: usize,
    mut to_wire: impl FnMut(&T) -> M,
) -> (Vec<M>, Option<&T>) {
    let mut messages = Vec::new();
    let mut bytes = 0;
    for entry in found.iter().take(limit) {
        let message = to_wire(entry);
        bytes += message.encoded_len();
        if bytes > MAX_BYTES && !messages.is_empty() {
            break;
        }
        messages.push(message);
    }
    let more = found.len() > messages.len();
    let last = messages.len().checked_sub(1).filter(|_| more);
    (messages, last.and_then(|at| found.get(at)))
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
