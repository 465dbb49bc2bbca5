//! Determines where the server is, who calls, and for which organization.
//!
//! | what | order, first found wins |
//! |---|---|
//! | endpoint | `--api-endpoint`, `IGNITE_API_ENDPOINT`, file, `serve.json` of this machine, `http://127.0.0.1:50051` |
//! | token | `--token`, `--token-file`, `DODIL_TOKEN`, `IGNITE_TOKEN`, file, minted when the endpoint is this machine's own |
//! | organization | the id, `--org`, `IGNITE_ORG_NAME`, `IGNITE_ORG_ID`, file, the token's, `serve.json`, `IGNITE_DEFAULT_ORG`, `local` |

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Uri, uri::Scheme};

use super::{Error, id::AppArg, output::Format, settings::Settings};
use crate::{
    config::{Serving, Source, default_data_dir, parse_duration},
    identity::{self, Mint, SigningKey},
    model::{AppId, OrgName, Scopes},
};

mod session;

pub(super) use session::Session;

/// Where a server listens by default.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";
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
    // Without clap's `env`: help would print the secret.
    #[arg(long, global = true)]
    pub(super) token: Option<String>,
    /// A file with the bearer token.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub(super) token_file: Option<PathBuf>,
    /// The organization for ids that name none [env: IGNITE_ORG_NAME, IGNITE_ORG_ID].
    #[arg(long, global = true)]
    pub(super) org: Option<String>,
    /// Connect without TLS [env: IGNITE_DEBUG].
    #[arg(long, global = true)]
    pub(super) debug: bool,
    /// The longest wait for an answer, such as 30s [default: 5m; none when following an execution].
    #[arg(long, global = true, value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
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
                    .map_err(|e| Error::Usage(format!("--token-file {name}: {e}")))?;
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
    token: Option<String>,
    org: Option<String>,
    fallback_org: String,
    /// The data directory whose key may sign for this endpoint.
    own: Option<PathBuf>,
}

impl Context {
    /// Collects flags, variables, the file, and the `serve.json` of a server on this machine.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub(super) fn new(global: Global, vars: &impl Source) -> Result<Self, Error> {
        let settings = Settings::load(global.config.as_deref(), vars)?;
        let token = global.given_token()?;
        let var = |name: &str| vars.get(name).filter(|v| !v.is_empty());
        let data_dir = data_dir(vars);
        let serving = data_dir.as_deref().and_then(Serving::read);

        let no_tls = global.debug
            || var("IGNITE_DEBUG").map_or_else(
                || settings.debug.unwrap_or(false),
                |v| v == "1" || v == "true",
            );
        let named = global
            .api_endpoint
            .or_else(|| var("IGNITE_API_ENDPOINT"))
            .or_else(|| settings.api_endpoint.clone());
        let endpoint = match &named {
            Some(named) => endpoint(named, no_tls)?,
            None => endpoint(
                serving
                    .as_ref()
                    .map_or(DEFAULT_ENDPOINT, |s| s.grpc.as_str()),
                true,
            )?,
        };
        let own = named.is_none()
            || is_this_machine(&endpoint)
            || named.as_ref() == serving.as_ref().map(|s| &s.grpc);

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
            .or_else(|| var("IGNITE_TOKEN"))
            .or(settings.token);
        let org = global
            .org
            .or_else(|| var("IGNITE_ORG_NAME"))
            .or_else(|| var("IGNITE_ORG_ID"))
            .or(settings.org);
        let fallback_org = token
            .as_deref()
            .and_then(org_of)
            .or_else(|| serving.map(|s| s.default_org))
            .or_else(|| var("IGNITE_DEFAULT_ORG"))
            .unwrap_or_else(|| DEFAULT_ORG.to_owned());
        Ok(Self {
            format,
            follow_limit,
            timeout: follow_limit.unwrap_or(DEFAULT_TIMEOUT),
            endpoint,
            token,
            org,
            fallback_org,
            own: data_dir.filter(|_| own),
        })
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

    /// The app that an id on the command line means.
    ///
    /// # Errors
    /// As [`Context::org`].
    pub(super) fn app(&self, id: AppArg) -> Result<AppId, Error> {
        id.within(|| self.org())
    }

    /// The hint for when `org` was only a guess and nothing was found in it.
    pub(super) fn guess_hint(&self, org: &OrgName) -> Option<String> {
        (self.token.is_none() && self.org.is_none()).then(|| {
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
        let (token, hint) = match (&self.token, &self.own) {
            (Some(token), _) => (Some(token.clone()), None),
            (None, Some(dir)) => match SigningKey::open(dir) {
                Ok(keys) => (Some(owners_token(&keys, org, dir)), None),
                Err(e) => (
                    None,
                    Some(format!(
                        "no token was given, and none can be made here: {e}. If the server was started with --data-dir, set IGNITE_DATA_DIR to the same"
                    )),
                ),
            },
            (None, None) => (
                None,
                Some("no token was given; give one with --token or IGNITE_TOKEN".to_owned()),
            ),
        };
        Session::open(
            self.endpoint.clone(),
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

/// The data directory of a server on this machine that was started without flags.
pub(super) fn data_dir(vars: &impl Source) -> Option<PathBuf> {
    let set = vars.get("IGNITE_DATA_DIR").filter(|v| !v.is_empty());
    set.map(PathBuf::from).or_else(|| default_data_dir(vars))
}

/// Validates an endpoint.
pub(super) fn check_endpoint(text: &str) -> Result<(), Error> {
    endpoint(text, false).map(drop)
}

/// Parses an endpoint as users write it. Without a scheme it uses TLS, except on this machine.
fn endpoint(text: &str, no_tls: bool) -> Result<Uri, Error> {
    let refuse = || {
        Error::Usage(format!(
            "the API endpoint {text:?} is not a URL such as http://127.0.0.1:50051, nor host:port"
        ))
    };
    let bare = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return Err(refuse()),
        None => text,
    };
    let of = |scheme: &str| -> Result<Uri, Error> {
        let uri: Uri = format!("{scheme}://{bare}").parse().map_err(|_| refuse())?;
        if uri.host().is_none_or(str::is_empty) || uri.path() != "/" || uri.query().is_some() {
            return Err(refuse());
        }
        Ok(uri)
    };
    let plain = of("http")?;
    let wants_tls = if bare == text {
        !is_this_machine(&plain)
    } else {
        text.starts_with("https")
    };
    if wants_tls && !no_tls {
        of("https")
    } else {
        Ok(plain)
    }
}

fn is_this_machine(endpoint: &Uri) -> bool {
    let Some(host) = endpoint.host() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // A server that listens everywhere may have recorded the unspecified address.
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// The first organization in a token, unverified: it only saves the user from naming it.
fn org_of(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let first = claims
        .get("organization")
        .and_then(|o| o.as_object()?.keys().next());
    first.cloned().or_else(|| {
        claims
            .get("org_name")
            .and_then(|n| n.as_str().map(str::to_owned))
    })
}

fn uses_tls(endpoint: &Uri) -> bool {
    endpoint.scheme() == Some(&Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(global: Global, pairs: &[(&str, &str)]) -> Context {
        let vars = |name: &str| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Context::new(global, &vars).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[test]
    fn endpoints_speak_tls_unless_they_are_near() {
        let of = |text: &str, no_tls| endpoint(text, no_tls).map(|u| u.to_string());
        for (text, no_tls, expected) in [
            ("127.0.0.1:50051", false, "http://127.0.0.1:50051/"),
            ("localhost:1", false, "http://localhost:1/"),
            ("[::1]:1", false, "http://[::1]:1/"),
            ("api.example.com:443", false, "https://api.example.com:443/"),
            ("api.example.com", true, "http://api.example.com/"),
            ("https://localhost:1", false, "https://localhost:1/"),
            ("https://h:1", true, "http://h:1/"),
            ("http://h:1", false, "http://h:1/"),
        ] {
            assert_eq!(of(text, no_tls).ok().as_deref(), Some(expected), "{text}");
        }
        for wrong in ["", "ftp://h", "http://", "h:1/path", "a b"] {
            assert!(of(wrong, false).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_server_of_this_machine_is_found_and_overridden() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().to_str().expect("UTF-8");
        let home = ("HOME", "/nowhere");
        let none = context(Global::default(), &[home]);
        assert_eq!(none.endpoint.to_string(), "http://127.0.0.1:50051/");
        assert_eq!(none.org().expect("a name").as_str(), "local");

        let serving = Serving {
            http: "http://127.0.0.1:1".to_owned(),
            grpc: "http://127.0.0.1:2".to_owned(),
            pid: 1,
            default_org: "mine".to_owned(),
        };
        serving.write(dir.path()).expect("written");
        let found = context(Global::default(), &[home, ("IGNITE_DATA_DIR", data)]);
        assert_eq!(found.endpoint.to_string(), "http://127.0.0.1:2/");
        assert_eq!(found.org().expect("a name").as_str(), "mine");
        assert_eq!(found.own.as_deref(), Some(dir.path()));

        let global = Global {
            api_endpoint: Some("api.example.com".to_owned()),
            ..Default::default()
        };
        let pairs = [
            home,
            ("IGNITE_DATA_DIR", data),
            ("IGNITE_TOKEN", "t"),
            ("DODIL_TOKEN", "d"),
            ("IGNITE_ORG_NAME", "o"),
        ];
        let named = context(global, &pairs);
        assert_eq!(
            named.own, None,
            "a token of this machine must not go elsewhere"
        );
        assert_eq!(named.token.as_deref(), Some("d"));
        assert_eq!(named.org().expect("a name").as_str(), "o");
        Serving::remove(dir.path()).expect("removed");
        Serving::remove(dir.path()).expect("gone is success");
    }

    #[test]
    fn a_token_is_taken_from_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        let given = |text: &str| {
            std::fs::write(&file, text).expect("written");
            let global = Global {
                token_file: Some(file.clone()),
                ..Default::default()
            };
            global.given_token()
        };
        assert_eq!(
            given(" t.o.k\n").expect("a token").as_deref(),
            Some("t.o.k")
        );
        assert!(matches!(given("\n"), Err(Error::Usage(why)) if why.contains("no token in it")));
    }

    #[test]
    fn a_tokens_organization_is_used_when_none_is_named() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"organization":{"acme":{"id":"1"}}}"#);
        let token = format!("a.{payload}.c");
        let found = context(
            Global::default(),
            &[("HOME", "/nowhere"), ("IGNITE_TOKEN", &token)],
        );
        assert_eq!(found.org().expect("a name").as_str(), "acme");
        assert_eq!(org_of("nonsense"), None);
    }
}
