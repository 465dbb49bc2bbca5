//! Where the credentials for a pull come from; looked up at each pull.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;

use super::Credentials;
use crate::model::{Failure, ImageSource, OrgName, Reason};

type Found = BoxFuture<'static, Result<Credentials, Failure>>;
type Lookup = dyn Fn(OrgName, ImageSource) -> Found + Send + Sync;

/// Finds the credentials that an image's source names; clones share the lookup. The default one has
/// none.
#[derive(Clone, Default)]
pub struct Keychain(Option<Arc<Lookup>>);

impl Keychain {
    /// A keychain that calls `lookup` for sources that name a secret.
    pub fn new(lookup: impl Fn(OrgName, ImageSource) -> Found + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }

    /// The credentials for an organization's source; `None` when it names no secret.
    ///
    /// # Errors
    /// Why the named secret cannot be used.
    pub async fn of(
        &self,
        org: &OrgName,
        source: &ImageSource,
    ) -> Result<Option<Credentials>, Failure> {
        if source.registry_secret_ref.is_empty() {
            return Ok(None);
        }
        match &self.0 {
            Some(lookup) => lookup(org.clone(), source.clone()).await.map(Some),
            None => Err(Failure::new(
                Reason::FailedPrecondition,
                "there are no credentials here",
            )),
        }
    }
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keychain")
    }
}
