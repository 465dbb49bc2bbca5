//! What the mutex of a deployment guards, and the small steps that keep it consistent.
//!
//! `plan.rs` and `driver.rs` have further steps, each beside the task that takes it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    Config,
    demand::Meter,
    deployment::Deployment,
    events::Events,
    hold::Queue,
    lease::Lease,
    ports::{Suspicion, WrongPort},
    postmortem::Fate,
    refusal::Refusal,
    replica::{Phase, Slot},
    room::{Ledger, Place},
};
use crate::model::{Failure, Reason, Revision, Standby};

/// A replica that ran shorter than this before it died counts as a crash for the back-off.
pub(super) const CRASH_WINDOW: Duration = Duration::from_secs(10);

/// A revision whose first replica is being readied beside what serves.
pub(super) struct Pending {
    pub(super) revision: Arc<Revision>,
    pub(super) generation: u64,
    pub(super) answer: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Set while its start finds no room.
    pub(super) no_room_since: Option<Instant>,
    /// Its place among those who wait for room.
    pub(super) place: Option<Place>,
}

/// A start that is wanted finds no room.
pub(super) struct NoRoom {
    pub(super) since: Instant,
    /// Who has it, in words.
    pub(super) why: String,
    /// Frozen replicas that would make enough room were told to go.
    pub(super) on_its_way: bool,
    /// Nobody waits for it any more: what everybody is told.
    pub(super) refused: Option<Failure>,
}

/// What went wrong lately.
#[derive(Default)]
pub(super) struct Trouble {
    /// Failed starts since the last good one.
    pub(super) failed_starts: u32,
    /// Replicas in a row that died soon after they were ready.
    pub(super) crashes: u32,
    /// No start before this.
    pub(super) retry_at: Option<Instant>,
    /// Why starting cannot succeed now.
    pub(super) certain: Option<Failure>,
}

pub(super) struct State {
    pub(super) generation: u64,
    /// A version is active. Until then nothing is wanted but what is pending.
    pub(super) published: bool,
    pub(super) pending: Option<Pending>,
    pub(super) slots: Vec<Slot>,
    pub(super) queue: Queue,
    pub(super) in_flight: u32,
    /// Executions that are accepted and not sent to a replica yet.
    pub(super) backlog: u32,
    pub(super) last_active: Instant,
    /// The driver wants to hear when nothing is in flight any more.
    pub(super) tell_when_idle: bool,
    /// There are more replicas than wanted, all busy: the driver wants to hear when one is not.
    pub(super) tell_when_spare: bool,
    pub(super) trouble: Trouble,
    /// The last thing that went wrong and when, for people; outlives the trouble itself.
    pub(super) last_failure: Option<(Failure, SystemTime)>,
    /// When a request last came or ended.
    pub(super) last_request: Option<Instant>,
    /// Set when the app is deleted or the platform stops: nothing is started or handed out.
    pub(super) closed: Option<Closed>,
    pub(super) counter: u64,
    /// What the autoscaler remembers.
    pub(super) meter: Meter,
    /// What happened.
    pub(super) events: Events,
    /// The room on this machine.
    pub(super) ledger: Arc<Ledger>,
    /// Wakes the driver; the ledger does, when there is room.
    pub(super) wake: Arc<Notify>,
    /// Set while a start is wanted and finds no room.
    pub(super) no_room: Option<NoRoom>,
    /// The app's place among those who wait for room, kept as long as it asks.
    pub(super) place: Option<Place>,
    /// The present plan asked for room and found none.
    pub(super) asks: bool,
    /// How deep the app rests until it is asked again, chosen by hand.
    pub(super) rest_at: Option<Standby>,
    /// How a start of a generation listened elsewhere than where it was asked, and failed.
    pub(super) wrong_port: Option<(u64, WrongPort)>,
    /// Whether the engine refused to freeze one of its replicas.
    pub(super) no_pause: Refusal,
    /// Whether it refused to prepare one.
    pub(super) no_prepare: Refusal,
    /// The owner was told that the app's files can be lost.
    pub(super) warned_of_files: bool,
}

pub(super) struct Closed {
    pub(super) why: Failure,
    /// Replicas with requests in flight are stopped from here on.
    pub(super) drain_until: Instant,
}

impl State {
    pub(super) fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn serves(&self, slot: &Slot) -> bool {
        slot.phase.takes_requests() && slot.generation == self.generation
    }

    pub(super) fn must_prepare(&self, serving: &Revision, next: &Revision) -> bool {
        self.has_ready() && self.closed.is_none() && !serving.same_container(next)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.slots.iter().any(|x| self.serves(x))
    }

    /// What a start of this generation may end early for.
    pub(super) fn suspicion(&self, generation: u64) -> Suspicion {
        let pending = self.pending.as_ref().map(|p| p.generation);
        let before = self.wrong_port.as_ref();
        Suspicion {
            checked: pending == Some(generation),
            before: before
                .filter(|(of, _)| *of == generation)
                .map(|(_, wrong)| wrong.clone()),
        }
    }

    /// Why a request has had no replica so far, in words for anybody and for the app's owner.
    pub(super) fn unserved(&self, now: Instant) -> (String, Option<String>) {
        let current = |x: &&Slot| x.generation == self.generation;
        let starting = self.slots.iter().filter(current).find(|x| x.starts());
        let failed = self.last_failure.as_ref().map(|(failure, _)| failure);
        let failed = failed.filter(|_| self.trouble.failed_starts + self.trouble.crashes > 0);
        if self.has_ready() {
            let full = "every replica is at its max_concurrency; raise it or max_replicas";
            let more = starting.map(|x| format!(" (another one starts: {})", x.progress.text()));
            return (format!("{full}{}", more.unwrap_or_default()), None);
        }
        if let Some(slot) = starting {
            let how = slot.progress.text();
            let before = failed.map_or_else(String::new, |f| {
                format!("; the replica before it failed: {}", f.message)
            });
            let detail = failed.and_then(|f| f.detail.clone());
            let detail: Vec<_> = slot.progress.hint().into_iter().chain(detail).collect();
            let detail = (!detail.is_empty()).then(|| detail.join("; "));
            return (
                format!("a replica is starting and not ready yet: {how}{before}"),
                detail,
            );
        }
        if let Some(shortage) = &self.no_room {
            return (shortage.why.clone(), None);
        }
        if let Some(failure) = self.trouble.certain.as_ref().or(failed) {
            let wait = self
                .trouble
                .retry_at
                .and_then(|at| at.checked_duration_since(now));
            let next = wait.filter(|wait| !wait.is_zero()).map(|wait| {
                let wait = Duration::from_millis(wait.as_millis() as u64);
                format!(
                    "; the next start is in {}",
                    humantime::format_duration(wait)
                )
            });
            let text = format!("{}{}", failure.message, next.unwrap_or_default());
            return (text, failure.detail.clone());
        }
        let why = match (self.meter.frozen, self.slots.first()) {
            (Some(0), _) => {
                "its autoscaler is frozen at 0 replicas; unfreeze it, or scale it to 1".to_owned()
            }
            (_, Some(slot)) => format!("its replica is {}", slot.phase.word()),
            (_, None) => "its start has not begun, since the container engine has not answered yet"
                .to_owned(),
        };
        (why, None)
    }

    /// No start until the back-off for `failures` in a row has passed; the first retry is free.
    pub(super) fn back_off(&mut self, config: &Config, failures: u32) {
        let wait = match failures {
            0 | 1 => Duration::ZERO,
            n => config
                .backoff_initial
                .saturating_mul(1 << (n - 2).min(16))
                .min(config.backoff_max),
        };
        self.trouble.retry_at = Some(Instant::now() + wait);
    }

    /// Ready or Draining => Failed.
    pub(super) fn died(&mut self, deployment: &Deployment, at: usize) {
        let slot = &mut self.slots[at];
        let served = slot.phase == Phase::Ready;
        slot.enter(Phase::Failed);
        let generation = slot.generation;
        let ran = slot
            .replica
            .as_ref()
            .map_or(Duration::ZERO, |r| r.ready_at.elapsed());
        tracing::warn!(app = %deployment.id(), replica = %slot.id, ran = ?ran, "The replica died");
        slot.unexamined = slot.replica.is_some();
        if let Some(replica) = &slot.replica {
            replica.fate.send_replace(Fate::Ended);
        }
        // Until it is known how.
        let why = Failure::new(Reason::ContainerExited, "a replica ended while it served");
        self.last_failure = Some((why.clone(), SystemTime::now()));
        if let Some(p) = self.pending.take_if(|p| p.generation == generation) {
            if let Some(answer) = p.answer {
                let _ = answer.send(Err(why));
            }
        } else if served && generation == self.generation {
            // Only the end of one that serves counts: nobody misses one on its way out.
            self.trouble.crashes = if ran < CRASH_WINDOW {
                self.trouble.crashes + 1
            } else {
                0
            };
            self.back_off(&deployment.config, self.trouble.crashes);
        }
    }

    pub(super) fn abandon_pending(&mut self) {
        if let Some(p) = self.pending.take() {
            for slot in self
                .slots
                .iter_mut()
                .filter(|x| x.generation == p.generation)
            {
                slot.cancel.cancel();
            }
        }
    }

    /// A lease on the ready replica with the fewest requests and a free slot, if there is one;
    /// among equals the most recently used, so that spare replicas go idle.
    pub(super) fn lease(&mut self, deployment: &Arc<Deployment>, now: Instant) -> Option<Lease> {
        let revision = deployment.revision.load();
        let limit = if revision.max_concurrency == 0 {
            u32::MAX
        } else {
            revision.max_concurrency
        };
        let generation = self.generation;
        let number = self.next_number();
        let slot = self
            .slots
            .iter_mut()
            .filter(|x| {
                x.phase.takes_requests() && x.generation == generation && x.in_flight < limit
            })
            .min_by_key(|x| {
                // Among equals one that is awake.
                let asleep = x.phase != Phase::Ready;
                (x.in_flight, asleep, std::cmp::Reverse(x.last_used))
            })?;
        let replica = slot.replica.clone()?;
        slot.in_flight += 1;
        slot.last_used = number;
        let age = slot.ages.begin(now, revision.timeout);
        self.in_flight += 1;
        Some(Lease {
            age: Some(age),
            deployment: deployment.clone(),
            replica,
            key: slot.key,
            cold: None,
            thaw: slot.thaw.as_ref().map(watch::Sender::subscribe),
            seat: None,
        })
    }

    /// Hands free slots to those who wait, in order. Leases that came back must be dropped by
    /// the caller after the lock.
    #[must_use]
    pub(super) fn grant(&mut self, deployment: &Arc<Deployment>) -> Vec<Lease> {
        let mut unsent = Vec::new();
        while !self.queue.is_empty() {
            let Some(lease) = self.lease(deployment, Instant::now()) else {
                break;
            };
            if let Err(lease) = self.queue.grant(lease) {
                unsent.push(lease);
            }
        }
        unsent
    }
}
