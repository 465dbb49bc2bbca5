//! Fetches an issuer's keys: its discovery document, and the key set that it names.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
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
    /// With the certificate authorities that this system trusts (`SSL_CERT_FILE` names others).
    pub(in crate::identity) fn new() -> anyhow::Result<Self> {
        let ring = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(ring)
            .context("the certificates of this system's authorities")?
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
        let answer = self.http.request(request).await?;
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
