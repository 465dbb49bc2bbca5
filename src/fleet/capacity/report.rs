//! The words for missing capacity, for callers and owners.

use std::{collections::BTreeMap, time::Duration};

use super::{CapacityRequest, Inner};
use crate::{
    fleet::Fleet,
    model::{
        AppId, Failure, Reason,
        capacity::{Amount, Limits, Verdict},
    },
};

const MEMORY: &str = "IGNITE_MEMORY_BUDGET";
const REPLICAS: &str = "IGNITE_REPLICA_BUDGET";
const MEMORY_PER_ORG: &str = "IGNITE_MEMORY_BUDGET_PER_ORG";
const REPLICAS_PER_ORG: &str = "IGNITE_REPLICA_BUDGET_PER_ORG";

fn mb(bytes: u64) -> u64 {
    bytes >> 20
}

/// The failure of a request for capacity: names the apps of the requester's own organization that
/// hold some, and counts the replicas of others.
pub(super) fn no_room(
    inner: &Inner,
    limits: Limits,
    request: CapacityRequest<'_>,
    verdict: Verdict,
) -> Failure {
    let org = &request.app.org;
    let (wanted, has, all) = (mb(request.bytes), inner.held.of(org), inner.held.total);
    let what = match verdict {
        Verdict::OverShare(Amount { memory: 1.., .. }) => format!(
            "{wanted} MB of memory are wanted, and organization {org} has {} of the {} MB that one organization may have ({MEMORY_PER_ORG}); try again later, stop another of its apps or lower its memory_mb or reserved_capacity, or raise the setting",
            mb(has.memory),
            mb(limits.org.memory)
        ),
        Verdict::OverShare(_) => format!(
            "organization {org} runs {} replicas and one organization may run {} ({REPLICAS_PER_ORG}); try again later, stop another of its apps or lower its reserved_capacity, or raise the setting",
            has.replicas, limits.org.replicas
        ),
        Verdict::Short(Amount { memory: 1.., .. }) => format!(
            "{wanted} MB of memory are wanted and {} of {} MB are taken ({MEMORY}); try again later, or free some memory",
            mb(all.memory),
            mb(limits.machine.memory)
        ),
        Verdict::Short(_) => format!(
            "{} replicas run already ({REPLICAS}); try again later, or stop one",
            all.replicas
        ),
        Verdict::Kept | Verdict::Granted => format!(
            "{wanted} MB of memory are wanted, organization {org} has {}, and the {} MB that are free ({MEMORY}) are kept for an app that goes before: its organization has less, or it has waited longer; try again later",
            mb(has.memory),
            mb(limits.machine.memory.saturating_sub(all.memory))
        ),
    };
    let mut apps: BTreeMap<&AppId, (u32, u64)> = BTreeMap::new();
    for e in inner.entries.values().filter(|e| e.bytes > 0) {
        let of = apps.entry(&e.app).or_default();
        *of = (of.0 + 1, of.1 + e.bytes);
    }
    let (own, others): (Vec<_>, Vec<_>) = apps.into_iter().partition(|(id, _)| id.org == *org);
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
        format!(
            "there is no capacity for another replica of app {} on this machine: {what}",
            request.app
        ),
    )
    .with_detail(format!("the capacity is held by: {}", holders.join(", ")))
    .with_retry_after(Duration::from_secs(1))
}

impl Fleet {
    /// Why a replica of an app, or all its reserved ones together, can never fit into the share
    /// of one organization here; `None` as far as that is not known yet.
    pub fn never_fits(&self, reserved: u32, memory_mb: u32) -> Option<String> {
        let capacity = &self.shared.capacity;
        let limits = capacity.limits(&capacity.inner.lock());
        never_fits(limits, reserved, memory_mb)
    }
}

pub(super) fn never_fits(limits: Limits, reserved: u32, memory_mb: u32) -> Option<String> {
    let (memory_mb, reserved) = (u64::from(memory_mb), u64::from(reserved));
    let least = |org: u64, per_org, machine: u64, all| {
        if org < machine {
            (org, per_org)
        } else {
            (machine, all)
        }
    };
    let (bytes, memory) = least(
        limits.org.memory,
        MEMORY_PER_ORG,
        limits.machine.memory,
        MEMORY,
    );
    let (most_replicas, replicas) = least(
        limits.org.replicas,
        REPLICAS_PER_ORG,
        limits.machine.replicas,
        REPLICAS,
    );
    let most = mb(bytes);
    if memory_mb > most {
        return Some(format!(
            "a replica of {memory_mb} MB of memory can never start: one organization may have {most} MB here ({memory}); lower memory_mb, or raise the setting"
        ));
    }
    if reserved * memory_mb > most {
        return Some(format!(
            "reserved_capacity {reserved} with {memory_mb} MB each is {} MB of memory and one organization may have {most} MB here ({memory}), so some of them never start; reserve fewer, lower memory_mb, or raise the setting",
            reserved * memory_mb
        ));
    }
    (reserved > most_replicas).then(|| {
        format!(
            "reserved_capacity is {reserved} and one organization may run {most_replicas} replicas here ({replicas}), so some of them never start; reserve fewer, or raise the setting"
        )
    })
}
