//! Settings of tokens: how they are made and checked, what they open, and the audit log.

use std::time::Duration;

use super::Issuers;
use crate::model::Scopes;

/// Longest life of a service account's token: old secrets are remembered for as long.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// Settings of tokens. In the file they stand beside all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// `token_ttl`, `IGNITE_TOKEN_TTL`: how long tokens of service accounts live, at most 24 h.
    /// Default 5 min.
    pub ttl: Duration,
    /// `clock_skew`, `IGNITE_CLOCK_SKEW`: what the clock of whoever made a token may differ by, at
    /// most 10 min. Default 5 s.
    pub skew: Duration,
    /// `token_audience`, `IGNITE_TOKEN_AUDIENCE`: the audience (`aud`) that tokens made here get
    /// and must have; without it, a token that has one must name `ignite`. Default: none.
    pub audience: Option<String>,
    /// `token_issuer`, `IGNITE_TOKEN_ISSUER`: the issuer (`iss`) of tokens given to service
    /// accounts, a URL that ends in `/realms/dodil`. Default: that path at the address that the
    /// client asked.
    pub issuer: Option<String>,
    /// `default_scopes`, `IGNITE_DEFAULT_SCOPES`: what a token of this machine that names no scopes
    /// opens, and a service account without a role: `all`, `none`, or scopes and roles, separated
    /// by commas. Default `all`.
    pub default_scopes: Scopes,
    /// `oidc_issuers`, `IGNITE_OIDC_ISSUERS`: issuers elsewhere whose tokens are accepted,
    /// separated by `;` (a flag `--oidc-issuer` for each). Default `none`.
    pub issuers: Issuers,
    /// `oidc_refresh`, `IGNITE_OIDC_REFRESH`: time between two fetches of an issuer's keys, at
    /// least 10 s. Default 10 min.
    pub issuer_refresh: Duration,
    /// `oidc_ca`, `IGNITE_OIDC_CA`: a PEM file with certificate authorities to trust for issuers,
    /// besides the system's. Default: none.
    pub issuer_ca: Option<String>,
    /// `token_requests_per_minute`, `IGNITE_TOKEN_REQUESTS_PER_MINUTE`: most requests for a token
    /// from one address; 0 sets no bound. Default 60.
    pub requests_per_minute: u32,
    /// `auth_failures_per_minute`, `IGNITE_AUTH_FAILURES_PER_MINUTE`: most secrets and tokens from
    /// one address that are not genuine; 0 sets no bound. Default 600.
    pub failures_per_minute: u32,
    /// `secret_checks`, `IGNITE_SECRET_CHECKS`: secrets of service accounts that are checked at a
    /// time, each with a core and 19 MiB for some ten milliseconds; others wait. Default 2.
    pub secret_checks: usize,
    /// `audit_max_bytes`, `IGNITE_AUDIT_MAX_BYTES`: most bytes of the audit log; 0 keeps none.
    /// Default 64 MiB.
    pub audit_max_bytes: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            // What the platform's identity provider has by default; clients renew before the end.
            ttl: Duration::from_secs(300),
            skew: Duration::from_secs(5),
            audience: None,
            issuer: None,
            default_scopes: Scopes::ALL,
            issuers: Issuers::default(),
            issuer_refresh: Duration::from_secs(600),
            issuer_ca: None,
            // A client needs one in some minutes; many may be behind one address.
            requests_per_minute: 60,
            // Each costs a tenth of a millisecond, and a client with a stale key sends many.
            failures_per_minute: 600,
            secret_checks: 2,
            // Some hundred thousand entries.
            audit_max_bytes: 64 << 20,
        }
    }
}
