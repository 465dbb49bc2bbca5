//! The local certificate authority: a key and its certificate in `<data_dir>/tls`, made once.
//!
//! Whoever has the key can impersonate any site to clients that trust the certificate, so only its
//! owner may read it. The certificate follows from the key: a lost one is made again, and clients
//! that trust the old one accept the new one. Its dates are fixed, so a wrong clock at that moment
//! does no harm.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use crate::{atomic_file, clock::now_ms};

/// Its folder in the data directory.
const FOLDER: &str = "tls";
const KEY: &str = "ca-key.pem";
const CERTIFICATE: &str = "ca.pem";

/// First and last year of the authority.
const YEARS: (i32, i32) = (2020, 2060);
/// Certificates of hosts are backdated, for clients with a clock that is behind.
const BACKDATED: Duration = Duration::days(2);
/// How long they are valid. Some clients refuse more than 825 days from a local authority.
const VALIDITY: Duration = Duration::days(90);

/// Why the authority cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others than the owner can read or change the key.
    #[error("the key of the certificate authority {path} has mode {mode:03o}, so others could impersonate any site to clients that trust it; run `chmod 600 {path}`, or remove the file to have a new authority made", path = path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{path} does not hold a P-256 private key in PKCS#8 PEM ({cause}); restore it, or remove it to have a new authority made", path = path.display())]
    NotAKey {
        /// The key file.
        path: PathBuf,
        /// What the parser said.
        cause: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The library refused.
    #[error("a certificate cannot be made: {0}")]
    Library(#[from] rcgen::Error),
}

/// The authority of one data directory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

/// Where the certificate of a data directory's authority is.
pub fn certificate_path(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER).join(CERTIFICATE)
}

impl Authority {
    /// Opens the authority of a data directory, and makes one when there is none. Two processes may
    /// do so at once: the key appears whole or not at all, and only the first one stays.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_or_create(data_dir: &Path) -> Result<Self, Error> {
        let folder = data_dir.join(FOLDER);
        let path = folder.join(KEY);
        let key = match fs::read(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(&folder, &path)?,
            Err(cause) => return Err(io_error("read", &path, cause)),
        };
        let params = params(&key)?;
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let kept = folder.join(CERTIFICATE);
        let pem = match fs::read_to_string(&kept) {
            // Signatures differ from one making to the next; clients may have the one that is kept.
            Ok(pem) if is_of(&pem, issuer.key()) => pem,
            _ => {
                let made = pem::encode(&Pem::new("CERTIFICATE", issuer.der().to_vec()));
                atomic_file::write_readable(&kept, made.as_bytes())
                    .map_err(|cause| io_error("write", &kept, cause))?;
                made
            }
        };
        Ok(Self { issuer, pem })
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Makes a certificate for these names, with a new key.
    ///
    /// # Errors
    /// When a name is none that a certificate can have, or the system gives no random bytes.
    pub(super) fn issue(
        &self,
        names: Vec<SanType>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, super::Error> {
        let issued = self.signed(names).map_err(Error::from)?;
        let (certificate, key) = issued;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider.key_provider.load_private_key(key)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
    }

    fn signed(&self, names: Vec<SanType>) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let now = OffsetDateTime::from_unix_timestamp(now_ms() / 1000);
        let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        params.not_before = now - BACKDATED;
        params.not_after = now + VALIDITY;
        params.subject_alt_names = names;
        params.distinguished_name = named("ignite");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &*self.issuer)?;
        Ok((certificate, key))
    }
}

/// The authority's certificate, which follows from its key.
fn params(key: &KeyPair) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let digest = Sha256::digest(key.der_bytes());
    let mut mark = String::new();
    for byte in &digest[..4] {
        // Writing to text does not fail.
        let _ = write!(mark, "{byte:02x}");
    }
    params.not_before = rcgen::date_time_ymd(YEARS.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(YEARS.1, 1, 1);
    params.distinguished_name = named(&format!("ignite local authority {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "ignite");
    name.push(DnType::CommonName, common_name);
    name
}

/// Whether a certificate in PEM is of this key.
fn is_of(pem: &str, key: &KeyPair) -> bool {
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
    let is_of = |der: &rustls::pki_types::CertificateDer<'_>| {
        let public = key.der_bytes();
        der.windows(public.len()).any(|part| part == public)
    };
    certificate.is_ok_and(|der| is_of(&der))
}

fn parse(path: &Path, text: &[u8]) -> Result<KeyPair, Error> {
    let mode = fs::metadata(path).map_err(|cause| io_error("read", path, cause))?;
    let mode = mode.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(Error::Exposed { path, mode });
    }
    let wrong = |cause: String| Error::NotAKey {
        path: path.to_owned(),
        cause,
    };
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|e| wrong(e.to_string()))?;
    KeyPair::try_from(&key).map_err(|e| wrong(e.to_string()))
}

fn create(folder: &Path, path: &Path) -> Result<KeyPair, Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| io_error("make", folder, cause))?;
    let key = KeyPair::generate()?;
    let text = pem::encode(&Pem::new("PRIVATE KEY", key.serialize_der()));
    match atomic_file::write_new(path, text.as_bytes()) {
        Ok(true) => Ok(key),
        // Another process was first.
        Ok(false) => {
            let text = fs::read(path).map_err(|cause| io_error("read", path, cause))?;
            parse(path, &text)
        }
        Err(cause) => Err(io_error("write", path, cause)),
    }
}

fn io_error(action: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        cause,
    }
}
