//! A running server, from its first connection until it has ended everything again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::TaskTracker;

use super::{
    app_calls::AppCalls,
    base::Base,
    data_dir, encryption,
    endpoints::Endpoints,
    greeting::{self, Greeting},
    keeper::{Keeper, LeaseEnd},
    metrics::{Exposition, Open},
    parts::{executor_config, listener_limits, public_urls},
    platform::Platform,
    service_manager::Inherited,
    serving_apps::Serving,
};
use crate::{
    api::{compute::PublicUrls, grpc::Grpc},
    config::Config,
    engine::{Engine as _, docker::Docker},
    executor::Executor,
    fleet::Starter,
    gateway::{
        Front, Gateway,
        limits::Limits,
        listener::{self, Stop},
        redirect::Redirect,
        workers::Workers,
    },
    gc::GarbageCollector,
    model::{Reason, instance_lease::Lease},
    tls::{Protocol, Tls},
    vitals::{EXIT_PART_FAILED, part_failed},
};

/// Longest time for requests in flight, and then for the stores, once a part has failed.
const BREAK_OFF: Duration = Duration::from_secs(5);

/// The bound sockets of the listeners.
pub(super) struct Sockets {
    http: TcpListener,
    grpc: TcpListener,
    https: Option<TcpListener>,
    /// Shows metrics without a token.
    metrics: Option<TcpListener>,
    bound: Bound,
}

/// Where the listeners are.
#[derive(Debug, Clone, Copy)]
struct Bound {
    http: SocketAddr,
    grpc: SocketAddr,
    https: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

impl Sockets {
    /// Takes those of `inherited`, and binds the others.
    ///
    /// # Errors
    /// The setting whose address cannot be listened on.
    pub(super) async fn bind(config: &Config, mut inherited: Inherited) -> Result<Self> {
        let from = &mut inherited;
        let http = bind(config.http_addr, "http_addr", from).await?;
        let grpc = bind(config.grpc_addr, "grpc_addr", from).await?;
        let https = match config.https_addr() {
            Some(addr) => Some(bind(addr, "https_addr", from).await?),
            None => None,
        };
        let metrics = match config.metrics_addr {
            Some(addr) => Some(bind(addr, "metrics_addr", from).await?),
            None => None,
        };
        let bound = Bound {
            http: http.local_addr()?,
            grpc: grpc.local_addr()?,
            https: https.as_ref().map(TcpListener::local_addr).transpose()?,
            metrics: metrics.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        Ok(Self {
            http,
            grpc,
            https,
            metrics,
            bound,
        })
    }

    /// The ports of HTTP and HTTPS.
    pub(super) fn ports(&self) -> (u16, Option<u16>) {
        let Bound { http, https, .. } = self.bound;
        (http.port(), https.map(|addr| addr.port()))
    }
}

async fn bind(addr: SocketAddr, setting: &str, inherited: &mut Inherited) -> Result<TcpListener> {
    if let Some(socket) = inherited.take(setting).context("socket activation")? {
        return Ok(socket);
    }
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("{setting}: cannot listen on {addr}; is another ignite running, or is the port taken? Choose another, or port 0 for a free one"))
}

/// A running server.
pub(super) struct Server {
    executor: Executor,
    platform: Platform,
    stop: Stop,
    /// The listeners.
    listeners: TaskTracker,
    /// The threads that carry connections. They outlast the listeners, since they also carry what
    /// requests leave running.
    workers: Arc<Workers>,
    /// Keep keys, accounts and issuers up to date.
    _identity: JoinSet<()>,
    base: Base,
}

impl Server {
    /// Starts the listeners, the fleet and the executor, and says that it is ready.
    ///
    /// # Errors
    /// When there are no threads for connections, or the data directory cannot be written.
    pub(super) async fn start(
        base: Base,
        platform: Platform,
        mut sockets: Sockets,
        tls: Option<Tls>,
        starter: Starter<Docker>,
        calls: Option<Arc<AppCalls>>,
    ) -> Result<Self> {
        let stop = Stop::default();
        let identity = base.stores.identity.keep_up_to_date(&base.vitals);
        let identity =
            identity.context("the issuers of oidc_issuers cannot be asked for their keys")?;
        let bound = sockets.bound;
        let urls = public_urls(&base.config, bound.https.unwrap_or(bound.http));
        let endpoints = Endpoints::new(&base, &platform, urls.clone(), stop.drain.clone()).await;
        let workers = Workers::start(base.config.http_threads, &base.vitals);
        let workers = Arc::new(workers.context("http_threads")?);
        let exposition = Exposition::new(&base, &platform);
        let api = endpoints.router(&base, &platform, tls.clone());
        let api = api.merge(exposition.router());
        let grpc = endpoints.into_grpc(&platform);
        let front = Front {
            gateway: platform.gateway.clone(),
            api,
            grpc: grpc.clone(),
        };
        let listening = Listening {
            base: &base,
            gateway: &platform.gateway,
            workers: workers.clone(),
            limits: listener_limits(&base.config, &base.shares),
            stop: stop.clone(),
            listeners: TaskTracker::new(),
        };
        if let Some(calls) = calls {
            let workers = workers.clone();
            let serving = Serving::new(&base, &platform, front.clone(), workers, tls.clone());
            let work = serving.serve(calls, stop.clone());
            listening.spawn("the listeners for apps", work);
        }
        if let Some(socket) = sockets.metrics.take() {
            listening.plain("the listener for metrics", socket, Open(exposition));
        }
        let listeners = listening.start(sockets, front, grpc, &urls, tls.as_ref());
        starter.begin();
        let executor = Executor::start(
            executor_config(&base.config, &base.vitals, &base.metrics),
            base.stores.executions.clone(),
            platform.gateway.clone(),
        );
        announce(&base, bound, &urls, tls.as_ref())?;
        Ok(Self {
            executor,
            platform,
            stop,
            listeners,
            workers,
            _identity: identity,
            base,
        })
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// Takes back that an earlier stop left containers, once they are adopted: `ignite prune` has
    /// to find them should this run be killed. Never ends, so that as a branch of the wait for a
    /// stop it stops nothing.
    pub(super) async fn clear_kept_mark(&self) {
        self.platform.fleet.until_settled().await;
        self.base.data.mark_kept(false);
        std::future::pending().await
    }

    /// Ends the process once `part` has failed: requests that wait are answered, what was accepted
    /// is written, and containers stay for the next start. Every step has a time limit, since it
    /// may depend on the part that is dead.
    pub(super) async fn break_off(&self, part: &str) -> ! {
        self.executor.stop();
        let failure = part_failed(Reason::ShuttingDown, part);
        self.platform.fleet.fail(&failure);
        self.stop.drain.cancel();
        self.listeners.close();
        // Answers that are ready go out, above all those that say what happened.
        if tokio::time::timeout(BREAK_OFF, self.listeners.wait())
            .await
            .is_err()
        {
            self.stop.force.cancel();
            self.executor.force();
        }
        let executions = self.base.stores.executions.clone();
        let store = self.base.stores.store.clone();
        let audit = self.base.stores.audit.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            executions.close();
            store.close();
            audit.close();
        });
        if tokio::time::timeout(BREAK_OFF, flushed).await.is_err() {
            tracing::error!(
                "The stores did not close in time; the next start recovers what they confirmed"
            );
        }
        tracing::error!(
            part,
            code = EXIT_PART_FAILED,
            "Exiting because a part of the platform failed; containers stay for the next start"
        );
        std::process::exit(EXIT_PART_FAILED);
    }

    /// Stops in the order in which the parts depend on each other.
    pub(super) async fn shut_down(&self, gc: GarbageCollector, teardown: Teardown) {
        let Platform { fleet, apps, .. } = &self.platform;
        self.drain().await;
        apps.finish().await;
        let volumes = gc.stop().await;
        self.base.data.mark_kept(teardown.keep && !teardown.taken);
        fleet.shutdown(teardown.keep).await;
        if teardown.everything {
            volumes.remove_all().await;
        }
        if !teardown.keep
            && let Err(error) = self.base.engine.remove_network().await
        {
            tracing::warn!(%error, "The instance's network stays; `ignite prune` removes it");
        }
    }

    /// Accepts no more, lets requests and executions finish, and cuts them off after
    /// `drain_timeout`.
    async fn drain(&self) {
        let (executor, upgrades) = (&self.executor, &self.platform.gateway.upgrades);
        executor.stop();
        self.stop.drain.cancel();
        self.platform.apps.stop_parsing();
        self.platform.fleet.end_followers();
        self.listeners.close();
        upgrades.close();
        let finished = async {
            self.listeners.wait().await;
            upgrades.wait().await;
            executor.finished().await;
        };
        let limit = self.base.config.drain_timeout;
        if tokio::time::timeout(limit, finished).await.is_err() {
            tracing::warn!(after = ?limit, "Requests did not finish in time and are cut off");
            self.stop.force.cancel();
            executor.force();
            self.listeners.wait().await;
            executor.finished().await;
        }
    }

    /// Ends what outlasts the apps: the identity's lease, the stores, the threads, the directory.
    pub(super) async fn close(mut self, keeper: Keeper, teardown: Teardown) -> Base {
        if teardown.everything {
            self.platform.builder.remove_all_images().await;
        }
        keeper.stop(teardown.lease()).await;
        self.executor.count_the_last();
        self.base.stores.close();
        if let Some(traces) = self.base.exporting.take() {
            traces.finish().await;
        }
        drop(self.workers);
        self.base.data.close(&self.base.config);
        self.base
    }
}

/// What the listeners are started with.
struct Listening<'a> {
    base: &'a Base,
    gateway: &'a Gateway,
    workers: Arc<Workers>,
    limits: Limits,
    stop: Stop,
    listeners: TaskTracker,
}

impl Listening<'_> {
    /// Starts the listeners: plain ones, or with TLS those over it, beside a plain one that leads
    /// there.
    fn start(
        self,
        sockets: Sockets,
        front: Front,
        grpc: Arc<Grpc>,
        urls: &PublicUrls,
        tls: Option<&Tls>,
    ) -> TaskTracker {
        let config = &self.base.config;
        let Some((tls, https)) = tls.zip(sockets.https) else {
            self.plain("the HTTP listener", sockets.http, front);
            self.plain("the gRPC listener", sockets.grpc, grpc);
            return self.listeners;
        };
        self.secure(
            "the HTTPS listener",
            https,
            front.clone(),
            tls,
            Protocol::Web,
        );
        self.secure("the gRPC listener", sockets.grpc, grpc, tls, Protocol::Grpc);
        if config.tls.redirect {
            let port = match urls.scheme.as_str() {
                "https" => urls.port,
                _ => sockets.bound.https.map(|addr| addr.port()),
            };
            let redirect = Redirect { front, port };
            self.plain("the HTTP listener", sockets.http, redirect);
        } else {
            self.plain("the HTTP listener", sockets.http, front);
        }
        let watch = tls
            .clone()
            .watch(config.tls.check_interval, self.stop.drain.clone());
        self.spawn("the watch over certificates", watch);
        self.listeners
    }

    fn plain(&self, part: &str, socket: TcpListener, service: impl listener::Service) {
        let (workers, limits, stop) = self.shared();
        self.spawn(part, listener::run(socket, workers, service, limits, stop));
    }

    fn secure(
        &self,
        part: &str,
        socket: TcpListener,
        service: impl listener::Service,
        tls: &Tls,
        protocol: Protocol,
    ) {
        let (workers, limits, stop) = self.shared();
        let secure = encryption::listener(&self.base.config, tls, self.gateway, protocol);
        let listening = listener::run_secure(socket, workers, service, limits, stop, secure);
        self.spawn(part, listening);
    }

    fn shared(&self) -> (Arc<Workers>, Limits, Stop) {
        (self.workers.clone(), self.limits.clone(), self.stop.clone())
    }

    fn spawn(&self, part: &str, work: impl Future<Output = ()> + Send + 'static) {
        self.listeners.spawn(self.base.vitals.watch(part, work));
    }
}

/// What a stop leaves in the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teardown {
    /// Containers stay, for the next start or for the server that holds the identity.
    keep: bool,
    /// The instance keeps nothing: volumes and images go, too.
    everything: bool,
    /// Another server holds the identity.
    taken: bool,
}

impl Teardown {
    /// What the settings ask for. What another server holds (`taken`) is not ours to remove.
    pub(super) fn new(config: &Config, taken: bool) -> Self {
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

/// Why a server ends when another one holds its identity; with `--new-instance` the next start
/// gets a new identity.
pub(super) fn identity_taken(base: &Base, lease: &Lease) -> anyhow::Error {
    let Base { config, data, .. } = base;
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

/// Announces that the server is ready: in `serve.json`, to health checks, on stdout and in the log.
fn announce(base: &Base, bound: Bound, urls: &PublicUrls, tls: Option<&Tls>) -> Result<()> {
    let (data, config) = (&base.data, &base.config);
    let Bound {
        http,
        grpc,
        https,
        metrics,
    } = bound;
    let tls = tls.zip(https);
    let tls = tls.map(|(tls, at)| encryption::for_clients(config, tls, data.path(), at));
    data.announce(http, grpc, tls, base.engine.address(), config)?;
    base.vitals.set_serving(true);
    greeting::print(&Greeting {
        http,
        grpc,
        https,
        metrics,
        data_dir: data.path(),
        engine: &base.engine.address(),
        urls,
        config,
    });
    let https = https.map(|addr| addr.to_string());
    let metrics = metrics.map(|addr| addr.to_string());
    tracing::info!(%http, https, %grpc, metrics, data_dir = %data.path().display(), engine = base.engine.address(), engine_chosen_because = base.engine.chosen(), "Serving");
    Ok(())
}
