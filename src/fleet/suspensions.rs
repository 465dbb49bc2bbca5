//! Apps that may not run, and why.
//!
//! A leaf, kept beside the capacity of the machine: whoever watches the disk suspends an app, and the app's state asks
//! when it decides what to start. A request to a replica that is up never asks.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::model::{AppId, Failure};

/// Why apps may not run.
#[derive(Default)]
pub(super) struct Suspensions(Mutex<HashMap<AppId, Failure>>);

impl Suspensions {
    /// Why an app may not run; `None` when it may.
    pub(super) fn of(&self, app: &AppId) -> Option<Failure> {
        self.0.lock().get(app).cloned()
    }

    /// Forbids an app to run.
    pub(super) fn suspend(&self, app: &AppId, why: Failure) {
        self.0.lock().insert(app.clone(), why);
    }

    /// Lets an app run again; false when it was not suspended.
    pub(super) fn resume(&self, app: &AppId) -> bool {
        self.0.lock().remove(app).is_some()
    }
}
