//! Who calls: bearer tokens made and verified with a key of this data directory.
//!
//! The key is a file, not a row in the store, so that `ignite token create` works while the server
//! holds the store's lock. Tokens are JWTs, signed ES256, with the cloud platform's `organization`
//! claim. `signing_key.rs` keeps the key and mints tokens; `verifier.rs` checks and caches them.

use http::{HeaderMap, header::AUTHORIZATION};

use crate::model::{AppId, Failure, OrgName, Reason, id::PUBLIC_ORG};

mod signing_key;
#[cfg(test)]
mod tests;
mod verifier;

pub use signing_key::{DEFAULT_TOKEN_TTL, Error, SigningKey};
pub use verifier::{Clock, Verifier, system_clock};

/// `iss` of the tokens minted here.
const ISSUER: &str = "ignite";

/// Whom a verified token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The organizations the token names; never empty.
    pub orgs: Vec<OrgName>,
    /// The token's `sub`, for the log; empty when it has none.
    pub subject: String,
    /// The token's `exp` in Unix seconds.
    pub expires_at: u64,
}

impl Caller {
    /// Whether the caller belongs to the organization.
    pub fn owns(&self, org: &OrgName) -> bool {
        self.orgs.contains(org)
    }

    /// Whether the caller may invoke the app: one of its own, or of the public organization.
    pub fn may_invoke(&self, app: &AppId) -> bool {
        app.org.as_str() == PUBLIC_ORG || self.owns(&app.org)
    }
}

/// The bearer token of a request; `None` when it has no `Authorization`.
///
/// # Errors
/// [`Reason::Unauthenticated`] when the header is present and is not one bearer token.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let refuse = |why: &str| Err(Failure::new(Reason::Unauthenticated, why));
    if values.next().is_some() {
        return refuse("the request has more than one Authorization header; send one");
    }
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty());
    match token {
        Some(token) => Ok(Some(token)),
        None => refuse("the Authorization header is not of the form \"Bearer <token>\""),
    }
}
