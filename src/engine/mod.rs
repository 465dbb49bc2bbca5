//! The seam to the container engine.
//!
//! [`Engine`] is the only way to containers: [`docker`] speaks to a real engine (Docker, or
//! Podman's compatible socket), `fake` is a scripted one for simulations in unit tests. Its calls
//! are idempotent: removing or stopping a container that is gone succeeds. Nothing outside this
//! module may assume more about a replica than that it has an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::stream::BoxStream;

use crate::model::{
    AppId, Platform, ReplicaId,
    capability::Capabilities,
    code::Overlay,
    egress::Egress,
    files::{Files, Home},
};

mod abilities;
mod build;
pub mod docker;
mod error;
#[cfg(test)]
pub mod fake;
mod keychain;
mod log;
mod pulled;

pub use abilities::{Abilities, Lack, Limits};
pub use build::{
    BuildCache, BuildEvent, BuildLimits, BuildNetwork, BuildRequest, BuildStep, ImageBuilder, STAGE,
};
pub use error::Error;
pub use keychain::Keychain;
pub use log::{LogLine, LogQuery, LogStream};
pub use pulled::{PullRecord, WritePulls, Written};

/// What the platform needs of a container engine.
///
/// # Cancel safety
/// A call that is dropped may still take effect in the engine; callers find out with
/// [`Engine::inspect`] or [`Engine::list`].
pub trait Engine: Send + Sync + 'static {
    /// Asks the engine for its description, which also shows that it responds.
    fn info(&self) -> impl Future<Output = Result<Info, Error>> + Send;

    /// Ensures that the image is on this machine: a local id or tag first, a pull when it is
    /// missing. Concurrent callers of one reference share one pull.
    fn ensure_image(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> impl Future<Output = Result<Image, Error>> + Send;

    /// As [`Engine::ensure_image`], for a base image of a build. The pull is not recorded, so
    /// garbage collection keeps the image: later builds want it, and none is known to be the last.
    fn ensure_base(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> impl Future<Output = Result<Image, Error>> + Send;

    /// The image if it is on this machine.
    fn find_image(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<Option<Image>, Error>> + Send;

    /// The digest that a reference stands for in its registry, queried there with these credentials
    /// and no others, whatever is on this machine.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when the registry does not say, also for want of permission.
    fn registry_digest(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> impl Future<Output = Result<String, Error>> + Send;

    /// Removes this name from its image, and the image when it has no other name. A missing one is
    /// a success; an image that a container needs is an error.
    fn untag_image(&self, reference: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Creates a container, stopped, in the instance's network (which is made when missing).
    fn create(
        &self,
        spec: &ContainerSpec,
    ) -> impl Future<Output = Result<ContainerId, Error>> + Send;

    /// Starts a created container and returns where it can be reached. A running one is a success.
    ///
    /// # Errors
    /// [`Error::Ended`] when the container ended before its address could be read.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<Endpoints, Error>> + Send;

    /// The state of one container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] when it is gone.
    fn inspect(&self, id: &ContainerId) -> impl Future<Output = Result<Container, Error>> + Send;

    /// Sends SIGTERM (or the image's own stop signal), waits at most `grace`, then kills. A
    /// container that is gone or has ended is a success.
    fn stop(
        &self,
        id: &ContainerId,
        grace: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Freezes a running container: no CPU, memory kept. A frozen one is a success.
    fn pause(&self, id: &ContainerId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Resumes a frozen container. A running one is a success.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::NoSuchContainer`] when it ended meanwhile. After
    /// [`Error::Refused`] it is still frozen; after other errors its state is unknown.
    fn resume(&self, id: &ContainerId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Resumes a container of an earlier run, however it was frozen. One that is not frozen is a
    /// success.
    fn thaw_left(&self, id: &ContainerId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Bytes of memory that a container uses; `None` where the engine cannot measure them.
    fn memory(&self, id: &ContainerId) -> impl Future<Output = Result<Option<u64>, Error>> + Send;

    /// The TCP ports that a running container listens on, found without running anything in it;
    /// `None` where they are not visible.
    fn listening(
        &self,
        id: &ContainerId,
    ) -> impl Future<Output = Result<Option<Listening>, Error>> + Send;

    /// The limits that a container has reached, as far as visible from here; for an ended one, the
    /// last values read. Costs no call to the engine but the first for each container.
    fn limits_hit(&self, id: &ContainerId)
    -> impl Future<Output = Result<LimitsHit, Error>> + Send;

    /// Creates a container, stopped, in an existing network namespace: that of `holder`, or of a
    /// new one. After an error there is no new holder either.
    fn prepare(
        &self,
        spec: &ContainerSpec,
        holder: Option<&ContainerId>,
    ) -> impl Future<Output = Result<Prepared, Error>> + Send;

    /// Starts a prepared container, which is reached where [`Prepared`] says.
    fn start_prepared(&self, id: &ContainerId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes a container by force, with its anonymous volumes. A container whose thaw failed is
    /// killed while frozen, never resumed. A missing one is a success.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), Error>> + Send;

    /// The last `lines` lines that the container wrote to stdout and stderr, oldest first.
    fn log_tail(
        &self,
        id: &ContainerId,
        lines: u32,
    ) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// The container's lines, each with its time, in the order in which they ended. The stream ends
    /// with the log, or with the first error.
    fn logs(&self, id: &ContainerId, ask: LogQuery) -> BoxStream<'static, Result<LogLine, Error>>;

    /// Every container of this instance, running or not.
    fn list(&self) -> impl Future<Output = Result<Vec<Container>, Error>> + Send;

    /// Makes the instance's network if it is missing, so that the first start need not.
    fn ensure_network(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// A warning for the owner of an app about where its files are kept, once a container was
    /// created for it.
    fn warning_of_files(&self, spec: &ContainerSpec) -> Option<String> {
        let _ = spec;
        None
    }

    /// The volumes of this instance's apps.
    fn volumes(&self) -> impl Future<Output = Result<Vec<Volume>, Error>> + Send;

    /// The disk space that this instance's apps use, as far as it can be measured. Slow.
    fn disk_use(&self) -> impl Future<Output = Result<Vec<DiskUse>, Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Removes a volume. A missing one is a success; one that a container uses is an error.
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes the instance's network. A missing one is a success; one in use is an error.
    fn remove_network(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Hints that containers of this instance have ended. The stream ends when the engine goes
    /// away; the caller subscribes again and reconciles against [`Engine::list`].
    fn deaths(&self) -> BoxStream<'static, ContainerId>;
}

/// An engine's description of itself.
#[derive(Debug, Clone)]
pub struct Info {
    /// Product and version, such as `Docker 20.10.24`.
    pub name: String,
    /// Whether the users of containers, root included, are mapped to others on its host.
    pub maps_users: bool,
    /// Cores of the engine's host.
    pub cpus: u32,
    /// Memory of the engine's host in bytes.
    pub memory_bytes: u64,
    /// The platform of its host.
    pub platform: Platform,
    /// Its clock when it answered, Unix milliseconds; `None` where it does not say.
    pub time_ms: Option<i64>,
    /// What it is able to do.
    pub abilities: Abilities,
}

/// A user and password for one registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: String,
    /// The registry's host; `None` means Docker Hub.
    pub server_address: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The content id (`sha256:…`), which pins what a version runs.
    pub id: String,
    /// Its names by digest in the registries that it came from.
    pub digests: Vec<String>,
    /// `Config.User` of the image; empty means root.
    pub user: String,
    /// The home directory of that user.
    pub home: Home,
    /// Whether the program that it runs is an init.
    pub brings_init: bool,
    /// Paths of its declared volumes, which the engine fills at every creation of a container.
    pub volumes: Vec<String>,
    /// Notes for its owner, a sentence each.
    pub notes: Vec<String>,
    /// The TCP ports that it declares to expose.
    pub exposed_ports: Vec<u16>,
    /// Its `ONBUILD` instructions, which run when another image is built from it.
    pub triggers: Vec<String>,
    /// The platform that it is made for.
    pub platform: Platform,
}

/// The volume of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the engine.
    pub name: String,
    /// The app.
    pub app: AppId,
    /// When that app was created, Unix milliseconds.
    pub since: i64,
}

/// The disk space that an app uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUse {
    /// The app.
    pub app: AppId,
    /// Bytes of its volumes and of what its containers have written.
    pub bytes: u64,
    /// Bytes that its containers' logs may reach.
    pub logs: u64,
    /// Files, folders and links in its volumes.
    pub inodes: u64,
    /// Whether there is more that could not be counted.
    pub partial: bool,
}

/// A container's id in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Docker's tools name a container by twelve digits everywhere.
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// What a container is for, kept in its labels, which survive a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The app.
    pub app: AppId,
    /// The replica.
    pub replica: ReplicaId,
    /// The published version.
    pub version: u32,
    /// A digest of the rest of the spec: containers with the same one are interchangeable.
    pub config_hash: String,
}

/// The inputs of one replica's container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// The app and version that it runs.
    pub owner: Owner,
    /// The image's content id or a reference that is on this machine.
    pub image: String,
    /// Files that are laid over the image before it starts.
    pub overlay: Option<Overlay>,
    /// The environment; `PORT` is set from `ports` by the engine, over anything given here.
    pub env: BTreeMap<String, String>,
    /// Capabilities of its processes.
    pub capabilities: Capabilities,
    /// Where its processes may connect to, within what the platform allows apps.
    pub egress: Egress,
    /// Whether an init is the first process, where the engine has one.
    pub init: bool,
    /// The writable paths; `HOME` follows from them when the root file system is read-only.
    pub files: Files,
    /// The label of the host at which its primary port is reached.
    pub host_label: String,
    /// The ports the app listens on, the primary one first; never empty.
    pub ports: Vec<u16>,
    /// Memory limit in bytes (swap included).
    pub memory_bytes: u64,
    /// CPU limit in thousandths of a core; clamped to the host's with a warning.
    pub cpu_millicores: u32,
    /// Most processes and threads in the container.
    pub pids: u32,
}

/// Where a running container can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// At its own address, any port.
    Direct(IpAddr),
    /// Through ports published on this host: container port → host address.
    Published(BTreeMap<u16, SocketAddr>),
}

impl Endpoints {
    /// The address of one of the container's ports.
    pub fn addr(&self, port: u16) -> Option<SocketAddr> {
        match self {
            Endpoints::Direct(ip) => Some(SocketAddr::new(*ip, port)),
            Endpoints::Published(map) => map.get(&port).copied(),
        }
    }
}

/// The TCP ports that a container listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    /// Ports that can be reached from outside it.
    pub open: BTreeSet<u16>,
    /// Ports on its loopback addresses, which cannot.
    pub loopback: BTreeSet<u16>,
}

/// The limits that a container has reached since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsHit {
    /// How often it was refused another process or thread; `None` where that is not visible.
    pub pids: Option<u64>,
}

/// A container that is created in a kept network and can be started at any time.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The container.
    pub container: ContainerId,
    /// The container that keeps the network.
    pub holder: ContainerId,
    /// Where the container will be reached.
    pub endpoints: Endpoints,
}

/// A container as the engine sees it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The holder of its network, when it was prepared.
    pub holder: Option<ContainerId>,
    /// Whether it runs nothing and keeps the network of a replica.
    pub is_holder: bool,
    /// The app and version that it runs; `None` when the labels cannot be read or believed (made by
    /// another version of `ignite`).
    pub owner: Option<Owner>,
    /// What it does now.
    pub state: ContainerState,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Created and never started.
    Created,
    /// Running, reachable there. From [`Engine::list`] the endpoints may be `None`.
    Running(Option<Endpoints>),
    /// Frozen, reachable there once resumed. From [`Engine::list`] the endpoints may be `None`.
    Paused(Option<Endpoints>),
    /// Ended.
    Exited {
        /// The exit status of its first process.
        code: i64,
        /// Whether the kernel killed it for its memory limit.
        oom_killed: bool,
    },
}
