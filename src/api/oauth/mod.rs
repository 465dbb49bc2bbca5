//! The token endpoint of service accounts, and what clients of OpenID Connect discover about it.
//!
//! | route, below `/realms/dodil` | answer |
//! |---|---|
//! | `POST /protocol/openid-connect/token` | a token for client credentials (RFC 6749, 4.4) |
//! | `GET /protocol/openid-connect/certs` | the keys that verify tokens (RFC 7517) |
//! | `GET /.well-known/openid-configuration` | where these are (OpenID Connect Discovery) |
//!
//! Errors have the form of RFC 6749, not of the API. The paths are those of the platform's identity
//! provider, so clients need another base URL and no more.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, Uri, header, uri::Authority},
    routing::{get, post},
};
use serde_json::{Value, json};

mod answer;
mod form;

use answer::{Answer, OAuthError};

use crate::{
    config::PublicUrl,
    gateway::peer::ClientAddress,
    identity::{REALM, provider::Provider},
};

/// Most bytes of a request for a token; they have some hundred.
const MAX_BYTES: usize = 16 * 1024;
/// Longest time for it to come.
const LIMIT: Duration = Duration::from_secs(10);
/// How long others may keep the keys. A rotation shows the next one before it signs, but not for as
/// long as this; a verifier that meets an unknown key is expected to fetch the set again.
const KEYS_FOR: HeaderValue = HeaderValue::from_static("public, max-age=60");

struct Endpoint {
    provider: Arc<Provider>,
    /// Scheme and port that clients see, where a TLS proxy stands before this server.
    public_url: Option<PublicUrl>,
}

/// The routes. Listeners put the client's address ([`ClientAddress`]) into the extensions of each
/// request; without one, a request counts with all others that have none.
pub fn router(provider: Arc<Provider>, public_url: Option<PublicUrl>) -> Router {
    let protocol = format!("{REALM}/protocol/openid-connect");
    let discovery = format!("{REALM}/.well-known/openid-configuration");
    Router::new()
        .route(&format!("{protocol}/token"), post(token))
        .route(&format!("{protocol}/certs"), get(keys))
        .route(&discovery, get(configuration))
        .method_not_allowed_fallback(answer::wrong_method)
        .with_state(Arc::new(Endpoint {
            provider,
            public_url,
        }))
}

async fn token(State(endpoint): State<Arc<Endpoint>>, request: Request) -> Response<Body> {
    match endpoint.token(request).await {
        Ok(answer) => answer,
        Err(error) => error.into_response(),
    }
}

async fn keys(State(endpoint): State<Arc<Endpoint>>) -> Response<Body> {
    let mut answer = Answer::json(&endpoint.provider.identity().key_set());
    answer.headers_mut().insert(header::CACHE_CONTROL, KEYS_FOR);
    answer
}

async fn configuration(
    State(endpoint): State<Arc<Endpoint>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    Answer::json(&document(&endpoint.issuer(&uri, &headers)))
}

/// The discovery document of an issuer.
fn document(issuer: &str) -> Value {
    let protocol = format!("{issuer}/protocol/openid-connect");
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{protocol}/token"),
        "jwks_uri": format!("{protocol}/certs"),
        // Required by the specification; there is no sign-in here.
        "authorization_endpoint": format!("{protocol}/auth"),
        "response_types_supported": ["token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": crate::model::Scope::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti", "client_id", "organization", "scope"],
    })
}

impl Endpoint {
    async fn token(&self, request: Request) -> Result<Response<Body>, OAuthError> {
        let (parts, body) = request.into_parts();
        let from = address(&parts.extensions);
        self.provider.admit(from)?;
        let issuer = self.issuer(&parts.uri, &parts.headers);
        form::check_type(&parts.headers)?;
        let read = tokio::time::timeout(LIMIT, to_bytes(body, MAX_BYTES)).await;
        let body = match read {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return Err(OAuthError::invalid_request(format!(
                    "the request broke off, or is over {MAX_BYTES} bytes"
                )));
            }
            Err(_) => {
                return Err(OAuthError::invalid_request(format!(
                    "the request did not come within {LIMIT:?}"
                )));
            }
        };
        let credentials = form::credentials(&parts.headers, &body)?;
        let token = self.provider.grant(credentials, &issuer, from).await?;
        Ok(Answer::uncached(&json!({
            "access_token": token.text,
            "expires_in": token.expires_in.as_secs(),
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": token.scopes.to_claim(),
        })))
    }

    /// The issuer as the client of a request knows it.
    fn issuer(&self, uri: &Uri, headers: &HeaderMap) -> String {
        if let Some(configured) = self.provider.issuer() {
            return configured.to_owned();
        }
        let in_header = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
        let authority: Option<Authority> = uri.authority().cloned().or_else(in_header);
        let base = match (&authority, &self.public_url) {
            (Some(asked), Some(public)) => {
                let port = public.port.map(|p| format!(":{p}")).unwrap_or_default();
                format!("{}://{}{port}", public.scheme, asked.host())
            }
            (Some(asked), None) => format!("{}://{asked}", uri.scheme_str().unwrap_or("http")),
            // HTTP/1.0 without a host.
            (None, _) => "http://localhost".to_owned(),
        };
        format!("{base}{REALM}")
    }
}

fn address(extensions: &axum::http::Extensions) -> IpAddr {
    let known = extensions.get::<ClientAddress>();
    known.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0)
}
