//! What the engine is asked to build, and its events meanwhile.

use std::{collections::BTreeMap, fmt, io};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

use super::{Credentials, Error};

/// The label of what is of no use once a build has ended.
pub const STAGE: &str = "io.dodil.ignite.stage";

/// The part of an engine that makes images.
pub trait ImageBuilder: Send + Sync + 'static {
    /// Builds an image; the stream is of its events. The image is there when the stream ends with
    /// [`BuildEvent::Built`] and without an error.
    ///
    /// # Cancel safety
    /// Dropping the stream ends the build in the engine.
    fn build(&self, request: BuildRequest) -> BoxStream<'static, Result<BuildEvent, Error>>;

    /// Removes what a build has left on its way to an image, such as a stage that compiled, where
    /// that carries [`STAGE`] with this value. What it began from stays, for the next build.
    fn remove_stages<'a>(&'a self, value: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The names of all images that this instance has built.
    fn built(&self) -> BoxFuture<'_, Result<Vec<String>, Error>>;

    /// Removes a name, and its image when it has no other. Gone is success.
    fn remove_image<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes all images of this instance, and what marks them as its.
    fn remove_all(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// One image to be built.
pub struct BuildRequest {
    /// What the image is to be called.
    pub tag: String,
    /// The build context as a tar archive.
    pub context: BoxStream<'static, io::Result<Bytes>>,
    /// Where the Dockerfile is in the context.
    pub dockerfile: String,
    /// Values for its `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// What base images may be pulled with.
    pub credentials: Vec<Credentials>,
    /// The network of the steps that run commands.
    pub network: BuildNetwork,
    /// Whose layers it may go on from.
    pub cache: BuildCache,
    /// What each of its steps may take.
    pub limits: BuildLimits,
}

/// The network of the steps that run commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildNetwork {
    /// The engine's own choice.
    Engine,
    /// The network of this name, or a mode of the engine's such as `host` or `none`.
    Named(String),
    /// One that no other container is on, behind the rules for builds; none where that cannot be
    /// made, which [`BuildEvent::NoNetwork`] reports.
    Isolated,
}

/// Which layers on this machine a build may use instead of making them anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildCache {
    /// Anybody's.
    Shared,
    /// Those of these images, and none when there are none of these.
    Of(Vec<String>),
}

/// What a step of a build may take of the engine's host. Its time is bounded by whoever reads the
/// events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// Most memory in bytes, swap included; 0 is this share of what the host has.
    pub memory_bytes: u64,
    /// Most CPU time in thousandths of a core; 0 is this share of what the host has.
    pub cpu_millicores: u32,
    /// How many builds share the host, where a limit is 0.
    pub shares: u32,
    /// The cgroup that the steps' containers are put below.
    pub cgroup_parent: Option<String>,
    /// An engine that cannot limit builds is refused instead of used.
    pub required: bool,
}

impl fmt::Debug for BuildRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("tag", &self.tag)
            .field("dockerfile", &self.dockerfile)
            .finish_non_exhaustive()
    }
}

/// One event of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Text of the log, not cut into lines.
    Output(String),
    /// How a pull goes on, a line.
    Status(String),
    /// Its steps have no network, although one was asked for; the reason, a sentence.
    NoNetwork(String),
    /// The content id of the image that was made.
    Built(String),
    /// The build failed, in the engine's words. The last of all events.
    Failed(String),
}
