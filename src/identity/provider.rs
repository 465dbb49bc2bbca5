//! Gives tokens to service accounts: the client credentials of OAuth 2.0, without the transport.
//!
//! A secret costs a core for some ten milliseconds to check, on threads for blocking work, a few at a
//! time; requests beyond those that wait are sent away.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    Identity,
    accounts::{self, Account},
    limiter::AddressLimiter,
    token::{unix_ms, unix_seconds},
};
use crate::{
    audit::{Audit, DONE, Entry, Kind},
    model::Scopes,
};

/// Requests for a token that wait for their secret to be checked; more are sent away.
const MOST_WAITING: usize = 64;
/// When those may come again.
const BUSY: Duration = Duration::from_secs(1);
/// Longest client id that is looked at.
const MAX_ID: usize = 128;
/// Scopes of OpenID Connect, which clients ask for by habit; they change nothing here.
const OF_OPENID: [&str; 5] = ["openid", "profile", "email", "offline_access", "roles"];

/// What a client sends.
pub struct Credentials {
    /// Its id, in either form.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// What the token shall open; everything that the account may do when it says nothing.
    pub scope: Option<String>,
}

/// A token that was given.
#[derive(Debug)]
pub struct Token {
    /// The token.
    pub text: String,
    /// How long it lives.
    pub expires_in: Duration,
    /// What it opens, for anything at all.
    pub scopes: Scopes,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such account, or the secret is not its.
    InvalidClient,
    /// The account may not have a scope that was asked for; in words.
    InvalidScope(String),
    /// Too many requests; when to come again.
    TooMany(Duration),
    /// Too many secrets are being checked; when to come again.
    Busy(Duration),
}

impl Refusal {
    fn as_str(&self) -> &'static str {
        match self {
            Refusal::InvalidClient => "invalid_client",
            Refusal::InvalidScope(_) => "invalid_scope",
            Refusal::TooMany(_) => "too_many_requests",
            Refusal::Busy(_) => "temporarily_unavailable",
        }
    }
}

/// Gives out tokens.
pub struct Provider {
    identity: Arc<Identity>,
    requests: AddressLimiter,
    checks: Arc<Semaphore>,
    waiting: AtomicUsize,
    audit: Audit,
}

/// A request's place among those that wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Provider {
    /// For the accounts of `identity`.
    pub fn new(identity: Arc<Identity>, audit: Audit) -> Self {
        let settings = identity.settings();
        Self {
            requests: AddressLimiter::per_minute(settings.requests_per_minute),
            checks: Arc::new(Semaphore::new(settings.secret_checks)),
            waiting: AtomicUsize::new(0),
            audit,
            identity,
        }
    }

    /// The keys of the server.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The configured issuer.
    pub fn issuer(&self) -> Option<&str> {
        self.identity.settings().issuer.as_deref()
    }

    /// Whether an address may ask for a token now, before anything of its request is read.
    ///
    /// # Errors
    /// [`Refusal::TooMany`].
    pub fn admit(&self, from: IpAddr) -> Result<(), Refusal> {
        let taken = self.requests.take(from).map_err(Refusal::TooMany);
        let admitted = taken.and_then(|()| {
            let failures = self.identity.verifier().check_failures(from);
            failures.map_err(|f| Refusal::TooMany(f.retry_after.unwrap_or(BUSY)))
        });
        admitted.inspect_err(|refusal| {
            self.audit
                .record(Entry::new(Kind::Token, "grant", refusal.as_str(), "").from(Some(from)));
        })
    }

    /// A token for these credentials; `issuer` is who gives it, as the client knows it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn grant(
        &self,
        credentials: Credentials,
        issuer: &str,
        from: IpAddr,
    ) -> Result<Token, Refusal> {
        let id: String = credentials.id.chars().take(MAX_ID).collect();
        let outcome = self.try_grant(credentials, issuer).await;
        let result = match &outcome {
            Ok(_) => DONE,
            Err(refusal) => refusal.as_str(),
        };
        let mut entry = Entry::new(Kind::Token, "grant", result, &id).from(Some(from));
        if let Ok((_, account, jti)) = &outcome {
            entry = entry.org(Some(account.org.as_str())).token(Some(jti));
        }
        self.audit.record(entry);
        if matches!(outcome, Err(Refusal::InvalidClient)) {
            self.identity.verifier().note_failure(from);
        }
        outcome.map(|(token, _, _)| token)
    }

    async fn try_grant(
        &self,
        credentials: Credentials,
        issuer: &str,
    ) -> Result<(Token, Account, String), Refusal> {
        let Credentials { id, secret, scope } = credentials;
        let secret_id = self.check(id.clone(), secret).await?;
        // Looked up again: the account may have been deleted while the secret was checked.
        let verifier = self.identity.verifier();
        let now = unix_ms(verifier.now());
        let trust = verifier.trust();
        let account = trust.account(&id).filter(|a| {
            let secret = a.secrets.iter().find(|s| s.id == secret_id);
            secret.is_some_and(|s| s.expires_at_ms.is_none_or(|at| at > now))
        });
        let account = account.ok_or(Refusal::InvalidClient)?;
        let may = account.grants(verifier.rules().default_scopes).all();
        let asked = match &scope {
            Some(words) => asked(words, may)?,
            None => None,
        };
        let scopes = asked.unwrap_or(may);
        let (text, jti) = self.sign(account, &secret_id, issuer, asked);
        let expires_in = self.identity.settings().ttl;
        let token = Token {
            text,
            expires_in,
            scopes,
        };
        Ok((token, account.clone(), jti))
    }

    /// Checks a secret; returns which of the account's it is.
    async fn check(&self, id: String, secret: String) -> Result<String, Refusal> {
        let place = self
            .waiting
            .fetch_update(Relaxed, Relaxed, |n| (n < MOST_WAITING).then_some(n + 1));
        place.map_err(|_| Refusal::Busy(BUSY))?;
        let place = Place(&self.waiting);
        let permit = self.checks.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Refusal::Busy(BUSY))?;
        let trust = self.identity.verifier().trust();
        // The permit goes along: a client that leaves must not let another check begin beside it.
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let account = trust.account(&id);
            let kept = account.map_or(&[][..], |a| &a.secrets[..]);
            let kept = kept.iter().map(|s| (s.id.as_str(), s.hash.as_str()));
            accounts::verify(&secret, kept).map(str::to_owned)
        });
        let checked = checked.await;
        drop(place);
        match checked {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(Refusal::InvalidClient),
            Err(_) => Err(Refusal::Busy(BUSY)),
        }
    }

    /// A token of an account, and its id. It names scopes only if some were asked for: else what the
    /// account may do counts at the time of each request.
    fn sign(
        &self,
        account: &Account,
        secret_id: &str,
        issuer: &str,
        asked: Option<Scopes>,
    ) -> (String, String) {
        let settings = self.identity.settings();
        let issued = unix_seconds(self.identity.verifier().now());
        let jti = ulid::Ulid::generate().to_string();
        let id = account.name.client_id();
        let org = account.org.as_str();
        let roles = account.roles.iter().filter(|r| r.app.is_none());
        let roles: Vec<&str> = roles.map(|r| r.role.as_str()).collect();
        let mut claims = json!({
            "iss": issuer,
            "sub": id,
            "azp": id,
            "client_id": id,
            "typ": "Bearer",
            "iat": issued,
            "exp": issued.saturating_add(settings.ttl.as_secs()),
            "jti": jti,
            "organization": { org: { "id": org } },
            "ignite_secret": secret_id,
            "resource_access": { "ignite-authorization-service": { "roles": roles } },
        });
        if let Some(scopes) = asked {
            claims["scope"] = scopes.to_claim().into();
        }
        if let Some(audience) = &settings.audience {
            claims["aud"] = audience.as_str().into();
        }
        (self.identity.signing_key().sign(&claims), jti)
    }
}

/// The scopes that a client asks for, which must be among those it may have; `None` when it asks for
/// none of the platform's.
fn asked(words: &str, may: Scopes) -> Result<Option<Scopes>, Refusal> {
    let mut all: Option<Scopes> = None;
    for word in words.split_whitespace().filter(|w| !OF_OPENID.contains(w)) {
        let named = Scopes::named(word).ok_or_else(|| {
            Refusal::InvalidScope(format!("{word:?} is neither a scope nor a role"))
        })?;
        if named.and(may) != named {
            return Err(Refusal::InvalidScope(format!(
                "the service account may not have {word}; grant it a role that has it"
            )));
        }
        all = Some(all.unwrap_or_default().or(named));
    }
    Ok(all)
}
