//! Who calls: bearer tokens, made here or by an issuer elsewhere, and what each of them opens.
//!
//! Keys and accounts are files, not rows in the store, so that the command line works while the
//! server holds the store's lock. Tokens made here are JWTs, signed ES256, with the platform's
//! `organization` claim.
//!
//! | file | subject |
//! |---|---|
//! | `verifier.rs` | caches the tokens that were good, and has others checked |
//! | `check.rs`, `token.rs` | whether a token is good; what it says |
//! | `trust.rs` | what tokens are checked against, as a snapshot |
//! | `signing_key.rs`, `public_key.rs`, `keyring.rs` | the key that signs, and those that verify; rotation |
//! | `accounts/` | service accounts and their secrets |
//! | `provider.rs` | gives tokens to service accounts |
//! | `oidc/` | issuers elsewhere and their keys |
//! | `live.rs`, `control.rs`, `folder.rs` | a server takes changes of files at once |
//! | `limiter.rs` | how often an address may try |

use http::{HeaderMap, header::AUTHORIZATION};

use crate::model::{AppId, Failure, Grants, OrgName, Reason, Scope, id::PUBLIC_ORG};

pub mod accounts;
mod check;
mod control;
mod folder;
pub mod keyring;
pub mod limiter;
mod live;
mod oidc;
pub mod provider;
mod public_key;
mod signing_key;
#[cfg(test)]
mod tests;
mod token;
mod trust;
mod verifier;

pub use control::notify;
pub use folder::audience;
pub use live::Identity;
pub use signing_key::{DEFAULT_TOKEN_TTL, Error, Mint, SigningKey};
pub use verifier::{Clock, Verifier, system_clock};

/// `iss` of the tokens that the command line mints.
const ISSUER: &str = "ignite";
/// The path of the token endpoint's realm, with which `iss` of the tokens that it gives ends.
pub const REALM: &str = "/realms/dodil";

/// Whom a verified token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The organizations the token names; never empty.
    pub orgs: Vec<OrgName>,
    /// The token's `sub`, for the log; empty when it has none.
    pub subject: String,
    /// The token's `jti`, for the log.
    pub token_id: Option<String>,
    /// The token's `exp` in Unix milliseconds.
    pub expires_at_ms: u64,
    /// What it may do there.
    pub grants: Grants,
}

impl Caller {
    /// Whether the caller belongs to the organization.
    pub fn owns(&self, org: &OrgName) -> bool {
        self.orgs.contains(org)
    }

    /// Whether the caller may invoke the app: one of its own, or of the public organization.
    pub fn may_invoke(&self, app: &AppId) -> bool {
        (app.org.as_str() == PUBLIC_ORG || self.owns(&app.org))
            && self.grants.allow(Scope::InvokeApp, app)
    }
}

/// The refusal of a caller whose token does not open what it asks for. `of` is what it asked about.
pub fn lacks_scope(scope: Scope, of: Option<&str>) -> Failure {
    let about = of.map(|of| format!(" for {of}")).unwrap_or_default();
    Failure::new(
        Reason::PermissionDenied,
        format!(
            "UMA authorization rejected: the token lacks the scope {scope}{about}; use one whose service account has a role with it (`ignite service-account grant-role ID ROLE`), or that was made with it (`ignite token create --scope {scope}`)"
        ),
    )
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
