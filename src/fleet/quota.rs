//! Apps that are stopped for what their organization takes of the disk.
//!
//! A leaf beside the ledger: whoever looks at the disk says who is to stop, and the driver of each
//! app asks when it decides. A request to a replica that is up never asks.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Deployment, EventKind, Fleet, replica::Phase, state::State};
use crate::model::{AppId, Failure};

/// Why apps may not run.
#[derive(Default)]
pub(super) struct Stopped(Mutex<HashMap<AppId, Failure>>);

impl Stopped {
    /// Why an app may not.
    pub(super) fn of(&self, app: &AppId) -> Option<Failure> {
        self.0.lock().get(app).cloned()
    }
}

impl Fleet {
    /// Stops every replica of an app, those of its tests too, and starts none until
    /// [`Fleet::let_write`]. Who waits for one hears why.
    pub fn stop_writing(&self, app: &AppId, why: &Failure) {
        let stopped = &self.shared.ledger.stopped;
        stopped.0.lock().insert(app.clone(), why.clone());
        for d in self.of(app) {
            d.state.lock().last_failure = Some((why.clone(), SystemTime::now()));
        }
        self.tell(app, EventKind::DiskQuota, &why.text(true));
    }

    /// The app may run again.
    pub fn let_write(&self, app: &AppId) {
        if self.shared.ledger.stopped.0.lock().remove(app).is_some() {
            let text = "its organization takes no more of the disk than it may: it may run again";
            self.tell(app, EventKind::DiskQuota, text);
        }
    }

    /// Writes down what the owner of an app should know of what it takes of the disk.
    pub fn warn_of_disk(&self, app: &AppId, text: &str) {
        self.tell(app, EventKind::Warning, text);
    }

    fn tell(&self, app: &AppId, kind: EventKind, text: &str) {
        for d in self.of(app) {
            d.events().push(kind, None, 0, text);
            d.wake.notify_one();
        }
    }

    fn of(&self, app: &AppId) -> Vec<Arc<Deployment>> {
        let mut all = self.shared.everyone();
        all.retain(|d| d.id() == app);
        all
    }
}

impl State {
    /// Nobody gets a replica, and those that are there go, whatever they are at: requests that an
    /// app answers are how it goes on writing.
    pub(super) fn stop_all(&mut self, why: &Failure, now: Instant) {
        self.queue.fail_all(why);
        if let Some(answer) = self.pending.as_mut().and_then(|p| p.answer.take()) {
            // Whoever asked may have left.
            let _ = answer.send(Err(why.clone()));
        }
        self.abandon_pending();
        for slot in &mut self.slots {
            match slot.phase {
                Phase::Ready | Phase::Paused | Phase::Prepared => {
                    slot.enter(Phase::Draining);
                    slot.drain_until = Some(now);
                }
                Phase::Draining => slot.drain_until = Some(now),
                Phase::Creating | Phase::Starting => slot.cancel.cancel(),
                // Their tasks end soon, and are followed by another look.
                Phase::Pausing | Phase::Resuming | Phase::Preparing => {}
                Phase::Failed | Phase::Stopping => {}
            }
        }
    }
}
