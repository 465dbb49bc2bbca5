//! Metrics: what the parts of the process count, and how it is shown to Prometheus.
//!
//! Each part has a struct of typed instruments here, which names its families, units and help in
//! one place. An instrument is a few atomics: counting takes no lock on the way of a request. The
//! values of labels come from closed sets; the one open set, the apps, is capped
//! ([`Apps`]). What exists anyway (replicas, held requests, waiting executions) is not counted
//! here but read at each scrape, by `server/metrics.rs`.
//!
//! | file | what |
//! |---|---|
//! | `instruments.rs` | counters and histograms |
//! | `labels.rs` | counters by a label |
//! | `apps.rs` | requests by app |
//! | `fleet.rs` | wakes, starts, waits for a replica, events |
//! | `executions.rs` | executions and their attempts |
//! | `store.rs` | the journal's writes |
//! | `engine.rs` | calls to the container engine |
//! | `builds.rs` | builds |
//! | `traces.rs` | spans on their way to the collector |

mod apps;
mod builds;
mod engine;
mod executions;
mod fleet;
mod instruments;
mod labels;
mod store;
mod traces;

pub use self::{
    apps::{App, Apps, OTHER, Surface},
    builds::Builds,
    engine::{CallOutcome, EngineCalls},
    executions::{AttemptOutcome, Executions},
    fleet::{Depth, Fleet},
    instruments::{Counter, Histogram},
    store::Store,
    traces::Traces,
};

/// Every instrument of the process.
#[derive(Debug)]
pub struct Metrics {
    /// Requests by app.
    pub apps: Apps,
    /// Wakes, starts, waits and events.
    pub fleet: Fleet,
    /// Executions.
    pub executions: Executions,
    /// The journal of executions.
    pub store: Store,
    /// Calls to the container engine.
    pub engine: EngineCalls,
    /// Builds.
    pub builds: Builds,
    /// Spans.
    pub traces: Traces,
}

impl Metrics {
    /// Instruments that name at most `apps_max` apps; the rest share one name. With `is_traced` the
    /// durations of requests lead to their traces.
    pub fn new(apps_max: usize, is_traced: bool) -> Self {
        Self {
            apps: Apps::new(apps_max, is_traced),
            fleet: Fleet::default(),
            executions: Executions::default(),
            store: Store::default(),
            engine: EngineCalls::default(),
            builds: Builds::default(),
            traces: Traces::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Apps::DEFAULT_MAX, false)
    }
}
