//! Contexts of the docker command: engines with names.
//!
//! The description of a context is in a folder named by the digest of its name, its certificates
//! are in another one.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{CliConfig, read_json};
use crate::model::hex;

/// The context that stands for the usual sockets.
const DEFAULT: &str = "default";
/// The files that TLS to an engine needs.
const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// The engine that a context names.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Context {
    /// Its name.
    pub(in super::super) name: String,
    /// Who chose it, as part of a sentence.
    pub(in super::super) chosen_by: String,
    /// The engine's address.
    pub(in super::super) host: String,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`, for an engine reached over TLS.
    pub(in super::super) certificates: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Endpoint {
    host: String,
    #[serde(rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

impl CliConfig {
    /// The current context, by `DOCKER_CONTEXT` or else by `config.json`; `None` for the default
    /// one.
    ///
    /// # Errors
    /// The context's name and why it cannot be used.
    pub(in super::super) fn context(&self) -> Result<Option<Context>, (String, String)> {
        let (name, chosen_by) = match (&self.context, self.read().current_context) {
            (Some(name), _) => (name.clone(), "DOCKER_CONTEXT".to_owned()),
            (None, Some(name)) if !name.is_empty() => {
                let file = self.file().unwrap_or_default();
                (name, format!("currentContext in {}", file.display()))
            }
            _ => return Ok(None),
        };
        if name == DEFAULT {
            return Ok(None);
        }
        match self.find(&name) {
            Ok((host, certificates)) => Ok(Some(Context {
                name,
                chosen_by,
                host,
                certificates,
            })),
            Err(why) => {
                let why = format!(
                    "it is the docker context that {chosen_by} names, and {why}; choose another (`docker context ls`), or say with --docker-host where the engine listens"
                );
                Err((name, why))
            }
        }
    }

    fn find(&self, name: &str) -> Result<(String, Option<PathBuf>), String> {
        let folder = self
            .folder
            .as_ref()
            .ok_or("there is no home to find it in")?;
        let contexts = folder.join("contexts");
        let digest = hex::encode(&Sha256::digest(name));
        let file = contexts.join("meta").join(&digest).join("meta.json");
        let meta: Meta = read_json(&file)
            .map_err(|e| format!("its description {} cannot be read ({e})", file.display()))?
            .ok_or_else(|| format!("there is no such context in {}", contexts.display()))?;
        let engine = meta.endpoints.get("docker");
        let engine = engine
            .filter(|e| !e.host.is_empty())
            .ok_or("it names no engine")?;
        if engine.skip_tls_verify {
            return Err("it skips the check of the engine's certificate, which is not done here; give it the engine's ca.pem".to_owned());
        }
        let certificates = contexts.join("tls").join(digest).join("docker");
        if !certificates.is_dir() {
            return Ok((engine.host.clone(), None));
        }
        match CERTIFICATES
            .iter()
            .find(|f| !certificates.join(f).is_file())
        {
            None => Ok((engine.host.clone(), Some(certificates))),
            Some(file) => Err(format!(
                "it has no {file}; TLS needs ca.pem, cert.pem and key.pem"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::json;

    use super::{super::tests::config, *};

    fn describe(folder: &Path, name: &str, endpoint: &serde_json::Value) -> PathBuf {
        let digest = hex::encode(&Sha256::digest(name));
        let meta = folder.join("contexts/meta").join(&digest);
        fs::create_dir_all(&meta).expect("made");
        let text = json!({ "Name": name, "Metadata": {}, "Endpoints": { "docker": endpoint } });
        fs::write(meta.join("meta.json"), text.to_string()).expect("written");
        folder.join("contexts/tls").join(digest).join("docker")
    }

    #[test]
    fn the_variable_comes_before_the_current_context() {
        let (folder, mut config) = config(&json!({ "currentContext": "lab" }));
        describe(folder.path(), "lab", &json!({ "Host": "tcp://lab:2375" }));
        describe(folder.path(), "home", &json!({ "Host": "unix:///a" }));
        config.context = None;
        let found = config.context().expect("good").expect("one");
        assert_eq!(
            (found.name.as_str(), found.host.as_str()),
            ("lab", "tcp://lab:2375")
        );
        assert!(found.chosen_by.contains("config.json"), "{found:?}");
        config.context = Some("home".into());
        let found = config.context().expect("good").expect("one");
        assert_eq!(
            (found.host.as_str(), found.chosen_by.as_str()),
            ("unix:///a", "DOCKER_CONTEXT")
        );
        config.context = Some("default".into());
        assert_eq!(config.context(), Ok(None));
    }

    #[test]
    fn certificates_are_complete_or_not_there() {
        let (folder, mut config) = config(&json!({}));
        let tls = describe(folder.path(), "lab", &json!({ "Host": "tcp://lab:2376" }));
        config.context = Some("lab".into());
        assert_eq!(
            config.context().expect("good").expect("one").certificates,
            None
        );
        fs::create_dir_all(&tls).expect("made");
        for file in CERTIFICATES {
            let (name, why) = config.context().expect_err(file);
            assert!(name == "lab" && why.contains(file), "{why}");
            fs::write(tls.join(file), "").expect("written");
        }
        let found = config.context().expect("good").expect("one");
        assert_eq!(found.certificates, Some(tls));
    }

    #[test]
    fn what_cannot_be_used_is_said_with_the_remedy() {
        let (folder, mut config) = config(&json!({ "currentContext": "gone" }));
        config.context = None;
        let (_, why) = config.context().expect_err("gone");
        assert!(
            why.contains("no such context") && why.contains("--docker-host"),
            "{why}"
        );
        describe(
            folder.path(),
            "gone",
            &json!({ "Host": "tcp://h:1", "SkipTLSVerify": true }),
        );
        assert!(
            config
                .context()
                .expect_err("unchecked")
                .1
                .contains("ca.pem")
        );
        describe(folder.path(), "gone", &json!({}));
        assert!(config.context().expect_err("empty").1.contains("no engine"));
    }
}
