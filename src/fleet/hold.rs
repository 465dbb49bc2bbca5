//! The requests that wait for a replica: first in, first out, bounded in number and bytes.
//!
//! Three bounds hold at the same time: the app's, its organization's and the server's. A queue
//! enforces the first itself. A [`HoldLimiter`] enforces the other two and hands out a
//! [`HoldPermit`] for each held request, which the queue keeps beside it; whatever takes the
//! request out of the queue drops the permit with it. A request that gets a replica at once never
//! enters the queue.
//!
//! # Invariants
//!
//! - A request enters the queue, is answered and leaves under the mutex of its app's state. So a
//!   queued request is always there to receive the answer, which is sent once, and after
//!   [`Queue::leave`] none is sent. An answer sent just before lies in the channel, and the request
//!   that gave up returns it (`lease.rs`).
//! - A request waits only while no replica that serves has a free slot: each step that frees or
//!   adds a slot grants it, in the same critical section, to the first in line.
//! - The counts (requests, bytes, permits) always equal what is in the queue.
//! - The limiter's counts are locked under the mutex of a state and lock nothing themselves, so a
//!   permit may be taken and dropped under it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Config;
use crate::{
    model::{AppId, Failure, OrgName, Reason},
    quota::{Full, Quota, Usage},
};

/// Retry-After of a refused request.
const COME_BACK: Duration = Duration::from_secs(1);

/// Bounds on what is held over all apps, and by each organization; clones share the counts.
#[derive(Debug, Clone)]
pub struct HoldLimiter {
    requests: Arc<Budget>,
    bytes: Arc<Budget>,
}

#[derive(Debug)]
struct Budget {
    most: Quota,
    taken: Mutex<Usage<OrgName>>,
}

/// A share of a budget, returned when dropped.
#[derive(Debug)]
struct Taken {
    budget: Arc<Budget>,
    org: OrgName,
    amount: usize,
}

/// One held request's share of both budgets, returned when dropped.
#[derive(Debug)]
pub(super) struct HoldPermit {
    _request: Taken,
    _bytes: Option<Taken>,
}

impl Budget {
    fn new(most: Quota) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    fn take(self: &Arc<Self>, org: &OrgName, amount: usize) -> Result<Taken, Full> {
        self.taken.lock().acquire(Some(org), amount, self.most)?;
        Ok(Taken {
            budget: self.clone(),
            org: org.clone(),
            amount,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.budget.taken.lock();
        taken.release(Some(&self.org), self.amount);
    }
}

impl HoldLimiter {
    /// Bounds on the number of held requests, and on the bytes of their bodies.
    pub fn new(requests: Quota, bytes: Quota) -> Self {
        Self {
            requests: Budget::new(requests),
            bytes: Budget::new(bytes),
        }
    }

    /// Permits an organization to hold one more request, with a body of `bytes` bytes.
    ///
    /// # Errors
    /// HOLD_QUEUE_FULL, which names the bound.
    fn acquire(&self, org: &OrgName, bytes: usize) -> Result<HoldPermit, Failure> {
        let request = self.requests.take(org, 1).map_err(|full| {
            let most = self.requests.most;
            match full {
                Full::Each => refusal(format!(
                    "organization {org} has {} requests held for its apps already (IGNITE_HOLD_MAX_REQUESTS_PER_ORG)",
                    most.each
                )),
                Full::All => refusal(format!(
                    "{} requests are held for the apps of all organizations already (IGNITE_HOLD_MAX_REQUESTS_TOTAL)",
                    most.all
                )),
            }
        })?;
        let of_body = (bytes > 0).then(|| self.bytes.take(org, bytes)).transpose();
        let of_body = of_body.map_err(|full| {
            let most = self.bytes.most;
            match full {
                Full::Each => refusal(format!(
                    "the bodies of requests held for organization {org}'s apps would take more than {} bytes (IGNITE_HOLD_MAX_BYTES_PER_ORG)",
                    most.each
                )),
                Full::All => refusal(format!(
                    "the bodies of requests held for all organizations would take more than {} bytes (IGNITE_HOLD_MAX_BYTES_TOTAL)",
                    most.all
                )),
            }
        })?;
        Ok(HoldPermit {
            _request: request,
            _bytes: of_body,
        })
    }

    /// How many requests are held, and how many bytes of bodies.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let taken = |budget: &Budget| budget.taken.lock().all();
        (taken(&self.requests), taken(&self.bytes))
    }
}

fn refusal(why: String) -> Failure {
    let message = format!(
        "{why}; try again later, and keep requests from waiting with reserved_capacity or a larger max_concurrency"
    );
    Failure::new(Reason::HoldQueueFull, message).with_retry_after(COME_BACK)
}

/// A request's number in the queue; later requests have larger ones.
pub(super) type Ticket = u64;

struct Waiter<T> {
    answer: oneshot::Sender<Result<T, Failure>>,
    bytes: usize,
    _permit: HoldPermit,
}

/// The queue of requests that wait for a `T`. A map by ticket, so that a client that leaves is
/// removed in O(log n).
pub(super) struct Queue<T> {
    waiting: BTreeMap<Ticket, Waiter<T>>,
    next: Ticket,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
            bytes: 0,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the held requests' bodies.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Permits an app to hold one more request, with a body of `bytes` bytes.
    ///
    /// # Errors
    /// HOLD_QUEUE_FULL, which names the bound: the app's, its organization's or the server's.
    pub(super) fn admit(
        &self,
        app: &AppId,
        config: &Config,
        bytes: usize,
    ) -> Result<HoldPermit, Failure> {
        if self.len() >= config.hold_max_requests {
            return Err(refusal(format!(
                "app {app} has {} requests held already (IGNITE_HOLD_MAX_REQUESTS)",
                self.len()
            )));
        }
        if self.bytes() + bytes > config.hold_max_bytes {
            return Err(refusal(format!(
                "the bodies of requests held for app {app} would take more than {} bytes (IGNITE_HOLD_MAX_BYTES)",
                config.hold_max_bytes
            )));
        }
        config.hold_limiter.acquire(&app.org, bytes)
    }

    pub(super) fn push(
        &mut self,
        bytes: usize,
        permit: HoldPermit,
    ) -> (Ticket, oneshot::Receiver<Result<T, Failure>>) {
        let (answer, rx) = oneshot::channel();
        let ticket = self.next;
        self.next += 1;
        self.bytes += bytes;
        let waiter = Waiter {
            answer,
            bytes,
            _permit: permit,
        };
        self.waiting.insert(ticket, waiter);
        (ticket, rx)
    }

    /// Removes a request that left. A request that was answered meanwhile is gone already.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Some(w) = self.waiting.remove(&ticket) {
            self.bytes -= w.bytes;
        }
    }

    /// Grants `granted` to the first in line. Gives it back when nobody waits, or when the first in
    /// line has just left.
    pub(super) fn grant(&mut self, granted: T) -> Result<(), T> {
        match self.waiting.pop_first() {
            Some((_, w)) => {
                self.bytes -= w.bytes;
                w.answer.send(Ok(granted)).map_err(|unsent| match unsent {
                    Ok(granted) => granted,
                    Err(_) => unreachable!("no failure was sent"),
                })
            }
            None => Err(granted),
        }
    }

    /// Answers all waiting requests with a failure.
    pub(super) fn fail_all(&mut self, why: &Failure) {
        self.bytes = 0;
        for (_, w) in std::mem::take(&mut self.waiting) {
            let _ = w.answer.send(Err(why.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_request_is_permitted_exactly_where_it_fits_all_bounds(
            steps in proptest::collection::vec((0usize..3, 0usize..50, 0usize..4), 1..80)
        ) {
            let requests = Quota { all: 8, each: 5 };
            let bytes = Quota { all: 100, each: 70 };
            let limiter = HoldLimiter::new(requests, bytes);
            let mut held: Vec<(usize, usize, HoldPermit)> = Vec::new();
            for (org, size, leaves) in steps {
                let sums = |of: Option<usize>| {
                    let theirs = held.iter().filter(|h| of.is_none_or(|org| h.0 == org));
                    theirs.fold((0, 0), |(n, sum), h| (n + 1, sum + h.1))
                };
                let ((n, sum), (of_org, of_orgs_bodies)) = (sums(None), sums(Some(org)));
                prop_assert_eq!(limiter.held(), (n, sum));
                let fits = n < requests.all
                    && of_org < requests.each
                    && sum + size <= bytes.all
                    && of_orgs_bodies + size <= bytes.each;
                let name: OrgName = format!("org-{org}").parse().expect("valid");
                match limiter.acquire(&name, size) {
                    Ok(permit) => {
                        prop_assert!(fits);
                        held.push((org, size, permit));
                    }
                    Err(failure) => {
                        prop_assert!(!fits, "{failure}");
                        prop_assert_eq!(failure.reason, Reason::HoldQueueFull);
                    }
                }
                if leaves == 0 && !held.is_empty() {
                    held.swap_remove(size % held.len());
                }
            }
            drop(held);
            prop_assert_eq!(limiter.held(), (0, 0));
        }
    }
}
