//! What the mutex of the capacity guards: the holders and the queue.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::model::{
    AppId, OrgName,
    capacity::{self, Amount, Claim, Holdings, Verdict},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residency {
    /// It runs, or is on its way up or down.
    Running,
    Frozen,
    /// Created and not running.
    Prepared,
}

impl Residency {
    pub(super) fn amount(self, memory: u64) -> Amount {
        Amount {
            memory,
            replicas: u64::from(self == Residency::Running),
        }
    }
}

pub(super) struct Entry {
    pub(super) app: AppId,
    pub(super) wake: Weak<Notify>,
    pub(super) bytes: u64,
    pub(super) kind: Residency,
    /// Orders entries by last use: larger is more recent.
    pub(super) used: u64,
    pub(super) evict: Arc<AtomicBool>,
    /// It took its organization over its share in order to take over from another replica of its
    /// app.
    pub(super) over: bool,
}

impl Entry {
    fn amount(&self) -> Amount {
        self.kind.amount(self.bytes)
    }
}

/// What a replica is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One more replica.
    More,
    /// The replica with this key, in standby until now, runs again.
    Again(u64),
    /// A new replica takes over from a running one.
    TakeOver,
}

impl Purpose {
    /// The replica that exists already.
    fn own(self) -> Option<u64> {
        match self {
            Self::Again(key) => Some(key),
            Self::More | Self::TakeOver => None,
        }
    }
}

/// An app in the queue.
pub(super) struct Waiting {
    pub(super) app: AppId,
    pub(super) wake: Weak<Notify>,
    pub(super) bytes: u64,
    pub(super) purpose: Purpose,
    pub(super) gathers: bool,
    /// It was woken since its last unsuccessful claim.
    pub(super) woken: bool,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) next: u64,
    /// Sums over the entries, kept so that a start costs the same however many apps there are.
    pub(super) held: Holdings,
    pub(super) frozen: u64,
    /// What the engine's host has, once it is known.
    pub(super) host_memory: u64,
    /// The queue, by ticket.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Apps that refuse requests for want of capacity and are not in the queue; woken whenever
    /// something is given back.
    pub(super) watching: Vec<Weak<Notify>>,
}

impl Inner {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn count(&mut self, org: &OrgName, kind: Residency, bytes: u64) {
        self.held.add(org, kind.amount(bytes));
        if kind == Residency::Frozen {
            self.frozen += bytes;
        }
    }

    pub(super) fn discount(&mut self, org: &OrgName, kind: Residency, bytes: u64) {
        self.held.remove(org, kind.amount(bytes));
        if kind == Residency::Frozen {
            self.frozen -= bytes;
        }
    }

    /// The claims in the queue, in the order of their tickets.
    pub(super) fn claims(&self) -> Vec<Claim<'_>> {
        let mut claims = Vec::with_capacity(self.waiting.len() + 1);
        for (ticket, waiting) in &self.waiting {
            let own = waiting.purpose.own();
            let own = own.and_then(|key| self.entries.get(&key));
            claims.push(Claim {
                ticket: *ticket,
                org: &waiting.app.org,
                wanted: Residency::Running.amount(waiting.bytes),
                held: own.map_or_else(Amount::default, Entry::amount),
                gathers: waiting.gathers,
            });
        }
        claims
    }

    /// The frozen replicas of one organization, or of all, except `but`.
    fn frozen_of(
        &self,
        org: Option<&OrgName>,
        but: Option<u64>,
    ) -> impl Iterator<Item = (u64, &Entry)> {
        let all = self.entries.iter().map(|(key, entry)| (*key, entry));
        all.filter(move |(key, e)| {
            e.kind == Residency::Frozen
                && Some(*key) != but
                && org.is_none_or(|org| e.app.org == *org)
        })
    }

    /// Whether evicting frozen replicas would cover the shortage.
    pub(super) fn frozen_suffice(&self, verdict: Verdict, org: &OrgName, purpose: Purpose) -> bool {
        in_frozen(verdict, org).is_some_and(|(missing, of)| {
            let kept = self.frozen_of(of, purpose.own()).map(|(_, e)| e.bytes);
            missing <= self.frozen && missing <= kept.sum::<u64>()
        })
    }

    /// Evicts frozen replicas if that covers the shortage; whether it does. Evictions under way
    /// count.
    pub(super) fn evict_for(&self, verdict: Verdict, org: &OrgName, purpose: Purpose) -> bool {
        let suffices = self.frozen_suffice(verdict, org, purpose);
        if suffices && let Some((missing, of)) = in_frozen(verdict, org) {
            self.evict(missing, of, purpose.own());
        }
        suffices
    }

    /// Asks frozen replicas to leave until `bytes` are on their way back.
    pub(super) fn evict(&self, bytes: u64, org: Option<&OrgName>, but: Option<u64>) {
        let (leaving, rest): (Vec<_>, Vec<_>) = self
            .frozen_of(org, but)
            .partition(|(_, e)| e.evict.load(Ordering::Acquire));
        let on_their_way: u64 = leaving.iter().map(|(_, e)| e.bytes).sum();
        let rest = rest.into_iter().map(|(key, e)| capacity::Frozen {
            key,
            org: &e.app.org,
            memory: e.bytes,
            used: e.used,
        });
        for key in capacity::evictions(rest, bytes.saturating_sub(on_their_way)) {
            let entry = &self.entries[&key];
            entry.evict.store(true, Ordering::Release);
            if let Some(wake) = entry.wake.upgrade() {
                wake.notify_one();
            }
        }
    }

    /// Wakes an app in the queue, once until its next unsuccessful claim.
    pub(super) fn wake(&mut self, ticket: u64) {
        if let Some(waiting) = self.waiting.get_mut(&ticket)
            && !std::mem::replace(&mut waiting.woken, true)
            && let Some(wake) = waiting.wake.upgrade()
        {
            wake.notify_one();
        }
    }

    /// Whether a replica that took its organization over its share has not taken over yet.
    pub(super) fn takes_over(&self, org: &OrgName) -> bool {
        let others = |app: &AppId, key: u64| {
            let mut all = self.entries.iter();
            all.any(|(k, e)| *k != key && e.kind == Residency::Running && e.app == *app)
        };
        let mut over = self
            .entries
            .iter()
            .filter(|(_, e)| e.over && e.app.org == *org);
        over.any(|(key, e)| others(&e.app, *key))
    }
}

/// The memory that evicting frozen replicas has to free for a shortage, and whose: only the
/// organization's own where it would exceed its share, anyone's where the machine lacks memory.
/// `None` where replicas are short, since frozen ones do not count as running.
fn in_frozen(verdict: Verdict, org: &OrgName) -> Option<(u64, Option<&OrgName>)> {
    let memory = |missing: Amount| (missing.replicas == 0).then_some(missing.memory);
    match verdict {
        Verdict::OverShare(over) => Some((memory(over)?, Some(org))),
        Verdict::Short(short) => Some((memory(short)?, None)),
        Verdict::Granted | Verdict::Kept => None,
    }
}
