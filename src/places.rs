//! Places for work that runs a few at once, waited for in the order of `model::fair`.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::model::{
    AppId, OrgName,
    fair::{Shares, Ticket},
};

/// A number of places; clones share them.
#[derive(Clone)]
pub struct Places {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    shares: Shares,
    waiting: HashMap<Ticket, oneshot::Sender<Place>>,
}

/// A place; dropped, it goes to the next.
pub struct Place {
    places: Places,
    app: AppId,
}

/// One who waits, and asks no longer once it is dropped.
struct Waiting<'a> {
    places: &'a Places,
    app: &'a AppId,
    ticket: Ticket,
}

impl Places {
    /// `total` places, of which one organization gets at most `per_org`; both at least one.
    pub fn new(total: usize, per_org: usize) -> Self {
        let inner = Inner {
            shares: Shares::new(total, per_org),
            waiting: HashMap::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// A place for work of this app, once it is its turn.
    pub async fn acquire(&self, app: &AppId) -> Place {
        loop {
            let (to, granted) = oneshot::channel();
            let ticket = {
                let mut inner = self.inner.lock();
                let ticket = inner.shares.ask(app);
                inner.waiting.insert(ticket, to);
                ticket
            };
            let _waiting = Waiting {
                places: self,
                app,
                ticket,
            };
            self.grant();
            // The other end is only ever dropped by sending.
            if let Ok(place) = granted.await {
                return place;
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
            let place = Place {
                places: self.clone(),
                app,
            };
            // One who left just now drops it, and it goes on.
            if let Some(to) = to {
                let _left = to.send(place);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.inner.lock().shares.give_back(&self.app);
        self.places.grant();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock();
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
        let places = Places::new(4, 3);
        let first = places.acquire(&evil).now_or_never().unwrap();
        let _second = places.acquire(&other).now_or_never().unwrap();
        let _third = places.acquire(&other).now_or_never().unwrap();
        assert!(places.is_full_for(&evil.org) && !places.is_full_for(&fresh.org));
        let mut waits = Box::pin(places.acquire(&evil));
        assert!(poll!(&mut waits).is_pending());

        // The fourth place was kept; the next that is free is good's as well, though evil asked first.
        let _good = places.acquire(&fresh).now_or_never().unwrap();
        let mut good = Box::pin(places.acquire(&fresh));
        assert!(poll!(&mut good).is_pending());
        drop(first);
        let (evils, goods) = (poll!(&mut waits), poll!(&mut good));
        assert!(evils.is_pending() && goods.is_ready());
    }

    #[tokio::test]
    async fn one_who_gives_up_keeps_no_place() {
        let app: AppId = "acme/a".parse().unwrap();
        let places = Places::new(1, 1);
        let held = places.acquire(&app).await;
        let mut gone = Box::pin(places.acquire(&app));
        let mut granted = Box::pin(places.acquire(&app));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut granted).is_pending());
        drop(gone);
        drop(held);
        // Granted, but never taken.
        drop(granted);
        assert!(places.acquire(&app).now_or_never().is_some());
    }
}
