//! Egress: the most that the operator allows, and what an app's owner chooses within it.
//!
//! A sandbox restricts nothing. Elsewhere the operator's [`Ceiling`] is the most that any app can
//! get; an app's [`Egress`] chooses within it and never widens it. Destinations are IPv4 networks,
//! perhaps with one port. Names are not allowed, since the owner of a name could redirect it.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;

use super::{Trust, destination::INNER_V4};

/// The most destinations of one app, each of which is an element of a set in the kernel.
pub const MAX_DESTINATIONS: usize = 64;
/// Longest text of an app's destinations in bytes.
pub const MAX_EGRESS_BYTES: usize = 2048;
/// The most destinations of the operator.
const MAX_LISTED: usize = 1024;

/// A network, perhaps with a single port; without one, every port and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The network, with no bits set beyond its prefix.
    pub net: Ipv4Net,
    /// The TCP and UDP port; `None` means all ports and all other protocols.
    pub port: Option<u16>,
}

impl Destination {
    /// Whether this destination contains all of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.net.contains(&other.net) && (self.port.is_none() || self.port == other.port)
    }

    /// Whether no address of it is on this machine or on a network that is not public.
    fn is_public(&self) -> bool {
        let overlaps = |inner: &Ipv4Net| inner.contains(&self.net) || self.net.contains(inner);
        !INNER_V4.iter().any(overlaps)
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(60).collect();
            format!(
                "{shown:?} {why}; write addresses or networks of IPv4, with a port if only that is meant, such as 10.0.0.5:5432 or 10.1.0.0/16"
            )
        };
        let (net, port) = match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(refuse("is IPv6, which the network of apps does not carry"));
            }
            Some((net, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                let port = port.ok_or_else(|| refuse("has no port between 1 and 65535"))?;
                (net, Some(port))
            }
            None => (text, None),
        };
        let is_name = net.contains(|c: char| c.is_alphabetic());
        let one = net.parse::<Ipv4Addr>().map(Ipv4Net::from);
        let net = one.or_else(|_| net.parse()).map_err(|_| {
            if is_name {
                refuse("is a name, and names cannot be allowed, only addresses")
            } else {
                refuse("is no address and no network")
            }
        })?;
        Ok(Self {
            net: net.trunc(),
            port,
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.net.prefix_len() {
            32 => write!(f, "{}", self.net.addr())?,
            _ => write!(f, "{}", self.net)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Parses a list into sorted destinations, without those that another one covers.
fn destinations<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<Destination>, String> {
    let all: Vec<Destination> = parts.map(str::parse).collect::<Result<_, _>>()?;
    Ok(distinct(all))
}

fn distinct(mut all: Vec<Destination>) -> Vec<Destination> {
    all.sort_unstable();
    all.dedup();
    let covered = |d: &Destination| all.iter().any(|other| other != d && other.covers(d));
    let kept: Vec<_> = all.iter().filter(|d| !covered(d)).copied().collect();
    kept
}

fn join(f: &mut fmt::Formatter<'_>, words: &[String]) -> fmt::Result {
    f.write_str(&words.join(","))
}

/// What apps may reach beyond what their trust gives them: the operator's setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressAllow {
    /// Every public address.
    public: bool,
    /// Networks on or around this machine.
    listed: Vec<Destination>,
}

impl EgressAllow {
    /// Every public address and nothing else.
    pub const PUBLIC: Self = Self {
        public: true,
        listed: Vec::new(),
    };
}

/// The word for every public address.
const PUBLIC: &str = "public";
/// The word for nothing at all.
const NONE: &str = "none";

impl FromStr for EgressAllow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == NONE {
            return Ok(Self::default());
        }
        let parts: Vec<_> = text.split(',').map(str::trim).collect();
        if parts.len() > MAX_LISTED {
            return Err(format!(
                "it has {} entries; the limit is {MAX_LISTED}",
                parts.len()
            ));
        }
        Ok(Self {
            public: parts.contains(&PUBLIC),
            listed: destinations(parts.into_iter().filter(|part| *part != PUBLIC))
                .map_err(|why| format!("{why}, or {PUBLIC}, or {NONE}"))?,
        })
    }
}

impl fmt::Display for EgressAllow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.public.then(|| PUBLIC.to_owned());
        let listed = self.listed.iter().map(ToString::to_string);
        let words: Vec<_> = public.into_iter().chain(listed).collect();
        if words.is_empty() {
            f.write_str(NONE)
        } else {
            join(f, &words)
        }
    }
}

/// The owner's setting of where an app may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// The platform's default.
    #[default]
    Unset,
    /// Nowhere.
    Deny,
    /// Everything that the operator allows.
    Allow,
    /// Only these; never empty.
    Only(Vec<Destination>),
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_EGRESS_BYTES {
            return Err(format!(
                "is {} bytes long; the limit is {MAX_EGRESS_BYTES}",
                text.len()
            ));
        }
        match text.trim() {
            "" => Ok(Self::Unset),
            "deny" => Ok(Self::Deny),
            "allow" => Ok(Self::Allow),
            list => {
                let parts: Vec<_> = list.split(',').map(str::trim).collect();
                if parts.len() > MAX_DESTINATIONS {
                    return Err(format!(
                        "has {} destinations; the limit is {MAX_DESTINATIONS}",
                        parts.len()
                    ));
                }
                destinations(parts.into_iter())
                    .map(Self::Only)
                    .map_err(|why| format!("{why}, or one of the words deny and allow"))
            }
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Deny => f.write_str("deny"),
            Self::Allow => f.write_str("allow"),
            Self::Only(list) => {
                let words: Vec<_> = list.iter().map(ToString::to_string).collect();
                join(f, &words)
            }
        }
    }
}

/// The most that any app may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// An app without a setting gets all of it.
    open: bool,
    /// It includes every public address.
    public: bool,
    /// It includes these, wherever they lead.
    listed: Vec<Destination>,
}

/// What one app may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// All of the ceiling.
    All,
    /// Only these.
    Only {
        /// Covered by the operator's list; these may include this machine's own addresses.
        listed: Vec<Destination>,
        /// Public addresses. If one belongs to this machine, it stays blocked.
        public: Vec<Destination>,
    },
}

impl Grant {
    /// Nothing.
    pub const NONE: Self = Self::Only {
        listed: Vec::new(),
        public: Vec::new(),
    };
}

impl Ceiling {
    /// The ceiling by `trust` and the operator's setting; `None` where nothing is restricted.
    pub fn of(trust: Trust, allow: &EgressAllow) -> Option<Self> {
        trust.isolates_host().then(|| Self {
            open: !trust.isolates_organizations(),
            public: !trust.isolates_organizations() || allow.public,
            listed: allow.listed.clone(),
        })
    }

    /// What the steps of all builds may reach; `None` where nothing is restricted.
    pub fn of_builds(trust: Trust, allow: &EgressAllow) -> Option<Self> {
        trust.isolates_host().then(|| Self {
            open: true,
            public: allow.public,
            listed: allow.listed.clone(),
        })
    }

    /// Whether it includes every public address.
    pub fn has_public(&self) -> bool {
        self.public
    }

    /// The destinations that it lists besides public addresses.
    pub fn listed(&self) -> &[Destination] {
        &self.listed
    }

    /// Whether it allows this address and port.
    pub fn reaches(&self, addr: Ipv4Addr, port: u16) -> bool {
        let one = Destination {
            net: addr.into(),
            port: Some(port),
        };
        self.has(&one)
    }

    /// Whether an app with this grant reaches an address and port.
    pub fn grants(&self, grant: &Grant, addr: Ipv4Addr, port: u16) -> bool {
        match grant {
            Grant::All => self.reaches(addr, port),
            Grant::Only { listed, public } => {
                let one = Destination {
                    net: addr.into(),
                    port: Some(port),
                };
                let mut all = listed.iter().chain(public);
                all.any(|destination| destination.covers(&one))
            }
        }
    }

    /// Checks that the ceiling includes all destinations of an app.
    ///
    /// # Errors
    /// A sentence about the first destination beyond it.
    pub fn check(&self, egress: &Egress) -> Result<(), String> {
        let Egress::Only(list) = egress else {
            return Ok(());
        };
        match list.iter().find(|one| !self.has(one)) {
            None => Ok(()),
            Some(beyond) => Err(format!(
                "{beyond} is not within what this server lets apps reach: {self} (its operator's settings `trust` and `egress_allow`)"
            )),
        }
    }

    /// The part of an app's setting that is within the ceiling.
    pub fn grant(&self, egress: &Egress) -> Grant {
        match egress {
            Egress::Unset if self.open => Grant::All,
            Egress::Unset | Egress::Deny => Grant::NONE,
            Egress::Allow => Grant::All,
            Egress::Only(list) => {
                let within = list.iter().filter(|one| self.has(one));
                let (listed, public) = within.partition(|one| self.lists(one));
                Grant::Only { listed, public }
            }
        }
    }

    fn has(&self, one: &Destination) -> bool {
        self.lists(one) || self.public && one.is_public()
    }

    fn lists(&self, one: &Destination) -> bool {
        self.listed.iter().any(|listed| listed.covers(one))
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.public.then(|| "public addresses".to_owned());
        let listed = self.listed.iter().map(ToString::to_string);
        let words: Vec<_> = public.into_iter().chain(listed).collect();
        if words.is_empty() {
            f.write_str("nothing")
        } else {
            f.write_str(&words.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ceiling(trust: Trust, allow: &str) -> Ceiling {
        Ceiling::of(trust, &allow.parse().expect(allow)).expect("one")
    }

    fn egress(text: &str) -> Egress {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_written_is_read_back_without_what_is_said_twice() {
        for (written, read) in [
            ("none", "none"),
            ("public", "public"),
            ("10.0.0.5:5432, public", "public,10.0.0.5:5432"),
            ("10.9.9.9/8,10.1.0.0/16:80,10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let allow: EgressAllow = written.parse().expect(written);
            assert_eq!(allow.to_string(), read);
            assert_eq!(read.parse(), Ok(allow));
        }
        for text in ["", "deny", "allow", "1.2.3.4,10.0.0.0/8:80"] {
            assert_eq!(egress(text).to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_allowed_is_told_why() {
        for (text, why) in [
            ("db.internal:5432", "is a name"),
            ("fd00::1", "IPv6"),
            ("[::1]:80", "IPv6"),
            ("10.0.0.1:0", "port"),
            ("10.0.0.1:http", "port"),
            ("10.0.0.0/40", "no network"),
            ("1.2.3.4,,", "no address"),
        ] {
            let said = text.parse::<Egress>().expect_err(text);
            assert!(said.contains(why), "{said}");
            let said = text.parse::<EgressAllow>().expect_err(text);
            assert!(said.contains(why), "{said}");
        }
        let many = vec!["1.1.1.1"; MAX_DESTINATIONS + 1].join(",");
        assert!(many.parse::<Egress>().expect_err("many").contains("limit"));
    }

    #[test]
    fn trust_decides_what_apps_get_that_say_nothing_and_owners_never_widen_it() {
        assert_eq!(Ceiling::of(Trust::Sandbox, &EgressAllow::default()), None);
        let team = ceiling(Trust::Team, "10.1.0.0/16:5432");
        assert_eq!(team.grant(&Egress::Unset), Grant::All);
        assert_eq!(team.grant(&Egress::Deny), Grant::NONE);
        let tenants = ceiling(Trust::Tenants, "10.1.0.0/16:5432");
        assert_eq!(tenants.grant(&Egress::Unset), Grant::NONE);
        assert_eq!(tenants.grant(&Egress::Allow), Grant::All);
        assert!(!tenants.has_public());
        assert!(ceiling(Trust::Tenants, "public").has_public());

        // Whether an app of a team and an app of a tenant may have each of them.
        for (wanted, of_team, of_tenants) in [
            ("10.1.2.3:5432", true, true),
            ("10.1.2.0/24:5432", true, true),
            ("10.1.2.3", false, false),
            ("10.1.2.3:80", false, false),
            ("10.0.0.0/8:5432", false, false),
            ("1.1.1.1:443", true, false),
            ("8.0.0.0/6", false, false),
            ("0.0.0.0/0:443", false, false),
            ("169.254.169.254:80", false, false),
        ] {
            let wanted = egress(wanted);
            for (ceiling, may) in [(&team, of_team), (&tenants, of_tenants)] {
                assert_eq!(ceiling.check(&wanted).is_ok(), may, "{wanted}: {ceiling}");
                let gets_none = ceiling.grant(&wanted) == Grant::NONE;
                assert_eq!(!gets_none, may, "{wanted}: {ceiling}");
            }
        }
        let mixed = team.grant(&egress("1.1.1.1,10.1.2.3:5432,192.168.0.1"));
        let Grant::Only { listed, public } = mixed else {
            panic!("{mixed:?}")
        };
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(public.len(), 1, "{public:?}");
    }

    fn any_destination() -> impl Strategy<Value = Destination> {
        let port = proptest::option::of(1u16..4);
        (any::<u32>(), 0u8..=32, port).prop_map(|(addr, prefix, port)| Destination {
            net: Ipv4Net::new_assert(Ipv4Addr::from(addr), prefix).trunc(),
            port,
        })
    }

    proptest! {
        #[test]
        fn what_an_app_is_granted_is_always_within_the_ceiling(
            listed in proptest::collection::vec(any_destination(), 0..6),
            wanted in proptest::collection::vec(any_destination(), 1..6),
            public in any::<bool>(),
        ) {
            let ceiling = Ceiling { open: true, public, listed };
            let Grant::Only { listed, public } = ceiling.grant(&Egress::Only(wanted)) else {
                unreachable!()
            };
            for one in listed {
                prop_assert!(ceiling.listed.iter().any(|l| l.covers(&one)));
            }
            for one in public {
                prop_assert!(ceiling.public);
                prop_assert!(INNER_V4.iter().all(|i| !i.contains(&one.net) && !one.net.contains(i)));
            }
        }
    }
}
