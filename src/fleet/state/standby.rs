//! Warm standby: where replicas go that are not needed, and how they return.
//!
//! ```text
//! Draining ─► Pausing ─► Paused ─► Preparing ─► Prepared ─► (gone)
//!                          │ Resuming ─► Ready    │ Starting ─► Ready
//! ```
//!
//! The plan takes the steps here, under the deployment's mutex; `standby_ops.rs` carries out the
//! slow parts. After a failed wake the replica is removed and the next plan takes the next depth,
//! or a start; a request is not sent again unless it is known to have stayed unread. Standby
//! belongs to one generation, so a change of version, environment or limits drops it.

use tokio::time::Instant;

use super::{
    State, capacity_for,
    phase::{Containers, Phase, Start},
    plan::{Action, Plan},
};
use crate::{
    engine::{Error, Prepared},
    fleet::{events::EventKind, ports::Suspicion, send_while_resuming::Thaw, start::Fault},
    metrics::Depth,
    model::Standby,
};

impl State {
    /// The depth of standby that this app's replicas may enter now.
    pub(super) fn standby(&self) -> Standby {
        let chosen = self.rest_at.or(self.revision.standby);
        match chosen.unwrap_or(self.config.standby) {
            Standby::Pause if self.no_pause.stands() => self.shallowest_unfrozen(),
            Standby::Prepared => self.shallowest_unfrozen(),
            other => other,
        }
    }

    fn shallowest_unfrozen(&self) -> Standby {
        if self.no_prepare.stands() {
            Standby::Absent
        } else {
            Standby::Prepared
        }
    }

    /// Wakes up to `missing` replicas, the warmest and most recently used first; returns how many
    /// are still missing. Replicas that are just being frozen count: to wait for them is faster
    /// than any start.
    pub(super) fn leave_standby(&mut self, mut missing: u32, now: Instant, plan: &mut Plan) -> u32 {
        let generation = self.generation;
        let mut resting: Vec<_> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, x)| x.generation == generation)
            .filter_map(|(at, x)| {
                let depth = match x.phase() {
                    Phase::Pausing(_) => 0,
                    Phase::Paused(_) => 1,
                    Phase::Prepared(_) => 2,
                    _ => return None,
                };
                Some((depth, std::cmp::Reverse(x.last_used), x.key, at))
            })
            .collect();
        resting.sort_unstable();
        for (_, _, _, at) in resting {
            if missing == 0 {
                break;
            }
            missing -= 1;
            let (revision, slot) = (self.revision.clone(), &self.slots[at]);
            if matches!(slot.phase(), Phase::Pausing(_)) {
                continue;
            }
            let wanted = capacity_for(&revision, &self.wake);
            let reservation = slot.reservation.run(wanted, &mut self.queue_position);
            if let Err(failure) = reservation {
                self.without_capacity(failure, now, plan);
                return 0;
            }
            let start = Start::new(self.progress(&slot.id, &revision));
            let slot = &mut self.slots[at];
            let (key, id) = (slot.key, slot.id.clone());
            let action = slot.advance(|phase| match phase {
                Phase::Paused(live) => {
                    let container = live.replica().container.clone();
                    let action = Action::Resume { key, container };
                    (Phase::Resuming(live.resume()), Some(action))
                }
                Phase::Prepared(prepared) => {
                    let action = Action::StartPrepared {
                        key,
                        job: start.job(id, revision, Suspicion::default()),
                        container: prepared.container.clone(),
                        endpoints: prepared.endpoints.clone(),
                    };
                    (Phase::Starting(start.of_prepared(prepared)), Some(action))
                }
                other => (other, None),
            });
            plan.actions.extend(action);
        }
        missing
    }

    /// Draining => Pausing or Preparing, if the app allows standby; whether the slot rests now.
    pub(super) fn enter_standby(&mut self, at: usize, plan: &mut Plan) -> bool {
        let standby = self.standby();
        let slot = &mut self.slots[at];
        let stays = matches!(slot.phase(), Phase::Draining(draining) if draining.may_stay());
        let current = slot.generation == self.generation && self.closed.is_none();
        if !stays || !current {
            return false;
        }
        match standby {
            Standby::Pause => {
                let key = slot.key;
                let action = slot.advance(|phase| match phase {
                    Phase::Draining(draining) => {
                        let pausing = draining.pause();
                        let container = pausing.container().clone();
                        let action = Action::Pause { key, container };
                        (Phase::Pausing(pausing), Some(action))
                    }
                    other => (other, None),
                });
                plan.actions.extend(action);
                true
            }
            Standby::Prepared => {
                self.prepare_slot(at, plan);
                true
            }
            Standby::Absent => false,
        }
    }

    /// Paused or Draining => Preparing.
    fn prepare_slot(&mut self, at: usize, plan: &mut Plan) {
        let slot = &mut self.slots[at];
        let (key, id) = (slot.key, slot.id.clone());
        let action = slot.prepare().map(|vacated| Action::Prepare {
            key,
            id,
            revision: self.revision.clone(),
            vacated,
        });
        plan.actions.extend(action);
    }

    /// Paused => Preparing, and Paused or Prepared => gone, by time, by the memory budget or by
    /// hand.
    pub(super) fn age_standby(&mut self, now: Instant, plan: &mut Plan) {
        let standby = self.standby();
        let may_prepare = standby != Standby::Absent && !self.no_prepare.stands();
        // Apps with reserved capacity keep their standby.
        let torn_down = (self.revision.scaling.reserved == 0)
            .then(|| self.last_active + self.config.teardown_after);
        let goes = torn_down.is_some_and(|at| now >= at) || standby == Standby::Absent;
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            match slot.phase() {
                Phase::Paused(_) if !goes => {
                    let due = slot.since() + self.config.standby_pause_for;
                    if standby == Standby::Pause && !slot.reservation.must_go() && now < due {
                        plan.sooner(torn_down.map_or(due, |at| at.min(due)));
                        continue;
                    }
                    if may_prepare {
                        self.prepare_slot(at, plan);
                        continue;
                    }
                }
                Phase::Prepared(_) if !goes => {
                    torn_down.into_iter().for_each(|at| plan.sooner(at));
                    continue;
                }
                Phase::Paused(_) | Phase::Prepared(_) => {}
                _ => continue,
            }
            // What leaves standby here is removed for good.
            let removal = slot.stop(self.config.stop_grace);
            plan.stop(slot.key, removal);
        }
    }

    /// Pausing => Paused, or on to the next depth.
    pub(super) fn paused(&mut self, key: u64, outcome: Result<Option<u64>, Error>) {
        let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
            return;
        };
        let Phase::Pausing(pausing) = slot.phase() else {
            return;
        };
        match outcome {
            Ok(bytes) if !pausing.has_ended() => {
                self.no_pause.clear();
                slot.turn(|phase| match phase {
                    Phase::Pausing(pausing) => Phase::Paused(pausing.paused()),
                    other => other,
                });
                let counted = slot.reservation.freeze(bytes) >> 20;
                let text = match bytes {
                    Some(_) => format!("frozen with {counted} MB of memory"),
                    None => format!(
                        "frozen; its memory cannot be measured here and counts as its limit of {counted} MB"
                    ),
                };
                self.events
                    .push(EventKind::ReplicaPaused, Some(&slot.id), slot.version, text);
            }
            Ok(_) | Err(Error::Ended { .. } | Error::NoSuchContainer(_)) => {
                slot.turn(|phase| match phase {
                    Phase::Pausing(pausing) => Phase::Failed(pausing.failed()),
                    other => other,
                });
                self.events.push(
                    EventKind::ReplicaFailed,
                    Some(&slot.id),
                    slot.version,
                    "its container ended when it was frozen",
                );
            }
            Err(error) => {
                tracing::warn!(replica = %slot.id, %error, "A replica could not be frozen");
                let until = if let Error::Refused { .. } = error {
                    self.no_pause.note(&error, &self.config);
                    None
                } else {
                    // Stopped now, since another attempt would follow at once and is no more likely
                    // to succeed.
                    Some(Instant::now())
                };
                slot.turn(|phase| match phase {
                    Phase::Pausing(pausing) => Phase::Draining(pausing.refused(until)),
                    other => other,
                });
            }
        }
    }

    /// Resuming => Ready, or Failed.
    pub(super) fn resumed(&mut self, key: u64, outcome: Result<(), Error>) {
        let mut slots = self.slots.iter_mut();
        let Some(slot) = slots.find(|x| x.key == key && matches!(x.phase(), Phase::Resuming(_)))
        else {
            return;
        };
        let took = slot.since().elapsed();
        match outcome {
            Ok(()) => {
                slot.turn(|phase| match phase {
                    Phase::Resuming(resuming) => Phase::Ready(resuming.resumed()),
                    other => other,
                });
                self.last_active = Instant::now();
                self.config.metrics.fleet.woke(Depth::Paused, took);
                let text = format!("awake after {took:.1?}");
                self.events
                    .push(EventKind::ReplicaReady, Some(&slot.id), slot.version, text);
            }
            Err(error) => {
                tracing::warn!(replica = %slot.id, %error, "A replica did not wake from standby; another replaces it");
                let how = match error {
                    Error::Refused { .. } => Thaw::Failed,
                    // It may have run before it ended.
                    _ => Thaw::Unknown,
                };
                slot.turn(|phase| match phase {
                    Phase::Resuming(resuming) => Phase::Failed(resuming.failed(how)),
                    other => other,
                });
                self.events.push(
                    EventKind::ReplicaFailed,
                    Some(&slot.id),
                    slot.version,
                    format!("it did not wake from standby: {error}"),
                );
            }
        }
    }

    /// Starting => Failed: a prepared replica did not come up, so the next start begins from
    /// nothing.
    pub(super) fn prepared_start_failed(&mut self, key: u64, fault: Fault) {
        let Some(slot) = self.slots.iter_mut().find(|x| x.key == key) else {
            return;
        };
        let why = match fault {
            Fault::Cancelled => match slot.phase() {
                Phase::Starting(starting) if starting.has_lost_network() => {
                    Containers::LOST_NETWORK.to_owned()
                }
                _ => "its start was cancelled".to_owned(),
            },
            Fault::Failed { failure, .. } => failure.text(true),
        };
        tracing::info!(replica = %slot.id, "A prepared replica did not start: {why}");
        slot.turn(|phase| match phase {
            Phase::Starting(starting) => Phase::Failed(starting.failed()),
            other => other,
        });
        self.events
            .push(EventKind::StartFailed, Some(&slot.id), slot.version, why);
    }

    /// Preparing => Prepared, or gone.
    pub(super) fn prepared(&mut self, key: u64, outcome: Result<Prepared, Error>) {
        let mut slots = self.slots.iter();
        let preparing =
            slots.position(|x| x.key == key && matches!(x.phase(), Phase::Preparing(_)));
        let Some(at) = preparing else { return };
        match outcome {
            Ok(prepared) => {
                self.no_prepare.clear();
                let slot = &mut self.slots[at];
                slot.turn(|_| Phase::Prepared(prepared));
                slot.reservation.prepare();
                self.events.push(
                    EventKind::ReplicaPrepared,
                    Some(&slot.id),
                    slot.version,
                    "its process is gone, its container and network are kept",
                );
            }
            Err(error) => {
                if matches!(error, Error::Refused { .. }) {
                    self.no_prepare.note(&error, &self.config);
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
