//! A replica beside the published ones, for requests that test a draft or a version.

use std::sync::{Arc, Weak};

use super::{Deployment, Fleet, Shared};
use crate::model::{Failure, Reason, Revision, Standby};

/// A deployment of one replica that no route leads to. Dropping it stops and removes its
/// container.
pub struct TestRun(Arc<Deployment>);

impl TestRun {
    /// The deployment, to send requests to.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.0
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        let why = Failure::new(Reason::AppDeleted, "the test run is over");
        // Its driver removes the container and ends.
        self.0.close(why, false);
    }
}

impl Fleet {
    /// A deployment for one replica of a revision, apart from those that serve. The replica starts
    /// with the first request, counts against the machine's capacity, and has no standby.
    pub fn test_run(&self, mut revision: Revision) -> TestRun {
        revision.scaling.reserved = 0;
        revision.scaling.max = 1;
        // A test run ends for good, so a standby replica would never be used.
        revision.standby = Some(Standby::Absent);
        // Tests must not touch the files that the app keeps.
        revision.files.kept_since = None;
        // After a crash the next run must not adopt its container as one that serves.
        revision.config_hash.push_str("-trial");
        let deployment = Deployment::new(
            self.shared.config.clone(),
            self.shared.capacity.clone(),
            revision,
            true,
            // Not counted as requests to the app.
            Arc::default(),
        );
        deployment.check_starts();
        let mut test_runs = self.shared.test_runs.write();
        test_runs.retain(|run| run.strong_count() > 0);
        test_runs.push(Arc::downgrade(&deployment));
        drop(test_runs);
        (self.spawn)(deployment.clone());
        TestRun(deployment)
    }
}

impl Shared {
    /// Every deployment: the published ones, those whose first version is being readied, and the
    /// test runs whose containers are not gone yet.
    pub(super) fn everyone(&self) -> Vec<Arc<Deployment>> {
        // Both locks at once, so that a deployment that moves from one map to the other is not
        // missed.
        let deployments = self.deployments.read();
        let candidates = self.candidates.read();
        let known = deployments.values().chain(candidates.values());
        let mut all: Vec<_> = known.cloned().collect();
        drop((candidates, deployments));
        all.extend(self.test_runs.read().iter().filter_map(Weak::upgrade));
        all
    }
}
