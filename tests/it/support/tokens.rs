//! Service accounts and their tokens, as a client of the platform gets them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::{http, ignite::Ignite};

/// The path of the token endpoint.
pub(crate) const TOKEN: &str = "/realms/dodil/protocol/openid-connect/token";
/// The path of the key set.
pub(crate) const CERTS: &str = "/realms/dodil/protocol/openid-connect/certs";

/// A service account, with its secret.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// An answer of the token endpoint.
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Said {
    /// The token.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body["access_token"].as_str().expect("text").to_owned()
    }

    /// Checks that it is an error of RFC 6749.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, error: &str) {
        assert_eq!(
            (self.status.as_u16(), self.body["error"].as_str()),
            (status, Some(error)),
            "{}",
            self.body
        );
    }
}

impl Account {
    /// The form of a request for a token.
    pub(crate) fn form(&self) -> String {
        format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            self.id.replace('@', "%40"),
            self.secret
        )
    }

    /// The value of a Basic header.
    pub(crate) fn basic(&self) -> String {
        let pair = format!("{}:{}", self.id, self.secret);
        format!("Basic {}", STANDARD.encode(pair))
    }
}

impl Ignite {
    /// Makes a service account with these arguments behind its name.
    pub(crate) fn account(&self, org: &str, name: &str, more: &[&str]) -> Account {
        let made = self.sa(&[&["create", name, "--org", org], more].concat());
        let text = |field: &str| made[field].as_str().expect("text").to_owned();
        Account {
            id: text("id"),
            secret: text("secret"),
        }
    }

    /// A `service-account` command that must work, with its JSON.
    #[track_caller]
    pub(crate) fn sa(&self, args: &[&str]) -> Value {
        let output = self.cli(&[&["service-account", "-o", "json"], args].concat());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {err}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// A request for a token with this form.
    pub(crate) fn form(&self, form: &str) -> http::Request {
        self.request(Method::POST, TOKEN)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
    }

    /// A token for an account.
    pub(crate) async fn grant(&self, account: &Account) -> String {
        said(self.form(&account.form())).await.token()
    }
}

/// Sends a request to the token endpoint.
pub(crate) async fn said(request: http::Request) -> Said {
    let answer = request.send().await.expect("an answer");
    Said {
        status: answer.status,
        headers: answer.headers.clone(),
        body: answer.json().await,
    }
}
