//! The connections that may be open at a time, to clients and to replicas together: each takes a
//! descriptor, and running out of these would fail whatever comes next, the store as well.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on open connections; clones share it.
#[derive(Debug, Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    most: usize,
    for_replicas: usize,
}

/// One open connection, until it is dropped.
#[derive(Debug)]
pub struct Permit(
    #[expect(dead_code, reason = "it is given back when dropped")] OwnedSemaphorePermit,
);

impl Connections {
    /// At most `most`, of which clients leave `for_replicas` to the replicas: a client that waits
    /// needs no connection to a replica yet, but must not keep others from theirs.
    pub fn new(most: usize, for_replicas: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            for_replicas,
        }
    }

    /// For a client; `None` when too few are left.
    pub fn try_for_client(&self) -> Option<Permit> {
        // Two at the same moment may go below by one, which the next one makes up for.
        if self.free.available_permits() <= self.for_replicas {
            return None;
        }
        self.free.clone().try_acquire_owned().ok().map(Permit)
    }

    /// How many clients may still come.
    pub fn left_for_clients(&self) -> usize {
        self.free
            .available_permits()
            .saturating_sub(self.for_replicas)
    }

    /// For a replica, once there is one.
    pub async fn for_replica(&self) -> Permit {
        let permit = self.free.clone().acquire_owned().await;
        Permit(permit.expect("the semaphore is never closed"))
    }

    /// Whether so few are left that none should lie idle.
    pub fn is_scarce(&self) -> bool {
        self.free.available_permits() < self.most / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_leave_some_to_replicas_and_get_back_what_these_do_not_need() {
        let all = Connections::new(10, 3);
        let clients: Vec<_> = std::iter::from_fn(|| all.try_for_client()).collect();
        assert_eq!(clients.len(), 7);
        let replicas = [
            all.for_replica().await,
            all.for_replica().await,
            all.for_replica().await,
        ];
        assert!(all.is_scarce());
        drop(clients);
        assert!(!all.is_scarce());
        let clients: Vec<_> = std::iter::from_fn(|| all.try_for_client()).collect();
        assert_eq!(clients.len(), 4);
        drop(replicas);
        let more: Vec<_> = std::iter::from_fn(|| all.try_for_client()).collect();
        assert_eq!(more.len(), 3);
    }
}
