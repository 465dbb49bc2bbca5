//! How many replicas an app should have, and when it returns to zero: pure decisions.
//!
//! Scaling up is immediate. Against oscillation, scaling down follows the largest demand of the
//! scale-down period ([`Peak`], the stabilization window of the HPA).

mod window;

use std::time::Duration;

use super::failure::FieldViolation;

pub use window::{Peak, RATE_WINDOW_SECS, RateWindow};

/// What the autoscaler compares with the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// Requests per second and replica, over one minute.
    #[default]
    RequestRate,
    /// Requests in flight per replica.
    Concurrency,
}

/// The scaling settings of an app as its owner set them; 0 means "the default".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scaling {
    /// Replicas that always run; 0 allows scale to zero.
    pub reserved_capacity: u32,
    /// The most replicas; 0 = [`DEFAULT_MAX_REPLICAS`].
    pub max_replicas: u32,
    /// The metric.
    pub metric: Metric,
    /// Target per replica for the metric; 0 = [`DEFAULT_THRESHOLD`].
    pub threshold: u32,
    /// Seconds without traffic before scaling down; 0 = [`DEFAULT_SCALEDOWN_SECS`].
    pub scaledown_period_secs: u32,
}

/// The contract's default for `max_replicas`.
pub const DEFAULT_MAX_REPLICAS: u32 = 10;
/// The contract's default for `scale_threshold`.
pub const DEFAULT_THRESHOLD: u32 = 10;
/// The contract's default for `scaledown_period_secs`.
pub const DEFAULT_SCALEDOWN_SECS: u32 = 300;
/// Largest accepted `scaledown_period_secs`: a day, the default time to idle teardown.
pub const MAX_SCALEDOWN_SECS: u32 = 86_400;
/// Largest accepted replica count in a request; the platform's cap applies below it.
pub const MAX_REPLICAS_LIMIT: u32 = 1_000;
/// Largest accepted threshold.
pub const MAX_THRESHOLD: u32 = 1_000_000;

/// The platform's bounds on every app's scaling.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most replicas of any app (`IGNITE_MAX_REPLICAS_CAP`).
    pub max_replicas_cap: u32,
    /// Shortest scale-down period (`IGNITE_MIN_SCALEDOWN_SECS`).
    pub min_scaledown: Duration,
}

/// Scaling with defaults and bounds applied, as the fleet uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// Replicas that always run.
    pub reserved: u32,
    /// The most replicas, at least 1 and at least `reserved`.
    pub max: u32,
    /// Time without traffic before scaling down.
    pub scaledown: Duration,
    /// The metric.
    pub metric: Metric,
    /// Target per replica for the metric, at least 1.
    pub threshold: u32,
}

impl Scaling {
    /// Applies defaults, the platform's cap and its floor.
    pub fn effective(&self, bounds: Bounds) -> Effective {
        let or = |v: u32, default: u32| if v == 0 { default } else { v };
        let max = or(self.max_replicas, DEFAULT_MAX_REPLICAS)
            .min(bounds.max_replicas_cap)
            .max(1);
        let period = or(self.scaledown_period_secs, DEFAULT_SCALEDOWN_SECS);
        Effective {
            reserved: self.reserved_capacity.min(max),
            max,
            scaledown: Duration::from_secs(period.into()).max(bounds.min_scaledown),
            metric: self.metric,
            threshold: or(self.threshold, DEFAULT_THRESHOLD),
        }
    }

    /// What the platform's cap and floor make of values that were asked for, one sentence each.
    pub fn clamped(&self, bounds: Bounds) -> Vec<String> {
        let mut all = Vec::new();
        let (asked, cap) = (self.max_replicas, bounds.max_replicas_cap);
        if asked > cap {
            all.push(format!(
                "max_replicas of {asked} is over the server's cap (max_replicas_cap), so the app gets at most {cap} replicas"
            ));
        }
        let (asked, least) = (self.scaledown_period_secs, bounds.min_scaledown.as_secs());
        if asked > 0 && u64::from(asked) < least {
            all.push(format!(
                "scaledown_period_secs of {asked} is below the server's least (min_scaledown_secs), so replicas stay {least} s"
            ));
        }
        all
    }

    /// Adds one violation for each field that is invalid for every app.
    pub fn check(&self, cap: u32, out: &mut Vec<FieldViolation>) {
        let mut bad = |field: &str, description: String| {
            out.push(FieldViolation {
                field: format!("scaling.{field}"),
                description,
            });
        };
        if self.max_replicas > MAX_REPLICAS_LIMIT {
            bad(
                "max_replicas",
                format!("{} is over {MAX_REPLICAS_LIMIT}", self.max_replicas),
            );
        }
        let max = if self.max_replicas == 0 {
            DEFAULT_MAX_REPLICAS
        } else {
            self.max_replicas
        };
        if self.reserved_capacity > max {
            bad(
                "reserved_capacity",
                format!(
                    "{} is more than max_replicas ({max}); raise max_replicas or reserve fewer",
                    self.reserved_capacity
                ),
            );
        } else if self.reserved_capacity > cap {
            bad(
                "reserved_capacity",
                format!(
                    "{} is more than this platform runs of one app ({cap}, IGNITE_MAX_REPLICAS_CAP)",
                    self.reserved_capacity
                ),
            );
        }
        if self.threshold > MAX_THRESHOLD {
            bad(
                "scale_threshold",
                format!("{} is over {MAX_THRESHOLD}", self.threshold),
            );
        }
        if self.scaledown_period_secs > MAX_SCALEDOWN_SECS {
            bad(
                "scaledown_period_secs",
                format!(
                    "{} is over {MAX_SCALEDOWN_SECS} (a day); reserve capacity to keep an app warm",
                    self.scaledown_period_secs
                ),
            );
        }
    }
}

/// The load of an app at one moment, summed over its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// Requests with a replica.
    pub in_flight: u32,
    /// Requests and executions that wait for a replica.
    pub held: u32,
    /// Requests that arrived in the last [`RATE_WINDOW_SECS`].
    pub arrivals: u32,
}

impl Observed {
    /// Whether any request is being served or waits.
    pub fn busy(&self) -> bool {
        self.in_flight > 0 || self.held > 0
    }
}

impl Effective {
    /// The number of replicas by the formula: at most `max`, and at least 1 while any request is
    /// served or waits.
    ///
    /// KEDA and the HPA multiply the observation per pod by the number of pods before they divide
    /// by the target, so the sum over all pods is what counts.
    pub fn wanted(&self, observed: Observed) -> u32 {
        let (total, per_replica) = match self.metric {
            Metric::Concurrency => (
                u64::from(observed.in_flight) + u64::from(observed.held),
                u64::from(self.threshold),
            ),
            Metric::RequestRate => (
                observed.arrivals.into(),
                u64::from(self.threshold) * u64::from(RATE_WINDOW_SECS),
            ),
        };
        let replicas = total.div_ceil(per_replica.max(1));
        u32::try_from(replicas)
            .unwrap_or(u32::MAX)
            .max(observed.busy().into())
            .min(self.max)
    }
}

/// The inputs of a scaling decision.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The current load.
    pub observed: Observed,
    /// The largest [wanted](Effective::wanted) value of the last scale-down period.
    pub peak: u32,
    /// Replicas that run or are starting.
    pub up: u32,
    /// Time since the last lease ended or request was held.
    pub idle_for: Duration,
}

impl Demand {
    /// Whether the app must be up: a request is served or waits, or one did within the period.
    /// Arrivals that are still in the rate's window wake nothing.
    fn active(&self, scaling: &Effective) -> bool {
        self.observed.busy() || (self.up > 0 && self.idle_for < scaling.scaledown)
    }
}

/// How many replicas an app should have now. It follows the formula up at once, and down only to
/// the largest demand of the last period; after a period without requests, to the reserved number.
pub fn desired(scaling: &Effective, demand: Demand) -> u32 {
    let needed = if demand.active(scaling) {
        scaling.wanted(demand.observed).max(demand.peak).max(1)
    } else {
        0
    };
    needed.max(scaling.reserved).min(scaling.max)
}

/// Explains to people why an app has the number of replicas that [`desired`] returns.
pub fn reason(scaling: &Effective, demand: Demand) -> String {
    let o = demand.observed;
    let period = humantime::format_duration(scaling.scaledown);
    if !demand.active(scaling) {
        return match scaling.reserved {
            // All replicas have ended or failed to start.
            0 if demand.up == 0 && demand.idle_for < scaling.scaledown => {
                "no replica is left, and nobody waits for one".to_owned()
            }
            0 => format!("nothing was asked for {period}"),
            n => format!("{n} reserved"),
        };
    }
    let seen = match scaling.metric {
        Metric::RequestRate if o.held > 0 => format!(
            "{:.2} requests/s, {} waiting",
            f64::from(o.arrivals) / f64::from(RATE_WINDOW_SECS),
            o.held
        ),
        Metric::Concurrency if o.held > 0 => {
            format!("{} in flight, {} waiting", o.in_flight, o.held)
        }
        Metric::Concurrency => format!("{} in flight", o.in_flight),
        Metric::RequestRate => format!(
            "{:.2} requests/s",
            f64::from(o.arrivals) / f64::from(RATE_WINDOW_SECS)
        ),
    };
    let mut text = format!("{seen} / {} per replica", scaling.threshold);
    let wanted = scaling.wanted(o).max(1);
    if demand.peak > wanted {
        text.push_str(&format!(", {} within the last {period}", demand.peak));
    }
    if wanted.max(demand.peak) < scaling.reserved {
        text.push_str(&format!(", {} reserved", scaling.reserved));
    } else if wanted == scaling.max {
        text.push_str(&format!(", at most {}", scaling.max));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        max_replicas_cap: 5,
        min_scaledown: Duration::from_secs(30),
    };

    #[test]
    fn zero_means_the_contracts_defaults_within_the_platforms_bounds() {
        let e = Scaling::default().effective(BOUNDS);
        assert_eq!(
            e,
            Effective {
                reserved: 0,
                max: 5,
                scaledown: Duration::from_secs(300),
                metric: Metric::RequestRate,
                threshold: 10,
            }
        );
        let short = Scaling {
            scaledown_period_secs: 1,
            ..Scaling::default()
        };
        assert_eq!(short.effective(BOUNDS).scaledown, Duration::from_secs(30));
    }

    #[test]
    fn each_wrong_field_is_named() {
        let s = Scaling {
            reserved_capacity: 11,
            max_replicas: 0,
            threshold: MAX_THRESHOLD + 1,
            scaledown_period_secs: MAX_SCALEDOWN_SECS + 1,
            ..Scaling::default()
        };
        let mut out = Vec::new();
        s.check(5, &mut out);
        let fields: Vec<_> = out.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "scaling.reserved_capacity",
                "scaling.scale_threshold",
                "scaling.scaledown_period_secs"
            ]
        );
    }

    fn effective(metric: Metric, threshold: u32, max: u32) -> Effective {
        Effective {
            reserved: 0,
            max,
            scaledown: Duration::from_secs(300),
            metric,
            threshold,
        }
    }

    #[test]
    fn the_formula_sums_over_all_replicas() {
        let by_load = effective(Metric::Concurrency, 10, 100);
        let seen = |in_flight, held, arrivals| Observed {
            in_flight,
            held,
            arrivals,
        };
        for (o, n) in [
            (seen(0, 0, 900), 0),
            (seen(1, 0, 0), 1),
            (seen(10, 0, 0), 1),
            (seen(10, 1, 0), 2),
            (seen(40, 7, 0), 5),
            (seen(u32::MAX, u32::MAX, 0), 100),
        ] {
            assert_eq!(by_load.wanted(o), n, "{o:?}");
        }
        let by_rate = effective(Metric::RequestRate, 10, 100);
        for (o, n) in [
            (seen(0, 0, 0), 0),
            (seen(900, 900, 0), 1),
            (seen(0, 0, 600), 1),
            (seen(0, 0, 601), 2),
            // Four replicas at 10 requests/s each ask for four, not for one.
            (seen(0, 0, 2400), 4),
        ] {
            assert_eq!(by_rate.wanted(o), n, "{o:?}");
        }
    }

    #[test]
    fn a_decision_says_why() {
        let s = effective(Metric::Concurrency, 10, 5);
        let mut demand = Demand {
            observed: Observed {
                in_flight: 47,
                ..Observed::default()
            },
            peak: 5,
            up: 3,
            idle_for: Duration::ZERO,
        };
        assert_eq!(
            reason(&s, demand),
            "47 in flight / 10 per replica, at most 5"
        );
        demand.observed.in_flight = 12;
        assert_eq!(
            reason(&s, demand),
            "12 in flight / 10 per replica, 5 within the last 5m"
        );
        demand.observed.in_flight = 0;
        demand.idle_for = s.scaledown;
        assert_eq!(reason(&s, demand), "nothing was asked for 5m");
        let s = Effective { reserved: 2, ..s };
        assert_eq!(reason(&s, demand), "2 reserved");
    }

    proptest! {
        #[test]
        fn desired_stays_in_bounds_and_follows_demand(
            reserved in 0u32..4, max in 1u32..9, rate: bool, threshold in 1u32..20,
            in_flight in 0u32..100, held in 0u32..100, arrivals in 0u32..9000,
            peak in 0u32..9, up in 0u32..9, idle in 0u64..600,
        ) {
            let metric = if rate { Metric::RequestRate } else { Metric::Concurrency };
            let s = Effective { reserved: reserved.min(max), ..effective(metric, threshold, max) };
            let observed = Observed { in_flight, held, arrivals };
            let demand = Demand { observed, peak: peak.min(max), up, idle_for: Duration::from_secs(idle) };
            let n = desired(&s, demand);
            prop_assert!(n >= s.reserved && n <= s.max);
            let busy = observed.busy();
            if busy {
                prop_assert!(n >= s.wanted(observed) && n >= 1 && n >= demand.peak.min(s.max));
                let more = Observed { held: held + 1, arrivals: arrivals + 1, ..observed };
                prop_assert!(desired(&s, Demand { observed: more, ..demand }) >= n, "monotonic");
            }
            if !busy && idle >= 300 { prop_assert_eq!(n, s.reserved) }
            if !busy && up == 0 { prop_assert_eq!(n, s.reserved) }
            prop_assert!(!reason(&s, demand).is_empty());
        }
    }
}
