//! Host names that apps are given beside those below the base domain.

use std::{borrow::Borrow, fmt, net::IpAddr, str::FromStr, sync::Arc};

use super::{host::MAX_LABEL_LEN, id::InvalidName};

/// Longest name in DNS.
const MAX_LEN: usize = 253;

/// A host name of at least two labels, in lower case and ASCII, without a dot at its end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a name below `domain`.
    pub fn is_below(&self, domain: &str) -> bool {
        let rest = self.0.strip_suffix(domain);
        rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl FromStr for HostName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = |why: &str| Err(InvalidName(format!("the host name {s:?} {why}")));
        if !s.is_ascii() {
            return refuse(
                "has letters beyond ASCII; write it as DNS has it, each such label as xn--… (Punycode)",
            );
        }
        if s.contains([':', '/', '@', '*']) {
            return refuse(
                "is more than a name; write it without scheme, port, path and wildcard, such as shop.example.com",
            );
        }
        let name = s.strip_suffix('.').unwrap_or(s).to_ascii_lowercase();
        if name.len() > MAX_LEN {
            return refuse("is longer than 253 characters, which DNS does not allow");
        }
        if name.parse::<IpAddr>().is_ok() {
            return refuse("is an address; the API answers there");
        }
        let is_label = |label: &str| {
            (1..=MAX_LABEL_LEN).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !name.split('.').all(is_label) {
            return refuse(
                "has a label that is not of 1 to 63 letters, digits and '-', with a letter or a digit at both ends",
            );
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.len() == name.len() || last.bytes().all(|b| b.is_ascii_digit()) {
            return refuse("needs a domain at its end, such as shop.example.com");
        }
        Ok(Self(name.into()))
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_what_is_none_is_refused_with_what_to_write() {
        let of = |s: &str| s.parse::<HostName>();
        assert_eq!(
            of("Shop.Example.com.").expect("valid").as_str(),
            "shop.example.com"
        );
        assert!(of("xn--bcher-kva.example").is_ok());
        for (wrong, word) in [
            ("bücher.example", "xn--"),
            ("https://a.example", "scheme"),
            ("a.example:80", "port"),
            ("*.example.com", "wildcard"),
            ("shop", "domain"),
            ("10.0.0.1", "address"),
            ("1.2.3.4.5", "domain"),
            ("a..example", "label"),
            ("-a.example", "label"),
            ("a_b.example", "label"),
            ("", "label"),
            (&format!("{}.example", "a".repeat(64)), "label"),
            (&format!("{}example", "a.".repeat(130)), "253"),
        ] {
            let refused = of(wrong).expect_err(wrong).to_string();
            assert!(refused.contains(word), "{refused}");
        }
        let name = of("a.shop.example").expect("valid");
        assert!(name.is_below("shop.example") && name.is_below("example"));
        assert!(!name.is_below("a.shop.example") && !name.is_below("hop.example"));
    }
}
