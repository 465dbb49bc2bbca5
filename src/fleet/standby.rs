//! Warm standby: what becomes of replicas that are not needed, and how they come back.
//!
//! ```text
//! Draining ─► Pausing ─► Paused ─► Preparing ─► Prepared ─► (gone)
//!                          │ Resuming ─► Ready    │ Starting ─► Ready
//! ```
//!
//! The steps here are taken by the plan, under the deployment's mutex; `standby_ops.rs` carries the
//! slow parts out. After a wake that fails the replica is taken away and the next plan takes the
//! next depth, or a start; a request that is not known to have stayed unread is not sent again.
//! Standby belongs to one generation, so a change of
//! version, environment or limits drops it.

use std::{sync::Arc, time::SystemTime};

use tokio::{sync::watch, time::Instant};

use super::{
    Config,
    events::EventKind,
    plan::{Action, Plan, ask},
    replica::{Phase, Slot},
    room::Room,
    send_while_resuming::Thaw,
    start::Fault,
    state::State,
};
use crate::{
    engine::{Error, Prepared},
    model::{Revision, Standby},
};

impl State {
    /// Where a replica of this app may rest now.
    pub(super) fn standby(&self, revision: &Revision, config: &Config) -> Standby {
        let wanted = self.rest_at.or(revision.standby).unwrap_or(config.standby);
        match wanted {
            Standby::Pause if self.no_pause.stands() => self.shallowest_unfrozen(),
            Standby::Prepared => self.shallowest_unfrozen(),
            other => other,
        }
    }

    fn shallowest_unfrozen(&self) -> Standby {
        match self.no_prepare.stands() {
            false => Standby::Prepared,
            true => Standby::Absent,
        }
    }

    /// Wakes up to `missing` replicas, the warmest and most recently used first; answers how many
    /// are still missing. Those that are just being frozen are waited for: that is sooner than
    /// any start.
    pub(super) fn wake(
        &mut self,
        mut missing: u32,
        revision: &Arc<Revision>,
        config: &Config,
        now: Instant,
        plan: &mut Plan,
    ) -> u32 {
        let generation = self.generation;
        let mut resting: Vec<_> = self
            .slots
            .iter()
            .filter(|x| x.generation == generation)
            .filter_map(|x| {
                let depth = match x.phase {
                    Phase::Pausing => 0,
                    Phase::Paused => 1,
                    Phase::Prepared => 2,
                    _ => return None,
                };
                Some((depth, std::cmp::Reverse(x.last_used), x.key))
            })
            .collect();
        resting.sort_unstable();
        for (_, _, key) in resting {
            if missing == 0 {
                break;
            }
            missing -= 1;
            let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
                continue;
            };
            let Some(container) = slot.container.clone() else {
                continue;
            };
            let awake = slot.phase != Phase::Pausing;
            if awake
                && let Some(room) = &slot.room
                && let Err(failure) = room.run(ask(revision, &self.wake), &mut self.place)
            {
                self.without_room(failure, revision, config, now, plan);
                return 0;
            }
            match slot.phase {
                Phase::Paused => {
                    slot.enter(Phase::Resuming);
                    slot.thaw = Some(watch::Sender::new(Thaw::Pending));
                    plan.actions.push(Action::Resume { key, container });
                }
                Phase::Prepared => {
                    if let Some(endpoints) = slot.endpoints.clone() {
                        slot.enter(Phase::Starting);
                        slot.ended = false;
                        slot.started_at = Some(SystemTime::now());
                        plan.actions.push(Action::StartPrepared {
                            key,
                            job: slot.job(revision.clone()),
                            container,
                            endpoints,
                        });
                    }
                }
                _ => {}
            }
        }
        missing
    }

    /// Draining => Pausing or Preparing, where the app allows; whether the slot rests now.
    pub(super) fn rest(
        &mut self,
        at: usize,
        revision: &Arc<Revision>,
        config: &Config,
        plan: &mut Plan,
    ) -> bool {
        let standby = self.standby(revision, config);
        let healthy = self.slots[at].drain_until.is_none() && !self.slots[at].cancel.is_cancelled();
        let current = self.slots[at].generation == self.generation && self.closed.is_none();
        if !healthy || !current {
            return false;
        }
        let slot = &mut self.slots[at];
        let Some(container) = slot.container.clone() else {
            return false;
        };
        match standby {
            Standby::Pause if slot.replica.is_some() => {
                slot.enter(Phase::Pausing);
                slot.frozen = true;
                if let Some(replica) = &slot.replica {
                    replica.drop_idle();
                }
                plan.actions.push(Action::Pause {
                    key: slot.key,
                    container,
                });
                true
            }
            Standby::Pause | Standby::Prepared => {
                prepare(slot, revision, plan);
                true
            }
            Standby::Absent => false,
        }
    }

    /// Paused => Preparing, and anything => gone, by time, by the memory budget or by hand.
    pub(super) fn age(
        &mut self,
        revision: &Arc<Revision>,
        config: &Config,
        now: Instant,
        plan: &mut Plan,
    ) {
        let standby = self.standby(revision, config);
        let may_prepare = standby != Standby::Absent && !self.no_prepare.stands();
        // Apps with reserved capacity are exempt.
        let torn_down =
            (revision.scaling.reserved == 0).then(|| self.last_active + config.teardown_after);
        let long_idle = torn_down.is_some_and(|at| now >= at);
        for slot in &mut self.slots {
            match slot.phase {
                Phase::Paused if long_idle || standby == Standby::Absent => {
                    slot.enter(Phase::Draining)
                }
                Phase::Paused => {
                    let due = slot.since + config.standby_pause_for;
                    let must_go = slot.room.as_ref().is_some_and(Room::must_go);
                    if standby == Standby::Pause && !must_go && now < due {
                        plan.sooner(torn_down.map_or(due, |at| at.min(due)));
                    } else if may_prepare {
                        prepare(slot, revision, plan);
                    } else {
                        slot.enter(Phase::Draining);
                    }
                }
                Phase::Prepared if long_idle || standby == Standby::Absent => {
                    slot.enter(Phase::Draining);
                }
                Phase::Prepared => torn_down.into_iter().for_each(|at| plan.sooner(at)),
                _ => continue,
            }
            // What leaves standby here goes for good.
            if slot.phase == Phase::Draining {
                slot.drain_until = Some(now);
            }
        }
    }

    /// Pausing => Paused, or on to the next depth.
    pub(super) fn paused(&mut self, key: u64, outcome: Result<u64, Error>, config: &Config) {
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|x| x.key == key && x.phase == Phase::Pausing)
        else {
            return;
        };
        match outcome {
            Ok(bytes) if !slot.ended => {
                self.no_pause.clear();
                slot.enter(Phase::Paused);
                if let Some(room) = &slot.room {
                    room.freeze(bytes);
                }
                let text = format!("frozen with {} MB of memory", bytes >> 20);
                self.events
                    .push(EventKind::ReplicaPaused, Some(&slot.id), slot.version, text);
            }
            Ok(_) | Err(Error::Ended { .. } | Error::NoSuchContainer(_)) => {
                slot.enter(Phase::Failed);
                self.events.push(
                    EventKind::ReplicaFailed,
                    Some(&slot.id),
                    slot.version,
                    "its container ended when it was frozen",
                );
            }
            Err(error) => {
                tracing::warn!(replica = %slot.id, %error, "A replica could not be frozen");
                slot.enter(Phase::Draining);
                match error {
                    Error::Refused { .. } => self.no_pause.note(&error, config),
                    // Nothing better can be expected of another try, which would follow at once.
                    _ => slot.drain_until = Some(Instant::now()),
                }
            }
        }
    }

    /// Resuming => Ready, or it is taken away.
    pub(super) fn resumed(&mut self, key: u64, outcome: Result<(), Error>) {
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|x| x.key == key && x.phase == Phase::Resuming)
        else {
            return;
        };
        let took = slot.since.elapsed();
        match outcome {
            Ok(()) => {
                slot.enter(Phase::Ready);
                slot.frozen = false;
                self.last_active = Instant::now();
                let text = format!("awake after {took:.1?}");
                self.events
                    .push(EventKind::ReplicaReady, Some(&slot.id), slot.version, text);
            }
            Err(error) => {
                tracing::warn!(replica = %slot.id, %error, "A replica did not wake from standby; another takes its place");
                if matches!(error, Error::Refused { .. }) {
                    slot.thaw_ended(Thaw::Failed);
                }
                slot.enter(Phase::Failed);
                self.events.push(
                    EventKind::ReplicaFailed,
                    Some(&slot.id),
                    slot.version,
                    format!("it did not wake from standby: {error}"),
                );
            }
        }
    }

    /// Starting => Failed: what was prepared did not come up, the next start is from nothing.
    pub(super) fn wake_failed(&mut self, key: u64, fault: Fault) {
        let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
            return;
        };
        let why = match fault {
            Fault::Cancelled => "its start was called off".to_owned(),
            Fault::Failed { failure, .. } => failure.text(true),
        };
        tracing::info!(replica = %slot.id, "A prepared replica did not start: {why}");
        slot.enter(Phase::Failed);
        self.events
            .push(EventKind::StartFailed, Some(&slot.id), slot.version, why);
    }

    /// Preparing => Prepared, or gone.
    pub(super) fn prepared(&mut self, key: u64, outcome: Result<Prepared, Error>, config: &Config) {
        let Some(at) = self
            .slots
            .iter()
            .position(|x| x.key == key && x.phase == Phase::Preparing)
        else {
            return;
        };
        match outcome {
            Ok(prepared) => {
                self.no_prepare.clear();
                let slot = &mut self.slots[at];
                slot.enter(Phase::Prepared);
                slot.container = Some(prepared.container);
                slot.holder = Some(prepared.holder);
                slot.endpoints = Some(prepared.endpoints);
                if let Some(room) = &slot.room {
                    room.prepare();
                }
                slot.started_at = None;
                slot.ready_at = None;
                self.events.push(
                    EventKind::ReplicaPrepared,
                    Some(&slot.id),
                    slot.version,
                    "its process is gone, its container and network are kept",
                );
            }
            Err(error) => {
                if matches!(error, Error::Refused { .. }) {
                    self.no_prepare.note(&error, config);
                }
                tracing::warn!(replica = %self.slots[at].id, %error, "A replica could not be prepared; {}", self.no_prepare.outlook());
                let slot = self.slots.remove(at);
                self.events.push(
                    EventKind::ReplicaStopped,
                    Some(&slot.id),
                    slot.version,
                    format!("its container is gone; it could not be prepared: {error}"),
                );
            }
        }
    }
}

/// Paused or Draining => Preparing.
fn prepare(slot: &mut Slot, revision: &Arc<Revision>, plan: &mut Plan) {
    slot.enter(Phase::Preparing);
    slot.replica = None;
    plan.actions.push(Action::Prepare {
        key: slot.key,
        id: slot.id.clone(),
        revision: revision.clone(),
        container: slot.container.take(),
        holder: slot.holder.take(),
        frozen: std::mem::take(&mut slot.frozen),
    });
}
