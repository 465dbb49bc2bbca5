//! Verifies tokens, and caches the valid ones until they expire.
//!
//! A signature check costs about a tenth of a millisecond, a cache lookup close to a microsecond.
//! Most requests of a thread carry the same token as the one before, which needs no lookup at all.
//! Expiry is checked on every call, so only the number of cached tokens is bounded.
//!
//! What tokens are checked against ([`Trust`]) is replaced as a whole when keys or accounts change,
//! and has a generation. What was found under an earlier generation is not believed any more, so a
//! revocation holds from the next request on, for the price of one load of an atomic.

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{HeaderMap, header::AUTHORIZATION};
use moka::sync::Cache;
use parking_lot::Mutex;

use super::{
    Caller, SigningKey,
    accounts::Accounts,
    bearer,
    check::{Rules, check, is_own_issuer},
    oidc::Fetches,
    token::{Header, check_expiry, issuer_of, json_part, unix_ms},
    trust::Trust,
};
use crate::model::{Failure, Reason};

/// Wall time, for `exp` and `nbf`; a function so that tests can move it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

/// Most cached tokens: about 1 KiB each.
const CACHE_CAPACITY: u64 = 10_000;
/// A token that was good, and the generation of [`Trust`] that it was checked against.
#[derive(Clone)]
struct Verified {
    caller: Arc<Caller>,
    generation: u64,
}

/// The token that a thread verified last, and its caller.
struct Last {
    token: Box<str>,
    verified: Verified,
    /// The verifier that did so: another one, with another key, must not trust the entry.
    by: Weak<()>,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// Checks bearer tokens.
pub struct Verifier {
    rules: Rules,
    trust: ArcSwap<Trust>,
    generation: AtomicU64,
    /// Held while the trust is replaced.
    replacing: Mutex<()>,
    /// For each issuer elsewhere the way to have its keys fetched.
    fetches: Vec<Fetches>,
    clock: Clock,
    verified: Cache<Box<str>, Verified>,
    identity: Arc<()>,
}

impl Verifier {
    pub(super) fn new(rules: Rules, trust: Trust, clock: Clock) -> Self {
        Self {
            rules,
            fetches: trust.foreign.iter().map(|_| Fetches::default()).collect(),
            trust: ArcSwap::from_pointee(trust),
            generation: AtomicU64::new(0),
            replacing: Mutex::default(),
            clock,
            verified: Cache::new(CACHE_CAPACITY),
            identity: Arc::default(),
        }
    }

    /// A verifier of the tokens of one key.
    pub(super) fn of_key(rules: Rules, key: &SigningKey, clock: Clock) -> Self {
        let trust = Trust::of(key, Vec::new(), Accounts::default(), Vec::new());
        let trust = trust.expect("a key that was opened has its thumbprint as its id");
        Self::new(rules, trust, clock)
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// What tokens are checked against now.
    pub(super) fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    pub(super) fn fetches(&self) -> &[Fetches] {
        &self.fetches
    }

    /// Replaces what tokens are checked against. From its return on, nothing that was found before
    /// is believed.
    pub(super) fn replace(&self, change: impl FnOnce(&Trust) -> Trust) {
        let _one_at_a_time = self.replacing.lock();
        let next = change(&self.trust.load());
        self.trust.store(Arc::new(next));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The caller that `token` speaks for. `from` is asked for the client's address when the token
    /// has to be checked.
    ///
    /// # Errors
    /// [`Reason::Unauthenticated`], saying what is wrong with the token; after too many forged ones
    /// from an address, [`Reason::TooManyRequests`].
    pub fn verify(
        &self,
        token: &str,
        from: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Caller>, Failure> {
        // Read first: what is found from here on is at least as new.
        let generation = self.generation.load(Ordering::Acquire);
        let now = unix_ms((self.clock)());
        if let Some(caller) = self.last(token, generation)
            && check_expiry(caller.expires_at_ms, self.rules.skew, now).is_ok()
        {
            return Ok(caller);
        }
        let verified = match self.verified.get(token) {
            Some(known) if known.generation == generation => known,
            known => {
                // One that was good is checked again whatever else its address has sent.
                let from = known.is_none().then(from);
                let caller = self.check_from(token, now, from);
                let caller = caller.inspect_err(|_| self.verified.invalidate(token))?;
                let verified = Verified {
                    caller: Arc::new(caller),
                    generation,
                };
                self.verified.insert(token.into(), verified.clone());
                verified
            }
        };
        if let Err(expired) = check_expiry(verified.caller.expires_at_ms, self.rules.skew, now) {
            self.verified.invalidate(token);
            return Err(expired);
        }
        let caller = verified.caller.clone();
        LAST.set(Some(Last {
            token: token.into(),
            verified,
            by: Arc::downgrade(&self.identity),
        }));
        Ok(caller)
    }

    /// Notes credentials from an address that were not genuine.
    pub(super) fn note_failure(&self, from: IpAddr) {
        // Refused from then on; this one has its answer.
        let _ = self.rules.failures.take(from);
    }

    /// # Errors
    /// [`Reason::TooManyRequests`] after too many credentials from the address that were not genuine.
    pub(super) fn check_failures(&self, from: IpAddr) -> Result<(), Failure> {
        self.rules.failures.check(from).map_err(|wait| {
            Failure::new(
                Reason::TooManyRequests,
                "too many tokens and secrets from this address were not genuine (IGNITE_AUTH_FAILURES_PER_MINUTE); a token that was in use goes on to work, another one is checked again later",
            )
            .with_retry_after(wait)
        })
    }

    /// Checks a token; one from an address counts there if it is not genuine.
    fn check_from(&self, token: &str, now: u64, from: Option<IpAddr>) -> Result<Caller, Failure> {
        if let Some(from) = from {
            self.check_failures(from)?;
        }
        check(token, &self.trust.load(), &self.rules, now).map_err(|refused| {
            if let Some(from) = from.filter(|_| !refused.is_genuine) {
                self.note_failure(from);
            }
            refused.failure
        })
    }

    /// The wait for the keys of an issuer, when a request has a token of it that is signed with a key
    /// which is not known yet. It ends when the key is known, or is known not to be there.
    pub fn awaited_key(
        self: &Arc<Self>,
        headers: &HeaderMap,
        from: impl FnOnce() -> IpAddr,
    ) -> Option<BoxFuture<'static, ()>> {
        if self.fetches.is_empty() {
            return None;
        }
        let token = bearer(headers).ok()??;
        let generation = self.generation.load(Ordering::Acquire);
        if self.last(token, generation).is_some() || self.verified.contains_key(token) {
            return None;
        }
        let header = Header::of(token).ok()?;
        let trust = self.trust.load();
        let is_own = header.kid.as_deref().is_some_and(|kid| trust.is_own(kid));
        if is_own || self.rules.failures.check(from()).is_err() {
            return None;
        }
        let (index, foreign) = trust.foreign(&issuer_of(token)?)?;
        if foreign.key(header.kid.as_deref()).is_some() {
            return None;
        }
        let waiting = self.fetches[index].next()?;
        let verifier = self.clone();
        let is_there = move || {
            let trust = verifier.trust.load();
            trust.foreign[index].key(header.kid.as_deref()).is_some()
        };
        Some(Box::pin(waiting.until(is_there)))
    }

    /// Takes out of a request each `Authorization` with something in it that looks like a token of
    /// the platform: signed with one of its keys' names, or by an issuer of its tokens.
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
        let trust = self.trust.load();
        line.split(|b| !is_of_a_token(b)).any(|word| {
            let mut parts = word.split(|b| *b == b'.');
            let mut next_says = |name: &str, is_ours: &dyn Fn(&str) -> bool| {
                let json = parts.next().and_then(json_part);
                let said = json.as_ref().and_then(|j| j.get(name)?.as_str());
                said.is_some_and(is_ours)
            };
            next_says("kid", &|kid| trust.is_own(kid))
                | next_says("iss", &|iss| {
                    is_own_issuer(iss) || trust.foreign(iss).is_some()
                })
        })
    }

    /// The caller, when this thread has just seen this token.
    fn last(&self, token: &str, generation: u64) -> Option<Arc<Caller>> {
        LAST.with_borrow(|last| {
            let last = last.as_ref()?;
            let is_it = *last.token == *token
                && last.verified.generation == generation
                && last.by.as_ptr() == Arc::as_ptr(&self.identity);
            is_it.then(|| last.verified.caller.clone())
        })
    }
}

impl SigningKey {
    /// A verifier of this key's tokens alone, with the default settings.
    pub fn verifier(&self, clock: Clock) -> Verifier {
        Verifier::of_key(Rules::default(), self, clock)
    }
}
