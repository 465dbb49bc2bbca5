//! The parts that keep, build and run apps, wired together.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    base::Base,
    building,
    parts::{defaults, fleet_config, gc_config, own_hosts},
};
use crate::{
    api::status::{self, to_response},
    apps::{self, Apps},
    builder::{Builder, Images, Rules},
    config::Config,
    engine::docker::Docker,
    fleet::{Fleet, Starter},
    gateway::{Gateway, Routes},
    gc::{GarbageCollector, Volumes},
    model::egress::Ceiling,
    parse_pool::Parsing,
    store::blobs::Blobs,
};

/// The parts that keep, build and run apps.
pub(super) struct Platform {
    pub(super) fleet: Fleet,
    pub(super) gateway: Arc<Gateway>,
    pub(super) apps: Apps,
    pub(super) builder: Builder,
}

/// A platform whose fleet has not begun.
pub(super) struct Assembled {
    pub(super) platform: Platform,
    /// Already running; a stop consumes it.
    pub(super) gc: GarbageCollector,
    /// Begins the fleet's work.
    pub(super) starter: Starter<Docker>,
}

/// Wires the parts. The fleet adopts the containers of an earlier run once `may_adopt` is true.
///
/// # Errors
/// When a folder for code or for builds cannot be made.
pub(super) fn assemble(base: &Base, may_adopt: watch::Receiver<bool>) -> Result<Assembled> {
    let (config, stores) = (&base.config, &base.stores);
    let keychain = base.keychain.clone();
    let fleet_config = fleet_config(
        config,
        keychain.clone(),
        may_adopt,
        &base.vitals,
        &base.metrics,
        &base.shares,
    );
    let (fleet, starter) = Fleet::new(fleet_config, base.engine.clone());
    let routes = Arc::new(Routes::default());
    let rules = Rules {
        strict: config.strict,
        foreign_arch: config.allow_foreign_arch,
    };
    let admission = building::admission(config, &base.data);
    let images = Images::new(base.engine.clone(), keychain, rules, admission);
    let volumes = Volumes::new(base.engine.clone());
    let blobs = Blobs::open(base.data.path(), &stores.store.catalog())
        .context("the folder of saved code")?;
    let builder = builder(base, images.clone(), blobs.clone())?;
    let apps = Apps::new(apps::Parts {
        store: stores.store.clone(),
        executions: stores.executions.clone(),
        fleet: fleet.clone(),
        routes: routes.clone(),
        images,
        builder: builder.clone(),
        secrets: stores.secrets.clone(),
        blobs,
        volumes: volumes.clone(),
        defaults: defaults(config, &base.restrictions),
        parsing: Parsing::new(config.decode_concurrency),
        egress: Ceiling::of(config.trust, &config.egress_allow),
        most: apps::Most {
            apps_per_org: config.apps_max_per_org,
            versions_per_app: config.versions_max_per_app,
            hosts_per_app: config.hosts_max_per_app,
        },
        dev: dev_rules(config),
    });
    let gc = GarbageCollector::start(
        gc_config(config, &base.vitals),
        stores.store.clone(),
        fleet.clone(),
        volumes,
        base.engine.clone(),
    );
    let gateway = Arc::new(gateway(base, routes, fleet.clone()));
    Ok(Assembled {
        platform: Platform {
            fleet,
            gateway,
            apps,
            builder,
        },
        gc,
        starter,
    })
}

/// What development sessions may do: with one machine's owner alone, nearly everything.
fn dev_rules(config: &Config) -> apps::DevRules {
    let is_owners = !config.trust.isolates_host();
    apps::DevRules {
        syncs: is_owners && !config.strict,
        opens: is_owners && config.exposed().is_none(),
    }
}

fn builder(base: &Base, images: Images, blobs: Blobs) -> Result<Builder> {
    Builder::new(
        building::config(base),
        base.engine.clone(),
        images,
        blobs,
        building::vault(&base.stores.secrets),
        building::open_args(&base.stores.secrets),
    )
    .context("the folder for builds")
}

fn gateway(base: &Base, routes: Arc<Routes>, fleet: Fleet) -> Gateway {
    let config = &base.config;
    Gateway {
        routes,
        fleet,
        verifier: base.stores.identity.verifier(),
        hosts: own_hosts(config),
        app_paths: config.app_paths,
        cold_start_budget: config.cold_start_budget,
        upgrades: TaskTracker::new(),
        max_request_body_bytes: config.max_request_body_bytes,
        client_stall_timeout: config.client_stall_timeout,
        half_closed_timeout: config.half_closed_timeout,
        max_hops: config.app_calls.max_hops,
        trusted_proxies: config.trusted_proxies.clone(),
        metrics: base.metrics.clone(),
        tracer: base.tracer.clone(),
        render: to_response,
        grpc_trailers: status::to_trailers,
    }
}
