//! The present state of an app and its replicas, for people and for the API.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use crate::{
    engine::ContainerId,
    model::{Failure, ReplicaId},
};

/// The present state of a deployment, for people and for GetAppState.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas on their way up.
    pub starting: u32,
    /// Replicas that finish their last requests or are being stopped.
    pub draining: u32,
    /// Replicas in warm standby, or on their way into it.
    pub standby: u32,
    /// Of these, frozen.
    pub paused: u32,
    /// Of these, prepared.
    pub prepared: u32,
    /// Of these, being frozen or prepared.
    pub moving: u32,
    /// Whether the autoscaler is pinned, so that the wanted number does not follow the load.
    pub pinned: bool,
    /// Replicas wanted now.
    pub desired: u32,
    /// Requests with a replica.
    pub in_flight: u32,
    /// Requests that wait for one.
    pub held: u32,
    /// Executions that are accepted and were not sent to a replica yet.
    pub backlog: u32,
    /// The last failure to start or death of a replica, and when it was.
    pub last_failure: Option<(Failure, SystemTime)>,
    /// Time since a request last arrived or ended; `None` when there was none in this run.
    pub idle_for: Option<Duration>,
    /// Why the replica that is starting is not ready yet; `None` when none starts.
    pub not_ready: Option<String>,
    /// Starting cannot succeed now: two starts in a row failed, or the cause is certain.
    pub failing: bool,
}

/// The present state of one replica, for people and for ListAppReplicas.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    /// Its id.
    pub id: ReplicaId,
    /// Its phase: creating, starting, ready, draining and the like.
    pub state: &'static str,
    /// Whether it runs, or its depth of standby.
    pub depth: &'static str,
    /// The version it runs.
    pub version: u32,
    /// Its container, once there is one.
    pub container: Option<ContainerId>,
    /// Its requests in flight.
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
    /// The depth of a replica whose container can be started at any time and has not been.
    pub(super) const PREPARED: &str = "prepared";

    /// Whether its container has been started, or is about to be.
    pub fn has_process(&self) -> bool {
        self.state != Self::PREPARED
    }
}
