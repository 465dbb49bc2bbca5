//! Who gets a machine's memory and replicas when they run short: max-min fair among organizations.
//!
//! The organization that holds the least memory goes first, and within it the oldest claim. A share
//! bounds what one organization may hold. Later claims that fit pass a claim that does not fit yet,
//! unless one of them would give its organization more memory than that claim gives its own: so
//! memory that is freed in small pieces accumulates for the organization that has less.
//!
//! Pure functions of holdings and claims; the fleet applies their verdicts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::id::OrgName;

/// The share of a total that one organization may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    All,
    /// Three quarters, but never all of two or more, and at least one.
    ThreeQuarters,
    /// This amount, or the total if that is less.
    AtMost(u64),
}

impl Share {
    /// The share of a total, where [`u64::MAX`] sets no bound.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::All => total,
            Self::ThreeQuarters if total == u64::MAX => total,
            Self::ThreeQuarters => {
                let usual = total.div_ceil(4).saturating_mul(3);
                usual.min(total.saturating_sub(1)).max(1)
            }
            Self::AtMost(most) => most.min(total),
        }
    }
}

/// An amount of memory and replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Bytes of memory.
    pub memory: u64,
    /// Running replicas.
    pub replicas: u64,
}

impl Amount {
    /// The sum.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(more.memory),
            replicas: self.replicas.saturating_add(more.replicas),
        }
    }

    /// The difference, saturating at zero: what is left, or the excess over a limit.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            replicas: self.replicas.saturating_sub(other.replicas),
        }
    }

    /// Whether it is zero.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The bounds; [`u64::MAX`] sets none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all organizations together.
    pub machine: Amount,
    /// Of each organization.
    pub org: Amount,
}

/// The amounts that are held.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    /// By all organizations together.
    pub total: Amount,
    /// By each organization that holds something.
    pub orgs: BTreeMap<OrgName, Amount>,
}

impl Holdings {
    /// What one organization holds.
    pub fn of(&self, org: &OrgName) -> Amount {
        self.orgs.get(org).copied().unwrap_or_default()
    }

    /// Adds to what an organization holds.
    pub fn add(&mut self, org: &OrgName, amount: Amount) {
        if amount.is_none() {
            return;
        }
        self.total = self.total.plus(amount);
        match self.orgs.get_mut(org) {
            Some(held) => *held = held.plus(amount),
            None => drop(self.orgs.insert(org.clone(), amount)),
        }
    }

    /// Subtracts from what an organization holds.
    pub fn remove(&mut self, org: &OrgName, amount: Amount) {
        self.total = self.total.less(amount);
        if let Some(held) = self.orgs.get_mut(org) {
            *held = held.less(amount);
            if held.is_none() {
                self.orgs.remove(org);
            }
        }
    }
}

/// One request for a replica.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Its order among all claims: smaller tickets are older.
    pub ticket: u64,
    /// The organization that asks.
    pub org: &'a OrgName,
    /// The amount that the replica needs.
    pub wanted: Amount,
    /// The amount that it already holds and returns in exchange.
    pub held: Amount,
    /// Whether freed capacity is kept for it while it does not fit.
    pub gathers: bool,
}

/// The verdict on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is granted.
    Granted,
    /// Its organization would exceed its share by this much.
    OverShare(Amount),
    /// The machine lacks this much.
    Short(Amount),
    /// Free capacity is kept for an earlier claim.
    Kept,
}

/// The verdict on each claim, in the order in which they are served. `claims` are in the order of
/// their tickets.
pub fn decide(limits: Limits, held: &Holdings, claims: &[Claim<'_>]) -> Vec<(u64, Verdict)> {
    let mut total = held.total;
    let mut orgs: BTreeMap<&OrgName, (Amount, VecDeque<&Claim<'_>>)> = BTreeMap::new();
    for claim in claims {
        let of = orgs.entry(claim.org);
        let (_, queue) = of.or_insert_with(|| (held.of(claim.org), VecDeque::new()));
        queue.push_back(claim);
    }
    let first = orgs
        .iter()
        .filter_map(|(org, (has, queue))| Some((has.memory, queue.front()?.ticket, *org)));
    let mut next: BTreeSet<_> = first.collect();
    let mut verdicts = Vec::with_capacity(claims.len());
    // The least memory that an organization would have by a claim for which capacity is kept.
    let mut kept_for = u64::MAX;
    while let Some((_, _, org)) = next.pop_first() {
        let Some((has, queue)) = orgs.get_mut(org) else {
            continue;
        };
        let Some(claim) = queue.pop_front() else {
            continue;
        };
        let after = has.less(claim.held).plus(claim.wanted);
        let all = total.less(claim.held).plus(claim.wanted);
        let (over, short) = (after.less(limits.org), all.less(limits.machine));
        let verdict = if !over.is_none() {
            Verdict::OverShare(over)
        } else if after.memory > kept_for {
            Verdict::Kept
        } else if !short.is_none() {
            if claim.gathers {
                kept_for = after.memory;
            }
            let now = held.total.less(claim.held).plus(claim.wanted);
            match now.less(limits.machine) {
                // Only earlier claims are in its way.
                missing if missing.is_none() => Verdict::Kept,
                _ => Verdict::Short(short),
            }
        } else {
            (*has, total) = (after, all);
            Verdict::Granted
        };
        verdicts.push((claim.ticket, verdict));
        if let Some(later) = queue.front() {
            next.insert((has.memory, later.ticket, org));
        }
    }
    verdicts
}

/// A frozen replica.
#[derive(Debug, Clone, Copy)]
pub struct Frozen<'a> {
    /// Its identifier.
    pub key: u64,
    /// Its organization.
    pub org: &'a OrgName,
    /// Bytes of memory that it keeps.
    pub memory: u64,
    /// When it was last used; greater is later.
    pub used: u64,
}

/// Which frozen replicas to evict to free this many bytes: always the least recently used one of
/// the organization that keeps the most bytes at that point.
pub fn evictions<'a>(frozen: impl IntoIterator<Item = Frozen<'a>>, bytes: u64) -> Vec<u64> {
    let mut orgs: BTreeMap<&OrgName, (u64, Vec<Frozen<'a>>)> = BTreeMap::new();
    for one in frozen {
        let (keeps, all) = orgs.entry(one.org).or_default();
        *keeps += one.memory;
        all.push(one);
    }
    for (_, all) in orgs.values_mut() {
        all.sort_unstable_by_key(|one| std::cmp::Reverse(one.used));
    }
    let (mut gone, mut freed) = (Vec::new(), 0);
    while freed < bytes {
        let most = orgs.values_mut().filter(|(_, all)| !all.is_empty());
        let Some((keeps, all)) = most.max_by_key(|(keeps, all)| {
            // Among equals, the organization whose oldest was used the longest ago.
            (*keeps, all.last().map(|one| std::cmp::Reverse(one.used)))
        }) else {
            break;
        };
        if let Some(one) = all.pop() {
            *keeps -= one.memory;
            freed += one.memory;
            gone.push(one.key);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn org(n: usize) -> OrgName {
        format!("org{n}").parse().expect("valid")
    }

    fn amount(memory: u64, replicas: u64) -> Amount {
        Amount { memory, replicas }
    }

    fn claim(ticket: u64, org: &OrgName, memory: u64) -> Claim<'_> {
        Claim {
            ticket,
            org,
            wanted: amount(memory, 1),
            held: Amount::default(),
            gathers: true,
        }
    }

    #[test]
    fn a_share_leaves_something_to_others_and_is_at_least_one() {
        let of = |total| Share::ThreeQuarters.of(total);
        let shares = [1, 2, 3, 5, 8, 1000, u64::MAX].map(of);
        assert_eq!(shares, [1, 1, 2, 4, 6, 750, u64::MAX]);
        assert_eq!(
            (
                Share::All.of(7),
                Share::AtMost(9).of(7),
                Share::AtMost(3).of(7)
            ),
            (7, 7, 3)
        );
    }

    #[test]
    fn small_claims_of_those_who_have_more_do_not_starve_a_large_one() {
        let (a, b, c) = (org(0), org(1), org(2));
        let limits = Limits {
            machine: amount(100, u64::MAX),
            org: amount(75, u64::MAX),
        };
        let mut held = Holdings::default();
        held.add(&a, amount(70, 7));
        held.add(&c, amount(10, 1));
        // 20 are free. They are kept for the large claim, and only organizations with less pass it.
        let claims = [
            claim(1, &a, 5),
            claim(2, &b, 30),
            claim(3, &c, 10),
            claim(4, &a, 10),
        ];
        let verdicts = decide(limits, &held, &claims);
        let expected = [
            (2, Verdict::Short(amount(10, 0))),
            (3, Verdict::Granted),
            (1, Verdict::Kept),
            (4, Verdict::OverShare(amount(5, 0))),
        ];
        assert_eq!(verdicts, expected);
        // When it no longer gathers, nothing is kept for it.
        let mut impatient = claims;
        impatient[1].gathers = false;
        let verdicts = decide(limits, &held, &impatient);
        assert_eq!(verdicts[2], (1, Verdict::Granted));
        // It is granted first once it fits.
        held.remove(&a, amount(10, 1));
        assert_eq!(decide(limits, &held, &claims)[0], (2, Verdict::Granted));
    }

    #[test]
    fn the_organization_that_keeps_most_frozen_gives_first() {
        let (a, b) = (org(0), org(1));
        let frozen = |key, org, memory, used| Frozen {
            key,
            org,
            memory,
            used,
        };
        let all = [
            frozen(1, &a, 10, 1),
            frozen(2, &b, 20, 4),
            frozen(3, &b, 20, 3),
            frozen(4, &b, 5, 2),
        ];
        assert_eq!(evictions(all, 1), [4]);
        assert_eq!(evictions(all, 25), [4, 3]);
        // Then b keeps 20 against 10, and after that it is a's turn.
        assert_eq!(evictions(all, 46), [4, 3, 2, 1]);
        assert_eq!(evictions(all, 1000), [4, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn nobody_is_over_a_bound_nothing_is_idle_and_who_has_least_goes_first(
            machine in (1u64..40, 1u64..8),
            share in (1u64..40, 1u64..8),
            steps in prop::collection::vec((0u8..4, 0usize..3, 1u64..12), 1..80),
        ) {
            let limits = Limits {
                machine: amount(machine.0, machine.1),
                org: amount(share.0.min(machine.0), share.1.min(machine.1)),
            };
            let names = [org(0), org(1), org(2)];
            let mut held = Holdings::default();
            let mut running: Vec<(usize, u64)> = Vec::new();
            let mut waiting: Vec<(u64, usize, u64, bool)> = Vec::new();
            let mut asked = 0;
            for (what, who, n) in steps {
                match what {
                    0 | 1 => {
                        asked += 1;
                        waiting.push((asked, who, n, what == 0));
                    }
                    2 if !running.is_empty() => {
                        let (of, memory) = running.swap_remove(n as usize % running.len());
                        held.remove(&names[of], amount(memory, 1));
                    }
                    3 if !waiting.is_empty() => {
                        waiting.remove(n as usize % waiting.len());
                    }
                    _ => {}
                }
                // One at a time, as the drivers of apps apply them.
                loop {
                    let claims: Vec<_> = waiting
                        .iter()
                        .map(|&(ticket, of, memory, gathers)| Claim {
                            gathers,
                            ..claim(ticket, &names[of], memory)
                        })
                        .collect();
                    let verdicts = decide(limits, &held, &claims);
                    prop_assert_eq!(verdicts.len(), claims.len());
                    let fits = |&(_, of, memory, _): &(u64, usize, u64, bool)| {
                        let after = held.of(&names[of]).plus(amount(memory, 1));
                        let all = held.total.plus(amount(memory, 1));
                        after.less(limits.org).is_none() && all.less(limits.machine).is_none()
                    };
                    let has = |of: usize| held.of(&names[of]).memory;
                    let granted = verdicts.iter().find(|(_, v)| *v == Verdict::Granted);
                    let Some((ticket, _)) = granted else {
                        // Whoever fits waits for an organization that would have less and does not
                        // fit yet.
                        for c in waiting.iter().filter(|c| fits(c)) {
                            let less = |w: &&(u64, usize, u64, bool)| {
                                w.3 && !fits(w) && has(w.1) + w.2 < has(c.1) + c.2
                                    && has(w.1) + w.2 <= limits.org.memory
                            };
                            prop_assert!(waiting.iter().any(|w| less(&w)), "{c:?} fits and waits");
                        }
                        break;
                    };
                    let at = waiting.iter().position(|w| w.0 == *ticket).expect("it waits");
                    let this = waiting[at];
                    prop_assert!(fits(&this));
                    for other in waiting.iter().filter(|w| w.0 != this.0 && fits(w)) {
                        let before = (has(other.1), other.0) < (has(this.1), this.0);
                        let kept = waiting.iter().any(|w| w.3 && !fits(w)
                            && has(w.1) + w.2 < has(other.1) + other.2);
                        prop_assert!(!before || kept, "{other:?} has less than {this:?}");
                    }
                    waiting.remove(at);
                    held.add(&names[this.1], amount(this.2, 1));
                    running.push((this.1, this.2));
                    prop_assert!(held.total.less(limits.machine).is_none());
                    for name in &names {
                        prop_assert!(held.of(name).less(limits.org).is_none());
                    }
                }
            }
            for (of, memory) in running {
                held.remove(&names[of], amount(memory, 1));
            }
            prop_assert!(held.total.is_none() && held.orgs.is_empty());
        }
    }
}
