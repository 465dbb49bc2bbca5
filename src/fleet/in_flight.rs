//! How many requests an app and its organization have under way, held ones included.
//!
//! Counted beside the leases, since an organization's leases are spread over apps with a lock each;
//! two atomic counters are enough to refuse a request.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::Config;
use crate::model::{AppId, Failure, OrgName, Reason};

/// Retry-After of a refused request.
const COME_BACK: Duration = Duration::from_secs(1);

/// The requests of one app, and of its organization.
#[derive(Debug)]
pub(super) struct InFlight {
    app: AtomicUsize,
    org: Arc<AtomicUsize>,
}

/// The counts of the organizations that have apps.
#[derive(Debug, Default)]
pub(super) struct InFlightByOrg(Mutex<HashMap<OrgName, Weak<AtomicUsize>>>);

impl InFlightByOrg {
    /// The counts of a new app of an organization.
    pub(super) fn counts(&self, org: &OrgName) -> Arc<InFlight> {
        let mut orgs = self.0.lock();
        let known = orgs.get(org).and_then(Weak::upgrade);
        let org = known.unwrap_or_else(|| {
            orgs.retain(|_, count| count.strong_count() > 0);
            let fresh = Arc::default();
            orgs.insert(org.clone(), Arc::downgrade(&fresh));
            fresh
        });
        Arc::new(InFlight {
            app: AtomicUsize::new(0),
            org,
        })
    }
}

/// Permits one request to be under way; it counts for its app and its organization until dropped.
pub struct InFlightPermit(Arc<InFlight>);

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.0.app.fetch_sub(1, Relaxed);
        self.0.org.fetch_sub(1, Relaxed);
    }
}

impl InFlight {
    /// Permits one more request of the app.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS, which names the bound: the app's or its organization's.
    pub(super) fn acquire(
        self: &Arc<Self>,
        app: &AppId,
        config: &Config,
    ) -> Result<InFlightPermit, Failure> {
        let of_app = self.app.fetch_add(1, Relaxed);
        let of_org = self.org.fetch_add(1, Relaxed);
        // Both counts are taken already, so that dropping the permit returns them on either way
        // out.
        let permit = InFlightPermit(self.clone());
        let full = |who: String, most: usize, setting: &str| {
            let message =
                format!("{who} has {most} requests under way already ({setting}); try again later");
            Err(Failure::new(Reason::TooManyRequests, message).with_retry_after(COME_BACK))
        };
        let (app_most, org_most) = (config.max_in_flight_per_app, config.max_in_flight_per_org);
        if of_app >= app_most {
            return full(
                format!("app {app}"),
                app_most,
                "IGNITE_MAX_IN_FLIGHT_PER_APP",
            );
        }
        if of_org >= org_most {
            let who = format!("organization {}", app.org);
            return full(who, org_most, "IGNITE_MAX_IN_FLIGHT_PER_ORG");
        }
        Ok(permit)
    }
}
