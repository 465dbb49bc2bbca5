//! The environments of apps at rest: sealed with the key of the secrets (`secrets/key.rs`).
//!
//! Environments hold database passwords and the like, so a copy of the store without the key's file
//! must not reveal them. In memory, from where apps are started, they are in clear. Rows that an
//! earlier release wrote in clear can be read too; the first start seals them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::secrets::key::KeyFile;
use crate::model::{AppId, Failure};

/// Seals and opens environments.
pub(super) struct Envs {
    key: Arc<KeyFile>,
    /// An environment that cannot be opened counts as empty.
    lenient: bool,
    /// Why the last unreadable environment could not be opened.
    key_error: Mutex<Option<String>>,
}

impl Envs {
    /// Environments sealed with this key, for a server: an unreadable one is an error.
    pub(super) fn new(key: Arc<KeyFile>) -> Self {
        Self {
            key,
            lenient: false,
            key_error: Mutex::default(),
        }
    }

    /// Environments sealed with this key, for tools that read the rest of the store even without
    /// it.
    pub(super) fn lenient(key: Arc<KeyFile>) -> Self {
        Self {
            lenient: true,
            ..Self::new(key)
        }
    }

    /// Opens or creates the key, before anything is sealed.
    ///
    /// # Errors
    /// FAILED_PRECONDITION; see [`KeyFile::open_or_create`].
    pub(super) fn ready(&self, have_secrets: bool) -> Result<(), Failure> {
        self.key.open_or_create(have_secrets).map(drop)
    }

    /// The environment of an app as it is stored; an empty one has no bytes.
    pub(super) fn seal(&self, app: &AppId, env: &BTreeMap<String, String>) -> Vec<u8> {
        if env.is_empty() {
            return Vec::new();
        }
        let key = self.key.get().expect("`ready` has opened the key");
        let plain = serde_json::to_vec(env).expect("a map of texts is JSON");
        key.seal(plain, slot(app).as_bytes())
            .expect("the system's random numbers do not end, and no environment is of gigabytes")
    }

    /// Opens an environment that was sealed for this app.
    ///
    /// # Errors
    /// What is wrong with the key, as in [`Envs::key_error`]; never in the lenient form.
    pub(super) fn open(
        &self,
        app: &AppId,
        sealed: &[u8],
    ) -> Result<BTreeMap<String, String>, String> {
        if sealed.is_empty() {
            return Ok(BTreeMap::new());
        }
        let opened = self.key.get().and_then(|key| {
            let plain = key.open(sealed, slot(app).as_bytes());
            plain
                .and_then(|plain| serde_json::from_slice(&plain).ok())
                .ok_or_else(|| {
                    "it is another key than the one that they were sealed with".to_owned()
                })
        });
        opened.or_else(|why| {
            let key_error = format!(
                "the environments of apps cannot be read with the key {}: {why}",
                self.key.path().display()
            );
            *self.key_error.lock() = Some(key_error.clone());
            if self.lenient {
                Ok(BTreeMap::new())
            } else {
                Err(key_error)
            }
        })
    }

    /// Why an environment could not be opened, if one could not.
    pub(super) fn key_error(&self) -> Option<String> {
        self.key_error.lock().clone()
    }
}

/// The context that a sealed environment is bound to. It contains a blank, unlike any slot of a
/// secret.
fn slot(app: &AppId) -> String {
    format!("app env\0{}\0{}", app.org, app.name)
}
