//! What a token says, and whether it may say so: RFC 7515 and 7519, without keys and caches.

use std::{
    collections::BTreeMap,
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
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::{Failure, OrgName, Reason, Role, Scopes};

/// The service whose roles Keycloak lists for a token.
const AUTHORIZATION_SERVICE: &str = "ignite-authorization-service";
/// Algorithms of signatures that are taken.
pub(super) const ALGORITHMS: [&str; 3] = ["ES256", "RS256", "EdDSA"];
/// Organizations of a token that are looked at.
const MAX_ORGS: usize = 256;

/// Takes what another writer of base64 may have made of a token's part, too.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The header of a token.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<Value>,
}

/// A member that is there, even as `null`.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

impl Header {
    /// The header of `token`, whose signature is not checked yet.
    pub(super) fn of(token: &str) -> Result<Self, Failure> {
        let mut parts = token.split('.');
        let (Some(head), Some(_), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let json = URL_SAFE_NO_PAD.decode(head).map_err(|_| malformed())?;
        let header: Self = serde_json::from_slice(&json).map_err(|_| malformed())?;
        match &header.crit {
            None => Ok(header),
            Some(crit) => refuse(format!(
                "the token's header says that {crit} must be understood (`crit`), and no extension is understood here"
            )),
        }
    }
}

/// The issuer of a token whose signature is not checked yet.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: Option<String>,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Issuer>(&claims).ok()?.iss
}

/// What a part of a token says, in whichever base64 it is written.
pub(super) fn json_part(part: &[u8]) -> Option<Value> {
    let safe = part.iter().map(|b| match b {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    });
    let json = LENIENT.decode(safe.collect::<Vec<_>>()).ok()?;
    serde_json::from_slice(&json).ok()
}

/// The claims of a token.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    aud: Option<Names>,
    #[serde(default)]
    pub(super) sub: String,
    pub(super) jti: Option<String>,
    /// The service account, where one fetched the token.
    pub(super) client_id: Option<String>,
    /// With which of its secrets.
    pub(super) ignite_secret: Option<String>,
    organization: Option<BTreeMap<String, Value>>,
    org_name: Option<String>,
    org_id: Option<String>,
    scope: Option<Names>,
    scp: Option<Names>,
    #[serde(default)]
    resource_access: BTreeMap<String, Value>,
}

/// A number of seconds, perhaps with a fraction.
#[derive(Debug, Clone, Copy, Deserialize)]
struct NumericDate(f64);

impl NumericDate {
    /// Unix milliseconds; before 1970 counts as 1970. Rounded up, so that no fraction is lost.
    fn ms(self) -> u64 {
        // The conversion saturates.
        (self.0 * 1000.0).ceil() as u64
    }
}

/// Names as one text, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, several) = match self {
            Names::One(one) => (Some(one), &[][..]),
            Names::Several(several) => (None, &several[..]),
        };
        one.into_iter().chain(several).map(String::as_str)
    }
}

/// Whom a token must be meant for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audience<'a> {
    /// It must name one of these, if it names any.
    pub(super) accepted: &'a [String],
    /// It must name one.
    pub(super) demanded: bool,
}

impl Claims {
    /// Checks the times and the audience; returns when the token expires, in Unix milliseconds.
    pub(super) fn check(
        &self,
        audience: Audience<'_>,
        skew: Duration,
        now: u64,
    ) -> Result<u64, Failure> {
        let Some(exp) = self.exp else {
            return refuse("the token has no `exp` claim");
        };
        check_expiry(exp.ms(), skew, now)?;
        let latest = now.saturating_add(millis(skew));
        if let Some(nbf) = self.nbf.filter(|nbf| nbf.ms() > latest) {
            return refuse(format!(
                "the token is not valid before {}",
                rfc3339(nbf.ms())
            ));
        }
        if let Some(iat) = self.iat.filter(|iat| iat.ms() > latest) {
            return refuse(format!(
                "the token says that it was made at {}, which is to come; set the clocks of who made it and of this machine (it is {} here), or allow for more with clock_skew (IGNITE_CLOCK_SKEW)",
                rfc3339(iat.ms()),
                rfc3339(now)
            ));
        }
        self.check_audience(audience)?;
        Ok(exp.ms())
    }

    fn check_audience(&self, audience: Audience<'_>) -> Result<(), Failure> {
        let Audience { accepted, demanded } = audience;
        let wanted = accepted.join(" or ");
        let Some(aud) = &self.aud else {
            if demanded {
                return refuse(format!(
                    "the token names no audience (`aud`), and {wanted} is demanded here"
                ));
            }
            return Ok(());
        };
        if aud.iter().any(|name| accepted.iter().any(|a| a == name)) {
            return Ok(());
        }
        let names: Vec<_> = aud.iter().take(5).collect();
        refuse(format!(
            "the token is meant for {} (`aud`) and not for {wanted}",
            names.join(", ")
        ))
    }

    /// The organizations: the keys of the map, else the flat fallback.
    pub(super) fn orgs(&self) -> Result<Vec<OrgName>, Failure> {
        let flat = || self.org_name.as_ref().or(self.org_id.as_ref());
        let names: Vec<&String> = match &self.organization {
            Some(map) if !map.is_empty() => map.keys().take(MAX_ORGS).collect(),
            _ => flat().into_iter().collect(),
        };
        if names.is_empty() {
            return refuse(
                "the token has no organization: neither an `organization` claim with an entry nor `org_name`",
            );
        }
        // Of several organizations some may have names that no app here can have; they are no use.
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

    /// What the token's scopes open; `None` when it has no claim of scopes.
    pub(super) fn scopes(&self) -> Option<Scopes> {
        if self.scope.is_none() && self.scp.is_none() {
            return None;
        }
        let claims = self.scope.iter().chain(&self.scp);
        let words = claims.flat_map(Names::iter).flat_map(str::split_whitespace);
        Some(union(words.filter_map(Scopes::named)))
    }

    /// What the roles open that an identity provider lists for the platform; `None` when it lists
    /// none of the platform's.
    pub(super) fn roles(&self) -> Option<Scopes> {
        let service = self.resource_access.get(AUTHORIZATION_SERVICE)?;
        let roles = service.get("roles")?.as_array()?;
        let names = roles.iter().filter_map(Value::as_str);
        let mut known = names.filter_map(Role::parse).map(Role::scopes).peekable();
        known.peek()?;
        Some(union(known))
    }
}

fn union(sets: impl Iterator<Item = Scopes>) -> Scopes {
    sets.fold(Scopes::NONE, Scopes::or)
}

/// Refuses a token that has expired at `now`.
pub(super) fn check_expiry(expires_at: u64, skew: Duration, now: u64) -> Result<(), Failure> {
    if now >= expires_at.saturating_add(millis(skew)) {
        return refuse(format!(
            "the token expired at {}; make a new one",
            rfc3339(expires_at)
        ));
    }
    Ok(())
}

pub(super) fn unauthenticated(why: impl Into<String>) -> Failure {
    Failure::new(Reason::Unauthenticated, why)
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(unauthenticated(why))
}

pub(super) fn malformed() -> Failure {
    unauthenticated(
        "the token is malformed: it is not three base64url parts with a JSON header (a JWT)",
    )
}

/// Unix seconds; a clock before 1970 counts as 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Unix milliseconds; a clock before 1970 counts as 1970.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time in Unix milliseconds for people; one beyond the calendar is a number of seconds.
fn rfc3339(ms: u64) -> String {
    /// The last second of the year 9999, after which RFC 3339 has no spelling.
    const LAST: u64 = 253_402_300_799;
    let seconds = ms / 1000;
    if seconds > LAST {
        return seconds.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
