//! Fetches an issuer's keys: its discovery document, and the key set that it names.

use std::{collections::HashMap, error::Error, io, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::Deserialize;

use super::jwks;
use crate::identity::trust::Key;

/// Most bytes of one answer; key sets have some thousand.
const MAX_BYTES: usize = 256 * 1024;
/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A client of issuers. Cheap to clone.
#[derive(Clone)]
pub(in crate::identity) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Client {
    /// With the certificate authorities that this system trusts (`SSL_CERT_FILE` names others), and
    /// those in the file `ca`.
    pub(in crate::identity) fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new())
                // The next fetch is minutes away.
                .pool_max_idle_per_host(0)
                .build(connector),
        })
    }

    /// The keys of an issuer, and its key set as it came.
    pub(super) async fn keys(
        &self,
        issuer: &str,
    ) -> anyhow::Result<(HashMap<String, Key>, Vec<u8>)> {
        let discovery = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let document = self.get(&discovery).await?;
        let found: Discovery = serde_json::from_slice(&document)
            .with_context(|| format!("{discovery} is no discovery document"))?;
        ensure!(
            found.issuer == issuer,
            "{discovery} is of the issuer {:?}; configure exactly that one",
            found.issuer
        );
        ensure!(
            found.jwks_uri.starts_with("https://") || issuer.starts_with("http://"),
            "{discovery} has its keys at {:?}, without TLS",
            found.jwks_uri
        );
        let set = self.get(&found.jwks_uri).await?;
        let keys = jwks::parse(&set);
        let keys = keys.map_err(|why| anyhow::anyhow!("{}: {why}", found.jwks_uri))?;
        Ok((keys, set))
    }

    async fn get(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let answer = tokio::time::timeout(LIMIT, self.fetch(url)).await;
        match answer {
            Ok(answer) => answer.with_context(|| url.to_owned()),
            Err(_) => bail!("{url} did not answer within {LIMIT:?}"),
        }
    }

    async fn fetch(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let uri: Uri = url.parse()?;
        let request = Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "ignite")
            .body(Empty::new())?;
        let answer = self.http.request(request).await.map_err(explained)?;
        // No redirect is followed: it could lead anywhere, and issuers have none.
        ensure!(
            answer.status().is_success(),
            "the answer is {}",
            answer.status()
        );
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("its answer: {e}"))?;
        Ok(body.to_bytes().to_vec())
    }
}

/// The authorities of the system, and those in the file `ca`.
fn roots(ca: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for cause in &system.errors {
        tracing::warn!(%cause, "Some certificate authorities of this system could not be read; issuers with certificates of them cannot be asked");
    }
    // Systems have some that the library does not take.
    roots.add_parsable_certificates(system.certs);
    let Some(file) = ca else {
        if roots.is_empty() {
            tracing::warn!(
                "This system has no certificate authorities, so no issuer can be asked over https; install them (Debian: ca-certificates), or name a file with some in oidc_ca"
            );
        }
        return Ok(roots);
    };
    let name = format!("oidc_ca {}", file.display());
    let certificates = CertificateDer::pem_file_iter(file).with_context(|| name.clone())?;
    let before = roots.len();
    for certificate in certificates {
        let added = certificate.map_err(anyhow::Error::new);
        added
            .and_then(|certificate| Ok(roots.add(certificate)?))
            .with_context(|| name.clone())?;
    }
    ensure!(
        roots.len() > before,
        "{name} has no certificate; it has to be PEM, with BEGIN CERTIFICATE"
    );
    Ok(roots)
}

/// The error of a request, with what to do about a certificate that is not trusted.
fn explained(error: hyper_util::client::legacy::Error) -> anyhow::Error {
    let why = match untrusted(&error) {
        None => return error.into(),
        Some(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is of an authority that is not trusted here; put the authority's certificate into a file, in PEM, and name that in oidc_ca (IGNITE_OIDC_CA, --oidc-ca)".to_owned()
        }
        Some(other) => format!("its certificate is not good: {other}"),
    };
    anyhow::Error::msg(why)
}

/// What is wrong with the certificate, if that is the cause of an error.
fn untrusted<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why);
    }
    // An I/O error passes over the error in it when it names its cause.
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match inner {
        Some(inner) => untrusted(inner),
        None => untrusted(error.source()?),
    }
}
