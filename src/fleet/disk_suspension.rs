//! Stopping apps whose organization uses too much of the disk.

use std::sync::Arc;

use super::{Deployment, EventKind, Fleet};
use crate::model::{AppId, Failure};

impl Fleet {
    /// Stops every replica of an app, including its test runs, and starts none until
    /// [`Fleet::let_write`]. Waiting requests fail with `why`.
    pub fn stop_writing(&self, app: &AppId, why: &Failure) {
        self.shared.capacity.suspended.suspend(app, why.clone());
        for d in self.of(app) {
            d.state.lock().note_failure(why.clone());
        }
        self.record(app, EventKind::DiskQuota, &why.text(true));
    }

    /// The app may run again.
    pub fn let_write(&self, app: &AppId) {
        if self.shared.capacity.suspended.resume(app) {
            let text = "its organization takes no more of the disk than it may: it may run again";
            self.record(app, EventKind::DiskQuota, text);
        }
    }

    /// Records a warning for the app's owner about its organization's use of the disk.
    pub fn warn_of_disk(&self, app: &AppId, text: &str) {
        self.record(app, EventKind::Warning, text);
    }

    fn record(&self, app: &AppId, kind: EventKind, text: &str) {
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
