//! The process's own limits.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of descriptors to the most that the system allows: every connection takes
/// one on each side.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!(descriptors = ?limit.current, "Raised the limit of open files"),
        Err(error) => {
            tracing::warn!(%error, "The limit of open files could not be raised; many connections may be refused")
        }
    }
}
