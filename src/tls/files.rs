//! Certificates from files.
//!
//! The files are read as a whole and compared with what was read before, which no way of replacing
//! them escapes: writing over them, renaming, a changed link. While the new certificate is there and
//! its key is not yet, the pair does not match, and the one before is used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};

use super::{
    Error,
    names::Names,
    sessions::{Served, Sessions},
};

/// Every pair of files.
pub(super) struct Files {
    pairs: Vec<Pair>,
    sessions: Sessions,
    /// One reading at a time.
    reading: Mutex<()>,
}

/// A certificate's file and its key's, and what is used of them.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    used: ArcSwap<Used>,
    /// Why what the files have now is not used.
    wrong: Mutex<Option<String>>,
}

struct Used {
    digest: [u8; 32],
    names: Names,
    served: Served,
}

/// What was found in a pair of files.
enum Found {
    Same,
    New(Used),
}

impl Files {
    /// Reads every pair.
    ///
    /// # Errors
    /// [`Error::File`] for the first that is not to be used.
    pub(super) fn open(pairs: Vec<(PathBuf, PathBuf)>, sessions: Sessions) -> Result<Self, Error> {
        let pairs = pairs
            .into_iter()
            .map(
                |(certificate, key)| match read(&certificate, &key, None, &sessions)? {
                    Found::New(used) => Ok(Pair {
                        certificate,
                        key,
                        used: ArcSwap::from_pointee(used),
                        wrong: Mutex::default(),
                    }),
                    Found::Same => unreachable!("there is nothing that it could be the same as"),
                },
            )
            .collect::<Result<_, String>>()
            .map_err(Error::File)?;
        Ok(Self {
            pairs,
            sessions,
            reading: Mutex::default(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The first certificate with this very name, else the first with a wildcard for it.
    pub(super) fn find(&self, name: &str) -> Option<Served> {
        let with = |has: fn(&Names, &str) -> bool| {
            let mut used = self.pairs.iter().map(|pair| pair.used.load());
            used.find(|used| has(&used.names, name))
        };
        let found = with(Names::have).or_else(|| with(Names::cover))?;
        Some(found.served.clone())
    }

    /// The first certificate.
    pub(super) fn first(&self) -> Option<Served> {
        Some(self.pairs.first()?.used.load().served.clone())
    }

    /// A name that the first certificate is for.
    pub(super) fn first_name(&self) -> Option<String> {
        let used = self.pairs.first()?.used.load();
        let mut names = used.names.iter();
        // Sorted: those with a `*` come first.
        let name = names.clone().find(|name| !name.starts_with('*'));
        let below = |wildcard: &String| format!("ignite{}", wildcard.trim_start_matches('*'));
        name.cloned().or_else(|| names.next().map(below))
    }

    /// Reads the pairs that have changed.
    pub(super) fn reload(&self) -> String {
        let _reading = self.reading.lock();
        let mut done = Vec::new();
        for pair in &self.pairs {
            let before = pair.used.load().digest;
            let file = pair.certificate.display();
            match read(&pair.certificate, &pair.key, Some(before), &self.sessions) {
                Ok(Found::Same) => *pair.wrong.lock() = None,
                Ok(Found::New(used)) => {
                    pair.used.store(Arc::new(used));
                    *pair.wrong.lock() = None;
                    tracing::info!(%file, "A new certificate is used");
                    done.push(format!("the certificate {file} is new"));
                }
                Err(why) => {
                    done.push(format!("the earlier certificate stays in use: {why}"));
                    let mut wrong = pair.wrong.lock();
                    // Said once, not at every look.
                    if wrong.as_ref() != Some(&why) {
                        tracing::error!("The earlier certificate stays in use: {why}");
                        *wrong = Some(why);
                    }
                }
            }
        }
        if done.is_empty() {
            "the certificates are as they were".to_owned()
        } else {
            done.join("; ")
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let wrong = self.pairs.iter().filter_map(|p| p.wrong.lock().clone());
        wrong
            .map(|why| format!("the earlier certificate stays in use: {why}"))
            .collect()
    }
}

/// Reads a pair, unless its digest is `before`.
fn read(
    certificate: &Path,
    key: &Path,
    before: Option<[u8; 32]>,
    sessions: &Sessions,
) -> Result<Found, String> {
    let bytes = |setting: &str, file: &Path| {
        fs::read(file).map_err(|e| format!("{setting} {} cannot be read: {e}", file.display()))
    };
    let (chain, secret) = (bytes("tls_cert", certificate)?, bytes("tls_key", key)?);
    let digest = Sha256::new_with_prefix(Sha256::digest(&chain))
        .chain_update(&secret)
        .finalize()
        .into();
    if before == Some(digest) {
        return Ok(Found::Same);
    }
    let shown = certificate.display();
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("tls_cert {shown} is not PEM: {e}"))?;
    let Some(leaf) = chain.first() else {
        return Err(format!("tls_cert {shown} has no certificate in PEM"));
    };
    let names = names(leaf).map_err(|e| {
        format!("the first certificate in tls_cert {shown} cannot be read: {e}; put the server's own first, then those of its authorities")
    })?;
    let secret = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|e| format!("tls_key {} has no private key in PEM: {e}", key.display()))?;
    let certified = CertifiedKey::from_der(chain, secret, sessions.provider()).map_err(|e| {
        format!(
            "the key in tls_key {} cannot be used for the first certificate in tls_cert {shown}: {e}",
            key.display()
        )
    })?;
    let served = sessions.serve(certified).map_err(|e| e.to_string())?;
    Ok(Found::New(Used {
        digest,
        names,
        served,
    }))
}

fn names(leaf: &CertificateDer<'_>) -> Result<Names, webpki::Error> {
    let leaf = webpki::EndEntityCert::try_from(leaf)?;
    Ok(Names::new(leaf.valid_dns_names().map(str::to_owned)))
}
