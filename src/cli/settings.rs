//! The client's own configuration file, `config.yaml`.
//!
//! It is searched for in `$DODIL_CONFIG_DIR`, `$IGNITE_CONFIG_DIR`, `~/.config/unified-cli`,
//! `~/.ignite` and `~/.config/dodil`; the first directory that has one wins. The file is shared with
//! other clients: the section `ignite:` is for this one, `global:` for all. A key is searched for in
//! `ignite:`, then at the top level, then in `global:`. Unknown keys are ignored.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_yaml_ng::{Mapping, Value};

use super::{Error, hidden::Hidden, output::Format};
use crate::config::Source;

/// The file's name in its directory.
const FILE: &str = "config.yaml";
/// The section that is for this client alone.
pub(super) const OWN: &str = "ignite";
/// The section that is for all clients.
pub(super) const SHARED: &str = "global";

/// The names of a key, in the order in which they count; the last is the one that is written.
pub(super) type Names = &'static [&'static str];

pub(super) const API_ENDPOINT: Names = &["api_endpoint"];
pub(super) const TOKEN: Names = &["token"];
pub(super) const ORG: Names = &["org", "org_name", "organization", "org_id"];
pub(super) const OUTPUT: Names = &["output"];
pub(super) const TIMEOUT: Names = &["timeout"];
pub(super) const DEBUG: Names = &["debug"];
pub(super) const ACCOUNT_ID: Names = &["service_account_id"];
pub(super) const ACCOUNT_SECRET: Names = &["service_account_secret"];
pub(super) const OIDC_URL: Names = &["issuer_base_url", "oidc_url"];

/// The content of the file; everything is optional.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Where it was read.
    pub(super) path: Option<PathBuf>,
    /// Where the API is.
    pub(super) api_endpoint: Option<String>,
    /// A bearer token.
    pub(super) token: Option<String>,
    /// The id and the secret of a service account.
    pub(super) account: Option<(String, Hidden)>,
    /// Where that gets its tokens.
    pub(super) oidc_url: Option<String>,
    /// The organization for ids that name none.
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
        let read = Self::parse(&text)
            .with_context(|| format!("the configuration {} is not valid", path.display()))?;
        Ok(Self {
            path: Some(path),
            ..read
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // An empty document parses as null and counts as an empty map.
        let file: Option<Mapping> = serde_yaml_ng::from_str(text)?;
        let file = Sections::of(file.unwrap_or_default())?;
        let account = match (file.find(ACCOUNT_ID)?, file.text(ACCOUNT_SECRET)?) {
            (Some((section, id)), Some(secret)) => Some((section, (id, Hidden(secret)))),
            (None, None) => None,
            _ => bail!(
                "{} and {} belong together, and one of them is missing",
                ACCOUNT_ID[0],
                ACCOUNT_SECRET[0]
            ),
        };
        // Of the two ways to be known that of the section which counts more, and the token first.
        let (token, account) = match (file.find(TOKEN)?, account) {
            (Some((of_token, _)), Some((of_account, account))) if of_account < of_token => {
                (None, Some(account))
            }
            (Some((_, token)), _) => (Some(token), None),
            (None, account) => (None, account.map(|(_, account)| account)),
        };
        Ok(Self {
            path: None,
            api_endpoint: file.text(API_ENDPOINT)?,
            token,
            account,
            oidc_url: file.text(OIDC_URL)?,
            org: file.text(ORG)?,
            output: file.text(OUTPUT)?,
            timeout: file.text(TIMEOUT)?,
            debug: file
                .text(DEBUG)?
                .map(|text| text.parse())
                .transpose()
                .context("`debug` is neither true nor false")?,
        })
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

/// The parts of the file that keys are looked for in, in order, each with what its keys begin with.
struct Sections(Vec<(String, Mapping)>);

impl Sections {
    fn of(file: Mapping) -> anyhow::Result<Self> {
        let section = |name: &str| match file.get(name) {
            None | Some(Value::Null) => Ok((format!("{name}."), Mapping::new())),
            Some(Value::Mapping(keys)) => Ok((format!("{name}."), keys.clone())),
            Some(_) => bail!("`{name}` is not a section with keys"),
        };
        let (own, shared) = (section(OWN)?, section(SHARED)?);
        Ok(Self(vec![own, (String::new(), file), shared]))
    }

    fn text(&self, names: &[&str]) -> anyhow::Result<Option<String>> {
        Ok(self.find(names)?.map(|(_, text)| text))
    }

    /// The first value under one of the names, and in which section it is; an empty one is none.
    fn find(&self, names: &[&str]) -> anyhow::Result<Option<(usize, String)>> {
        for (at, (section, keys)) in self.0.iter().enumerate() {
            for name in names {
                let text = match keys.get(*name) {
                    None | Some(Value::Null) => continue,
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Bool(on)) => on.to_string(),
                    Some(Value::Number(number)) => number.to_string(),
                    Some(_) => bail!("`{section}{name}` is not a text"),
                };
                if !text.is_empty() {
                    return Ok(Some((at, text)));
                }
            }
        }
        Ok(None)
    }
}

/// The file that `--config` names, else the first one found, else the path for a new one.
pub(super) fn path(named: Option<&Path>, vars: &impl Source) -> Option<PathBuf> {
    match named {
        Some(path) if path.is_dir() => Some(path.join(FILE)),
        Some(path) => Some(path.to_owned()),
        None => {
            let mut all = directories(vars).map(|dir| dir.join(FILE));
            let found = all.clone().find(|file| file.exists());
            found.or_else(|| all.next())
        }
    }
}

fn directories(vars: &impl Source) -> impl Iterator<Item = PathBuf> + Clone {
    let var = |name: &str| vars.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = var("HOME");
    let below = |dir: &str| home.as_ref().map(|home| home.join(dir));
    [
        var("DODIL_CONFIG_DIR"),
        var("IGNITE_CONFIG_DIR"),
        below(".config/unified-cli"),
        below(".ignite"),
        below(".config/dodil"),
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
        let home_dir = home.path().to_str().expect("UTF-8").to_owned();
        let dodil = home.path().join("d").to_str().expect("UTF-8").to_owned();
        let at_home = |name: &str| (name == "HOME").then(|| home_dir.clone());
        let new = path(None, &at_home).expect("a place");
        assert_eq!(new, home.path().join(".config/unified-cli/config.yaml"));
        let vars = |name: &str| match name {
            "HOME" => Some(home_dir.clone()),
            "DODIL_CONFIG_DIR" => Some(dodil.clone()),
            _ => None,
        };
        let org = || Settings::load(None, &vars).expect("read").org;
        assert_eq!(org(), None);
        for (dir, name) in [
            (".config/dodil", "org_id: last"),
            (".ignite", "org: fourth\nsomething_else: 1\n"),
            (".config/unified-cli", "organization: third"),
            ("d", "org_name: first"),
        ] {
            write(dir, name);
            let expected = name.split(['\n', ' ']).nth(1);
            assert_eq!(org().as_deref(), expected);
        }
        write("d", "");
        assert_eq!(org(), None);
        write("d", "timeout: [");
        assert!(Settings::load(None, &vars).is_err());
        assert!(Settings::load(Some(&home.path().join("none.yaml")), &vars).is_err());
    }

    #[test]
    fn a_key_is_found_in_its_section_then_on_top_then_in_the_shared_section() {
        let read = |text: &str| Settings::parse(text).unwrap_or_else(|e| panic!("{text}: {e:#}"));
        let file = "token: top\norg: top\nignite:\n  token: own\n  debug: true\n  org_id: 7\n\
                    global:\n  token: all\n  api_endpoint: api.dodil.io:443\n  output: json\n";
        let all = read(file);
        assert_eq!(all.token.as_deref(), Some("own"));
        assert_eq!(all.org.as_deref(), Some("7"));
        assert_eq!(all.api_endpoint.as_deref(), Some("api.dodil.io:443"));
        assert_eq!(
            (all.debug, all.output.as_deref()),
            (Some(true), Some("json"))
        );
        let account = "global: { service_account_id: a, service_account_secret: s }";
        let (id, secret) = read(account).account.expect("an account");
        assert_eq!((id.as_str(), secret.0.as_str()), ("a", "s"));
        assert_eq!(read("ignite:\ntoken: ''\n").token, None);
        let newer =
            "global: { token: old }\nignite: { service_account_id: a, service_account_secret: s }";
        assert!(read(newer).token.is_none() && read(newer).account.is_some());
        let both = "token: t\nservice_account_id: a\nservice_account_secret: s";
        assert!(read(both).token.is_some() && read(both).account.is_none());
        for (wrong, word) in [
            ("ignite: 1", "`ignite`"),
            ("ignite: { token: [] }", "`ignite.token`"),
            ("debug: yes please", "`debug`"),
            ("service_account_id: a", "service_account_secret"),
            ("- 1", ""),
        ] {
            let why = Settings::parse(wrong).expect_err(wrong).to_string();
            assert!(why.contains(word), "{wrong}: {why}");
        }
    }
}
