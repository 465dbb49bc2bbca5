//! The signing key: made once per data directory, kept in a file that only its owner can read.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use p256::{
    SecretKey,
    elliptic_curve::{rand_core::OsRng, sec1::ToEncodedPoint},
    pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding},
};
use serde_json::json;

use super::{ISSUER, folder, public_key::PublicKey, token::unix_seconds};
use crate::{
    atomic_file,
    model::{OrgName, Scopes},
};

/// The default lifetime of a token: a working day, and some.
pub const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// Why the signing key is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no key yet.
    #[error("there is no signing key at {}; it is made when `ignite serve` starts with this data directory", .0.display())]
    Missing(PathBuf),
    /// Users other than the owner can read or change the key.
    #[error("the signing key {path} has mode {mode:03o}, so others could make tokens with it; run `chmod 600 {path}`, or remove the file to have a new key made", path = path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of keys or accounts holds something else.
    #[error("{path} cannot be read as what it should hold ({cause}); restore it, or remove it if nothing needs it any more", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file holds something else.
    #[error("{path} does not hold a P-256 private key in PKCS#8 PEM ({cause}); restore it, or remove it to have a new one made", path = path.display())]
    NotAKey {
        /// The key file.
        path: PathBuf,
        /// The parser's message.
        cause: String,
    },
    /// A server that runs does not use a change.
    #[error(
        "the change is written, and the server that runs does not use it: {0}; its log says more, and a restart reads everything again"
    )]
    NotTaken(String),
    /// The file system refused.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
}

/// The key of one data directory, which signs and verifies its tokens. It is unrelated to the key
/// that seals secrets (`store::secrets`).
pub struct SigningKey {
    public: PublicKey,
    signing: EncodingKey,
}

impl SigningKey {
    /// Opens the key of `data_dir`, and makes one when there is none.
    ///
    /// Two processes may do so at once: a key appears whole or not at all, and only the first one
    /// stays.
    ///
    /// # Errors
    /// As [`SigningKey::open`], and when directory or file cannot be written.
    pub fn open_or_create(data_dir: &Path) -> Result<Self, Error> {
        match Self::open(data_dir) {
            Err(Error::Missing(path)) => {
                create(&path)?;
                Self::open(data_dir)
            }
            opened => opened,
        }
    }

    /// Opens the key of `data_dir`.
    ///
    /// # Errors
    /// [`Error`], each with its remedy.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = key_path(data_dir);
        let io = |action, cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => Error::Missing(path.clone()),
            _ => Error::Io {
                action,
                path: path.clone(),
                cause,
            },
        };
        // Mode and content are read through one descriptor: the path could be replaced in between.
        let mut file = fs::File::open(&path).map_err(|e| io("open", e))?;
        let mode = file
            .metadata()
            .map_err(|e| io("inspect", e))?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Exposed { path, mode });
        }
        let mut pem = String::new();
        io::Read::read_to_string(&mut file, &mut pem).map_err(|e| io("read", e))?;
        Self::from_pem(&pem).map_err(|cause| Error::NotAKey { path, cause })
    }

    fn from_pem(pem: &str) -> Result<Self, String> {
        let key = SecretKey::from_pkcs8_pem(pem).map_err(|e| e.to_string())?;
        let point = key.public_key().to_encoded_point(false);
        let (Some(x), Some(y)) = (point.x(), point.y()) else {
            return Err("its public point has no coordinates".to_owned());
        };
        let public = PublicKey::new(URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self {
            // Says now what else the first token would meet.
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| e.to_string())?,
            public,
        })
    }

    /// The key's id: its thumbprint by RFC 7638.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A token that makes its bearer a member of `org` from `now` until `now + ttl`. It names no
    /// scopes, so a server's setting says what it opens.
    pub fn mint(&self, org: &OrgName, ttl: Duration, now: SystemTime) -> String {
        self.mint_for(&Mint {
            org,
            ttl,
            scopes: None,
            audience: None,
            now,
        })
    }

    /// A token with everything that can be said of one.
    pub fn mint_for(&self, mint: &Mint<'_>) -> String {
        let issued = unix_seconds(mint.now);
        let org = mint.org;
        let mut claims = json!({
            "iss": ISSUER,
            "sub": format!("{ISSUER}:{org}"),
            "iat": issued,
            "nbf": issued,
            "exp": issued.saturating_add(mint.ttl.as_secs()),
            "jti": ulid::Ulid::generate().to_string(),
            "organization": { org.as_str(): { "id": org.as_str() } },
        });
        if let Some(scopes) = mint.scopes {
            claims["scope"] = scopes.to_claim().into();
        }
        if let Some(audience) = mint.audience {
            claims["aud"] = audience.into();
        }
        self.sign(&claims)
    }

    pub(super) fn sign(&self, claims: &serde_json::Value) -> String {
        let header = Header {
            kid: Some(self.public.kid.clone()),
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, claims, &self.signing)
            .expect("a JSON object can be signed with a key that was checked when it was opened")
    }
}

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub struct Mint<'a> {
    /// Whose member the bearer is.
    pub org: &'a OrgName,
    /// How long.
    pub ttl: Duration,
    /// What the token opens; `None` leaves it to the server.
    pub scopes: Option<Scopes>,
    /// For whom the token is meant.
    pub audience: Option<&'a str>,
    /// From when on.
    pub now: SystemTime,
}

fn key_path(data_dir: &Path) -> PathBuf {
    folder::path(data_dir).join("signing-key.pem")
}

/// Writes a fresh key to `path`, unless another process was first.
fn create(path: &Path) -> Result<(), Error> {
    let dir = path
        .parent()
        .expect("the key's path ends in a directory and a file");
    let io = |action, cause: io::Error| Error::Io {
        action,
        path: path.to_owned(),
        cause,
    };
    folder::create(dir).map_err(|cause| Error::Io {
        action: "create the directory",
        path: dir.to_owned(),
        cause,
    })?;
    let pem = fresh().map_err(|e| io("encode the key for", e))?;
    // When another process was first, its key is the key.
    atomic_file::write_new(path, pem.as_bytes())
        .map(drop)
        .map_err(|e| io("write", e))
}

/// A new private key, as its file has it.
fn fresh() -> io::Result<impl std::ops::Deref<Target = String>> {
    let key = SecretKey::random(&mut OsRng);
    key.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)
}

/// A new key that is not in its file yet.
pub(super) struct Next {
    /// Its public half.
    pub(super) public: PublicKey,
    pem: Box<dyn std::ops::Deref<Target = String>>,
}

impl Next {
    pub(super) fn generate() -> Result<Self, String> {
        let pem = fresh().map_err(|e| e.to_string())?;
        let public = SigningKey::from_pem(&pem)?.public;
        Ok(Self {
            public,
            pem: Box::new(pem),
        })
    }

    /// Makes it the key that signs.
    pub(super) fn install(&self, data_dir: &Path) -> io::Result<()> {
        folder::write(&key_path(data_dir), self.pem.as_bytes())
    }
}
