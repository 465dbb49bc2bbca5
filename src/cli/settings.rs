//! The client's own configuration file, `config.yaml`.
//!
//! It is searched for in `$DODIL_CONFIG_DIR`, `$IGNITE_CONFIG_DIR`, `~/.config/unified-cli` and
//! `~/.ignite`; the first directory that has one wins. Unknown keys are ignored, because the file
//! is shared with other clients.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::{Error, output::Format};
use crate::config::Source;

/// The file's name in its directory.
const FILE: &str = "config.yaml";

/// The content of the file; everything is optional.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Settings {
    /// Where the API is.
    pub(super) api_endpoint: Option<String>,
    /// A bearer token.
    pub(super) token: Option<String>,
    /// The organization for ids that name none.
    #[serde(alias = "organization", alias = "org_name")]
    pub(super) org: Option<String>,
    /// How answers are printed.
    pub(super) output: Option<String>,
    /// The longest wait for an answer.
    pub(super) timeout: Option<String>,
    /// No TLS.
    pub(super) debug: Option<bool>,
}

impl Settings {
    /// Reads the file that `--config` names (the file or its directory), else the first one found.
    ///
    /// # Errors
    /// When the named file is missing, or the file cannot be read or parsed.
    pub(super) fn load(named: Option<&Path>, vars: &impl Source) -> Result<Self, Error> {
        let path = match named {
            Some(_) => path(named, vars),
            None => path(None, vars).filter(|file| file.exists()),
        };
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text)
            .with_context(|| format!("the configuration {} is not valid", path.display()))
            .map_err(Error::Other)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // An empty document parses as null and counts as an empty map.
        Ok(serde_yaml_ng::from_str::<Option<Self>>(text)?.unwrap_or_default())
    }

    /// The output format set in the file.
    pub(super) fn format(&self) -> Result<Option<Format>, Error> {
        self.output
            .as_deref()
            .map(|text| <Format as clap::ValueEnum>::from_str(text, true))
            .transpose()
            .map_err(|_| {
                Error::Usage(
                    "`output` in the configuration must be table, json, yaml or wide".to_owned(),
                )
            })
    }
}

/// The file that `--config` names, else the first one found, else the path for a new one.
pub(super) fn path(named: Option<&Path>, vars: &impl Source) -> Option<PathBuf> {
    match named {
        Some(path) if path.is_dir() => Some(path.join(FILE)),
        Some(path) => Some(path.to_owned()),
        None => {
            let found = directories(vars)
                .map(|dir| dir.join(FILE))
                .find(|file| file.exists());
            // A directory named by a variable is an explicit choice; otherwise `~/.ignite`, which
            // is ours alone.
            let var = |name: &str| vars.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            let new = || {
                var("DODIL_CONFIG_DIR")
                    .or_else(|| var("IGNITE_CONFIG_DIR"))
                    .or_else(|| Some(var("HOME")?.join(".ignite")))
            };
            found.or_else(|| new().map(|dir| dir.join(FILE)))
        }
    }
}

fn directories(vars: &impl Source) -> impl Iterator<Item = PathBuf> {
    let var = |name: &str| vars.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = var("HOME");
    [
        var("DODIL_CONFIG_DIR"),
        var("IGNITE_CONFIG_DIR"),
        home.as_ref().map(|h| h.join(".config/unified-cli")),
        home.map(|h| h.join(".ignite")),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_with_a_file_wins() {
        let home = tempfile::tempdir().expect("a directory");
        let write = |dir: &str, text: &str| {
            let dir = home.path().join(dir);
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join(FILE), text).expect("written");
        };
        write(".ignite", "org: last\nsomething_else: 1\n");
        let home_dir = home.path().to_str().expect("UTF-8").to_owned();
        let dodil = home.path().join("d").to_str().expect("UTF-8").to_owned();
        let vars = |name: &str| match name {
            "HOME" => Some(home_dir.clone()),
            "DODIL_CONFIG_DIR" => Some(dodil.clone()),
            _ => None,
        };
        let org = || Settings::load(None, &vars).expect("read").org;
        assert_eq!(org().as_deref(), Some("last"));
        write(".config/unified-cli", "organization: third");
        assert_eq!(org().as_deref(), Some("third"));
        write("d", "org_name: first");
        assert_eq!(org().as_deref(), Some("first"));
        write("d", "");
        assert_eq!(org(), None);
        write("d", "timeout: [");
        assert!(Settings::load(None, &vars).is_err());
        assert!(Settings::load(Some(&home.path().join("none.yaml")), &vars).is_err());
    }
}
