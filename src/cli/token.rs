//! `ignite token`: tokens signed with this machine's key.

use std::{path::PathBuf, time::Duration, time::SystemTime};

use clap::Subcommand;

use super::{Error, context, failure::note, output};
use crate::{
    config::{parse_duration, process_env},
    identity::{self, SigningKey},
    model::OrgName,
};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print only a token for an organization (given with --org).
    Create {
        /// The lifetime of the token, such as 30m or 24h.
        #[arg(long, value_parser = parse_duration, default_value = "24h")]
        ttl: Duration,
        /// The server's data directory [env: IGNITE_DATA_DIR].
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
}

/// Runs the command without a server.
pub(super) fn run(command: Command, org: Option<&str>) -> Result<(), Error> {
    let Command::Create { ttl, data_dir } = command;
    let org: OrgName = org
        .ok_or_else(|| {
            Error::Usage("a token is for an organization; name it with --org".to_owned())
        })?
        .parse()
        .map_err(|e| Error::Usage(format!("--org: {e}")))?;
    if ttl < Duration::from_secs(1) {
        return Err(Error::Usage("--ttl must be at least 1s".to_owned()));
    }
    let dir = data_dir
        .or_else(|| context::data_dir(&process_env))
        .ok_or_else(|| {
            Error::Usage(
                "neither HOME nor XDG_DATA_HOME is set; name the data directory with --data-dir"
                    .to_owned(),
            )
        })?;
    let opened = match SigningKey::open(&dir) {
        // The server creates the key at its first start, or uses the one created here before.
        Err(identity::Error::Missing(_)) => {
            note(&format!("made a new signing key in {}", dir.display()));
            SigningKey::open_or_create(&dir)
        }
        opened => opened,
    };
    let keys = opened.map_err(|e| Error::Other(e.into()))?;
    output::line(&keys.mint(&org, ttl, SystemTime::now()))
}
