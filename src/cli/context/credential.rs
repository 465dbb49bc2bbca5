//! How the caller is known to the server.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Account, Global, Place};
use crate::{
    cli::{Error, hidden::Hidden, settings::Settings},
    config::Source,
    identity::SigningKey,
};

/// How the caller is known to the server.
pub(super) enum Credential {
    Token(String),
    Account(Box<Account>),
    /// A token is minted with the key in this data directory.
    Own(PathBuf),
    /// There is none; what to do about it.
    None(String),
}

/// Finds it: `token` is that of a flag or a variable.
///
/// # Errors
/// [`Error::Usage`] for half a service account, and for what is no issuer.
pub(super) fn find(
    token: Option<String>,
    settings: &Settings,
    place: &Place,
    vars: &impl Source,
) -> Result<Credential, Error> {
    let var = |name: &str| vars.get(name).filter(|v| !v.is_empty());
    let issuer = var("DODIL_OIDC_URL").or_else(|| settings.oidc_url.clone());
    if let Some(token) = token.or_else(|| settings.token.clone()) {
        return Ok(Credential::Token(token));
    }
    if let Some(pair) = settings.account.clone() {
        // A secret that is kept goes where the file says, whatever endpoint is asked this time.
        let elsewhere = |name: &str| vars.get(name).filter(|_| name != "IGNITE_API_ENDPOINT");
        let place = Place::find(&Global::default(), settings, &elsewhere)?;
        let account = place.account(pair, issuer.as_deref(), settings.path.as_deref());
        return account.map(|a| Credential::Account(Box::new(a)));
    }
    let hint = match &place.own {
        Some(dir) => match SigningKey::open(dir) {
            Ok(_) => return Ok(Credential::Own(dir.clone())),
            Err(e) => no_key(&e),
        },
        None => "no token was given; give one with --token or IGNITE_TOKEN, or keep one with `ignite login`".to_owned(),
    };
    match account_of_vars(vars)? {
        Some(pair) => {
            let account = place.account(pair, issuer.as_deref(), None);
            account.map(|a| Credential::Account(Box::new(a)))
        }
        None => Ok(Credential::None(hint)),
    }
}

/// What to do about a key that cannot be read.
pub(super) fn no_key(why: &crate::identity::Error) -> String {
    format!(
        "no token was given, and none can be made here: {why}. If the server was started with --data-dir, set IGNITE_DATA_DIR to the same"
    )
}

/// The service account that variables name.
///
/// # Errors
/// [`Error::Usage`] for an id without a secret.
pub(in crate::cli) fn account_of_vars(
    vars: &impl Source,
) -> Result<Option<(String, Hidden)>, Error> {
    let var = |name: &str| vars.get(name).filter(|v| !v.is_empty());
    for kind in ["DODIL_SA", "DODIL_SERVICE_ACCOUNT"] {
        let Some(id) = var(&format!("{kind}_ID")) else {
            continue;
        };
        let secret = var(&format!("{kind}_SECRET")).ok_or_else(|| {
            Error::Usage(format!("{kind}_ID is set without {kind}_SECRET; set both"))
        })?;
        return Ok(Some((id, Hidden(secret))));
    }
    Ok(None)
}

/// What a token says, unverified: only to save the user from saying it.
pub(in crate::cli) fn claims(token: &str) -> serde_json::Value {
    let part = token.split('.').nth(1).unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The first organization of a token.
pub(super) fn org_of(claims: &serde_json::Value) -> Option<String> {
    let first = claims["organization"]
        .as_object()
        .and_then(|orgs| orgs.keys().next());
    first
        .cloned()
        .or_else(|| claims["org_name"].as_str().map(str::to_owned))
}

/// The name of the organization that a token has with this id.
pub(super) fn org_with_id(claims: &serde_json::Value, id: &str) -> Option<String> {
    let is_it = |value: &serde_json::Value| value.as_str() == Some(id);
    let named = claims["organization"]
        .as_object()
        .and_then(|orgs| orgs.iter().find(|(_, org)| is_it(&org["id"])));
    named.map(|(name, _)| name.clone()).or_else(|| {
        let name = claims["org_name"].as_str()?;
        is_it(&claims["org_id"]).then(|| name.to_owned())
    })
}
