//! What happened to an app: a bounded record, and a way to follow it.
//!
//! A leaf: written under the deployment's mutex, it takes only its own short lock. Followers read
//! from a number on, so a slow one misses the oldest events and never delays anybody.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    model::{ReplicaId, Revision},
};

/// Events kept per app: some minutes of a busy one, and about 30 KB.
const KEPT: usize = 256;

/// Most bytes of one message; those of failures have log lines.
const MESSAGE_BYTES: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The wanted number of replicas changed.
    Scaled,
    /// A version is being readied: it serves once a replica of it is ready.
    Publishing,
    /// A version was not made the active one.
    PublishFailed,
    /// Changed settings are being readied: they serve once a replica with them is ready.
    RollingOut,
    /// A replica with changed settings did not get ready; it is tried again.
    RollOutFailed,
    /// A revision serves from now on.
    Activated,
    /// A replica's container is being created.
    ReplicaCreating,
    /// Its container runs and is not ready.
    ReplicaStarting,
    /// It runs and is not ready after some time, or for another reason than before.
    ReplicaNotReady,
    /// It takes requests.
    ReplicaReady,
    /// It takes no more requests and finishes those it has.
    ReplicaDraining,
    /// It is gone.
    ReplicaStopped,
    /// It ended or stopped answering by itself.
    ReplicaFailed,
    /// It reached a limit that does not end it.
    LimitReached,
    /// It did not get ready.
    StartFailed,
    /// It is frozen.
    ReplicaPaused,
    /// It is being thawed.
    ReplicaResuming,
    /// Its process is gone, its container and network are kept.
    ReplicaPrepared,
    /// The machine has no capacity for a start.
    NoRoom,
    /// Its organization uses more of the disk than it may, or is within its quota again.
    DiskQuota,
    /// It runs here, but the cloud platform would refuse it.
    RefusedInCloud,
    /// It was accepted, but its owner should know something about it.
    Warning,
    /// A command of the engine's can delete files that are to be kept.
    FilesAtRisk,
}

impl EventKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scaled => "SCALED",
            Self::Publishing => "PUBLISHING",
            Self::PublishFailed => "PUBLISH_FAILED",
            Self::RollingOut => "ROLLING_OUT",
            Self::RollOutFailed => "ROLL_OUT_FAILED",
            Self::Activated => "ACTIVATED",
            Self::ReplicaCreating => "REPLICA_CREATING",
            Self::ReplicaStarting => "REPLICA_STARTING",
            Self::ReplicaNotReady => "REPLICA_NOT_READY",
            Self::ReplicaReady => "REPLICA_READY",
            Self::ReplicaDraining => "REPLICA_DRAINING",
            Self::ReplicaStopped => "REPLICA_STOPPED",
            Self::ReplicaFailed => "REPLICA_FAILED",
            Self::LimitReached => "LIMIT_REACHED",
            Self::StartFailed => "START_FAILED",
            Self::ReplicaPaused => "REPLICA_PAUSED",
            Self::ReplicaResuming => "REPLICA_RESUMING",
            Self::ReplicaPrepared => "REPLICA_PREPARED",
            Self::NoRoom => "NO_ROOM",
            Self::DiskQuota => "DISK_QUOTA",
            Self::RefusedInCloud => "REFUSED_IN_CLOUD",
            Self::Warning => "WARNING",
            Self::FilesAtRisk => "FILES_AT_RISK",
        }
    }

    /// Whether it calls for the owner's attention.
    pub const fn is_warning(self) -> bool {
        matches!(
            self,
            Self::PublishFailed
                | Self::RollOutFailed
                | Self::ReplicaNotReady
                | Self::ReplicaFailed
                | Self::LimitReached
                | Self::StartFailed
                | Self::NoRoom
                | Self::DiskQuota
                | Self::RefusedInCloud
                | Self::Warning
                | Self::FilesAtRisk
        )
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number within the app; later ones are larger.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
    /// To which replica; `None` when it concerns the app.
    pub replica: Option<ReplicaId>,
    /// The version concerned; 0 = none.
    pub version: u32,
    /// In words.
    pub message: String,
}

/// The record of one app; clones share it.
#[derive(Debug, Clone)]
pub struct Events(Arc<Record>);

#[derive(Debug, Default)]
struct Record {
    ring: Mutex<VecDeque<Event>>,
    /// Where events are counted.
    metrics: Arc<Metrics>,
    head: watch::Sender<Head>,
}

/// What followers watch.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    /// The number of the next event.
    next: u64,
    /// The app is gone: no more events come.
    ended: bool,
}

impl Events {
    /// An empty record, whose events are counted.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Record {
            metrics,
            ..Record::default()
        }))
    }

    pub(super) fn push(
        &self,
        kind: EventKind,
        replica: Option<&ReplicaId>,
        version: u32,
        message: impl Into<String>,
    ) {
        self.0.metrics.fleet.event(kind.as_str());
        let mut ring = self.0.ring.lock();
        let number = self.0.head.borrow().next;
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(Event {
            number,
            at: SystemTime::now(),
            kind,
            replica: replica.cloned(),
            version,
            message: shortened(message.into()),
        });
        self.0.head.send_modify(|head| head.next = number + 1);
    }

    /// Records what the cloud platform would refuse about a revision.
    pub(super) fn object(&self, revision: &Revision) {
        for why in &revision.cloud_incompatibilities {
            self.push(EventKind::RefusedInCloud, None, revision.version, why);
        }
    }

    /// As [`Self::object`] with one sentence, unless it is on record already; whether it was new.
    pub(super) fn object_once(&self, version: u32, why: &str) -> bool {
        if self
            .cloud_incompatibilities(version)
            .iter()
            .any(|said| said == why)
        {
            return false;
        }
        self.push(EventKind::RefusedInCloud, None, version, why);
        true
    }

    /// What the cloud platform would refuse about a version, as far as it is on record. Entries
    /// about an earlier version that failed with the same number do not count.
    pub fn cloud_incompatibilities(&self, version: u32) -> Vec<String> {
        let ring = self.0.ring.lock();
        let begun = |e: &Event| e.kind == EventKind::Publishing && e.version == version;
        let since = ring.iter().rposition(begun).unwrap_or_default();
        let of = |e: &&Event| e.kind == EventKind::RefusedInCloud && e.version == version;
        let said = ring.iter().skip(since).filter(of);
        said.map(|e| e.message.clone()).collect()
    }

    /// Ends the followers' streams.
    pub(super) fn end(&self) {
        self.0.head.send_modify(|head| head.ended = true);
    }

    /// The newest `limit` events in order of time.
    pub fn newest(&self, limit: usize) -> Vec<Event> {
        let ring = self.0.ring.lock();
        ring.iter()
            .skip(ring.len().saturating_sub(limit))
            .cloned()
            .collect()
    }

    /// Follows the events that happen from now on, after the newest `tail` of those before.
    pub fn follow(&self, tail: usize) -> Follower {
        let head = self.0.head.subscribe();
        let next = head.borrow().next;
        let from = next.saturating_sub(tail.min(KEPT) as u64);
        Follower {
            events: self.clone(),
            head,
            from,
        }
    }
}

/// A reader's position in the record of an app.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    head: watch::Receiver<Head>,
    from: u64,
}

impl Follower {
    /// The events since the last call; waits until there is one. `None` once the app is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        let from = self.from;
        let head = *self
            .head
            .wait_for(|head| head.next > from || head.ended)
            .await
            .ok()?;
        if head.next <= from {
            return None;
        }
        let ring = self.events.0.ring.lock();
        let new: Vec<_> = ring.iter().filter(|e| e.number >= from).cloned().collect();
        drop(ring);
        self.from = new.last().map_or(from, |e| e.number + 1);
        Some(new)
    }
}

/// A message within [`MESSAGE_BYTES`]: its beginning, and its end, where log lines are newest.
fn shortened(message: String) -> String {
    if message.len() <= MESSAGE_BYTES {
        return message;
    }
    let head = message.floor_char_boundary(MESSAGE_BYTES / 4);
    let tail = message.ceil_char_boundary(message.len() - MESSAGE_BYTES / 2);
    format!("{} […] {}", &message[..head], &message[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_record_is_bounded_and_followers_hear_what_comes_later() {
        let events = Events::new(Arc::default());
        let push = |n: usize| events.push(EventKind::Scaled, None, 1, n.to_string());
        (0..KEPT + 10).for_each(push);
        assert_eq!(events.newest(usize::MAX).len(), KEPT);
        let last = events.newest(2);
        assert_eq!((&*last[0].message, &*last[1].message), ("264", "265"));
        let mut follower = events.follow(0);
        push(1);
        push(2);
        events.end();
        assert_eq!(follower.next().await.expect("two").len(), 2);
        assert!(follower.next().await.is_none(), "the app is gone");
    }
}
