//! Cancellation of long work.

/// Says whether work was cancelled, because its caller does not wait for the outcome any more. It
/// is checked between steps of some microseconds, so that long work ends soon after.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

/// The failure of cancelled parsing; only the code that cancelled it sees it.
pub const CANCELLED: &str = "reading it was called off";

/// Fails once work was cancelled.
///
/// # Errors
/// [`CANCELLED`].
pub fn check_cancelled(cancelled: Cancelled<'_>) -> Result<(), String> {
    if cancelled() {
        Err(CANCELLED.to_owned())
    } else {
        Ok(())
    }
}

/// For work that is never cancelled.
pub const NEVER: Cancelled<'static> = &|| false;
