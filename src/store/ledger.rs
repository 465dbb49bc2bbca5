//! How many bytes each organization keeps in the store, and the bound on it.
//!
//! Both writers, the catalog's and the executions' committer, enter bytes before they are written
//! and take them out again when the write fails; deleted bytes are taken out once they are off the
//! disk. So two writers that add at the same time never exceed the bound together. The numbers are
//! only in memory: each start counts anew (`model::stored` for the catalog, `executions::stored`
//! for the rest).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::model::{Failure, OrgName, Reason, catalog::Catalog, stored};

/// The ledger; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The most bytes of one organization; `None` sets no bound.
    most: Option<u64>,
    /// Only organizations that keep something.
    by_org: Mutex<HashMap<OrgName, u64>>,
}

impl Ledger {
    /// An empty ledger with a bound for each organization, in bytes; `None` sets none.
    pub fn new(most: Option<u64>) -> Self {
        Self {
            inner: Arc::new(Inner {
                most,
                by_org: Mutex::default(),
            }),
        }
    }

    /// The bytes that an organization keeps.
    pub fn of(&self, org: &OrgName) -> u64 {
        self.inner.by_org.lock().get(org).copied().unwrap_or(0)
    }

    /// The bytes that each organization keeps.
    pub fn all(&self) -> BTreeMap<OrgName, u64> {
        let by_org = self.inner.by_org.lock();
        by_org
            .iter()
            .map(|(org, bytes)| (org.clone(), *bytes))
            .collect()
    }

    /// Checks whether this many more bytes fit the organization's bound.
    ///
    /// # Errors
    /// STORE_QUOTA, with figures for the owner.
    pub fn check(&self, org: &OrgName, bytes: u64) -> Result<(), Failure> {
        match self.inner.most {
            Some(most) => room(org, self.of(org), bytes, most),
            None => Ok(()),
        }
    }

    /// Enters bytes that are about to be written, if they fit.
    ///
    /// # Errors
    /// As [`Ledger::check`]; then nothing is entered.
    pub(super) fn add_within(&self, org: &OrgName, bytes: u64) -> Result<(), Failure> {
        let mut by_org = self.inner.by_org.lock();
        let has = by_org.get(org).copied().unwrap_or(0);
        if let Some(most) = self.inner.most {
            room(org, has, bytes, most)?;
        }
        by_org.insert(org.clone(), has.saturating_add(bytes));
        Ok(())
    }

    /// Enters bytes that are written even above the bound: an accepted execution ends with its
    /// result.
    pub(super) fn add(&self, org: &OrgName, bytes: u64) {
        if bytes > 0 {
            let mut by_org = self.inner.by_org.lock();
            let has = by_org.entry(org.clone()).or_default();
            *has = has.saturating_add(bytes);
        }
    }

    /// Takes out bytes that were deleted, or entered and not written.
    pub(super) fn remove(&self, org: &OrgName, bytes: u64) {
        let mut by_org = self.inner.by_org.lock();
        if let Some(has) = by_org.get_mut(org) {
            *has = has.saturating_sub(bytes);
            if *has == 0 {
                by_org.remove(org);
            }
        }
    }

    /// Enters the bytes of a catalog.
    pub(super) fn add_catalog(&self, catalog: &Catalog) {
        for app in catalog.iter() {
            self.add(&app.id.org, stored::of_app(app));
        }
        for secret in catalog.all_secrets() {
            self.add(&secret.org, stored::of_secret(secret));
        }
    }
}

fn room(org: &OrgName, has: u64, more: u64, most: u64) -> Result<(), Failure> {
    if more == 0 || has.saturating_add(more) <= most {
        return Ok(());
    }
    Err(Failure::new(
        Reason::StoreQuota,
        format!("organization {org} keeps as much in the store as it may (IGNITE_STORED_BYTES_PER_ORG); delete apps or secrets that are not needed, wait until old executions are dropped (IGNITE_EXECUTION_RETENTION_SECS), or ask the operator for more"),
    )
    .with_detail(format!(
        "it has {has} of {most} bytes, and this would take {more} more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_for_each_and_the_figures_are_the_owners() {
        let ledger = Ledger::new(Some(100));
        let [a, b]: [OrgName; 2] = ["a", "b"].map(|org| org.parse().expect("valid"));
        assert!(ledger.add_within(&a, 100).is_ok());
        let full = ledger.add_within(&a, 1).expect_err("full");
        assert_eq!(full.reason, Reason::StoreQuota);
        assert!(full.message.contains("IGNITE_STORED_BYTES_PER_ORG"));
        assert!(full.text(true).contains("100 of 100 bytes") && !full.message.contains("100"));
        // An accepted execution may end, and whatever adds nothing is always allowed.
        ledger.add(&a, 50);
        assert!(ledger.check(&a, 0).is_ok() && ledger.check(&b, 100).is_ok());
        ledger.remove(&a, 51);
        assert_eq!(ledger.of(&a), 99);
        assert!(ledger.add_within(&a, 2).is_err() && ledger.add_within(&a, 1).is_ok());
        ledger.remove(&a, 100);
        assert!(ledger.inner.by_org.lock().is_empty());
    }
}
