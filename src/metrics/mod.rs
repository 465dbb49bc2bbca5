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

mod apps;
mod builds;
mod engine;
mod executions;
mod fleet;
mod instruments;
mod labels;
mod store;

pub use self::{
    apps::{App, Apps, OTHER, Surface},
    builds::Builds,
    engine::{CallOutcome, EngineCalls},
    executions::{AttemptOutcome, Executions},
    fleet::{Depth, Fleet},
    instruments::{Counter, Histogram},
    store::Store,
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
}

impl Metrics {
    /// Instruments that name at most `apps_max` apps; the rest share one name.
    pub fn new(apps_max: usize) -> Self {
        Self {
            apps: Apps::new(apps_max),
            fleet: Fleet::default(),
            executions: Executions::default(),
            store: Store::default(),
            engine: EngineCalls::default(),
            builds: Builds::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Apps::DEFAULT_MAX)
    }
}
