//! Credentials for registries and git servers, by name within an organization.
//!
//! A [`Value`] is what a secret protects; its `Debug` output hides it. Only [`Sealed`] secrets are
//! stored, and the catalog holds those.

use std::{fmt, str::FromStr, sync::Arc};

use super::{failure::FieldViolation, id::OrgName};

/// Longest name of a secret in characters.
pub const MAX_SECRET_NAME: usize = 64;
/// The longest user name, password, token or address of a secret in bytes; a registry's identity
/// token is a few KiB.
pub const MAX_SECRET_BYTES: usize = 16 * 1024;
/// The name of Docker Hub throughout this program.
pub const DOCKER_HUB: &str = "docker.io";

/// A secret's name: 1 to 64 of letters, digits, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Arc<str>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSecretName(String);

impl SecretName {
    /// Sorts before every name, to begin a range; no secret has this name.
    pub(super) fn lowest() -> Self {
        Self("".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let why = if s.is_empty() {
            "is empty; give a name such as \"my-registry\"".to_owned()
        } else if let Some(bad) = s.chars().find(|c| !legal(*c)) {
            format!("{s:?} has {bad:?}; only letters, digits, '-' and '_' are allowed")
        } else if s.len() > MAX_SECRET_NAME {
            format!(
                "is {} characters long; the limit is {MAX_SECRET_NAME}",
                s.len()
            )
        } else {
            return Ok(Self(s.into()));
        };
        Err(InvalidSecretName(why))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A git server over HTTPS.
    Git,
    /// A container registry.
    Registry,
}

impl Kind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Git => "git_secret",
            Kind::Registry => "registry_secret",
        }
    }
}

/// The value that a secret protects.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// What it is for.
    pub kind: Kind,
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: String,
    /// The registry's host, empty for Docker Hub; or the git server's host with its port, if any,
    /// empty until first use.
    pub server_address: String,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Value {
    /// One violation for each wrong field, in proto spelling. Values are never quoted.
    pub fn check(&self) -> Vec<FieldViolation> {
        let (at, password, server) = match self.kind {
            Kind::Git => ("value.git_secret", "token", "host"),
            Kind::Registry => ("value.registry_secret", "password", "server_address"),
        };
        let mut wrong = Vec::new();
        for (field, text, required) in [
            // Git servers that accept a token may ignore the user name.
            ("username", &self.username, self.kind == Kind::Registry),
            (password, &self.password, true),
            (server, &self.server_address, false),
        ] {
            let why = if text.is_empty() && required {
                "is missing".to_owned()
            } else if text.len() > MAX_SECRET_BYTES {
                format!(
                    "is {} bytes long; the limit is {MAX_SECRET_BYTES}",
                    text.len()
                )
            } else if text.contains(|c: char| c.is_control()) {
                "has a line break or another control character in it".to_owned()
            } else if field == "host" && text.contains(['/', '@']) {
                "is no host; give one such as \"git.example:8443\", without a scheme or path"
                    .to_owned()
            } else if field == server && text.contains(char::is_whitespace) {
                "has white space in it; give a host such as \"registry.example:5000\", or leave it empty for Docker Hub".to_owned()
            } else {
                continue;
            };
            wrong.push(FieldViolation {
                field: format!("{at}.{field}"),
                description: why,
            });
        }
        wrong
    }
}

/// A secret as it is stored: everything except the value is legible.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The owner.
    pub org: OrgName,
    /// The name within the owner.
    pub name: SecretName,
    /// What it is for.
    pub kind: Kind,
    /// When it was first created, Unix milliseconds.
    pub created_at_ms: i64,
    /// When it was last overwritten, Unix milliseconds.
    pub updated_at_ms: i64,
    /// The encrypted value.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {}/{}", self.org, self.name)
    }
}

/// The registry in an image reference, or of credentials: its host, with the port if any.
pub fn registry_of_image(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => hub(host),
        _ => DOCKER_HUB,
    }
}

/// The registry's host in an address, which people write with a scheme, with a path, or bare.
pub fn registry_of_address(address: &str) -> &str {
    let bare = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address);
    hub(bare.split('/').next().unwrap_or(bare))
}

fn hub(host: &str) -> &str {
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_contract_allows() {
        for good in ["a", "A-b_9", &"x".repeat(64)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a.b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_shows_nothing_of_itself() {
        let value = Value {
            kind: Kind::Registry,
            username: "someone".into(),
            password: "hidden\n".into(),
            server_address: "a b".into(),
        };
        let shown = format!("{value:?} {:?}", value.check());
        assert!(!shown.contains("hidden") && !shown.contains("someone"));
        let fields: Vec<_> = value.check().into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            [
                "value.registry_secret.password",
                "value.registry_secret.server_address"
            ]
        );
    }

    #[test]
    fn registries_are_recognized_however_they_are_written() {
        for (reference, host) in [
            ("redis", DOCKER_HUB),
            ("team/app:1", DOCKER_HUB),
            ("docker.io/team/app", DOCKER_HUB),
            ("localhost/app", "localhost"),
            ("127.0.0.1:5000/team/app@sha256:00", "127.0.0.1:5000"),
            ("registry.example/app", "registry.example"),
        ] {
            assert_eq!(registry_of_image(reference), host, "{reference}");
        }
        for (address, host) in [
            ("", DOCKER_HUB),
            ("https://index.docker.io/v1/", DOCKER_HUB),
            ("http://registry.example:5000/v2", "registry.example:5000"),
            ("registry.example", "registry.example"),
        ] {
            assert_eq!(registry_of_address(address), host, "{address}");
        }
    }
}
