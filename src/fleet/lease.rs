//! The right to send a request to a replica, and the place of one that waits for it.

use std::sync::Arc;

use super::{
    deployment::Deployment,
    hold::Ticket,
    replica::{ColdStart, Replica},
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
}

impl Lease {
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
        self.deployment.release(self.key);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("replica", &self.replica.id)
            .finish_non_exhaustive()
    }
}
