//! Fair permits: max-min fair among organizations, and among the apps of one.
//!
//! A free permit goes to the waiting organization that holds the fewest, and within it to the app
//! that holds the fewest; among equals, to the first to ask. A cap per organization keeps some
//! permits free of any single one, so that a newcomer need not wait for another's work to end.
//! Executions, builds, test runs and the parsing of what organizations send use this.

use std::collections::{BTreeMap, BTreeSet};

use super::id::{AppId, AppName, OrgName};

/// One request for a permit; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The most permits of one organization when the operator sets none: `usual`, but never all of two
/// or more, and at least one.
pub fn cap(total: usize, usual: usize) -> usize {
    usual.min(total.saturating_sub(1)).max(1)
}

/// The organization whose newest entry leaves a full queue to admit one more of `asking`: the one
/// with the most waiting entries, if it then still has at least as many as `asking`. So an
/// organization with few entries gets in, no entry leaves for an organization with as many, and
/// two organizations cannot displace each other in turn.
pub fn displaced<'a>(
    waiting: &'a BTreeMap<OrgName, usize>,
    asking: &OrgName,
) -> Option<&'a OrgName> {
    let has = waiting.get(asking).copied().unwrap_or(0);
    let (org, most) = waiting.iter().max_by_key(|(_, waiting)| **waiting)?;
    (*most >= has + 2).then_some(org)
}

/// The free permits, the holders of the others, and the waiting requests.
#[derive(Debug)]
pub struct Shares {
    free: usize,
    per_org: usize,
    next_ticket: u64,
    orgs: BTreeMap<OrgName, Org>,
}

#[derive(Debug, Default)]
struct Org {
    granted: usize,
    apps: BTreeMap<AppName, App>,
}

#[derive(Debug, Default)]
struct App {
    granted: usize,
    waiting: BTreeSet<Ticket>,
}

impl Shares {
    /// `total` permits, of which one organization gets at most `per_org`; both at least one.
    pub fn new(total: usize, per_org: usize) -> Self {
        Self {
            free: total,
            per_org,
            next_ticket: 0,
            orgs: BTreeMap::new(),
        }
    }

    /// Queues a request for a permit; [`grant`](Self::grant) answers it.
    pub fn enqueue(&mut self, app: &AppId) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let org = self.orgs.entry(app.org.clone()).or_default();
        let of_app = org.apps.entry(app.name.clone()).or_default();
        of_app.waiting.insert(ticket);
        ticket
    }

    /// Withdraws a request; does nothing if it was granted.
    pub fn withdraw(&mut self, app: &AppId, ticket: Ticket) {
        if let Some(of_app) = self.app(app) {
            of_app.waiting.remove(&ticket);
        }
        self.forget(app);
    }

    /// Grants a free permit to the next eligible request; call it until it returns `None`.
    pub fn grant(&mut self) -> Option<(AppId, Ticket)> {
        if self.free == 0 {
            return None;
        }
        let per_org = self.per_org;
        let may = self
            .orgs
            .iter_mut()
            .filter(|(_, org)| org.granted < per_org);
        let (_, _, name, org) = may
            .filter_map(|(name, org)| {
                // Among organizations with equally many the first to ask wins, within one the least
                // busy app.
                let asking = org.apps.values().filter_map(|a| a.waiting.first());
                let first = *asking.min()?;
                Some((org.granted, first, name, org))
            })
            .min_by_key(|(has, first, ..)| (*has, *first))?;
        let asking = org.apps.iter_mut().filter(|(_, a)| !a.waiting.is_empty());
        let (app_name, app) =
            asking.min_by_key(|(_, a)| (a.granted, a.waiting.first().copied()))?;
        let ticket = app.waiting.pop_first()?;
        app.granted += 1;
        let id = AppId {
            org: name.clone(),
            name: app_name.clone(),
        };
        org.granted += 1;
        self.free -= 1;
        Some((id, ticket))
    }

    /// Takes a granted permit back.
    pub fn give_back(&mut self, app: &AppId) {
        let Some(of_app) = self.app(app).filter(|a| a.granted > 0) else {
            return;
        };
        of_app.granted -= 1;
        if let Some(org) = self.orgs.get_mut(&app.org) {
            org.granted -= 1;
        }
        self.free += 1;
        self.forget(app);
    }

    /// Whether a request of this organization would have to wait now.
    pub fn is_full_for(&self, org: &OrgName) -> bool {
        self.free == 0
            || self
                .orgs
                .get(org)
                .is_some_and(|o| o.granted >= self.per_org)
    }

    fn app(&mut self, app: &AppId) -> Option<&mut App> {
        self.orgs.get_mut(&app.org)?.apps.get_mut(&app.name)
    }

    /// Drops the entries of an app and an organization that hold nothing and wait for nothing.
    fn forget(&mut self, app: &AppId) {
        let Some(org) = self.orgs.get_mut(&app.org) else {
            return;
        };
        let idle = |a: &App| a.granted == 0 && a.waiting.is_empty();
        if org.apps.get(&app.name).is_some_and(idle) {
            org.apps.remove(&app.name);
        }
        if org.apps.is_empty() {
            self.orgs.remove(&app.org);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn app(org: usize, name: usize) -> AppId {
        format!("org{org}/app{name}").parse().unwrap()
    }

    fn all(shares: &mut Shares) -> Vec<AppId> {
        std::iter::from_fn(|| shares.grant()).map(|g| g.0).collect()
    }

    #[test]
    fn eight_apps_of_one_organization_leave_the_next_places_to_others() {
        let mut shares = Shares::new(8, cap(8, 6));
        for name in 0..8 {
            for _ in 0..4 {
                shares.enqueue(&app(0, name));
            }
        }
        let taken = all(&mut shares);
        assert_eq!(taken, (0..6).map(|n| app(0, n)).collect::<Vec<_>>());
        assert!(shares.is_full_for(&app(0, 0).org) && !shares.is_full_for(&app(1, 0).org));

        // The newcomer finds free permits, then gets each one that is returned until both have as
        // many.
        for _ in 0..6 {
            shares.enqueue(&app(1, 0));
        }
        assert_eq!(all(&mut shares), [app(1, 0), app(1, 0)]);
        for name in 0..2 {
            shares.give_back(&app(0, name));
            assert_eq!(all(&mut shares), [app(1, 0)]);
        }
        shares.give_back(&app(0, 2));
        // Three against four: the one with three wins, and of its apps the one with none.
        assert_eq!(all(&mut shares), [app(0, 0)]);
    }

    #[test]
    fn a_cap_leaves_one_place_and_is_at_least_one() {
        let caps = [(1, 9), (2, 9), (4, 9), (4, 2), (4, 0)].map(|(total, usual)| cap(total, usual));
        assert_eq!(caps, [1, 1, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn a_full_queue_takes_whoever_has_fewest_and_comes_to_rest(
            places in 1usize..12,
            steps in prop::collection::vec((0usize..6, any::<bool>()), 1..120),
        ) {
            let mut queue: BTreeMap<OrgName, usize> = BTreeMap::new();
            for (org, leaves) in steps {
                let org = app(org, 0).org;
                let has = queue.get(&org).copied().unwrap_or(0);
                if leaves {
                    queue.entry(org).and_modify(|n| *n = n.saturating_sub(1));
                    continue;
                }
                let most = queue.values().copied().max().unwrap_or(0);
                let squares = |q: &BTreeMap<OrgName, usize>| q.values().map(|n| n * n).sum::<usize>();
                if queue.values().sum::<usize>() == places {
                    let before = squares(&queue);
                    let Some(from) = displaced(&queue, &org).cloned() else {
                        prop_assert!(has + 1 >= most, "{org} has fewer than others and is refused");
                        continue;
                    };
                    prop_assert!(from != org && queue[&from] == most);
                    queue.entry(from.clone()).and_modify(|n| *n -= 1);
                    prop_assert!(queue[&from] > has, "it has less than who displaced it had");
                    queue.insert(org, has + 1);
                    // So no sequence of displacements forms a circle.
                    prop_assert!(squares(&queue) < before);
                } else {
                    queue.insert(org, has + 1);
                }
                prop_assert!(queue.values().sum::<usize>() <= places);
            }
        }

        #[test]
        fn places_are_bounded_shared_evenly_and_never_idle(
            total in 1usize..6,
            per_org in 1usize..6,
            steps in prop::collection::vec((0u8..3, 0usize..3, 0usize..3), 1..120),
        ) {
            let mut shares = Shares::new(total, per_org);
            let mut waiting: Vec<(AppId, Ticket)> = Vec::new();
            let mut held: Vec<AppId> = Vec::new();
            let has = |held: &[AppId], org: &OrgName| held.iter().filter(|a| a.org == *org).count();
            for (what, org, name) in steps {
                match what {
                    0 => {
                        let id = app(org, name);
                        waiting.push((id.clone(), shares.enqueue(&id)));
                    }
                    1 if !held.is_empty() => {
                        let id = held.swap_remove((org * 3 + name) % held.len());
                        shares.give_back(&id);
                    }
                    2 if !waiting.is_empty() => {
                        let (id, ticket) = waiting.swap_remove((org * 3 + name) % waiting.len());
                        shares.withdraw(&id, ticket);
                    }
                    _ => {}
                }
                while let Some((id, ticket)) = shares.grant() {
                    let before = has(&held, &id.org);
                    let of_app = held.iter().filter(|a| **a == id).count();
                    for (other, _) in &waiting {
                        let theirs = has(&held, &other.org);
                        prop_assert!(theirs >= before.min(per_org), "{other} has less than {id}");
                        if other.org == id.org {
                            prop_assert!(held.iter().filter(|a| *a == other).count() >= of_app);
                        }
                    }
                    let at = waiting.iter().position(|w| *w == (id.clone(), ticket));
                    prop_assert!(at.is_some(), "granted to one who does not wait");
                    waiting.remove(at.unwrap());
                    held.push(id);
                    prop_assert!(held.len() <= total);
                    prop_assert!(before < per_org);
                }
                // A permit stays free only if nobody waiting may have it.
                for (id, _) in &waiting {
                    prop_assert!(held.len() == total || has(&held, &id.org) >= per_org);
                }
            }
            held.iter().for_each(|id| shares.give_back(id));
            waiting.iter().for_each(|(id, ticket)| shares.withdraw(id, *ticket));
            prop_assert!(shares.orgs.is_empty() && shares.free == total);
        }
    }
}
