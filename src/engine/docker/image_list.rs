//! Lists of images.

use std::time::Duration;

use bollard::{models::ImageSummary, query_parameters::ListImagesOptions};

use super::{Error, client::Client};
use crate::backoff::Backoff;

/// How often a list may fail since an image is being removed.
const RACES: u32 = 6;
/// The wait before it is asked for again; it doubles up to [`MOST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
const MOST_WAIT: Duration = Duration::from_millis(500);

/// The images that match, with their names as they were given.
pub(super) async fn list(
    client: &Client,
    filters: &[(&str, String)],
) -> Result<Vec<ImageSummary>, Error> {
    let filters = filters
        .iter()
        .map(|(name, value)| ((*name).to_owned(), vec![value.clone()]));
    let options = ListImagesOptions {
        filters: Some(filters.collect()),
        ..ListImagesOptions::default()
    };
    let mut backoff = Backoff::new(FIRST_WAIT, MOST_WAIT);
    let mut races = 0;
    let mut images = loop {
        let options = options.clone();
        let listed = client
            .run("list images", |docker| async move {
                docker.list_images(Some(options)).await
            })
            .await;
        match listed {
            Err(err) if races < RACES && is_of_removal(&err) => races += 1,
            listed => break listed?,
        }
        tokio::time::sleep(backoff.next_wait()).await;
    };
    name_as_given(&mut images);
    Ok(images)
}

/// Gives listed images the names that they were given.
pub(super) fn name_as_given(images: &mut [ImageSummary]) {
    for tag in images.iter_mut().flat_map(|image| &mut image.repo_tags) {
        *tag = given(tag).to_owned();
    }
}

/// Whether a list failed over an image that went meanwhile: on Docker with containerd's store, or on
/// Podman.
fn is_of_removal(err: &Error) -> bool {
    let Error::Refused {
        status, message, ..
    } = err
    else {
        return false;
    };
    *status == 404 || *status == 500 && message.contains("image not known")
}

/// The name that an image was given. Podman completes one without a registry.
fn given(tag: &str) -> &str {
    let short = tag
        .strip_prefix("docker.io/library/")
        .or_else(|| tag.strip_prefix("docker.io/"))
        .or_else(|| tag.strip_prefix("localhost/"));
    short.unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_name_that_it_was_given() {
        for (tag, name) in [
            ("ignite-a:mark", "ignite-a:mark"),
            ("docker.io/library/ignite-a:mark", "ignite-a:mark"),
            ("docker.io/ignite-a/acme/b:1", "ignite-a/acme/b:1"),
            ("localhost/ignite-a/acme/b:1", "ignite-a/acme/b:1"),
            ("registry.test/acme/b:1", "registry.test/acme/b:1"),
        ] {
            assert_eq!(given(tag), name);
        }
    }

    #[test]
    fn a_removal_meanwhile_is_told_from_other_failures() {
        for (status, message, is) in [
            (404, "content digest sha256:0: not found", true),
            (500, "locating image with ID \"9\": image not known", true),
            (500, "disk I/O error", false),
            (0, "image not known", false),
        ] {
            let err = Error::Refused {
                call: "list images",
                status,
                message: message.to_owned(),
            };
            assert_eq!(is_of_removal(&err), is, "{message}");
        }
    }
}
