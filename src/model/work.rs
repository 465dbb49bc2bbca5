//! Work that can be called off.

/// Says whether work was called off: nobody waits for its outcome any more. Asked between steps
/// of some microseconds, so that a large piece of work ends soon after.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

/// What is wrong with input whose reading was called off; only whoever called it off sees it.
pub const CANCELLED: &str = "reading it was called off";

/// Fails once work was called off.
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

/// For work that is never called off.
pub const NEVER: Cancelled<'static> = &|| false;
