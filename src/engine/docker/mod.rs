//! The engine trait over Docker's API, for Docker and for Podman's compatible socket.
//!
//! [`Docker`] answers the trait's calls with as few round trips as the engine allows: the engine's
//! description (`info`) and the existence of the instance's network (`network`) are queried once
//! and kept, so a cold start costs create, start and inspect. The pure parts, from spec to engine
//! configuration (`spec`) and from the engine's responses to our types (`read`), know no client.
//!
//! A container is reached at its own address where that is routable, else through published ports.
//! Those are bound to 127.0.0.1 when the engine is on this machine. For an engine on another host
//! (`DOCKER_HOST=tcp://…`) they are bound to 0.0.0.0 there, because nothing else can be reached
//! from here: anyone who reaches that host then reaches the apps without a token.
//!
//! | File | Holds |
//! | --- | --- |
//! | `mod.rs` | [`Docker`] and its [`Engine`] methods |
//! | `config.rs` | [`Config`]: settings and their defaults |
//! | `connect.rs`, `local_sockets.rs`, `cli_config/` | The engine's address, logins, proxies |
//! | `client.rs`, `single_flight.rs` | One call with its time limit; work shared by callers |
//! | `info.rs` | The engine's description, and its traits |
//! | `spec/`, `create.rs`, `sealed.rs` | From a spec to a created container |
//! | `labels/`, `seal.rs`, `names.rs` | Labels, their seal, names |
//! | `inspect.rs`, `listing.rs`, `read.rs`, `states.rs` | Containers as the engine reports them |
//! | `standby.rs`, `freezer.rs`, `holder.rs` | Frozen and prepared containers |
//! | `image.rs`, `image_list.rs`, `own_image.rs` | Images: found or pulled; listed; imported from this program |
//! | `build.rs`, `build_*.rs`, `lost_layers.rs`, `no_builder.rs` | Builds |
//! | `network.rs`, `ranges.rs`, `isolation.rs`, `firewall/` | The instance's network, its addresses, and the rules around it |
//! | `seccomp.rs` | The seccomp profile |
//! | `relay.rs`, `program.rs` | The relay's container, and this program as its image |
//! | `volumes.rs`, `engine_volumes.rs`, `folders.rs` | Volumes of apps |
//! | `home/`, `archive.rs` | The home directory in an image; tar archives of one entry |
//! | `logs.rs`, `lines.rs` | Tails and streams of containers' logs |
//! | `sockets.rs`, `pids.rs`, `disk.rs` | Open ports, refused processes, disk space |
//! | `exec.rs` | A command in a replica, for the operator |
//! | `instance_lease.rs`, `prune.rs` | Leases of instances; removal of what an instance left |

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bollard::query_parameters::{EventsOptions, LogsOptions, StopContainerOptions};
use futures_util::{StreamExt, future, stream, stream::BoxStream};
use parking_lot::Mutex;

use self::{
    attach::ImageVariables,
    build_network::BuildNetworks,
    cli_config::CliConfig,
    client::{Client, gone_is_fine, has_status, or_gone, remove_container},
    connect::{Address, Connector},
    firewall::Firewall,
    freezer::Cgroup,
    holder::HolderImage,
    home::Homes,
    image::Pulls,
    info::Facts,
    listing::UnprovenContainers,
    network::InstanceNetwork,
    pids::PidsFiles,
    volumes::Volumes,
};
use super::{
    Container, ContainerId, ContainerSpec, ContainerState, Credentials, DiskUse, Endpoints, Engine,
    Error, Image, Info, LimitsHit, Listening, LogLine, LogQuery, LogStream, Owner, Prepared,
    PullRecord, Volume,
};

mod abilities;
mod api_version;
mod archive;
mod attach;
mod build;
mod build_limits;
mod build_network;
mod build_steps;
mod cli_config;
mod client;
mod config;
mod connect;
mod create;
mod disk;
mod engine_volumes;
pub mod exec;
mod firewall;
mod folders;
mod freezer;
mod holder;
mod home;
mod image;
mod image_list;
mod info;
mod inspect;
mod instance_lease;
mod isolation;
mod labels;
mod lines;
mod listing;
mod local_sockets;
mod logs;
mod lost_layers;
mod names;
mod network;
mod no_builder;
mod own_container;
mod own_image;
mod pids;
mod program;
mod prune;
mod ranges;
mod raw;
mod read;
mod relay;
mod seal;
mod sealed;
mod seccomp;
mod single_flight;
mod sockets;
mod spec;
mod standby;
mod states;
#[cfg(test)]
mod tests;
mod usage;
mod volumes;

pub use attach::{Attach, Attached, AttachedNetwork, LABEL, Shown};
pub use cli_config::DEFAULT_HELPER_TIMEOUT;
pub use config::{
    Config, DEFAULT_CALL_TIMEOUT, DEFAULT_HOME_COPY_BYTES, DEFAULT_HOME_COPY_FILES,
    DEFAULT_INFO_TIMEOUT, DEFAULT_LOG_MAX_BYTES, DEFAULT_LOG_MAX_FILES, DEFAULT_PULL_TIMEOUT,
    DEFAULT_START_TIMEOUT, Reach,
};
pub use firewall::Doors;
pub use folders::of_apps as folders_of_apps;
pub use freezer::Freezer;
pub use instance_lease::{HeldLease, watch_for};
pub use names::FROM_CONTAINERS;
pub use prune::{InstanceOfOthers, Pruner, Remains};
pub use ranges::FreeRanges;
pub use relay::{LastWords, RunningRelay};
pub use seal::Seal;
pub use seccomp::Profile;
pub use usage::{EngineUsage, Used, UsedKind};

/// A real engine. Share it behind an `Arc`; it connects on first use and again after a restart of
/// the engine. Dropping it ends its running pulls.
#[derive(Debug)]
pub struct Docker {
    config: Config,
    /// Who chose the engine, as part of a sentence.
    chosen: String,
    cli: CliConfig,
    client: Client,
    /// The engine's last description of itself; held only to read or replace.
    facts: Mutex<Option<Arc<Facts>>>,
    network: InstanceNetwork,
    /// Isolates containers from this host; `None` where none are to be.
    firewall: Option<Arc<Firewall>>,
    /// The networks of builds; `None` where builds are not behind rules.
    build_networks: Option<Arc<BuildNetworks>>,
    pulls: Pulls,
    holder_image: HolderImage,
    homes: Homes,
    volumes: Volumes,
    /// Containers that were frozen through their cgroup, which the engine does not know.
    frozen: Mutex<HashMap<ContainerId, Cgroup>>,
    pids: PidsFiles,
    image_variables: ImageVariables,
    unproven: UnprovenContainers,
    /// Whether the warnings about limits were given, so that they appear once and not per start.
    warned_of_cpu: AtomicBool,
    warned_of_init: AtomicBool,
    warned_of_certificates: AtomicBool,
    warned_of_builds: Arc<AtomicBool>,
}

impl Docker {
    /// Checks the engine's address: `host`, or the environment's.
    ///
    /// # Errors
    /// As [`Docker::new`].
    pub fn check_address(host: Option<&str>) -> Result<(), Error> {
        Address::find(host, |name| std::env::var(name).ok()).map(drop)
    }

    /// Prepares the client; the engine need not run yet.
    ///
    /// # Errors
    /// [`Error::BadAddress`] when the address, from the configuration or `DOCKER_HOST`, is not
    /// one of the accepted forms.
    pub fn new(config: Config) -> Result<Self, Error> {
        let env = |name: &str| std::env::var(name).ok();
        let (address, chosen) = Address::find_with_reason(config.host.as_deref(), env)?;
        let cli = CliConfig::new(env).with_helper_timeout(config.helper_timeout);
        let firewall = config.egress.clone().map(|ceiling| {
            let builds = config.build_egress.clone();
            Arc::new(Firewall::new(config.instance.clone(), ceiling, builds))
        });
        let with_builds = firewall.clone().filter(|_| config.build_egress.is_some());
        Ok(Self {
            chosen,
            client: Client::new(
                Connector::new(address),
                config.call_timeout,
                config.metrics.clone(),
            ),
            facts: Mutex::default(),
            network: InstanceNetwork::default(),
            build_networks: with_builds.map(|firewall| Arc::new(BuildNetworks::new(firewall))),
            firewall,
            pulls: Pulls::new(
                config.pull_record.clone(),
                config.use_docker_login.then(|| cli.clone()),
            ),
            cli,
            config,
            holder_image: HolderImage::default(),
            homes: Homes::new(),
            volumes: Volumes::new(),
            frozen: Mutex::default(),
            pids: PidsFiles::new(),
            image_variables: ImageVariables::default(),
            unproven: UnprovenContainers::default(),
            warned_of_cpu: AtomicBool::new(false),
            warned_of_init: AtomicBool::new(false),
            warned_of_certificates: AtomicBool::new(false),
            warned_of_builds: Arc::default(),
        })
    }

    /// The engine's address, as a user would write it.
    pub fn address(&self) -> String {
        self.client.connector().describe()
    }

    /// Who chose that engine, as part of a sentence.
    pub fn chosen(&self) -> &str {
        &self.chosen
    }

    async fn facts(&self) -> Result<Arc<Facts>, Error> {
        if let Some(facts) = &*self.facts.lock() {
            return Ok(Arc::clone(facts));
        }
        self.fetch_facts().await
    }

    async fn fetch_facts(&self) -> Result<Arc<Facts>, Error> {
        let facts = Arc::new(info::fetch(&self.client, &self.config).await?);
        *self.facts.lock() = Some(Arc::clone(&facts));
        Ok(facts)
    }

    fn network_name(&self) -> String {
        names::network_name(&self.config)
    }

    async fn start_once(&self, id: &ContainerId) -> Result<(), Error> {
        self.client
            .run_within(
                "start the container",
                self.config.start_timeout,
                |docker| async move { docker.start_container(&id.0, None).await },
            )
            .await
    }

    /// Removes the networks of builds, the instance's own, and one made under another trust.
    async fn remove_networks(&self) -> Result<(), Error> {
        self.network.forget();
        build_network::remove_all(&self.client, &self.config).await?;
        let own = self.facts.lock().as_ref().and_then(|f| f.own.clone());
        self.network
            .remove(&self.client, &self.config, own.as_ref())
            .await
    }

    /// Makes the network again after an error that blames it; passes other errors on.
    async fn recreate_network(&self, err: Error) -> Result<(), Error> {
        if !network::is_to_blame(&err, &self.config) {
            return Err(err);
        }
        tracing::warn!(cause = %err, "The instance's network is gone; making it again");
        self.network.forget();
        self.ensure_network_and_rules().await.map(drop)
    }
}

impl Engine for Docker {
    async fn info(&self) -> Result<Info, Error> {
        Ok(self.fetch_facts().await?.info.clone())
    }

    async fn ensure_image(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Image, Error> {
        let limit = self.config.pull_timeout;
        let found = self
            .pulls
            .ensure(&self.client, reference, credentials, limit)
            .await?;
        self.homes.find(&self.client, &self.config, found).await
    }

    async fn ensure_base(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Image, Error> {
        let limit = self.config.pull_timeout;
        self.pulls
            .ensure_unrecorded(&self.client, reference, credentials, limit)
            .await
    }

    async fn find_image(&self, reference: &str) -> Result<Option<Image>, Error> {
        image::inspect(&self.client, reference).await
    }

    async fn registry_digest(&self, name: &str, by: Option<&Credentials>) -> Result<String, Error> {
        image::registry_digest(&self.client, name, by).await
    }

    async fn untag_image(&self, reference: &str) -> Result<(), Error> {
        image::untag(&self.client, reference).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        let facts = self.facts().await?;
        self.warn_of_what_the_engine_lacks(spec, &facts);
        if let Some(extra) = &self.config.extra_network {
            network::check_extra(&self.client, extra).await?;
        }
        let made = match self.create_once(spec, &facts).await {
            Err(err) if network::is_to_blame(&err, &self.config) => {
                self.recreate_network(err).await?;
                self.create_once(spec, &facts).await
            }
            other => other,
        };
        let id = made.map_err(|err| match err {
            // The image was removed since the version was published; a caller may pull it again.
            Error::Refused {
                status: 404,
                message,
                ..
            } if message.to_ascii_lowercase().contains("image") => Error::NoSuchImage {
                reference: spec.image.clone(),
                cause: message,
            },
            err => err,
        })?;
        if let Some(extra) = &self.config.extra_network
            && let Err(err) = network::connect_extra(&self.client, extra, &id).await
        {
            if let Err(cause) = self.remove(&id).await {
                tracing::warn!(container = %id, %cause, "An unfinished container was left behind");
            }
            return Err(err);
        }
        Ok(id)
    }

    async fn start(&self, id: &ContainerId) -> Result<Endpoints, Error> {
        if let Err(err) = self.start_once(id).await {
            if has_status(&err, 404) && !network::is_to_blame(&err, &self.config) {
                // A 404 can also mean a missing extra network or runtime; only the engine knows.
                self.inspect(id).await?;
            }
            self.recreate_network(network::or_no_extra(err, &self.config))
                .await?;
            self.start_once(id)
                .await
                .map_err(|err| network::or_no_extra(err, &self.config))?;
        }
        let endpoints = self.address_of(id).await?;
        self.locate(id, &endpoints);
        Ok(endpoints)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, Error> {
        let found = self.inspect_alone(id).await?;
        self.reached_through(found).await
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), Error> {
        self.freeze(id).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<(), Error> {
        self.thaw(id).await
    }

    async fn thaw_left(&self, id: &ContainerId) -> Result<(), Error> {
        Docker::thaw_left(self, id).await
    }

    async fn memory(&self, id: &ContainerId) -> Result<Option<u64>, Error> {
        self.memory_of(id).await
    }

    async fn listening(&self, id: &ContainerId) -> Result<Option<Listening>, Error> {
        self.sockets_of(id).await
    }

    async fn limits_hit(&self, id: &ContainerId) -> Result<LimitsHit, Error> {
        let pids = match self.pids.known(id) {
            Some(pids) => pids,
            None => self.pids.find(id, self.pid(id).await?),
        };
        Ok(LimitsHit { pids })
    }

    async fn prepare(
        &self,
        spec: &ContainerSpec,
        holder: Option<&ContainerId>,
    ) -> Result<Prepared, Error> {
        self.prepare_in(spec, holder).await
    }

    async fn start_prepared(&self, id: &ContainerId) -> Result<(), Error> {
        self.start_in(id).await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        self.thaw_before_removal(id);
        // The engine accepts whole seconds; a fraction is rounded up, so that no grace is cut
        // short.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptions {
            t: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            signal: None,
        };
        let limit = grace + self.config.call_timeout;
        let stopped = self
            .client
            .run_within("stop the container", limit, |docker| async move {
                docker.stop_container(&id.0, Some(options)).await
            })
            .await;
        gone_is_fine(stopped)
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        self.thaw_before_removal(id);
        remove_container(&self.client, id).await?;
        self.forget_rules(id).await;
        Ok(())
    }

    async fn log_tail(&self, id: &ContainerId, lines: u32) -> Result<Vec<String>, Error> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: lines.to_string(),
            ..LogsOptions::default()
        };
        let read = self
            .client
            .run("read the container's log", |docker| async move {
                let mut frames = docker.logs(&id.0, Some(options));
                let mut tail = logs::Tail::new(lines);
                while let Some(frame) = frames.next().await {
                    tail.push(frame?);
                }
                Ok(tail.finish())
            })
            .await;
        or_gone(read, id)
    }

    fn logs(&self, id: &ContainerId, ask: LogQuery) -> BoxStream<'static, Result<LogLine, Error>> {
        lines::read(&self.client, id, ask)
    }

    async fn list(&self) -> Result<Vec<Container>, Error> {
        self.list_ours().await
    }

    async fn ensure_network(&self) -> Result<(), Error> {
        self.ensure_network_and_rules().await.map(drop)
    }

    async fn disk_use(&self) -> Result<Vec<DiskUse>, Error> {
        self.measure_disk().await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.list_volumes().await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.remove_files(name).await
    }

    fn warning_of_files(&self, spec: &ContainerSpec) -> Option<String> {
        self.volumes.warning(&self.config, spec)
    }

    async fn remove_network(&self) -> Result<(), Error> {
        self.remove_networks().await?;
        self.remove_rules().await
    }

    fn deaths(&self) -> BoxStream<'static, ContainerId> {
        let client = match self.client.connector().client() {
            Ok(client) => client,
            Err(cause) => {
                tracing::debug!(%cause, "No engine to subscribe to");
                return stream::empty().boxed();
            }
        };
        let mut filters = labels::filter(&self.config.instance);
        filters.insert("type".into(), vec!["container".into()]);
        client
            .events(Some(EventsOptions {
                filters: Some(filters),
                ..EventsOptions::default()
            }))
            // Ends the stream at the first error; the listener subscribes again.
            .scan((), |(), event| {
                future::ready(
                    event
                        .inspect_err(|cause| tracing::debug!(%cause, "The engine's events ended"))
                        .ok(),
                )
            })
            .filter_map(|event| future::ready(read::death(event)))
            .boxed()
    }
}
