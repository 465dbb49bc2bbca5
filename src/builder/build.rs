//! One build: what it is made from and with, and how it stands.

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
    model::{
        AppId, BuildArgs, BuildId, Draft, Failure, InstanceId, OrgName, code::BuiltImage, secret,
        work::Cancelled,
    },
    parse_pool::Parsing,
    store::blobs::Blobs,
    vitals::Vitals,
};

/// Settings of builds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose images they are.
    pub instance: InstanceId,
    /// Where builds report that they are alive.
    pub vitals: Vitals,
    /// The folder for source trees while they are built; emptied at the start.
    pub scratch: PathBuf,
    /// Most builds that run at once.
    pub concurrency: usize,
    /// Most of those of one organization.
    pub per_org: usize,
    /// Most builds that wait.
    pub queue_max: usize,
    /// Most of those of one organization.
    pub queue_per_org: usize,
    /// Longest time for one build, without its wait.
    pub timeout: Duration,
    /// What a source tree may come to.
    pub limits: Limits,
    /// Most bytes of one build's log.
    pub log_bytes: usize,
    /// Most ended builds that keep their log.
    pub logs_kept: usize,
    /// The network of steps that run commands.
    pub network: BuildNetwork,
    /// What each step may take.
    pub step_limits: BuildLimits,
    /// Take repositories of this machine, by `file://`.
    pub git_files: bool,
    /// Longest time to fetch a repository.
    pub git_timeout: Duration,
    /// Refuse what the platform refuses.
    pub strict: bool,
    /// What handlers of managed runtimes are built with.
    pub runtimes: runtime::Settings,
}

/// What a build needs a secret for.
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

/// Finds an organization's secret for a use by its name.
pub type Vault = Arc<
    dyn Fn(OrgName, String, SecretUse) -> BoxFuture<'static, Result<secret::Value, Failure>>
        + Send
        + Sync,
>;

/// Opens an organization's build arguments.
pub type OpenArgs = Arc<
    dyn Fn(OrgName, BuildArgs) -> BoxFuture<'static, Result<BTreeMap<String, String>, Failure>>
        + Send
        + Sync,
>;

/// The state of a build.
#[derive(Debug, Clone)]
pub enum State {
    /// For another build.
    Waiting,
    /// It runs.
    Running,
    /// It is over, since that time in Unix milliseconds.
    Ended(Result<BuiltImage, Failure>, i64),
}

/// One build.
#[derive(Debug)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// The app.
    pub app: AppId,
    /// What is built.
    pub draft: Draft,
    /// Its log.
    pub log: Log,
    state: watch::Sender<State>,
    cancel: CancellationToken,
    /// Set while it waits, under the lock of those that are known.
    displaced: AtomicBool,
}

impl Build {
    /// Its state, to be watched.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(..))
    }

    /// Ends it; its outcome is BUILD_CANCELLED unless it has ended otherwise already.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A build that waits; `cancel` ends it.
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

    /// Changes its state and notifies those who watch it.
    pub(super) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Runs `work` unless the build is cancelled before its end.
    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.cancel.run_until_cancelled(work).await
    }

    /// Whether it made room for another one, before it began.
    pub(super) fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Ends it to make room for another one.
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

/// What every build works with.
pub(super) struct BuildEnv {
    pub(super) config: Config,
    pub(super) engine: Arc<dyn ImageBuilder>,
    pub(super) images: Images,
    pub(super) blobs: Blobs,
    pub(super) vault: Vault,
    /// As many permits as there are builds at once, so that a build waits for one only when it
    /// follows one that was ended while it read.
    pub(super) parsing: Parsing,
    pub(super) open_args: OpenArgs,
}

impl BuildEnv {
    /// What all images of an app are called. Docker Hub has no such organization, and nothing here
    /// ever pulls such a name.
    pub(super) fn image_name(&self, app: &AppId) -> String {
        format!("ignite-{}/{}/{}", self.config.instance, app.org, app.name)
    }

    /// What the image of a build is called.
    pub(super) fn image_tag(&self, app: &AppId, build: BuildId) -> String {
        let id = build.0.to_string().to_lowercase();
        format!("{}:{id}", self.image_name(app))
    }

    /// Does work on files away from the threads that serve requests. When the build ends first, the
    /// work is called off and drops what it made.
    ///
    /// # Errors
    /// What `work` says; SHUTTING_DOWN.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        build: &Build,
        work: impl FnOnce(Cancelled<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.parsing.run(&build.app, work).await
    }
}
