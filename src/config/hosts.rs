//! The additional host names for which the API answers.

use std::{fmt, str::FromStr};

use super::forms;

/// A list of names; an empty one adds nothing, `*` matches any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiHosts {
    any: bool,
    /// In lower case; a name with a leading dot stands for all names below it.
    names: Vec<String>,
}

impl ApiHosts {
    /// Whether a name, in lower case and without a port, is in the list.
    pub fn contain(&self, name: &str) -> bool {
        self.any
            || self.names.iter().any(|known| {
                if known.starts_with('.') {
                    name.len() > known.len() && name.ends_with(known.as_str())
                } else {
                    name == known
                }
            })
    }
}

impl ApiHosts {
    /// The names, those that stand for all below them as `*.name`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| match name.strip_prefix('.') {
            Some(below) => format!("*.{below}"),
            None => name.clone(),
        })
    }
}

impl FromStr for ApiHosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut hosts = Self::default();
        if text == "none" {
            return Ok(hosts);
        }
        for part in text.split(',').map(str::trim) {
            let name = part.to_ascii_lowercase();
            let bare = name.strip_prefix("*.");
            if part == "*" {
                hosts.any = true;
            } else if forms::is_domain(bare.unwrap_or(&name)) {
                hosts.names.push(match bare {
                    Some(bare) => format!(".{bare}"),
                    None => name,
                });
            } else {
                return Err(format!(
                    "{part:?} is no host name; write names without scheme and port and with commas between, such as api.example.com,*.ci.example.com, or none, or * for any"
                ));
            }
        }
        Ok(hosts)
    }
}

impl fmt::Display for ApiHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.then(|| "*".to_owned());
        let all: Vec<_> = any.into_iter().chain(self.names()).collect();
        if all.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&all.join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_is_below_them_are_read_and_shown_as_they_are_read() {
        let of = |text: &str| text.parse::<ApiHosts>();
        let hosts = of("API.example.com, *.ci.example.com").expect("valid");
        assert!(hosts.contain("api.example.com") && hosts.contain("a.b.ci.example.com"));
        for other in [
            "ci.example.com",
            "xci.example.com",
            "example.com",
            "a.api.example.com",
        ] {
            assert!(!hosts.contain(other), "{other}");
        }
        assert_eq!(hosts.to_string(), "api.example.com,*.ci.example.com");
        assert_eq!(of(&hosts.to_string()), Ok(hosts));
        assert!(of("*").expect("valid").contain("anything.example"));
        assert_eq!(of("none"), Ok(ApiHosts::default()));
        assert_eq!(ApiHosts::default().to_string(), "none");
        for wrong in ["", "http://a.example", "a.example:80", "*a.example", "a..b"] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
