//! Determines where the server is, who calls, and for which organization.
//!
//! | what | order, first found wins |
//! |---|---|
//! | endpoint | `--api-endpoint`, `IGNITE_API_ENDPOINT`, file, `serve.json` of this machine, `http://127.0.0.1:50051` |
//! | token | `--token`, `--token-file`, `DODIL_TOKEN`, `IGNITE_TOKEN`, file (a token, or a service account), minted when the endpoint is this machine's own, the service account of `DODIL_SA_ID` or `DODIL_SERVICE_ACCOUNT_ID` |
//! | organization | the id, `--org-name`, `--org`, `IGNITE_ORG_NAME`, `IGNITE_ORG_ID`, file, the token's, `serve.json`, `IGNITE_DEFAULT_ORG`, `local` |
//!
//! `file` is the context in use, if there is one, else the keys outside of contexts; `--context`
//! outranks the variables.
//!
//! The variables of a service account come last: whoever deploys an app that has one often has them
//! set for the app's environment.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use http::Uri;

use super::{Error, failure::unreadable, id::AppArg, output::Format, settings::Settings};
use crate::{
    config::{Serving, Source, parse_duration},
    identity::{self, Mint, SigningKey},
    model::{AppId, OrgName, Scopes},
};

mod account;
mod credential;
mod place;
mod roots;
mod session;

pub(super) use account::Account;
use credential::{Credential, no_key, org_of, org_with_id};
pub(super) use credential::{account_of_vars, claims};
pub(super) use place::{Place, check_endpoint, data_dir, is_this_machine};
pub(super) use session::{Session, check_token};

use roots::Roots;

/// The default organization of a server.
const DEFAULT_ORG: &str = "local";
/// The contract's default; longer than most cold starts, shorter than the detection of a lost
/// connection.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// A minted token serves one command, and the server checks it only when a call begins.
const MINTED_TTL: Duration = Duration::from_secs(900);

/// The flags of every client command.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// How answers are printed: table, json, yaml or wide [default: table].
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(super) output: Option<Format>,
    /// The API's endpoint, as URL or host:port [env: IGNITE_API_ENDPOINT].
    #[arg(long, global = true, value_name = "URL")]
    pub(super) api_endpoint: Option<String>,
    /// The bearer token, or - to read the first line of stdin, since other users of this machine
    /// can see the command line [env: DODIL_TOKEN, IGNITE_TOKEN].
    // Without clap's `env`: help would print the secret. Not `global`: see `parse.rs`.
    #[arg(long)]
    pub(super) token: Option<String>,
    /// A file with the bearer token.
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The organization for ids that name none [env: IGNITE_ORG_NAME, IGNITE_ORG_ID].
    #[arg(long, global = true)]
    pub(super) org: Option<String>,
    /// The same, with precedence over --org.
    #[arg(long, global = true, value_name = "ORG")]
    pub(super) org_name: Option<String>,
    /// A PEM file with the certificate authorities to trust instead of the system's
    /// [env: IGNITE_CA_CERT].
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_cert: Option<PathBuf>,
    /// Connect without TLS [env: IGNITE_DEBUG].
    #[arg(long, global = true)]
    pub(super) debug: bool,
    /// The longest wait for an answer, such as 30s [default: 5m; none when following an execution].
    #[arg(long, global = true, value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// The server to use, one of `ignite context list` [env: IGNITE_CONTEXT].
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// The configuration: TOML for `serve` [env: IGNITE_CONFIG], else the client's config.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// Reads the first line and nothing after it: the rest of stdin may be what the command sends.
///
/// # Errors
/// Those of reading.
pub(super) fn first_line(mut input: impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

impl Global {
    /// The token given on the command line, in a file or on stdin.
    ///
    /// # Errors
    /// [`Error::Usage`] when the given place has none.
    pub(super) fn given_token(&self) -> Result<Option<String>, Error> {
        let (token, place) = match (&self.token, &self.token_file) {
            (Some(token), _) if token == "-" => {
                let line = first_line(io::stdin().lock())
                    .map_err(|e| Error::Usage(format!("no token can be read from stdin: {e}")))?;
                (line, "stdin has no token in its first line".to_owned())
            }
            (Some(token), _) => return Ok(Some(token.clone())),
            (None, Some(file)) => {
                let name = file.display();
                let token = std::fs::read_to_string(file)
                    .map_err(|e| unreadable("--token-file", file, &e))?;
                (
                    token,
                    format!("--token-file {name}: there is no token in it"),
                )
            }
            (None, None) => return Ok(None),
        };
        match token.trim() {
            "" => Err(Error::Usage(place)),
            token => Ok(Some(token.to_owned())),
        }
    }
}

/// Everything that a command knows before its first call.
pub(super) struct Context {
    pub(super) format: Format,
    /// How long an execution is followed; unlimited unless given, since an execution may take
    /// longer than any default.
    pub(super) follow_limit: Option<Duration>,
    timeout: Duration,
    endpoint: Uri,
    credential: Credential,
    roots: Roots,
    org: Option<String>,
    fallback_org: String,
    /// The name of the context in use.
    name: Option<String>,
    /// The server of this machine, if it is the endpoint's, and its data directory.
    near: Option<(PathBuf, Serving)>,
    /// The endpoint was found there, so it is looked for again: it may have changed with a restart.
    is_found: bool,
}

impl Context {
    /// Collects flags, variables, the file, and the `serve.json` of a server on this machine.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub(super) fn new(global: Global, vars: &impl Source) -> Result<Self, Error> {
        let settings = Settings::load(global.config.as_deref(), global.context.as_deref(), vars)?;
        let vars = &|name: &str| settings.variable(name, vars);
        let token = global.given_token()?;
        let var = |name: &str| vars.get(name).filter(|v| !v.is_empty());
        let place = Place::find(&global, &settings, vars)?;
        let follow_limit = match (global.timeout, settings.timeout.as_deref()) {
            (Some(timeout), _) => Some(timeout),
            (None, Some(text)) => Some(
                parse_duration(text)
                    .map_err(|e| Error::Usage(format!("`timeout` in the configuration: {e}")))?,
            ),
            (None, None) => None,
        };
        let format = global.output.or(settings.format()?).unwrap_or_default();
        let token = token
            .or_else(|| var("DODIL_TOKEN"))
            .or_else(|| var("IGNITE_TOKEN"));
        let org = global
            .org_name
            .or(global.org)
            .or_else(|| var("IGNITE_ORG_NAME"))
            .or_else(|| var("IGNITE_ORG_ID"))
            .or_else(|| settings.org.clone());
        let fallback_org = place
            .serving
            .as_ref()
            .map(|s| s.default_org.clone())
            .or_else(|| var("IGNITE_DEFAULT_ORG"))
            .unwrap_or_else(|| DEFAULT_ORG.to_owned());
        let mut context = Self {
            near: place.near(),
            is_found: !place.is_named,
            name: settings.context.clone(),
            format,
            follow_limit,
            timeout: follow_limit.unwrap_or(DEFAULT_TIMEOUT),
            credential: credential::find(token, &settings, &place, vars)?,
            endpoint: place.endpoint,
            roots: place.roots,
            org,
            fallback_org,
        };
        if let Credential::Token(token) = &context.credential {
            let claims = claims(token);
            context.adopt(&claims);
        }
        Ok(context)
    }

    /// Fetches the token of a service account, which also says whose member it is.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn log_in(&mut self) -> Result<(), Error> {
        if let Credential::Account(account) = &self.credential {
            let token = account.token(self.timeout).await?;
            self.adopt(&claims(&token));
        }
        Ok(())
    }

    /// Takes the organization that a token names, or that it names for an id.
    fn adopt(&mut self, claims: &serde_json::Value) {
        if let Some(org) = &mut self.org
            && let Some(name) = org_with_id(claims, org)
        {
            *org = name;
        }
        if let Some(org) = org_of(claims) {
            self.fallback_org = org;
        }
    }

    /// Where the API is now.
    fn endpoint_now(&self) -> Uri {
        let dir = self.near.as_ref().filter(|_| self.is_found);
        let now = dir.and_then(|(dir, _)| Serving::read(dir));
        let now = now.and_then(|serving| serving.grpc.parse().ok());
        now.unwrap_or_else(|| self.endpoint.clone())
    }

    /// Where the API is.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// The data directory and the addresses of the endpoint's server, if it is on this machine.
    pub(super) fn near(&self) -> Option<(&Path, Serving)> {
        let (dir, serving) = self.near.as_ref()?;
        let now = Serving::read(dir).filter(|_| self.is_found);
        Some((dir, now.unwrap_or_else(|| serving.clone())))
    }

    /// Where the API is, and how the caller is known there; for people.
    pub(super) fn describe(&self) -> Vec<(&'static str, String)> {
        let how = match &self.credential {
            Credential::Token(_) => "a token".to_owned(),
            Credential::Account(a) => format!("service account {}, {}", a.id(), a.issuer()),
            Credential::Own(dir) => format!("the key in {}", dir.display()),
            Credential::None(_) => "not at all".to_owned(),
        };
        let org = self.org.as_ref().unwrap_or(&self.fallback_org);
        let mut all = vec![
            ("endpoint", self.endpoint.to_string()),
            ("organization", org.clone()),
            ("authenticated by", how),
        ];
        if let Some(name) = &self.name {
            all.insert(0, ("context", name.clone()));
        }
        all
    }

    /// A token to call with as a member of `org`, if there is one, and what to do if it is refused.
    ///
    /// # Errors
    /// Why a service account gets none.
    pub(super) async fn token(
        &self,
        org: &OrgName,
    ) -> Result<(Option<String>, Option<String>), Error> {
        Ok(match &self.credential {
            Credential::Token(token) => (Some(token.clone()), None),
            Credential::Account(account) => (Some(account.token(self.timeout).await?), None),
            Credential::Own(dir) => match SigningKey::open(dir) {
                Ok(keys) => (Some(owners_token(&keys, org, dir)), None),
                Err(e) => (None, Some(no_key(&e))),
            },
            Credential::None(hint) => (None, Some(hint.clone())),
        })
    }

    /// The certificate authorities that a client of HTTPS is to trust besides the system's.
    pub(super) fn authorities(&self) -> &[PathBuf] {
        self.roots.files()
    }

    /// The organization in use when an id names none.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not a valid name.
    pub(super) fn org(&self) -> Result<OrgName, Error> {
        let text = self.org.as_ref().unwrap_or(&self.fallback_org);
        text.parse().map_err(|e| {
            Error::Usage(format!(
                "{e}; say which organization with --org, or as org:app"
            ))
        })
    }

    /// An organization whose name has been checked before.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not a valid name.
    pub(super) fn named_org(&self, name: &str) -> Result<OrgName, Error> {
        name.parse()
            .map_err(|e| Error::Usage(format!("the organization {name:?}: {e}")))
    }

    /// The app that an id on the command line means.
    ///
    /// # Errors
    /// As [`Context::org`].
    pub(super) fn app(&self, id: AppArg) -> Result<AppId, Error> {
        id.within(|| self.org())
    }

    /// The hint for when `org` was only a guess and nothing was found in it.
    pub(super) fn guess_hint(&self, org: &OrgName) -> Option<String> {
        let is_guess = matches!(self.credential, Credential::Own(_) | Credential::None(_));
        (is_guess && self.org.is_none()).then(|| {
            format!("it was looked for as organization {org}; name another one with --org")
        })
    }

    /// Connects as a member of `org`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nothing listens there.
    pub(super) async fn connect(&self, org: &OrgName) -> Result<Session, Error> {
        self.connect_for(org, Duration::ZERO).await
    }

    /// As [`Context::connect`], for a call that may take this long regardless of `--timeout`.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub(super) async fn connect_for(
        &self,
        org: &OrgName,
        at_least: Duration,
    ) -> Result<Session, Error> {
        let (token, hint) = self.token(org).await?;
        Session::open(
            self.endpoint_now(),
            &self.roots,
            token,
            hint,
            self.timeout.max(at_least),
        )
        .await
    }
}

/// A token for one command of who can read the server's key: it opens everything, whatever the
/// server's setting for tokens that name no scopes.
fn owners_token(keys: &SigningKey, org: &OrgName, data_dir: &Path) -> String {
    let audience = identity::audience(data_dir);
    keys.mint_for(&Mint {
        org,
        ttl: MINTED_TTL,
        scopes: Some(Scopes::ALL),
        audience: audience.as_deref(),
        now: SystemTime::now(),
    })
}

#[cfg(test)]
mod tests;
