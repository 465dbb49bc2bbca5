//! Whether a build failed because a layer that it went on from was removed meanwhile: by a prune,
//! or by another server's garbage collection. The classic builder keeps the layers of a running
//! build no better than any other image without a name.

use crate::engine::{BuildEvent, Error};

/// How the engine says that an image or a layer, which it names by its id, is not there any more.
/// Images that a Dockerfile names are pulled, and missing in other words.
const WORDS: [&str; 7] = [
    "unknown parent image ID sha256:",
    "No such image: sha256:",
    "unable to find image \"sha256:",
    "failed to get layer sha256:",
    "failed to get digest sha256:",
    "layer does not exist",
    // Podman removes the container of a running step together with its image.
    "identifier is not a container",
];
/// The beginning of the failure of a step's own command, which is quoted in it.
const COMMAND: &str = "The command '";

/// The event, or the error of the client, that ends a build, with a lost layer as the cause if it is.
pub(super) fn recognized(event: Result<BuildEvent, Error>) -> Result<BuildEvent, Error> {
    match event {
        Ok(BuildEvent::Failed(why)) | Err(Error::Refused { message: why, .. }) if is_why(&why) => {
            Ok(BuildEvent::LayerLost(why))
        }
        other => other,
    }
}

/// Whether the build may succeed when it is begun again.
fn is_why(failure: &str) -> bool {
    !failure.starts_with(COMMAND) && WORDS.iter().any(|words| failure.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_layer_is_told_from_other_failures() {
        let id = "sha256:507e9c21e6c888ab0cc37cca8102d61c9273261bc90674c1f8b8528b1e45b0e6";
        for lost in [
            format!(
                "failed to export image: failed to set parent {id}: unknown parent image ID {id}"
            ),
            format!("unknown parent image ID {id}"),
            format!("No such image: {id}"),
            format!("failed to get destination image \"{id}\": No such image: {id}"),
            format!("unable to find image \"{id}\""),
            format!(
                "failed to export image: failed to create image: failed to get layer {id}: layer does not exist"
            ),
            format!(
                "failed to get digest {id}: open /var/lib/docker/image/x: no such file or directory"
            ),
            "deleting build container \"0\": identifier is not a container: building at STEP \"ADD a b\": checking on destination".to_owned(),
        ] {
            assert!(is_why(&lost), "{lost}");
        }
        for other in [
            format!(
                "The command '/bin/sh -c echo No such image: {id} >&2; false' returned a non-zero code: 1"
            ),
            "pull access denied for nothing, repository does not exist".to_owned(),
            "No such image: nothing:latest".to_owned(),
            "COPY failed: file not found in build context".to_owned(),
        ] {
            assert!(!is_why(&other), "{other}");
        }
    }
}
