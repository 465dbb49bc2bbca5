//! Answers of the token endpoint, and its errors after RFC 6749, 5.2.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response, StatusCode, Uri, header},
};
use serde_json::{Value, json};

use crate::{
    api::status::{ERROR_HEADER, to_response},
    identity::provider::Refusal,
    model::{Failure, Reason},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"dodil\"");

/// Makes answers.
pub(super) struct Answer;

impl Answer {
    /// A document that may be kept.
    pub(super) fn json(value: &Value) -> Response<Body> {
        let mut response = Response::new(Body::from(value.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response
    }

    /// One that must not be kept.
    pub(super) fn uncached(value: &Value) -> Response<Body> {
        let mut response = Self::json(value);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        response
    }
}

/// Why there is no token.
#[derive(Debug)]
pub(super) struct OAuthError {
    reason: Reason,
    code: &'static str,
    description: String,
    retry_after: Option<Duration>,
}

impl OAuthError {
    fn new(reason: Reason, code: &'static str, description: impl Into<String>) -> Self {
        Self {
            reason,
            code,
            description: description.into(),
            retry_after: None,
        }
    }

    pub(super) fn invalid_request(why: impl Into<String>) -> Self {
        Self::new(Reason::MalformedRequest, "invalid_request", why)
    }

    pub(super) fn unsupported_grant_type(asked: &str) -> Self {
        let asked: String = asked.chars().take(64).collect();
        Self::new(
            Reason::InvalidArgument,
            "unsupported_grant_type",
            format!("grant_type {asked:?} is not supported; send client_credentials"),
        )
    }

    pub(super) fn no_credentials(why: impl Into<String>) -> Self {
        Self::new(Reason::Unauthenticated, "invalid_client", why)
    }

    fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidClient => Self::no_credentials(
                "there is no service account with this id and secret; `ignite service-account list` shows those there are, and `rotate` gives one a new secret",
            ),
            Refusal::InvalidScope(why) => Self::new(Reason::InvalidArgument, "invalid_scope", why),
            Refusal::TooMany(wait) => Self::later(
                Reason::TooManyRequests,
                "too many requests for tokens, or too many wrong secrets, came from this address; a token holds until it expires, so keep it",
                wait,
            ),
            Refusal::Busy(wait) => Self::later(
                Reason::TooManyRequests,
                "too many secrets are being checked at the moment",
                wait,
            ),
        }
    }

    fn later(reason: Reason, why: &str, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..Self::new(reason, "temporarily_unavailable", why)
        }
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Answer::uncached(&json!({
            "error": self.code,
            "error_description": self.description,
        }));
        let status = StatusCode::from_u16(self.reason.http_status());
        *response.status_mut() = status.unwrap_or(StatusCode::BAD_REQUEST);
        let headers = response.headers_mut();
        headers.insert(ERROR_HEADER, HeaderValue::from_static(self.reason.as_str()));
        if self.reason == Reason::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

impl From<Refusal> for OAuthError {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal)
    }
}

/// The answer to a method that a route does not have.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response<Body> {
    let allowed = if uri.path().ends_with("/token") {
        "POST"
    } else {
        "GET, HEAD"
    };
    let failure = Failure::new(
        Reason::MethodNotAllowed,
        format!(
            "{method} is not allowed on {}; allowed: {allowed}",
            uri.path()
        ),
    );
    let mut response = to_response(&failure, false);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}
