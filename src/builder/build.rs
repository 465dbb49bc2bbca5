//! One build: its inputs, its settings, and its state.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Images, Limits, Log, failure::stopping, runtime};
use crate::{
    engine::{BuildLimits, BuildNetwork, ImageBuilder},
    metrics::Metrics,
    model::{
        AppId, BuildArgs, BuildId, Draft, Failure, InstanceId, OrgName, code::BuiltImage, secret,
        work::Cancelled,
    },
    parse_pool::Parsing,
    store::blobs::Blobs,
    trace::Tracer,
    vitals::Vitals,
};

/// Settings of builds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The instance that owns the images.
    pub instance: InstanceId,
    /// Where builds report liveness.
    pub vitals: Vitals,
    /// Where traces go.
    pub tracer: Tracer,
    /// Where builds are counted.
    pub metrics: Arc<Metrics>,
    /// The folder for source trees while they are built; emptied at the start.
    pub scratch: PathBuf,
    /// Most builds that run at once.
    pub concurrency: usize,
    /// Most running builds of one organization.
    pub per_org: usize,
    /// Most builds that wait.
    pub queue_max: usize,
    /// Most waiting builds of one organization.
    pub queue_per_org: usize,
    /// Longest time for one build, without its wait.
    pub timeout: Duration,
    /// Bounds on a source tree.
    pub limits: Limits,
    /// Most bytes of one build's log.
    pub log_bytes: usize,
    /// The folder of logs.
    pub logs: PathBuf,
    /// Most logs of builds that have ended.
    pub logs_kept: usize,
    /// Most bytes of them all.
    pub logs_bytes: u64,
    /// The network of steps that run commands.
    pub network: BuildNetwork,
    /// Bounds on each step.
    pub step_limits: BuildLimits,
    /// Accept repositories of this machine, by `file://`.
    pub git_files: bool,
    /// Longest time to fetch a repository.
    pub git_timeout: Duration,
    /// Refuse what the cloud platform refuses.
    pub strict: bool,
    /// The settings of managed runtimes.
    pub runtimes: runtime::Settings,
}

/// Why a build needs a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretUse {
    /// To pull base images.
    Registry,
    /// To fetch a repository from this host; empty for one of this machine.
    Git {
        /// The host, with port if any.
        host: String,
    },
}

/// Finds an organization's secret by its name, for a use.
pub type Vault = Arc<
    dyn Fn(OrgName, String, SecretUse) -> BoxFuture<'static, Result<secret::Value, Failure>>
        + Send
        + Sync,
>;

/// Opens an organization's sealed build arguments.
pub type OpenArgs = Arc<
    dyn Fn(OrgName, BuildArgs) -> BoxFuture<'static, Result<BTreeMap<String, String>, Failure>>
        + Send
        + Sync,
>;

/// The state of a build.
#[derive(Debug, Clone)]
pub enum State {
    /// For another build, or for a permit.
    Waiting,
    /// It is running.
    Running,
    /// It has ended, at that time in Unix milliseconds.
    Ended(Result<BuiltImage, Failure>, i64),
}

/// One build.
#[derive(Debug)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// The app.
    pub app: AppId,
    /// The draft that is built.
    pub draft: Draft,
    /// Its log.
    pub log: Log,
    state: watch::Sender<State>,
    cancel: CancellationToken,
    /// Set while the build waits, under the lock of the known builds.
    displaced: AtomicBool,
}

impl Build {
    /// Its state, to watch.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether it has begun and has not ended.
    pub(super) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(..))
    }

    /// Cancels it; its outcome becomes BUILD_CANCELLED unless it has ended already.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A waiting build; `cancel` ends it.
    pub(super) fn waiting(app: &AppId, draft: &Draft, log: Log, cancel: CancellationToken) -> Self {
        Self {
            id: BuildId::generate(),
            app: app.clone(),
            draft: draft.clone(),
            log,
            state: watch::Sender::new(State::Waiting),
            cancel,
            displaced: AtomicBool::new(false),
        }
    }

    /// Sets its state and notifies watchers.
    pub(super) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Runs `work` unless the build is cancelled before its end.
    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.cancel.run_until_cancelled(work).await
    }

    /// Whether it was displaced by another build before it began.
    pub(super) fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Ends it in favour of another build.
    pub(super) fn displace(&self) {
        self.displaced.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// Its image, once it has ended.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn outcome(&self) -> Result<BuiltImage, Failure> {
        let mut state = self.state();
        loop {
            if let State::Ended(outcome, _) = &*state.borrow_and_update() {
                return outcome.clone();
            }
            if state.changed().await.is_err() {
                return Err(stopping());
            }
        }
    }
}

/// What all builds share.
pub(super) struct BuildEnv {
    pub(super) config: Config,
    pub(super) engine: Arc<dyn ImageBuilder>,
    pub(super) images: Images,
    pub(super) blobs: Blobs,
    pub(super) vault: Vault,
    /// Has one permit per concurrent build, so that a build waits for one only when it follows a
    /// build that ended while its parsing still ran.
    pub(super) parsing: Parsing,
    pub(super) open_args: OpenArgs,
}

impl BuildEnv {
    /// The repository of an app's images. Docker Hub has no such organization, and nothing here
    /// ever pulls such a name.
    pub(super) fn image_name(&self, app: &AppId) -> String {
        format!("ignite-{}/{}/{}", self.config.instance, app.org, app.name)
    }

    /// The tag of a build's image.
    pub(super) fn image_tag(&self, app: &AppId, build: BuildId) -> String {
        let id = build.0.to_string().to_lowercase();
        format!("{}:{id}", self.image_name(app))
    }

    /// Runs work on files off the threads that serve requests. When the build ends first, the work
    /// is cancelled and drops what it made.
    ///
    /// # Errors
    /// The error of `work`; SHUTTING_DOWN.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        build: &Build,
        work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.parsing.run(&build.app, work).await
    }
}
