//! The peers whose `X-Forwarded-*` headers are believed.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::model::destination::Networks;

/// A list of networks; an empty one trusts no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies(Networks);

impl Proxies {
    /// This machine, where a TLS proxy usually runs.
    pub fn loopback() -> Self {
        let nets = "127.0.0.0/8,::1/128".parse();
        Self(nets.expect("these are networks"))
    }

    /// No proxy.
    pub fn none() -> Self {
        Self(Networks::default())
    }

    /// Whether a peer is in the list.
    pub fn contain(&self, peer: IpAddr) -> bool {
        self.0.contain(peer)
    }
}

impl FromStr for Proxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_are_read_and_shown_as_they_are_read() {
        let nets: Proxies = "10.0.0.0/8, ::1".parse().expect("valid");
        assert!(nets.contain("10.9.9.9".parse().expect("valid")));
        assert!(nets.contain("::ffff:10.1.1.1".parse().expect("valid")));
        assert!(!nets.contain("127.0.0.1".parse().expect("valid")));
        assert_eq!(nets.to_string().parse(), Ok(nets));
        let none: Proxies = "none".parse().expect("valid");
        assert!(!none.contain("127.0.0.1".parse().expect("valid")));
        assert_eq!(none.to_string(), "none");
        assert!(Proxies::loopback().contain("::1".parse().expect("valid")));
    }
}
