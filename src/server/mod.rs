//! The composition root: the only module that knows all others.
//!
//! Start: lock the data directory, bind every socket, open key and store, wire the parts, say
//! ready. Stop: accept no more, let requests finish (bounded), end operations, replicas, store.

mod building;
mod data_dir;
mod health;
mod keeper;
mod limits;
mod machine;
mod parts;
mod prune;
mod signals;
pub mod store;

use std::{io::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use self::{
    data_dir::DataDir,
    keeper::{Keeper, LeaseEnd},
    parts::{
        anonymous, buffers, defaults, engine_config, executions_config, executor_config,
        fleet_config, gc_config, listener_limits, own_hosts, public_urls, trial_bounds,
    },
    signals::Signals,
};
use crate::{
    api::{
        self,
        buffers::Buffers,
        compute::Compute,
        grpc::Grpc,
        json,
        proto::{
            self,
            local::v1::{
                build_service_server::BuildServiceServer,
                execution_service_server::ExecutionServiceServer,
                scaling_service_server::ScalingServiceServer,
            },
            v1::{
                compute_service_server::ComputeServiceServer,
                secret_service_server::SecretServiceServer,
            },
        },
        scaling::Scaling,
        secrets::Secrets as SecretsApi,
        status::{self, to_response},
    },
    apps::{self, Apps},
    builder::{Builder, Images, Rules},
    clock,
    config::Config,
    engine::{self, Credentials, Engine, Keychain, docker::Docker},
    executor::Executor,
    fleet::Fleet,
    gateway::{
        Front, Gateway, Routes as AppRoutes,
        listener::{self, Stop},
        workers::Workers,
    },
    gc::{GarbageCollector, Volumes},
    identity::{Keyring, system_clock},
    logs::Logs,
    model::{Reason, egress::Ceiling, lease::Lease},
    parsing::Parsing,
    store::{
        Store,
        blobs::Blobs,
        executions::{self, Executions},
        secrets::Secrets,
    },
    trials::Trials,
    vitals::{EXIT_PART_FAILED, Vitals, part_failed},
};

pub use prune::{Kept, Named, Pruned, State, Things, prune};

/// Longest time for requests under way, and then for the stores, once a part has failed.
const BREAK_OFF: Duration = Duration::from_secs(5);

/// Says what is wrong with a configuration beyond its forms, before anything is touched.
///
/// # Errors
/// The setting, and what is wrong with it.
pub fn check(config: &Config) -> Result<()> {
    Docker::check_address(config.docker_host.as_deref()).context("docker_host")?;
    parts::seccomp(config, Path::new("")).map(drop)
}

/// Reads the configuration again and applies what can change while it serves; answers what it did.
pub type Reload = Box<dyn Fn() -> Result<String> + Send + Sync>;

/// Serves until SIGINT or SIGTERM. SIGHUP ends it as well when it keeps nothing or has a terminal,
/// which then hangs up; any other server calls `reload`.
///
/// # Errors
/// Why it could not start. Failures while it serves are logged and answered, never fatal.
pub async fn run(config: Config, reload: Reload) -> Result<()> {
    let data = DataDir::lock(&config).await?;
    let http = bind(config.http_addr, "http_addr").await?;
    let grpc = bind(config.grpc_addr, "grpc_addr").await?;
    // Before any work: a signal during the start is a clean stop, not a kill.
    let mut signals = Signals::new(config.ephemeral)?;
    let shares = limits::share_descriptors(config.max_connections);
    clock::settle_for(config.clock_settle);

    let (http_addr, grpc_addr) = (http.local_addr()?, grpc.local_addr()?);
    warn_of_exposure(&config);
    let keyring = Keyring::open_or_create(data.path())?;
    let vitals = Vitals::default();
    let ledger = parts::ledger(&config, data.path())?;
    let store = Store::open_watched(data.path(), &vitals, ledger.clone())?;
    data.back_identity_up();
    let executions = Executions::open(
        data.path(),
        executions_config(&config, &vitals, ledger),
        app_lookup(&store),
    )?;
    let secrets = Secrets::new(store.clone());
    let engine_config = engine_config(&config, &data, &store, parts::seal(&secrets)?)?;
    let restrictions = engine_config.restrictions();
    let engine = Arc::new(Docker::new(engine_config).context("docker_host")?);
    check_runtime(&config, &engine).await?;
    // Refused with the reason before anything runs, and before anybody is told that this serves.
    engine.isolate().await.context("trust")?;
    let keychain = keychain(&secrets);
    let mut keeper = Keeper::start(
        engine.clone(),
        &data,
        config.lease_interval,
        config.ephemeral,
        &vitals,
    );
    let fleet_config = fleet_config(
        &config,
        keychain.clone(),
        keeper.claimed(),
        &vitals,
        &shares,
    );
    let (fleet, starter) = Fleet::new(fleet_config, engine.clone());
    let routes = Arc::new(AppRoutes::default());
    let rules = Rules {
        strict: config.strict,
        foreign_arch: config.allow_foreign_arch,
    };
    let admission = building::admission(&config, &data);
    let images = Images::new(engine.clone(), keychain, rules, admission);
    let volumes = Volumes::new(engine.clone());
    let blobs = Blobs::open(data.path(), &store.catalog()).context("the folder of saved code")?;
    let builder = Builder::new(
        building::config(&config, &data, &vitals),
        engine.clone(),
        images.clone(),
        blobs.clone(),
        building::vault(&secrets),
        building::open_args(&secrets),
    )
    .context("the folder for builds")?;
    let apps = Apps::new(apps::Parts {
        store: store.clone(),
        executions: executions.clone(),
        fleet: fleet.clone(),
        routes: routes.clone(),
        images,
        builder: builder.clone(),
        secrets: secrets.clone(),
        blobs,
        volumes: volumes.clone(),
        defaults: defaults(&config, &restrictions),
        parsing: Parsing::new(config.decode_concurrency),
        egress: Ceiling::of(config.trust, &config.egress_allow),
        most: apps::Most {
            apps_per_org: config.apps_max_per_org,
            versions_per_app: config.versions_max_per_app,
        },
    });
    let gc = GarbageCollector::start(
        gc_config(&config, &vitals),
        store.clone(),
        fleet.clone(),
        volumes,
        engine.clone(),
    );
    let gateway = Arc::new(Gateway {
        routes,
        fleet: fleet.clone(),
        verifier: Arc::new(keyring.verifier(system_clock())),
        hosts: own_hosts(&config),
        app_paths: config.app_paths,
        cold_start_budget: config.cold_start_budget,
        upgrades: TaskTracker::new(),
        max_request_body_bytes: config.max_request_body_bytes,
        client_stall_timeout: config.client_stall_timeout,
        half_closed_timeout: config.half_closed_timeout,
        trusted_proxies: config.trusted_proxies.clone(),
        render: to_response,
        grpc_trailers: status::to_trailers,
    });
    let limits = json::Limits {
        max_body_bytes: clamp(config.max_body_bytes),
        max_code_bytes: clamp(config.max_code_bytes),
        decode_concurrency: config.decode_concurrency,
    };
    let stop = Stop::default();
    let log_bytes = clamp(config.log_max_bytes);
    let app_logs = Logs::new(apps.clone(), fleet.clone(), engine.clone(), log_bytes);
    let trials = Trials::new(
        apps.clone(),
        gateway.clone(),
        app_logs.clone(),
        trial_bounds(&config),
    );
    let compute = Compute {
        apps: apps.clone(),
        gateway: gateway.clone(),
        urls: Arc::new(public_urls(&config, http_addr)),
        limits,
        executions: executions.clone(),
        retention: config.execution_retention,
        app_logs,
        trials,
        log_max_lines: config.log_max_lines,
        stopping: stop.drain.clone(),
    };
    let services = services(compute, secrets, limits).await;
    let buffers = buffers(&config, limits.json_bytes());
    let api = api(
        services.clone(),
        limits,
        buffers.clone(),
        &gateway,
        &store,
        &executions,
        &vitals,
    );

    let serving = TaskTracker::new();
    // Until the end of this function: they carry what requests leave running.
    let workers = Arc::new(Workers::start(config.http_threads, &vitals).context("http_threads")?);
    let front = Front {
        gateway: gateway.clone(),
        api,
    };
    let bounds = listener_limits(&config, &shares);
    let listening = listener::run(http, workers.clone(), front, bounds.clone(), stop.clone());
    serving.spawn(vitals.watch("the HTTP listener", listening));
    let service = Grpc::new(
        services,
        limits,
        gateway.clone(),
        anonymous(&config),
        buffers,
    );
    let listening = listener::run(grpc, workers.clone(), service, bounds, stop.clone());
    serving.spawn(vitals.watch("the gRPC listener", listening));
    starter.begin();
    let executor = Executor::start(
        executor_config(&config, &vitals),
        executions.clone(),
        gateway.clone(),
    );
    data.announce(http_addr, grpc_addr, &config)?;
    vitals.set_serving(true);
    print_ready(http_addr, grpc_addr, data.path())?;
    tracing::info!(http = %http_addr, grpc = %grpc_addr, data_dir = %data.path().display(), engine = engine.address(), engine_chosen_because = engine.chosen(), "Serving");

    let taken = tokio::select! {
        () = signals.first(&reload) => None,
        lease = keeper.taken() => Some(lease),
        () = clear_kept_mark(&fleet, &data) => None,
        () = engine.keep_isolated() => None,
        part = vitals.failure() => {
            break_off(&part, &stop, serving, &executor, &fleet, executions, store).await
        }
    };
    vitals.set_serving(false);
    // What another server holds is not ours to take away.
    let teardown = Teardown::new(&config, taken.is_some());
    tokio::select! {
        () = shut_down(&config, teardown, &data, stop, serving, &gateway, &executor, &apps, gc, &fleet, &engine) => {}
        () = signals.again() => std::process::exit(130),
    }
    if teardown.everything {
        builder.remove_all_images().await;
    }
    keeper.stop(teardown.lease()).await;
    executor.count_the_last();
    executions.close();
    store.close();
    drop(workers);
    data.close(&config);
    if let Some(lease) = taken {
        return Err(identity_taken(&config, &data, &lease));
    }
    tracing::info!("Stopped");
    Ok(())
}

/// What a stop leaves in the engine.
#[derive(Debug, Clone, Copy)]
struct Teardown {
    /// Containers go on, for the next start or for whoever has the identity.
    keep: bool,
    /// The instance keeps nothing: volumes and images go, too.
    everything: bool,
    /// Another server has the identity.
    taken: bool,
}

impl Teardown {
    fn new(config: &Config, taken: bool) -> Self {
        Self {
            keep: taken || config.keep_replicas && !config.ephemeral,
            everything: config.ephemeral && !taken,
            taken,
        }
    }

    fn lease(self) -> LeaseEnd {
        if self.keep {
            LeaseEnd::Leave
        } else {
            LeaseEnd::Remove
        }
    }
}

/// Why a server ends whose identity is held by another one; with `--new-instance` the next start
/// has an identity of its own.
fn identity_taken(config: &Config, data: &DataDir, lease: &Lease) -> anyhow::Error {
    let place = &lease.holder.path;
    let original = format!(
        "a server that runs now (process {}, data directory {place} as it sees it)",
        lease.holder.pid
    );
    let refusal = data_dir::refusal(data.path(), data.instance(), &original);
    if !config.new_instance {
        return anyhow::anyhow!(refusal);
    }
    match data.renew() {
        Ok(id) => {
            anyhow::anyhow!("{refusal}. It has the new identity {id} from now on: start it again")
        }
        Err(error) => error.context(refusal),
    }
}

/// Containers that an earlier stop left are this run's own once they are adopted: should it be
/// killed, `ignite prune` is to find them. Never teardown, and so takes nothing back from a stop.
async fn clear_kept_mark(fleet: &Fleet, data: &DataDir) {
    fleet.until_settled().await;
    data.mark_kept(false);
    std::future::pending().await
}

/// Teardown the process once a part has failed: nobody is left waiting, what was accepted is written,
/// and containers stay for the next start. None of this may take long, since it may meet the part
/// that is dead.
async fn break_off(
    part: &str,
    stop: &Stop,
    serving: TaskTracker,
    executor: &Executor,
    fleet: &Fleet,
    executions: Executions,
    store: Store,
) -> ! {
    executor.stop();
    fleet.fail(&part_failed(Reason::ShuttingDown, part));
    stop.drain.cancel();
    serving.close();
    // Answers that are ready go out, above all those that say what happened.
    if tokio::time::timeout(BREAK_OFF, serving.wait())
        .await
        .is_err()
    {
        stop.force.cancel();
        executor.force();
    }
    let flushed = tokio::task::spawn_blocking(move || {
        executions.close();
        store.close();
    });
    if tokio::time::timeout(BREAK_OFF, flushed).await.is_err() {
        tracing::error!(
            "The stores did not close in time; the next start recovers what they confirmed"
        );
    }
    tracing::error!(
        part,
        code = EXIT_PART_FAILED,
        "Ending, since a part of the platform failed; containers stay for the next start"
    );
    std::process::exit(EXIT_PART_FAILED);
}

/// Stops in the order in which the parts depend on each other.
#[allow(
    clippy::too_many_arguments,
    reason = "it is the one place that takes everything down"
)]
async fn shut_down(
    config: &Config,
    teardown: Teardown,
    data: &DataDir,
    stop: Stop,
    serving: TaskTracker,
    gateway: &Gateway,
    executor: &Executor,
    apps: &Apps,
    gc: GarbageCollector,
    fleet: &Fleet,
    engine: &Docker,
) {
    executor.stop();
    stop.drain.cancel();
    apps.stop_parsing();
    fleet.end_followers();
    serving.close();
    gateway.upgrades.close();
    let finished = async {
        serving.wait().await;
        gateway.upgrades.wait().await;
        executor.finished().await;
    };
    if tokio::time::timeout(config.drain_timeout, finished)
        .await
        .is_err()
    {
        tracing::warn!(after = ?config.drain_timeout, "Requests did not finish in time and are cut off");
        stop.force.cancel();
        executor.force();
        serving.wait().await;
        executor.finished().await;
    }
    apps.finish().await;
    let volumes = gc.stop().await;
    data.mark_kept(teardown.keep && !teardown.taken);
    fleet.shutdown(teardown.keep).await;
    if teardown.everything {
        volumes.remove_all().await;
    }
    if !teardown.keep
        && let Err(error) = engine.remove_network().await
    {
        tracing::warn!(%error, "The instance's network stays; `ignite prune` removes it");
    }
}

/// Teardown the start when the engine has no such runtime. One that does not answer yet is asked again
/// before each container.
async fn check_runtime(config: &Config, engine: &Docker) -> Result<()> {
    if config.runtime.is_none() {
        return Ok(());
    }
    match engine.info().await {
        Err(wrong @ engine::Error::Refused { .. }) => Err(wrong.into()),
        _ => Ok(()),
    }
}

/// Says so when others can reach a server that trusts whoever deploys to it as its owner.
fn warn_of_exposure(config: &Config) {
    if let Some(addr) = config.exposed() {
        tracing::warn!(%addr, trust = %config.trust, "Listening beyond this machine, and whoever may deploy reaches this host, its private networks and every image on its engine; set --trust team where one organization deploys, --trust tenants where several do");
    }
}

async fn bind(addr: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("{setting}: cannot listen on {addr}; is another ignite running, or is the port taken? Choose another, or port 0 for a free one"))
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The secrets, as the engine's side sees them.
fn keychain(secrets: &Secrets) -> Keychain {
    let secrets = secrets.clone();
    Keychain::new(move |org, source| {
        let secrets = secrets.clone();
        Box::pin(async move {
            let name = &source.registry_secret_ref;
            let found = secrets.for_image(&org, name, &source.image_ref).await?;
            Ok(Credentials {
                username: found.username,
                password: found.password,
                server_address: Some(found.server_address).filter(|a| !a.is_empty()),
            })
        })
    })
}

/// The executions' view of the catalog.
fn app_lookup(store: &Store) -> executions::Known {
    let store = store.clone();
    Arc::new(move |app| {
        let since = store.catalog().get(app).map(|a| a.created_at_ms);
        since.map(|ms| u64::try_from(ms).unwrap_or(0))
    })
}

async fn services(compute: Compute, secrets: Secrets, limits: json::Limits) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<ComputeServiceServer<Compute>>()
        .await;
    let (reflection, reflection_alpha) = proto::reflection_services();
    let secrets = SecretsApi::new(compute.clone(), secrets);
    let executions = api::executions::Executions::new(compute.clone());
    let scaling = Scaling::new(compute.clone());
    let builds = api::builds::Builds::new(compute.clone());
    Routes::new(ComputeServiceServer::new(compute).max_decoding_message_size(limits.grpc_bytes()))
        .add_service(SecretServiceServer::new(secrets))
        .add_service(ExecutionServiceServer::new(executions))
        .add_service(ScalingServiceServer::new(scaling))
        .add_service(BuildServiceServer::new(builds))
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha)
}

fn api(
    services: Routes,
    limits: json::Limits,
    buffers: Buffers,
    gateway: &Arc<Gateway>,
    store: &Store,
    executions: &Executions,
    vitals: &Vitals,
) -> Router {
    let fleet = gateway.fleet.clone();
    let admit = gateway.clone();
    let admit: json::Admit = Arc::new(move |parts| {
        let caller = admit.caller(&parts.headers)?;
        parts.extensions.insert(caller);
        Ok(())
    });
    json::router(services, limits, buffers, admit)
        .merge(health::router(
            fleet,
            store.clone(),
            executions.clone(),
            vitals.clone(),
        ))
        .fallback(health::no_route)
}

/// One line on stdout for programs that wait for it.
fn print_ready(http: SocketAddr, grpc: SocketAddr, data_dir: &Path) -> Result<()> {
    let line = serde_json::json!({
        "event": "ready",
        "http": http.to_string(),
        "grpc": grpc.to_string(),
        "pid": std::process::id(),
        "data_dir": data_dir,
    });
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason not to serve.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    Ok(())
}
