//! The capacity without a fleet around it.

use super::*;
use crate::model::Reason;

const MB: u64 = 1 << 20;

/// An app as the capacity sees it.
struct App {
    id: AppId,
    wake: Arc<Notify>,
    position: Option<QueuePosition>,
}

impl App {
    fn new(id: &str) -> Self {
        Self {
            id: id.parse().expect("valid"),
            wake: Arc::default(),
            position: None,
        }
    }

    fn ask(&self, mb: u64) -> CapacityRequest<'_> {
        CapacityRequest {
            app: &self.id,
            wake: &self.wake,
            bytes: mb * MB,
        }
    }

    fn take(&mut self, capacity: &Arc<Capacity>, mb: u64) -> Result<Reservation, Failure> {
        let mut position = self.position.take();
        let reservation = capacity.take(self.ask(mb), &mut position);
        self.position = position;
        reservation
    }

    fn run(&mut self, reservation: &Reservation, mb: u64) -> Result<(), Failure> {
        let mut position = self.position.take();
        let run = reservation.run(self.ask(mb), &mut position);
        self.position = position;
        run
    }

    fn availability(&self, capacity: &Capacity, mb: u64) -> Availability {
        capacity.availability(self.ask(mb), self.position.as_ref())
    }

    /// Whether it was woken since it was last asked this.
    fn is_woken(&self) -> bool {
        use futures_util::FutureExt as _;
        self.wake.notified().now_or_never().is_some()
    }
}

fn capacity(memory: u64, replicas: u32, standby_memory: u64) -> Arc<Capacity> {
    shared(memory, Share::All, replicas, standby_memory)
}

fn shared(memory: u64, per_org: Share, replicas: u32, standby_memory: u64) -> Arc<Capacity> {
    Capacity::new(Bounds {
        memory: memory * MB,
        memory_per_org: per_org,
        replicas,
        replicas_per_org: Share::ThreeQuarters,
        standby_memory: standby_memory * MB,
    })
}

fn refused(outcome: Result<Reservation, Failure>, parts: &[&str]) {
    let why = outcome.err().expect("there is no capacity");
    assert_eq!(why.reason, Reason::NoRoom);
    for part in parts {
        assert!(why.message.contains(part), "{part}: {}", why.message);
    }
}

#[test]
fn capacity_is_bounded_and_given_back_to_who_waits() {
    let l = capacity(100, 0, 100);
    let [mut a, mut b, mut stranger] = ["o/a", "o/b", "p/b"].map(App::new);
    let reservation = a.take(&l, 60).expect("capacity");
    let why = b.take(&l, 60).err().expect("none");
    assert_eq!(why.reason, Reason::NoRoom);
    let told = why.text(true);
    assert!(told.contains("o/a 1 replicas with 60 MB"), "{told}");
    assert!(!why.text(false).contains("o/a"));
    let told = stranger.take(&l, 60).err().expect("none").text(true);
    assert!(!told.contains("o/a"), "{told}");
    drop(reservation);
    // The stranger's organization has no more than the other, which asked first.
    assert!(b.is_woken() && !stranger.is_woken());
    let reservation = b.take(&l, 60).expect("its turn");
    drop(reservation);
    assert!(stranger.is_woken());
    drop((b, stranger));
    assert!(l.inner.lock().waiting.is_empty());
    assert_eq!(a.availability(&l, 100), Availability::Now);

    let few = capacity(0, 1, 0);
    let _one = a.take(&few, 1).expect("capacity");
    assert!(a.take(&few, 1).is_err());
    assert_eq!(a.availability(&few, 1), Availability::Unavailable);
}

#[test]
fn frozen_ones_go_the_least_recently_used_first() {
    let l = capacity(100, 0, 50);
    let [mut a, mut b] = ["o/a", "o/b"].map(App::new);
    let reservations: Vec<_> = (0..3).map(|_| a.take(&l, 20).expect("capacity")).collect();
    for reservation in &reservations {
        reservation.freeze(Some(20 * MB));
    }
    let told = || {
        reservations
            .iter()
            .map(Reservation::must_go)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(), [true, false, false], "60 MB are over the 50");
    assert!(a.run(&reservations[2], 20).is_ok());
    assert!(b.take(&l, 60).is_err());
    assert_eq!(told(), [true, false, false], "20 MB are on their way");
    assert!(b.take(&l, 90).is_err());
    assert_eq!(told(), [true, false, false], "both would not be enough");
    assert!(b.take(&l, 70).is_err());
    assert_eq!(told(), [true, true, false]);
    assert_eq!(b.availability(&l, 70), Availability::AfterEviction);
    reservations[0].prepare();
    assert!(!b.is_woken());
    reservations[1].prepare();
    assert!(b.is_woken());
    assert_eq!(b.availability(&l, 70), Availability::Now);
}

#[test]
fn an_organization_has_its_share_and_its_own_frozen_replicas_go_for_it() {
    let l = shared(200, Share::AtMost(100 * MB), 0, 200);
    let [mut a, mut b, mut other] = ["evil/a", "evil/b", "good/a"].map(App::new);
    let frozen = a.take(&l, 40).expect("capacity");
    frozen.freeze(Some(30 * MB));
    let theirs = other.take(&l, 40).expect("capacity");
    theirs.freeze(Some(40 * MB));
    let held = a.take(&l, 60).expect("capacity");
    // 20 MB over the share: its own frozen one makes them good, the other's stays.
    let over = [
        "organization evil has 90 of the 100 MB",
        "IGNITE_MEMORY_BUDGET_PER_ORG",
    ];
    refused(b.take(&l, 30), &over);
    assert!(frozen.must_go() && !theirs.must_go());
    frozen.prepare();
    assert!(b.is_woken());
    let _b = b.take(&l, 30).expect("it is within the share");
    refused(
        b.take(&l, 20),
        &["stop another of its apps", "raise the setting"],
    );
    let _good = other.take(&l, 60).expect("there is capacity for others");
    drop(held);
    assert!(b.is_woken());
    let all = l.inner.lock();
    assert_eq!(all.held.of(&b.id.org).memory, 30 * MB);
    drop(all);
    b.position = None;

    let few = capacity(0, 4, 0);
    let _three: Vec<_> = (0..3).map(|_| a.take(&few, 6).expect("capacity")).collect();
    refused(
        b.take(&few, 6),
        &[
            "organization evil runs 3 replicas",
            "may run 3 (IGNITE_REPLICA_BUDGET_PER_ORG)",
        ],
    );
    let _fourth = other.take(&few, 6).expect("it was kept for others");
}

#[test]
fn what_is_freed_goes_to_the_organization_with_least_and_waits_for_it() {
    let l = capacity(100, 0, 0);
    let [mut a, mut b, mut c] = ["evil/a", "evil/b", "good/a"].map(App::new);
    let mut reservations: Vec<_> = (0..10).map(|_| a.take(&l, 10).expect("capacity")).collect();
    assert!(b.take(&l, 10).is_err() && c.take(&l, 20).is_err());
    reservations.pop();
    // 10 MB are free: enough for the first to ask, but the other has nothing.
    assert!(!b.is_woken() && !c.is_woken());
    refused(
        b.take(&l, 10),
        &["organization evil has 90, and the 10 MB that are free"],
    );
    reservations.pop();
    assert!(!b.is_woken() && c.is_woken());
    refused(
        b.take(&l, 10),
        &["organization evil has 80, and the 20 MB that are free"],
    );
    let good = c.take(&l, 20).expect("its turn");
    // One that waits in vain for long does not keep what it cannot use.
    assert!(c.take(&l, 20).is_err());
    reservations.pop();
    assert!(!b.is_woken());
    c.position.as_ref().expect("it waits").stop_gathering();
    assert!(b.is_woken());
    let _b = b.take(&l, 10).expect("capacity");
    // Nor does one that has left.
    reservations.truncate(5);
    assert!(c.is_woken() && b.take(&l, 10).is_err());
    c.position = None;
    assert!(b.is_woken());
    drop(good);
}

#[test]
fn one_at_a_time_takes_over_beyond_the_share_of_its_organization() {
    let l = shared(200, Share::AtMost(100 * MB), 0, 0);
    let [mut a, mut b] = ["o/a", "o/b"].map(App::new);
    let old = [
        a.take(&l, 50).expect("capacity"),
        b.take(&l, 50).expect("capacity"),
    ];
    let (mut of_a, mut of_b) = (None, None);
    let new = l.take_over(a.ask(50), &mut of_a).expect("the first");
    refused(
        l.take_over(b.ask(50), &mut of_b),
        &["organization o has 150 of the 100 MB"],
    );
    let [old_a, _old_b] = old;
    assert!(!b.is_woken());
    drop(old_a);
    assert!(b.is_woken());
    let second = l.take_over(b.ask(50), &mut of_b);
    assert!(second.is_ok() && of_b.is_none());
    drop(new);
    // Where one organization may have everything, nothing bounds them.
    let l = capacity(100, 0, 0);
    let _old = [
        a.take(&l, 50).expect("capacity"),
        b.take(&l, 50).expect("capacity"),
    ];
    let both = [&a, &b].map(|app| l.take_over(app.ask(50), &mut None));
    assert!(both.iter().all(Result::is_ok));
}

#[test]
fn what_can_never_fit_is_said_with_its_bound() {
    let amount = |memory, replicas| Amount { memory, replicas };
    let limits = Limits {
        machine: amount(1000 * MB, 10),
        org: amount(750 * MB, u64::MAX),
    };
    let why = |reserved, memory| report::never_fits(limits, reserved, memory);
    assert_eq!((why(0, 750), why(7, 100)), (None, None));
    for (reserved, memory, part) in [
        (0, 751, "751 MB of memory can never start"),
        (
            8,
            100,
            "is 800 MB of memory and one organization may have 750 MB here (IGNITE_MEMORY_BUDGET_PER_ORG)",
        ),
        (11, 6, "may run 10 replicas here (IGNITE_REPLICA_BUDGET)"),
    ] {
        let why = why(reserved, memory).expect("it never fits");
        assert!(why.contains(part), "{why}");
    }
}
