//! Counts how much of a bounded resource is taken, in all and by each holder.

use std::{collections::HashMap, hash::Hash};

/// The bounds on a resource.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Most for all holders together.
    pub all: usize,
    /// Most for each holder.
    pub each: usize,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The bound on all together.
    All,
    /// The bound on the holder that asked.
    Each,
}

/// What is taken, by holder. Callers give back what they took from a guard's `drop`.
#[derive(Debug)]
pub struct Tally<K> {
    all: usize,
    /// Only holders that have something.
    each: HashMap<K, usize>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self {
            all: 0,
            each: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Tally<K> {
    /// How much is taken in all.
    pub fn all(&self) -> usize {
        self.all
    }

    /// Takes `amount` for a holder; `None` counts against the bound on all together only.
    ///
    /// # Errors
    /// The bound that `amount` would exceed; nothing is taken.
    pub fn take(&mut self, whose: Option<&K>, amount: usize, most: Most) -> Result<(), Full> {
        let all = self.all.saturating_add(amount);
        if all > most.all {
            return Err(Full::All);
        }
        if let Some(whose) = whose.filter(|_| amount > 0) {
            let theirs = self.each.get(whose).copied().unwrap_or(0);
            let theirs = theirs.saturating_add(amount);
            if theirs > most.each {
                return Err(Full::Each);
            }
            // The key is cloned only for a holder's first.
            match self.each.get_mut(whose) {
                Some(known) => *known = theirs,
                None => drop(self.each.insert(whose.clone(), theirs)),
            }
        }
        self.all = all;
        Ok(())
    }

    /// Gives back what was taken for the same holder.
    pub fn give_back(&mut self, whose: Option<&K>, amount: usize) {
        self.all -= amount;
        if let Some(whose) = whose
            && let Some(theirs) = self.each.get_mut(whose)
        {
            *theirs -= amount;
            if *theirs == 0 {
                self.each.remove(whose);
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
            let most = Most { all: 100, each: 60 };
            let mut tally = Tally::default();
            let mut open = Vec::new();
            for (whose, amount, ends) in steps {
                let whose = Some(whose).filter(|n| *n > 0);
                if tally.take(whose.as_ref(), amount, most).is_ok() {
                    open.push((whose, amount));
                }
                prop_assert!(tally.all() <= 100);
                prop_assert!(tally.each.values().all(|n| (1..=60).contains(n)));
                if ends && !open.is_empty() {
                    let (whose, amount) = open.swap_remove(0);
                    tally.give_back(whose.as_ref(), amount);
                }
            }
            for (whose, amount) in open {
                tally.give_back(whose.as_ref(), amount);
            }
            prop_assert_eq!(tally.all(), 0);
            prop_assert!(tally.each.is_empty());
        }
    }
}
