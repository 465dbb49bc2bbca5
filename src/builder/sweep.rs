//! Images of builds that nothing names any more. What names them is for the caller to say.

use std::collections::HashSet;

use super::Builder;
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

impl Named {
    /// Those of the images that may go; `name` says what all images of an app are called.
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
    /// Removes, in the background, the names of images that were built here for the apps in
    /// `named` and that it does not name. It is asked once what is there is known. What a build
    /// under way has just made stays: its record is still to come.
    pub fn sweep(&self, named: impl FnOnce() -> Named + Send + 'static) {
        let builder = self.clone();
        self.spawn_until_stop(async move { builder.sweep_once(named).await });
    }

    async fn sweep_once(&self, named: impl FnOnce() -> Named) {
        let engine = &self.shared.env.engine;
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
        let name = |app: &AppId| self.shared.env.image_name(app);
        for tag in named.of_no_use(built, name) {
            if !busy.contains(&tag)
                && let Err(error) = engine.remove_image(&tag).await
            {
                tracing::debug!(%error, image = tag, "An image of no use stays for now");
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
