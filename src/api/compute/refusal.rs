//! The failure of a method, and whether its caller may read the details.

use tonic::Status;

use crate::{
    api::status::to_status,
    model::{Failure, Reason},
};

/// Why a method fails, before it becomes a gRPC status. The flag is set when the caller owns the
/// app and may read details.
pub(in crate::api) struct Refusal(pub(super) Failure, pub(super) bool);

impl Refusal {
    /// For a caller who may read the details.
    pub(in crate::api) fn for_owner(failure: Failure) -> Self {
        Refusal(failure, true)
    }
}

impl From<Failure> for Refusal {
    // Details are withheld until the caller is known to own the app.
    fn from(failure: Failure) -> Self {
        Refusal(failure, false)
    }
}

impl From<Refusal> for Status {
    fn from(Refusal(failure, owner): Refusal) -> Self {
        if failure.reason.http_status() >= 500 && failure.reason != Reason::Unimplemented {
            tracing::error!(
                reason = failure.reason.as_str(),
                "A call failed: {}",
                failure.text(true)
            );
        }
        to_status(&failure, owner)
    }
}

/// Lets the owner of an app read the details of a failure.
pub(in crate::api) trait ForOwner<T> {
    fn for_owner(self) -> Result<T, Refusal>;
}

impl<T> ForOwner<T> for Result<T, Failure> {
    fn for_owner(self) -> Result<T, Refusal> {
        self.map_err(|f| Refusal(f, true))
    }
}
