//! Host labels: the DNS label under the base domain at which a port of an app is reached.
//!
//! `<app>-<org>` for port 80 and `<app>-<org>-<port>` for any other, with each `.` of the app's
//! name written `-dot-`. Different apps can have the same label (`a-b` of `c` and `a` of `b-c`),
//! so [`super::catalog`] refuses the second one.

use super::id::{AppId, AppName};

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

/// The label in a `Host` header, when it names one under the base domain.
///
/// The port is ignored and letters are folded, as names in DNS are.
pub fn label_of_host<'a>(host: &'a str, base_domain: &str) -> Option<&'a str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
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
