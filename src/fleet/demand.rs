//! The autoscaler of one app: samples what is asked of it, and how many replicas that makes.
//!
//! Every arrival, departure and change of the backlog is a sample, taken under the deployment's
//! mutex in constant time, so scaling up needs no polling. What lowers the demand with time alone
//! (the minute of arrivals, the scale-down period) is looked at by the driver once a second while
//! there is a replica that could go.

use std::time::Duration;

use tokio::time::Instant;

use super::{events::EventKind, state::State};
use crate::model::{
    Revision,
    scaling::{self, Demand, Observed, Peak, RateWindow},
};

/// How often an app with replicas to spare is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the autoscaler of one app remembers.
pub(super) struct Meter {
    /// What the times below count from.
    epoch: Instant,
    rate: RateWindow,
    peak: Peak,
    /// The number of replicas that was last decided, for the record of changes.
    decided: u32,
    /// Set while the autoscaler is frozen: the number that somebody chose.
    pub(super) frozen: Option<u32>,
    /// At least so many until then, chosen by hand.
    floor: Option<(u32, Instant)>,
    /// Zero was chosen by hand, and nothing has been asked since.
    at_rest: bool,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            rate: RateWindow::default(),
            peak: Peak::default(),
            decided: 0,
            frozen: None,
            floor: None,
            at_rest: false,
        }
    }

    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// A request has come.
    pub(super) fn arrived(&mut self, now: Instant) {
        let at = self.at(now);
        self.rate.add(at);
        self.at_rest = false;
    }

    /// Somebody wants `n` replicas now and for some time, whatever the load was.
    pub(super) fn choose(&mut self, now: Instant, n: u32, until: Instant) {
        self.reset(now, 0);
        self.floor = (n > 0).then_some((n, until));
        self.at_rest = n == 0;
        if self.frozen.is_some() {
            self.frozen = Some(n);
        }
    }

    /// When the number chosen by hand is not kept any more.
    pub(super) fn chosen_until(&self) -> Option<Instant> {
        self.floor.map(|(_, until)| until)
    }

    /// Forgets the demand of the past but for this number of replicas.
    pub(super) fn reset(&mut self, now: Instant, replicas: u32) {
        let at = self.at(now);
        self.peak.reset(at, replicas);
    }
}

impl State {
    fn observed(&mut self, now: Instant) -> Observed {
        let at = self.meter.at(now);
        Observed {
            in_flight: self.in_flight,
            held: u32::try_from(self.queue.len())
                .unwrap_or(u32::MAX)
                .saturating_add(self.backlog),
            arrivals: self.meter.rate.sum(at),
        }
    }

    pub(super) fn busy(&self) -> bool {
        self.in_flight > 0 || self.backlog > 0 || !self.queue.is_empty()
    }

    /// Takes a sample; true when more replicas are wanted than are up, which the driver must hear.
    pub(super) fn sample(&mut self, revision: &Revision, now: Instant) -> bool {
        let wanted = revision.scaling.wanted(self.observed(now));
        let at = self.meter.at(now);
        self.meter.peak.record(at, wanted);
        wanted > self.up()
    }

    /// How many replicas there should be now.
    pub(super) fn desired(&mut self, revision: &Revision, now: Instant) -> u32 {
        self.decide(revision, now).0
    }

    fn decide(&mut self, revision: &Revision, now: Instant) -> (u32, Option<Demand>) {
        if self.closed.is_some() || !self.published {
            return (0, None);
        }
        if let Some(n) = self.meter.frozen {
            return (n.min(revision.scaling.max), None);
        }
        self.sample(revision, now);
        self.meter.floor.take_if(|(_, until)| *until <= now);
        let floor = self
            .meter
            .floor
            .map_or(0, |(n, _)| n)
            .min(revision.scaling.max);
        let at = self.meter.at(now);
        let demand = Demand {
            observed: self.observed(now),
            peak: self.meter.peak.largest(at, revision.scaling.scaledown),
            up: self.up(),
            idle_for: match self.meter.at_rest {
                true => Duration::MAX,
                false => now.saturating_duration_since(self.last_active),
            },
        };
        let desired = scaling::desired(&revision.scaling, demand);
        if floor > desired {
            return (floor, None);
        }
        (desired, Some(demand))
    }

    /// Decides, and writes a change of mind down with its reason.
    pub(super) fn decide_and_record(&mut self, revision: &Revision, now: Instant) -> u32 {
        let (want, demand) = self.decide(revision, now);
        let before = std::mem::replace(&mut self.meter.decided, want);
        if want != before && self.closed.is_none() {
            let why = demand.map_or_else(
                || "chosen by hand".to_owned(),
                |d| scaling::reason(&revision.scaling, d),
            );
            self.events.push(
                EventKind::Scaled,
                None,
                revision.version,
                format!("{before} → {want}: {why}"),
            );
        }
        want
    }
}
