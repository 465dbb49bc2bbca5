//! Records what was pulled, so that garbage collection removes nothing else.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Error, Image};
use crate::model::{Failure, Pulled};

/// Resolves once the record is durable.
pub type Written = BoxFuture<'static, Result<(), Failure>>;

/// Stores the records of pulls.
pub trait WritePulls: Send + Sync + 'static {
    /// Records that an image is being pulled, or has been.
    fn put(&self, pulled: Pulled) -> Written;

    /// Records that nothing was pulled by this name.
    fn forget(&self, reference: String) -> Written;
}

/// Records pulls; clones share the store.
#[derive(Clone)]
pub struct PullRecord(Option<Arc<dyn WritePulls>>);

impl std::fmt::Debug for PullRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PullRecord").finish()
    }
}

impl PullRecord {
    /// Records nothing, so that pulled images stay.
    pub fn none() -> Self {
        Self(None)
    }

    /// Records pulls with `write`.
    pub fn new(write: impl WritePulls) -> Self {
        Self(Some(Arc::new(write)))
    }

    /// Records that the pull of an image begins.
    ///
    /// # Errors
    /// When the store refuses the record: without one, the image would never be removed.
    pub(super) async fn begin(&self, reference: &str) -> Result<(), Error> {
        let written = self.write(reference, None).await;
        written.map_err(|failure| Error::Refused {
            call: "pull the image",
            status: 0,
            message: failure.text(true),
        })
    }

    /// Records that the pull has ended, with an image or without. When the store refuses the
    /// record, garbage collection asks the engine later.
    pub(super) async fn end(&self, reference: &str, image: Option<&Image>) {
        let written = match (image, &self.0) {
            (None, Some(write)) => write.forget(reference.to_owned()).await,
            _ => self.write(reference, image).await,
        };
        if let Err(failure) = written {
            tracing::warn!(
                image = reference,
                "A pull could not be recorded: {}",
                failure.text(true)
            );
        }
    }

    async fn write(&self, reference: &str, image: Option<&Image>) -> Result<(), Failure> {
        let Some(write) = &self.0 else { return Ok(()) };
        let digests = image.map(|image| image.digests.as_slice());
        let pulled = Pulled {
            reference: reference.to_owned(),
            id: image.map(|image| image.id.clone()).unwrap_or_default(),
            digest_ref: crate::model::app::digest_ref(reference, digests.unwrap_or_default()),
            at_ms: crate::clock::now_ms(),
        };
        write.put(pulled).await
    }
}
