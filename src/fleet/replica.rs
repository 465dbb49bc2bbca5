//! A replica, and the fleet's record of where it is in its life.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    ages::Ages,
    events::Events,
    ports::Suspicion,
    postmortem::Fate,
    probe::{ProbeOutcome, Progress},
    room::Room,
    send_while_resuming::Thaw,
    start::Job,
    upstream::{Connects, Pool},
};
use crate::{
    engine::{ContainerId, Endpoints},
    model::{ReplicaId, Revision},
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
    /// What the last question came to before it was ready; `None` when it was at the first.
    pub last_probe: Option<ProbeOutcome>,
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
    /// How often it was refused another process, as it was last seen.
    pub(super) refused_processes: AtomicU64,
    /// How it ended, for those who have requests on it.
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

    /// The connections to each of the ports as they are declared, wherever the app listens for it.
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

    /// Closes its connections: an app's keep-alive timers run out while it is frozen.
    pub(super) fn drop_idle(&self) {
        for (_, pool) in &self.pools {
            pool.drop_idle();
        }
    }

    /// Closes the idle connections that nobody needs or that the app has closed.
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
    /// Its container is being frozen.
    Pausing,
    /// Its container is frozen.
    Paused,
    /// Its container is being thawed; requests are sent to it already.
    Resuming,
    /// Its process is being ended, and a container created in its stead.
    Preparing,
    /// A container in its kept network can be started at any time.
    Prepared,
}

impl Phase {
    /// Whether it runs, or how deep it sleeps.
    pub(super) fn depth(self) -> &'static str {
        match self {
            Phase::Pausing | Phase::Paused => "paused",
            Phase::Preparing | Phase::Prepared => "prepared",
            _ => "running",
        }
    }

    /// Whether it is in warm standby, or on its way there.
    pub(super) fn rests(self) -> bool {
        self.depth() != "running"
    }

    /// Whether requests may be sent to it.
    pub(super) fn takes_requests(self) -> bool {
        matches!(self, Phase::Ready | Phase::Resuming)
    }

    /// The word for people and for the API.
    pub(super) fn word(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Failed => "failed",
            Phase::Stopping => "stopping",
            Phase::Pausing => "pausing",
            Phase::Paused => "paused",
            Phase::Resuming => "resuming",
            Phase::Preparing => "preparing",
            Phase::Prepared => "prepared",
        }
    }
}

/// The fleet's record of one replica.
pub(super) struct Slot {
    pub(super) key: u64,
    pub(super) id: ReplicaId,
    /// Which activation it belongs to; only those of the current one serve.
    pub(super) generation: u64,
    /// The version it runs.
    pub(super) version: u32,
    pub(super) phase: Phase,
    pub(super) container: Option<ContainerId>,
    pub(super) replica: Option<Arc<Replica>>,
    pub(super) in_flight: u32,
    /// How old these are, but for upgraded ones.
    pub(super) ages: Ages,
    /// It ended by itself, and nobody has looked how.
    pub(super) unexamined: bool,
    /// The number of the last lease; larger is more recent.
    pub(super) last_used: u64,
    /// Wakes the start task when the engine reports that the container ended.
    pub(super) died: Arc<Notify>,
    /// The engine reported the container's end before the replica was put into service.
    pub(super) ended: bool,
    /// Calls the start off.
    pub(super) cancel: CancellationToken,
    /// How far its start has come.
    pub(super) progress: Progress,
    /// Ends the liveness probes; there are some while it is ready.
    pub(super) watch: Option<DropGuard>,
    /// It is stopped from here on although requests may be in flight.
    pub(super) drain_until: Option<Instant>,
    /// When its container was started, and when it was ready.
    pub(super) started_at: Option<SystemTime>,
    pub(super) ready_at: Option<SystemTime>,
    /// When it came into its phase.
    pub(super) since: Instant,
    /// It may be frozen, so it is thawed before it is stopped; unless a thaw has failed, then it
    /// is killed as it is.
    pub(super) frozen: bool,
    /// What it takes of the machine; given back with the slot.
    pub(super) room: Option<Room>,
    /// Tells those who have sent to it how its thaw ends.
    pub(super) thaw: Option<watch::Sender<Thaw>>,
    /// The container that keeps its network, once it was prepared.
    pub(super) holder: Option<ContainerId>,
    /// Where it will be reached when it is started from prepared.
    pub(super) endpoints: Option<Endpoints>,
}

impl Slot {
    pub(super) fn new(
        key: u64,
        id: ReplicaId,
        generation: u64,
        revision: &Revision,
        phase: Phase,
        events: &Events,
    ) -> Self {
        let version = revision.version;
        let app = revision.app.clone();
        Self {
            progress: Progress::new(app, id.clone(), version, events.clone()),
            key,
            id,
            generation,
            version,
            phase,
            container: None,
            replica: None,
            in_flight: 0,
            ages: Ages::new(Instant::now()),
            unexamined: false,
            last_used: 0,
            died: Arc::default(),
            ended: false,
            cancel: CancellationToken::new(),
            watch: None,
            drain_until: None,
            started_at: None,
            ready_at: None,
            since: Instant::now(),
            frozen: false,
            room: None,
            thaw: None,
            holder: None,
            endpoints: None,
        }
    }

    /// What starts it, and how to hear of that.
    pub(super) fn job(&self, revision: Arc<Revision>) -> Job {
        Job {
            id: self.id.clone(),
            revision,
            died: self.died.clone(),
            cancel: self.cancel.clone(),
            progress: self.progress.clone(),
            suspicion: Suspicion::default(),
        }
    }

    /// Whether it is on its way up.
    pub(super) fn starts(&self) -> bool {
        matches!(self.phase, Phase::Creating | Phase::Starting)
    }

    /// How its start stands, for its owner, while it is on its way up.
    pub(super) fn not_ready(&self) -> Option<String> {
        self.starts().then(|| self.progress.whole_text())
    }

    /// Into another phase; what belongs to the one before ends.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
        if phase != Phase::Ready {
            self.watch = None;
        }
        self.thaw_ended(match phase {
            Phase::Ready => Thaw::Awake,
            // It may have run before it ended.
            _ => Thaw::Unknown,
        });
    }

    /// Tells those who have sent to it already; the first word counts.
    pub(super) fn thaw_ended(&mut self, how: Thaw) {
        if let Some(thaw) = self.thaw.take() {
            thaw.send_replace(how);
        }
    }
}

/// What one replica does now, for people and for ListAppReplicas.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    /// Its id.
    pub id: ReplicaId,
    /// What it does: creating, starting, ready, draining and the like.
    pub state: &'static str,
    /// Whether it runs, or how deep it sleeps.
    pub depth: &'static str,
    /// The version it runs.
    pub version: u32,
    /// Its container, once there is one.
    pub container: Option<ContainerId>,
    /// Requests that it is answering.
    pub in_flight: u32,
    /// Where its primary port is reached.
    pub address: Option<SocketAddr>,
    /// When its container was started.
    pub started_at: Option<SystemTime>,
    /// When it became ready.
    pub ready_at: Option<SystemTime>,
    /// Why it is not ready yet, while it starts.
    pub not_ready: Option<String>,
}

impl ReplicaView {
    /// Whether its container has been started, or is about to be.
    pub fn has_process(&self) -> bool {
        self.state != Phase::Prepared.word()
    }
}

impl Slot {
    pub(super) fn view(&self) -> ReplicaView {
        ReplicaView {
            id: self.id.clone(),
            state: self.phase.word(),
            depth: self.phase.depth(),
            version: self.version,
            container: self.container.clone(),
            in_flight: self.in_flight,
            address: self.replica.as_ref().and_then(|r| r.address()),
            started_at: self.started_at,
            ready_at: self.ready_at,
            not_ready: self.not_ready(),
        }
    }
}
