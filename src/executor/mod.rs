//! Runs accepted executions: due executions → lease → forward → commit.
//!
//! An app has a dispatcher while it has waiting executions. The dispatcher takes them in order,
//! waits for a replica for the first (which wakes the app and counts as demand), and hands it to an
//! attempt in a separate task (`attempt.rs`). The executions that run at once are bounded per app
//! and overall. Each dispatcher requests one overall permit at a time, and permits are shared as
//! `model::fair` says, so that neither an app nor an organization starves another. Only running
//! executions hold one: an execution that waits for a replica, at first or again, returns its
//! permit meanwhile. So an app that cannot start delays no other.
//!
//! Fleet and forward path are the same as for every other request; states and results belong to the
//! store.

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
    metrics::Metrics,
    model::{
        AppId, Failure, Reason,
        execution::{Change, Completion},
    },
    store::executions::{Executions, Live},
    vitals::Vitals,
};

/// How often invocations without a record are added to the statistics; a crash loses at most these.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// The least queue length at which cancelled executions are swept.
const MIN_PURGE_LEN: usize = 64;
/// Wait before a change that the store refused is retried.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// The name under which users see the executor's own tasks.
const PART: &str = "the executor";

/// Limits and times; `config` documents the settings behind them.
#[derive(Debug, Clone)]
pub struct Config {
    /// The most executions of one app that run at once.
    pub per_app: usize,
    /// The most executions that run at once.
    pub overall: usize,
    /// The most executions of one organization that run at once.
    pub per_org: usize,
    /// The largest result, in bytes.
    pub max_result_bytes: u64,
    /// Longest wait for a replica; also added to the app's timeout.
    pub cold_start_budget: Duration,
    /// First wait after a failure of the platform; it doubles up to `retry_max`.
    pub retry_initial: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Where the tasks report that they live.
    pub vitals: Vitals,
    /// Where waits and attempts are counted.
    pub metrics: Arc<Metrics>,
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
    /// Cancelled when nothing new may be sent to apps.
    stop: CancellationToken,
    /// Cancelled to give up running executions; the next start runs them again.
    force: CancellationToken,
    tasks: TaskTracker,
}

/// The waiting executions of one app, in the order of acceptance.
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The length at which executions that were cancelled while waiting are swept.
    purge_at: usize,
    dispatching: bool,
    /// Bounds how many executions of the app run at once.
    at_once: Arc<Semaphore>,
}

impl Queue {
    /// Adds an execution. Cancelled ones are swept each time the length has doubled, so that the
    /// cost of the sweep per addition is constant.
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

/// The permits of an execution under way.
struct Permits {
    _of_app: OwnedSemaphorePermit,
    running: Running,
}

/// A permit to run, shared among all apps; returned while the execution waits for a replica.
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
    /// Starts running accepted executions.
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

    /// Sends nothing new to apps; the next start runs the waiting executions.
    pub fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }

    /// Returns once nothing runs any more.
    pub async fn finished(&self) {
        self.shared.tasks.wait().await;
    }

    /// Adds the remaining counts to the statistics; to be called when no request runs any more.
    pub fn count_the_last(&self) {
        self.shared.count_now();
    }

    /// Gives up the running executions; the next start runs them again.
    pub fn force(&self) {
        self.shared.force.cancel();
    }
}

impl Shared {
    /// Puts an accepted execution into its app's queue and starts a dispatcher if the queue has
    /// none.
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

    /// Dispatches the executions of one app until none waits.
    async fn dispatch(self: Arc<Self>, app: AppId, at_once: Arc<Semaphore>) {
        // All executions that wait for an app that cannot start share one deadline.
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
                    let waited = waiting.since.elapsed();
                    self.config.metrics.executions.dispatched_after(waited);
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
            // Running executions still count; the caller has the one permit that belongs to none of
            // them.
            if queue.at_once.available_permits() + 1 >= self.config.per_app {
                queues.remove(app);
            }
        }
        next
    }

    /// Publishes the backlog, by which the fleet scales: waiting executions are demand, though they
    /// are not in the app's hold queue.
    fn publish_backlog(&self, app: &AppId, queue: &Queue) {
        if let Some(deployment) = self.gateway.fleet.get(app) {
            deployment.set_backlog(u32::try_from(queue.waiting.len()).unwrap_or(u32::MAX));
        }
    }

    /// Acquires a replica for an execution, and the permit to run it. A permit that it holds on
    /// entry is returned as soon as it has to wait.
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
                // It was deleted while the platform was down, or just now.
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
                    // At most one execution of each app waits here with a replica, and it had to
                    // wait for that replica before.
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
                // Other requests keep the app busy: that is queueing, not failure.
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
                    // The cause of a failed start says more than a deadline that passed.
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

    /// Ends an execution outside of an attempt.
    async fn end(&self, live: &Live, completion: Completion) {
        let change = Change::End(completion);
        let id = live.identity.id;
        while let Err(failure) = self.executions.change(id, change.clone(), None).await {
            if !self.may_ask_again(live, &failure).await {
                return;
            }
        }
    }

    /// Waits before a change that the store refused is retried; returns `false` when it is left to
    /// the next start.
    async fn may_ask_again(&self, live: &Live, failure: &Failure) -> bool {
        let (execution, why) = (live.identity.id, failure.text(true));
        tracing::error!(%execution, "A change of an execution could not be saved; it is retried until it is saved, or the next start runs the execution again: {why}");
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

/// Since when an execution waits for a replica.
#[derive(Clone, Copy)]
struct Wait {
    /// Its deadline counts from here.
    from: Instant,
    /// Its deadline starts anew while other requests keep the app busy.
    queues: bool,
    /// How many attempts it has had.
    attempts: u32,
}

/// A period in which an app got no replica, so that the executions waiting for it share one
/// deadline.
struct Outage {
    since: Instant,
    cause: Failure,
}

/// The outcome of waiting for a replica.
enum Leased {
    /// A replica, and the deadline of the execution.
    Ready(Lease, Instant),
    /// The execution has ended.
    Over,
    /// The platform is stopping.
    Stopped,
}

fn serves(deployment: &Deployment) -> bool {
    deployment.snapshot().ready > 0
}
