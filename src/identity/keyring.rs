//! Keys that verify beside the one that signs: earlier ones until their last token has expired, and
//! the next one before its first.
//!
//! A rotation publishes the next key, waits until the server knows it, and only then lets it sign, so
//! that no token comes before its key is known; the key set shows both. A crash
//! between two steps leaves a key that verifies and never signed, which is harmless.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Error, SigningKey, control, folder, public_key::PublicKey, signing_key::Next, token::unix_ms,
};

/// No token lives longer: durations are bounded by a year, and clocks differ.
const LONGEST_TOKEN: Duration = Duration::from_secs(366 * 24 * 3600);
/// Keys that are read at most; each needs a rotation within a year.
const MAX_KEYS: usize = 1024;

fn folder_of(data_dir: &Path) -> PathBuf {
    folder::path(data_dir).join("verify")
}

fn file_of(data_dir: &Path, kid: &str) -> PathBuf {
    folder_of(data_dir).join(format!("{kid}.json"))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        action,
        path,
        cause,
    }
}

/// The keys that verify beside the one that signs, and have not run out at `now`.
///
/// # Errors
/// A file that cannot be read or is no key.
pub(super) fn published(data_dir: &Path, now: SystemTime) -> Result<Vec<PublicKey>, Error> {
    let folder = folder_of(data_dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("read", &folder)(e)),
    };
    let mut keys = Vec::new();
    for entry in entries.take(MAX_KEYS) {
        let path = entry.map_err(io("read", &folder))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        // Revoked since the folder was listed.
        let Some(bytes) = folder::read(&path).map_err(io("read", &path))? else {
            continue;
        };
        let key: PublicKey = serde_json::from_slice(&bytes).map_err(|e| Error::Malformed {
            path: path.clone(),
            cause: e.to_string(),
        })?;
        if key.until_ms.is_none_or(|until| until > unix_ms(now)) {
            keys.push(key);
        }
    }
    keys.sort_by(|a, b| a.kid.cmp(&b.kid));
    Ok(keys)
}

fn publish(data_dir: &Path, key: &PublicKey, now: SystemTime) -> Result<(), Error> {
    let until = unix_ms(now).saturating_add(LONGEST_TOKEN.as_millis() as u64);
    let key = key.until(until);
    let path = file_of(data_dir, &key.kid);
    let bytes = serde_json::to_vec(&key).map_err(|e| Error::Malformed {
        path: path.clone(),
        cause: e.to_string(),
    })?;
    folder::write(&path, &bytes).map_err(io("write", &path))
}

/// What a change of the keys did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that signs now.
    pub kid: String,
    /// The one that signed before.
    pub previous: String,
}

/// Has a new key sign from now on; tokens of the one before verify until they expire.
///
/// # Errors
/// The file system's, and when a running server does not take the change.
pub fn rotate(data_dir: &Path, now: SystemTime) -> Result<Rotated, Error> {
    let _lock = folder::lock(data_dir).map_err(io("lock", &folder::path(data_dir)))?;
    rotate_locked(data_dir, now)
}

fn rotate_locked(data_dir: &Path, now: SystemTime) -> Result<Rotated, Error> {
    let old = SigningKey::open(data_dir)?;
    let path = folder::path(data_dir);
    let next = Next::generate().map_err(|cause| Error::NotAKey {
        path: path.clone(),
        cause,
    })?;
    publish(data_dir, old.public(), now)?;
    publish(data_dir, &next.public, now)?;
    control::notify(data_dir)?;
    next.install(data_dir).map_err(io("write", &path))?;
    control::notify(data_dir)?;
    Ok(Rotated {
        kid: next.public.kid,
        previous: old.kid().to_owned(),
    })
}

/// Refuses every token of a key from now on. When it is the one that signs, another one replaces it
/// first. Returns whether there was such a key.
///
/// # Errors
/// As [`rotate`].
pub fn revoke(data_dir: &Path, kid: &str, now: SystemTime) -> Result<bool, Error> {
    let _lock = folder::lock(data_dir).map_err(io("lock", &folder::path(data_dir)))?;
    let signs = SigningKey::open(data_dir)?.kid() == kid;
    if signs {
        rotate_locked(data_dir, now)?;
    }
    let path = published(data_dir, now)?
        .iter()
        .find(|key| key.kid == kid)
        .map(|key| file_of(data_dir, &key.kid));
    let Some(path) = path else {
        return Ok(false);
    };
    fs::remove_file(&path).map_err(io("remove", &path))?;
    control::notify(data_dir)?;
    Ok(true)
}

/// A key of a data directory, as the command line lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub kid: String,
    /// Whether it signs new tokens.
    pub signs: bool,
    /// When it stops verifying, in Unix milliseconds; `None` while it signs.
    pub until_ms: Option<u64>,
}

/// The keys of a data directory, the one that signs first.
///
/// # Errors
/// As [`SigningKey::open`].
pub fn list(data_dir: &Path, now: SystemTime) -> Result<Vec<Listed>, Error> {
    let key = SigningKey::open(data_dir)?;
    let first = Listed {
        kid: key.kid().to_owned(),
        signs: true,
        until_ms: None,
    };
    let others = published(data_dir, now)?.into_iter();
    let others = others.filter(|k| k.kid != key.kid()).map(|k| Listed {
        kid: k.kid,
        signs: false,
        until_ms: k.until_ms,
    });
    Ok(std::iter::once(first).chain(others).collect())
}
