//! How far the platform trusts those who deploy on it.

use std::{fmt, str::FromStr};

/// Whom the platform serves, which decides what apps, builds and organizations may reach.
///
/// This is independent of `strict`, which only means "as the cloud does". Code uses the predicates
/// and never compares levels, since a level may be added between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// One person's machine: local images, the host and private address ranges are allowed.
    #[default]
    Sandbox,
    /// One organization's machine: its deployments may not reach the host.
    Team,
    /// Organizations that do not trust each other.
    Tenants,
}

impl Trust {
    /// Every level, most trusting first.
    pub const ALL: [Trust; 3] = [Trust::Sandbox, Trust::Team, Trust::Tenants];

    /// Whether deployments must not reach the host, link-local and private addresses.
    pub const fn isolates_host(self) -> bool {
        match self {
            Trust::Sandbox => false,
            Trust::Team | Trust::Tenants => true,
        }
    }

    /// Whether organizations must not reach each other's images, caches and credentials.
    pub const fn isolates_organizations(self) -> bool {
        match self {
            Trust::Sandbox | Trust::Team => false,
            Trust::Tenants => true,
        }
    }

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Trust::Sandbox => "sandbox",
            Trust::Team => "team",
            Trust::Tenants => "tenants",
        }
    }
}

impl FromStr for Trust {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|trust| trust.as_str() == s);
        found.ok_or("write sandbox, team or tenants")
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_isolates_at_least_what_the_one_before_does() {
        for trust in Trust::ALL {
            assert_eq!(trust.to_string().parse(), Ok(trust));
        }
        for pair in Trust::ALL.windows(2) {
            assert!(pair[0].isolates_host() <= pair[1].isolates_host());
            assert!(pair[0].isolates_organizations() <= pair[1].isolates_organizations());
        }
        assert_eq!(Trust::default(), Trust::Sandbox);
        assert!("Tenants".parse::<Trust>().is_err());
    }
}
