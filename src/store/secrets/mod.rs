//! Secrets: sealed with a key that is not in the store, opened only when they are used or read.
//!
//! The rows are in the store like everything else, so they are durable in the same way; a copy of
//! the store without the key's file (`key.rs`) is worthless. A value is bound to its slot: a row
//! moved to another name or organization cannot be opened.

pub(super) mod args;
pub(super) mod key;

use std::sync::Arc;

use self::key::{Key, KeyFile};
use super::Store;
use crate::model::{
    Failure, OrgName, Reason,
    catalog::Change,
    secret::{Kind, Sealed, SecretName, Value, registry_of_address, registry_of_image},
};

/// A handle to the secrets of a store; clones share it.
///
/// It stores secrets and opens them. `engine::Keychain` and `builder::Vault` are the functions
/// through which pulls and builds ask it for one; `api::Secrets` is the service over it.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    key: Arc<KeyFile>,
}

impl Secrets {
    /// The secrets of a store. The key's file is created with the first secret, the first
    /// environment of an app, or the first derived key.
    pub fn new(store: Store) -> Self {
        let key = store.key.clone();
        Self { store, key }
    }

    /// A key for another use, which `context` names. It stays the same as long as the data
    /// directory has its key, which is created if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when the data directory's key cannot be used.
    pub fn derive(&self, context: &str) -> Result<[u8; 32], Failure> {
        let key = self
            .key
            .open_or_create(args::has_sealed(&self.store.catalog()))?;
        derived(key, context)
    }

    /// As [`Secrets::derive`], for a data directory that a server may use, whose key is there.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when there is none that can be used.
    pub fn derive_in(data_dir: &std::path::Path, context: &str) -> Result<[u8; 32], Failure> {
        let file = KeyFile::new(data_dir);
        derived(file.open()?, context)
    }

    /// Creates a secret or overwrites it; returns once it is durable.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with each wrong field; FAILED_PRECONDITION when the key cannot be used;
    /// STORE_QUOTA.
    pub async fn put(
        &self,
        org: OrgName,
        name: SecretName,
        value: Value,
        now_ms: i64,
    ) -> Result<Arc<Sealed>, Failure> {
        let wrong = value.check();
        if !wrong.is_empty() {
            return Err(Failure::fields(wrong));
        }
        let key = self.key.clone();
        self.store
            .commit_within(move |catalog| {
                // On the writer's thread, so that no other change creates a key or secret
                // meanwhile.
                let key = key.open_or_create(args::has_sealed(catalog))?;
                let before = catalog.secret(&org, &name);
                let secret = Arc::new(Sealed {
                    sealed: seal(key, &org, &name, &value)?,
                    kind: value.kind,
                    created_at_ms: before.map_or(now_ms, |s| s.created_at_ms),
                    updated_at_ms: now_ms,
                    org,
                    name,
                });
                Ok((vec![Change::PutSecret(secret.clone())], secret))
            })
            .await
    }

    /// A secret with its value.
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION when it cannot be opened.
    pub async fn get(
        &self,
        org: &OrgName,
        name: &SecretName,
    ) -> Result<(Arc<Sealed>, Value), Failure> {
        let secret = self.store.catalog().secret(org, name).cloned();
        let secret = secret.ok_or_else(|| {
            Failure::new(
                Reason::NotFound,
                format!("organization {org} has no secret {name}; create it with CreateSecret (`ignite secret create`)"),
            )
        })?;
        let value = self.open(secret.clone()).await?;
        Ok((secret, value))
    }

    /// At most `limit` secrets of an organization by name, those after `after`.
    pub fn page(
        &self,
        org: &OrgName,
        after: Option<&SecretName>,
        limit: usize,
    ) -> Vec<Arc<Sealed>> {
        self.store.catalog().secrets(org, after, limit)
    }

    /// Deletes a secret; succeeds if there is none.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn delete(&self, org: OrgName, name: SecretName) -> Result<(), Failure> {
        self.store
            .commit(move |catalog| {
                let change = catalog
                    .secret(&org, &name)
                    .map(|_| Change::DeleteSecret(org.clone(), name.clone()));
                Ok((change.into_iter().collect(), ()))
            })
            .await
    }

    /// The credentials for an image in an organization's secret of this name, in their current
    /// value.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, with a detail for the owner: the secret does not exist, is not a
    /// registry secret, or is for another registry.
    pub async fn for_image(
        &self,
        org: &OrgName,
        name: &str,
        image: &str,
    ) -> Result<Value, Failure> {
        let refuse = |why: String| {
            Failure::new(
                Reason::FailedPrecondition,
                "the credentials for the app's image cannot be used",
            )
            .with_detail(why)
        };
        let found = self.find(org, name, "registry_secret_ref", Kind::Registry);
        let value = self.open(found.map_err(refuse)?).await?;
        let (has, wants) = (
            registry_of_address(&value.server_address),
            registry_of_image(image),
        );
        if has != wants {
            return Err(refuse(format!(
                "registry_secret_ref {name:?}: the secret is for the registry {has}, and {image:?} is at {wants}; set its server_address to {wants} or use another secret"
            )));
        }
        Ok(value)
    }

    /// The registry secret of this name, for the base images of a build.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the secret does not exist or is of the other kind.
    pub async fn for_bases(&self, org: &OrgName, name: &str) -> Result<Value, Failure> {
        let found = self.find(org, name, "registry_secret_ref", Kind::Registry);
        self.open(found.map_err(unusable)?).await
    }

    /// The git secret of this name, for a repository at `host`; an empty host is this machine. A
    /// secret without a host is bound to this one from now on, durably before it is returned.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the secret does not exist, is of the other kind, or is for another
    /// host.
    pub async fn for_git(&self, org: &OrgName, name: &str, host: &str) -> Result<Value, Failure> {
        let secret = self.find(org, name, "secret_ref", Kind::Git);
        let secret = secret.map_err(unusable)?;
        let value = self.open(secret.clone()).await?;
        if host.is_empty() || value.server_address.eq_ignore_ascii_case(host) {
            return Ok(value);
        }
        if !value.server_address.is_empty() {
            return Err(unusable(format!(
                "secret_ref {name:?}: the secret is for {} and is sent to no other host than that, and the repository is at {host}; use another secret, or create it again for {host} (`ignite secret create {name} --type git --server {host}`)",
                value.server_address
            )));
        }
        let bound = Value {
            server_address: host.to_owned(),
            ..value
        };
        self.rewrite(secret, bound.clone()).await?;
        Ok(bound)
    }

    /// Replaces the value of a secret that has not changed since it was read.
    async fn rewrite(&self, read: Arc<Sealed>, value: Value) -> Result<(), Failure> {
        let key = self.key.clone();
        self.store
            .commit(move |catalog| {
                let now = catalog.secret(&read.org, &read.name);
                if now.is_none_or(|now| now.sealed != read.sealed) {
                    return Err(unusable(format!(
                        "secret {} was changed while it was used; try again",
                        read.name
                    )));
                }
                let sealed = seal(key.open()?, &read.org, &read.name, &value)?;
                let secret = Arc::new(Sealed {
                    sealed,
                    ..(*read).clone()
                });
                Ok((vec![Change::PutSecret(secret)], ()))
            })
            .await
    }

    /// The secret of this name and kind, or what is wrong with the field that names it.
    fn find(
        &self,
        org: &OrgName,
        name: &str,
        field: &str,
        kind: Kind,
    ) -> Result<Arc<Sealed>, String> {
        let found = name
            .parse()
            .ok()
            .and_then(|name| self.store.catalog().secret(org, &name).cloned());
        let secret = found.ok_or_else(|| {
            format!(
                "{field} {name:?}: organization {org} has no such secret; create it with CreateSecret (`ignite secret create {name}`)"
            )
        })?;
        if secret.kind != kind {
            return Err(format!(
                "{field} {name:?}: the secret is a {}, and a {} is needed",
                secret.kind.as_str(),
                kind.as_str()
            ));
        }
        Ok(secret)
    }

    async fn open(&self, secret: Arc<Sealed>) -> Result<Value, Failure> {
        let key = self.key.clone();
        let opened = tokio::task::spawn_blocking(move || open(key.open()?, &secret)).await;
        opened.unwrap_or_else(|_| {
            Err(Failure::new(
                Reason::Internal,
                "a secret could not be opened by a fault of the platform",
            ))
        })
    }
}

fn unusable(why: String) -> Failure {
    Failure::new(Reason::FailedPrecondition, why)
}

fn seal(key: &Key, org: &OrgName, name: &SecretName, value: &Value) -> Result<Vec<u8>, Failure> {
    let plain = serde_json::to_vec(&(&value.username, &value.password, &value.server_address));
    let sealed = plain
        .ok()
        .and_then(|plain| key.seal(plain, slot(org, name, value.kind).as_bytes()));
    sealed.ok_or_else(|| {
        Failure::new(
            Reason::Internal,
            "the secret could not be encrypted; nothing was stored",
        )
    })
}

fn open(key: &Key, secret: &Sealed) -> Result<Value, Failure> {
    let slot = slot(&secret.org, &secret.name, secret.kind);
    let plain = key.open(&secret.sealed, slot.as_bytes());
    let fields = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
    let (username, password, server_address) = fields.ok_or_else(|| {
        tracing::error!(org = %secret.org, secret = %secret.name, "A secret does not open with the key of this data directory");
        Failure::new(
            Reason::FailedPrecondition,
            format!(
                "secret {} was sealed with another key than the platform has now; create it again",
                secret.name
            ),
        )
    })?;
    Ok(Value {
        kind: secret.kind,
        username,
        password,
        server_address,
    })
}

fn derived(key: &Key, context: &str) -> Result<[u8; 32], Failure> {
    key.derive(context).ok_or_else(|| {
        Failure::new(
            Reason::Internal,
            format!("no key for {context:?} can be derived"),
        )
    })
}

/// The context that a sealed value is bound to.
fn slot(org: &OrgName, name: &SecretName, kind: Kind) -> String {
    format!("{org}\0{name}\0{}", kind.as_str())
}

#[cfg(test)]
mod tests;
