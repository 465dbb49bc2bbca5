//! Wakes, starts, waits for a replica, and events.

use std::{fmt, time::Duration};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{
    instruments::{Histogram, REQUESTS, STARTS},
    labels::CountersBy,
};

/// From where a replica became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// There was no container.
    Absent,
    /// There was a container that had not been started.
    Prepared,
    /// It was frozen.
    Paused,
}

impl Depth {
    const ALL: [Self; 3] = [Self::Absent, Self::Prepared, Self::Paused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Prepared => "prepared",
            Self::Paused => "paused",
        }
    }
}

/// The parts of a start that the fleet measures.
const PHASES: [&str; 3] = ["create", "start", "ready"];

/// What the fleet counts.
#[derive(Debug)]
pub struct Fleet {
    wakes: [Histogram; Depth::ALL.len()],
    phases: [Histogram; PHASES.len()],
    held: Histogram,
    events: CountersBy,
    refused: CountersBy,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            wakes: std::array::from_fn(|_| Histogram::new(&STARTS)),
            phases: std::array::from_fn(|_| Histogram::new(&STARTS)),
            held: Histogram::new(&REQUESTS),
            events: CountersBy::default(),
            refused: CountersBy::default(),
        }
    }
}

impl Fleet {
    /// A replica became ready from a depth.
    pub fn woke(&self, from: Depth, took: Duration) {
        self.wakes[from as usize].observe(took);
    }

    /// The parts of the start of a replica that became ready: creating its container (`None` for
    /// one that was prepared), starting it, and the app's own start.
    pub fn started(&self, create: Option<Duration>, start: Duration, ready: Duration) {
        let [of_create, of_start, of_ready] = &self.phases;
        if let Some(create) = create {
            of_create.observe(create);
        }
        of_start.observe(start);
        of_ready.observe(ready);
    }

    /// A request left the queue for a replica, with or without one.
    pub fn held_for(&self, took: Duration) {
        self.held.observe(took);
    }

    /// Something was put on the record of an app.
    pub fn event(&self, kind: &'static str) {
        self.events.inc(kind);
    }

    /// The platform itself answered a request to an app, with a reason.
    pub fn refused(&self, reason: &'static str) {
        self.refused.inc(reason);
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "ignite_wake_duration",
            "From the decision for one more replica to its readiness, by what there was of it before",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (depth, histogram) in Depth::ALL.into_iter().zip(&self.wakes) {
            histogram.encode(family.encode_family(&[("depth", depth.as_str())])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "ignite_start_phase_duration",
            "The parts of a start: the engine creates the container, starts it, and the app gets ready",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (phase, histogram) in PHASES.into_iter().zip(&self.phases) {
            histogram.encode(family.encode_family(&[("phase", phase)])?)?;
        }
        let family = encoder.encode_descriptor(
            "ignite_hold_duration",
            "How long requests that found no free replica waited for one, or until they were given up",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.held.encode(family)?;
        self.events.encode(
            encoder,
            (
                "ignite_events",
                "What happened to apps: the kinds of `ignite app events`",
            ),
            "kind",
        )?;
        self.refused.encode(
            encoder,
            (
                "ignite_request_failures",
                "Requests to apps that the platform answered itself, by the reason in x-ignite-error",
            ),
            "reason",
        )
    }
}
