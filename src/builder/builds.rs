//! Running and waiting builds: their order, their bounds, their end.
//!
//! A build waits for the app's build before it, then for a permit, granted among all apps as
//! `model::fair` says. Its outcome is recorded first and published after that. A build continues
//! when its caller leaves; it ends by itself, by [`Build::cancel`], by its time limit, or with the
//! platform.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
    time::SystemTime,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    EndedLog, Images, Log,
    build::{Build, BuildEnv, Config, OpenArgs, State, Vault},
    failure::{TAIL, stopping},
    kept::{Bounds, End, KeptLogs, Writer},
    queue, steps,
};
use crate::{
    clock::now_ms,
    engine::ImageBuilder,
    fair_limiter::FairLimiter,
    model::{
        AppId, BuildId, Draft, Failure, Reason,
        code::{BuildError, Built},
    },
    parse_pool::Parsing,
    store::blobs::Blobs,
};

/// Records how a build ended, before its state shows it.
pub type Record =
    Box<dyn FnOnce(Built) -> BoxFuture<'static, Result<(), Failure>> + Send + 'static>;

/// Most ended builds that stay in memory because their logs could not be written to disk.
const UNFILED: usize = 16;

/// The result of [`Builder::find`].
#[derive(Debug)]
pub enum Found {
    /// A build that runs, or that ended and whose log could not be written to disk.
    Here(Arc<Build>),
    /// The log of a build that has ended.
    Ended(EndedLog),
}

impl Found {
    /// The app that it is of.
    pub fn app(&self) -> &AppId {
        match self {
            Found::Here(build) => &build.app,
            Found::Ended(log) => &log.app,
        }
    }
}

/// Starts builds, and knows those under way and the logs of those that ended; clones share it.
#[derive(Clone)]
pub struct Builder {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) env: BuildEnv,
    limiter: FairLimiter,
    logs: KeptLogs,
    known: Mutex<Known>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Runs builds, apart from the threads that carry callers' connections.
    runtime: Handle,
}

#[derive(Default)]
struct Known {
    under_way: Vec<Arc<Build>>,
    /// Ended builds whose logs could not be written to disk, oldest first.
    unfiled: VecDeque<Arc<Build>>,
    turns: HashMap<AppId, Weak<Semaphore>>,
    /// Images that a version is about to name, once for each hold.
    held: Vec<String>,
}

/// Keeps an image that nothing names yet from being removed, until dropped.
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
    /// When a folder cannot be made.
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
            limiter: FairLimiter::new(config.concurrency, config.per_org),
            logs: KeptLogs::open(config.logs.clone(), bounds(&config))?,
            env: BuildEnv {
                parsing: Parsing::unshared(config.concurrency),
                config,
                engine,
                images,
                blobs,
                vault,
                open_args,
            },
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
        &self.shared.env.config
    }

    /// The current build of an app's draft.
    pub fn under_way(&self, app: &AppId, draft: &Draft) -> Option<Arc<Build>> {
        let known = self.shared.known.lock();
        let of_draft = |b: &&Arc<Build>| b.app == *app && b.draft.is_same(draft);
        known.under_way.iter().find(of_draft).cloned()
    }

    /// A build that is under way, or of which there is a log.
    pub async fn find(&self, id: BuildId, may_see: impl Fn(&AppId) -> bool) -> Option<Found> {
        if let Some(build) = self.shared.known(id) {
            return may_see(&build.app).then_some(Found::Here(build));
        }
        let app = self.shared.logs.app_of(id).filter(may_see)?;
        let logs = self.shared.logs.clone();
        let read = tokio::task::spawn_blocking(move || logs.read(id, app)).await;
        match read.ok()? {
            Ok(log) => Some(Found::Ended(log)),
            Err(error) => {
                tracing::warn!(%error, build = %id, "The log of a build cannot be read");
                None
            }
        }
    }

    /// Removes the logs of an app that was deleted.
    pub async fn forget_logs(&self, app: &AppId) {
        let (shared, app) = (self.shared.clone(), app.clone());
        let forget = move || {
            shared.known.lock().unfiled.retain(|b| b.app != app);
            shared.logs.forget(&app);
        };
        // A panic has been logged.
        let _ = tokio::task::spawn_blocking(forget).await;
    }

    /// Cancels all builds of an app but that of `draft`.
    pub fn cancel_all_but(&self, app: &AppId, draft: Option<&Draft>) {
        let known = self.shared.known.lock();
        for build in known.under_way.iter().filter(|b| b.app == *app) {
            if !draft.is_some_and(|d| build.draft.is_same(d)) {
                build.cancel();
            }
        }
    }

    /// Starts the build of a draft, or returns the current one. May displace a waiting build of
    /// another organization; see `queue.rs`.
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
        queue::admit(&known.under_way, &shared.env.config, &app.org)?;
        let log = Log::new(shared.env.config.log_bytes);
        let build = Build::waiting(app, draft, log, shared.stop.child_token());
        let build = Arc::new(build);
        known.under_way.push(build.clone());
        // Registered here, so that a delete before the build begins removes its log.
        let writer = shared.logs.begin(build.id, app);
        let turn = known.turn(app);
        drop(known);
        let run = run(shared.clone(), build.clone(), writer, turn, record);
        let run = shared.env.config.vitals.watch("the builder", run);
        shared.tasks.spawn_on(run, &shared.runtime);
        Ok(build)
    }

    /// How many builds wait, and how many run.
    pub fn counts(&self) -> (usize, usize) {
        let known = self.shared.known.lock();
        let running = known.under_way.iter().filter(|b| b.is_running()).count();
        (known.under_way.len() - running, running)
    }

    /// Cancels the parsing of sources; the builds that wait for it end too.
    pub fn stop_parsing(&self) {
        self.shared.env.parsing.stop();
    }

    /// Ends all builds and waits until they have ended.
    pub async fn finish(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Runs work on builds in the background, until the platform stops.
    pub(super) fn spawn_until_stop(&self, work: impl Future<Output = ()> + Send + 'static) {
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

    /// The names of images that are being built or held.
    pub(super) fn busy(&self) -> Vec<String> {
        let known = self.shared.known.lock();
        let made = known.under_way.iter();
        let made = made.map(|b| self.shared.env.image_tag(&b.app, b.id));
        made.chain(known.held.iter().cloned()).collect()
    }
}

impl Shared {
    fn known(&self, id: BuildId) -> Option<Arc<Build>> {
        let known = self.known.lock();
        let mut all = known.under_way.iter().chain(&known.unfiled);
        all.find(|b| b.id == id).cloned()
    }

    /// Lets a build begin that has its place, unless it was displaced until now.
    fn begin(&self, build: &Build) -> bool {
        let _known = self.known.lock();
        let may = !build.is_displaced();
        if may {
            build.set_state(State::Running);
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

fn bounds(config: &Config) -> Bounds {
    Bounds {
        each: config.log_bytes as u64,
        number: config.logs_kept,
        bytes: config.logs_bytes,
    }
}

/// One build from its wait to its end.
async fn run(
    shared: Arc<Shared>,
    build: Arc<Build>,
    writer: Writer,
    turn: Arc<Semaphore>,
    record: Record,
) {
    let began = Instant::now();
    let asked_at = SystemTime::now();
    let begun_at = OnceLock::new();
    let work = async {
        let _turn = turn.acquire().await;
        if shared.limiter.is_full_for(&build.app.org) {
            build.log.line("Waiting for other builds to end");
        }
        let _permit = shared.limiter.acquire(&build.app).await;
        if !shared.begin(&build) {
            // The build is cancelled, which drops this future.
            std::future::pending::<()>().await;
        }
        let _ = begun_at.set(SystemTime::now());
        let steps = steps::run(&shared.env, &build);
        match tokio::time::timeout(shared.env.config.timeout, steps).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                Reason::BuildTimeout,
                format!(
                    "the build took longer than {} and was ended; make it faster, or raise IGNITE_BUILD_TIMEOUT_SECS",
                    humantime::format_duration(shared.env.config.timeout)
                ),
            )
            .with_detail(build.log.tail(TAIL))),
        }
    };
    // A panic ends the build too: callers must not wait for it forever.
    let guarded = std::panic::AssertUnwindSafe(build.unless_cancelled(work)).catch_unwind();
    let worked = tokio::select! {
        worked = guarded => worked,
        () = writer.follow(&build) => Ok(None),
    };
    let mut outcome = match worked {
        Ok(Some(outcome)) => outcome,
        Ok(None) if shared.stop.is_cancelled() => Err(stopping()),
        Ok(None) if build.is_displaced() => Err(queue::displaced(&shared.env.config)),
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
    // A build that the platform's stop interrupted is left as if it had never begun.
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
    let as_counted = outcome.as_ref().err().map_or("OK", |f| f.reason.as_str());
    let metrics = &shared.env.config.metrics.builds;
    metrics.ended(as_counted, began.elapsed());
    let ended_at = SystemTime::now();
    let times = [asked_at, *begun_at.get().unwrap_or(&ended_at), ended_at];
    let attributes = vec![
        KeyValue::new("ignite.app", build.app.to_string()),
        KeyValue::new("ignite.build.id", build.id.to_string()),
    ];
    let error = outcome.is_err().then(|| as_counted.to_owned());
    let tracer = &shared.env.config.tracer;
    tracer.build(format!("build {}", build.app), times, attributes, error);
    let end = State::Ended(outcome, now_ms());
    let filed = {
        let (build, end) = (build.clone(), end.clone());
        tokio::task::spawn_blocking(move || writer.end(&build.log, &end)).await
    };
    {
        let mut known = shared.known.lock();
        known.under_way.retain(|b| b.id != build.id);
        if !matches!(filed, Ok(End::Kept | End::Forgotten)) {
            known.unfiled.push_back(build.clone());
            while known.unfiled.len() > UNFILED {
                known.unfiled.pop_front();
            }
        }
    }
    build.set_state(end);
}
