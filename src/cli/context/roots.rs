//! Which certificate authorities a client trusts.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig};

use super::Error;
use crate::{
    cli::failure::unreadable,
    config::{LocalTls, Serving},
    tls::authority,
};

/// The authorities, and the name that the server's certificate has to have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// Files with certificates in PEM.
    files: Vec<PathBuf>,
    /// Whether the system's are trusted as well.
    system: bool,
    /// The name; `None` for the endpoint's.
    name: Option<String>,
}

impl Roots {
    /// Those of `given` alone if it is there; else those of the system, with the local authority of
    /// this user's data directory. The server of that directory says itself (`its`) how it is checked.
    pub(super) fn new(
        given: Option<PathBuf>,
        data_dir: Option<&Path>,
        its: Option<&Serving>,
    ) -> Self {
        let its = its.and_then(|serving| serving.tls.as_ref());
        let name = its.and_then(|tls| tls.name.clone());
        if let Some(file) = given {
            return Self {
                files: vec![file],
                system: false,
                name,
            };
        }
        if let Some(LocalTls { ca: Some(ca), .. }) = its {
            return Self {
                files: vec![ca.clone()],
                system: false,
                name,
            };
        }
        let local = data_dir.map(authority::certificate_path);
        Self {
            files: local.into_iter().filter(|file| file.exists()).collect(),
            system: true,
            name,
        }
    }

    /// The files with authorities.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The same for tonic.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn config(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = ClientTlsConfig::new();
        if self.system {
            config = config.with_native_roots();
        }
        for file in &self.files {
            let pem = std::fs::read(file)
                .map_err(|e| unreadable("the file of certificates", file, &e))?;
            config = config.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some(name) = &self.name {
            config = config.domain_name(name.clone());
        }
        Ok(config)
    }
}
