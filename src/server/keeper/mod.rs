//! Holds the instance's identity: claims it at the start, then renews a lease on it at every beat.
//!
//! Containers of an earlier run are adopted only once the identity is claimed. Most starts claim it
//! at once: there is no lease, or that of the previous run from this very directory. A holder whose
//! process cannot be seen from here is watched for two beats.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{data_dir::DataDir, machine};
use crate::{
    engine::{
        Error,
        docker::{Docker, HeldLease, watch_for},
    },
    model::instance_lease::{Claim, Holder, Lease, Process, Record, claim},
    vitals::Vitals,
};

#[cfg(test)]
mod tests;

/// Pause before the engine is asked again when it did not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How often the lease of a watched holder is read.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// How many beats a lease lasts: more than one, since a loaded engine answers late.
const BEATS: u32 = 4;

/// Where leases are kept: the engine, or a test's table.
pub(super) trait Leases: Send + Sync + 'static {
    /// The leases of this instance.
    fn list(&self) -> impl Future<Output = Result<Vec<HeldLease>, Error>> + Send;
    /// Makes a lease and returns its name.
    fn put(&self, lease: &Lease) -> impl Future<Output = Result<String, Error>> + Send;
    /// Removes a lease; one that is gone already is a success.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;
    /// Unix seconds by the engine's clock.
    fn time(&self) -> impl Future<Output = Result<Option<i64>, Error>> + Send;
}

impl Leases for Docker {
    async fn list(&self) -> Result<Vec<HeldLease>, Error> {
        self.leases().await
    }

    async fn put(&self, lease: &Lease) -> Result<String, Error> {
        self.put_lease(lease).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        self.remove_lease(name).await
    }

    async fn time(&self) -> Result<Option<i64>, Error> {
        Docker::time(self).await
    }
}

/// What a stop does with the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// Removes it: nothing of the instance keeps running.
    Remove,
    /// Marks in it that containers were left running on purpose.
    Leave,
}

/// The task that holds the identity.
pub(super) struct Keeper {
    stop: CancellationToken,
    end: Option<oneshot::Sender<LeaseEnd>>,
    task: JoinHandle<()>,
    claimed: watch::Receiver<bool>,
    taken: Option<oneshot::Receiver<Box<Lease>>>,
}

impl Keeper {
    /// Claims the identity and holds it from then on.
    pub(super) fn start<L: Leases>(
        leases: Arc<L>,
        data: &DataDir,
        beat: Duration,
        ephemeral: bool,
        vitals: &Vitals,
    ) -> Self {
        let state = State {
            leases,
            token: data.token().to_owned(),
            holder: data.holder().clone(),
            record: data.record().cloned(),
            beat,
            ephemeral,
            own: Vec::new(),
        };
        Self::spawn(state, data.recorder(), vitals)
    }

    fn spawn<L: Leases>(
        state: State<L>,
        remember: impl FnOnce() -> std::io::Result<()> + Send + 'static,
        vitals: &Vitals,
    ) -> Self {
        let stop = CancellationToken::new();
        let (end, ending) = oneshot::channel();
        let (claimed_tx, claimed) = watch::channel(false);
        let (taken_tx, taken) = oneshot::channel();
        let work = run(state, stop.clone(), ending, claimed_tx, taken_tx, remember);
        let task = tokio::spawn(vitals.watch("the keeper of the instance's identity", work));
        Self {
            stop,
            end: Some(end),
            task,
            claimed,
            taken: Some(taken),
        }
    }

    /// Becomes true once this process has claimed the identity.
    pub(super) fn claimed(&self) -> watch::Receiver<bool> {
        self.claimed.clone()
    }

    /// Waits until another process turns out to hold the identity, and returns its lease. Never
    /// ends otherwise.
    pub(super) async fn taken(&mut self) -> Box<Lease> {
        if let Some(taken) = self.taken.as_mut() {
            let outcome = taken.await;
            self.taken = None;
            if let Ok(lease) = outcome {
                return lease;
            }
        }
        std::future::pending().await
    }

    /// Ends the task, and with it the lease as `end` says.
    pub(super) async fn stop(mut self, end: LeaseEnd) {
        if let Some(end_sender) = self.end.take() {
            // The task has ended already when the identity was taken; then no lease is left.
            let _ = end_sender.send(end);
        }
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "The keeper of the lease panicked");
        }
    }
}

struct State<L> {
    leases: Arc<L>,
    token: String,
    holder: Holder,
    record: Option<Record>,
    beat: Duration,
    ephemeral: bool,
    /// The names of this run's leases, the newest last.
    own: Vec<String>,
}

async fn run<L: Leases>(
    mut state: State<L>,
    stop: CancellationToken,
    ending: oneshot::Receiver<LeaseEnd>,
    claimed: watch::Sender<bool>,
    taken: oneshot::Sender<Box<Lease>>,
    remember: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) {
    let before = match stop.run_until_cancelled(state.claim()).await {
        Some(Ok(before)) => before,
        Some(Err(lease)) => {
            let _ = taken.send(lease);
            return;
        }
        None => return,
    };
    claimed.send_replace(true);
    // Before the lease is made, so that a crash in between leaves no lease that the directory does
    // not know.
    match tokio::task::spawn_blocking(remember).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "The file holder cannot be written; a start after a crash may take longer")
        }
        Err(error) => tracing::error!(%error, "Writing the file holder panicked"),
    }
    // A stop waits for the end of a beat: cancelled in between, a lease could be made whose name is
    // not noted.
    let mut old = before;
    loop {
        let pause = match state.renew(&mut old).await {
            Ok(None) => state.beat,
            Ok(Some(lease)) => {
                if let Err(error) = state.finish(LeaseEnd::Remove).await {
                    tracing::debug!(%error, "The instance's lease stays until it expires");
                }
                let _ = taken.send(lease);
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "The instance's lease could not be renewed");
                RETRY_INTERVAL.max(state.beat / 10)
            }
        };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            break;
        }
    }
    if let Ok(end) = ending.await
        && let Err(error) = state.finish(end).await
    {
        tracing::warn!(%error, "The instance's lease stays until it expires");
    }
}

impl<L: Leases> State<L> {
    /// Claims the identity. Returns the names of earlier leases, or the lease of the current
    /// holder.
    async fn claim(&self) -> Result<Vec<String>, Box<Lease>> {
        loop {
            match self.claim_once().await {
                Ok(outcome) => return outcome,
                Err(error) => {
                    tracing::debug!(%error, "The engine cannot be asked for leases yet");
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn claim_once(&self) -> Result<Result<Vec<String>, Box<Lease>>, Error> {
        let held = self.leases.list().await?;
        // The engine's time matters only to judge existing leases.
        let now = if held.is_empty() {
            None
        } else {
            self.leases.time().await?
        };
        let names = |held: &[HeldLease]| held.iter().map(|h| h.name.clone()).collect();
        match self.judge(&held, now) {
            Claim::Ours => Ok(Ok(names(&held))),
            Claim::Taken(lease) => Ok(Err(lease)),
            Claim::Watch(doubtful) => {
                let patience = doubtful.iter().map(watch_for).max().unwrap_or_default();
                tracing::warn!(
                    holder = doubtful[0].holder.path,
                    ?patience,
                    "Another server, which cannot be seen from here, held this identity a moment ago; watching whether it is still alive"
                );
                let until = Instant::now() + patience;
                while Instant::now() < until {
                    sleep(WATCH_INTERVAL).await;
                    let held = self.leases.list().await?;
                    let renewed = held.iter().find(|h| {
                        doubtful.iter().any(|d| d.token == h.lease.token)
                            && !doubtful.contains(&h.lease)
                    });
                    if let Some(found) = renewed {
                        return Ok(Err(Box::new(found.lease.clone())));
                    }
                }
                let held = self.leases.list().await?;
                Ok(Ok(names(&held)))
            }
        }
    }

    fn judge(&self, held: &[HeldLease], now: Option<i64>) -> Claim {
        let seen: Vec<_> = held
            .iter()
            .map(|h| (h.lease.clone(), machine::process_of(&h.lease.holder)))
            .collect();
        claim(&self.holder, self.record.as_ref(), &seen, now)
    }

    /// Makes the next lease and removes the last one and the `old` ones. Returns the lease of a
    /// server that has taken the identity meanwhile, which happens when this machine was suspended.
    async fn renew(&mut self, old: &mut Vec<String>) -> Result<Option<Box<Lease>>, Error> {
        let held = self.leases.list().await?;
        let others = held.iter().filter(|h| {
            h.lease.token != self.token
                && !old.contains(&h.name)
                && machine::process_of(&h.lease.holder) != Process::Ended
        });
        let begun = !self.own.is_empty();
        let have_ours = held.iter().any(|h| self.own.contains(&h.name));
        for other in others {
            // A server that claims an identity removes the leases that were there: if ours is gone,
            // the identity is the other's. Two that claimed at the same moment both have a lease;
            // the smaller token wins.
            if begun && (!have_ours || other.lease.token < self.token) {
                return Ok(Some(Box::new(other.lease.clone())));
            }
        }
        let now = self.leases.time().await?.unwrap_or(0);
        let lease = self.lease(now, false);
        let name = self.leases.put(&lease).await?;
        old.append(&mut self.own);
        self.own.push(name);
        while let Some(name) = old.last() {
            self.leases.remove(name).await?;
            old.pop();
        }
        Ok(None)
    }

    fn lease(&self, now: i64, left: bool) -> Lease {
        let term = i64::try_from((self.beat * BEATS).as_secs().max(1)).unwrap_or(i64::MAX);
        Lease {
            token: self.token.clone(),
            expires_at: now.saturating_add(term),
            beat_secs: self.beat.as_secs().max(1),
            left,
            ephemeral: self.ephemeral,
            holder: self.holder.clone(),
        }
    }

    async fn finish(&mut self, end: LeaseEnd) -> Result<(), Error> {
        if end == LeaseEnd::Leave {
            let now = self.leases.time().await?.unwrap_or(0);
            self.leases.put(&self.lease(now, true)).await?;
        }
        for name in std::mem::take(&mut self.own) {
            self.leases.remove(&name).await?;
        }
        Ok(())
    }
}
