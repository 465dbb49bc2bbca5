//! The autoscaler of one app: how many replicas its load calls for.
//!
//! A leaf that knows numbers and times, but no replicas. Every arrival, departure and change of the
//! backlog is a sample, taken in constant time under the mutex of the app's state, so scaling up
//! needs no polling. Time alone can lower the demand, too (the minute of arrivals, the scale-down
//! period); for that the app is sampled once a second while it has replicas to spare.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::scaling::{self, Demand, Effective, Observed, Peak, RateWindow};

/// How often an app with replicas to spare is sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The load of an app at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Requests in flight on replicas.
    pub(super) in_flight: u32,
    /// Requests and executions that wait for a replica.
    pub(super) waiting: u32,
    /// Replicas that serve or are on their way up.
    pub(super) up: u32,
    /// When the app last had a request.
    pub(super) last_active: Instant,
}

impl Load {
    /// Whether any request is in flight or waits.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0 || self.waiting > 0
    }
}

/// How many replicas there should be.
#[derive(Debug)]
pub(super) struct Decision {
    /// The number.
    pub(super) want: u32,
    /// The change and its reason, if the number changed.
    pub(super) change: Option<String>,
}

/// When the decided number may fall without any event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Falls {
    /// Never.
    Never,
    /// Some time after the last request in flight ends.
    OnceIdle,
    /// At the earliest at this time.
    At(Instant),
}

/// The memory of one app's autoscaler.
#[derive(Debug)]
pub(super) struct Autoscaler {
    /// The origin of the times below.
    epoch: Instant,
    rate: RateWindow,
    peak: Peak,
    /// The number of replicas that was last decided, from which changes are recorded.
    decided: u32,
    /// The number of replicas to keep whatever the load is, while the owner has the autoscaler
    /// stopped. The API calls it frozen, a word that the fleet keeps for containers.
    pinned: Option<u32>,
    /// At least so many replicas until this time, chosen by hand.
    floor: Option<(u32, Instant)>,
    /// Zero was chosen by hand, and no request has arrived since.
    at_rest: bool,
}

impl Autoscaler {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            rate: RateWindow::default(),
            peak: Peak::default(),
            decided: 0,
            pinned: None,
            floor: None,
            at_rest: false,
        }
    }

    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// Counts the arrival of a request.
    pub(super) fn arrived(&mut self, now: Instant) {
        let at = self.at(now);
        self.rate.add(at);
        self.at_rest = false;
    }

    /// Keeps `n` replicas until `until`, whatever the past load was.
    pub(super) fn choose(&mut self, now: Instant, n: u32, until: Instant) {
        self.forget(now);
        self.floor = (n > 0).then_some((n, until));
        self.at_rest = n == 0;
        if self.pinned.is_some() {
            self.pinned = Some(n);
        }
    }

    /// Stops deciding and keeps this number, or decides again for `None`.
    pub(super) fn pin(&mut self, replicas: Option<u32>) {
        self.pinned = replicas;
    }

    /// The number it is pinned at.
    pub(super) fn pinned(&self) -> Option<u32> {
        self.pinned
    }

    /// Forgets the demand of the past.
    pub(super) fn forget(&mut self, now: Instant) {
        let at = self.at(now);
        self.peak.reset(at, 0);
    }

    fn observed(&mut self, load: Load, now: Instant) -> Observed {
        let at = self.at(now);
        Observed {
            in_flight: load.in_flight,
            held: load.waiting,
            arrivals: self.rate.sum(at),
        }
    }

    /// Takes a sample; true when it wants more replicas than are up.
    pub(super) fn sample(&mut self, scaling: &Effective, load: Load, now: Instant) -> bool {
        let wanted = scaling.wanted(self.observed(load, now));
        let at = self.at(now);
        self.peak.record(at, wanted);
        wanted > load.up
    }

    /// How many replicas there should be now.
    pub(super) fn desired(&mut self, scaling: &Effective, load: Load, now: Instant) -> u32 {
        self.demand(scaling, load, now).0
    }

    /// The number of replicas, with the demand behind it unless it was chosen by hand.
    fn demand(&mut self, scaling: &Effective, load: Load, now: Instant) -> (u32, Option<Demand>) {
        if let Some(n) = self.pinned {
            return (n.min(scaling.max), None);
        }
        self.sample(scaling, load, now);
        self.floor.take_if(|(_, until)| *until <= now);
        let floor = self.floor.map_or(0, |(n, _)| n).min(scaling.max);
        let at = self.at(now);
        let demand = Demand {
            observed: self.observed(load, now),
            peak: self.peak.largest(at, scaling.scaledown),
            up: load.up,
            idle_for: if self.at_rest {
                Duration::MAX
            } else {
                now.saturating_duration_since(load.last_active)
            },
        };
        let desired = scaling::desired(scaling, demand);
        if floor > desired {
            return (floor, None);
        }
        (desired, Some(demand))
    }

    /// Decides how many replicas there should be, and explains a change.
    pub(super) fn decide(&mut self, scaling: &Effective, load: Load, now: Instant) -> Decision {
        let (want, demand) = self.demand(scaling, load, now);
        let before = std::mem::replace(&mut self.decided, want);
        let change = (want != before).then(|| {
            let why = demand.map_or_else(
                || "chosen by hand".to_owned(),
                |demand| scaling::reason(scaling, demand),
            );
            format!("{before} → {want}: {why}")
        });
        Decision { want, change }
    }

    /// When `want`, the number that was just decided, may fall with time alone.
    pub(super) fn falls(&self, scaling: &Effective, load: Load, want: u32, now: Instant) -> Falls {
        if want <= scaling.reserved || self.pinned.is_some() {
            return Falls::Never;
        }
        if want > scaling.reserved.max(1) {
            return Falls::At(now + SAMPLE_EVERY);
        }
        if load.is_busy() {
            return Falls::OnceIdle;
        }
        let idle_at = load.last_active + scaling.scaledown;
        Falls::At(self.floor.map_or(idle_at, |(_, until)| until.max(idle_at)))
    }
}
