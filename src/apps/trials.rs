//! A draft or a version made ready to be tested.

use super::{
    Apps, facts,
    versions::{draft, find, restore},
};
use crate::{
    fleet::Trial,
    model::{AppId, Failure, Revision, Version},
};

impl Apps {
    /// A trial of a version with its own settings, or of the draft with the app's present ones.
    ///
    /// # Errors
    /// NOT_FOUND for the app, the draft or the version; why its image cannot be had.
    pub async fn trial(&self, id: &AppId, number: Option<u32>) -> Result<Trial, Failure> {
        let s = &self.shared;
        let app = self.get(id)?;
        let revision = match number {
            Some(number) => {
                let version = find(&app, number)?;
                let source = version.pull_source();
                let pinned = s.images.pinned(&id.org, &source, &version.image_id);
                s.unless_stopping(pinned).await?;
                Revision::new(&restore(&app, &version), &version, s.defaults)
            }
            None => {
                let draft = draft(&app)?;
                let image = s.images.resolve(&id.org, &draft.source);
                let image = s.unless_stopping(image).await?;
                let facts = facts(&image, &draft.source);
                let version = Version {
                    number: 0,
                    source: draft.source.clone(),
                    image_id: image.id,
                    facts,
                    created_at_ms: draft.created_at_ms,
                    settings: app.settings.clone(),
                };
                Revision::new(&app, &version, s.defaults)
            }
        };
        Ok(s.fleet.trial(revision))
    }
}
