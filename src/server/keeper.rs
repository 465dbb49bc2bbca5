//! Holding the instance's identity: claimed at the start, then shown to live by a lease that is
//! renewed at every beat.
//!
//! Containers of an earlier run are adopted only once the identity is claimed. Most starts know at
//! once: no lease, or that of the run before on this very directory. A holder that may live out of
//! sight is watched for two beats.

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
    model::lease::{Claim, Holder, Lease, Process, Record, claim},
    vitals::Vitals,
};

/// Pause after the engine did not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks at a holder that is watched.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A lease outlives so many beats: a loaded engine answers late.
const BEATS: u32 = 4;

/// What leases are kept on: the engine, or a test's table.
pub(super) trait Leases: Send + Sync + 'static {
    /// Those of this instance.
    fn list(&self) -> impl Future<Output = Result<Vec<HeldLease>, Error>> + Send;
    /// Makes one; answers its name.
    fn put(&self, lease: &Lease) -> impl Future<Output = Result<String, Error>> + Send;
    /// Removes one; gone is success.
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

/// What becomes of the lease at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// It goes: nothing of the instance runs on.
    Remove,
    /// It says that containers were left running on purpose.
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

    /// Becomes true once the identity is this process's.
    pub(super) fn claimed(&self) -> watch::Receiver<bool> {
        self.claimed.clone()
    }

    /// Waits until another process turns out to hold the identity; never ends otherwise.
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

    /// Ends the task and does what is to be done with the lease.
    pub(super) async fn stop(mut self, end: LeaseEnd) {
        if let Some(end_sender) = self.end.take() {
            // Nobody hears it when the identity was taken: then there is nothing to do.
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
    // Before the lease, so that a crash in between leaves no lease that the directory does not
    // know.
    match tokio::task::spawn_blocking(remember).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "The file holder cannot be written; a start after a crash may take longer")
        }
        Err(error) => tracing::error!(%error, "Writing the file holder panicked"),
    }
    // Not cancelled in the middle of a beat: what it makes, it notes.
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
    /// Waits until the identity is ours, and answers which leases are of the past; or who has it.
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
        // The engine's time matters only for leases of others.
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
                    "Another server has held this identity a moment ago, out of sight from here; watching whether it still lives"
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

    /// Makes the next lease and removes the last one and `old` ones. Answers the lease of whoever
    /// has taken the identity meanwhile, as when this machine was asleep for long.
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
            // Whoever claims an identity removes the leases that were there: without ours, it is
            // theirs. Two at the very same moment both have one; the smaller token wins.
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    const BEAT: Duration = Duration::from_secs(10);

    /// An engine with nothing but leases, whose clock is tokio's.
    struct Table {
        rows: Mutex<Vec<HeldLease>>,
        since: Instant,
        next: Mutex<u32>,
    }

    impl Table {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                rows: Mutex::default(),
                since: Instant::now(),
                next: Mutex::new(0),
            })
        }

        fn tokens(&self) -> Vec<String> {
            let rows = self.rows.lock();
            rows.iter().map(|h| h.lease.token.clone()).collect()
        }
    }

    impl Leases for Table {
        async fn list(&self) -> Result<Vec<HeldLease>, Error> {
            Ok(self.rows.lock().clone())
        }

        async fn put(&self, lease: &Lease) -> Result<String, Error> {
            let mut next = self.next.lock();
            *next += 1;
            let name = next.to_string();
            self.rows.lock().push(HeldLease {
                name: name.clone(),
                lease: lease.clone(),
            });
            Ok(name)
        }

        async fn remove(&self, name: &str) -> Result<(), Error> {
            self.rows.lock().retain(|h| h.name != name);
            Ok(())
        }

        async fn time(&self) -> Result<Option<i64>, Error> {
            let secs = self.since.elapsed().as_secs();
            Ok(Some(1_000_000 + i64::try_from(secs).expect("small")))
        }
    }

    /// A server in a container of its own, with a directory of this inode.
    fn server(table: &Arc<Table>, token: &str, inode: u64, record: Option<(&str, u64)>) -> Keeper {
        let holder = |inode| Holder {
            boot: "elsewhere".into(),
            inode,
            ..Holder::default()
        };
        let state = State {
            leases: table.clone(),
            token: token.into(),
            holder: holder(inode),
            record: record.map(|(token, inode)| Record {
                instance: "i".into(),
                token: token.into(),
                holder: holder(inode),
            }),
            beat: BEAT,
            ephemeral: false,
            own: Vec::new(),
        };
        Keeper::spawn(state, || Ok(()), &Vitals::default())
    }

    async fn claimed(keeper: &Keeper) {
        let mut claimed = keeper.claimed();
        claimed.wait_for(|c| *c).await.expect("it is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_made_again_when_pruned_and_goes_at_the_end() {
        let table = Table::new();
        let keeper = server(&table, "a", 1, None);
        claimed(&keeper).await;
        sleep(BEAT * 3).await;
        let first = table.rows.lock()[0].clone();
        sleep(BEAT * 2).await;
        let later = table.rows.lock().clone();
        assert_eq!(later.len(), 1, "the one before goes");
        assert!(later[0].lease.expires_at > first.lease.expires_at);
        table.rows.lock().clear();
        sleep(BEAT * 2).await;
        assert_eq!(table.tokens(), ["a"]);
        keeper.stop(LeaseEnd::Remove).await;
        assert_eq!(table.tokens(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_told_and_its_original_goes_on() {
        let table = Table::new();
        let mut original = server(&table, "a", 1, None);
        claimed(&original).await;
        sleep(BEAT).await;
        // As copied, directory and record.
        let mut copy = server(&table, "b", 2, Some(("a", 1)));
        let held = copy.taken().await;
        assert_eq!((held.token.as_str(), held.holder.inode), ("a", 1));
        assert!(!*copy.claimed().borrow());
        copy.stop(LeaseEnd::Remove).await;
        let on = tokio::time::timeout(BEAT * 5, original.taken()).await;
        assert!(on.is_err());
        assert_eq!(table.tokens(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_crash_the_same_directory_goes_on_at_once_and_another_after_a_while() {
        let table = Table::new();
        let killed = server(&table, "a", 1, None);
        claimed(&killed).await;
        sleep(BEAT).await;
        killed.task.abort();
        let began = Instant::now();
        let again = server(&table, "b", 1, Some(("a", 1)));
        claimed(&again).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing was waited for");
        sleep(BEAT).await;
        assert_eq!(table.tokens(), ["b"]);
        again.task.abort();
        // Restored elsewhere: what held it does not renew.
        let restored = server(&table, "c", 7, Some(("b", 1)));
        claimed(&restored).await;
        sleep(BEAT).await;
        assert_eq!(table.tokens(), ["c"]);
        restored.stop(LeaseEnd::Leave).await;
        assert!(table.rows.lock()[0].lease.left);
        // What was left on purpose is taken up by whoever comes next.
        let next = server(&table, "d", 7, Some(("c", 7)));
        claimed(&next).await;
        next.stop(LeaseEnd::Remove).await;
        assert_eq!(table.tokens(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_hold_one_identity_one_ends() {
        let table = Table::new();
        let mut asleep = server(&table, "a", 1, None);
        claimed(&asleep).await;
        sleep(BEAT / 2).await;
        // While the first could not be seen to live, another one took its place.
        table.rows.lock().clear();
        let second = server(&table, "b", 2, None);
        claimed(&second).await;
        assert_eq!(asleep.taken().await.token, "b");
        asleep.stop(LeaseEnd::Remove).await;
        sleep(BEAT * 3).await;
        assert_eq!(table.tokens(), ["b"]);
        second.stop(LeaseEnd::Remove).await;
        // Two at the same moment.
        let mut one = server(&table, "c", 1, None);
        let mut other = server(&table, "d", 2, None);
        assert_eq!(other.taken().await.token, "c");
        assert!(tokio::time::timeout(BEAT * 5, one.taken()).await.is_err());
    }
}
