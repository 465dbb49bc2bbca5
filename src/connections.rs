//! Limits the process's open connections, to clients and to replicas together. Each takes a file
//! descriptor; without the limit, a flood of clients would leave none for the store.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limit on open connections; clones share it.
#[derive(Debug, Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    most: usize,
    for_replicas: usize,
}

/// One open connection, until it is dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "returned when dropped")] OwnedSemaphorePermit);

impl Connections {
    /// Allows `most` connections, of which clients leave `for_replicas` to replicas: waiting
    /// clients must not take the connections that requests in flight need to their replicas.
    pub fn new(most: usize, for_replicas: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            for_replicas,
        }
    }

    /// A permit for a connection to a client; `None` when too few are left.
    pub fn try_for_client(&self) -> Option<Permit> {
        // Concurrent clients may dip into the replicas' part; later ones make up for it.
        if self.free.available_permits() <= self.for_replicas {
            return None;
        }
        self.free.clone().try_acquire_owned().ok().map(Permit)
    }

    /// How many more clients may connect.
    pub fn left_for_clients(&self) -> usize {
        self.free
            .available_permits()
            .saturating_sub(self.for_replicas)
    }

    /// How many are open, to clients and to replicas.
    pub fn open(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    /// Waits for a permit for a connection to a replica.
    pub async fn for_replica(&self) -> Permit {
        let permit = self.free.clone().acquire_owned().await;
        Permit(permit.expect("the semaphore is never closed"))
    }

    /// Whether less than an eighth is left, so that idle connections should close.
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
