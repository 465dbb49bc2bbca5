//! A running container that requests can be sent to.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    probe::ProbeOutcome,
    upstream::{Connects, Pool},
};
use crate::{
    engine::{ContainerId, Endpoints},
    model::{Failure, ReplicaId, Revision},
};

/// How long the parts of a start took.
#[derive(Debug, Clone, Copy, Default)]
pub struct ColdStart {
    /// Creating the container, including making sure of its image.
    pub create: Duration,
    /// Starting it.
    pub start: Duration,
    /// From started to ready.
    pub ready: Duration,
    /// The outcome of the last failed probe; `None` if the first probe succeeded.
    pub last_probe: Option<ProbeOutcome>,
}

/// What is known of the end of a replica's container.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It runs, as far as the fleet knows.
    Runs,
    /// It has ended, and is being examined.
    Ended,
    /// How it ended.
    Explained(Arc<Failure>),
}

/// A running container that requests can be sent to.
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// Its container.
    pub container: ContainerId,
    /// How long its start took; `None` for one that was adopted.
    pub cold: Option<ColdStart>,
    pub(super) ready_at: Instant,
    /// How often the kernel refused it another process, by the last check.
    pub(super) refused_processes: AtomicU64,
    /// How its container ended, for the requests that it was serving.
    pub(super) fate: watch::Sender<Fate>,
    pools: Vec<(u16, Arc<Pool>)>,
}

impl Replica {
    pub(super) fn new(
        id: ReplicaId,
        container: ContainerId,
        cold: Option<ColdStart>,
        pools: Vec<(u16, Arc<Pool>)>,
    ) -> Self {
        Self {
            id,
            container,
            cold,
            ready_at: Instant::now(),
            refused_processes: AtomicU64::new(0),
            fate: watch::Sender::new(Fate::Runs),
            pools,
        }
    }

    /// A pool for each declared port, connected to the port inside the container that stands for
    /// it.
    pub(super) fn pools(
        endpoints: &Endpoints,
        revision: &Revision,
        connects: &Connects,
    ) -> Vec<(u16, Arc<Pool>)> {
        let one_at_a_time = revision.max_concurrency == 1;
        let pool = |addr| Pool::new(addr, connects, one_at_a_time);
        let ports = revision.ports.iter().zip(&revision.inner_ports);
        ports
            .filter_map(|(&port, &inner)| Some((port, pool(endpoints.addr(inner)?))))
            .collect()
    }

    /// Closes its idle connections: an app's keep-alive timers run out while it is frozen.
    pub(super) fn drop_idle(&self) {
        for (_, pool) in &self.pools {
            pool.drop_idle();
        }
    }

    /// Ends all its connections, with the requests on them: its network is gone.
    pub(super) fn sever(&self) {
        for (_, pool) in &self.pools {
            pool.sever();
        }
    }

    /// Closes idle connections that are not needed or that the app has closed.
    pub(super) fn sweep(&self) {
        for (_, pool) in &self.pools {
            pool.sweep();
        }
    }

    /// Where its primary port is reached.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.pools.first().map(|(_, pool)| pool.addr())
    }

    /// The connections to its primary port.
    pub(super) fn primary(&self) -> Option<&Arc<Pool>> {
        self.pools.first().map(|(_, pool)| pool)
    }

    /// One port of the app, the primary one if none is named, and the connections to it.
    pub fn reached(&self, port: Option<u16>) -> Option<(u16, &Arc<Pool>)> {
        let mut pools = self.pools.iter();
        let found = pools.find(|(p, _)| port.is_none_or(|port| *p == port));
        found.map(|(port, pool)| (*port, pool))
    }
}
