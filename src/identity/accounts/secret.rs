//! Secrets of service accounts: random, shown once, kept as Argon2id hashes.

use std::{fmt, sync::LazyLock};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::elliptic_curve::rand_core::{OsRng, RngCore as _};

/// What a secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "igs_";
/// Length of a secret: the prefix, its id, and 32 random bytes.
const LENGTH: usize = PREFIX.len() + ulid::ULID_LEN + 1 + 43;

/// OWASP's least for Argon2id. The secrets are random, so more would only cost more.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// A secret in the clear.
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    pub(super) fn generate() -> Self {
        let mut random = [0; 32];
        OsRng.fill_bytes(&mut random);
        let id = ulid::Ulid::generate();
        Self(format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// The text, to be shown once.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn id(&self) -> &str {
        id_of(&self.0).expect("a secret is made with an id")
    }

    pub(super) fn hash(&self) -> Result<String, argon2::password_hash::Error> {
        hash(self.0.as_bytes())
    }
}

/// The id within a secret: which of an account's it is. It is not secret itself.
fn id_of(secret: &str) -> Option<&str> {
    let rest = secret.strip_prefix(PREFIX)?;
    (secret.len() == LENGTH && rest.is_ascii()).then(|| &rest[..ulid::ULID_LEN])
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("these are within the bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(secret: &[u8]) -> Result<String, argon2::password_hash::Error> {
    let mut salt = [0; 16];
    OsRng.fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt)?;
    Ok(hasher().hash_password(secret, &salt)?.to_string())
}

/// Whether `secret` is the one among `kept` (id and hash of each) that it says. Costs one hash
/// whatever it is given, and compares in constant time, so that it does not show whether an account
/// or a secret exists. It takes a core for some ten milliseconds: not for threads of connections.
pub(in crate::identity) fn verify<'a>(
    secret: &str,
    kept: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    /// The hash of a random secret that was thrown away.
    static UNKNOWN: LazyLock<String> = LazyLock::new(|| {
        let mut random = [0; 32];
        OsRng.fill_bytes(&mut random);
        hash(&random).expect("a hash of random bytes")
    });
    let wanted = id_of(secret).unwrap_or_default();
    let found = kept.into_iter().find(|(id, _)| *id == wanted);
    let hash = found.map_or(UNKNOWN.as_str(), |(_, hash)| hash);
    let parsed = PasswordHash::new(hash).ok()?;
    // What is too long for a secret is cut off; it is wrong already.
    let text = &secret.as_bytes()[..secret.len().min(2 * LENGTH)];
    let is_right = hasher().verify_password(text, &parsed).is_ok();
    found.filter(|_| is_right).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_own_and_no_other() {
        let (one, two) = (Secret::generate(), Secret::generate());
        let hashes = [&one, &two].map(|s| (s.id().to_owned(), s.hash().expect("a hash")));
        let kept = || hashes.iter().map(|(id, hash)| (id.as_str(), hash.as_str()));
        assert_eq!(verify(one.as_str(), kept()), Some(one.id()));
        assert_eq!(verify(two.as_str(), kept()), Some(two.id()));
        let mixed = one.as_str().replace(one.id(), two.id());
        for wrong in ["", "igs_", &mixed, &format!("{}x", one.as_str())] {
            assert_eq!(verify(wrong, kept()), None, "{wrong}");
        }
        assert_eq!(verify(one.as_str(), []), None);
        assert!(!hashes[0].1.contains(one.as_str()));
        assert!(!format!("{one:?}").contains("igs_"));
    }
}
