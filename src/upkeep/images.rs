//! The images that the platform pulled: kept for the versions that may serve, removed after that.
//!
//! Only what is written down as pulled is looked at, and only by the names that it was pulled by:
//! an image that was here before, or that somebody gave another name, stays. A version whose image
//! is gone is pulled again by its digest when it is needed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    apps::now_ms,
    engine::{Engine, Error, Image, PullRecord, WritePulls, Written},
    model::{Failure, Pulled, app::digest_ref, catalog::Change},
    store::Store,
};

type Found = BoxFuture<'static, Result<Option<Image>, Error>>;
type Untagged = BoxFuture<'static, Result<(), Error>>;

/// Writes pulls down in the store.
pub fn pull_record(store: &Store) -> PullRecord {
    PullRecord::new(InStore(store.clone()))
}

struct InStore(Store);

impl WritePulls for InStore {
    fn put(&self, pulled: Pulled) -> Written {
        let store = self.0.clone();
        Box::pin(async move { put(&store, pulled).await })
    }

    fn forget(&self, reference: String) -> Written {
        let store = self.0.clone();
        Box::pin(async move { commit(&store, vec![Change::DeletePulled(reference)]).await })
    }
}

/// The images in the engine; the engine's type ends here.
pub(super) struct Images {
    find: Box<dyn Fn(String) -> Found + Send + Sync>,
    untag: Box<dyn Fn(String) -> Untagged + Send + Sync>,
}

/// What the versions and drafts of all apps need.
struct Needed {
    ids: HashSet<String>,
    references: HashSet<String>,
}

impl Images {
    pub(super) fn new<E: Engine>(engine: Arc<E>) -> Self {
        let other = engine.clone();
        Self {
            find: Box::new(move |reference| {
                let engine = engine.clone();
                Box::pin(async move { engine.find_image(&reference).await })
            }),
            untag: Box::new(move |reference| {
                let engine = other.clone();
                Box::pin(async move { engine.untag_image(&reference).await })
            }),
        }
    }

    /// Removes what was pulled `keep_for` ago or longer and is neither a draft's nor one of the
    /// `versions` newest of its app, nor active.
    pub(super) async fn look(&self, store: &Store, versions: usize, keep_for: Duration) {
        let (pulled, needed) = {
            let catalog = store.catalog();
            let kept = catalog.iter().flat_map(|app| app.kept_versions(versions));
            let drafts = catalog.iter().filter_map(|app| app.draft.as_ref());
            let needed = Needed {
                ids: kept.map(|v| v.image_id.clone()).collect(),
                references: drafts.map(|d| d.source.image_ref.clone()).collect(),
            };
            let pulled: Vec<Arc<Pulled>> = catalog.pulled().cloned().collect();
            (pulled, needed)
        };
        let now = now_ms();
        for image in pulled {
            let age = u128::try_from(now.saturating_sub(image.at_ms)).unwrap_or(0);
            let is_needed = needed.ids.contains(&image.id) || age < keep_for.as_millis();
            let outcome = match (image.id.is_empty(), is_needed) {
                // Also while it is being pulled: then there is nothing to be found yet.
                (true, _) => self.complete(store, &image, age).await,
                (false, true) => Ok(()),
                (false, false) => self.remove(store, &image, &needed).await,
            };
            if let Err(why) = outcome {
                tracing::debug!(image = image.reference, why, "A pulled image stays for now");
            }
        }
    }

    /// A pull of which nobody wrote down the end: it is under way, it failed, or the platform
    /// died in the middle.
    async fn complete(&self, store: &Store, pulled: &Pulled, age: u128) -> Result<(), String> {
        let found = (self.find)(pulled.reference.clone()).await;
        let written = match found.map_err(|e| e.to_string())? {
            Some(image) => {
                let digest_ref = digest_ref(&pulled.reference, &image.digests);
                let complete = Pulled {
                    id: image.id,
                    digest_ref,
                    ..pulled.clone()
                };
                put(store, complete).await
            }
            None if age > LONGEST_PULL.as_millis() => {
                let gone = Change::DeletePulled(pulled.reference.clone());
                commit(store, vec![gone]).await
            }
            None => return Ok(()),
        };
        written.map_err(|f| f.text(true))
    }

    async fn remove(&self, store: &Store, pulled: &Pulled, needed: &Needed) -> Result<(), String> {
        for name in [&pulled.reference, &pulled.digest_ref] {
            if name.is_empty() {
                continue;
            }
            let found = (self.find)(name.clone()).await;
            let found = found.map_err(|e| e.to_string())?;
            // A name that stands for another image by now is not ours any more.
            if found.is_some_and(|image| image.id == pulled.id) {
                if needed.references.contains(name) {
                    return Ok(());
                }
                let untagged = (self.untag)(name.clone()).await;
                untagged.map_err(|e| e.to_string())?;
                tracing::info!(image = name, "Removed an image that no version needs");
            }
        }
        let gone = Change::DeletePulled(pulled.key().to_owned());
        let written = commit(store, vec![gone]).await;
        written.map_err(|f| f.text(true))
    }
}

/// After this a pull has ended, one way or the other: longer than the engine's client waits.
const LONGEST_PULL: Duration = Duration::from_secs(2 * 60 * 60);

/// Writes a pull down; what has been pulled takes the place of what was being pulled.
async fn put(store: &Store, pulled: Pulled) -> Result<(), Failure> {
    let begun = Change::DeletePulled(pulled.reference.clone());
    commit(store, vec![begun, Change::PutPulled(Arc::new(pulled))]).await
}

async fn commit(store: &Store, changes: Vec<Change>) -> Result<(), Failure> {
    store.commit(move |_| Ok((changes, ()))).await
}
