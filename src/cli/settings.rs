//! The client's own configuration file, `config.yaml`.
//!
//! It is searched for in `$DODIL_CONFIG_DIR`, `$IGNITE_CONFIG_DIR`, `~/.config/unified-cli`,
//! `~/.ignite` and `~/.config/dodil`; the first directory that has one wins. The file is shared with
//! other clients: the section `ignite:` is for this one, `global:` for all. A key is searched for in
//! `ignite:`, then at the top level, then in `global:`. Unknown keys are ignored.
//!
//! A file can describe several servers, each as a context: a section below `ignite.contexts`. Where
//! the server is and who calls come from the context in use alone, so that the token of one server
//! never goes to another.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_yaml_ng::{Mapping, Value};

use super::{Error, failure::unreadable, hidden::Hidden, output::Format};
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
pub(super) const CA_CERT: Names = &["ca_cert"];
pub(super) const DATA_DIR: Names = &["data_dir"];

/// The key of [`OWN`] with the name of the context in use.
pub(super) const CURRENT: &str = "context";
/// The section of [`OWN`] with a section for each context.
pub(super) const CONTEXTS: &str = "contexts";
/// What is in use when no context is: the settings outside of contexts.
pub(super) const DEFAULT_CONTEXT: &str = "default";
/// The variable that names a context.
const CONTEXT_VAR: &str = "IGNITE_CONTEXT";
/// The variables that say where the server is and who calls; `--context` outranks them.
const OUTRANKED: [&str; 12] = [
    "IGNITE_API_ENDPOINT",
    "IGNITE_CA_CERT",
    "IGNITE_DATA_DIR",
    "IGNITE_DEBUG",
    "DODIL_TOKEN",
    "IGNITE_TOKEN",
    "IGNITE_ORG_NAME",
    "IGNITE_ORG_ID",
    "DODIL_SA_ID",
    "DODIL_SA_SECRET",
    "DODIL_SERVICE_ACCOUNT_ID",
    "DODIL_SERVICE_ACCOUNT_SECRET",
];

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
    /// The context in use.
    pub(super) context: Option<String>,
    /// Its certificate authorities.
    pub(super) ca_cert: Option<String>,
    /// The data directory of its server, for one on this machine.
    pub(super) data_dir: Option<String>,
    /// The context was named on the command line.
    is_named: bool,
}

impl Settings {
    /// Reads the file that `--config` names (the file or its directory), else the first one found;
    /// `context` is the one of `--context`.
    ///
    /// # Errors
    /// When the named file or context is missing, or the file cannot be read or parsed.
    pub(super) fn load(
        named: Option<&Path>,
        context: Option<&str>,
        vars: &impl Source,
    ) -> Result<Self, Error> {
        let path = match named {
            Some(_) => path(named, vars),
            None => path(None, vars).filter(|file| file.exists()),
        };
        let wanted = context_named(context, vars);
        let Some(path) = path else {
            return match wanted.filter(|name| name != DEFAULT_CONTEXT) {
                None => Ok(Self::default()),
                Some(name) => Err(no_context(&name, &Mapping::new())),
            };
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| unreadable("the configuration", &path, &e))?;
        let invalid = || format!("the configuration {} is not valid", path.display());
        // An empty document parses as null and counts as an empty map.
        let file: Option<Mapping> = serde_yaml_ng::from_str(&text).with_context(invalid)?;
        let file = file.unwrap_or_default();
        let used = wanted.or_else(|| current(&file));
        let used = used.filter(|name| name != DEFAULT_CONTEXT);
        if let Some(name) = &used
            && !contexts(&file).contains_key(name.as_str())
        {
            return Err(no_context(name, &file));
        }
        let read = Self::parse(file, used).with_context(invalid)?;
        Ok(Self {
            path: Some(path),
            is_named: context.is_some(),
            ..read
        })
    }

    fn parse(file: Mapping, context: Option<String>) -> anyhow::Result<Self> {
        let all = Sections::of(file.clone())?;
        let file = match &context {
            Some(name) => Sections::of_context(&file, name)?,
            None => Sections::of(file)?,
        };
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
            is_named: false,
            api_endpoint: file.text(API_ENDPOINT)?,
            token,
            account,
            oidc_url: file.text(OIDC_URL)?,
            org: file.text(ORG)?,
            output: all.text(OUTPUT)?,
            timeout: all.text(TIMEOUT)?,
            ca_cert: file.text(CA_CERT)?,
            data_dir: context.as_ref().map_or(Ok(None), |_| file.text(DATA_DIR))?,
            context,
            debug: file
                .text(DEBUG)?
                .map(|text| text.parse())
                .transpose()
                .context("`debug` is neither true nor false")?,
        })
    }

    /// A variable, as far as it counts beside the context in use.
    pub(super) fn variable(&self, name: &str, vars: &impl Source) -> Option<String> {
        let outranked = self.is_named && OUTRANKED.contains(&name);
        let set = vars.get(name).filter(|value| !value.is_empty());
        let of_context = || self.data_dir.clone().filter(|_| name == "IGNITE_DATA_DIR");
        set.filter(|_| !outranked).or_else(of_context)
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

/// The context that the command line names, else the one of the environment.
pub(super) fn context_named(flag: Option<&str>, vars: &impl Source) -> Option<String> {
    let var = || vars.get(CONTEXT_VAR).filter(|name| !name.is_empty());
    flag.map(str::to_owned).or_else(var)
}

/// The context that the file says is in use.
pub(super) fn current(file: &Mapping) -> Option<String> {
    let name = file.get(OWN)?.get(CURRENT)?.as_str()?;
    Some(name.to_owned())
}

/// The contexts in the file, by name.
pub(super) fn contexts(file: &Mapping) -> Mapping {
    let all = file.get(OWN).and_then(|own| own.get(CONTEXTS));
    all.and_then(Value::as_mapping).cloned().unwrap_or_default()
}

/// The error for a context that is not in the file.
pub(super) fn no_context(name: &str, file: &Mapping) -> Error {
    let contexts = contexts(file);
    let names = contexts.keys().filter_map(Value::as_str);
    let names: Vec<&str> = [DEFAULT_CONTEXT].into_iter().chain(names).collect();
    Error::Usage(format!(
        "there is no context {name:?}; there are: {}; `ignite context add` makes one",
        names.join(", ")
    ))
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

    fn of_context(file: &Mapping, name: &str) -> anyhow::Result<Self> {
        let prefix = format!("{OWN}.{CONTEXTS}.{name}.");
        match contexts(file).remove(name) {
            None | Some(Value::Null) => Ok(Self(vec![(prefix, Mapping::new())])),
            Some(Value::Mapping(keys)) => Ok(Self(vec![(prefix, keys)])),
            Some(_) => bail!("`{OWN}.{CONTEXTS}.{name}` is not a section with keys"),
        }
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
        let org = || Settings::load(None, None, &vars).expect("read").org;
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
        assert!(Settings::load(None, None, &vars).is_err());
        assert!(Settings::load(Some(&home.path().join("none.yaml")), None, &vars).is_err());
    }

    #[test]
    fn a_key_is_found_in_its_section_then_on_top_then_in_the_shared_section() {
        let parse = |text: &str| Settings::parse(serde_yaml_ng::from_str(text)?, None);
        let read = |text: &str| parse(text).unwrap_or_else(|e| panic!("{text}: {e:#}"));
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
            let why = parse(wrong).expect_err(wrong).to_string();
            assert!(why.contains(word), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_context_alone_says_where_and_who() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        let text = "token: t.o.p\norg: top\noutput: json\nignite:\n  context: a\n  contexts:\n    \
                    a: { api_endpoint: 'h:1', data_dir: /a }\n    b: { token: b.b.b, org_id: o }\n";
        std::fs::write(&file, text).expect("written");
        let load = |context: Option<&str>, var: Option<&str>| {
            let vars = |name: &str| var.filter(|_| name == CONTEXT_VAR).map(str::to_owned);
            Settings::load(Some(&file), context, &vars)
        };
        let a = load(None, None).expect("read");
        assert_eq!(
            (a.token.as_deref(), a.org.as_deref(), a.output.as_deref()),
            (None, None, Some("json"))
        );
        let set = |name: &str| Some(format!("{name} of the environment"));
        assert_eq!(
            a.variable("IGNITE_DATA_DIR", &|_: &str| None).as_deref(),
            Some("/a")
        );
        assert_eq!(a.variable("DODIL_TOKEN", &set), set("DODIL_TOKEN"));
        let b = load(Some("b"), Some("a")).expect("read");
        assert_eq!(
            (b.token.as_deref(), b.org.as_deref()),
            (Some("b.b.b"), Some("o"))
        );
        assert_eq!(b.variable("DODIL_TOKEN", &set), None);
        assert_eq!(b.variable("HOME", &set), set("HOME"));
        let none = load(None, Some(DEFAULT_CONTEXT)).expect("read");
        assert_eq!(none.token.as_deref(), Some("t.o.p"));
        assert!(matches!(load(Some("c"), None), Err(Error::Usage(why)) if why.contains("a, b")));
    }
}
