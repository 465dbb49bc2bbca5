//! What is read at each scrape: the present state of apps, executions, builds and the machine.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, info::Info},
    registry::Unit,
};

use super::{
    gauges::{gauge, gauges},
    process,
};
use crate::{
    builder::Builder,
    connections::Connections,
    fleet::{EngineState, Fleet, Snapshot},
    identity::Caller,
    metrics::{Metrics, OTHER},
    model::{AppId, OrgName},
    server::{base::Base, platform::Platform},
    store::{Ledger, executions::Executions},
    vitals::Vitals,
};

/// Whose numbers are shown.
pub(super) enum Visible<C> {
    /// Everybody's, and the machine's.
    All,
    /// Those of a caller's organizations.
    Of(C),
}

impl Visible<Arc<Caller>> {
    fn has(&self, org: &OrgName) -> bool {
        match self {
            Visible::All => true,
            Visible::Of(caller) => caller.owns(org),
        }
    }
}

/// What a scrape reads.
pub(super) struct Sources {
    metrics: Arc<Metrics>,
    fleet: Fleet,
    builder: Builder,
    executions: Executions,
    ledger: Ledger,
    connections: Connections,
    vitals: Vitals,
    data_dir: PathBuf,
}

/// The families of gauges by app, in the order of [`Gauges::values`].
const BY_APP: [(&str, &str); 6] = [
    (
        "ignite_replicas_desired",
        "Replicas that the load calls for",
    ),
    (
        "ignite_requests_in_flight",
        "Requests that a replica works on",
    ),
    ("ignite_requests_held", "Requests that wait for a replica"),
    (
        "ignite_executions_pending",
        "Accepted executions that were not sent to a replica yet",
    ),
    (
        "ignite_executions_running",
        "Executions that a replica works on, or that wait for another try",
    ),
    (
        "ignite_app_failing",
        "1 for an app whose start cannot succeed now",
    ),
];

/// The states of replicas, as a label.
const STATES: [&str; 6] = [
    "starting", "ready", "draining", "moving", "paused", "prepared",
];

/// The gauges of one app, or the sums over those without a name of their own.
#[derive(Default)]
struct Gauges {
    values: [u64; BY_APP.len()],
    replicas: [u64; STATES.len()],
}

impl Gauges {
    fn add(&mut self, app: &Snapshot, unfinished: usize) {
        let pending = u64::from(app.backlog);
        let running = (unfinished as u64).saturating_sub(pending);
        let values = [
            app.desired.into(),
            app.in_flight.into(),
            app.held.into(),
            pending,
            running,
            app.failing.into(),
        ];
        let replicas = [
            app.starting,
            app.ready,
            app.draining,
            app.moving,
            app.paused,
            app.prepared,
        ];
        let add = |to: &mut u64, from: u64| *to += from;
        self.values
            .iter_mut()
            .zip(values)
            .for_each(|(to, n)| add(to, n));
        let replicas = replicas.map(u64::from);
        self.replicas
            .iter_mut()
            .zip(replicas)
            .for_each(|(to, n)| add(to, n));
    }
}

impl Sources {
    pub(super) fn new(base: &Base, platform: &Platform) -> Self {
        Self {
            metrics: base.metrics.clone(),
            fleet: platform.fleet.clone(),
            builder: platform.builder.clone(),
            executions: base.stores.executions.clone(),
            ledger: base.stores.ledger.clone(),
            connections: base.shares.connections.clone(),
            vitals: base.vitals.clone(),
            data_dir: base.data.path().to_owned(),
        }
    }

    /// Writes everything that is visible.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        visible: &Visible<Arc<Caller>>,
    ) -> fmt::Result {
        let shows_all = matches!(visible, Visible::All);
        let of = |org: &OrgName| visible.has(org);
        self.metrics.apps.encode(encoder, &of, shows_all)?;
        self.encode_apps(encoder, visible)?;
        self.encode_stored(encoder, visible)?;
        if !shows_all {
            return Ok(());
        }
        self.metrics.fleet.encode(encoder)?;
        self.metrics.executions.encode(encoder)?;
        self.metrics.builds.encode(encoder)?;
        self.metrics.store.encode(encoder)?;
        self.metrics.engine.encode(encoder)?;
        self.metrics.traces.encode(encoder)?;
        self.encode_machine(encoder)?;
        process::encode(encoder)
    }

    fn encode_apps(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        visible: &Visible<Arc<Caller>>,
    ) -> fmt::Result {
        let mut named: BTreeMap<AppId, Gauges> = BTreeMap::new();
        let mut other = Gauges::default();
        let mut unnamed = 0_u64;
        for app in self.fleet.published() {
            let id = app.id();
            if !visible.has(&id.org) {
                continue;
            }
            let gauges = if self.metrics.apps.is_named(id) {
                named.entry(id.clone()).or_default()
            } else {
                unnamed += 1;
                &mut other
            };
            gauges.add(&app.snapshot(), self.executions.unfinished(id));
        }
        let apps = (named.len() as u64) + unnamed;
        gauge(encoder, ("ignite_apps", "Published apps"), None, apps)?;
        let names = named.iter();
        let mut all: Vec<_> = names
            .map(|(id, gauges)| (id.org.as_str(), id.name.as_str(), gauges))
            .collect();
        if unnamed > 0 {
            all.push((OTHER, OTHER, &other));
        }
        if all.is_empty() {
            return Ok(());
        }
        for (at, (name, help)) in BY_APP.into_iter().enumerate() {
            let rows = all.iter().map(|(org, app, gauges)| {
                let labels = [("org", *org), ("app", *app)];
                (labels, gauges.values[at])
            });
            gauges(encoder, (name, help), None, rows)?;
        }
        let rows = all.iter().flat_map(|(org, app, gauges)| {
            STATES.iter().zip(gauges.replicas).map(move |(state, n)| {
                let labels = [("org", *org), ("app", *app), ("state", *state)];
                (labels, n)
            })
        });
        let family = ("ignite_replicas", "Replicas by their state");
        gauges(encoder, family, None, rows)
    }

    fn encode_stored(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        visible: &Visible<Arc<Caller>>,
    ) -> fmt::Result {
        let stored = self.ledger.all();
        let rows = stored.iter().filter(|(org, _)| visible.has(org));
        let rows = rows.map(|(org, bytes)| ([("org", org.as_str())], *bytes));
        gauges(
            encoder,
            (
                "ignite_stored",
                "What an organization keeps in the store: apps, code, executions",
            ),
            Some(&Unit::Bytes),
            rows,
        )
    }

    fn encode_machine(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        let info = Info::new(version);
        let kind = MetricType::Info;
        let family = encoder.encode_descriptor("ignite_build", "This build", None, kind)?;
        info.encode(family)?;
        let is_up = matches!(&*self.fleet.engine().borrow(), EngineState::Up(_));
        let serves = self.vitals.failed().is_none() && self.executions.refusal().is_none();
        let (waiting, running) = self.builder.counts();
        let capacity = self.fleet.capacity();
        for (name, help, value) in [
            (
                "ignite_engine_up",
                "1 while the container engine answers",
                u64::from(is_up),
            ),
            (
                "ignite_store_writable",
                "1 while executions can be accepted and every part of the process lives",
                u64::from(serves),
            ),
            ("ignite_builds_waiting", "Builds that wait", waiting as u64),
            ("ignite_builds_running", "Builds that run", running as u64),
            (
                "ignite_connections_open",
                "Connections to clients and to replicas",
                self.connections.open() as u64,
            ),
            (
                "ignite_replicas_running",
                "Replicas that count against the replica budget",
                capacity.replicas,
            ),
        ] {
            gauge(encoder, (name, help), None, value)?;
        }
        let bytes = Some(&Unit::Bytes);
        let memory = [
            (
                "ignite_memory_reserved",
                "Memory that replicas hold: limits of those that run, what frozen ones keep",
                capacity.memory,
            ),
            (
                "ignite_memory_budget",
                "Memory that replicas may hold (memory_budget)",
                capacity.memory_budget,
            ),
        ];
        for (name, help, value) in memory {
            gauge(encoder, (name, help), bytes, value)?;
        }
        let (free, size) = volume(&self.data_dir).unwrap_or_default();
        gauge(
            encoder,
            ("ignite_disk_free", "Free on the data directory's volume"),
            bytes,
            free,
        )?;
        gauge(
            encoder,
            ("ignite_disk_size", "The data directory's volume"),
            bytes,
            size,
        )
    }
}

/// Free bytes and the size of the volume of a directory.
fn volume(directory: &Path) -> Option<(u64, u64)> {
    let volume = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
    Some((bytes(volume.f_bavail), bytes(volume.f_blocks)))
}
