//! Cancellation of long work.

/// Returns whether work was cancelled because its caller no longer waits for the outcome. It is
/// checked between steps of some microseconds, so that cancelled work ends soon.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

/// The failure of cancelled parsing; only the code that cancelled it sees it.
pub const CANCELLED: &str = "reading it was called off";

/// Fails if the work was cancelled.
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
