//! Test helpers: putting replicas into a state, and checking its invariants.

use std::sync::Arc;

use super::{
    State, capacity_for,
    phase::{Phase, Start},
    slot::Slot,
};
use crate::{
    engine::ContainerId,
    fleet::replica::Replica,
    model::{Failure, Reason, ReplicaId},
};

/// A phase that a replica is put into.
#[derive(Debug, Clone, Copy)]
pub(in crate::fleet) enum In {
    Starting,
    Ready,
    Failed,
}

impl State {
    /// Adds a replica; its key is the number that orders it by use.
    pub(in crate::fleet) fn add(&mut self, phase: In, in_flight: u32) -> u64 {
        let (key, revision) = (self.next_number(), self.revision.clone());
        let id = ReplicaId::generate(ulid::Ulid::generate());
        let container = ContainerId(key.to_string());
        let start = Start::new(self.progress(&id, &revision)).created(container.clone());
        let phase = match phase {
            In::Starting => Phase::Starting(start),
            In::Ready => {
                let replica = Replica::new(id.clone(), container, None, Vec::new());
                Phase::Ready(start.ready(Arc::new(replica)).serve())
            }
            In::Failed => Phase::Failed(start.failed()),
        };
        let reservation = self
            .capacity
            .take_anyway(capacity_for(&revision, &self.wake));
        let mut slot = Slot::new(key, id, 0, revision.version, phase, reservation);
        slot.in_flight = in_flight;
        slot.last_used = key;
        self.in_flight += in_flight;
        self.slots.push(slot);
        key
    }

    /// The request of a replica that was added with one ends.
    pub(in crate::fleet) fn end_one(&mut self, key: u64) {
        self.in_flight -= 1;
        let mut slots = self.slots.iter_mut();
        slots.find(|x| x.key == key).expect("is there").in_flight -= 1;
    }

    /// A start fails, which may be chance.
    pub(in crate::fleet) fn fail_a_start(&mut self) {
        let why = Failure::new(Reason::StartFailed, "no");
        self.failures.start_failed(&why, false, &self.config);
    }

    /// The key and the id of the oldest replica.
    pub(in crate::fleet) fn oldest(&self) -> (u64, ReplicaId) {
        let slot = self.slots.first().expect("there is one");
        (slot.key, slot.id.clone())
    }

    /// What phase a replica is in.
    pub(in crate::fleet) fn phase_of(&self, key: u64) -> &'static str {
        let mut slots = self.slots.iter();
        slots
            .find(|x| x.key == key)
            .map_or("gone", |x| x.phase().word())
    }

    /// The replicas whose start was called off.
    pub(in crate::fleet) fn called_off(&self) -> Vec<u64> {
        let off = |x: &&Slot| x.phase().start().is_some_and(Start::is_called_off);
        self.slots.iter().filter(off).map(|x| x.key).collect()
    }

    pub(in crate::fleet) fn wakes_when_spare(&self) -> bool {
        self.wake_when_spare
    }

    pub(in crate::fleet) fn wakes_when_idle(&self) -> bool {
        self.wake_when_idle
    }

    pub(in crate::fleet) fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Panics unless the invariants hold that must hold after each step, given the containers that
    /// run and the numbers of held requests and bytes that have permits.
    pub(in crate::fleet) fn check(&self, running: &[ContainerId], held: (usize, usize)) {
        let queued = (self.queue.len(), self.queue.bytes());
        assert_eq!(held, queued, "a permit for each");
        let limit = match self.revision.max_concurrency {
            0 => u32::MAX,
            n => n,
        };
        assert!(self.slots.iter().map(|x| x.in_flight).sum::<u32>() <= self.in_flight);
        let up = |generation| {
            let of = |x: &&Slot| x.generation == generation && x.phase().is_up();
            self.slots.iter().filter(of).count()
        };
        assert!(up(self.generation) <= self.revision.scaling.max as usize);
        assert!(self.pending.as_ref().is_none_or(|p| up(p.generation) <= 1));
        for slot in &self.slots {
            assert!(slot.in_flight <= limit);
            // A replica that did not wake is frozen.
            let runs = slot
                .phase()
                .container()
                .is_some_and(|c| running.contains(c));
            let stops = matches!(slot.phase(), Phase::Stopping(_));
            assert!(!(stops && runs && slot.in_flight > 0), "stopped in use");
            let free = slot.in_flight < limit;
            assert!(
                !(self.serves(slot) && free) || self.queue.is_empty(),
                "somebody waits beside a free replica"
            );
        }
    }

    /// Panics unless only reserved replicas serve, and everything else is in standby; returns the
    /// number of containers.
    pub(in crate::fleet) fn check_calm(&self) -> usize {
        assert_eq!(
            (self.in_flight, self.queue.len(), self.queue.bytes()),
            (0, 0, 0)
        );
        assert!(self.pending.is_none());
        let reserved = self.revision.scaling.reserved as usize;
        assert_eq!(
            self.slots.iter().filter(|x| self.serves(x)).count(),
            reserved
        );
        let rests = |x: &&Slot| matches!(x.phase(), Phase::Paused(_) | Phase::Prepared(_));
        let resting = self.slots.iter().filter(rests);
        assert!(resting.clone().all(|x| x.generation == self.generation));
        assert_eq!(self.slots.len(), reserved + resting.count());
        let containers = |x: &Slot| 1 + usize::from(x.phase().holder().is_some());
        self.slots.iter().map(containers).sum()
    }
}
