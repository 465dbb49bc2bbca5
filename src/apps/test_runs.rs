//! Prepares a draft or a version for a test run.

use super::{
    Apps, facts,
    versions::{draft, find, restore},
};
use crate::{
    fleet::TestRun,
    model::{AppId, CodeSource, Failure, Reason, Revision, Version},
};

impl Apps {
    /// A test run of a version under the settings of its publish, or of the draft under the app's
    /// current ones; a draft without an image is built first.
    ///
    /// # Errors
    /// NOT_FOUND for the app, the draft or the version; why its image cannot be pulled or built.
    pub async fn test_run(&self, id: &AppId, number: Option<u32>) -> Result<TestRun, Failure> {
        let s = &self.shared;
        let app = self.get(id)?;
        let revision = match number {
            Some(number) => {
                let version = find(&app, number)?;
                let pinned = s.images.pinned(&id.org, &version);
                s.unless_stopping(pinned).await?;
                Revision::new(&restore(&app, &version), &version, s.defaults)
            }
            None => {
                let draft = draft(&app)?;
                let (image_ref, image) = match &draft.source {
                    CodeSource::Prebuilt(source) => {
                        let image = s.images.resolve(&id.org, source);
                        (source.image_ref.clone(), s.unless_stopping(image).await?)
                    }
                    _ => match s.unless_stopping(s.built(id, draft)).await? {
                        Some(built) => built,
                        None => {
                            return Err(Failure::new(
                                Reason::Internal,
                                "the draft has no image after its build",
                            ));
                        }
                    },
                };
                let facts = facts(&image, &image_ref);
                let version = Version {
                    number: 0,
                    source: draft.source.clone(),
                    image_ref,
                    image_id: image.id,
                    facts,
                    overlay: None,
                    created_at_ms: draft.created_at_ms,
                    settings: app.settings.clone(),
                };
                Revision::new(&app, &version, s.defaults)
            }
        };
        Ok(s.fleet.test_run(revision))
    }
}
