//! What tokens are checked against: keys, accounts, issuers. A snapshot that is replaced as a whole.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey};

use super::{
    Error, SigningKey,
    accounts::{Account, Accounts},
    public_key::PublicKey,
    token::unix_ms,
};
use crate::{config::Issuer, model::AccountName};

/// A key that verifies signatures.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// An issuer elsewhere and the keys that it had last.
#[derive(Clone)]
pub(super) struct Foreign {
    pub(super) issuer: Arc<Issuer>,
    pub(super) keys: Arc<HashMap<String, Key>>,
}

/// Everything that a token is checked against.
#[derive(Clone, Default)]
pub(super) struct Trust {
    /// This server's keys, the one that signs among them.
    own: Arc<HashMap<String, Own>>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) foreign: Vec<Foreign>,
}

/// A key of this server.
pub(super) struct Own {
    public: PublicKey,
    key: DecodingKey,
}

impl Trust {
    /// What the data directory has.
    pub(super) fn of(
        signing: &SigningKey,
        others: Vec<PublicKey>,
        accounts: Accounts,
        foreign: Vec<Foreign>,
    ) -> Result<Self, Error> {
        let mut own = HashMap::new();
        // Last, since it stays although its public half may have been published to run out.
        for public in others.into_iter().chain([signing.public().clone()]) {
            let key = public.decoding().map_err(|cause| Error::Malformed {
                path: format!("{}.json", public.kid).into(),
                cause,
            })?;
            own.insert(public.kid.clone(), Own { public, key });
        }
        Ok(Self {
            own: Arc::new(own),
            accounts: Arc::new(accounts),
            foreign,
        })
    }

    /// The same with these issuers.
    pub(super) fn with(&self, foreign: Vec<Foreign>) -> Self {
        Self {
            foreign,
            ..self.clone()
        }
    }

    /// The key of this server with this id, if it has not run out at `now`.
    pub(super) fn own_key(&self, kid: &str, now: u64) -> Option<&DecodingKey> {
        let own = self.own.get(kid)?;
        let has_run_out = own.public.until_ms.is_some_and(|until| until <= now);
        (!has_run_out).then_some(&own.key)
    }

    pub(super) fn is_own(&self, kid: &str) -> bool {
        self.own.contains_key(kid)
    }

    /// This server's public keys that verify at `now`, by id.
    pub(super) fn public_keys(&self, now: SystemTime) -> Vec<&PublicKey> {
        let now = unix_ms(now);
        let keys = self.own.values().map(|own| &own.public);
        let mut keys: Vec<_> = keys
            .filter(|key| key.until_ms.is_none_or(|until| until > now))
            .collect();
        keys.sort_by(|a, b| a.kid.cmp(&b.kid));
        keys
    }

    /// The issuer with this identity, and where it stands.
    pub(super) fn foreign(&self, url: &str) -> Option<(usize, &Foreign)> {
        let mut all = self.foreign.iter().enumerate();
        all.find(|(_, f)| f.issuer.url == url)
    }

    /// The account of a client id.
    pub(super) fn account(&self, client_id: &str) -> Option<&Account> {
        let name = AccountName::from_client_id(client_id).ok()?;
        self.accounts.get(&name)
    }
}

impl Foreign {
    /// The key of a token's header: the one that it names, or the only one if it names none.
    pub(super) fn key(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(kid) => self.keys.get(kid),
            None => self.keys.values().next().filter(|_| self.keys.len() == 1),
        }
    }
}
