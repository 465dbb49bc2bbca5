//! Verifies tokens, and caches the valid ones until they expire.
//!
//! A signature check costs about a tenth of a millisecond, a cache lookup close to a microsecond.
//! Most requests of a thread carry the same token as the one before, which needs no lookup at all.
//! Expiry is checked on every call, so only the number of cached tokens is bounded.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD},
    },
};
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::Value;

use super::{Caller, ISSUER};
use crate::model::{Failure, OrgName, Reason};

/// Wall time, for `exp` and `nbf`; a function so that tests can move it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

/// The tolerated difference between two machines' clocks.
const LEEWAY_SECS: u64 = 5;
/// Most cached tokens: about 1 KiB each.
const CACHE_CAPACITY: u64 = 10_000;

/// Also accepts the padding and trailing bits that other encoders of base64 may write.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The token that a thread verified last, and its caller.
struct Last {
    token: Box<str>,
    caller: Arc<Caller>,
    /// The verifier that did so: another one, with another key, must not trust the entry.
    by: Weak<()>,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// Checks bearer tokens against one key.
pub struct Verifier {
    kid: String,
    key: DecodingKey,
    validation: Validation,
    clock: Clock,
    verified: Cache<Box<str>, Arc<Caller>>,
    identity: Arc<()>,
}

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<u64>,
    nbf: Option<u64>,
    #[serde(default)]
    sub: String,
    organization: Option<BTreeMap<String, Value>>,
    org_name: Option<String>,
    org_id: Option<String>,
}

impl Verifier {
    pub(super) fn new(kid: String, key: DecodingKey, clock: Clock) -> Self {
        let mut validation = Validation::new(Algorithm::ES256);
        // The times are checked below, on a clock that tests can move.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            kid,
            key,
            validation,
            clock,
            verified: Cache::new(CACHE_CAPACITY),
            identity: Arc::default(),
        }
    }

    /// The caller that `token` speaks for.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`], saying what is wrong with the token.
    pub fn verify(&self, token: &str) -> Result<Arc<Caller>, Failure> {
        let now = unix_seconds((self.clock)());
        if let Some(caller) = self.last(token)
            && check_expiry(caller.expires_at, now).is_ok()
        {
            return Ok(caller);
        }
        let caller = match self.verified.get(token) {
            Some(caller) => caller,
            None => {
                let caller = Arc::new(self.check(token, now)?);
                self.verified.insert(token.into(), Arc::clone(&caller));
                caller
            }
        };
        if let Err(expired) = check_expiry(caller.expires_at, now) {
            self.verified.invalidate(token);
            return Err(expired);
        }
        LAST.set(Some(Last {
            token: token.into(),
            caller: Arc::clone(&caller),
            by: Arc::downgrade(&self.identity),
        }));
        Ok(caller)
    }

    /// Removes each `Authorization` header that contains what looks like a token of the platform:
    /// signed with this key's name, or issued by an `ignite`.
    pub fn withhold(&self, headers: &mut HeaderMap) {
        let lines = headers.get_all(AUTHORIZATION).iter();
        let (ours, others): (Vec<_>, Vec<_>) = lines
            .cloned()
            .partition(|line| self.is_like_ours(line.as_bytes()));
        if ours.is_empty() {
            return;
        }
        headers.remove(AUTHORIZATION);
        for line in others {
            headers.append(AUTHORIZATION, line);
        }
    }

    fn is_like_ours(&self, line: &[u8]) -> bool {
        let is_of_a_token =
            |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b'/');
        line.split(|b| !is_of_a_token(b)).any(|word| {
            let mut parts = word.split(|b| *b == b'.');
            let mut next_says = |name: &str, value: &str| {
                let json = parts.next().and_then(json_part);
                json.is_some_and(|json| json.get(name).and_then(Value::as_str) == Some(value))
            };
            next_says("kid", &self.kid) | next_says("iss", ISSUER)
        })
    }

    /// The caller, when this thread has just seen this token.
    fn last(&self, token: &str) -> Option<Arc<Caller>> {
        LAST.with_borrow(|last| {
            let last = last.as_ref()?;
            let is_it = *last.token == *token && last.by.as_ptr() == Arc::as_ptr(&self.identity);
            is_it.then(|| last.caller.clone())
        })
    }

    fn check(&self, token: &str, now: u64) -> Result<Caller, Failure> {
        let header = header(token)?;
        if header.alg != "ES256" {
            return refuse(format!(
                "the token is signed with {:?}; only ES256 is accepted",
                header.alg
            ));
        }
        match header.kid.as_deref() {
            Some(kid) if kid == self.kid => {}
            Some(kid) => {
                return refuse(format!(
                    "the token is signed with the key {kid:?}, which is not known here; it was made for another data directory, so make a new one with `ignite token create`"
                ));
            }
            None => return refuse("the token names no key (header `kid`)"),
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|e| match e.kind() {
                ErrorKind::InvalidSignature => unauthenticated(
                    "the token's signature is wrong: it was changed after it was signed",
                ),
                ErrorKind::Json(e) => {
                    unauthenticated(format!("the token's claims cannot be read: {e}"))
                }
                _ => malformed(),
            })?
            .claims;
        let Some(expires_at) = claims.exp else {
            return refuse("the token has no `exp` claim");
        };
        check_expiry(expires_at, now)?;
        if let Some(nbf) = claims
            .nbf
            .filter(|nbf| *nbf > now.saturating_add(LEEWAY_SECS))
        {
            return refuse(format!("the token is not valid before {}", rfc3339(nbf)));
        }
        Ok(Caller {
            orgs: orgs(&claims)?,
            subject: claims.sub,
            expires_at,
        })
    }
}

/// The organizations of the claims: the keys of the map, else the flat fallback.
fn orgs(claims: &Claims) -> Result<Vec<OrgName>, Failure> {
    let flat = || claims.org_name.as_ref().or(claims.org_id.as_ref());
    let names: Vec<&String> = match &claims.organization {
        Some(map) if !map.is_empty() => map.keys().collect(),
        _ => flat().into_iter().collect(),
    };
    if names.is_empty() {
        return refuse(
            "the token has no organization: neither an `organization` claim with an entry nor `org_name`",
        );
    }
    // Some of several organizations may have names that no app here can have; those are ignored.
    let mut invalid = None;
    let orgs: Vec<OrgName> = names
        .into_iter()
        .filter_map(|name| name.parse().map_err(|e| invalid = Some(e)).ok())
        .collect();
    match invalid {
        Some(e) if orgs.is_empty() => {
            refuse(format!("the token's organization cannot be used: {e}"))
        }
        _ => Ok(orgs),
    }
}

/// The JSON in a part of a token, in any variant of base64.
fn json_part(part: &[u8]) -> Option<Value> {
    let safe = part.iter().map(|b| match b {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    });
    let json = LENIENT.decode(safe.collect::<Vec<_>>()).ok()?;
    serde_json::from_slice(&json).ok()
}

fn header(token: &str) -> Result<RawHeader, Failure> {
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    let json = URL_SAFE_NO_PAD.decode(head).map_err(|_| malformed())?;
    serde_json::from_slice(&json).map_err(|_| malformed())
}

fn check_expiry(expires_at: u64, now: u64) -> Result<(), Failure> {
    if now >= expires_at.saturating_add(LEEWAY_SECS) {
        return refuse(format!(
            "the token expired at {}; make a new one",
            rfc3339(expires_at)
        ));
    }
    Ok(())
}

fn unauthenticated(why: impl Into<String>) -> Failure {
    Failure::new(Reason::Unauthenticated, why)
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(unauthenticated(why))
}

fn malformed() -> Failure {
    unauthenticated(
        "the token is malformed: it is not three base64url parts with a JSON header (a JWT)",
    )
}

/// Unix seconds; a clock before 1970 counts as 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A claim's time for people; a number beyond the calendar stays a number.
fn rfc3339(seconds: u64) -> String {
    /// The last second of the year 9999, after which RFC 3339 has no spelling.
    const LAST: u64 = 253_402_300_799;
    if seconds > LAST {
        return seconds.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
