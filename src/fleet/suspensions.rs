//! Apps that may not run, and why.
//!
//! A leaf, kept beside the capacity of the machine: the watcher of the disk suspends an app, and
//! the app's state checks for it when it decides what to start. A request to a replica that is up
//! never checks.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::model::{AppId, Failure};

/// The suspended apps, with the reasons.
#[derive(Default)]
pub(super) struct Suspensions(Mutex<HashMap<AppId, Failure>>);

impl Suspensions {
    /// Why an app may not run; `None` if it may.
    pub(super) fn of(&self, app: &AppId) -> Option<Failure> {
        self.0.lock().get(app).cloned()
    }

    /// Suspends an app.
    pub(super) fn suspend(&self, app: &AppId, why: Failure) {
        self.0.lock().insert(app.clone(), why);
    }

    /// Lets an app run again; false if it was not suspended.
    pub(super) fn resume(&self, app: &AppId) -> bool {
        self.0.lock().remove(app).is_some()
    }
}
