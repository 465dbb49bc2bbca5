//! The identity of a server that runs: its verifier, and the tasks that keep it up to date.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Error, SigningKey,
    accounts::Accounts,
    check::Rules,
    control, folder, keyring, oidc,
    trust::Trust,
    verifier::{Clock, Verifier},
};
use crate::{config::Tokens, vitals::Vitals};

/// How often the folder is checked for changes without a notification.
const POLL: Duration = Duration::from_secs(2);

/// Keys, accounts and issuers, as tokens are made and checked with them.
pub struct Identity {
    data_dir: PathBuf,
    settings: Tokens,
    verifier: Arc<Verifier>,
    signing: ArcSwap<SigningKey>,
    /// The folder as it was read last; held while it is read.
    read: Mutex<folder::Fingerprint>,
}

impl Identity {
    /// Opens keys and accounts of `data_dir`, and makes a key when there is none.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn open(data_dir: &Path, settings: &Tokens, clock: Clock) -> Result<Arc<Self>, Error> {
        let seen = folder::fingerprint(data_dir);
        let signing = SigningKey::open_or_create(data_dir)?;
        let audience = settings.audience.as_deref();
        folder::remember_audience(data_dir, audience).map_err(|cause| Error::Io {
            action: "write the audience to",
            path: folder::path(data_dir),
            cause,
        })?;
        let foreign = oidc::remembered(data_dir, settings.issuers.iter());
        let others = keyring::published(data_dir, clock())?;
        let trust = Trust::of(&signing, others, Accounts::read(data_dir)?, foreign)?;
        Ok(Arc::new(Self {
            data_dir: data_dir.to_owned(),
            settings: settings.clone(),
            verifier: Arc::new(Verifier::new(Rules::of(settings), trust, clock)),
            signing: ArcSwap::from_pointee(signing),
            read: Mutex::new(seen),
        }))
    }

    /// What checks tokens.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.clone()
    }

    pub(super) fn settings(&self) -> &Tokens {
        &self.settings
    }

    pub(super) fn signing_key(&self) -> Arc<SigningKey> {
        self.signing.load_full()
    }

    /// The key set (JWKS) of this server: the key that signs, those before it, and the next one.
    pub fn key_set(&self) -> Value {
        let trust = self.verifier.trust();
        let keys = trust.public_keys(self.verifier.now());
        let keys: Vec<_> = keys.into_iter().map(|key| key.to_jwk()).collect();
        json!({ "keys": keys })
    }

    /// Reads keys and accounts again. From its return on, tokens are checked against them.
    ///
    /// # Errors
    /// A file that cannot be used; everything is then as before.
    pub fn reload(&self) -> Result<(), Error> {
        self.reload_if(|_| true)
    }

    fn reload_if(&self, is_wanted: impl FnOnce(&folder::Fingerprint) -> bool) -> Result<(), Error> {
        let mut read = self.read.lock();
        if !is_wanted(&read) {
            return Ok(());
        }
        // Before the files are read: a change meanwhile is seen next time.
        *read = folder::fingerprint(&self.data_dir);
        let signing = SigningKey::open(&self.data_dir)?;
        let others = keyring::published(&self.data_dir, self.verifier.now())?;
        let accounts = Accounts::read(&self.data_dir)?;
        let next = Trust::of(&signing, others, accounts, Vec::new())?;
        self.verifier
            .replace(|trust| next.with(trust.foreign.clone()));
        // Last: no token is signed with a key that is not known yet.
        self.signing.store(Arc::new(signing));
        Ok(())
    }

    /// Keeps keys, accounts and issuers up to date until the tasks are dropped.
    ///
    /// # Errors
    /// When the certificates for issuers cannot be had.
    pub fn keep_up_to_date(self: &Arc<Self>, vitals: &Vitals) -> anyhow::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        match control::listen(&self.data_dir) {
            Ok(listener) => {
                let identity = self.clone();
                let serve = control::serve(listener, move || identity.clone().reload_aside());
                tasks.spawn(vitals.watch("the watch of accounts", serve));
            }
            Err(error) => {
                tracing::warn!(%error, "Commands on this machine cannot notify this server of changes to keys and accounts; it sees them within {POLL:?}");
            }
        }
        // A change between the first reading and now had nothing to notify.
        self.reload()?;
        tasks.spawn(vitals.watch("the watch of accounts", self.clone().poll()));
        let issuers = self.settings.issuers.iter().count();
        if issuers > 0 {
            let client = oidc::Client::new(self.settings.issuer_ca.as_deref().map(Path::new))?;
            for index in 0..issuers {
                let keep = oidc::keep(
                    self.verifier.clone(),
                    index,
                    client.clone(),
                    self.data_dir.clone(),
                    self.settings.issuer_refresh,
                );
                tasks.spawn(vitals.watch("the keys of an issuer", keep));
            }
        }
        Ok(tasks)
    }

    async fn reload_aside(self: Arc<Self>) -> Result<(), Error> {
        let reloaded = tokio::task::spawn_blocking(move || self.reload()).await;
        match reloaded {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(%error, "Keys and accounts could not be read again; everything goes on with those known before");
                Err(error)
            }
            Err(panicked) => Err(Error::NotTaken(panicked.to_string())),
        }
    }

    /// Looks for changes that came without a notification, such as those by hand.
    async fn poll(self: Arc<Self>) {
        let mut pace = tokio::time::interval(POLL);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let identity = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                identity.reload_if(|read| folder::fingerprint(&identity.data_dir) != *read)
            });
            if let Ok(Err(error)) = looked.await {
                tracing::error!(%error, "Keys and accounts have changed and could not be read; everything goes on with those known before");
            }
        }
    }
}
