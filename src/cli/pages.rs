//! The sizes of pages of a list that has a limit.

/// The API's limit of apps or versions per page.
const MAX_PAGE: u32 = 1000;

/// The `limit` of the next page after `have` entries: 0 lets the server choose, `None` says that
/// the list is as long as it may be.
pub(super) fn next_limit(limit: Option<u32>, have: usize) -> Option<i32> {
    let Some(limit) = limit else {
        return Some(0);
    };
    let left = limit.saturating_sub(u32::try_from(have).unwrap_or(u32::MAX));
    (left > 0).then(|| i32::try_from(left.min(MAX_PAGE)).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_by_the_api_and_end_at_the_limit() {
        assert_eq!(next_limit(None, 5000), Some(0));
        assert_eq!(next_limit(Some(2500), 0), Some(1000));
        assert_eq!(next_limit(Some(2500), 2000), Some(500));
        assert_eq!(next_limit(Some(2500), 2500), None);
    }
}
