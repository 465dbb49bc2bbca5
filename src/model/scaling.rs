//! How many replicas an app may have, and when it returns to zero.

use std::time::Duration;

use super::failure::FieldViolation;

/// What the autoscaler compares with the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// Requests per second and replica, over one minute.
    #[default]
    RequestRate,
    /// Requests in flight per replica.
    Concurrency,
}

/// The scaling settings of an app as its owner gave them; 0 means "the default".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scaling {
    /// Replicas that always run; 0 allows scale to zero.
    pub reserved_capacity: u32,
    /// Most replicas; 0 = [`DEFAULT_MAX_REPLICAS`].
    pub max_replicas: u32,
    /// What is measured.
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
    /// Most replicas of any app (`IGNITE_MAX_REPLICAS_CAP`).
    pub max_replicas_cap: u32,
    /// Shortest scale-down period (`IGNITE_MIN_SCALEDOWN_SECS`).
    pub min_scaledown: Duration,
}

/// Scaling with defaults and bounds applied: what the fleet acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// Replicas that always run.
    pub reserved: u32,
    /// Most replicas, at least 1 and at least `reserved`.
    pub max: u32,
    /// Time without traffic before scaling down.
    pub scaledown: Duration,
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
        }
    }

    /// Adds one violation for each field that no app can have.
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

/// What the number of replicas is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Requests held or in flight.
    pub busy: bool,
    /// Replicas up or on their way.
    pub up: u32,
    /// Time since the last lease ended or request was held.
    pub idle_for: Duration,
}

/// How many replicas an app should have now: from zero on any demand, to the reserved number
/// when nothing was asked for a whole scale-down period.
pub fn desired(scaling: &Effective, demand: Demand) -> u32 {
    let lingering = demand.up > 0 && demand.idle_for < scaling.scaledown;
    let active = u32::from(demand.busy || lingering);
    active.max(scaling.reserved).min(scaling.max)
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
                scaledown: Duration::from_secs(300)
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

    proptest! {
        #[test]
        fn desired_stays_in_bounds_and_follows_demand(
            reserved in 0u32..4, max in 1u32..6, busy: bool, up in 0u32..6, idle in 0u64..600,
        ) {
            let s = Effective { reserved: reserved.min(max), max, scaledown: Duration::from_secs(300) };
            let n = desired(&s, Demand { busy, up, idle_for: Duration::from_secs(idle) });
            prop_assert!(n >= s.reserved && n <= s.max);
            if busy { prop_assert!(n >= 1) }
            if !busy && idle >= 300 { prop_assert_eq!(n, s.reserved) }
            if !busy && up == 0 { prop_assert_eq!(n, s.reserved) }
        }
    }
}
