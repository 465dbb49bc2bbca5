//! Requests: to which replica each is sent, and why one waits or is refused.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{State, phase::Phase, slot::Slot};
use crate::{
    fleet::{
        ages::Mark,
        hold::{HoldPermit, Ticket},
        replica::Replica,
        send_while_resuming::Thaw,
    },
    model::{Failure, Reason},
};

/// A replica that one request may be sent to. It counts as in flight until it is given back to
/// [`State::release`].
#[must_use = "dropped, it counts as in flight for ever"]
pub(in crate::fleet) struct Grant {
    pub(in crate::fleet) replica: Arc<Replica>,
    pub(in crate::fleet) key: u64,
    /// The mark of the request's age.
    pub(in crate::fleet) age: Mark,
    /// The outcome of the replica's thaw, if it is being thawed.
    pub(in crate::fleet) thaw: Option<watch::Receiver<Thaw>>,
}

/// The outcome of a request's arrival.
pub(in crate::fleet) enum Arrival {
    /// It has a replica.
    Granted {
        grant: Grant,
        /// More replicas are wanted than are up: the driver must be woken.
        wants_more: bool,
    },
    /// It waits for one, and the driver must be woken.
    Held {
        ticket: Ticket,
        answer: oneshot::Receiver<Result<Grant, Failure>>,
    },
}

impl State {
    /// Accepts a request: it gets a replica, or enters the queue with `bytes` of its body in
    /// memory.
    ///
    /// # Errors
    /// The failure it is closed with, HOLD_QUEUE_FULL, or why starting fails.
    pub(in crate::fleet) fn arrive(
        &mut self,
        bytes: usize,
        now: Instant,
    ) -> Result<Arrival, Failure> {
        if let Some(why) = self.closed() {
            return Err(why.clone());
        }
        if let Some(grant) = self.claim(now) {
            self.autoscaler.arrived(now);
            let wants_more = self.sample(now);
            return Ok(Arrival::Granted { grant, wants_more });
        }
        let permit = self.admit(bytes, now)?;
        self.autoscaler.arrived(now);
        self.last_active = now;
        self.last_request = Some(now);
        self.rest_at = None;
        let (ticket, answer) = self.queue.push(bytes, permit);
        Ok(Arrival::Held { ticket, answer })
    }

    /// Permits one more request to be held.
    ///
    /// # Errors
    /// HOLD_QUEUE_FULL, or why starting fails.
    fn admit(&self, bytes: usize, now: Instant) -> Result<HoldPermit, Failure> {
        let app = &self.revision.app;
        if let Some(why) = self.capacity.suspended.of(app) {
            return Err(why);
        }
        if !self.has_ready() {
            let shortage = self.shortage.as_ref().and_then(|n| n.refused.clone());
            if let Some(why) = self.failures.refusal(now).or(shortage) {
                return Err(why);
            }
        }
        self.queue.admit(app, &self.config, bytes)
    }

    /// Takes a slot of the ready replica with the fewest requests and a free slot, if there is one;
    /// among equals of the most recently used, so that spare replicas become idle.
    fn claim(&mut self, now: Instant) -> Option<Grant> {
        let limit = match self.revision.max_concurrency {
            0 => u32::MAX,
            n => n,
        };
        let generation = self.generation;
        let number = self.next_number();
        let slot = self
            .slots
            .iter_mut()
            .filter(|x| {
                x.phase().takes_requests() && x.generation == generation && x.in_flight < limit
            })
            .min_by_key(|x| {
                // Among equals, a replica that is awake.
                let asleep = matches!(x.phase(), Phase::Resuming(_));
                (x.in_flight, asleep, std::cmp::Reverse(x.last_used))
            })?;
        let replica = slot.phase().replica()?.clone();
        slot.in_flight += 1;
        slot.last_used = number;
        let age = slot.ages.begin(now, self.revision.timeout);
        self.in_flight += 1;
        Some(Grant {
            age,
            replica,
            key: slot.key,
            thaw: slot.phase().thaw(),
        })
    }

    /// Grants free slots to waiting requests, in order.
    pub(super) fn grant_waiting(&mut self) {
        while !self.queue.is_empty() {
            let Some(grant) = self.claim(Instant::now()) else {
                break;
            };
            // Requests leave the queue under the mutex, so whoever is in it takes the grant.
            if let Err(grant) = self.queue.grant(grant) {
                self.give_back(grant.key, Some(grant.age));
            }
        }
    }

    /// Removes a request that left from the queue.
    pub(in crate::fleet) fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// A request has ended; true if the driver must be woken.
    pub(in crate::fleet) fn release(&mut self, key: u64, age: Option<Mark>, now: Instant) -> bool {
        self.last_active = now;
        self.last_request = Some(now);
        let slot_wakes = self.give_back(key, age);
        let idle = self.in_flight == 0 && std::mem::take(&mut self.wake_when_idle);
        self.grant_waiting();
        // After the grant: passing a slot to the next in line is no fall in demand.
        self.sample(now);
        idle || slot_wakes
    }

    /// Discounts a request; true if its replica is idle now, and the driver waits for that.
    fn give_back(&mut self, key: u64, age: Option<Mark>) -> bool {
        self.in_flight -= 1;
        let spare = self.wake_when_spare;
        let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
            return false;
        };
        slot.in_flight -= 1;
        if let Some(age) = age {
            slot.ages.end(age);
        }
        slot.in_flight == 0 && (spare || matches!(slot.phase(), Phase::Draining(_)))
    }

    /// A lease no longer counts as work in progress, since its connection has left HTTP.
    pub(in crate::fleet) fn forget_age(&mut self, key: u64, age: Mark) {
        if let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) {
            slot.ages.end(age);
        }
    }

    /// Whether a replica is working on a request that is younger than the app's timeout.
    pub(in crate::fleet) fn is_at_work(&self, key: u64, now: Instant) -> bool {
        let slot = self.slots.iter().find(|x| x.key == key);
        slot.is_some_and(|x| x.ages.has_younger_than(self.revision.timeout, now))
    }

    /// Sets how many executions wait to be sent to the app; true if the driver must be woken.
    pub(in crate::fleet) fn set_backlog(&mut self, waiting: u32, now: Instant) -> bool {
        if self.backlog == waiting {
            return false;
        }
        // The last execution that leaves the backlog becomes a lease, from which activity counts.
        self.last_active = now;
        let before = std::mem::replace(&mut self.backlog, waiting);
        self.sample(now) || before == 0 || waiting == 0
    }

    /// The failure of a request that gave up waiting.
    pub(in crate::fleet) fn gave_up(&self, now: Instant) -> Failure {
        let (why, detail) = self.unserved(now);
        let text = format!(
            "no replica of app {} was free in time: {why}",
            self.revision.app
        );
        let failure = Failure::new(Reason::ColdStartTimeout, text);
        match detail {
            Some(detail) => failure.with_detail(detail),
            None => failure,
        }
    }

    /// Why a request has got no replica so far, in words for anybody and for the app's owner.
    fn unserved(&self, now: Instant) -> (String, Option<String>) {
        let current = |x: &&Slot| x.generation == self.generation;
        let mut starts = self.slots.iter().filter(current);
        let starting = starts.find_map(|x| x.phase().start());
        let failed = self.last_failure.as_ref().map(|(failure, _)| failure);
        let failed = failed.filter(|_| self.failures.is_recent());
        if self.has_ready() {
            let full = "every replica is at its max_concurrency; raise it or max_replicas";
            let more =
                starting.map(|start| format!(" (another one starts: {})", start.progress().text()));
            return (format!("{full}{}", more.unwrap_or_default()), None);
        }
        if let Some(start) = starting {
            let how = start.progress().text();
            let before = failed.map_or_else(String::new, |f| {
                format!("; the replica before it failed: {}", f.message)
            });
            let detail = failed.and_then(|f| f.detail.clone());
            let hint = start.progress().hint();
            let detail: Vec<_> = hint.into_iter().chain(detail).collect();
            let detail = (!detail.is_empty()).then(|| detail.join("; "));
            return (
                format!("a replica is starting and not ready yet: {how}{before}"),
                detail,
            );
        }
        if let Some(shortage) = &self.shortage {
            return (shortage.why.clone(), None);
        }
        if let Some(failure) = self.failures.certain().or(failed) {
            let next = self.failures.waits_until(now).map(|at| {
                let wait = Duration::from_millis((at - now).as_millis() as u64);
                format!(
                    "; the next start is in {}",
                    humantime::format_duration(wait)
                )
            });
            let text = format!("{}{}", failure.message, next.unwrap_or_default());
            return (text, failure.detail.clone());
        }
        let why = match (self.autoscaler.pinned(), self.slots.first()) {
            (Some(0), _) => {
                "its autoscaler is frozen at 0 replicas; unfreeze it, or scale it to 1".to_owned()
            }
            (_, Some(slot)) => format!("its replica is {}", slot.phase().word()),
            (_, None) => "its start has not begun, since the container engine has not answered yet"
                .to_owned(),
        };
        (why, None)
    }
}
