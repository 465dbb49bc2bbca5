//! Removes built images that no record names any more; the caller says which are named.

use std::collections::HashSet;

use super::Builder;
use crate::model::AppId;

/// What the caller knows of images when they are swept.
#[derive(Debug, Default)]
pub struct Named {
    /// The apps whose images may be removed. Images of other apps stay: the store that knows those
    /// apps may be restored.
    pub apps: HashSet<AppId>,
    /// The images that stay.
    pub images: HashSet<String>,
}

impl Named {
    /// The images that may be removed; `name` returns the repository of an app's images.
    fn of_no_use(&self, built: Vec<String>, name: impl Fn(&AppId) -> String) -> Vec<String> {
        let names: HashSet<_> = self.apps.iter().map(name).collect();
        let may_go = |tag: &String| {
            let name = tag.rsplit_once(':').map(|(name, _)| name);
            name.is_some_and(|name| names.contains(name)) && !self.images.contains(tag)
        };
        built.into_iter().filter(may_go).collect()
    }
}

impl Builder {
    /// Untags, in the background, images that were built here for the apps in `named` and that it
    /// does not name. `named` is called after the images are listed. An image that a running build
    /// has just made stays: its record is still to come.
    pub fn sweep(&self, named: impl FnOnce() -> Named + Send + 'static) {
        let builder = self.clone();
        self.spawn_until_stop(async move { builder.sweep_once(named).await });
    }

    async fn sweep_once(&self, named: impl FnOnce() -> Named) {
        let engine = &self.shared.env.engine;
        let built = match engine.built().await {
            Ok(built) => built,
            Err(error) => {
                tracing::debug!(%error, "Unused images stay until the next build ends");
                return;
            }
        };
        // In this order, because a build that ends in between is either still running here or
        // recorded there.
        let busy = self.busy();
        let named = named();
        let name = |app: &AppId| self.shared.env.image_name(app);
        for tag in named.of_no_use(built, name) {
            if !busy.contains(&tag)
                && let Err(error) = engine.remove_image(&tag).await
            {
                tracing::debug!(%error, image = tag, "An unused image stays for now");
            }
        }
    }

    /// Removes every image that was built here.
    pub async fn remove_all_images(&self) {
        if let Err(error) = self.shared.env.engine.remove_all().await {
            tracing::warn!(%error, "Images that were built here stay; `ignite prune` removes them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_apps_that_nobody_knows_stay() {
        let built = ["i/o/a:1", "i/o/a:2", "i/o/ab:1", "i/o/gone:1"];
        let built = || built.map(str::to_owned).to_vec();
        let name = |app: &AppId| format!("i/{}/{}", app.org, app.name);
        let named = Named {
            apps: ["o/a", "o/ab"].map(|a| a.parse().expect("valid")).into(),
            images: ["i/o/a:2".to_owned()].into(),
        };
        assert_eq!(named.of_no_use(built(), name), ["i/o/a:1", "i/o/ab:1"]);
        let without_a_store = Named::default();
        assert!(without_a_store.of_no_use(built(), name).is_empty());
    }
}
