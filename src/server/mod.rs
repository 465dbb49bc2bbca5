//! The composition root: the only module that knows all others.
//!
//! A start locks the data directory, binds every socket, opens key and stores (`base.rs`), wires
//! the parts (`platform.rs`, `endpoints.rs`) and says that it is ready (`serving.rs`). A stop
//! accepts no more, lets requests finish within a bound, then ends operations, replicas and
//! stores.

mod app_calls;
mod base;
mod building;
mod data_dir;
mod doctor;
mod encryption;
mod endpoints;
mod greeting;
mod health;
mod keeper;
mod limits;
mod machine;
mod metrics;
mod operator;
mod parts;
mod platform;
mod prune;
mod relaying;
mod service_manager;
mod serving;
mod serving_apps;
mod signals;
pub mod store;
mod traces;
mod usage;

use std::path::Path;

use anyhow::{Context as _, Result};

use self::{
    app_calls::AppCalls,
    base::Base,
    data_dir::DataDir,
    platform::Assembled,
    serving::{Server, Sockets, Teardown, identity_taken},
    signals::Signals,
};
use crate::{clock, config::Config, engine::docker::Docker};

pub use doctor::{Check, Diagnosis, Outcome, examine};
pub use operator::operator;
pub use prune::{Kept, Named, Pruned, State, Things, prune};
pub use service_manager::Inherited;
pub use usage::{Item as UsageItem, Kind as UsageKind, Usage, usage};

/// Checks what the form of single settings cannot show, before anything is touched.
///
/// # Errors
/// The setting, and what is wrong with it.
pub fn check(config: &Config) -> Result<()> {
    Docker::check_address(config.docker_host.as_deref()).context("docker_host")?;
    parts::seccomp(config, Path::new("")).map(drop)
}

/// Reads the configuration again and applies what can change while the server runs; returns a
/// summary.
pub type Reload = Box<dyn Fn() -> Result<String> + Send + Sync>;

/// Serves until SIGINT or SIGTERM. SIGHUP ends it as well when it keeps nothing or has a terminal,
/// which then hangs up; any other server calls `reload`. Listens on the sockets of `inherited`
/// instead of new ones, whose addresses `config` has.
///
/// # Errors
/// Why it could not start. Failures while it serves are logged and answered, never fatal.
pub async fn run(config: Config, reload: Reload, inherited: Inherited) -> Result<()> {
    let data = DataDir::lock(&config).await?;
    let tls = encryption::open(&config, data.path())?;
    let reload = encryption::reload_with(reload, tls.clone());
    let sockets = Sockets::bind(&config, inherited).await?;
    // Before any work: a signal during the start is a clean stop, not a kill.
    let mut signals = Signals::new(config.ephemeral)?;
    let shares = limits::share_descriptors(config.max_connections);
    clock::settle_for(config.clock_settle);
    warn_of_exposure(&config);

    let (http, https) = sockets.ports();
    let certificates = encryption::for_apps(&config, tls.as_ref(), data.path());
    let calls = AppCalls::new(&config, http, https, certificates);
    let base = Base::open(config, data, shares, calls.as_ref()).await?;
    let mut keeper = base.hold_identity();
    let Assembled {
        platform,
        gc,
        starter,
    } = platform::assemble(&base, keeper.claimed())?;
    let server = Server::start(base, platform, sockets, tls, starter, calls).await?;

    let base = server.base();
    service_manager::ready();
    let taken = tokio::select! {
        () = signals.first(&reload) => None,
        lease = keeper.taken() => Some(lease),
        () = server.clear_kept_mark() => None,
        () = base.engine.keep_isolated() => None,
        () = service_manager::keep_alive(&base.vitals) => None,
        part = base.vitals.failure() => {
            server.break_off(&part).await
        }
    };
    base.vitals.set_serving(false);
    service_manager::stopping(base.config.drain_timeout);
    let teardown = Teardown::new(&base.config, taken.is_some());
    tokio::select! {
        () = server.shut_down(gc, teardown) => {}
        () = signals.again() => std::process::exit(130),
    }
    let base = server.close(keeper, teardown).await;
    if let Some(lease) = taken {
        return Err(identity_taken(&base, &lease));
    }
    tracing::info!("Stopped");
    Ok(())
}

/// Warns when other machines can reach a server that trusts everyone who deploys to it as its
/// owner.
fn warn_of_exposure(config: &Config) {
    if let Some(addr) = config.exposed() {
        tracing::warn!(%addr, trust = %config.trust, "Listening beyond this machine, and anyone who may deploy reaches this host, its private networks and every image on its engine; set --trust team where one organization deploys, --trust tenants where several do");
    }
    if let Some(addr) = config.metrics_addr.filter(|addr| !addr.ip().is_loopback()) {
        tracing::warn!(%addr, "metrics_addr is reachable from other machines and asks for no token: whoever reaches it sees the names and the traffic of all apps; set it to a loopback address, or to one of a private network");
    }
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
