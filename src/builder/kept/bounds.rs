//! Which logs are removed over a bound: the oldest of the organization with the largest share.

use std::collections::BTreeMap;

use crate::model::{AppId, BuildId, OrgName};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builder) struct Bounds {
    /// Most bytes of one log.
    pub(in crate::builder) each: u64,
    /// Most logs of builds that have ended.
    pub(in crate::builder) number: usize,
    /// Most bytes of them all.
    pub(in crate::builder) bytes: u64,
}

/// A log that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) id: BuildId,
    pub(super) app: AppId,
    pub(super) bytes: u64,
}

/// Takes out what is over the bounds; `kept` is oldest first.
pub(super) fn over(kept: &mut Vec<Kept>, bounds: Bounds) -> Vec<Kept> {
    let mut gone = Vec::new();
    loop {
        let bytes: u64 = kept.iter().map(|k| k.bytes).sum();
        let share: fn(&Kept) -> u64 = if bytes > bounds.bytes {
            |kept| kept.bytes
        } else if kept.len() > bounds.number {
            |_| 1
        } else {
            return gone;
        };
        let mut shares: BTreeMap<&OrgName, u64> = BTreeMap::new();
        for kept in kept.iter() {
            *shares.entry(&kept.app.org).or_default() += share(kept);
        }
        let largest = shares.into_iter().max_by_key(|(_, share)| *share);
        let oldest = largest.and_then(|(org, _)| kept.iter().position(|k| k.app.org == *org));
        match oldest {
            Some(oldest) => gone.push(kept.remove(oldest)),
            None => return gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(n: u128, org: &str, bytes: u64) -> Kept {
        Kept {
            id: BuildId(ulid::Ulid(n)),
            app: format!("{org}/app").parse().expect("an app"),
            bytes,
        }
    }

    #[test]
    fn the_one_with_most_gives_its_oldest() {
        let all = || {
            vec![
                kept(1, "a", 10),
                kept(2, "b", 90),
                kept(3, "a", 10),
                kept(4, "a", 10),
            ]
        };
        let gone = |number, bytes| {
            let (mut all, each) = (all(), 0);
            let gone = over(
                &mut all,
                Bounds {
                    each,
                    number,
                    bytes,
                },
            );
            gone.iter().map(|k| k.id.0.0).collect::<Vec<_>>()
        };
        assert_eq!(gone(4, 120), [0; 0]);
        assert_eq!(gone(3, 120), [1], "a has most logs");
        assert_eq!(gone(4, 119), [2], "b has most bytes");
        assert_eq!(gone(0, 0), [2, 1, 3, 4]);
    }

    proptest! {
        #[test]
        fn what_stays_is_within_the_bounds_and_no_more_goes_than_has_to(
            sizes in proptest::collection::vec((0..3_usize, 0..50_u64), 0..20),
            number in 0..20_usize,
            bytes in 0..500_u64,
        ) {
            let all: Vec<_> = (0_u128..).zip(&sizes).map(|(n, (org, size))| kept(n, ["a", "b", "c"][*org], *size)).collect();
            let mut stays = all.clone();
            let gone = over(&mut stays, Bounds { each: 0, number, bytes });
            let sum: u64 = stays.iter().map(|k| k.bytes).sum();
            prop_assert!(stays.len() <= number && sum <= bytes);
            prop_assert_eq!(stays.len() + gone.len(), all.len());
            prop_assert!(stays.is_sorted_by_key(|k| k.id));
            // The last that went was one too many.
            if let Some(last) = gone.last() {
                prop_assert!(stays.len() + 1 > number || sum + last.bytes > bytes);
            }
        }
    }
}
