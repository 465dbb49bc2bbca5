//! How many apps, versions and host names there may be.

/// Bounds on the numbers of apps and versions.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Apps of one organization.
    pub apps_per_org: usize,
    /// Versions of one app; none is ever dropped, so that each can be rolled back to.
    pub versions_per_app: usize,
    /// Host names that one app is given.
    pub hosts_per_app: usize,
}
