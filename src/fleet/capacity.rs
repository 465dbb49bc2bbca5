//! The capacity of this machine: how much memory and how many replicas, and who has it.
//!
//! One account covers all replicas of all apps. Running replicas count with their memory limit,
//! frozen ones with the memory they were measured to keep, prepared ones with nothing. When the
//! machine is full, frozen replicas are evicted and apps wait in a queue whose order
//! `model::capacity` decides: max-min fair among organizations. Capacity that is given back wakes
//! the apps whose turn it is, and they take it themselves; until they do, nobody behind them gets
//! it.
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

use self::book::{Entry, Inner, Purpose, Residency, Waiting};
use super::{in_flight::InFlightByOrg, suspensions::Suspensions};
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

/// What replicas hold of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Bytes of memory.
    pub memory: u64,
    /// The most that they may hold.
    pub memory_budget: u64,
    /// Replicas that run.
    pub replicas: u64,
}

/// Whether there is capacity for a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Availability {
    /// Now.
    Now,
    /// Once frozen replicas are evicted, which [`Capacity::take`] starts.
    AfterEviction,
    /// Not before something ends.
    Unavailable,
}

/// A request for the capacity of one replica.
#[derive(Clone, Copy)]
pub(super) struct CapacityRequest<'a> {
    pub(super) app: &'a AppId,
    /// Notified when it is the app's turn.
    pub(super) wake: &'a Arc<Notify>,
    /// The replica's memory limit.
    pub(super) bytes: u64,
}

/// The account of the machine's capacity and who holds it.
pub(super) struct Capacity {
    bounds: Bounds,
    inner: Mutex<Inner>,
    /// The requests of the organizations.
    pub(super) in_flight: InFlightByOrg,
    /// The apps that may not run.
    pub(super) suspended: Suspensions,
}

impl Capacity {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inner: Mutex::default(),
            in_flight: InFlightByOrg::default(),
            suspended: Suspensions::default(),
        })
    }

    pub(super) fn held(&self) -> Held {
        let inner = self.inner.lock();
        Held {
            memory: inner.held.total.memory,
            memory_budget: self.limits(&inner).machine.memory,
            replicas: inner.held.total.replicas,
        }
    }

    pub(super) fn set_host_memory(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.host_memory, bytes) != bytes {
            self.freed(&mut inner);
        }
    }

    /// Takes the capacity of one more running replica. Without success the app is in the queue
    /// while it keeps `position`.
    ///
    /// # Errors
    /// NO_ROOM, naming who holds the capacity. Where evicting frozen replicas helps, they have been
    /// asked to leave.
    pub(super) fn take(
        self: &Arc<Self>,
        request: CapacityRequest<'_>,
        position: &mut Option<QueuePosition>,
    ) -> Result<Reservation, Failure> {
        self.take_for(request, Purpose::More, position)
    }

    fn take_for(
        self: &Arc<Self>,
        request: CapacityRequest<'_>,
        purpose: Purpose,
        position: &mut Option<QueuePosition>,
    ) -> Result<Reservation, Failure> {
        let reservation = {
            let mut inner = self.inner.lock();
            self.claim(&mut inner, request, purpose, position)?;
            let reservation = self.enter(&mut inner, request, false);
            self.wake_next(&mut inner);
            reservation
        };
        *position = None;
        Ok(reservation)
    }

    /// As [`Self::take`], over the bounds if need be: for a replica that runs already.
    pub(super) fn take_anyway(self: &Arc<Self>, request: CapacityRequest<'_>) -> Reservation {
        self.enter(&mut self.inner.lock(), request, false)
    }

    /// As [`Self::take`], over the bounds if need be, for a replica that takes over from a running
    /// one of its app. Past the share of its organization only one does so at a time, or an
    /// organization could have twice its share by publishing all its apps at once.
    ///
    /// # Errors
    /// As [`Self::take`], while another replica of the organization takes over.
    pub(super) fn take_over(
        self: &Arc<Self>,
        request: CapacityRequest<'_>,
        position: &mut Option<QueuePosition>,
    ) -> Result<Reservation, Failure> {
        let reservation = {
            let mut inner = self.inner.lock();
            let org = &request.app.org;
            let after = inner
                .held
                .of(org)
                .plus(Residency::Running.amount(request.bytes));
            let over = !after.less(self.limits(&inner).org).is_none();
            let may = !over || !inner.takes_over(org);
            may.then(|| self.enter(&mut inner, request, over))
        };
        let Some(reservation) = reservation else {
            return self.take_for(request, Purpose::TakeOver, position);
        };
        *position = None;
        Ok(reservation)
    }

    /// Whether there is capacity for a replica of this size. If there is none and the app is not in
    /// the queue, the app is notified when something is given back.
    pub(super) fn availability(
        &self,
        request: CapacityRequest<'_>,
        position: Option<&QueuePosition>,
    ) -> Availability {
        let mut inner = self.inner.lock();
        let mut claims = inner.claims();
        let ticket = position.map_or(u64::MAX, |p| p.ticket);
        if position.is_none() {
            claims.push(Claim {
                ticket,
                org: &request.app.org,
                wanted: Residency::Running.amount(request.bytes),
                held: Amount::default(),
                gathers: false,
            });
        }
        let verdicts = capacity::decide(self.limits(&inner), &inner.held, &claims);
        let waiting = inner.waiting.get(&ticket);
        let purpose = waiting.map_or(Purpose::More, |w| w.purpose);
        match find(&verdicts, ticket) {
            Verdict::Granted => Availability::Now,
            verdict if inner.frozen_suffice(verdict, &request.app.org, purpose) => {
                Availability::AfterEviction
            }
            _ => {
                let me = Arc::downgrade(request.wake);
                if position.is_none() && !inner.watching.iter().any(|w| w.ptr_eq(&me)) {
                    inner.watching.push(me);
                }
                Availability::Unavailable
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        inner: &mut Inner,
        request: CapacityRequest<'_>,
        over: bool,
    ) -> Reservation {
        let key = inner.number();
        inner.count(&request.app.org, Residency::Running, request.bytes);
        let evict = Arc::new(AtomicBool::new(false));
        inner.entries.insert(
            key,
            Entry {
                app: request.app.clone(),
                wake: Arc::downgrade(request.wake),
                bytes: request.bytes,
                kind: Residency::Running,
                used: key,
                evict: evict.clone(),
                over,
            },
        );
        Reservation {
            capacity: self.clone(),
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
        // If an organization may have everything, the machine's bound is the only one.
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

    /// Claims capacity; unless it is the app's turn, the app is in the queue from here on.
    fn claim(
        self: &Arc<Self>,
        inner: &mut Inner,
        request: CapacityRequest<'_>,
        purpose: Purpose,
        position: &mut Option<QueuePosition>,
    ) -> Result<(), Failure> {
        let position = position.get_or_insert_with(|| QueuePosition {
            capacity: self.clone(),
            ticket: inner.number(),
        });
        let ticket = position.ticket;
        let gathers = inner.waiting.get(&ticket).is_none_or(|w| w.gathers);
        let waiting = Waiting {
            app: request.app.clone(),
            wake: Arc::downgrade(request.wake),
            bytes: request.bytes,
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
        inner.evict_for(verdict, &request.app.org, purpose);
        Err(report::no_room(inner, limits, request, verdict))
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

    /// Wakes the apps whose turn it is, and evicts frozen replicas for the first of the others.
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

/// A position in the queue, given up when it is dropped.
pub(super) struct QueuePosition {
    capacity: Arc<Capacity>,
    ticket: u64,
}

impl QueuePosition {
    /// Stops keeping free capacity for this position: it has waited for too long, and apps behind
    /// it can use what is too little for it.
    pub(super) fn stop_gathering(&self) {
        let mut inner = self.capacity.inner.lock();
        let waiting = inner.waiting.get_mut(&self.ticket);
        if waiting.is_some_and(|w| std::mem::replace(&mut w.gathers, false)) {
            self.capacity.wake_next(&mut inner);
        }
    }
}

impl Drop for QueuePosition {
    fn drop(&mut self) {
        let mut inner = self.capacity.inner.lock();
        if inner.waiting.remove(&self.ticket).is_some() {
            self.capacity.wake_next(&mut inner);
        }
    }
}

/// The capacity that one replica holds, given back when it is dropped.
pub(super) struct Reservation {
    capacity: Arc<Capacity>,
    key: u64,
    evict: Arc<AtomicBool>,
}

impl Reservation {
    /// Claims the capacity to run again, for a replica in standby.
    ///
    /// # Errors
    /// As [`Capacity::take`]; the reservation is unchanged then.
    pub(super) fn run(
        &self,
        request: CapacityRequest<'_>,
        position: &mut Option<QueuePosition>,
    ) -> Result<(), Failure> {
        {
            let mut inner = self.capacity.inner.lock();
            let again = Purpose::Again(self.key);
            self.capacity.claim(&mut inner, request, again, position)?;
            self.turn(&mut inner, Residency::Running, request.bytes);
            self.capacity.wake_next(&mut inner);
        }
        *position = None;
        Ok(())
    }

    /// Records that the replica is frozen and keeps `bytes` of memory; an unknown amount counts as
    /// it did while the replica ran, which is its limit. Returns how much counts.
    pub(super) fn freeze(&self, bytes: Option<u64>) -> u64 {
        let mut inner = self.capacity.inner.lock();
        let running = inner.entries.get(&self.key).map(|entry| entry.bytes);
        let bytes = bytes.or(running).unwrap_or_default();
        self.turn(&mut inner, Residency::Frozen, bytes);
        let over = inner
            .frozen
            .saturating_sub(self.capacity.bounds.standby_memory);
        if over > 0 {
            inner.evict(over, None, None);
        }
        self.capacity.freed(&mut inner);
        bytes
    }

    /// Records that the replica's process is gone.
    pub(super) fn prepare(&self) {
        let mut inner = self.capacity.inner.lock();
        self.turn(&mut inner, Residency::Prepared, 0);
        self.capacity.freed(&mut inner);
    }

    /// Whether the frozen replica is asked to leave, since its memory is needed elsewhere.
    pub(super) fn must_go(&self) -> bool {
        self.evict.load(Ordering::Acquire)
    }

    fn turn(&self, inner: &mut Inner, kind: Residency, bytes: u64) {
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

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut inner = self.capacity.inner.lock();
        if let Some(entry) = inner.entries.remove(&self.key) {
            inner.discount(&entry.app.org, entry.kind, entry.bytes);
        }
        self.capacity.freed(&mut inner);
    }
}
