//! Calls to the container engine.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::instruments::{Counter, Histogram, STARTS};

/// How one call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The engine did it.
    Ok,
    /// The engine said no; often an answer like any other, such as "not found".
    Refused,
    /// It took longer than it may.
    TimedOut,
    /// The engine did not answer.
    Unreachable,
}

impl CallOutcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::TimedOut, Self::Unreachable];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Debug)]
struct Calls {
    by_outcome: [Counter; CallOutcome::ALL.len()],
    durations: Histogram,
}

/// What is counted of calls to the engine, by call.
#[derive(Debug, Default)]
pub struct EngineCalls {
    /// By the name of the call in error messages, of which there are some dozens.
    calls: Mutex<BTreeMap<&'static str, Arc<Calls>>>,
}

impl EngineCalls {
    /// A call ended.
    pub fn ended(&self, call: &'static str, outcome: CallOutcome, took: Duration) {
        let calls = {
            let mut all = self.calls.lock();
            let fresh = || {
                Arc::new(Calls {
                    by_outcome: Default::default(),
                    durations: Histogram::new(&STARTS),
                })
            };
            all.entry(call).or_insert_with(fresh).clone()
        };
        calls.by_outcome[outcome as usize].inc();
        calls.durations.observe(took);
    }

    /// Writes the families.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.calls.lock().clone();
        if all.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(
            "ignite_engine_calls",
            "Calls to the container engine that ended",
            None,
            MetricType::Counter,
        )?;
        for (call, calls) in &all {
            for (outcome, counter) in CallOutcome::ALL.into_iter().zip(&calls.by_outcome) {
                if counter.get() > 0 {
                    let labels = [("call", *call), ("outcome", outcome.as_str())];
                    counter.encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "ignite_engine_call_duration",
            "How long calls to the container engine took",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (call, calls) in &all {
            calls
                .durations
                .encode(family.encode_family(&[("call", *call)])?)?;
        }
        Ok(())
    }
}
