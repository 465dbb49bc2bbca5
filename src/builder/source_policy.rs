//! Which images an organization may name, and which hosts may be contacted on its behalf.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use moka::sync::Cache;

use crate::model::{
    OrgName,
    destination::{Networks, is_public},
    image_name::Naming,
    secret::{DOCKER_HUB, registry_of_image},
};

/// Longest wait for a name's addresses.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most remembered grants; a forgotten one is requested again.
const MAX_GRANTS: u64 = 10_000;
/// The port of HTTPS.
const HTTPS: u16 = 443;

/// The rules, and the registries' recent grants.
#[derive(Debug)]
pub struct Admission {
    naming: Naming,
    /// Inner networks that builds may reach nevertheless.
    allowed: Networks,
    grants: Cache<Grant, String>,
}

/// The key of a grant: an organization may have what a reference names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    /// The organization.
    pub(super) org: OrgName,
    /// The reference that it asked for.
    pub(super) reference: String,
    /// The secret that it asked with; empty for none.
    pub(super) secret: String,
}

impl Admission {
    /// A policy; a registry's grant is valid for `grant_ttl`.
    pub fn new(naming: Naming, allowed: Networks, grant_ttl: Duration) -> Self {
        Self {
            naming,
            allowed,
            grants: Cache::builder()
                .max_capacity(MAX_GRANTS)
                .time_to_live(grant_ttl)
                .build(),
        }
    }

    /// Refuses an image name that an organization may not use. Makes no calls.
    ///
    /// # Errors
    /// A sentence with the remedy.
    pub fn check_name(&self, org: &OrgName, reference: &str) -> Result<(), String> {
        self.naming.check(org, reference)
    }

    /// Whether an image is available only from a registry, if that grants it to the organization.
    pub(super) fn needs_grant(&self, org: &OrgName, reference: &str) -> bool {
        self.isolates_organizations() && !self.naming.is_own(org, reference)
    }

    pub(super) fn isolates_host(&self) -> bool {
        self.naming.trust.isolates_host()
    }

    pub(super) fn isolates_organizations(&self) -> bool {
        self.naming.trust.isolates_organizations()
    }

    /// The digest of a grant that is still valid.
    pub(super) fn granted(&self, grant: &Grant) -> Option<String> {
        self.grants.get(grant)
    }

    pub(super) fn grant(&self, grant: Grant, digest: String) {
        self.grants.insert(grant, digest);
    }

    /// Refuses an image at a registry outside the public network.
    ///
    /// # Errors
    /// A sentence that is the same whatever is at the registry's address.
    pub(super) async fn check_registry(&self, reference: &str) -> Result<(), String> {
        match registry_of_image(reference) {
            DOCKER_HUB => Ok(()),
            host => self.check_host("registry", host).await.map(drop),
        }
    }

    /// Refuses a host outside the public network; returns its addresses, or none where every host
    /// may be reached.
    ///
    /// # Errors
    /// A sentence that is the same for a name without an address and one with an inner address, and
    /// for an open port and a closed one: no connection was made.
    pub(super) async fn check_host(&self, what: &str, host: &str) -> Result<Vec<IpAddr>, String> {
        if !self.isolates_host() {
            return Ok(Vec::new());
        }
        let (name, port) = split_port(host);
        let looked_up =
            tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, port)));
        let found: Vec<IpAddr> = match looked_up.await {
            Ok(Ok(found)) => found.map(|addr: SocketAddr| addr.ip()).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let own = own_addresses();
        let inner = found.iter().any(|ip| !is_public(*ip, &own, &self.allowed));
        if found.is_empty() || inner {
            return Err(format!(
                "the {what} {host:?} has no address that this platform may be sent to (--trust {}): it is unknown, or one of this machine or of a private network; the operator lists such a network in build_allow",
                self.naming.trust
            ));
        }
        Ok(found)
    }
}

/// A host and its port, which defaults to that of HTTPS.
pub(super) fn split_port(host: &str) -> (&str, u16) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, port.parse().unwrap_or(HTTPS))
        }
        _ => (host, HTTPS),
    };
    (name.trim_start_matches('[').trim_end_matches(']'), port)
}

/// The addresses of this machine, as far as they are known.
fn own_addresses() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut own = local_v4(&read("/proc/net/fib_trie"));
    own.extend(local_v6(&read("/proc/net/if_inet6")));
    own
}

/// The host's own addresses in the routing table.
fn local_v4(table: &str) -> Vec<IpAddr> {
    let mut own = Vec::new();
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(addr) = line.strip_prefix("|-- ") {
            last = addr.parse::<IpAddr>().ok();
        } else if line.ends_with("host LOCAL") {
            own.extend(last);
        }
    }
    own.sort_unstable();
    own.dedup();
    own
}

fn local_v6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        Some(IpAddr::V6(bits.into()))
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Trust;

    fn admission(trust: Trust, allowed: &str) -> Admission {
        let naming = Naming {
            trust,
            instance: "0a1b2c3d4e5f".parse().expect("an instance"),
        };
        let allowed = allowed.parse().expect("networks");
        Admission::new(naming, allowed, Duration::from_secs(60))
    }

    #[test]
    fn hosts_are_told_from_their_ports() {
        for (host, parts) in [
            ("h", ("h", 443)),
            ("h:5000", ("h", 5000)),
            ("[::1]:5000", ("::1", 5000)),
            ("[::1]", ("::1", 443)),
            ("::1", ("::1", 443)),
        ] {
            assert_eq!(split_port(host), parts, "{host}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /8 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(
            local_v4(table),
            ["10.0.0.5".parse::<IpAddr>().expect("one")]
        );
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(table), ["::1".parse::<IpAddr>().expect("one")]);
    }

    #[tokio::test]
    async fn hosts_of_this_machine_are_refused_in_one_way_unless_they_are_listed() {
        let team = admission(Trust::Team, "10.0.0.0/8");
        let refused = |host: &'static str| {
            let team = &team;
            async move {
                let why = team.check_host("registry", host).await;
                why.expect_err(host).replace(host, "HOST")
            }
        };
        let first = refused("127.0.0.1:1").await;
        for host in [
            "127.0.0.1:5000",
            "localhost:1",
            "0.0.0.0:2",
            "169.254.169.254",
            "[::1]:1",
            "2130706433:1",
            "none.invalid",
        ] {
            assert_eq!(refused(host).await, first, "{host}");
        }
        assert!(team.check_host("registry", "10.1.2.3:5000").await.is_ok());
        assert!(team.check_registry("redis").await.is_ok());
        assert!(team.check_registry("127.0.0.1:1/a").await.is_err());
        let sandbox = admission(Trust::Sandbox, "none");
        assert!(sandbox.check_registry("127.0.0.1:1/a").await.is_ok());
    }
}
