//! `ignite login`: who calls from now on.

use std::{io, path::Path, time::Duration};

use serde_yaml_ng::Value;

use super::{
    Error, block_on,
    configure::{self, Key, no_home, note_seen},
    context::{
        Account, Global, Place, account_of_vars, check_endpoint, first_line, is_this_machine,
    },
    failure::note,
    hidden::Hidden,
    settings::{self, Settings},
};
use crate::config::Source;

/// Longest wait for a token.
const LIMIT: Duration = Duration::from_secs(60);

/// Who calls; a token is given with --token or --token-file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The id of a service account [env: DODIL_SA_ID].
    id: Option<String>,
    /// Its secret, or - to read the first line of stdin: other users of a machine see what is on a
    /// command line [env: DODIL_SA_SECRET].
    secret: Option<Hidden>,
}

/// Keeps a token, or a service account that has just been given one, and where the API is and which
/// organization is in use as far as the command line says so.
pub(super) fn run(args: Args, global: Global, vars: &impl Source) -> Result<(), Error> {
    let path = settings::path(global.config.as_deref(), vars).ok_or_else(no_home)?;
    let context = configure::context_in_use(&path, &global, vars)?;
    let mut values = Vec::new();
    if let Some(endpoint) = &global.api_endpoint {
        check_endpoint(endpoint)?;
        values.push((
            settings::API_ENDPOINT,
            Some(Value::String(endpoint.clone())),
        ));
    }
    if let Some(org) = global.org_name.as_ref().or(global.org.as_ref()) {
        values.push((settings::ORG, Some(Key::OrgId.check(org)?)));
    }
    let given = given_account(&args, vars)?;
    let (token, account, issuer) = match (global.given_token()?, given) {
        (Some(_), Some(_)) if args.id.is_some() => {
            return Err(Error::Usage(
                "both a token and a service account are given; give one of them".to_owned(),
            ));
        }
        (Some(token), _) => (Some(token), None, None),
        (None, Some(pair)) => {
            let issuer = log_in(&global, vars, pair.clone(), &path)?;
            (None, Some(pair), issuer)
        }
        (None, None) => {
            return Err(Error::Usage(
                "say who calls: `ignite login ID SECRET` for a service account, or a token with --token or --token-file; `ignite token create` makes one on the machine that serves".to_owned(),
            ));
        }
    };
    let done = match (&token, &account) {
        (_, Some((id, _))) => format!("the service account {id} is kept"),
        _ => "the token is kept".to_owned(),
    };
    let token = token.map(|token| Key::Token.check(&token)).transpose()?;
    let (id, secret) = account.unzip();
    values.extend([
        (settings::TOKEN, token),
        (settings::ACCOUNT_ID, id.map(Value::String)),
        (settings::ACCOUNT_SECRET, secret.map(|s| Value::String(s.0))),
    ]);
    if issuer.is_some() {
        values.push((settings::OIDC_URL, issuer.map(Value::String)));
    }
    configure::store(&path, context.as_deref(), values)?;
    let of = context.map_or_else(String::new, |name| format!(" for the context {name}"));
    note(&format!("{done}{of} in {}", path.display()));
    if args.secret.is_some_and(|secret| secret.0 != "-") {
        note_seen("secret");
    }
    Ok(())
}

/// The service account of the command line, else of the environment.
fn given_account(args: &Args, vars: &impl Source) -> Result<Option<(String, Hidden)>, Error> {
    let Some(id) = args.id.clone() else {
        return account_of_vars(vars);
    };
    let secret = match &args.secret {
        Some(secret) if secret.0 == "-" => {
            let line = first_line(io::stdin().lock())
                .map_err(|e| Error::Usage(format!("no secret can be read from stdin: {e}")))?;
            Hidden(line)
        }
        Some(secret) => secret.clone(),
        None => {
            return Err(Error::Usage(format!(
                "the secret of {id} is missing; give it after the id, or - and write it to stdin"
            )));
        }
    };
    if secret.0.is_empty() {
        return Err(Error::Usage(format!("the secret of {id} is empty")));
    }
    Ok(Some((id, secret)))
}

/// Fetches a token, which shows that the account is good, and keeps it for the next command. Returns
/// the issuer to keep: one that was named, or one elsewhere, so that no other gets the secret later.
/// That of a server on this machine is found anew each time.
fn log_in(
    global: &Global,
    vars: &impl Source,
    pair: (String, Hidden),
    path: &Path,
) -> Result<Option<String>, Error> {
    // A file that is not there yet is no fault here, and what it says of a caller is replaced.
    let settings = if path.exists() {
        Settings::load(Some(path), global.context.as_deref(), vars)?
    } else {
        Settings::default()
    };
    let vars = &|name: &str| settings.variable(name, vars);
    let place = Place::find(global, &settings, vars)?;
    let given = vars.get("DODIL_OIDC_URL").filter(|url| !url.is_empty());
    let named = given.clone().or_else(|| settings.oidc_url.clone());
    let account: Account = place.account(pair, named.as_deref(), Some(path))?;
    block_on(account.log_in(global.timeout.unwrap_or(LIMIT)))?;
    let issuer = account.issuer();
    Ok(given.or_else(|| (!is_this_machine(issuer)).then(|| issuer.to_string())))
}
