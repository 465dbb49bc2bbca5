//! Simulations of the fleet over the scripted engine, under a paused clock.
//!
//! | file | what |
//! |---|---|
//! | `net.rs` | connections to the scripted engine's apps, without sockets |
//! | `formula.rs` | the number of replicas, liveness |
//! | `hold.rs` | held requests: one start, order, bounds, deadlines, cancelled requests |
//! | `scale.rs` | down to zero and up again; surplus replicas |
//! | `standby.rs` | frozen and prepared replicas, and the way back |
//! | `trouble.rs` | failed starts and the engine's absence |
//! | `causes.rs` | waiting requests learn the outcome of the last probe |
//! | `crash.rs` | replicas that die, lost events, containers that belong to no replica |
//! | `publish.rs` | a new revision beside the old one |
//! | `lifecycle.rs` | delete, shutdown, adoption |
//! | `lost_network.rs` | replicas whose holder ends |
//! | `many.rs` | a thousand apps for a day |
//! | `plan.rs` | the decision of a single step |
//! | `test_run.rs` | a replica beside the published ones |
//! | `quota.rs` | apps that are stopped for their use of the disk |
//! | `shares.rs` | memory and replicas of competing organizations |
//! | `random.rs` | all of it at once, by seeds, against invariants |

mod causes;
mod crash;
mod formula;
mod hold;
mod lifecycle;
mod lost_network;
mod many;
pub(super) mod net;
mod plan;
mod publish;
mod quota;
mod random;
mod scale;
mod shares;
mod standby;
mod test_run;
mod trouble;

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};

use super::{
    Bounds, Config, Deployment, EventKind, Fleet, HoldLimiter, Lease, Starter, upstream::Connects,
};
use crate::{
    engine::{ContainerId, ContainerSpec, Error, Owner, fake::Fake, fake::Script},
    model::{
        AppId, Failure, HealthCheck, ImageSource, Revision, Standby,
        capacity::Share,
        files::{Files, Home},
        scaling::{Effective, Metric},
    },
    quota::Quota,
};

/// The duration of a start in the engine's default script.
const START: Duration = Duration::from_millis(250);
/// Longer than anything a test waits for.
const LONG: Duration = Duration::from_secs(3600);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn config() -> Config {
    Config {
        startup_timeout: secs(60),
        hold_max_requests: 300,
        max_in_flight_per_app: 1000,
        max_in_flight_per_org: 1000,
        hold_max_bytes: 1000,
        hold_limiter: limiter((10_000, 10_000), (100_000, 100_000)),
        max_connects: Connects::new(64, crate::connections::Connections::new(100_000, 0)),
        stop_grace: secs(1),
        drain_timeout: secs(30),
        backoff_initial: secs(1),
        backoff_max: secs(8),
        poll_initial: ms(1),
        poll_max: ms(100),
        pids_limit: 100,
        reconcile_interval: secs(10),
        keychain: Default::default(),
        vitals: crate::vitals::Vitals::default(),
        metrics: Default::default(),
        may_adopt: tokio::sync::watch::channel(true).1,
        standby: Standby::Absent,
        standby_pause_for: secs(600),
        bounds: Bounds {
            memory: 0,
            memory_per_org: Share::All,
            replicas: 0,
            replicas_per_org: Share::All,
            standby_memory: 1 << 30,
        },
        room_wait: secs(20),
        teardown_after: secs(24 * 3600),
        liveness_interval: Duration::ZERO,
        liveness_timeout: secs(1),
        liveness_failures: 3,
        wrong_port_timeout: secs(30),
    }
}

/// Bounds over all apps and for each organization, on requests and on bytes.
fn limiter(requests: (usize, usize), bytes: (usize, usize)) -> HoldLimiter {
    let most = |(all, each)| Quota { all, each };
    HoldLimiter::new(most(requests), most(bytes))
}

fn app() -> AppId {
    "acme/web".parse().expect("valid")
}

/// Version `version`, of image `v<version>`: at most one replica, 30 s to zero.
pub(super) fn revision(version: u32) -> Revision {
    Revision {
        app: app(),
        version,
        image: format!("v{version}"),
        source: Some(ImageSource {
            image_ref: format!("v{version}"),
            registry_secret_ref: String::new(),
        }),
        overlay: None,
        env: Default::default(),
        files: files(),
        capabilities: Default::default(),
        egress: Default::default(),
        init: false,
        cloud_incompatibilities: Vec::new(),
        ports: vec![8080],
        inner_ports: vec![8080],
        exposed_ports: Vec::new(),
        health_path: "/".into(),
        health: HealthCheck::Default,
        tier: crate::model::Tier::Medium,
        memory_mb: 64,
        cpu_millicores: 100,
        timeout: secs(60),
        scaling: Effective {
            reserved: 0,
            max: 1,
            scaledown: secs(30),
            metric: Metric::Concurrency,
            threshold: 10,
        },
        max_concurrency: 0,
        allow_unauthenticated: false,
        api_access: false,
        protocol: Default::default(),
        cors_origins: Vec::new(),
        standby: None,
        config_hash: "h".into(),
    }
}

fn files() -> Files {
    Files {
        read_only: true,
        always_read_only: false,
        home: Home::default(),
        scratch_bytes: 1 << 20,
        kept_since: None,
    }
}

fn refused() -> Error {
    Error::Refused {
        call: "start the container",
        status: 500,
        message: "no".into(),
    }
}

fn failing() -> Script {
    Script {
        start_error: Some(refused()),
        ..Script::default()
    }
}

fn never_ready() -> Script {
    Script {
        status: None,
        ..Script::default()
    }
}

/// The specification of a container of an earlier run.
fn spec_of(revision: &Revision) -> ContainerSpec {
    ContainerSpec {
        owner: Owner {
            app: revision.app.clone(),
            replica: "0123456789".parse().expect("valid"),
            version: revision.version,
            config_hash: revision.config_hash.clone(),
        },
        image: revision.image.clone(),
        overlay: None,
        env: Default::default(),
        capabilities: Default::default(),
        egress: Default::default(),
        init: false,
        files: files(),
        host_label: "a-acme".into(),
        ports: revision.inner_ports.clone(),
        memory_bytes: 0,
        cpu_millicores: 0,
        pids: 0,
    }
}

/// A fleet over a scripted engine, with one app.
struct World {
    engine: Fake,
    fleet: Fleet,
    app: Arc<Deployment>,
}

impl World {
    /// A fleet that has inspected an engine without containers.
    async fn new(revision: Revision) -> Self {
        Self::with(config(), revision).await
    }

    async fn with(config: Config, revision: Revision) -> Self {
        let (world, starter) = Self::before(Fake::new(), config, revision);
        starter.begin();
        until("the fleet has settled", || world.fleet.settled()).await;
        world
    }

    /// A fleet that has not inspected its engine yet.
    fn before(engine: Fake, config: Config, revision: Revision) -> (Self, Starter<Fake>) {
        net::lead_to(&engine);
        let (fleet, starter) = Fleet::new(config, Arc::new(engine.clone()));
        let app = fleet.activate(revision);
        (Self { engine, fleet, app }, starter)
    }

    /// A request that waits as long as it takes.
    fn request(&self) -> JoinHandle<Result<Lease, Failure>> {
        let app = self.app.clone();
        tokio::spawn(async move { app.acquire(0, Instant::now() + LONG).await })
    }

    async fn lease(&self) -> Lease {
        self.request().await.expect("no panic").expect("is served")
    }

    async fn failure(&self) -> Failure {
        self.request().await.expect("no panic").expect_err("fails")
    }

    fn held(&self) -> u32 {
        self.app.snapshot().held
    }

    fn live(&self) -> usize {
        self.engine.live().len()
    }

    fn version_of(&self, lease: &Lease) -> u32 {
        self.version_in(&lease.replica().container)
    }

    fn version_in(&self, id: &ContainerId) -> u32 {
        let all = self.engine.containers();
        let found = all.iter().find(|c| c.id == *id).expect("is there");
        found.owner.as_ref().expect("has labels").version
    }

    fn only_container(&self) -> ContainerId {
        let all = self.engine.containers();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].id.clone()
    }
}

/// Lets virtual time pass until the condition holds; panics if it never does.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let give_up = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < give_up, "never so: {what}");
        tokio::time::sleep(ms(5)).await;
    }
}

/// Lets everything run that can run now, without time passing.
async fn settle() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}
