//! Reads a request for a token: a form, with the client's credentials in it or in the header.

use axum::http::{HeaderMap, header};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;

use super::answer::OAuthError;
use crate::identity::provider::Credentials;

const FORM: &str = "application/x-www-form-urlencoded";
/// Most parameters of a form.
const MAX_PARAMETERS: usize = 32;

/// With or without padding, since clients differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Checks that the body is a form.
///
/// # Errors
/// `invalid_request`.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), OAuthError> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bare = kind.split(';').next().unwrap_or_default().trim();
    if bare.eq_ignore_ascii_case(FORM) {
        return Ok(());
    }
    Err(OAuthError::invalid_request(format!(
        "the request has the content type {kind:?}; send a form, {FORM}"
    )))
}

/// The parameters that count, each at most once.
#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
}

impl Form {
    fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let body = std::str::from_utf8(body)
            .map_err(|_| OAuthError::invalid_request("the form is not text"))?;
        let mut form = Self::default();
        let pairs = body.split('&').filter(|pair| !pair.is_empty());
        for (n, pair) in pairs.enumerate() {
            if n >= MAX_PARAMETERS {
                return Err(OAuthError::invalid_request(format!(
                    "the form has more than {MAX_PARAMETERS} parameters"
                )));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name)?;
            let place = match name.as_str() {
                "grant_type" => &mut form.grant_type,
                "client_id" => &mut form.client_id,
                "client_secret" => &mut form.client_secret,
                "scope" => &mut form.scope,
                // RFC 6749, 3.2: what is not known is ignored.
                _ => continue,
            };
            if place.is_some() {
                return Err(OAuthError::invalid_request(format!(
                    "the form has {name} more than once"
                )));
            }
            // One without a value counts as left out.
            *place = Some(decoded(value)?).filter(|v| !v.is_empty());
        }
        Ok(form)
    }
}

/// One side of a parameter, decoded.
fn decoded(text: &str) -> Result<String, OAuthError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| OAuthError::invalid_request("the form is not UTF-8"))?;
    Ok(decoded.into_owned())
}

/// The credentials of a request.
///
/// # Errors
/// What RFC 6749 has for each fault.
pub(super) fn credentials(headers: &HeaderMap, body: &[u8]) -> Result<Credentials, OAuthError> {
    let form = Form::parse(body)?;
    match form.grant_type.as_deref() {
        Some("client_credentials") => {}
        Some(other) => return Err(OAuthError::unsupported_grant_type(other)),
        None => {
            return Err(OAuthError::invalid_request(
                "the form has no grant_type; send grant_type=client_credentials",
            ));
        }
    }
    let (id, secret) = match (basic(headers)?, form.client_id, form.client_secret) {
        (Some(_), _, Some(_)) => {
            return Err(OAuthError::invalid_request(
                "the request has a secret in its form and in its Authorization header; send one",
            ));
        }
        (Some((id, _)), Some(other), None) if id != other => {
            return Err(OAuthError::invalid_request(
                "the form has another client_id than the Authorization header",
            ));
        }
        (Some(basic), _, None) => basic,
        (None, Some(id), Some(secret)) => (id, secret),
        (None, _, _) => {
            return Err(OAuthError::no_credentials(
                "the request has no credentials; send client_id and client_secret in the form, or in an Authorization header (Basic)",
            ));
        }
    };
    Ok(Credentials {
        id,
        secret,
        scope: form.scope,
    })
}

/// The credentials of an `Authorization: Basic` header (RFC 6749, 2.3.1: both sides are encoded as in
/// a form).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, OAuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let wrong = || {
        OAuthError::no_credentials(
            "the Authorization header is not of the form \"Basic <client_id:client_secret in base64>\"",
        )
    };
    if values.next().is_some() {
        return Err(OAuthError::invalid_request(
            "the request has more than one Authorization header; send one",
        ));
    }
    let text = value.to_str().map_err(|_| wrong())?;
    let (scheme, coded) = text.split_once(' ').ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let pair = BASE64.decode(coded.trim()).map_err(|_| wrong())?;
    let pair = String::from_utf8(pair).map_err(|_| wrong())?;
    let (id, secret) = pair.split_once(':').ok_or_else(wrong)?;
    Ok(Some((decoded(id)?, decoded(secret)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: &str, body: &str) -> Result<(String, String), String> {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            let value = authorization.parse().expect("a header");
            headers.insert(header::AUTHORIZATION, value);
        }
        let read = credentials(&headers, body.as_bytes());
        let read = read.map_err(|e| e.code().to_owned());
        read.map(|c| (c.id, c.secret))
    }

    const GRANT: &str = "grant_type=client_credentials";

    #[test]
    fn credentials_are_in_the_form_or_in_the_header() {
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        let form = format!("{GRANT}&client_id=a%40b&client_secret=s+%2B&x=1&x=2");
        assert_eq!(read("", &form), Ok(("a@b".into(), "s +".into())));
        let of_both = Ok(("a@b".to_owned(), "s".to_owned()));
        assert_eq!(read(&basic("a%40b:s"), GRANT), of_both);
        assert_eq!(read(&basic("a@b:s"), GRANT), of_both);
        let twice = format!("{GRANT}&client_id=a%40b");
        assert_eq!(read(&basic("a@b:s"), &twice), of_both);
    }

    #[test]
    fn each_fault_has_its_code() {
        let basic = format!("Basic {}", BASE64.encode("a:s"));
        for (authorization, body, code) in [
            ("", "", "invalid_request"),
            ("", "client_id=a&client_secret=s", "invalid_request"),
            ("", "grant_type=password", "unsupported_grant_type"),
            ("", GRANT, "invalid_client"),
            ("", &format!("{GRANT}&client_id=a"), "invalid_client"),
            (
                "",
                &format!("{GRANT}&client_id=a&client_secret="),
                "invalid_client",
            ),
            ("", &format!("{GRANT}&{GRANT}"), "invalid_request"),
            ("", &format!("{GRANT}&client_id=%ff"), "invalid_request"),
            (
                &basic,
                &format!("{GRANT}&client_secret=s"),
                "invalid_request",
            ),
            (&basic, &format!("{GRANT}&client_id=b"), "invalid_request"),
            ("Bearer x", GRANT, "invalid_client"),
            ("Basic !", GRANT, "invalid_client"),
            ("Basic YQ==", GRANT, "invalid_client"),
            ("", &"a&".repeat(33), "invalid_request"),
        ] {
            assert_eq!(
                read(authorization, body),
                Err(code.to_owned()),
                "{authorization} {body}"
            );
        }
    }
}
