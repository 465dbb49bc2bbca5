//! Runs what was accepted: due executions → lease → forward → commit.
//!
//! Every app has a dispatcher while it has executions that wait. It takes them first in, first
//! out, waits for a replica for the first (which wakes the app and counts as its demand), and
//! hands it to an attempt of its own (`attempt.rs`). How many run at once is bounded per app and
//! over all. Dispatchers ask for the overall bound one execution each, and it is shared as
//! `model::fair` says, so that neither an app nor an organization starves another; and it counts
//! those that run: whoever has to wait for a replica, at first or again, gives its place back
//! meanwhile. So an app that cannot start delays no other.
//!
//! The fleet and the forward path are those of every other request; states and results are the
//! store's.

mod attempt;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backoff::Backoff,
    fair_limiter::{FairLimiter, Permit},
    fleet::{Deployment, Lease},
    gateway::Gateway,
    model::{
        AppId, Failure, Reason,
        execution::{Change, Completion},
    },
    store::executions::{Executions, Live},
    vitals::Vitals,
};

/// How often invocations without a record are handed to the statistics; what a crash may lose.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Least length of a queue at which cancelled executions are removed from it.
const MIN_PURGE_LEN: usize = 64;
/// Wait before the store is asked again after it refused a change.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// What users read of the executor's own tasks.
const PART: &str = "the executor";

/// Limits and times; `config` documents the settings behind them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most executions of one app that run at once.
    pub per_app: usize,
    /// Most executions that run at once.
    pub overall: usize,
    /// Most of those of one organization.
    pub per_org: usize,
    /// Most bytes of a result.
    pub max_result_bytes: u64,
    /// Longest wait for a replica, and what is added to the app's timeout.
    pub cold_start_budget: Duration,
    /// First wait after a failure of the platform; doubles up to `retry_max`.
    pub retry_initial: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Where the tasks say whether they live.
    pub vitals: Vitals,
}

impl Config {
    /// The waits between tries after failures of the platform.
    fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_initial, self.retry_max)
    }
}

/// The running executor; clones share it.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    executions: Executions,
    gateway: Arc<Gateway>,
    queues: Mutex<HashMap<AppId, Queue>>,
    running: FairLimiter,
    /// Nothing new is sent to apps.
    stop: CancellationToken,
    /// What runs is given up; it runs again after the next start.
    force: CancellationToken,
    tasks: TaskTracker,
}

/// The executions of one app that wait, in the order of acceptance.
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Length at which executions that were cancelled while they waited are removed.
    purge_at: usize,
    dispatching: bool,
    /// Bounds how many of them run at once.
    at_once: Arc<Semaphore>,
}

impl Queue {
    /// Adds an execution. Cancelled ones are removed each time the length has doubled, so that each
    /// addition pays a constant share of the sweep.
    fn push(&mut self, waiting: Waiting) {
        if self.waiting.len() >= self.purge_at {
            self.waiting.retain(|w| !w.live.over().is_cancelled());
            self.purge_at = MIN_PURGE_LEN.max(2 * self.waiting.len());
        }
        self.waiting.push_back(waiting);
    }
}

struct Waiting {
    live: Arc<Live>,
    since: Instant,
}

/// What an execution holds while it is under way.
struct Permits {
    _of_app: OwnedSemaphorePermit,
    running: Running,
}

/// A permit to run, shared out among all apps; given back while the execution waits for a replica.
struct Running {
    limiter: FairLimiter,
    app: AppId,
    permit: Option<Permit>,
}

impl Running {
    /// Acquires the permit again if it was given back.
    async fn enter(&mut self) {
        if self.permit.is_none() {
            self.permit = Some(self.limiter.acquire(&self.app).await);
        }
    }

    /// Gives the permit back.
    fn leave(&mut self) {
        self.permit = None;
    }
}

impl Executor {
    /// Begins to run what is accepted.
    pub fn start(config: Config, executions: Executions, gateway: Arc<Gateway>) -> Self {
        let shared = Arc::new(Shared {
            running: FairLimiter::new(config.overall, config.per_org),
            config,
            executions,
            gateway,
            queues: Mutex::default(),
            stop: CancellationToken::new(),
            force: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let (to, runtime) = (Arc::downgrade(&shared), Handle::current());
        shared.executions.hand_over(Box::new(move |live| {
            let _entered = runtime.enter();
            if let Some(shared) = to.upgrade() {
                shared.enqueue(live);
            }
        }));
        let count = shared.config.vitals.watch(PART, shared.clone().count());
        shared.tasks.spawn(count);
        Self { shared }
    }

    /// Sends nothing new to apps; what waits is run after the next start.
    pub fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }

    /// Returns once nothing runs any more.
    pub async fn finished(&self) {
        self.shared.tasks.wait().await;
    }

    /// Hands the statistics what has not been counted yet, when no request runs any more.
    pub fn count_the_last(&self) {
        self.shared.count_now();
    }

    /// Gives up what still runs; it runs again after the next start.
    pub fn force(&self) {
        self.shared.force.cancel();
    }
}

impl Shared {
    /// Puts an accepted execution into its app's queue, and starts the queue's dispatcher if it has none.
    fn enqueue(self: Arc<Self>, live: Arc<Live>) {
        if self.stop.is_cancelled() {
            return;
        }
        let app = live.identity.app.clone();
        let waiting = Waiting {
            live,
            since: Instant::now(),
        };
        let begin = {
            let mut queues = self.queues.lock();
            let queue = queues.entry(app.clone()).or_insert_with(|| Queue {
                waiting: VecDeque::new(),
                purge_at: MIN_PURGE_LEN,
                dispatching: false,
                at_once: Arc::new(Semaphore::new(self.config.per_app)),
            });
            queue.push(waiting);
            self.publish_backlog(&app, queue);
            let begin = !std::mem::replace(&mut queue.dispatching, true);
            begin.then(|| queue.at_once.clone())
        };
        if let Some(at_once) = begin {
            let tasks = self.tasks.clone();
            let vitals = self.config.vitals.clone();
            tasks.spawn(vitals.watch(PART, self.dispatch(app, at_once)));
        }
    }

    /// Sends the executions of one app on, until none waits.
    async fn dispatch(self: Arc<Self>, app: AppId, at_once: Arc<Semaphore>) {
        // All who wait for an app that cannot be run share its fate.
        let mut outage: Option<Outage> = None;
        loop {
            let mut permits = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                permits = self.permits(&app, &at_once) => permits,
            };
            let Some(waiting) = self.next(&app) else {
                return;
            };
            let first_dispatched = Instant::now();
            let from = outage
                .as_ref()
                .map_or(first_dispatched, |o| o.since.max(waiting.since));
            let wait = Wait {
                from,
                queues: true,
                attempts: 0,
            };
            match self
                .lease(&waiting.live, wait, &mut outage, &mut permits.running)
                .await
            {
                Leased::Ready(lease, deadline) => {
                    let run =
                        attempt::guarded(self.clone(), waiting.live, lease, deadline, permits);
                    self.tasks.spawn(run);
                }
                Leased::Over => {}
                Leased::Stopped => return,
            }
        }
    }

    async fn permits(&self, app: &AppId, at_once: &Arc<Semaphore>) -> Permits {
        let of_app = at_once.clone().acquire_owned().await;
        let mut running = Running {
            limiter: self.running.clone(),
            app: app.clone(),
            permit: None,
        };
        running.enter().await;
        Permits {
            _of_app: of_app.expect("the semaphore is never closed"),
            running,
        }
    }

    fn next(&self, app: &AppId) -> Option<Waiting> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(app)?;
        let next = queue.waiting.pop_front();
        self.publish_backlog(app, queue);
        if next.is_none() {
            queue.dispatching = false;
            // Those that run still count; the caller has the one permit that is not theirs.
            if queue.at_once.available_permits() + 1 >= self.config.per_app {
                queues.remove(app);
            }
        }
        next
    }

    /// Sets the backlog that the fleet scales by: executions that wait are demand, though they are
    /// not in the app's hold queue.
    fn publish_backlog(&self, app: &AppId, queue: &Queue) {
        if let Some(deployment) = self.gateway.fleet.get(app) {
            deployment.set_backlog(u32::try_from(queue.waiting.len()).unwrap_or(u32::MAX));
        }
    }

    /// A replica for an execution, and the place to run it. It has that place or none on the way in,
    /// and keeps it only as long as nothing has to be waited for.
    async fn lease(
        &self,
        live: &Live,
        wait: Wait,
        outage: &mut Option<Outage>,
        running: &mut Running,
    ) -> Leased {
        let Wait {
            mut from,
            queues,
            attempts,
        } = wait;
        let app = &live.identity.app;
        let mut retries = self.config.backoff();
        let mut deadline = None;
        let over = live.over();
        loop {
            if over.is_cancelled() {
                return Leased::Over;
            }
            let there = self.executions.has_app(live);
            let Some(deployment) = self.gateway.fleet.get(app).filter(|_| there) else {
                // Deleted while the platform was down, or just now.
                let why = format!("app {app} has been deleted");
                let gone = Failure::new(Reason::AppDeleted, why);
                self.end(live, Completion::platform(&gone)).await;
                return Leased::Over;
            };
            let whole = deployment.with_revision(|r| r.timeout) + self.config.cold_start_budget;
            let give_up_at = *deadline.get_or_insert(from + whole);
            let acquiring = async {
                let mut acquiring = std::pin::pin!(deployment.acquire(0, give_up_at));
                let outcome = match futures_util::poll!(&mut acquiring) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        running.leave();
                        acquiring.await
                    }
                };
                if outcome.is_ok() {
                    // One at a time waits here with a replica, of each app; and that one had to wait
                    // for it before.
                    running.enter().await;
                }
                outcome
            };
            let outcome = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Leased::Stopped,
                () = over.cancelled() => return Leased::Over,
                outcome = acquiring => outcome,
            };
            let failure = match outcome {
                Ok(lease) => {
                    *outage = None;
                    return Leased::Ready(
                        lease,
                        give_up_at.max(Instant::now() + whole - self.config.cold_start_budget),
                    );
                }
                Err(failure) => failure,
            };
            match failure.reason {
                Reason::ShuttingDown => return Leased::Stopped,
                Reason::AppDeleted => {
                    self.end(live, Completion::platform(&failure)).await;
                    return Leased::Over;
                }
                // Others keep it busy: that is a queue, no failure.
                Reason::ColdStartTimeout if queues && serves(&deployment) => {
                    (from, deadline) = (Instant::now(), None);
                    continue;
                }
                Reason::HoldQueueFull => {}
                reason => {
                    let outage = outage.get_or_insert_with(|| Outage {
                        since: from,
                        cause: failure.clone(),
                    });
                    // Why it does not start says more than that it has not.
                    if !reason.is_deadline() {
                        outage.cause = failure.clone();
                    }
                }
            }
            if Instant::now() >= give_up_at {
                let why = outage.as_ref().map_or(&failure, |o| &o.cause);
                self.end(live, Completion::deadline_exceeded(attempts, why))
                    .await;
                return Leased::Over;
            }
            running.leave();
            let wait = retries
                .next_wait()
                .max(failure.retry_after.unwrap_or_default());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Leased::Stopped,
                () = over.cancelled() => return Leased::Over,
                () = tokio::time::sleep_until(give_up_at.min(Instant::now() + wait)) => {}
            }
        }
    }

    /// Ends an execution that never got to an attempt.
    async fn end(&self, live: &Live, completion: Completion) {
        let change = Change::End(completion);
        let id = live.identity.id;
        while let Err(failure) = self.executions.change(id, change.clone(), None).await {
            if !self.may_ask_again(live, &failure).await {
                return;
            }
        }
    }

    /// Waits before the store is asked again for what it did not take; `false` when that is up to
    /// the next start.
    async fn may_ask_again(&self, live: &Live, failure: &Failure) -> bool {
        let (execution, why) = (live.identity.id, failure.text(true));
        tracing::error!(%execution, "A change of an execution could not be saved; it is tried again until it is, or the next start runs the execution again: {why}");
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = live.over().cancelled_owned() => false,
            () = tokio::time::sleep(STORE_RETRY) => true,
        }
    }

    async fn count(self: Arc<Self>) {
        while tokio::time::timeout(COUNT_INTERVAL, self.stop.cancelled())
            .await
            .is_err()
        {
            self.count_now();
        }
    }

    fn count_now(&self) {
        let taken = self.gateway.fleet.take_outcomes();
        if !taken.is_empty() {
            self.executions.count(taken);
        }
    }
}

/// From when an execution waits for a replica.
#[derive(Clone, Copy)]
struct Wait {
    /// Its deadline runs from here.
    from: Instant,
    /// While others keep the app busy it does not run at all.
    queues: bool,
    /// Attempts that it has had.
    attempts: u32,
}

/// A span in which an app got no replica, so that those that wait for it share one deadline.
struct Outage {
    since: Instant,
    cause: Failure,
}

/// What waiting for a replica came to.
enum Leased {
    /// A replica, and when the execution has to have ended.
    Ready(Lease, Instant),
    /// The execution has ended.
    Over,
    /// The platform stops.
    Stopped,
}

fn serves(deployment: &Deployment) -> bool {
    deployment.snapshot().ready > 0
}
