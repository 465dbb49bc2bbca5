//! Images of builds that no draft and no version names any more.

use std::collections::HashSet;

use super::Builder;
use crate::store::Store;

impl Builder {
    /// Removes, in the background, the names of images that were built here and that nothing
    /// names. What a build under way has just made stays: its record is still to come.
    pub fn sweep(&self, store: &Store) {
        let (builder, store) = (self.clone(), store.clone());
        self.in_the_background(async move { builder.sweep_once(&store).await });
    }

    async fn sweep_once(&self, store: &Store) {
        let engine = &self.shared.engine;
        let built = match engine.built().await {
            Ok(built) => built,
            Err(error) => {
                tracing::debug!(%error, "Images of no use stay until the next build ends");
                return;
            }
        };
        // In this order: a build that ends meanwhile is under way here or recorded there.
        let busy = self.busy();
        let named: HashSet<String> = {
            let catalog = store.catalog();
            let of_app = |app: &std::sync::Arc<crate::model::App>| {
                let draft = app.draft.iter().filter_map(|d| d.built.as_ref());
                let draft = draft.filter_map(|b| Some(b.outcome.as_ref().ok()?.image_ref.clone()));
                let versions = app.versions.iter().map(|v| v.image_ref.clone());
                draft.chain(versions).collect::<Vec<_>>()
            };
            catalog.iter().flat_map(of_app).collect()
        };
        for tag in built {
            if !busy.contains(&tag)
                && !named.contains(&tag)
                && let Err(error) = engine.remove_image(&tag).await
            {
                tracing::debug!(%error, image = tag, "An image of no use stays for now");
            }
        }
    }

    /// Removes every image that was built here.
    pub async fn remove_all_images(&self) {
        if let Err(error) = self.shared.engine.remove_all().await {
            tracing::warn!(%error, "Images that were built here stay; `ignite prune` removes them");
        }
    }
}
