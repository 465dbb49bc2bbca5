//! Permits for work with bounded concurrency, granted in the order of `model::fair`.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::model::{
    AppId, OrgName,
    fair::{Shares, Ticket},
};

/// Grants a fixed number of permits; clones share them.
#[derive(Clone)]
pub struct FairLimiter {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    shares: Shares,
    waiting: HashMap<Ticket, oneshot::Sender<Permit>>,
}

/// Permission to run; dropping it passes it to the next waiter.
pub struct Permit {
    limiter: FairLimiter,
    app: AppId,
}

/// A waiter; dropping it leaves the queue.
struct Waiting<'a> {
    limiter: &'a FairLimiter,
    app: &'a AppId,
    ticket: Ticket,
}

impl FairLimiter {
    /// Grants `total` permits, at most `per_org` of them to one organization; both are raised to at
    /// least one.
    pub fn new(total: usize, per_org: usize) -> Self {
        let inner = Inner {
            shares: Shares::new(total, per_org),
            waiting: HashMap::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Waits for this app's turn and takes a permit.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; a permit granted meanwhile passes to the next waiter.
    pub async fn acquire(&self, app: &AppId) -> Permit {
        loop {
            let (to, granted) = oneshot::channel();
            let ticket = {
                let mut inner = self.inner.lock();
                let ticket = inner.shares.enqueue(app);
                inner.waiting.insert(ticket, to);
                ticket
            };
            let _waiting = Waiting {
                limiter: self,
                app,
                ticket,
            };
            self.grant();
            // The other end is only ever dropped by sending.
            if let Ok(permit) = granted.await {
                return permit;
            }
        }
    }

    /// Whether work of this organization would have to wait now.
    pub fn is_full_for(&self, org: &OrgName) -> bool {
        self.inner.lock().shares.is_full_for(org)
    }

    fn grant(&self) {
        loop {
            let granted = {
                let mut inner = self.inner.lock();
                let next = inner.shares.grant();
                next.map(|(app, ticket)| (app, inner.waiting.remove(&ticket)))
            };
            let Some((app, to)) = granted else {
                return;
            };
            let permit = Permit {
                limiter: self.clone(),
                app,
            };
            // A waiter that has just left drops the permit, which passes to the next one.
            if let Some(to) = to {
                let _left = to.send(permit);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.inner.lock().shares.give_back(&self.app);
        self.limiter.grant();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.limiter.inner.lock();
        if inner.waiting.remove(&self.ticket).is_some() {
            inner.shares.withdraw(self.app, self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn a_newcomer_passes_those_whose_organization_has_more() {
        let [evil, other, fresh]: [AppId; 3] =
            ["evil/a", "evil/b", "good/a"].map(|id| id.parse().unwrap());
        let limiter = FairLimiter::new(4, 3);
        let first = limiter.acquire(&evil).now_or_never().unwrap();
        let _second = limiter.acquire(&other).now_or_never().unwrap();
        let _third = limiter.acquire(&other).now_or_never().unwrap();
        assert!(limiter.is_full_for(&evil.org) && !limiter.is_full_for(&fresh.org));
        let mut waits = Box::pin(limiter.acquire(&evil));
        assert!(poll!(&mut waits).is_pending());

        // The fourth permit was kept free; the next one to be released goes to good as well, though
        // evil asked first.
        let _good = limiter.acquire(&fresh).now_or_never().unwrap();
        let mut good = Box::pin(limiter.acquire(&fresh));
        assert!(poll!(&mut good).is_pending());
        drop(first);
        let (evils, goods) = (poll!(&mut waits), poll!(&mut good));
        assert!(evils.is_pending() && goods.is_ready());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_keeps_no_permit() {
        let app: AppId = "acme/a".parse().unwrap();
        let limiter = FairLimiter::new(1, 1);
        let held = limiter.acquire(&app).await;
        let mut gone = Box::pin(limiter.acquire(&app));
        let mut granted = Box::pin(limiter.acquire(&app));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut granted).is_pending());
        drop(gone);
        drop(held);
        // Granted, but never taken.
        drop(granted);
        assert!(limiter.acquire(&app).now_or_never().is_some());
    }
}
