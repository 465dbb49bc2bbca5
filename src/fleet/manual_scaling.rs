//! Moving an app's replicas by hand, and waiting for them: for tests, CI and people.

use std::time::Duration;

use tokio::time::Instant;

use super::{deployment::Deployment, snapshot::Snapshot, state::State};
use crate::model::{Failure, Reason, Standby};

/// How often a waiter checks when no event comes: not every change of the queue is an event.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many ready replicas, and none starting, draining or moving between depths.
    Replicas(u32),
    /// No replica runs, no request is in flight or held, and standby is this deep; `None` for any
    /// depth.
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
    /// Keeps `n` replicas from now on, for a scale-down period or until the autoscaler is unpinned.
    ///
    /// # Errors
    /// INVALID_ARGUMENT outside the app's own bounds; the failure it is closed with.
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
        self.by_hand(|s| {
            s.scale(n, Instant::now());
            Ok(())
        })
    }

    /// Scales the app to zero at this depth, as if its idle times had passed; `None` for the usual
    /// depth.
    ///
    /// # Errors
    /// FAILED_PRECONDITION while it has requests, has replicas reserved, or has no replica to put
    /// into standby.
    pub fn idle(&self, depth: Option<Standby>) -> Result<(), Failure> {
        self.by_hand(|s| s.idle(depth, Instant::now()))
    }

    /// Pins the autoscaler at the number that is wanted now, or lets it decide again.
    ///
    /// # Errors
    /// The failure it is closed with.
    pub fn pin(&self, pinned: bool) -> Result<(), Failure> {
        self.by_hand(|s| {
            s.pin(pinned, Instant::now());
            Ok(())
        })
    }

    /// Returns once `until` holds.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED with the present state; APP_DELETED; SHUTTING_DOWN.
    pub async fn wait(&self, until: Until, limit: Duration) -> Result<Snapshot, Failure> {
        let give_up = Instant::now() + limit;
        let mut events = self.events().follow(0);
        loop {
            let s = self.snapshot();
            if until.holds(&s) {
                return Ok(s);
            }
            if let Some(closed) = self.closed() {
                return Err(closed);
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
            let check = tokio::time::sleep_until((Instant::now() + CHECK_INTERVAL).min(give_up));
            tokio::select! {
                news = events.next() => if news.is_none() {
                    // Event streams end before the deployment is closed.
                    return Err(self.closed().unwrap_or_else(|| Failure::new(
                        Reason::ShuttingDown,
                        "the platform is stopping; wait again when it is back",
                    )));
                },
                () = check => {}
            }
        }
    }

    fn by_hand(
        &self,
        change: impl FnOnce(&mut State) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut s = self.state.lock();
        if let Some(why) = s.closed() {
            return Err(why.clone());
        }
        change(&mut s)?;
        drop(s);
        self.wake.notify_one();
        Ok(())
    }
}
