//! `ignite token`: tokens signed with this machine's key, and the key itself.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use serde_json::json;

use super::{
    Error,
    context::{self, Global},
    failure::note,
    output::{self, Format},
};
use crate::{
    audit::{self, Entry, Kind},
    config::{parse_duration, process_env},
    identity::{self, Mint, SigningKey, keyring},
    model::{OrgName, Scopes},
};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print only a token for an organization (given with --org).
    Create {
        /// The lifetime of the token, such as 30m or 24h.
        #[arg(long, value_parser = parse_duration, default_value = "24h")]
        ttl: Duration,
        /// What the token opens: a scope such as InvokeApp, or a role with all of its scopes, such
        /// as ignite.app-viewer; repeatable. Without it the server's default_scopes hold.
        #[arg(long = "scope", value_name = "SCOPE", value_parser = scopes)]
        scopes: Vec<Scopes>,
        /// For whom the token is (`aud`); where the server demands an audience, that one.
        #[arg(long)]
        audience: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List the keys with which this machine's tokens verify.
    Keys {
        #[command(flatten)]
        place: Place,
    },
    /// Have a new key sign tokens; those of the key before verify until they expire.
    RotateKey {
        /// Refuse the tokens of the key before at once.
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Refuse every token that a key has signed, from now on.
    RevokeKey {
        /// The key's id, as `ignite token keys` lists it.
        kid: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Which server of this machine is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The server's data directory [env: IGNITE_DATA_DIR].
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The data directory.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing says where it is.
    pub(super) fn resolve(self) -> Result<PathBuf, Error> {
        let known = self.data_dir.or_else(|| context::data_dir(&process_env));
        known.ok_or_else(|| {
            Error::Usage(
                "neither HOME nor XDG_DATA_HOME is set; name the data directory with --data-dir"
                    .to_owned(),
            )
        })
    }
}

fn scopes(text: &str) -> Result<Scopes, String> {
    text.parse()
}

/// The organization that a command names.
///
/// # Errors
/// [`Error::Usage`] when it names none; `what` needs one.
pub(super) fn org(global: &Global, what: &str) -> Result<OrgName, Error> {
    global
        .org
        .as_deref()
        .ok_or_else(|| Error::Usage(format!("{what}; name it with --org")))?
        .parse()
        .map_err(|e| Error::Usage(format!("--org: {e}")))
}

/// Notes a change in the audit log. That it cannot be noted undoes nothing, so it is a warning.
pub(super) fn record(dir: &Path, entry: &Entry) {
    if let Err(error) = audit::append(dir, entry) {
        note(&format!("warning: this is not in the audit log: {error}"));
    }
}

/// Runs the command; needs no server.
pub(super) fn run(command: Command, global: &Global) -> Result<(), Error> {
    match command {
        Command::Create {
            ttl,
            scopes,
            audience,
            place,
        } => {
            let org = org(global, "a token is for an organization")?;
            if ttl < Duration::from_secs(1) {
                return Err(Error::Usage("--ttl must be at least 1s".to_owned()));
            }
            create(&org, ttl, &scopes, audience.as_deref(), &place.resolve()?)
        }
        Command::Keys { place } => list(&place.resolve()?, global.output.unwrap_or_default()),
        Command::RotateKey { revoke, place } => rotate(&place.resolve()?, revoke),
        Command::RevokeKey { kid, place } => revoke(&place.resolve()?, &kid),
    }
}

fn create(
    org: &OrgName,
    ttl: Duration,
    scopes: &[Scopes],
    audience: Option<&str>,
    dir: &Path,
) -> Result<(), Error> {
    let opened = match SigningKey::open(dir) {
        // The server would make the key at its first start; made here first, it is the one it takes.
        Err(identity::Error::Missing(_)) => {
            note(&format!("made a new signing key in {}", dir.display()));
            SigningKey::open_or_create(dir)
        }
        opened => opened,
    };
    let keys = opened.map_err(|e| Error::Other(e.into()))?;
    let scopes = scopes.iter().copied().reduce(Scopes::or);
    let demanded = identity::audience(dir);
    let token = keys.mint_for(&Mint {
        org,
        ttl,
        scopes,
        audience: audience.or(demanded.as_deref()),
        now: SystemTime::now(),
    });
    let entry = Entry::local(Kind::Token, "create").org(Some(org.as_str()));
    record(
        dir,
        &entry.detail(format!("for {}", humantime::format_duration(ttl))),
    );
    output::line(&token)
}

fn list(dir: &Path, format: Format) -> Result<(), Error> {
    let keys = keyring::list(dir, SystemTime::now()).map_err(|e| Error::Other(e.into()))?;
    let until = |ms: Option<u64>| ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
    if format.is_structured() {
        let keys = keys.iter().map(|key| {
            json!({
                "kid": key.kid,
                "signs": key.signs,
                "verifiesUntil": until(key.until_ms).map(output::time),
            })
        });
        return format.print_value(&json!({ "keys": keys.collect::<Vec<_>>() }));
    }
    let mut table = output::table(&["KID", "SIGNS", "VERIFIES UNTIL"]);
    for key in keys {
        let signs = if key.signs { "yes" } else { "no" };
        let until = output::time(until(key.until_ms).unwrap_or(0));
        table.add_row([key.kid.as_str(), signs, &until]);
    }
    output::columns(table)
}

fn rotate(dir: &Path, and_revoke: bool) -> Result<(), Error> {
    let now = SystemTime::now();
    let rotated = keyring::rotate(dir, now).map_err(|e| Error::Other(e.into()))?;
    record(
        dir,
        &Entry::local(Kind::Key, "rotate").target(Some(&rotated.kid)),
    );
    if and_revoke {
        revoke(dir, &rotated.previous)?;
    }
    output::line(&rotated.kid)
}

fn revoke(dir: &Path, kid: &str) -> Result<(), Error> {
    let revoked = keyring::revoke(dir, kid, SystemTime::now());
    if !revoked.map_err(|e| Error::Other(e.into()))? {
        return Err(Error::Usage(format!(
            "there is no key {kid:?}; `ignite token keys` lists those there are"
        )));
    }
    record(dir, &Entry::local(Kind::Key, "revoke").target(Some(kid)));
    Ok(())
}
