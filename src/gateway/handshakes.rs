//! Limits the TLS handshakes of a listener, in all and with one address.
//!
//! Connections over the limit wait, first in the queue of their address, then in the common one. So
//! clients that never finish their handshakes delay only other clients at their address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Proxies;

/// One address has at most this fraction (1/n) of the handshakes.
const SHARES: usize = 4;
/// Fewer queues than these are not searched for empty ones.
const FEW: usize = 64;

/// The limit.
pub(super) struct Handshakes {
    all: Arc<Semaphore>,
    each: usize,
    /// Proxies, which connect for many clients and have no share.
    trusted: Proxies,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    by_address: HashMap<IpAddr, Weak<Semaphore>>,
    /// At how many the empty ones go.
    swept_at: usize,
}

/// One handshake, until dropped.
pub(super) struct Handshake {
    _all: OwnedSemaphorePermit,
    _each: Option<OwnedSemaphorePermit>,
}

impl Handshakes {
    pub(super) fn new(most: usize, trusted: Proxies) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(most)),
            each: most.div_ceil(SHARES),
            trusted,
            queues: Mutex::default(),
        }
    }

    /// Waits for its turn.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queues.
    pub(super) async fn begin(&self, address: IpAddr) -> Handshake {
        let address = address.to_canonical();
        let each = if self.trusted.contain(address) {
            None
        } else {
            Some(permit(self.queue(address)).await)
        };
        Handshake {
            _all: permit(self.all.clone()).await,
            _each: each,
        }
    }

    fn queue(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut queues = self.queues.lock();
        let Queues {
            by_address,
            swept_at,
        } = &mut *queues;
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if by_address.len() >= (*swept_at).max(FEW) {
            by_address.retain(|_, queue| queue.strong_count() > 0);
            *swept_at = by_address.len() * 2;
        }
        let fresh = Arc::new(Semaphore::new(self.each));
        by_address.insert(address, Arc::downgrade(&fresh));
        fresh
    }
}

async fn permit(of: Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = of.acquire_owned().await;
    permit.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[tokio::test]
    async fn an_address_that_finishes_nothing_keeps_only_itself_waiting() {
        let handshakes = Handshakes::new(4, "10.0.0.9".parse().expect("valid"));
        let held = handshakes.begin(address(1)).now_or_never().expect("free");
        let mut second = Box::pin(handshakes.begin(address(1)));
        assert!(poll!(&mut second).is_pending());
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        let mut third = Box::pin(handshakes.begin(mapped));
        assert!(poll!(&mut third).is_pending());
        let others: Vec<_> = (2..=4)
            .map(|n| handshakes.begin(address(n)).now_or_never().expect("free"))
            .collect();
        // All are taken now, also for a proxy.
        let mut proxy = Box::pin(handshakes.begin(address(9)));
        assert!(poll!(&mut proxy).is_pending());
        drop(others);
        let first = proxy.now_or_never().expect("free again");
        let _second = handshakes
            .begin(address(9))
            .now_or_never()
            .expect("no share");
        drop(first);
        // A waiter that leaves keeps nothing.
        drop(third);
        drop(held);
        assert!(second.now_or_never().is_some());
    }

    #[tokio::test]
    async fn queues_of_addresses_that_are_gone_are_forgotten() {
        let handshakes = Handshakes::new(4, "none".parse().expect("valid"));
        for a in 0..10_000u32 {
            drop(handshakes.begin(IpAddr::from(a.to_be_bytes())).await);
        }
        assert!(handshakes.queues.lock().by_address.len() <= 2 * FEW);
    }
}
