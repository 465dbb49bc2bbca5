//! Images that `ignite` makes itself, imported where the engine lacks them.

use std::{io, time::Duration};

use bollard::{body_try_stream, query_parameters::CreateImageOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::{Error, client::Client};

/// An image made here.
pub(super) struct OwnImage {
    /// Its repository on the engine.
    pub(super) repository: &'static str,
    /// Its tag: a digest of its content.
    pub(super) tag: String,
    /// What the engine is asked to do for it, as a verb.
    pub(super) call: &'static str,
}

impl OwnImage {
    /// The name by which the engine knows it.
    pub(super) fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    /// Imports the `archive` of its files within `limit` unless the engine has the image; returns
    /// whether it was imported.
    ///
    /// # Errors
    /// The engine's, or that of reading the archive.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        limit: Duration,
        archive: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    ) -> Result<bool, Error> {
        let reference = self.reference();
        let known = client
            .run("find an image", |docker| async move {
                docker.inspect_image(&reference).await
            })
            .await;
        if known.is_ok() {
            return Ok(false);
        }
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            // Podman 4 takes no notice of a tag that is given apart.
            repo: Some(self.reference()),
            ..CreateImageOptions::default()
        };
        let body = body_try_stream(archive);
        client
            .run_within(self.call, limit, |docker| async move {
                let mut progress = docker.create_image(Some(options), Some(body), None);
                while let Some(step) = progress.next().await {
                    step?;
                }
                Ok(())
            })
            .await?;
        Ok(true)
    }
}
