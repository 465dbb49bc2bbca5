//! Admission to the build queue, which is bounded and shared as `model::fair` says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::build::{Build, Config, State};
use crate::model::{Failure, OrgName, Reason, fair};

/// When a refused caller may try again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Admits one more build of an organization to the known ones, in their order. In a full queue it
/// displaces the newest waiting build of the organization that has most. The caller prevents
/// concurrent admissions and starts.
///
/// # Errors
/// BUILD_QUEUE_FULL.
pub(super) fn admit(
    under_way: &[Arc<Build>],
    config: &Config,
    org: &OrgName,
) -> Result<(), Failure> {
    let there = || under_way.iter().filter(|b| !b.is_displaced());
    let most = config.per_org + config.queue_per_org;
    if there().filter(|b| b.app.org == *org).count() >= most {
        return Err(full(format!(
            "{most} builds of {org} run or wait already; try again when some have ended, or raise IGNITE_BUILD_QUEUE_MAX_PER_ORG"
        )));
    }
    let most = config.concurrency + config.queue_max;
    if there().count() < most {
        return Ok(());
    }
    let waiting = || there().filter(|b| matches!(*b.state().borrow(), State::Waiting));
    let mut by_org: BTreeMap<OrgName, usize> = BTreeMap::new();
    for build in waiting() {
        *by_org.entry(build.app.org.clone()).or_default() += 1;
    }
    let from = fair::displaced(&by_org, org);
    let newest = waiting().rfind(|b| Some(&b.app.org) == from);
    match newest {
        Some(newest) => {
            newest.displace();
            Ok(())
        }
        None => Err(full(format!(
            "{most} builds run or wait already, and no organization has more of those that wait than {org} would; try again when some have ended, or raise IGNITE_BUILD_QUEUE_MAX"
        ))),
    }
}

/// The failure of a build that another one displaced.
pub(super) fn displaced(config: &Config) -> Failure {
    full(format!(
        "the queue of {} builds (IGNITE_BUILD_QUEUE_MAX) was full, and this one, the newest of the organization with most in it, made room for one of an organization with fewer; compile again when some have ended",
        config.queue_max
    ))
}

fn full(message: String) -> Failure {
    Failure::new(Reason::BuildQueueFull, message).with_retry_after(TRY_AGAIN)
}
