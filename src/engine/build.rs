//! What the engine is asked to build, and the events of a build.

use std::{collections::BTreeMap, fmt, io};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

use super::{Credentials, Error};

/// The label of images that are of no use once a build has ended.
pub const STAGE: &str = "io.dodil.ignite.stage";

/// The part of an engine that makes images.
pub trait ImageBuilder: Send + Sync + 'static {
    /// Builds an image and streams the events. The image exists when the stream ends with
    /// [`BuildEvent::Built`] and without an error.
    ///
    /// # Cancel safety
    /// Dropping the stream ends the build in the engine.
    fn build(&self, request: BuildRequest) -> BoxStream<'static, Result<BuildEvent, Error>>;

    /// Removes the intermediate images of a build, such as a stage that compiled, that carry
    /// [`STAGE`] with this value. Their base stays, for the next build.
    fn remove_stages<'a>(&'a self, value: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The names of all images that this instance has built.
    fn built(&self) -> BoxFuture<'_, Result<Vec<String>, Error>>;

    /// Removes a name, and its image when it has no other. A missing one is a success.
    fn remove_image<'a>(&'a self, tag: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes all images of this instance, and the mark that says they are its own.
    fn remove_all(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// One image to be built.
pub struct BuildRequest {
    /// The name of the image.
    pub tag: String,
    /// The build context as a tar archive.
    pub context: BoxStream<'static, io::Result<Bytes>>,
    /// The path of the Dockerfile in the context.
    pub dockerfile: String,
    /// Values for its `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// The credentials for base images.
    pub credentials: Vec<Credentials>,
    /// The network of the steps that run commands.
    pub network: BuildNetwork,
    /// The layers that it may reuse.
    pub cache: BuildCache,
    /// Limits of each of its steps.
    pub limits: BuildLimits,
}

/// The network of the steps that run commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildNetwork {
    /// The engine's own choice.
    Engine,
    /// The network of this name, or a mode of the engine's such as `host` or `none`.
    Named(String),
    /// A network for this build alone, behind the rules for builds; no network where that cannot be
    /// made, which [`BuildEvent::NoNetwork`] reports.
    Isolated,
}

/// The layers on this machine that a build may reuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildCache {
    /// Those of any image.
    Shared,
    /// Those of these images; none when the list is empty.
    Of(Vec<String>),
}

/// What a build step may use of the engine's host. The reader of the events bounds its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// Most memory in bytes, swap included; 0 means the host's memory divided by `shares`.
    pub memory_bytes: u64,
    /// Most CPU time in thousandths of a core; 0 means the host's CPU divided by `shares`.
    pub cpu_millicores: u32,
    /// How many builds share the host, where a limit is 0.
    pub shares: u32,
    /// The parent cgroup of the steps' containers.
    pub cgroup_parent: Option<String>,
    /// Whether to refuse an engine that cannot limit builds.
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

/// The beginning of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// Which stage, from 1, of how many; `None` where the engine counts the instructions of the
    /// whole file.
    pub stage: Option<(usize, usize)>,
    /// Which instruction, from 1.
    pub number: usize,
    /// How many there are, in the stage or in the file.
    pub of: usize,
    /// The instruction.
    pub text: String,
}

impl fmt::Display for BuildStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Step {}/{}", self.number, self.of)?;
        match self.stage {
            Some((stage, of)) if of > 1 => write!(f, " of stage {stage}/{of}")?,
            _ => {}
        }
        write!(f, " : {}", self.text)
    }
}

/// One event of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// An instruction begins.
    Step(BuildStep),
    /// Text of the log, not split into lines.
    Output(String),
    /// The progress of a pull, a line.
    Status(String),
    /// Its steps have no network although one was asked for; the reason, a sentence.
    NoNetwork(String),
    /// The content id of the built image.
    Built(String),
    /// The build failed, in the engine's words. Always the last event.
    Failed(String),
    /// As [`Self::Failed`], since a layer was removed that the build went on from: it may succeed
    /// when it is begun again.
    LayerLost(String),
}
