//! Whether a token is good: its header, its signature, and what it says, against keys and accounts.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::Value;

use super::{
    Caller, ISSUER, REALM,
    limiter::AddressLimiter,
    token::{ALGORITHMS, Audience, Claims, Header, issuer_of, malformed, unauthenticated},
    trust::{Foreign, Trust},
};
use crate::{
    config::{Issuer, Tokens},
    model::{Failure, Grants, Scopes},
};

/// The audience of tokens that say one, when no other is configured.
const DEFAULT_AUDIENCE: &str = "ignite";

/// How tokens are checked.
pub(super) struct Rules {
    pub(super) skew: Duration,
    audience: Vec<String>,
    demands_audience: bool,
    pub(super) default_scopes: Scopes,
    pub(super) failures: AddressLimiter,
}

impl Rules {
    pub(super) fn of(tokens: &Tokens) -> Self {
        let demanded = tokens.audience.clone();
        Self {
            skew: tokens.skew,
            demands_audience: demanded.is_some(),
            audience: vec![demanded.unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned())],
            default_scopes: tokens.default_scopes,
            failures: AddressLimiter::per_minute(tokens.failures_per_minute),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(&Tokens::default())
    }
}

/// Why a token is refused.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// Whether it was signed by a key that is known: such a token is no attempt to break in.
    pub(super) is_genuine: bool,
}

/// For a token whose signature is not checked yet, or is wrong.
fn forged(failure: Failure) -> Refused {
    Refused {
        failure,
        is_genuine: false,
    }
}

/// For a token with a good signature.
fn genuine(failure: Failure) -> Refused {
    Refused {
        failure,
        is_genuine: true,
    }
}

/// The caller of a token, checked against everything.
pub(super) fn check(
    token: &str,
    trust: &Trust,
    rules: &Rules,
    now: u64,
) -> Result<Caller, Refused> {
    let header = Header::of(token).map_err(forged)?;
    let accepted = if trust.foreign.is_empty() {
        &ALGORITHMS[..1]
    } else {
        &ALGORITHMS
    };
    if !accepted.contains(&header.alg.as_str()) {
        return refuse(format!(
            "the token is signed with {:?}; only {} is accepted",
            header.alg,
            accepted.join(", ")
        ));
    }
    let kid = header.kid.as_deref();
    if let Some(key) = kid.and_then(|kid| trust.own_key(kid, now)) {
        if header.alg != ALGORITHMS[0] {
            return refuse(format!(
                "the token is signed with {:?}; only {} is accepted",
                header.alg, ALGORITHMS[0]
            ));
        }
        let claims = signed_claims(token, key, Algorithm::ES256)?;
        return own_caller(&claims, trust, rules, now).map_err(genuine);
    }
    let foreign = issuer_of(token).and_then(|iss| Some(trust.foreign(&iss)?.1));
    let Some(foreign) = foreign else {
        return match kid {
            Some(kid) => refuse(format!(
                "the token is signed with the key {kid:?}, which is not known here; it was made for another data directory or its key was revoked, so make a new one with `ignite token create`"
            )),
            None => refuse("the token names no key (header `kid`)"),
        };
    };
    let Some(key) = foreign.key(kid) else {
        return refuse(match kid {
            Some(kid) => format!(
                "the token is signed with the key {kid:?}, which is not among the keys that {} had when they were fetched last",
                foreign.issuer.url
            ),
            None => "the token names no key (header `kid`), and its issuer has not exactly one"
                .to_owned(),
        });
    };
    if name_of(key.algorithm) != header.alg {
        return refuse(format!(
            "the token is signed with {:?}, and its key is for {}",
            header.alg,
            name_of(key.algorithm)
        ));
    }
    let claims = signed_claims(token, &key.key, key.algorithm)?;
    foreign_caller(&claims, foreign, rules, now).map_err(genuine)
}

/// The caller of a token that this server, or its command line, has made.
fn own_caller(claims: &Claims, trust: &Trust, rules: &Rules, now: u64) -> Result<Caller, Failure> {
    if claims.iss.as_deref().is_some_and(|iss| !is_own_issuer(iss)) {
        return Err(unauthenticated(
            "the token has another issuer (`iss`) than this server",
        ));
    }
    let audience = Audience {
        accepted: &rules.audience,
        demanded: rules.demands_audience,
    };
    let expires_at_ms = claims.check(audience, rules.skew, now)?;
    let default = rules.default_scopes;
    let grants = match &claims.ignite_secret {
        None => Grants::everywhere(claims.scopes().unwrap_or(default)),
        Some(secret) => {
            let account = claims.client_id.as_deref().and_then(|id| trust.account(id));
            let account = account.filter(|a| a.secrets.iter().any(|s| s.id == *secret));
            let account = account.ok_or_else(|| {
                unauthenticated(
                    "the token was revoked: its service account was deleted, or got another secret; fetch a new one",
                )
            })?;
            let grants = account.grants(default);
            match claims.scopes() {
                Some(asked) => grants.within(asked),
                None => grants,
            }
        }
    };
    Ok(Caller {
        orgs: claims.orgs()?,
        subject: claims.sub.clone(),
        token_id: claims.jti.clone(),
        expires_at_ms,
        grants,
    })
}

/// The caller of a token of an issuer elsewhere.
fn foreign_caller(
    claims: &Claims,
    foreign: &Foreign,
    rules: &Rules,
    now: u64,
) -> Result<Caller, Failure> {
    let issuer = &foreign.issuer;
    let audience = Audience {
        accepted: &issuer.audience,
        demanded: true,
    };
    let expires_at_ms = claims.check(audience, rules.skew, now)?;
    let mut orgs = claims.orgs()?;
    let named = orgs.first().cloned();
    orgs.retain(|org| issuer.may_speak_for(org));
    if orgs.is_empty() {
        let org = named.map(|o| o.to_string()).unwrap_or_default();
        return Err(unauthenticated(format!(
            "the issuer {} may not speak for organization {org} here (orgs in IGNITE_OIDC_ISSUERS)",
            issuer.url
        )));
    }
    Ok(Caller {
        orgs,
        subject: claims.sub.clone(),
        token_id: claims.jti.clone(),
        expires_at_ms,
        grants: Grants::everywhere(foreign_scopes(claims, issuer)),
    })
}

/// What a token of an issuer elsewhere opens. Its scopes may be about other things altogether, such
/// as `openid`; then the configuration says.
fn foreign_scopes(claims: &Claims, issuer: &Issuer) -> Scopes {
    let named = claims.scopes().filter(|scopes| !scopes.is_empty());
    match (named, claims.roles()) {
        (None, None) => issuer.scopes,
        (scopes, roles) => scopes.unwrap_or_default().or(roles.unwrap_or_default()),
    }
}

pub(super) fn is_own_issuer(iss: &str) -> bool {
    iss == ISSUER || iss.ends_with(REALM)
}

fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => ALGORITHMS[1],
        Algorithm::EdDSA => ALGORITHMS[2],
        _ => ALGORITHMS[0],
    }
}

/// The claims, once the signature is checked.
fn signed_claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, Refused> {
    let mut validation = Validation::new(algorithm);
    // Times and audience are checked here, on a clock that tests can move.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Value>(token, key, &validation);
    let claims = decoded.map_err(|e| {
        forged(match e.kind() {
            ErrorKind::InvalidSignature => unauthenticated(
                "the token's signature is wrong: it was changed after it was signed",
            ),
            ErrorKind::Json(e) => {
                unauthenticated(format!("the token's claims cannot be read: {e}"))
            }
            _ => malformed(),
        })
    })?;
    serde_json::from_value(claims.claims).map_err(|e| {
        genuine(unauthenticated(format!(
            "the token's claims cannot be read: {e}"
        )))
    })
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(forged(unauthenticated(why)))
}
