//! The secrets of organizations in the catalog.

use std::{ops::Bound, sync::Arc};

use super::Catalog;
use crate::model::{
    id::OrgName,
    secret::{Sealed, SecretName},
};

impl Catalog {
    /// One secret.
    pub fn secret(&self, org: &OrgName, name: &SecretName) -> Option<&Arc<Sealed>> {
        self.secrets.get(&(org.clone(), name.clone()))
    }

    /// Whether any organization has a secret.
    pub fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Every secret, by organization and name.
    pub fn all_secrets(&self) -> impl Iterator<Item = &Arc<Sealed>> {
        self.secrets.values()
    }

    /// At most `limit` secrets of one organization by name, those after `after`.
    pub fn secrets(
        &self,
        org: &OrgName,
        after: Option<&SecretName>,
        limit: usize,
    ) -> Vec<Arc<Sealed>> {
        let from = match after {
            Some(name) => Bound::Excluded((org.clone(), name.clone())),
            None => Bound::Included((org.clone(), SecretName::lowest())),
        };
        self.secrets
            .range((from, Bound::Unbounded))
            .take_while(|((owner, _), _)| owner == org)
            .take(limit)
            .map(|(_, secret)| secret.clone())
            .collect()
    }
}
