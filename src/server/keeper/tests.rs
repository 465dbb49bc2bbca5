//! Keepers on a table of leases in memory, with tokio's clock.

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

/// A server in a container, with a directory of this inode.
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
    // A copy of both the directory and the record.
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
    // Restored elsewhere: the earlier holder no longer renews.
    let restored = server(&table, "c", 7, Some(("b", 1)));
    claimed(&restored).await;
    sleep(BEAT).await;
    assert_eq!(table.tokens(), ["c"]);
    restored.stop(LeaseEnd::Leave).await;
    assert!(table.rows.lock()[0].lease.left);
    // The next server takes over what was left on purpose.
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
    // While the first server could not be seen to live, another one took over.
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
