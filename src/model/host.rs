//! Host labels: the DNS label under the base domain at which a port of an app is reached.
//!
//! The label is `<app>-<org>` for port 80 and `<app>-<org>-<port>` for any other, with each `.` in
//! the app's name written `-dot-`. One label can belong to several apps (`a-b` of `c` and `a` of
//! `b-c`; `a` of `c-81`, and `a` of `c` at port 81), so [`super::catalog`] records its owner.

use super::id::{AppId, AppName, OrgName};

/// The port whose URL has no number in it.
pub const DEFAULT_PORT: u16 = 80;
/// Longest DNS label.
pub const MAX_LABEL_LEN: usize = 63;

/// The label of one port of an app.
pub fn label(app: &AppId, port: u16) -> String {
    let name = encode(&app.name);
    if port == DEFAULT_PORT {
        format!("{name}-{}", app.org)
    } else {
        format!("{name}-{}-{port}", app.org)
    }
}

fn encode(name: &AppName) -> String {
    name.as_str().replace('.', "-dot-")
}

/// Whether a lower-case label could belong to an app of this organization.
pub fn may_be_of(label: &str, org: &str) -> bool {
    let ours = |label: &str| {
        let name = label.strip_suffix(org).and_then(|l| l.strip_suffix('-'));
        name.is_some_and(|name| name.parse::<AppName>().is_ok())
    };
    ours(label) || without_port(label).is_some_and(ours)
}

/// Every organization to which a label could belong: `a-b-c-81` could be an app of `c` or `b-c` at
/// port 81, or an app of `81`, `c-81` or `b-c-81` at port 80.
pub fn orgs_of(label: &str) -> impl Iterator<Item = OrgName> {
    [Some(label), without_port(label)]
        .into_iter()
        .flatten()
        .flat_map(|label| {
            label.match_indices('-').filter_map(move |(at, _)| {
                label[..at].parse::<AppName>().ok()?;
                label[at + 1..].parse().ok()
            })
        })
}

/// A label without the port at its end, if it has one.
fn without_port(label: &str) -> Option<&str> {
    let (rest, port) = label.rsplit_once('-')?;
    let is_number = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    let port: u16 = port.parse().ok().filter(|_| is_number)?;
    (port != DEFAULT_PORT).then_some(rest)
}

/// The name in a `Host` header, without the port and the dot at its end.
pub fn name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// The label in a `Host` header, when it names one under the base domain.
///
/// The port is ignored and case is folded, as in DNS.
pub fn label_of_host<'a>(host: &'a str, base_domain: &str) -> Option<&'a str> {
    let name = name(host);
    let cut = name.len().checked_sub(base_domain.len() + 1)?;
    let (label, rest) = (name.get(..cut)?, name.get(cut..)?);
    let matches =
        rest.as_bytes().first() == Some(&b'.') && rest[1..].eq_ignore_ascii_case(base_domain);
    (matches && !label.is_empty() && !label.contains('.')).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_contract() {
        let app: AppId = "acme/my.app".parse().expect("valid");
        assert_eq!(label(&app, 80), "my-dot-app-acme");
        assert_eq!(label(&app, 9090), "my-dot-app-acme-9090");
    }

    #[test]
    fn a_label_reads_as_an_app_of_each_organization_that_its_end_can_name() {
        let orgs = |l| orgs_of(l).map(|o| o.to_string()).collect::<Vec<_>>();
        assert_eq!(orgs("a-b-c-81"), ["b-c-81", "c-81", "81", "b-c", "c"]);
        assert_eq!(orgs("web-acme"), ["acme"]);
        assert_eq!(orgs("web-acme-80"), ["acme-80", "80"]);
        assert_eq!(orgs("web-acme-081"), ["acme-081", "081"]);
        assert_eq!(orgs("web"), [""; 0]);
        assert_eq!(orgs("-x--y-"), [""; 0]);
        for (label, org, is) in [
            ("my-dot-app-acme", "acme", true),
            ("my-dot-app-acme-9090", "acme", true),
            ("my-dot-app-acme-9090", "acme-9090", true),
            ("a-b-c", "b-c", true),
            ("web-acme-99999", "acme", false),
            ("webacme", "acme", false),
            ("-acme", "acme", false),
            ("web-xacme", "acme", false),
        ] {
            assert_eq!(may_be_of(label, org), is, "{label} of {org}");
        }
    }

    #[test]
    fn hosts_are_matched_without_port_case_or_trailing_dot() {
        let of = |h| label_of_host(h, "ignite.localhost");
        assert_eq!(of("a-b.ignite.localhost:8080"), Some("a-b"));
        assert_eq!(of("a-b.IGNITE.localhost."), Some("a-b"));
        assert_eq!(of("ignite.localhost"), None);
        assert_eq!(of(".ignite.localhost"), None);
        assert_eq!(of("x.a-b.ignite.localhost"), None);
        assert_eq!(of("a-bignite.localhost"), None);
        assert_eq!(of("[::1]:8080"), None);
        assert_eq!(of("é.x"), None);
    }
}
