//! `ignite whoami`: who calls which server, and whether it takes them.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};
use tonic::Code;

use super::{
    Context, Error, context,
    failure::note,
    output::{self, rows},
};
use crate::api::proto::v1;

/// Prints who calls; fails if the server does not take them.
pub(super) async fn run(context: &Context) -> Result<(), Error> {
    let org = context.org()?;
    let (token, _) = context.token(&org).await?;
    let claims = token.as_deref().map(context::claims).unwrap_or_default();
    let mut all = context.describe();
    all.extend(said_by(&claims));
    let session = context.connect(&org).await?;
    let request = v1::ListAppsRequest {
        organization_name: org.to_string(),
        limit: 1,
        cursor: String::new(),
    };
    let asked = session.answer(session.client().list_apps(request)).await;
    let refused = asked.err();
    let taken = match refused.as_ref().map(Error::code) {
        None => "yes".to_owned(),
        Some(Some(Code::PermissionDenied)) => {
            format!("the token, yes; but it does not open the list of apps of {org}")
        }
        Some(Some(Code::Unauthenticated)) => "no".to_owned(),
        Some(_) => "unknown".to_owned(),
    };
    all.push(("taken by the server", taken));
    if context.format.is_structured() {
        let entry = |(name, value): (&str, String)| (name.replace(' ', "_"), Value::from(value));
        let all: Map<String, Value> = all.into_iter().map(entry).collect();
        context.format.print_value(&all)?;
    } else {
        output::columns(rows(&all))?;
    }
    match refused {
        Some(error) if error.code() == Some(Code::PermissionDenied) => {
            note("a token with more scopes is made with `ignite token create --scope`");
            Ok(())
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// What the token says of its bearer, unverified.
fn said_by(claims: &Value) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let text = |name: &str| claims[name].as_str().map(str::to_owned);
    if let Some(subject) = text("sub") {
        all.push(("subject", subject));
    }
    if let Some(orgs) = claims["organization"].as_object() {
        let names: Vec<&str> = orgs.keys().map(String::as_str).collect();
        all.push(("member of", names.join(", ")));
    }
    if let Some(scopes) = text("scope").filter(|scopes| !scopes.is_empty()) {
        all.push(("scopes", scopes));
    }
    if let Some(issuer) = text("iss") {
        all.push(("issuer", issuer));
    }
    if let Some(end) = claims["exp"].as_u64()
        && let Some(end) = UNIX_EPOCH.checked_add(Duration::from_secs(end))
    {
        all.push(("until", humantime::format_rfc3339_seconds(end).to_string()));
    }
    all
}
