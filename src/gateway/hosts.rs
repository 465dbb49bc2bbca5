//! The hosts for which the API answers, so that a web page cannot reach it under the page's own
//! name.
//!
//! A page of `evil.example` may have that name resolve to this machine once it has loaded (DNS
//! rebinding): a browser then takes the API for the page's own origin. The name in `Host` gives the
//! page away. Names that an attacker cannot point at this machine are harmless: addresses, names
//! without a dot, `localhost` and names below it, and `.internal`, which is reserved for private
//! networks and by which containers know their host.

use std::net::{IpAddr, Ipv6Addr};

use http::uri::Authority;

use crate::{
    config::ApiHosts,
    model::{Failure, Reason, host, host_name::HostName},
};

/// The hosts for which the API, and apps by path, answer.
#[derive(Debug)]
pub struct Hosts {
    /// The domain below which apps have their hosts.
    pub base_domain: String,
    /// This machine's own name, in lower case; empty if unknown.
    pub machine: String,
    /// The configured hosts.
    pub listed: ApiHosts,
}

/// The domain under which containers know the hosts of apps, beside the base domain: one that no C
/// library or runtime answers for by itself, as some do for `localhost`. It is reserved for private
/// networks.
pub const INTERNAL_DOMAIN: &str = "ignite.internal";

impl Hosts {
    /// The label in a `Host` header that names an app's port.
    pub fn label<'a>(&self, host: &'a str) -> Option<&'a str> {
        host::label_of_host(host, &self.base_domain)
            .or_else(|| host::label_of_host(host, INTERNAL_DOMAIN))
    }

    /// Whether a name, in lower case, is the base domain, [`INTERNAL_DOMAIN`] or below one of them:
    /// apps resolve it to the listener that is for them.
    pub fn has_app_below(&self, name: &str) -> bool {
        [self.base_domain.as_str(), INTERNAL_DOMAIN]
            .iter()
            .filter_map(|domain| name.strip_suffix(domain))
            .any(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Checks the host of a request, which may have none (HTTP/1.0, which no browser speaks).
    ///
    /// # Errors
    /// MISDIRECTED_REQUEST, with the setting that would let it in.
    pub fn check(&self, host: Option<&str>) -> Result<(), Failure> {
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return Ok(());
        };
        match name_of(host) {
            Some(name) if self.are_own(&name) => Ok(()),
            _ => Err(Failure::new(
                Reason::MisdirectedRequest,
                format!(
                    "the API does not answer for the host {host:?}: a web page could have had that name resolve to this server; ask for an address, localhost or {}, or add the name to api_hosts (IGNITE_API_HOSTS)",
                    self.base_domain
                ),
            )),
        }
    }

    /// Checks a custom host name for an app that has the hosts `own`. The API's hosts are refused, and
    /// so is every name below the base domain, where names follow from apps, unless it is below one
    /// of `own`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with what is wrong with it.
    pub fn check_given(
        &self,
        name: &HostName,
        own: impl IntoIterator<Item = String>,
    ) -> Result<(), Failure> {
        if own.into_iter().any(|host| name.is_below(&host)) {
            return Ok(());
        }
        let base = &self.base_domain;
        if name.is_below(base) {
            return Err(Failure::field(
                "host",
                format!(
                    "{name} is below {base}, where hosts follow from the names of apps; choose a name in another domain, or below a host of this app"
                ),
            ));
        }
        if self.are_own(name.as_str()) {
            return Err(Failure::field(
                "host",
                format!(
                    "the API answers for {name}; choose a name that is neither this machine's nor in api_hosts, and not below .localhost or .internal"
                ),
            ));
        }
        Ok(())
    }

    fn are_own(&self, name: &str) -> bool {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !name.contains('.') && name.bytes().all(is_plain) {
            return true;
        }
        name.ends_with(".localhost")
            || name.ends_with(".internal")
            || name == self.base_domain
            || name == self.machine
            || self.listed.contain(name)
    }
}

/// The name or the address in an authority, in lower case; `None` if the authority has user
/// information or cannot be parsed.
fn name_of(authority: &str) -> Option<String> {
    if authority.contains('@') {
        return None;
    }
    // The URI library does not parse a zone (`[fe80::1%25eth0]`).
    if let Some(zoned) = authority.strip_prefix('[')
        && let Some((address, zone)) = zoned.split_once('%')
        && zone.contains(']')
    {
        return address.parse::<Ipv6Addr>().ok().map(|a| a.to_string());
    }
    let authority: Authority = authority.parse().ok()?;
    let host = authority.host();
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(host: &str) -> bool {
        let hosts = Hosts {
            base_domain: "apps.example.com".to_owned(),
            machine: "box.lan.example".to_owned(),
            listed: "api.example.com,*.ci.example".parse().expect("valid"),
        };
        let answer = hosts.check(Some(host));
        if let Err(refused) = &answer {
            assert_eq!(refused.reason, Reason::MisdirectedRequest);
            assert!(refused.message.contains("IGNITE_API_HOSTS"), "{refused}");
        }
        answer.is_ok()
    }

    #[test]
    fn the_api_answers_for_what_nobody_else_can_have_resolve_here() {
        for own in [
            "127.0.0.1:8080",
            "10.1.2.3",
            "[::1]:8080",
            "[fe80::1%25eth0]:8080",
            "localhost:1",
            "LOCALHOST",
            "localhost.",
            "ignite.localhost:8080",
            "ignite",
            "my_service:8080",
            "host.docker.internal:50051",
            "apps.example.com",
            "Apps.Example.com.:80",
            "box.lan.example",
            "api.example.com",
            "runner.ci.example:1",
            "",
        ] {
            assert!(answers(own), "{own}");
        }
    }

    #[test]
    fn an_app_is_given_no_host_of_the_apis_nor_one_that_follows_from_another_app() {
        let hosts = Hosts {
            base_domain: "apps.example.com".to_owned(),
            machine: "box.lan.example".to_owned(),
            listed: "api.example.com,*.ci.example".parse().expect("valid"),
        };
        let given = |name: &str| {
            let own = ["web-acme.apps.example.com".to_owned()];
            hosts.check_given(&name.parse().expect("a name"), own)
        };
        for free in [
            "shop.example.com",
            "example.com",
            "v1.web-acme.apps.example.com",
            "a.b.web-acme.apps.example.com",
        ] {
            assert!(given(free).is_ok(), "{free}");
        }
        for taken in [
            "apps.example.com",
            "web-acme.apps.example.com",
            "other-acme.apps.example.com",
            "v1.other-acme.apps.example.com",
            "box.lan.example",
            "api.example.com",
            "r.ci.example",
            "shop.localhost",
            "db.internal",
        ] {
            let refused = given(taken).expect_err(taken);
            assert_eq!(refused.reason, Reason::InvalidArgument, "{taken}");
        }
    }

    #[test]
    fn a_name_that_others_can_have_resolve_here_is_misdirected() {
        for foreign in [
            "evil.example:8080",
            "evil.example.:8080",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "a.apps.example.com.evil.example",
            "a.b.apps.example.com",
            "xapps.example.com",
            "user@127.0.0.1",
            "127.0.0.1@evil.example",
            "[evil.example]",
            "evil%2eexample",
            "evil\u{3002}example",
            "ci.example",
        ] {
            assert!(!answers(foreign), "{foreign}");
        }
    }
}
