//! The files of an image, read through a helper container: the entry at a path, and its size.

use std::io::Read as _;

use bollard::{
    container::PathStatResponse,
    query_parameters::{ContainerArchiveInfoOptions, DownloadFromContainerOptions},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{CALL, Client, Config, ContainerId, Error, count::Counter, guard, has_status};
use crate::engine::docker::client::or_gone;

/// Most bytes of an image's `/etc/passwd` that are read.
const PASSWD_BYTES: usize = 1 << 20;
/// Most directories in the path of a home; each is one call to the engine.
const MAX_DEPTH: usize = 32;
/// Most concurrent calls to the engine.
const AT_ONCE: usize = 8;
/// Bits of a mode as in Go.
const DIRECTORY: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// A helper container of an image.
pub(super) struct ImageFiles<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) image: &'a str,
    pub(super) id: &'a ContainerId,
}

/// The entry at a path.
enum Found {
    Nothing,
    Directory,
    File,
    /// A link, with its final target.
    Link(String),
}

impl ImageFiles<'_> {
    /// The text of a file; `None` when there is none.
    pub(super) async fn read_file(&self, path: &str) -> Result<Option<String>, Error> {
        let mut archive = Vec::new();
        let read = self
            .read(path, |part| {
                archive.extend_from_slice(part);
                archive.len() <= PASSWD_BYTES
            })
            .await?;
        Ok(read.then(|| first_file(&archive)))
    }

    /// The directory at a path, without links in it: `Some(None)` when nothing is there, `None`
    /// when it is a file.
    pub(super) async fn directory(&self, path: &str) -> Result<Option<Option<String>>, Error> {
        // Most images have none, which one call shows.
        if let Found::Nothing = self.stat(path).await? {
            return Ok(Some(None));
        }
        let mut real = String::new();
        for (depth, part) in path.split('/').skip(1).enumerate() {
            let mut next = format!("{real}/{part}");
            let mut found = self.stat(&next).await?;
            if let Found::Link(target) = found {
                found = self.stat(&target).await?;
                next = target;
            }
            match found {
                Found::Directory if depth < MAX_DEPTH => real = next,
                Found::Nothing => return Ok(Some(None)),
                Found::Directory | Found::File | Found::Link(_) => return Ok(None),
            }
        }
        Ok(Some(Some(real)))
    }

    /// Whether the content of a directory is within the bounds of what is copied.
    pub(super) async fn is_small(&self, directory: &str) -> Result<bool, Error> {
        let mut counter = Counter::new(self.config.home_copy_files, self.config.home_copy_bytes);
        self.read(directory, |part| counter.push(part)).await?;
        Ok(counter.is_within())
    }

    /// The paths outside a home that can be mounted read-only; see [`guard`].
    pub(super) async fn around(&self, home: &str) -> Result<Vec<String>, Error> {
        let image = self.image;
        let (described, history) = self
            .client
            .run(CALL, |docker| async move {
                tokio::try_join!(docker.inspect_image(image), docker.image_history(image))
            })
            .await?;
        let config = described.config.unwrap_or_default();
        stream::iter(guard::candidates(home, &config, &history))
            .map(|path| async move {
                // The target of a link has its own path.
                let is_there = match self.stat(&path).await? {
                    Found::Directory | Found::File => Some(path),
                    Found::Nothing | Found::Link(_) => None,
                };
                Ok(is_there)
            })
            .buffered(AT_ONCE)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await
    }

    async fn stat(&self, path: &str) -> Result<Found, Error> {
        let options = ContainerArchiveInfoOptions {
            path: path.to_owned(),
        };
        let id = self.id;
        let found = self
            .client
            .run(CALL, |docker| async move {
                docker
                    .get_container_archive_info(&id.0, Some(options))
                    .await
            })
            .await;
        Ok(match self.there(found).await? {
            None => Found::Nothing,
            Some(PathStatResponse {
                file_mode,
                link_target,
                ..
            }) => match file_mode {
                mode if mode & LINK != 0 => Found::Link(link_target),
                mode if mode & DIRECTORY != 0 => Found::Directory,
                _ => Found::File,
            },
        })
    }

    /// Reads the archive of a path for as long as `take` wants more; returns whether it exists.
    async fn read(&self, path: &str, mut take: impl FnMut(&[u8]) -> bool) -> Result<bool, Error> {
        let options = DownloadFromContainerOptions {
            path: path.to_owned(),
        };
        let id = self.id;
        let read = self
            .client
            .run(CALL, |docker| async move {
                let mut parts = docker.download_from_container(&id.0, Some(options));
                while let Some(part) = parts.next().await {
                    if !take(&part?) {
                        break;
                    }
                }
                Ok(())
            })
            .await;
        Ok(self.there(read).await?.is_some())
    }

    /// Turns an error into `None` when the path is missing, and not the container.
    async fn there<T>(&self, found: Result<T, Error>) -> Result<Option<T>, Error> {
        match found {
            Ok(value) => Ok(Some(value)),
            Err(err) if has_status(&err, 404) => {
                let id = self.id;
                let container = self
                    .client
                    .run(CALL, |docker| async move {
                        docker.inspect_container(&id.0, None).await
                    })
                    .await;
                or_gone(container, id).map(|_| None)
            }
            // Nothing can exist below a file.
            Err(Error::Refused { message, .. }) if message.contains("not a directory") => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// The text of the first file in a tar archive, as far as it can be read.
fn first_file(archive: &[u8]) -> String {
    let mut text = Vec::new();
    let mut archive = tar::Archive::new(archive);
    let file = archive.entries().ok().and_then(|mut all| all.next());
    if let Some(Ok(mut file)) = file {
        // A link, or a truncated file, counts as what was read of it.
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
