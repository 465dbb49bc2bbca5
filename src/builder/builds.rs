//! Builds under way: their order, their bounds, their end.
//!
//! A build waits for the app's build before it, then for a permit, granted among all apps as `model::fair` says.
//! It ends in one way: its outcome is recorded by whoever started it, and only then told. Leaving
//! a build alone changes nothing about it; it ends by itself, by [`Build::cancel`], by its time
//! limit, or with the platform.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Images, Limits, Log, queue,
    runtime::{deno, go, python, rust},
};
use crate::{
    clock::now_ms,
    engine::{BuildLimits, BuildNetwork, ImageBuilder},
    limiter::FairLimiter,
    model::{
        AppId, BuildArgs, BuildId, Draft, Failure, InstanceId, OrgName, Reason,
        code::{BuildError, Built, BuiltImage},
        secret,
    },
    parsing::Parsing,
    store::blobs::Blobs,
    vitals::Vitals,
};

/// Settings of builds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose images they are.
    pub instance: InstanceId,
    /// Where the builds say whether they live.
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
    /// Most ended builds whose logs are kept.
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
    /// What Python handlers are built with.
    pub python: python::Settings,
    /// What Deno handlers are built with.
    pub deno: deno::Settings,
    /// What Rust handlers are built with.
    pub rust: rust::Settings,
    /// What Go handlers are built with.
    pub go: go::Settings,
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

/// Writes down how a build ended, before anybody is told.
pub type Record =
    Box<dyn FnOnce(Built) -> BoxFuture<'static, Result<(), Failure>> + Send + 'static>;

/// How a build stands.
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
    /// What it tells.
    pub log: Log,
    state: watch::Sender<State>,
    cancel: CancellationToken,
    /// Set while it waits, under the lock of those that are known.
    displaced: AtomicBool,
}

impl Build {
    /// How it stands.
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

/// Starts builds and knows those under way and the last that ended; clones share it.
#[derive(Clone)]
pub struct Builder {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) engine: Arc<dyn ImageBuilder>,
    pub(super) images: Images,
    pub(super) blobs: Blobs,
    pub(super) vault: Vault,
    /// As many permits as there are builds at once, so that a build waits for one only when it
    /// follows one that was ended while it read.
    pub(super) parsing: Parsing,
    pub(super) open_args: OpenArgs,
    limiter: FairLimiter,
    known: Mutex<Known>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Where builds run: not on the thread that happens to carry a caller's connection.
    runtime: Handle,
}

#[derive(Default)]
struct Known {
    under_way: Vec<Arc<Build>>,
    ended: VecDeque<Arc<Build>>,
    turns: HashMap<AppId, Weak<Semaphore>>,
    /// Images that are about to be named by a version, once for each time they are held.
    held: Vec<String>,
}

/// An image that stays although nothing names it yet; dropped, it may go.
pub struct Held {
    shared: Arc<Shared>,
    image_ref: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut known = self.shared.known.lock();
        if let Some(at) = known.held.iter().position(|h| *h == self.image_ref) {
            known.held.swap_remove(at);
        }
    }
}

impl Builder {
    /// A builder; the scratch folder is emptied. Builds run on the runtime that this is called on.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        config: Config,
        engine: Arc<dyn ImageBuilder>,
        images: Images,
        blobs: Blobs,
        vault: Vault,
        open_args: OpenArgs,
    ) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&config.scratch) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::create_dir_all(&config.scratch)?,
        }
        let shared = Shared {
            parsing: Parsing::unshared(config.concurrency),
            limiter: FairLimiter::new(config.concurrency, config.per_org),
            config,
            engine,
            images,
            blobs,
            vault,
            open_args,
            known: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The build of an app's draft that is under way.
    pub fn under_way(&self, app: &AppId, draft: &Draft) -> Option<Arc<Build>> {
        let known = self.shared.known.lock();
        let of_draft = |b: &&Arc<Build>| b.app == *app && b.draft.is_same(draft);
        known.under_way.iter().find(of_draft).cloned()
    }

    /// A build, under way or among the last that ended.
    pub fn get(&self, id: BuildId) -> Option<Arc<Build>> {
        let known = self.shared.known.lock();
        let mut all = known.under_way.iter().chain(&known.ended);
        all.find(|b| b.id == id).cloned()
    }

    /// Ends all builds of an app but that of `draft`.
    pub fn cancel_all_but(&self, app: &AppId, draft: Option<&Draft>) {
        let known = self.shared.known.lock();
        for build in known.under_way.iter().filter(|b| b.app == *app) {
            if !draft.is_some_and(|d| build.draft.is_same(d)) {
                build.cancel();
            }
        }
    }

    /// Starts the build of a draft, or answers the one that is under way. It may end one of another
    /// organization that still waits; see `queue.rs`.
    ///
    /// # Errors
    /// BUILD_QUEUE_FULL.
    pub fn start(&self, app: &AppId, draft: &Draft, record: Record) -> Result<Arc<Build>, Failure> {
        let shared = &self.shared;
        let mut known = shared.known.lock();
        let of_draft =
            |b: &&Arc<Build>| b.app == *app && b.draft.is_same(draft) && !b.is_displaced();
        if let Some(build) = known.under_way.iter().find(of_draft) {
            return Ok(build.clone());
        }
        queue::admit(&known.under_way, &shared.config, &app.org)?;
        let build = Arc::new(Build {
            id: BuildId::generate(),
            app: app.clone(),
            draft: draft.clone(),
            log: Log::new(shared.config.log_bytes),
            state: watch::Sender::new(State::Waiting),
            cancel: shared.stop.child_token(),
            displaced: AtomicBool::new(false),
        });
        known.under_way.push(build.clone());
        let turn = known.turn(app);
        drop(known);
        let run = run(shared.clone(), build.clone(), turn, record);
        let run = shared.config.vitals.watch("the builder", run);
        shared.tasks.spawn_on(run, &shared.runtime);
        Ok(build)
    }

    /// Calls off what builds read of their sources; they end with that.
    pub fn stop_parsing(&self) {
        self.shared.parsing.stop();
    }

    /// Ends all builds and waits until they have.
    pub async fn finish(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Runs something of builds in the background, until the platform stops.
    pub(super) fn in_the_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.stop.clone();
        let work = async move {
            stop.run_until_cancelled(work).await;
        };
        self.shared.tasks.spawn_on(work, &self.shared.runtime);
    }

    /// Keeps an image from being swept while a version that names it is being written.
    pub fn hold(&self, image_ref: &str) -> Held {
        self.shared.known.lock().held.push(image_ref.to_owned());
        Held {
            shared: self.shared.clone(),
            image_ref: image_ref.to_owned(),
        }
    }

    /// The names of images that are being made or held.
    pub(super) fn busy(&self) -> Vec<String> {
        let known = self.shared.known.lock();
        let made = known.under_way.iter();
        let made = made.map(|b| super::steps::tag(&self.shared, &b.app, b.id));
        made.chain(known.held.iter().cloned()).collect()
    }
}

impl Shared {
    /// Lets a build begin that has its place, unless it was displaced until now.
    fn begin(&self, build: &Build) -> bool {
        let _known = self.known.lock();
        let may = !build.is_displaced();
        if may {
            build.state.send_replace(State::Running);
        }
        may
    }
}

impl Known {
    fn turn(&mut self, app: &AppId) -> Arc<Semaphore> {
        if let Some(turn) = self.turns.get(app).and_then(Weak::upgrade) {
            return turn;
        }
        self.turns.retain(|_, turn| turn.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(1));
        self.turns.insert(app.clone(), Arc::downgrade(&fresh));
        fresh
    }
}

/// One build from its wait to its end.
async fn run(shared: Arc<Shared>, build: Arc<Build>, turn: Arc<Semaphore>, record: Record) {
    let work = async {
        let _turn = turn.acquire().await;
        if shared.limiter.is_full_for(&build.app.org) {
            build.log.line("Waiting for other builds to end");
        }
        let _permit = shared.limiter.acquire(&build.app).await;
        if !shared.begin(&build) {
            // It is cancelled.
            std::future::pending::<()>().await;
        }
        let steps = super::steps::run(&shared, &build);
        match tokio::time::timeout(shared.config.timeout, steps).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                Reason::BuildTimeout,
                format!(
                    "the build took longer than {} and was ended; make it faster, or raise IGNITE_BUILD_TIMEOUT_SECS",
                    humantime::format_duration(shared.config.timeout)
                ),
            )
            .with_detail(build.log.tail(super::steps::TAIL))),
        }
    };
    // A panic is an end, too: whoever waits must not wait for ever.
    let guarded =
        std::panic::AssertUnwindSafe(build.cancel.run_until_cancelled(work)).catch_unwind();
    let mut outcome = match guarded.await {
        Ok(Some(outcome)) => outcome,
        Ok(None) if shared.stop.is_cancelled() => Err(stopping()),
        Ok(None) if build.is_displaced() => Err(queue::displaced(&shared.config)),
        Ok(None) => Err(Failure::new(
            Reason::BuildCancelled,
            "the build was cancelled; compile again to build the draft as it is now",
        )),
        Err(_) => Err(Failure::new(
            Reason::Internal,
            "the build failed by a fault of the platform; its log has the cause",
        )),
    };
    let interrupted = matches!(&outcome, Err(f) if f.reason == Reason::ShuttingDown);
    // What the platform's stop ended is as if it had never begun.
    if !interrupted {
        let built = Built {
            id: build.id,
            outcome: outcome.clone().map_err(|f| BuildError {
                reason: f.reason,
                message: f.text(true),
            }),
        };
        if let Err(failure) = record(built).await
            && outcome.is_ok()
        {
            outcome = Err(failure);
        }
    }
    if let Err(failure) = &outcome {
        tracing::info!(app = %build.app, build = %build.id, reason = failure.reason.as_str(), "A build failed");
    }
    {
        let mut known = shared.known.lock();
        known.under_way.retain(|b| b.id != build.id);
        known.ended.push_back(build.clone());
        while known.ended.len() > shared.config.logs_kept {
            known.ended.pop_front();
        }
    }
    build.state.send_replace(State::Ended(outcome, now_ms()));
}

fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "the platform is stopping and the build was ended; compile again when it is back",
    )
}
