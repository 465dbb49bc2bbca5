//! A replica, and the fleet's record of where it is in its life.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::upstream::Pool;
use crate::{
    engine::{ContainerId, Endpoints},
    model::ReplicaId,
};

/// How long the parts of a start took.
#[derive(Debug, Clone, Copy, Default)]
pub struct ColdStart {
    /// Creating the container, with making sure of its image.
    pub create: Duration,
    /// Starting it.
    pub start: Duration,
    /// From started to ready.
    pub ready: Duration,
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
            pools,
        }
    }

    /// The connections to each of the ports.
    pub(super) fn pools(
        endpoints: &Endpoints,
        ports: &[u16],
        max_connects: usize,
    ) -> Vec<(u16, Arc<Pool>)> {
        ports
            .iter()
            .filter_map(|&p| Some((p, Pool::new(endpoints.addr(p)?, max_connects))))
            .collect()
    }

    /// The connections to one port of the app.
    pub fn pool(&self, port: u16) -> Option<&Arc<Pool>> {
        self.pools
            .iter()
            .find(|(p, _)| *p == port)
            .map(|(_, pool)| pool)
    }
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its container is being created.
    Creating,
    /// Its container runs and is not ready.
    Starting,
    /// It takes requests.
    Ready,
    /// It finishes the requests it has and takes no more.
    Draining,
    /// Its container ended by itself and waits for its removal.
    Failed,
    /// Its container is being stopped and removed.
    Stopping,
}

/// The fleet's record of one replica.
pub(super) struct Slot {
    pub(super) key: u64,
    pub(super) id: ReplicaId,
    /// Which activation it belongs to; only those of the current one serve.
    pub(super) generation: u64,
    pub(super) phase: Phase,
    pub(super) container: Option<ContainerId>,
    pub(super) replica: Option<Arc<Replica>>,
    pub(super) in_flight: u32,
    /// The number of the last lease; larger is more recent.
    pub(super) last_used: u64,
    /// Wakes the start task when the engine reports that the container ended.
    pub(super) died: Arc<Notify>,
    /// The engine reported the container's end before the replica was put into service.
    pub(super) ended: bool,
    /// Calls the start off.
    pub(super) cancel: CancellationToken,
}
