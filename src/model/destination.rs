//! Which network addresses are internal to a machine and its networks.
//!
//! Loopback, link-local (cloud metadata among them), private, shared and special ranges, and the
//! addresses of the machine itself: untrusted code may not connect to them unless the operator
//! lists the range.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 ranges that lead to no public server: this machine, its networks, the provider's.
pub const INNER_V4: [Ipv4Net; 12] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// The same for IPv6.
const INNER_V6: [Ipv6Net; 7] = [
    v6([0, 0, 0], 96),
    v6([0x64, 0xff9b, 1], 48),
    v6([0x100, 0, 0], 64),
    v6([0xfc00, 0, 0], 7),
    v6([0xfe80, 0, 0], 10),
    v6([0xfec0, 0, 0], 10),
    v6([0xff00, 0, 0], 8),
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(begin: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = begin;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// A list of networks, as a setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of the networks.
    pub fn contain(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.0.iter().any(|net| net.contains(&addr))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let net = |part: &str| {
            let part = part.trim();
            let one = part.parse::<IpAddr>().map(IpNet::from);
            one.or_else(|_| part.parse()).map_err(|_| {
                format!("{part:?} is no address and no network; write them with commas between, such as 10.1.0.0/16,192.168.1.5, or none")
            })
        };
        text.split(',').map(net).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

/// Whether untrusted code may connect to an address: it is public and not the machine's own, or it
/// is `allowed`.
pub fn is_public(addr: IpAddr, own: &[IpAddr], allowed: &Networks) -> bool {
    let addr = carried(addr.to_canonical());
    if allowed.contain(addr) {
        return true;
    }
    let inner = match &addr {
        IpAddr::V4(addr) => INNER_V4.iter().any(|net| net.contains(addr)),
        IpAddr::V6(addr) => INNER_V6.iter().any(|net| net.contains(addr)),
    };
    !inner && !own.iter().any(|own| own.to_canonical() == addr)
}

/// The IPv4 address that an IPv6 address leads to by translation or a tunnel.
fn carried(addr: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = addr else { return addr };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        // NAT64, and 6to4.
        (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, high, low, ..) => v4(high, low),
        _ => IpAddr::V6(Ipv6Addr::from(v6.octets())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn public(addr: &str) -> bool {
        let own = ["203.0.113.7".parse().expect("an address")];
        let allowed = "10.1.0.0/16,192.168.1.5".parse().expect("networks");
        is_public(addr.parse().expect(addr), &own, &allowed)
    }

    #[test]
    fn the_machine_and_its_networks_are_told_from_the_world() {
        for inner in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "10.2.0.1",
            "169.254.169.254",
            "172.17.0.1",
            "192.168.1.6",
            "192.88.99.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "203.0.113.7",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "fec0::1",
            "100::1",
            "64:ff9b:1::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "::ffff:203.0.113.7",
        ] {
            assert!(!public(inner), "{inner}");
        }
        for outer in [
            "1.1.1.1",
            "10.1.2.3",
            "192.168.1.5",
            "203.0.113.8",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert!(public(outer), "{outer}");
        }
    }

    #[test]
    fn networks_are_read_as_they_are_shown() {
        let shown: Networks = "10.0.0.0/8, ::1".parse().expect("valid");
        assert_eq!(shown.to_string().parse(), Ok(shown));
        assert_eq!(Networks::default().to_string(), "none");
        assert!("10.0.0.0/99".parse::<Networks>().is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_the_same_in_whatever_form(v4 in any::<[u8; 4]>()) {
            let v4 = Ipv4Addr::from(v4);
            let none = Networks::default();
            let plain = is_public(v4.into(), &[], &none);
            prop_assert_eq!(is_public(v4.to_ipv6_mapped().into(), &[], &none), plain);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
            prop_assert_eq!(is_public(nat64.into(), &[], &none), plain);
        }
    }
}
