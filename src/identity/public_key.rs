//! The public half of a signing key: what verifies, and what the key set (JWKS) shows.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A public key on the curve P-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublicKey {
    pub(super) kid: String,
    x: String,
    y: String,
    /// When the last token that it signed has expired; `None` while it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until_ms: Option<u64>,
}

impl PublicKey {
    /// The key with these coordinates, in base64url.
    pub(super) fn new(x: String, y: String) -> Self {
        Self {
            kid: thumbprint(&x, &y),
            x,
            y,
            until_ms: None,
        }
    }

    /// The key as one that verifies until then, in Unix milliseconds.
    pub(super) fn until(&self, ms: u64) -> Self {
        Self {
            until_ms: Some(ms),
            ..self.clone()
        }
    }

    /// The key, to verify with.
    pub(super) fn decoding(&self) -> Result<DecodingKey, String> {
        if self.kid != thumbprint(&self.x, &self.y) {
            return Err("its id is not its thumbprint".to_owned());
        }
        DecodingKey::from_ec_components(&self.x, &self.y).map_err(|e| e.to_string())
    }

    /// The key after RFC 7517.
    pub(super) fn to_jwk(&self) -> Value {
        json!({
            "kty": "EC",
            "crv": "P-256",
            "use": "sig",
            "alg": "ES256",
            "kid": self.kid,
            "x": self.x,
            "y": self.y,
        })
    }
}

/// RFC 7638: SHA-256 over the required members of the JWK, in this order and without spaces.
fn thumbprint(x: &str, y: &str) -> String {
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}
