//! The right to send a request to a replica, and the place of one that waits for it.

use std::{future::Future, sync::Arc};

use futures_util::future::Either;
use http::{Request, Response};
use tokio::sync::watch;

use super::{
    ages::Mark,
    deployment::Deployment,
    hold::Ticket,
    load::Seat,
    replica::{ColdStart, Replica},
    send_while_resuming::{self, Thaw},
    upstream::{self, Answer, Interim, Pool},
};

/// A place in the queue, given up when the request is dropped.
pub(super) struct Place<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.deployment.state.lock().queue.leave(self.ticket);
    }
}

/// The right to send one request to a replica; it counts as in flight until dropped.
pub struct Lease {
    pub(super) deployment: Arc<Deployment>,
    pub(super) replica: Arc<Replica>,
    pub(super) key: u64,
    pub(super) cold: Option<ColdStart>,
    /// How old it is, while it may take no longer than the app's timeout.
    pub(super) age: Option<Mark>,
    /// How the replica's thaw ends, when it was not awake yet.
    pub(super) thaw: Option<watch::Receiver<Thaw>>,
    /// The request's place in the counts of app and organization, given back with the lease.
    pub seat: Option<Seat>,
}

impl Lease {
    /// Sends a request to the replica through one of its pools; while it is being thawed already.
    /// `interim` hears of early hints.
    ///
    /// # Errors
    /// See [`upstream::Error`]. A thaw that is refused gives the request back unsent; after one
    /// whose end is not known it is lost.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so the app sees the client leave.
    pub fn send(
        &self,
        pool: &Arc<Pool>,
        request: Request<upstream::Body>,
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

    /// Its connection has left HTTP and may stay as long as it likes: it says no longer that the
    /// replica is busy with a request.
    pub fn outlive(&mut self) {
        if let Some(age) = self.age.take() {
            self.deployment.forget_age(self.key, age);
        }
    }

    /// The replica.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// How long the start took that this request waited for; `None` for a warm one.
    pub fn cold(&self) -> Option<ColdStart> {
        self.cold
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
