//! Limits how many connections a listener has, in all and from one address.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;

use super::limits::Limits;
use crate::{
    connections::Permit,
    quota::{Quota, Usage},
};

/// Hands out the permits of one listener's connections.
pub(super) struct ConnectionLimiter {
    limits: Limits,
    open: Mutex<Usage<IpAddr>>,
}

/// The permit of one connection, returned when dropped.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    /// The client's address; `None` where its connections are not limited.
    address: Option<IpAddr>,
    reserved: bool,
    _process_permit: Permit,
}

impl ConnectionPermit {
    /// Whether this is one of the last connections, which serve no apps: the API and the health
    /// paths keep answering while the apps' URLs are flooded.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock();
        open.release(self.address.as_ref(), 1);
    }
}

impl ConnectionLimiter {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
        })
    }

    /// A permit for a connection from `peer`; `None` over a limit. Trusted proxies speak for many
    /// clients and count against the total alone.
    pub(super) fn try_acquire(self: &Arc<Self>, peer: SocketAddr) -> Option<Arc<ConnectionPermit>> {
        let limits = &self.limits;
        let process_permit = limits.connections.try_for_client()?;
        let is_limited = |address: &IpAddr| {
            limits.max_connections_per_ip > 0 && !limits.trusted_proxies.contain(*address)
        };
        let address = Some(peer.ip().to_canonical()).filter(is_limited);
        let quota = Quota {
            all: limits.max_connections,
            each: limits.max_connections_per_ip,
        };
        let left = {
            let mut open = self.open.lock();
            open.acquire(address.as_ref(), 1, quota).ok()?;
            limits.max_connections - open.all()
        };
        let reserved = limits.reserved;
        Some(Arc::new(ConnectionPermit {
            limiter: self.clone(),
            address,
            reserved: left < reserved || limits.connections.left_for_clients() < reserved,
            _process_permit: process_permit,
        }))
    }
}
