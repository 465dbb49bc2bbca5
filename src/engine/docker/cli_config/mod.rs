//! Settings that the docker command supplies to the engine, and that a client of its API has to
//! bring itself: the engine's address, credentials for registries, proxies.
//!
//! They are in the environment and in the command's folder (`DOCKER_CONFIG`, else `~/.docker`),
//! which is read whenever it is needed, since `docker login` and `docker context use` change it.
//! `src/docs/engine.md` has the precedence of the sources.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

mod auth;
mod context;
mod proxies;

pub(super) use proxies::Reaches;

/// Largest configuration file that is read, in bytes; real ones have some kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longest time for one question to a credential helper: it may unlock a keychain or ask a cloud
/// for a token, but a password prompt has no one to answer it.
pub const DEFAULT_HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the docker command's configuration is, and what the environment adds to it.
#[derive(Debug, Clone, Default)]
pub(super) struct CliConfig {
    /// The command's folder; `None` without a home.
    folder: Option<PathBuf>,
    /// `DOCKER_CONTEXT`.
    context: Option<String>,
    /// Where helpers are searched for; `None` means this process's own `PATH`.
    path: Option<String>,
    /// Limit of one question to a helper.
    helper_timeout: Duration,
    /// The proxies of this process, by the upper-case names of their variables.
    own_proxies: BTreeMap<&'static str, String>,
}

/// The part of `config.json` that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: Option<BTreeMap<String, auth::Entry>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
    current_context: Option<String>,
    proxies: Option<BTreeMap<String, proxies::Entry>>,
}

impl CliConfig {
    /// The configuration of a user with this environment.
    pub(super) fn new(env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let of_home = || set("HOME").map(|home| Path::new(&home).join(".docker"));
        Self {
            folder: set("DOCKER_CONFIG").map(PathBuf::from).or_else(of_home),
            context: set("DOCKER_CONTEXT"),
            path: set("PATH"),
            helper_timeout: DEFAULT_HELPER_TIMEOUT,
            own_proxies: proxies::of_process(set),
        }
    }

    /// The same with another limit on one question to a credential helper.
    pub(super) fn with_helper_timeout(self, helper_timeout: Duration) -> Self {
        Self {
            helper_timeout,
            ..self
        }
    }

    /// Reads `config.json`; an unusable one counts as empty, as for the docker command, and is
    /// logged.
    fn read(&self) -> ConfigFile {
        let Some(file) = self.file() else {
            return ConfigFile::default();
        };
        match read_json(&file) {
            Ok(found) => found.unwrap_or_default(),
            Err(why) => {
                tracing::warn!(file = %file.display(), "The docker command's configuration cannot be used and counts as empty: {why}");
                ConfigFile::default()
            }
        }
    }

    /// As [`Self::read`], off the threads that serve requests.
    async fn read_aside(&self) -> ConfigFile {
        let config = self.clone();
        let read = tokio::task::spawn_blocking(move || config.read());
        read.await.unwrap_or_default()
    }

    fn file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join("config.json"))
    }
}

/// Reads a JSON file of bounded length; `None` when there is none.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration in a folder with this `config.json`.
    pub(super) fn config(json: &serde_json::Value) -> (tempfile::TempDir, CliConfig) {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join("config.json"), json.to_string()).expect("written");
        let at = folder.path().to_str().expect("plain").to_owned();
        let config = CliConfig::new(|name| match name {
            "DOCKER_CONFIG" => Some(at.clone()),
            _ => std::env::var(name).ok(),
        });
        (folder, config)
    }

    #[test]
    fn a_file_that_cannot_be_used_counts_as_empty() {
        let folder = tempfile::tempdir().expect("a directory");
        let config = CliConfig::new(|name| {
            (name == "HOME").then(|| folder.path().to_str().expect("plain").to_owned())
        });
        assert!(config.read().auths.is_none(), "there is none");
        let file = config.file().expect("a home");
        std::fs::create_dir(file.parent().expect("a folder")).expect("made");
        let spaces = " ".repeat(MAX_FILE_BYTES as usize);
        for text in ["{", "\"x\"", &format!("{{}}{spaces}")] {
            std::fs::write(&file, text).expect("written");
            assert!(config.read().auths.is_none());
            assert!(read_json::<ConfigFile>(&file).is_err());
        }
        std::fs::write(&file, r#"{"auths": null, "other": 1}"#).expect("written");
        assert!(read_json::<ConfigFile>(&file).is_ok());
    }
}
