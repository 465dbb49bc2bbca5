//! The room on this machine: how much memory and how many replicas, and who has it.
//!
//! A ledger of all replicas of all apps. Running ones count with their memory limit, frozen ones
//! with what they were measured to keep, prepared ones with nothing. When it is full, frozen
//! replicas are told to go, and apps wait in a queue whose order `model::capacity` decides: max-min
//! fair among organizations. Those whose turn it is are woken when room is given back, and take it
//! themselves; until they do, nobody behind them gets it.
//!
//! A leaf: taken under a deployment's mutex, its own short mutex calls nothing but `Notify`.

mod book;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::book::{Entry, Inner, Purpose, Use, Waiting};
use super::{load::Orgs, suspensions::Suspensions};
use crate::model::{
    AppId, Failure,
    capacity::{self, Amount, Claim, Limits, Share, Verdict},
};

/// Bounds over all apps.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes of memory; 0 = what the engine's host has.
    pub memory: u64,
    /// Most of it that one organization may have.
    pub memory_per_org: Share,
    /// Most replicas that run; 0 = no bound.
    pub replicas: u32,
    /// Most of them that one organization may have.
    pub replicas_per_org: Share,
    /// Most bytes that frozen replicas keep.
    pub standby_memory: u64,
}

/// Whether a replica would find room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Now.
    Room,
    /// Once frozen ones have gone, which are told to when it is asked for.
    AfterFrozen,
    /// Not before something ends.
    None,
}

/// Who asks for room, and for how much.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) app: &'a AppId,
    /// Hears when it is the app's turn.
    pub(super) wake: &'a Arc<Notify>,
    /// The replica's memory limit.
    pub(super) bytes: u64,
}

/// The ledger.
pub(super) struct Ledger {
    bounds: Bounds,
    inner: Mutex<Inner>,
    /// The requests of the organizations.
    pub(super) orgs: Orgs,
    /// The apps that may not run.
    pub(super) suspended: Suspensions,
}

impl Ledger {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inner: Mutex::default(),
            orgs: Orgs::default(),
            suspended: Suspensions::default(),
        })
    }

    pub(super) fn set_host_memory(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.host_memory, bytes) != bytes {
            self.freed(&mut inner);
        }
    }

    /// Room for one more replica that runs. Without it the app is in the queue while it keeps `place`.
    ///
    /// # Errors
    /// NO_ROOM with who has it. Frozen replicas have been told to go, where that helps.
    pub(super) fn take(
        self: &Arc<Self>,
        ask: Ask<'_>,
        place: &mut Option<Place>,
    ) -> Result<Room, Failure> {
        self.take_for(ask, Purpose::More, place)
    }

    fn take_for(
        self: &Arc<Self>,
        ask: Ask<'_>,
        purpose: Purpose,
        place: &mut Option<Place>,
    ) -> Result<Room, Failure> {
        let room = {
            let mut inner = self.inner.lock();
            self.claim(&mut inner, ask, purpose, place)?;
            let room = self.enter(&mut inner, ask, false);
            self.wake_next(&mut inner);
            room
        };
        *place = None;
        Ok(room)
    }

    /// As [`Self::take`], over the bounds if need be: for what runs already.
    pub(super) fn take_anyway(self: &Arc<Self>, ask: Ask<'_>) -> Room {
        self.enter(&mut self.inner.lock(), ask, false)
    }

    /// As [`Self::take`], over the bounds if need be, for what takes over from a replica of its app
    /// that runs. Past the share of its organization one at a time, or an organization could have
    /// twice its share by publishing all its apps at once.
    ///
    /// # Errors
    /// As [`Self::take`], while another one of its organization does so.
    pub(super) fn take_over(
        self: &Arc<Self>,
        ask: Ask<'_>,
        place: &mut Option<Place>,
    ) -> Result<Room, Failure> {
        let room = {
            let mut inner = self.inner.lock();
            let org = &ask.app.org;
            let after = inner.held.of(org).plus(Use::Running.amount(ask.bytes));
            let over = !after.less(self.limits(&inner).org).is_none();
            let may = !over || !inner.takes_over(org);
            may.then(|| self.enter(&mut inner, ask, over))
        };
        let Some(room) = room else {
            return self.take_for(ask, Purpose::TakeOver, place);
        };
        *place = None;
        Ok(room)
    }

    /// What a replica of this size would find. When that is nothing and the app is not in the
    /// queue, it hears when there may be some.
    pub(super) fn outlook(&self, ask: Ask<'_>, place: Option<&Place>) -> Outlook {
        let mut inner = self.inner.lock();
        let mut claims = inner.claims();
        let ticket = place.map_or(u64::MAX, |p| p.ticket);
        if place.is_none() {
            claims.push(Claim {
                ticket,
                org: &ask.app.org,
                wanted: Use::Running.amount(ask.bytes),
                held: Amount::default(),
                gathers: false,
            });
        }
        let verdicts = capacity::decide(self.limits(&inner), &inner.held, &claims);
        let waiting = inner.waiting.get(&ticket);
        let purpose = waiting.map_or(Purpose::More, |w| w.purpose);
        match find(&verdicts, ticket) {
            Verdict::Granted => Outlook::Room,
            verdict if inner.frozen_suffice(verdict, &ask.app.org, purpose) => Outlook::AfterFrozen,
            _ => {
                let me = Arc::downgrade(ask.wake);
                if place.is_none() && !inner.watching.iter().any(|w| w.ptr_eq(&me)) {
                    inner.watching.push(me);
                }
                Outlook::None
            }
        }
    }

    fn enter(self: &Arc<Self>, inner: &mut Inner, ask: Ask<'_>, over: bool) -> Room {
        let key = inner.number();
        inner.count(&ask.app.org, Use::Running, ask.bytes);
        let evict = Arc::new(AtomicBool::new(false));
        inner.entries.insert(
            key,
            Entry {
                app: ask.app.clone(),
                wake: Arc::downgrade(ask.wake),
                bytes: ask.bytes,
                kind: Use::Running,
                used: key,
                evict: evict.clone(),
                over,
            },
        );
        Room {
            ledger: self.clone(),
            key,
            evict,
        }
    }

    fn limits(&self, inner: &Inner) -> Limits {
        let machine = Amount {
            memory: match (self.bounds.memory, inner.host_memory) {
                (0, 0) => u64::MAX,
                (0, host) => host,
                (set, _) => set,
            },
            replicas: match self.bounds.replicas {
                0 => u64::MAX,
                n => n.into(),
            },
        };
        // Where an organization may have everything, the machine's bound is the only one.
        let part = |share: Share, all| match share.of(all) {
            part if part < all => part,
            _ => u64::MAX,
        };
        let org = Amount {
            memory: part(self.bounds.memory_per_org, machine.memory),
            replicas: part(self.bounds.replicas_per_org, machine.replicas),
        };
        Limits { machine, org }
    }

    /// Whether it is the turn of whoever asks; otherwise they are in the queue from here on.
    fn claim(
        self: &Arc<Self>,
        inner: &mut Inner,
        ask: Ask<'_>,
        purpose: Purpose,
        place: &mut Option<Place>,
    ) -> Result<(), Failure> {
        let place = place.get_or_insert_with(|| Place {
            ledger: self.clone(),
            ticket: inner.number(),
        });
        let ticket = place.ticket;
        let gathers = inner.waiting.get(&ticket).is_none_or(|w| w.gathers);
        let waiting = Waiting {
            app: ask.app.clone(),
            wake: Arc::downgrade(ask.wake),
            bytes: ask.bytes,
            purpose,
            gathers,
            woken: false,
        };
        inner.waiting.insert(ticket, waiting);
        let limits = self.limits(inner);
        let verdict = find(
            &capacity::decide(limits, &inner.held, &inner.claims()),
            ticket,
        );
        if verdict == Verdict::Granted {
            inner.waiting.remove(&ticket);
            return Ok(());
        }
        inner.evict_for(verdict, &ask.app.org, purpose);
        Err(report::no_room(inner, limits, ask, verdict))
    }

    /// Something was given back.
    fn freed(&self, inner: &mut Inner) {
        self.wake_next(inner);
        for wake in inner.watching.drain(..) {
            if let Some(wake) = wake.upgrade() {
                wake.notify_one();
            }
        }
    }

    /// Wakes those whose turn it is, and has frozen replicas go for the first of the others.
    fn wake_next(&self, inner: &mut Inner) {
        if inner.waiting.is_empty() {
            return;
        }
        let verdicts = capacity::decide(self.limits(inner), &inner.held, &inner.claims());
        let (mut machine, mut orgs) = (false, BTreeSet::new());
        for (ticket, verdict) in verdicts {
            let Some(waiting) = inner.waiting.get(&ticket) else {
                continue;
            };
            let org = &waiting.app.org;
            let takes_over = waiting.purpose == Purpose::TakeOver && !inner.takes_over(org);
            match verdict {
                Verdict::Granted => inner.wake(ticket),
                Verdict::OverShare(_) if takes_over => inner.wake(ticket),
                Verdict::Short(_) if !machine => {
                    machine = inner.evict_for(verdict, org, waiting.purpose);
                }
                Verdict::OverShare(_) if !orgs.contains(org) => {
                    if inner.evict_for(verdict, org, waiting.purpose) {
                        orgs.insert(org.clone());
                    }
                }
                Verdict::OverShare(_) | Verdict::Short(_) | Verdict::Kept => {}
            }
        }
    }
}

/// The verdict on one of the claims.
fn find(verdicts: &[(u64, Verdict)], ticket: u64) -> Verdict {
    let found = verdicts.iter().find(|(t, _)| *t == ticket);
    found.map_or(Verdict::Kept, |(_, verdict)| *verdict)
}

/// A place in the queue, left when it is dropped.
pub(super) struct Place {
    ledger: Arc<Ledger>,
    ticket: u64,
}

impl Place {
    /// It has waited for so long that what is free goes to whoever can use it.
    pub(super) fn stop_gathering(&self) {
        let mut inner = self.ledger.inner.lock();
        let waiting = inner.waiting.get_mut(&self.ticket);
        if waiting.is_some_and(|w| std::mem::replace(&mut w.gathers, false)) {
            self.ledger.wake_next(&mut inner);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.ledger.inner.lock();
        if inner.waiting.remove(&self.ticket).is_some() {
            self.ledger.wake_next(&mut inner);
        }
    }
}

/// The room of one replica, given back when it is dropped.
pub(super) struct Room {
    ledger: Arc<Ledger>,
    key: u64,
    evict: Arc<AtomicBool>,
}

impl Room {
    /// It is going to run again.
    ///
    /// # Errors
    /// As [`Ledger::take`]; it stays what it is then.
    pub(super) fn run(&self, ask: Ask<'_>, place: &mut Option<Place>) -> Result<(), Failure> {
        {
            let mut inner = self.ledger.inner.lock();
            let again = Purpose::Again(self.key);
            self.ledger.claim(&mut inner, ask, again, place)?;
            self.turn(&mut inner, Use::Running, ask.bytes);
            self.ledger.wake_next(&mut inner);
        }
        *place = None;
        Ok(())
    }

    /// It is frozen and keeps so much memory.
    pub(super) fn freeze(&self, bytes: u64) {
        let mut inner = self.ledger.inner.lock();
        self.turn(&mut inner, Use::Frozen, bytes);
        let over = inner
            .frozen
            .saturating_sub(self.ledger.bounds.standby_memory);
        if over > 0 {
            inner.evict(over, None, None);
        }
        self.ledger.freed(&mut inner);
    }

    /// Its process is gone.
    pub(super) fn prepare(&self) {
        let mut inner = self.ledger.inner.lock();
        self.turn(&mut inner, Use::Prepared, 0);
        self.ledger.freed(&mut inner);
    }

    /// Its memory is needed elsewhere.
    pub(super) fn must_go(&self) -> bool {
        self.evict.load(Ordering::Acquire)
    }

    fn turn(&self, inner: &mut Inner, kind: Use, bytes: u64) {
        let used = inner.number();
        let Some(entry) = inner.entries.get_mut(&self.key) else {
            return;
        };
        let (before, was, org) = (entry.kind, entry.bytes, entry.app.org.clone());
        (entry.kind, entry.bytes, entry.used) = (kind, bytes, used);
        entry.over = false;
        entry.evict.store(false, Ordering::Release);
        inner.discount(&org, before, was);
        inner.count(&org, kind, bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut inner = self.ledger.inner.lock();
        if let Some(entry) = inner.entries.remove(&self.key) {
            inner.discount(&entry.app.org, entry.kind, entry.bytes);
        }
        self.ledger.freed(&mut inner);
    }
}
