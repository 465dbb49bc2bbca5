//! The failures of builds.

use crate::model::{Failure, Reason};

/// Lines of the log that a failure quotes.
pub(super) const TAIL: usize = 15;

/// BUILD_FAILED with this message.
pub(super) fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Reason::BuildFailed, message)
}

/// The failure of a build that the platform's stop ended.
pub(super) fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "the platform is stopping and the build was ended; compile again when it is back",
    )
}
