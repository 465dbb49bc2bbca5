//! The right to send a request to a replica: how a request gets, holds and returns it.
//!
//! Under the mutex of the state only a [`Grant`] is passed on, a plain value. A [`Lease`] takes
//! that mutex when it is dropped, to give its replica back: so it is made of a grant once the mutex
//! is released, and is never part of a value that is dropped under it.

use std::{future::Future, sync::Arc};

use futures_util::future::Either;
use http::{Request, Response};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    ages::Mark,
    deployment::Deployment,
    hold::Ticket,
    in_flight::InFlightPermit,
    replica::{ColdStart, Replica},
    send_while_resuming::{self, Thaw},
    state::{Arrival, Grant},
    upstream::{self, Answer, Interim, Pool},
};
use crate::{
    model::{Failure, Reason},
    trace,
};

/// A request's entry in the queue, removed when the request is dropped.
struct QueueEntry<'a> {
    deployment: &'a Deployment,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<Grant, Failure>>,
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        self.deployment.state.lock().leave(self.ticket);
        // Answers are sent under the mutex and only to queued requests, so none comes from here on.
        // A grant that was sent while the request was giving up must not be lost.
        if let Ok(Ok(grant)) = self.answer.try_recv() {
            self.deployment.release(grant.key, Some(grant.age));
        }
    }
}

impl Deployment {
    /// A lease on a replica: at once, or after waiting until `give_up_at` at most. A replica is
    /// started if none runs. `bytes` is the memory that the request takes while it waits.
    ///
    /// # Errors
    /// APP_DELETED, SHUTTING_DOWN, HOLD_QUEUE_FULL, COLD_START_TIMEOUT, or why starting fails.
    ///
    /// # Cancel safety
    /// Dropping the future removes the request from the queue.
    pub async fn acquire(
        self: &Arc<Self>,
        bytes: usize,
        give_up_at: Instant,
    ) -> Result<Lease, Failure> {
        let arrived = Instant::now();
        let arrival = self.state.lock().arrive(bytes, arrived)?;
        let mut entry = match arrival {
            Arrival::Granted { grant, wants_more } => {
                let lease = Lease::new(self, grant);
                if wants_more {
                    self.wake.notify_one();
                }
                return Ok(lease);
            }
            Arrival::Held { ticket, answer } => QueueEntry {
                deployment: self,
                ticket,
                answer,
            },
        };
        self.wake.notify_one();
        let answer = tokio::time::timeout_at(give_up_at, &mut entry.answer).await;
        self.config.metrics.fleet.held_for(arrived.elapsed());
        match answer {
            Ok(Ok(Ok(grant))) => {
                let mut lease = Lease::new(self, grant);
                lease.held = true;
                // Cold only for requests that waited for this very start, not for a busy replica.
                lease.cold = lease
                    .replica
                    .cold
                    .filter(|_| lease.replica.ready_at >= arrived);
                Ok(lease)
            }
            Ok(Ok(Err(failure))) => Err(failure),
            Ok(Err(_)) => Err(Failure::new(
                Reason::ShuttingDown,
                "the platform is stopping; try again",
            )),
            Err(_) => Err(self.state.lock().gave_up(Instant::now())),
        }
    }
}

/// The right to send one request to a replica; it counts as in flight until dropped.
pub struct Lease {
    deployment: Arc<Deployment>,
    replica: Arc<Replica>,
    key: u64,
    cold: Option<ColdStart>,
    /// The request waited for the replica.
    held: bool,
    /// The mark of its age, while the request may take no longer than the app's timeout.
    age: Option<Mark>,
    /// The outcome of the replica's thaw, if it was being thawed when the lease was granted.
    thaw: Option<watch::Receiver<Thaw>>,
    /// Counts the request for its app and organization; given back with the lease.
    pub in_flight: Option<InFlightPermit>,
}

impl Lease {
    fn new(deployment: &Arc<Deployment>, grant: Grant) -> Self {
        Self {
            deployment: deployment.clone(),
            replica: grant.replica,
            key: grant.key,
            cold: None,
            held: false,
            age: Some(grant.age),
            thaw: grant.thaw,
            in_flight: None,
        }
    }

    /// Sends a request, which it takes out of `request`, to the replica through one of its pools,
    /// even while the replica is still being thawed. `interim` gets early hints.
    ///
    /// # Errors
    /// See [`upstream::Error`]. A refused thaw gives the request back unsent; after a thaw whose
    /// outcome is unknown the request is lost.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so the app sees the client leave.
    pub fn send(
        &self,
        pool: &Arc<Pool>,
        request: &mut Request<upstream::Body>,
        interim: Option<&dyn Interim>,
    ) -> impl Future<Output = Result<Response<Answer>, upstream::Error>> + Send {
        match &self.thaw {
            None => Either::Left(pool.exchange(request, interim)),
            Some(thaw) => Either::Right(Box::pin(send_while_resuming::send(
                thaw.clone(),
                pool,
                request,
                interim,
            ))),
        }
    }

    /// Stops counting the request as work in progress: its connection has left HTTP and may stay as
    /// long as it likes, so it no longer excuses a failing liveness probe.
    pub fn outlive(&mut self) {
        if let Some(age) = self.age.take() {
            self.deployment.state.lock().forget_age(self.key, age);
        }
    }

    /// The replica.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// How long the start took that this request waited for; `None` if it waited for none.
    pub fn cold(&self) -> Option<ColdStart> {
        self.cold
    }

    /// Whether the request waited for the replica.
    pub fn was_held(&self) -> bool {
        self.held
    }

    /// The start that this request waited for, as its trace shows it.
    pub fn start(&self) -> Option<trace::Start> {
        self.cold.map(|cold| trace::Start {
            create: cold.create,
            start: cold.start,
            ready: cold.ready,
            ready_at: self.replica.ready_at,
        })
    }

    /// Whether the replica was frozen when the lease was granted.
    pub fn is_resumed(&self) -> bool {
        self.thaw.is_some()
    }

    /// The app.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.deployment.release(self.key, self.age);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("replica", &self.replica.id)
            .finish_non_exhaustive()
    }
}
