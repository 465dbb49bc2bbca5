//! A service account: its id and secret, and the tokens that an issuer gives for them.
//!
//! A token is used until shortly before its end. That of an account in the client's configuration
//! is kept beside it, so that not every command has to ask for one.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::TokioExecutor,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    atomic_file,
    cli::{Error, hidden::Hidden},
    config::Serving,
};

/// Where issuers give tokens, below their base URL.
const REALM: &str = "/realms/dodil";
const ENDPOINT: &str = "/protocol/openid-connect/token";
/// The domain of the cloud, whose issuers are at names beside those of its APIs.
const CLOUD: &str = "dodil.io";
/// Where a server's HTTP listener is when nothing says otherwise.
const DEFAULT_ISSUER: &str = "http://127.0.0.1:8080";
/// How long before its end a token is renewed: a command has to get to the server with it.
const MARGIN: Duration = Duration::from_secs(30);
/// Most bytes of an answer; tokens have some thousand.
const MAX_BYTES: usize = 256 * 1024;
/// The file with the token, beside the configuration.
const CACHE: &str = "ignite-token.json";

/// A service account, and where its tokens come from.
pub(in crate::cli) struct Account {
    id: String,
    secret: Hidden,
    issuer: Uri,
    /// Where the token is kept between commands.
    cache: Option<PathBuf>,
    token: Mutex<Option<Token>>,
}

/// A token, and when it is not used any more.
#[derive(Clone, Serialize, Deserialize)]
struct Token {
    /// Whose it is, and from where.
    id: String,
    issuer: String,
    token: String,
    renew_at_secs: u64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// What is wrong, as OAuth 2 has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

impl Account {
    /// An account whose tokens come from an endpoint; `config` is the configuration that it stands
    /// in.
    pub(in crate::cli) fn new(
        id: String,
        secret: Hidden,
        issuer: Uri,
        config: Option<&Path>,
    ) -> Self {
        let cache = config.map(|config| config.with_file_name(CACHE));
        Self {
            id,
            secret,
            issuer,
            cache,
            token: Mutex::default(),
        }
    }

    /// Its id.
    pub(in crate::cli) fn id(&self) -> &str {
        &self.id
    }

    /// Where its tokens come from.
    pub(in crate::cli) fn issuer(&self) -> &Uri {
        &self.issuer
    }

    /// A token that lasts for a while.
    ///
    /// # Errors
    /// As [`Account::renew`].
    pub(in crate::cli) async fn token(&self, limit: Duration) -> Result<String, Error> {
        let mut known = self.token.lock().await;
        if known.is_none() {
            *known = self.kept();
        }
        let now = SystemTime::now();
        match &*known {
            Some(token) if token.lasts(now) => Ok(token.token.clone()),
            _ => Ok(known.insert(self.renew(limit).await?).token.clone()),
        }
    }

    /// A new token, whatever was kept.
    ///
    /// # Errors
    /// What the issuer says, or why it does not.
    pub(in crate::cli) async fn log_in(&self, limit: Duration) -> Result<(), Error> {
        *self.token.lock().await = Some(self.renew(limit).await?);
        Ok(())
    }

    fn kept(&self) -> Option<Token> {
        let text = std::fs::read(self.cache.as_ref()?).ok()?;
        let kept: Token = serde_json::from_slice(&text).ok()?;
        (kept.id == self.id && kept.issuer == self.issuer.to_string()).then_some(kept)
    }

    async fn renew(&self, limit: Duration) -> Result<Token, Error> {
        let asked_at = SystemTime::now();
        let granted = tokio::time::timeout(limit, self.ask())
            .await
            .unwrap_or(Err(Error::TimedOut(limit)))?;
        let life = Duration::from_secs(granted.expires_in);
        let token = Token {
            id: self.id.clone(),
            issuer: self.issuer.to_string(),
            token: granted.access_token,
            renew_at_secs: renew_at(asked_at, life),
        };
        if let (Some(path), Ok(text)) = (&self.cache, serde_json::to_vec(&token)) {
            // Where it cannot be kept, the next command asks anew.
            let _ = atomic_file::write(path, &text);
        }
        Ok(token)
    }

    async fn ask(&self) -> Result<Granted, Error> {
        let (status, body) = if self.issuer.scheme() == Some(&Scheme::HTTPS) {
            let ring = rustls::crypto::ring::default_provider();
            let connector = HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(ring)
                .context("cannot set TLS up")?
                .https_only()
                .enable_http1()
                .build();
            self.post(connector).await?
        } else {
            self.post(HttpConnector::new()).await?
        };
        if status.is_success() {
            let granted = serde_json::from_slice(&body);
            return granted.map_err(|e| {
                Error::Other(anyhow::anyhow!(
                    "the answer of {} has no token: {e}",
                    self.issuer
                ))
            });
        }
        Err(self.refused(status, &body))
    }

    async fn post<C>(&self, connector: C) -> Result<(StatusCode, Bytes), Error>
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            encoded(&self.id),
            encoded(&self.secret.0)
        );
        let request = Request::post(&self.issuer)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(form)))
            .context("cannot ask for a token")?;
        let unreachable = |error: &dyn std::error::Error| {
            let mut innermost = error;
            while let Some(cause) = innermost.source() {
                innermost = cause;
            }
            Error::Unreachable(format!(
                "no token can be fetched from {}: {innermost}; DODIL_OIDC_URL names another issuer",
                self.issuer
            ))
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let answer = client.request(request).await.map_err(|e| unreachable(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|e| unreachable(&*e))?;
        Ok((status, body.to_bytes()))
    }

    /// The error for an answer without a token, under the gRPC status that stands for it.
    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        let Refused {
            error,
            error_description: why,
        } = serde_json::from_slice(body).unwrap_or_default();
        let (id, issuer) = (&self.id, &self.issuer);
        let said = match (error.as_str(), why.as_str()) {
            ("", "") => status.to_string(),
            (error, "") => error.to_owned(),
            (_, why) => why.to_owned(),
        };
        let text = format!("{issuer} gives no token to the service account {id}: {said}");
        let (code, hint) = match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => (
                tonic::Code::Unimplemented,
                "there is no token endpoint; name the issuer's base URL in DODIL_OIDC_URL",
            ),
            StatusCode::TOO_MANY_REQUESTS => (
                tonic::Code::ResourceExhausted,
                "it has been asked too often; try again later",
            ),
            _ if status.is_server_error() => (tonic::Code::Unavailable, "try again later"),
            _ => (
                tonic::Code::Unauthenticated,
                "check id and secret, and keep them with `ignite login ID SECRET`",
            ),
        };
        Error::Api {
            status: Box::new(tonic::Status::new(code, text)),
            hint: Some(hint.to_owned()),
        }
    }
}

impl Token {
    fn lasts(&self, now: SystemTime) -> bool {
        since_epoch(now) < self.renew_at_secs
    }
}

/// When a token is renewed. One that lives no longer than the margin would never be used.
fn renew_at(given: SystemTime, life: Duration) -> u64 {
    since_epoch(given + life.saturating_sub(MARGIN.min(life / 2)))
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The token endpoint: below the URL that is `named`, else beside the cloud's API, else of the
/// server itself, whose HTTP listener is known when it is on this machine.
///
/// # Errors
/// [`Error::Usage`] when `named` is not a URL.
pub(super) fn issuer(
    named: Option<&str>,
    serving: Option<&Serving>,
    endpoint: Option<&Uri>,
) -> Result<Uri, Error> {
    let base = match (named, endpoint, serving) {
        (Some(named), ..) => named.to_owned(),
        (None, Some(endpoint), None) => beside(endpoint),
        (None, _, Some(serving)) => serving.http.clone(),
        (None, None, None) => DEFAULT_ISSUER.to_owned(),
    };
    let base = base.trim_end_matches('/');
    let whole = if base.ends_with(ENDPOINT) {
        base.to_owned()
    } else if base.contains("/realms/") {
        format!("{base}{ENDPOINT}")
    } else {
        format!("{base}{REALM}{ENDPOINT}")
    };
    let uri = whole.parse::<Uri>().ok();
    let is_url = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    uri.filter(is_url).ok_or_else(|| {
        Error::Usage(format!(
            "the issuer {base:?} is not a URL such as https://id.dodil.io (DODIL_OIDC_URL, or `oidc_url` in the configuration)"
        ))
    })
}

fn beside(endpoint: &Uri) -> String {
    let host = endpoint.host().unwrap_or_default();
    let (_, domain) = host.split_once('.').unwrap_or_default();
    if domain == CLOUD || domain.strip_suffix(CLOUD).is_some_and(|d| d.ends_with('.')) {
        return format!("https://id.{domain}");
    }
    let scheme = endpoint.scheme_str().unwrap_or("https");
    format!(
        "{scheme}://{}",
        endpoint.authority().map_or(host, |a| a.as_str())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_endpoint_is_below_the_issuer_beside_the_cloud_or_of_the_server() {
        let serving = Serving {
            http: "http://127.0.0.1:8081".to_owned(),
            grpc: "http://127.0.0.1:2".to_owned(),
            pid: 1,
            default_org: "mine".to_owned(),
            plain: None,
            tls: None,
            engine: None,
        };
        let of = |named: Option<&str>, serving: Option<&Serving>, endpoint: Option<&str>| {
            let endpoint = endpoint.map(|e| e.parse().expect("a URL"));
            let found = issuer(named, serving, endpoint.as_ref());
            found.map(|uri| uri.to_string()).ok()
        };
        let below = |base: &str| Some(format!("{base}{REALM}{ENDPOINT}"));
        let api = Some("https://rpc.dev.dodil.io:443");
        assert_eq!(of(None, None, api), below("https://id.dev.dodil.io"));
        let api = Some("https://api.dodil.io");
        assert_eq!(of(None, None, api), below("https://id.dodil.io"));
        let other = Some("https://api.notdodil.io:8443");
        assert_eq!(of(None, None, other), below("https://api.notdodil.io:8443"));
        let own = Some("http://127.0.0.1:2");
        assert_eq!(
            of(None, Some(&serving), own),
            below("http://127.0.0.1:8081")
        );
        assert_eq!(of(None, None, None), below(DEFAULT_ISSUER));
        for named in [
            "https://id.example/".to_owned(),
            format!("https://id.example{REALM}"),
            format!("https://id.example{REALM}{ENDPOINT}"),
        ] {
            assert_eq!(of(Some(&named), None, api), below("https://id.example"));
        }
        assert_eq!(of(Some("id.example"), None, api), None);
    }

    #[test]
    fn a_token_is_renewed_half_a_minute_before_its_end_and_a_short_one_at_its_half() {
        let now = SystemTime::now();
        for (life, used) in [(300, 270), (60, 30), (20, 10), (0, 0)] {
            let renewed = renew_at(now, Duration::from_secs(life));
            assert_eq!(renewed, since_epoch(now) + used, "{life}");
        }
    }
}
