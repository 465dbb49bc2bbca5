//! Reads a key set (RFC 7517). Keys that cannot verify tokens here are left out, as it says.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::identity::trust::Key;

/// Keys that are taken; issuers have some at most.
const MAX_KEYS: usize = 100;
/// Shorter ones are broken, longer ones take a thread for milliseconds.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Public exponents are small in practice; a long one makes a check slow.
const MAX_EXPONENT_BYTES: usize = 4;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The keys of a set by their ids. One without an id has the empty one.
///
/// # Errors
/// When it is no set, or has no key that can be used.
pub(super) fn parse(json: &[u8]) -> Result<HashMap<String, Key>, String> {
    let set: Set = serde_json::from_slice(json).map_err(|e| format!("it is no key set: {e}"))?;
    let keys: HashMap<_, _> = set
        .keys
        .into_iter()
        .filter_map(key)
        .take(MAX_KEYS)
        .collect();
    if keys.is_empty() {
        return Err("the key set has no key for RS256, ES256 or EdDSA".to_owned());
    }
    Ok(keys)
}

fn key(json: Value) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    if let Some(operations) = &common.key_operations
        && !operations.contains(&KeyOperations::Verify)
    {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
            let bits = bytes(&rsa.n)?.len() * 8;
            let is_sound = RSA_BITS.contains(&bits) && bytes(&rsa.e)?.len() <= MAX_EXPONENT_BYTES;
            is_sound.then_some((Algorithm::RS256, KeyAlgorithm::RS256))?
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if common
        .key_algorithm
        .as_ref()
        .is_some_and(|alg| *alg != named)
    {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((
        jwk.common.key_id.unwrap_or_default(),
        Key { algorithm, key },
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    #[test]
    fn keys_that_cannot_verify_are_left_out() {
        let ec = |kid: &str| json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": X, "y": Y });
        let with = |mut key: Value, name: &str, value: Value| {
            key[name] = value;
            key
        };
        let n = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xC1; bytes]);
        let rsa = |kid: &str, bytes: usize, e: &str| json!({ "kty": "RSA", "kid": kid, "n": n(bytes), "e": e });
        let set = json!({ "keys": [
            ec("a"),
            with(ec("sig"), "use", json!("sig")),
            with(ec("enc"), "use", json!("enc")),
            with(ec("other-alg"), "alg", json!("ES384")),
            with(ec("signs"), "key_ops", json!(["sign"])),
            rsa("r", 256, "AQAB"),
            rsa("short", 128, "AQAB"),
            rsa("long", 2048, "AQAB"),
            rsa("slow", 256, &n(64)),
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
            { "kty": "oct", "kid": "secret", "k": "c2VjcmV0" },
            { "kty": "new", "kid": "unknown" },
            7,
        ]});
        let keys = parse(set.to_string().as_bytes()).expect("a set");
        let mut kids: Vec<_> = keys.keys().map(String::as_str).collect();
        kids.sort_unstable();
        assert_eq!(kids, ["a", "ed", "r", "sig"]);
        for wrong in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"oct","k":""}]}"#,
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
