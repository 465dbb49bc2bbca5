//! Where the credentials for a pull come from: asked afresh at each one.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;

use super::Credentials;
use crate::model::{Failure, ImageSource, OrgName, Reason};

type Found = BoxFuture<'static, Result<Credentials, Failure>>;
type Lookup = dyn Fn(OrgName, ImageSource) -> Found + Send + Sync;

/// Finds the credentials that an image's source names; clones share it. The default one knows
/// none.
#[derive(Clone, Default)]
pub struct Keychain(Option<Arc<Lookup>>);

impl Keychain {
    /// A keychain that asks `lookup` for sources that name a secret.
    pub fn new(lookup: impl Fn(OrgName, ImageSource) -> Found + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }

    /// What the organization's source is pulled with; `None` when it names no secret.
    ///
    /// # Errors
    /// Why the secret that it names cannot be used.
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
