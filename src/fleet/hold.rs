//! The requests that wait for a replica: first in, first out, bounded in number and bytes.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::lease::Lease;
use crate::model::Failure;

/// A request's number in the queue; later requests have larger ones.
pub(super) type Ticket = u64;

struct Waiter {
    answer: oneshot::Sender<Result<Lease, Failure>>,
    bytes: usize,
}

/// The queue. A map by ticket, so that a client that leaves gives up its place in O(log n).
#[derive(Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Ticket, Waiter>,
    next: Ticket,
    bytes: usize,
}

impl Queue {
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

    pub(super) fn push(
        &mut self,
        bytes: usize,
    ) -> (Ticket, oneshot::Receiver<Result<Lease, Failure>>) {
        let (answer, rx) = oneshot::channel();
        let ticket = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.waiting.insert(ticket, Waiter { answer, bytes });
        (ticket, rx)
    }

    /// Forgets a request that left. One that was answered meanwhile is gone already.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Some(w) = self.waiting.remove(&ticket) {
            self.bytes -= w.bytes;
        }
    }

    /// Hands a lease to the first in line. Gives it back when that one has just left; the caller
    /// must not drop it before its lock is released.
    pub(super) fn grant(&mut self, lease: Lease) -> Result<(), Lease> {
        match self.waiting.pop_first() {
            Some((_, w)) => {
                self.bytes -= w.bytes;
                w.answer.send(Ok(lease)).map_err(|unsent| match unsent {
                    Ok(lease) => lease,
                    Err(_) => unreachable!("a lease was sent"),
                })
            }
            None => Err(lease),
        }
    }

    /// Answers everybody with a failure.
    pub(super) fn fail_all(&mut self, why: &Failure) {
        self.bytes = 0;
        for (_, w) in std::mem::take(&mut self.waiting) {
            let _ = w.answer.send(Err(why.clone()));
        }
    }
}
