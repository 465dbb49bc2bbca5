//! Reports about containers: the engine's events, its list, and the remains of an earlier run.
//!
//! An event is a hint that may be late, lost or about a phase that is over. It may end a start or a
//! replica, but never puts one into service; that is up to the task that probed the app. The
//! engine's list is the truth for replicas that did not change phase while it was read.

use std::{
    mem::Discriminant,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    State, capacity_for,
    phase::{Containers, Live, Phase, Start},
    slot::Slot,
};
use crate::{
    engine::{ContainerId, Endpoints},
    fleet::{events::EventKind, ports::Suspicion, replica::Replica, start::Job},
    model::{Failure, Reason, ReplicaId, Standby},
};

/// The expected state of a replica's containers.
pub(in crate::fleet) struct Belief {
    key: u64,
    phase: Discriminant<Phase>,
    since: Instant,
    /// The container of its app.
    pub(in crate::fleet) container: ContainerId,
    /// The container that holds its network, if any; it runs as long as the network exists.
    pub(in crate::fleet) holder: Option<ContainerId>,
    /// The state that the app's container should be in.
    pub(in crate::fleet) expected: Expected,
}

/// The state that a container should be in.
pub(in crate::fleet) enum Expected {
    /// It runs.
    Running,
    /// It is frozen.
    Frozen,
    /// It was created and not started.
    Prepared,
}

/// A container that an earlier run left frozen.
pub(in crate::fleet) struct Frozen<'a> {
    /// Where it is reached.
    pub(in crate::fleet) endpoints: &'a Endpoints,
    /// The memory that it keeps, where that is known.
    pub(in crate::fleet) memory_bytes: Option<u64>,
}

/// How a container of an earlier run was adopted.
pub(in crate::fleet) enum Adopted {
    /// Its app has to be probed until it is ready.
    Starting { key: u64, job: Job },
    /// It is in standby.
    Frozen,
}

impl State {
    /// Records which container a start has made, so that reports about it find its slot. A warning
    /// about its files is recorded once per app.
    pub(in crate::fleet) fn created(
        &mut self,
        key: u64,
        container: &ContainerId,
        files_at_risk: Option<String>,
    ) {
        if let Some(warning) = files_at_risk
            && !std::mem::replace(&mut self.warned_of_files, true)
        {
            self.events.push(EventKind::FilesAtRisk, None, 0, warning);
        }
        if let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) {
            slot.turn(|phase| match phase {
                Phase::Creating(start) => Phase::Starting(start.created(container.clone())),
                other => other,
            });
            let text = format!("container {container} is being started");
            self.events.push(
                EventKind::ReplicaStarting,
                Some(&slot.id),
                slot.version,
                text,
            );
        }
    }

    /// The engine reports that a container has ended, or does not list it any more; true if it
    /// belongs to a replica here. The end of a holder is the end of its replica: the network is
    /// gone with it, so the app keeps running and cannot be reached, and its connections, which would
    /// wait for it, are ended.
    pub(in crate::fleet) fn container_ended(&mut self, container: &ContainerId) -> bool {
        let is_its_own = |x: &Slot| {
            let phase = x.phase();
            phase.container() == Some(container) || phase.holder() == Some(container)
        };
        let Some(at) = self.slots.iter().position(is_its_own) else {
            return false;
        };
        let phase = self.slots[at].phase_mut();
        let lost_network = phase.holder() == Some(container);
        if lost_network && let Some(replica) = phase.replica() {
            replica.sever();
        }
        match phase {
            Phase::Starting(starting) if lost_network => starting.network_ended(),
            Phase::Starting(starting) => starting.container_ended(),
            Phase::Pausing(pausing) => pausing.container_ended(),
            Phase::Creating(_) => {}
            Phase::Failed(_) | Phase::Stopping(_) | Phase::Preparing(_) => {}
            Phase::Ready(_)
            | Phase::Draining(_)
            | Phase::Paused(_)
            | Phase::Resuming(_)
            | Phase::Prepared(_) => self.died(at),
        }
        true
    }

    /// The expected states of all containers on which no task works.
    pub(in crate::fleet) fn beliefs(&self) -> Vec<Belief> {
        let belief = |slot: &Slot| {
            let expected = match slot.phase() {
                Phase::Ready(_) | Phase::Draining(_) => Expected::Running,
                Phase::Paused(_) => Expected::Frozen,
                Phase::Prepared(_) => Expected::Prepared,
                _ => return None,
            };
            Some(Belief {
                key: slot.key,
                phase: std::mem::discriminant(slot.phase()),
                since: slot.since(),
                container: slot.phase().container()?.clone(),
                holder: slot.phase().holder().cloned(),
                expected,
            })
        };
        self.slots.iter().filter_map(belief).collect()
    }

    /// The engine's list contradicts a belief: the replica counts as dead, and with its network its
    /// connections. False if the replica has changed phase since, which makes the list older than
    /// the state.
    pub(in crate::fleet) fn not_as_believed(&mut self, belief: &Belief, has_network: bool) -> bool {
        let still = |x: &Slot| {
            x.key == belief.key
                && x.since() == belief.since
                && std::mem::discriminant(x.phase()) == belief.phase
        };
        let Some(at) = self.slots.iter().position(still) else {
            return false;
        };
        if !has_network && let Some(replica) = self.slots[at].phase().replica() {
            replica.sever();
        }
        self.died(at);
        true
    }

    /// Whether this is one of the app's replicas.
    pub(in crate::fleet) fn has(&self, replica: &ReplicaId) -> bool {
        self.slots.iter().any(|x| x.id == *replica)
    }

    /// Adopts a container of an earlier run of the revision that serves; `None` if it is not
    /// wanted.
    pub(in crate::fleet) fn adopt(
        &mut self,
        id: ReplicaId,
        containers: Containers,
        frozen: Option<Frozen<'_>>,
    ) -> Option<Adopted> {
        let rests = self.standby() == Standby::Pause;
        if self.closed.is_some() || !rests && frozen.is_some() {
            return None;
        }
        let key = self.next_number();
        let revision = self.revision.clone();
        // It takes memory already, whatever the bounds are now.
        let reservation = self
            .capacity
            .take_anyway(capacity_for(&revision, &self.wake));
        let (phase, adopted) = match frozen {
            Some(frozen) => {
                let pools = Replica::pools(frozen.endpoints, &revision, &self.config.max_connects);
                let replica = Replica::new(id.clone(), containers.app, None, pools);
                reservation.freeze(frozen.memory_bytes);
                let live = Live::adopted(Arc::new(replica), containers.holder);
                (Phase::Paused(live), Adopted::Frozen)
            }
            None => {
                let start = Start::new(self.progress(&id, &revision));
                let job = start.job(id.clone(), revision.clone(), Suspicion::default());
                let starting = start.adopted(containers);
                (Phase::Starting(starting), Adopted::Starting { key, job })
            }
        };
        let slot = Slot::new(
            key,
            id,
            self.generation,
            revision.version,
            phase,
            reservation,
        );
        self.slots.push(slot);
        Some(adopted)
    }

    /// Removes the slot of a replica whose containers are gone.
    pub(in crate::fleet) fn forget(&mut self, key: u64) {
        self.slots.retain(|x| x.key != key);
    }

    /// Any phase => Failed.
    pub(super) fn died(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let served = matches!(slot.phase(), Phase::Ready(_));
        let ran = slot
            .phase()
            .replica()
            .map_or(Duration::ZERO, |r| r.ready_at.elapsed());
        slot.turn(Phase::died);
        let generation = slot.generation;
        tracing::warn!(app = %self.revision.app, replica = %slot.id, ran = ?ran, "The replica died");
        // The reason until the postmortem is known.
        let why = Failure::new(Reason::ContainerExited, "a replica ended while it served");
        self.note_failure(why.clone());
        if let Some(pending) = self.pending.take_if(|p| p.generation == generation) {
            pending.answer(Err(why));
        } else if served && generation == self.generation {
            // Only the death of a serving replica counts as a crash; one on its way out is not
            // missed.
            self.failures.died(ran, &self.config);
        }
    }

    /// Records how a replica ended.
    pub(in crate::fleet) fn examined(&mut self, key: u64, replica: &ReplicaId, how: &Failure) {
        let slot = self.slots.iter().find(|x| x.key == key);
        let version = slot.map_or(0, |x| x.version);
        let text = how.text(true);
        self.events
            .push(EventKind::ReplicaFailed, Some(replica), version, text);
        self.note_failure(how.clone());
    }

    /// Remembers the newest failure, for people.
    pub(in crate::fleet) fn note_failure(&mut self, why: Failure) {
        self.last_failure = Some((why, SystemTime::now()));
    }
}
