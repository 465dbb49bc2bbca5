//! Counts the use of a bounded resource, in total and per holder.

use std::{collections::HashMap, hash::Hash};

/// The bounds on a resource, in units of the resource.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Most for all holders together.
    pub all: usize,
    /// Most for each holder.
    pub each: usize,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The bound on all holders together.
    All,
    /// The bound on the requesting holder.
    Each,
}

/// The use by holder. Callers release what they acquired in a guard's `drop`.
#[derive(Debug)]
pub struct Usage<K> {
    all: usize,
    /// Only holders with a use above 0.
    each: HashMap<K, usize>,
}

impl<K> Default for Usage<K> {
    fn default() -> Self {
        Self {
            all: 0,
            each: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Usage<K> {
    /// The use by all holders.
    pub fn all(&self) -> usize {
        self.all
    }

    /// Acquires `amount` for a holder; `None` counts against the bound on all together only.
    ///
    /// # Errors
    /// The bound that `amount` would exceed; nothing is acquired.
    pub fn acquire(&mut self, holder: Option<&K>, amount: usize, quota: Quota) -> Result<(), Full> {
        let all = self.all.saturating_add(amount);
        if all > quota.all {
            return Err(Full::All);
        }
        if let Some(holder) = holder.filter(|_| amount > 0) {
            let theirs = self.each.get(holder).copied().unwrap_or(0);
            let theirs = theirs.saturating_add(amount);
            if theirs > quota.each {
                return Err(Full::Each);
            }
            // The key is cloned only for a holder's first use.
            match self.each.get_mut(holder) {
                Some(known) => *known = theirs,
                None => drop(self.each.insert(holder.clone(), theirs)),
            }
        }
        self.all = all;
        Ok(())
    }

    /// Releases what was acquired for the same holder.
    pub fn release(&mut self, holder: Option<&K>, amount: usize) {
        self.all -= amount;
        if let Some(holder) = holder
            && let Some(theirs) = self.each.get_mut(holder)
        {
            *theirs -= amount;
            if *theirs == 0 {
                self.each.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bound_is_exceeded_and_all_is_given_back(
            steps in proptest::collection::vec((0u8..3, 0usize..60, any::<bool>()), 1..60)
        ) {
            let quota = Quota { all: 100, each: 60 };
            let mut usage = Usage::default();
            let mut open = Vec::new();
            for (holder, amount, ends) in steps {
                let holder = Some(holder).filter(|n| *n > 0);
                if usage.acquire(holder.as_ref(), amount, quota).is_ok() {
                    open.push((holder, amount));
                }
                prop_assert!(usage.all() <= 100);
                prop_assert!(usage.each.values().all(|n| (1..=60).contains(n)));
                if ends && !open.is_empty() {
                    let (holder, amount) = open.swap_remove(0);
                    usage.release(holder.as_ref(), amount);
                }
            }
            for (holder, amount) in open {
                usage.release(holder.as_ref(), amount);
            }
            prop_assert_eq!(usage.all(), 0);
            prop_assert!(usage.each.is_empty());
        }
    }
}
