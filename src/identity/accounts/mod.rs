//! Service accounts: who may fetch tokens with a secret, for which organization, and what they open.
//!
//! One file has them all. The command line changes it under the folder's lock and notifies the
//! server that runs; the server only reads. A secret is shown once and kept as a hash (`secret.rs`).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

mod secret;

pub use secret::Secret;
pub(super) use secret::verify;

use super::{Error as FileError, control, folder, token::unix_ms};
use crate::{
    config::MAX_TOKEN_TTL,
    model::{AccountName, AppId, Grants, OrgName, Role, Scopes},
};

/// The form of the file.
const FORMAT: u32 = 1;

/// Why an account cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is taken.
    #[error(
        "there is a service account {0} already{1}; delete it, rotate its secret, or choose another name"
    )]
    Exists(String, &'static str),
    /// There is no such account in the organization.
    #[error(
        "organization {org} has no service account {id}; `ignite service-account list --org {org}` shows those there are"
    )]
    Missing {
        /// The account.
        id: String,
        /// The organization.
        org: OrgName,
    },
    /// The role cannot be granted so.
    #[error("{0}")]
    Role(String),
    /// The file, or the server that runs.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A role that an account has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Its name.
    #[serde(with = "text")]
    pub role: Role,
    /// The app that it is bound to, without the organization; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// A secret of an account, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Stands in the secret, and in the tokens that were made with it.
    pub(super) id: String,
    /// After Argon2, as a PHC string.
    pub(super) hash: String,
    created_at_ms: u64,
    /// When it stops to give tokens; `None` for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at_ms: Option<u64>,
}

/// A service account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Unique on a server.
    #[serde(with = "text")]
    pub name: AccountName,
    /// Whose member its tokens make.
    #[serde(with = "text")]
    pub org: OrgName,
    /// When it was made.
    pub created_at_ms: u64,
    /// What it may do; nothing here leaves that to the server's `default_scopes`.
    #[serde(default)]
    pub roles: Vec<Granted>,
    pub(super) secrets: Vec<Kept>,
}

impl Account {
    /// What the account may do: `default` where it has no role.
    pub(super) fn grants(&self, default: Scopes) -> Grants {
        if self.roles.is_empty() {
            return Grants::everywhere(default);
        }
        let mut grants = Grants::default();
        for Granted { role, app } in &self.roles {
            let name = app.as_deref().map(str::parse);
            match name {
                None => grants.everywhere = grants.everywhere.or(role.scopes()),
                // Checked when it was granted.
                Some(Err(_)) => {}
                Some(Ok(name)) => {
                    let org = self.org.clone();
                    grants.apps.push((AppId { org, name }, role.scopes()));
                }
            }
        }
        grants
    }

    /// When the newest secret was made.
    pub fn secret_created_at_ms(&self) -> u64 {
        self.secrets
            .iter()
            .map(|s| s.created_at_ms)
            .max()
            .unwrap_or(0)
    }

    /// Whether an earlier secret is still good at `now`.
    pub fn has_earlier_secret(&self, now: SystemTime) -> bool {
        let now = unix_ms(now);
        self.secrets
            .iter()
            .any(|s| s.expires_at_ms.is_some_and(|at| at > now))
    }
}

/// All accounts of a server, by name.
#[derive(Debug, Default, Clone)]
pub(super) struct Accounts(BTreeMap<AccountName, Account>);

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    accounts: Vec<Account>,
}

fn path(data_dir: &Path) -> PathBuf {
    folder::path(data_dir).join("accounts.json")
}

impl Accounts {
    /// Reads the accounts; none where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read or has another form.
    pub(super) fn read(data_dir: &Path) -> Result<Self, FileError> {
        let path = path(data_dir);
        let bytes = folder::read(&path).map_err(|cause| FileError::Io {
            action: "read",
            path: path.clone(),
            cause,
        })?;
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let malformed = |cause: String| FileError::Malformed {
            path: path.clone(),
            cause,
        };
        let file: File = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if file.format != FORMAT {
            return Err(malformed(format!(
                "its form is {}, and this version knows {FORMAT}",
                file.format
            )));
        }
        let named = file.accounts.into_iter().map(|a| (a.name.clone(), a));
        Ok(Self(named.collect()))
    }

    fn write(&self, data_dir: &Path) -> Result<(), FileError> {
        let path = path(data_dir);
        let file = File {
            format: FORMAT,
            accounts: self.0.values().cloned().collect(),
        };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| folder::write(&path, &bytes));
        written.map_err(|cause| FileError::Io {
            action: "write",
            path,
            cause,
        })
    }

    pub(super) fn get(&self, name: &AccountName) -> Option<&Account> {
        self.0.get(name)
    }
}

/// The accounts of a data directory, to change.
pub struct Book {
    data_dir: PathBuf,
}

impl Book {
    /// Of this data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
        }
    }

    /// The accounts of an organization.
    ///
    /// # Errors
    /// See [`Error::File`].
    pub fn list(&self, org: &OrgName) -> Result<Vec<Account>, Error> {
        let all = Accounts::read(&self.data_dir)?.0;
        Ok(all.into_values().filter(|a| a.org == *org).collect())
    }

    /// Makes an account, and its first secret.
    ///
    /// # Errors
    /// [`Error::Exists`], also when another organization has the name: a client id names no
    /// organization.
    pub fn create(
        &self,
        org: &OrgName,
        name: &AccountName,
        roles: Vec<Granted>,
        now: SystemTime,
    ) -> Result<Secret, Error> {
        for granted in &roles {
            check(granted)?;
        }
        self.change(|all| {
            if let Some(known) = all.get(name) {
                let elsewhere = if known.org == *org {
                    ""
                } else {
                    " on this server, of another organization"
                };
                return Err(Error::Exists(name.client_id(), elsewhere));
            }
            let (secret, kept) = new_secret(now)?;
            let account = Account {
                name: name.clone(),
                org: org.clone(),
                created_at_ms: unix_ms(now),
                roles,
                secrets: vec![kept],
            };
            all.insert(name.clone(), account);
            Ok(secret)
        })
    }

    /// Gives an account a new secret. Those before give tokens for `keep` more; without it, they and
    /// the tokens that were made with them are refused at once.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn rotate(
        &self,
        org: &OrgName,
        name: &AccountName,
        keep: Option<Duration>,
        now: SystemTime,
    ) -> Result<Secret, Error> {
        let now_ms = unix_ms(now);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.change(|all| {
            let account = find(all, org, name)?;
            let (secret, kept) = new_secret(now)?;
            match keep {
                None => account.secrets.clear(),
                Some(keep) => {
                    let until = now_ms.saturating_add(ms(keep));
                    for old in &mut account.secrets {
                        let at = old.expires_at_ms.get_or_insert(until);
                        *at = (*at).min(until);
                    }
                    // Remembered until the last token that it gave has expired.
                    let life = ms(MAX_TOKEN_TTL);
                    let ended = |old: &Kept| old.expires_at_ms.is_some_and(|at| at + life < now_ms);
                    account.secrets.retain(|old| !ended(old));
                }
            }
            account.secrets.push(kept);
            Ok(secret)
        })
    }

    /// Deletes an account; its tokens are refused at once.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn delete(&self, org: &OrgName, name: &AccountName) -> Result<(), Error> {
        self.change(|all| {
            find(all, org, name)?;
            all.remove(name);
            Ok(())
        })
    }

    /// Grants a role, or takes one back; a role that is there, or is not, is no error. Tokens that
    /// were made before follow at once. Returns the account as it is then.
    ///
    /// # Errors
    /// [`Error::Missing`], and [`Error::Role`] for one that cannot be bound to an app.
    pub fn set_role(
        &self,
        org: &OrgName,
        name: &AccountName,
        granted: &Granted,
        is_granted: bool,
    ) -> Result<Account, Error> {
        check(granted)?;
        self.change(|all| {
            let account = find(all, org, name)?;
            account.roles.retain(|known| known != granted);
            if is_granted {
                account.roles.push(granted.clone());
            }
            Ok(account.clone())
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<AccountName, Account>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _lock = folder::lock(&self.data_dir).map_err(|cause| FileError::Io {
            action: "lock",
            path: folder::path(&self.data_dir),
            cause,
        })?;
        let mut accounts = Accounts::read(&self.data_dir)?;
        let outcome = change(&mut accounts.0)?;
        accounts.write(&self.data_dir)?;
        control::notify(&self.data_dir)?;
        Ok(outcome)
    }
}

fn find<'a>(
    all: &'a mut BTreeMap<AccountName, Account>,
    org: &OrgName,
    name: &AccountName,
) -> Result<&'a mut Account, Error> {
    let found = all.get_mut(name).filter(|a| a.org == *org);
    found.ok_or_else(|| Error::Missing {
        id: name.client_id(),
        org: org.clone(),
    })
}

fn check(granted: &Granted) -> Result<(), Error> {
    let Some(app) = &granted.app else {
        return Ok(());
    };
    if !granted.role.binds_to_app() {
        let why = format!(
            "{} cannot be bound to an app; grant it without --app",
            granted.role
        );
        return Err(Error::Role(why));
    }
    let name = app.parse::<crate::model::AppName>();
    name.map(drop)
        .map_err(|e| Error::Role(format!("--app: {e}")))
}

fn new_secret(now: SystemTime) -> Result<(Secret, Kept), Error> {
    let secret = Secret::generate();
    let hash = secret.hash().map_err(|cause| FileError::Io {
        action: "hash a secret for",
        path: PathBuf::from("accounts.json"),
        cause: io::Error::other(cause),
    })?;
    let kept = Kept {
        id: secret.id().to_owned(),
        hash,
        created_at_ms: unix_ms(now),
        expires_at_ms: None,
    };
    Ok((secret, kept))
}

/// Names as text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
