//! The room on this machine: how much memory and how many replicas, and who has it.
//!
//! A ledger of all replicas of all apps. Running ones count with their memory limit, frozen ones
//! with what they were measured to keep, prepared ones with nothing. When it is full, frozen
//! replicas are told to go, the least recently used first, and whoever waits hears when room is
//! given back.
//!
//! A leaf: taken under a deployment's mutex, its own short mutex calls nothing but `Notify`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{load::Orgs, quota::Stopped};
use crate::model::{AppId, Failure, Reason};

/// Bounds over all apps.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes of memory; 0 = what the engine's host has.
    pub memory: u64,
    /// Most replicas that run; 0 = no bound.
    pub replicas: u32,
    /// Most bytes that frozen replicas keep.
    pub standby_memory: u64,
}

/// Whether a replica would find room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Now.
    Room,
    /// Once frozen ones have gone, which are told to when it is asked for.
    AfterFrozen,
    /// Not before something ends.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It runs, or is on its way up or down.
    Running,
    Frozen,
    /// Created and not running.
    Prepared,
}

struct Entry {
    app: AppId,
    wake: Weak<Notify>,
    bytes: u64,
    kind: Use,
    /// Larger when it was used later.
    used: u64,
    evict: Arc<AtomicBool>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    /// Sums over the entries, kept so that a start costs the same however many apps there are.
    taken: u64,
    frozen: u64,
    running: u32,
    /// What the engine's host has, once it is known.
    host_memory: u64,
    /// Those who found no room, to be told when there may be some.
    waiting: Vec<Weak<Notify>>,
}

impl Inner {
    fn count(&mut self, kind: Use, bytes: u64) {
        self.taken += bytes;
        match kind {
            Use::Running => self.running += 1,
            Use::Frozen => self.frozen += bytes,
            Use::Prepared => {}
        }
    }

    fn discount(&mut self, kind: Use, bytes: u64) {
        self.taken -= bytes;
        match kind {
            Use::Running => self.running -= 1,
            Use::Frozen => self.frozen -= bytes,
            Use::Prepared => {}
        }
    }
}

/// The ledger.
pub(super) struct Ledger {
    bounds: Bounds,
    inner: Mutex<Inner>,
    /// The requests of the organizations.
    pub(super) orgs: Orgs,
    /// The apps that may not run.
    pub(super) stopped: Stopped,
}

impl Ledger {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inner: Mutex::default(),
            orgs: Orgs::default(),
            stopped: Stopped::default(),
        })
    }

    pub(super) fn set_host_memory(&self, bytes: u64) {
        self.inner.lock().host_memory = bytes;
    }

    /// Room for one more replica that runs.
    ///
    /// # Errors
    /// NO_ROOM with who has it. Frozen replicas have been told to go, where that helps.
    pub(super) fn take(
        self: &Arc<Self>,
        app: &AppId,
        wake: &Arc<Notify>,
        bytes: u64,
    ) -> Result<Room, Failure> {
        let mut inner = self.inner.lock();
        self.fits(&mut inner, app, wake, bytes, None)?;
        Ok(self.enter(&mut inner, app, wake, bytes))
    }

    /// As [`Self::take`], over the bounds if need be: for what runs already.
    pub(super) fn take_anyway(
        self: &Arc<Self>,
        app: &AppId,
        wake: &Arc<Notify>,
        bytes: u64,
    ) -> Room {
        self.enter(&mut self.inner.lock(), app, wake, bytes)
    }

    /// What a replica of this size would find; when that is nothing, `wake` hears when there may
    /// be some.
    pub(super) fn outlook(&self, bytes: u64, wake: &Arc<Notify>) -> Outlook {
        let mut inner = self.inner.lock();
        match self.shortage(&inner, bytes, None) {
            (0, 0) => Outlook::Room,
            (missing, 0) if missing <= inner.frozen => Outlook::AfterFrozen,
            _ => {
                wait(&mut inner, wake);
                Outlook::None
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        inner: &mut Inner,
        app: &AppId,
        wake: &Arc<Notify>,
        bytes: u64,
    ) -> Room {
        inner.next += 1;
        inner.count(Use::Running, bytes);
        let (key, evict) = (inner.next, Arc::new(AtomicBool::new(false)));
        inner.entries.insert(
            key,
            Entry {
                app: app.clone(),
                wake: Arc::downgrade(wake),
                bytes,
                kind: Use::Running,
                used: key,
                evict: evict.clone(),
            },
        );
        Room {
            ledger: self.clone(),
            key,
            evict,
        }
    }

    fn memory(&self, inner: &Inner) -> u64 {
        match (self.bounds.memory, inner.host_memory) {
            (0, 0) => u64::MAX,
            (0, host) => host,
            (set, _) => set,
        }
    }

    /// Bytes and replicas that are missing for one more that runs; `but` is not counted.
    fn shortage(&self, inner: &Inner, bytes: u64, but: Option<u64>) -> (u64, u32) {
        let own = but.and_then(|key| inner.entries.get(&key));
        let taken = inner.taken - own.map_or(0, |e| e.bytes);
        let running = inner.running - u32::from(own.is_some_and(|e| e.kind == Use::Running));
        let replicas = match self.bounds.replicas {
            0 => u32::MAX,
            n => n,
        };
        (
            (taken + bytes).saturating_sub(self.memory(inner)),
            (running + 1).saturating_sub(replicas),
        )
    }

    fn fits(
        &self,
        inner: &mut Inner,
        app: &AppId,
        wake: &Arc<Notify>,
        bytes: u64,
        but: Option<u64>,
    ) -> Result<(), Failure> {
        let (missing, too_many) = self.shortage(inner, bytes, but);
        if (missing, too_many) == (0, 0) {
            return Ok(());
        }
        evict(inner, missing, but);
        wait(inner, wake);
        Err(self.no_room(inner, app, bytes, missing > 0))
    }

    /// Says what holds the room: by name to the app's own organization, in numbers to others.
    fn no_room(&self, inner: &Inner, app: &AppId, bytes: u64, memory: bool) -> Failure {
        let mb = |bytes: u64| bytes >> 20;
        let mut apps: BTreeMap<&AppId, (u32, u64)> = BTreeMap::new();
        for e in inner.entries.values().filter(|e| e.bytes > 0) {
            let of = apps.entry(&e.app).or_default();
            *of = (of.0 + 1, of.1 + e.bytes);
        }
        let taken: u64 = apps.values().map(|(_, bytes)| bytes).sum();
        let what = match memory {
            true => format!(
                "{} MB of memory are wanted and {} of {} MB are taken (IGNITE_MEMORY_BUDGET)",
                mb(bytes),
                mb(taken),
                mb(self.memory(inner))
            ),
            false => format!(
                "{} replicas run already (IGNITE_REPLICA_BUDGET)",
                self.bounds.replicas
            ),
        };
        let (own, others): (Vec<_>, Vec<_>) =
            apps.into_iter().partition(|(id, _)| id.org == app.org);
        let mut holders: Vec<_> = own
            .iter()
            .map(|(id, (n, bytes))| format!("{id} {n} replicas with {} MB", mb(*bytes)))
            .collect();
        if !others.is_empty() {
            let n: u32 = others.iter().map(|(_, (n, _))| n).sum();
            holders.push(format!("other organizations {n} replicas"));
        }
        Failure::new(
            Reason::NoRoom,
            format!("there is no room for another replica of app {app} on this machine: {what}; try again later, or free some room"),
        )
        .with_detail(format!("the room is held by: {}", holders.join(", ")))
        .with_retry_after(Duration::from_secs(1))
    }
}

/// Tells frozen replicas to go until `bytes` are on their way back.
fn evict(inner: &mut Inner, bytes: u64, but: Option<u64>) {
    let mut frozen: Vec<_> = inner
        .entries
        .iter()
        .filter(|(k, e)| e.kind == Use::Frozen && Some(**k) != but)
        .map(|(k, e)| (e.used, *k))
        .collect();
    frozen.sort_unstable();
    let mut freed = 0;
    for (_, key) in frozen {
        if freed >= bytes {
            break;
        }
        let entry = &inner.entries[&key];
        freed += entry.bytes;
        if !entry.evict.swap(true, Ordering::AcqRel)
            && let Some(wake) = entry.wake.upgrade()
        {
            wake.notify_one();
        }
    }
}

fn wait(inner: &mut Inner, wake: &Arc<Notify>) {
    let me = Arc::downgrade(wake);
    if !inner.waiting.iter().any(|w| w.ptr_eq(&me)) {
        inner.waiting.push(me);
    }
}

fn tell_waiting(inner: &mut Inner) {
    for wake in inner.waiting.drain(..) {
        if let Some(wake) = wake.upgrade() {
            wake.notify_one();
        }
    }
}

/// The room of one replica, given back when it is dropped.
pub(super) struct Room {
    ledger: Arc<Ledger>,
    key: u64,
    evict: Arc<AtomicBool>,
}

impl Room {
    /// It is going to run again.
    ///
    /// # Errors
    /// As [`Ledger::take`]; it stays what it is then.
    pub(super) fn run(&self, app: &AppId, wake: &Arc<Notify>, bytes: u64) -> Result<(), Failure> {
        let mut inner = self.ledger.inner.lock();
        self.ledger
            .fits(&mut inner, app, wake, bytes, Some(self.key))?;
        self.turn(&mut inner, Use::Running, bytes);
        Ok(())
    }

    /// It is frozen and keeps so much memory.
    pub(super) fn freeze(&self, bytes: u64) {
        let mut inner = self.ledger.inner.lock();
        self.turn(&mut inner, Use::Frozen, bytes);
        if inner.frozen <= self.ledger.bounds.standby_memory {
            return tell_waiting(&mut inner);
        }
        let frozen: u64 = inner
            .entries
            .values()
            .filter(|e| e.kind == Use::Frozen && !e.evict.load(Ordering::Acquire))
            .map(|e| e.bytes)
            .sum();
        let over = frozen.saturating_sub(self.ledger.bounds.standby_memory);
        if over > 0 {
            evict_more(&mut inner, over);
        }
        tell_waiting(&mut inner);
    }

    /// Its process is gone.
    pub(super) fn prepare(&self) {
        let mut inner = self.ledger.inner.lock();
        self.turn(&mut inner, Use::Prepared, 0);
        tell_waiting(&mut inner);
    }

    /// Its memory is needed elsewhere.
    pub(super) fn must_go(&self) -> bool {
        self.evict.load(Ordering::Acquire)
    }

    fn turn(&self, inner: &mut Inner, kind: Use, bytes: u64) {
        inner.next += 1;
        let used = inner.next;
        if let Some(entry) = inner.entries.get_mut(&self.key) {
            let before = (entry.kind, entry.bytes);
            (entry.kind, entry.bytes, entry.used) = (kind, bytes, used);
            entry.evict.store(false, Ordering::Release);
            inner.discount(before.0, before.1);
            inner.count(kind, bytes);
        }
    }
}

/// As [`evict`], for those that have not been told yet.
fn evict_more(inner: &mut Inner, bytes: u64) {
    let told: u64 = inner
        .entries
        .values()
        .filter(|e| e.kind == Use::Frozen && e.evict.load(Ordering::Acquire))
        .map(|e| e.bytes)
        .sum();
    evict(inner, told + bytes, None);
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut inner = self.ledger.inner.lock();
        if let Some(entry) = inner.entries.remove(&self.key) {
            inner.discount(entry.kind, entry.bytes);
        }
        tell_waiting(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppId {
        name.parse().expect("valid")
    }

    fn ledger(memory: u64, replicas: u32, standby_memory: u64) -> Arc<Ledger> {
        Ledger::new(Bounds {
            memory: memory << 20,
            replicas,
            standby_memory: standby_memory << 20,
        })
    }

    #[test]
    fn room_is_bounded_and_given_back_to_who_waits() {
        let (l, wake) = (ledger(100, 0, 100), Arc::new(Notify::new()));
        let a = l.take(&app("o/a"), &wake, 60 << 20).expect("room");
        let why = l.take(&app("o/b"), &wake, 60 << 20).err().expect("none");
        assert_eq!(why.reason, Reason::NoRoom);
        assert!(
            why.text(true).contains("o/a 1 replicas with 60 MB"),
            "{}",
            why.text(true)
        );
        assert!(!why.text(false).contains("o/a"));
        let stranger = l.take(&app("p/b"), &wake, 60 << 20).err().expect("none");
        assert!(
            !stranger.text(true).contains("o/a"),
            "{}",
            stranger.text(true)
        );
        drop(a);
        assert!(l.inner.lock().waiting.is_empty());
        assert_eq!(l.outlook(100 << 20, &wake), Outlook::Room);
        let few = ledger(0, 1, 0);
        let _one = few.take(&app("o/a"), &wake, 1).expect("room");
        assert!(few.take(&app("o/a"), &wake, 1).is_err());
        assert_eq!(few.outlook(1, &wake), Outlook::None);
    }

    #[test]
    fn frozen_ones_go_the_least_recently_used_first() {
        let (l, wake) = (ledger(100, 0, 50), Arc::new(Notify::new()));
        let rooms: Vec<_> = (0..3)
            .map(|_| l.take(&app("o/a"), &wake, 20 << 20).expect("room"))
            .collect();
        for room in &rooms {
            room.freeze(20 << 20);
        }
        let told = || rooms.iter().map(Room::must_go).collect::<Vec<_>>();
        assert_eq!(told(), [true, false, false], "60 MB are over the 50");
        assert!(rooms[2].run(&app("o/a"), &wake, 20 << 20).is_ok());
        assert!(l.take(&app("o/b"), &wake, 60 << 20).is_err());
        assert_eq!(told(), [true, false, false], "20 MB are on their way");
        assert!(l.take(&app("o/b"), &wake, 70 << 20).is_err());
        assert_eq!(told(), [true, true, false]);
        assert_eq!(l.outlook(80 << 20, &wake), Outlook::AfterFrozen);
        rooms[0].prepare();
        rooms[1].prepare();
        assert_eq!(l.outlook(80 << 20, &wake), Outlook::Room);
    }
}
