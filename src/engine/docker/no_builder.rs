//! Whether an engine has no classic builder, which is announced for a later Docker.

use crate::engine::Error;

/// The error of a build, with what to do where the engine has no builder for it.
pub(super) fn recognized(err: Error) -> Error {
    match err {
        Error::Refused {
            call,
            status,
            message,
        } if is_why(status, &message) => Error::Refused {
            call,
            status,
            message: format!(
                "the engine has no classic builder, with which images are built here (it says: {message}); use an engine that has one, as Podman and Docker up to 29 do, or build and push the image elsewhere and publish it by its name"
            ),
        },
        err => err,
    }
}

fn is_why(status: u16, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let named = ["classic builder", "legacy builder", "buildkit"];
    match status {
        405 | 501 => true,
        404 => message.contains("page not found"),
        400.. => named.iter().any(|name| message.contains(name)),
        // A step's own command failed.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_builder_is_told_from_a_build_that_fails() {
        let told = |status, message: &str| {
            let refused = Error::Refused {
                call: "build the image",
                status,
                message: message.to_owned(),
            };
            recognized(refused).to_string()
        };
        for (status, message) in [
            (404, "page not found"),
            (501, "not implemented"),
            (400, "the legacy builder was removed; use BuildKit"),
        ] {
            let told = told(status, message);
            assert!(
                told.contains("no classic builder") && told.contains(message),
                "{told}"
            );
        }
        for (status, message) in [
            (
                0,
                "The command '/bin/sh -c buildkit' returned a non-zero code: 1",
            ),
            (400, "dockerfile parse error line 1: unknown instruction: X"),
            (404, "No such image: x:1"),
        ] {
            let told = told(status, message);
            assert!(!told.contains("no classic builder"), "{told}");
        }
    }
}
