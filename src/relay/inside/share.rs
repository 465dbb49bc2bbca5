//! Counts what is carried at a time, in all and for each address.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::quota::{Quota, Usage};

/// A bound on something.
pub(super) struct Share {
    quota: Quota,
    usage: Mutex<Usage<IpAddr>>,
}

/// One of it, until dropped.
pub(super) struct Permit {
    share: Arc<Share>,
    peer: IpAddr,
}

impl Share {
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            quota: Quota { all, each },
            usage: Mutex::default(),
        })
    }

    /// One for this address; `None` when it, or all together, have as many as they may.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Permit> {
        let taken = self.usage.lock().acquire(Some(&peer), 1, self.quota);
        taken.ok().map(|()| Permit {
            share: self.clone(),
            peer,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.usage.lock().release(Some(&self.peer), 1);
    }
}
