//! Which peers are believed about the way of a request before them.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A list of networks; the empty one believes nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// This machine, where a TLS proxy would be.
    pub fn loopback() -> Self {
        let nets = ["127.0.0.0/8", "::1/128"];
        Self(nets.map(|n| n.parse().expect("a network")).into())
    }

    /// Whether a peer is one of them.
    pub fn contain(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|net| net.contains(&peer))
    }
}

impl FromStr for Proxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let net = |part: &str| {
            let part = part.trim();
            let one = part.parse::<IpAddr>().map(IpNet::from);
            one.or_else(|_| part.parse()).map_err(|_| {
                format!("{part:?} is no address and no network; write them with commas between, such as 127.0.0.1,10.0.0.0/8, or none")
            })
        };
        text.split(',').map(net).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
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
        assert!("10.0.0.0/99".parse::<Proxies>().is_err());
    }
}
