//! Images of builds that nothing names any more. What names them is for the caller to say.

use std::collections::HashSet;

use super::{Builder, steps};
use crate::model::AppId;

/// What is known of images when they are swept.
#[derive(Debug, Default)]
pub struct Named {
    /// The apps whose images may go. Those of other apps stay: the store that knows them may be
    /// put back.
    pub apps: HashSet<AppId>,
    /// The images that stay.
    pub images: HashSet<String>,
}

impl Builder {
    /// Removes, in the background, the names of images that were built here for the apps in
    /// `named` and that it does not name. It is asked once what is there is known. What a build
    /// under way has just made stays: its record is still to come.
    pub fn sweep(&self, named: impl FnOnce() -> Named + Send + 'static) {
        let builder = self.clone();
        self.in_the_background(async move { builder.sweep_once(named).await });
    }

    async fn sweep_once(&self, named: impl FnOnce() -> Named) {
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
        let names = named.apps.iter().map(|app| steps::name(&self.shared, app));
        let names: HashSet<_> = names.collect();
        for tag in built {
            let of_these = |tag: &str| tag.rsplit_once(':').is_some_and(|(n, _)| names.contains(n));
            if of_these(&tag)
                && !busy.contains(&tag)
                && !named.images.contains(&tag)
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
