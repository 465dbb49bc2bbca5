//! Moving an app's replicas by hand, and waiting for them: for tests, CI and people.

use std::time::Duration;

use tokio::time::Instant;

use super::deployment::{Deployment, Snapshot};
use crate::model::{Failure, Reason, Standby};

/// How often a waiter looks when no event comes: not every change of the queue is one.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many ready replicas, and nothing on its way up or down.
    Replicas(u32),
    /// Nothing runs or is asked, and standby is this deep; `None` for any depth.
    Idle(Option<Standby>),
}

impl Until {
    fn holds(self, s: &Snapshot) -> bool {
        let still = s.starting == 0 && s.draining == 0 && s.moving == 0;
        match self {
            Until::Replicas(n) => still && s.ready == n,
            Until::Idle(depth) => {
                let at_depth = match depth {
                    None => true,
                    Some(Standby::Pause) => s.paused > 0,
                    Some(Standby::Prepared) => s.paused == 0 && s.prepared > 0,
                    Some(Standby::Absent) => s.standby == 0,
                };
                still && s.ready == 0 && s.in_flight == 0 && s.held == 0 && at_depth
            }
        }
    }
}

impl Deployment {
    /// Has `n` replicas wanted from now on, for a scale-down period or until the autoscaler is
    /// unfrozen.
    ///
    /// # Errors
    /// INVALID_ARGUMENT outside the app's own bounds; why it is closed.
    pub fn scale(&self, n: u32) -> Result<(), Failure> {
        let bounds = self.with_revision(|r| r.scaling);
        if n < bounds.reserved || n > bounds.max {
            return Err(Failure::field(
                "replicas",
                format!(
                    "{n} is not between {} (reserved_capacity) and {} (max_replicas, and the platform's cap); change these first",
                    bounds.reserved, bounds.max
                ),
            ));
        }
        let now = Instant::now();
        self.by_hand(|s| {
            s.meter.choose(now, n, now + bounds.scaledown);
            if n > 0 {
                s.rest_at = None;
                s.last_active = now;
            }
            Ok(())
        })
    }

    /// Puts it to zero at this depth, as if its times had passed; `None` for the usual depth.
    ///
    /// # Errors
    /// FAILED_PRECONDITION while it is asked, has replicas reserved, or has none to put there.
    pub fn idle(&self, depth: Option<Standby>) -> Result<(), Failure> {
        let reserved = self.with_revision(|r| r.scaling.reserved);
        let now = Instant::now();
        let refuse = |why: String| Err(Failure::new(Reason::FailedPrecondition, why));
        self.by_hand(|s| {
            if s.busy() {
                return refuse(format!(
                    "app {} answers requests or has some waiting; let them end first",
                    self.id()
                ));
            }
            if reserved > 0 {
                return refuse(format!(
                    "app {} has {reserved} replicas reserved; set reserved_capacity to 0 first",
                    self.id()
                ));
            }
            if matches!(depth, Some(Standby::Pause | Standby::Prepared)) && s.slots.is_empty() {
                return refuse(format!(
                    "app {} has no replica to put to sleep; scale it to 1 first",
                    self.id()
                ));
            }
            s.rest_at = depth;
            s.meter.choose(now, 0, now);
            Ok(())
        })
    }

    /// Stops the autoscaler at what is wanted now, or lets it decide again.
    ///
    /// # Errors
    /// Why it is closed.
    pub fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        let revision = self.revision();
        self.by_hand(|s| {
            let want = s.desired(&revision, Instant::now());
            s.meter.frozen = frozen.then_some(want);
            Ok(())
        })
    }

    /// Returns once it is so.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED with what is the case instead; APP_DELETED; SHUTTING_DOWN.
    pub async fn wait(&self, until: Until, limit: Duration) -> Result<Snapshot, Failure> {
        let give_up = Instant::now() + limit;
        let mut events = self.events().follow(0);
        loop {
            let s = self.snapshot();
            if until.holds(&s) {
                return Ok(s);
            }
            if let Some(closed) = &self.state.lock().closed {
                return Err(closed.why.clone());
            }
            if Instant::now() >= give_up {
                return Err(Failure::new(
                    Reason::WaitTimeout,
                    format!(
                        "after {} app {} has {} ready replicas, {} starting, {} stopping, {} in standby, {} requests in flight and {} waiting",
                        humantime::format_duration(limit),
                        self.id(),
                        s.ready,
                        s.starting,
                        s.draining,
                        s.standby,
                        s.in_flight,
                        s.held
                    ),
                ));
            }
            let look = tokio::time::sleep_until((Instant::now() + LOOK_EVERY).min(give_up));
            tokio::select! {
                news = events.next() => if news.is_none() {
                    // Followers are let go before the deployment is closed.
                    let closed = self.state.lock().closed.as_ref().map(|c| c.why.clone());
                    return Err(closed.unwrap_or_else(|| Failure::new(
                        Reason::ShuttingDown,
                        "the platform is stopping; wait again when it is back",
                    )));
                },
                () = look => {}
            }
        }
    }

    fn by_hand(
        &self,
        change: impl FnOnce(&mut super::state::State) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut s = self.state.lock();
        if let Some(closed) = &s.closed {
            return Err(closed.why.clone());
        }
        change(&mut s)?;
        drop(s);
        self.wake.notify_one();
        Ok(())
    }
}
