//! The unfinished executions in memory: identities, states as last committed, output, and watchers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::segment::Unended;
use crate::model::{
    AppId, ExecutionId,
    execution::{Identity, State},
};

/// How many states are kept for watchers that lag; more than an execution has in the few attempts
/// of ordinary failures.
const KEPT_STATES: usize = 32;

/// An unfinished execution, or an ended one that still has watchers. Very many may just be waiting,
/// so whatever watching and running need is allocated on first use.
pub struct Live {
    /// The part that never changes.
    pub identity: Identity,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Its current state.
    state: Arc<State>,
    followed: Option<Box<Followed>>,
}

/// What watchers read. Each watcher keeps its own position, so a slow one does not delay the
/// others.
struct Followed {
    /// The newest states; the last one is current.
    states: VecDeque<Arc<State>>,
    /// How many older states were dropped.
    states_gone: usize,
    /// The newest output.
    output: VecDeque<Bytes>,
    output_bytes: usize,
    /// How many older pieces of output were dropped.
    output_gone: usize,
    /// Notified after every change of the fields above.
    changed: watch::Sender<()>,
    /// Cancelled once the execution has ended.
    over: CancellationToken,
}

/// One update for a watcher.
#[derive(Debug, Clone)]
pub enum Update {
    /// Its new state.
    State(Arc<State>),
    /// A piece of the app's output.
    Output(Bytes),
}

impl Live {
    pub(super) fn new(identity: Identity, state: Arc<State>) -> Self {
        Self {
            identity,
            inner: Mutex::new(Inner {
                state,
                followed: None,
            }),
        }
    }

    /// Its current state, as it is on disk.
    pub fn state(&self) -> Arc<State> {
        self.inner.lock().state.clone()
    }

    /// A token that is cancelled once the execution has ended, for whatever reason.
    pub fn over(&self) -> CancellationToken {
        self.inner.lock().followed().over.clone()
    }

    /// Shows a state that is now on disk.
    pub(super) fn show(&self, state: Arc<State>) {
        let mut inner = self.inner.lock();
        inner.state = state.clone();
        let Some(followed) = &mut inner.followed else {
            return;
        };
        let ended = state.status.is_terminal();
        if !ended {
            // A new attempt produces its own output.
            followed.output_gone += followed.output.len();
            followed.output.clear();
            followed.output_bytes = 0;
        }
        followed.states.push_back(state);
        if followed.states.len() > KEPT_STATES {
            followed.states.pop_front();
            followed.states_gone += 1;
        }
        let (changed, over) = (followed.changed.clone(), followed.over.clone());
        drop(inner);
        changed.send_replace(());
        if ended {
            over.cancel();
        }
    }

    /// Adds a piece of output for watchers; drops the oldest pieces while more than `keep` bytes
    /// are kept.
    pub fn put_out(&self, piece: Bytes, keep: usize) {
        let mut inner = self.inner.lock();
        let followed = inner.followed();
        followed.output_bytes += piece.len();
        followed.output.push_back(piece);
        while followed.output_bytes > keep && followed.output.len() > 1 {
            if let Some(oldest) = followed.output.pop_front() {
                followed.output_bytes -= oldest.len();
                followed.output_gone += 1;
            }
        }
        let changed = followed.changed.clone();
        drop(inner);
        changed.send_replace(());
    }

    /// A watcher that starts with the current state and the output that is kept.
    pub fn watch(self: &Arc<Self>) -> Watcher {
        let mut inner = self.inner.lock();
        let followed = inner.followed();
        Watcher {
            next_state: followed.states_gone + followed.states.len() - 1,
            next_output: followed.output_gone,
            changed: followed.changed.subscribe(),
            live: self.clone(),
        }
    }
}

impl Inner {
    fn followed(&mut self) -> &mut Followed {
        let state = &self.state;
        self.followed.get_or_insert_with(|| {
            let over = CancellationToken::new();
            if state.status.is_terminal() {
                over.cancel();
            }
            Box::new(Followed {
                states: VecDeque::from([state.clone()]),
                states_gone: 0,
                output: VecDeque::new(),
                output_bytes: 0,
                output_gone: 0,
                changed: watch::Sender::new(()),
                over,
            })
        })
    }
}

/// Follows one execution.
pub struct Watcher {
    live: Arc<Live>,
    changed: watch::Receiver<()>,
    next_state: usize,
    next_output: usize,
}

impl Watcher {
    /// The next update; pending forever after the end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Update {
        loop {
            self.changed.mark_unchanged();
            if let Some(update) = self.take() {
                return update;
            }
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// States come before output, except the end, which comes after it: output belongs to the
    /// attempt that produced it.
    fn take(&mut self) -> Option<Update> {
        let mut inner = self.live.inner.lock();
        let followed = inner.followed();
        self.next_state = self.next_state.max(followed.states_gone);
        self.next_output = self.next_output.max(followed.output_gone);
        let state = followed.states.get(self.next_state - followed.states_gone);
        if let Some(state) = state.filter(|s| !s.status.is_terminal()) {
            self.next_state += 1;
            return Some(Update::State(state.clone()));
        }
        let piece = followed.output.get(self.next_output - followed.output_gone);
        if let Some(piece) = piece {
            self.next_output += 1;
            return Some(Update::Output(piece.clone()));
        }
        let state = state?.clone();
        self.next_state += 1;
        Some(Update::State(state))
    }
}

/// Every unfinished execution.
#[derive(Default)]
pub(super) struct Table {
    inner: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_id: HashMap<ExecutionId, (Arc<Live>, Unended)>,
    by_app: HashMap<AppId, BTreeMap<ExecutionId, Arc<Live>>>,
}

impl Table {
    pub(super) fn get(&self, id: ExecutionId) -> Option<Arc<Live>> {
        let inner = self.inner.read();
        inner.by_id.get(&id).map(|(live, _)| live.clone())
    }

    /// How many executions of an app are unfinished.
    pub(super) fn count(&self, app: &AppId) -> usize {
        self.inner.read().by_app.get(app).map_or(0, BTreeMap::len)
    }

    /// The unfinished executions of an app, oldest first.
    pub(super) fn of_app(&self, app: &AppId) -> Vec<Arc<Live>> {
        let inner = self.inner.read();
        let all = inner.by_app.get(app).into_iter().flat_map(BTreeMap::values);
        all.cloned().collect()
    }

    /// All unfinished executions, in the order of acceptance.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        let inner = self.inner.read();
        let mut all: Vec<_> = inner.by_id.values().map(|(live, _)| live.clone()).collect();
        all.sort_unstable_by_key(|live| live.identity.id);
        all
    }

    /// Adds an execution, which counts in its segment until it is removed.
    pub(super) fn insert(&self, live: Arc<Live>, unended: Unended) {
        let mut inner = self.inner.write();
        let app = inner.by_app.entry(live.identity.app.clone()).or_default();
        app.insert(live.identity.id, live.clone());
        inner.by_id.insert(live.identity.id, (live, unended));
    }

    pub(super) fn remove(&self, live: &Live) {
        let mut inner = self.inner.write();
        inner.by_id.remove(&live.identity.id);
        if let Some(app) = inner.by_app.get_mut(&live.identity.app) {
            app.remove(&live.identity.id);
            if app.is_empty() {
                inner.by_app.remove(&live.identity.app);
            }
        }
    }
}
