//! Images of builds that nothing names any more. What names them is for the caller to say.

use std::collections::HashSet;

use super::Builder;

impl Builder {
    /// Removes, in the background, the names of images that were built here and that are not in
    /// `named`, which is asked once what is there is known. What a build under way has just made
    /// stays: its record is still to come.
    pub fn sweep(&self, named: impl FnOnce() -> HashSet<String> + Send + 'static) {
        let builder = self.clone();
        self.in_the_background(async move { builder.sweep_once(named).await });
    }

    async fn sweep_once(&self, named: impl FnOnce() -> HashSet<String>) {
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
        let named = named();
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
