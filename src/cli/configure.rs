//! `ignite config`: the client's own configuration file.
//!
//! The file may be shared with another client, so values are set in this client's section of it, and
//! unknown keys stay. It can hold a token or a secret, so it is replaced whole and readable only by
//! its owner.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Subcommand, ValueEnum};
use comfy_table::Table;
use serde_yaml_ng::{Mapping, Value};

use super::{
    Error,
    context::{Global, check_endpoint, first_line},
    failure::{note, unreadable},
    output::{Format, table},
    settings::{self, Names},
};
use crate::{
    config::{Source, parse_duration},
    model::OrgName,
};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set one value.
    Set {
        /// What to set.
        #[arg(value_enum)]
        key: Key,
        /// The value; empty to unset it, or - to read the first line of stdin, since other users of
        /// this machine can see a token on the command line.
        value: String,
    },
    /// Show the values, but of a token only its length.
    View,
}

/// The keys of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Key {
    /// Where the API is.
    #[value(alias = "api-endpoint")]
    ApiEndpoint,
    /// The bearer token.
    Token,
    /// The organization for ids that name none.
    #[value(aliases = ["org", "org-id", "org_name", "organization"])]
    OrgId,
    /// How answers are printed.
    Output,
    /// The longest wait for an answer.
    Timeout,
    /// Connect without TLS.
    Debug,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    CaCert,
}

impl Key {
    fn names(self) -> Names {
        match self {
            Key::ApiEndpoint => settings::API_ENDPOINT,
            Key::Token => settings::TOKEN,
            Key::OrgId => settings::ORG,
            Key::Output => settings::OUTPUT,
            Key::Timeout => settings::TIMEOUT,
            Key::Debug => settings::DEBUG,
            Key::CaCert => settings::CA_CERT,
        }
    }

    fn name(self) -> &'static str {
        written(self.names())
    }

    /// The value in the file's form; an error if the client could not use it.
    pub(super) fn check(self, text: &str) -> Result<Value, Error> {
        let refuse = |why: String| Error::Usage(format!("{}: {why}", self.name()));
        match self {
            Key::ApiEndpoint => check_endpoint(text)?,
            Key::Token if text.split('.').count() == 3 => {}
            Key::Token => {
                return Err(refuse(
                    "a token has three parts separated by dots; `ignite token create` prints one"
                        .to_owned(),
                ));
            }
            Key::OrgId => drop(text.parse::<OrgName>().map_err(|e| refuse(e.to_string()))?),
            Key::Output => {
                let known = <Format as ValueEnum>::from_str(text, true);
                let why = |_| {
                    refuse(format!(
                        "{text:?} is no format; write table, json, yaml or wide"
                    ))
                };
                known.map_err(why)?;
            }
            Key::Timeout => drop(parse_duration(text).map_err(refuse)?),
            Key::CaCert => {
                let unreadable = |e| unreadable("ca_cert:", Path::new(text), &e);
                drop(fs::read(text).map_err(unreadable)?);
            }
            Key::Debug => {
                let on: bool = text
                    .parse()
                    .map_err(|_| refuse(format!("{text:?} is neither true nor false")))?;
                return Ok(Value::Bool(on));
            }
        }
        Ok(Value::String(text.to_owned()))
    }
}

/// Runs one of the commands; needs no server.
pub(super) fn run(command: Command, global: &Global, vars: &impl Source) -> Result<(), Error> {
    let path = settings::path(global.config.as_deref(), vars).ok_or_else(no_home)?;
    let context = context_in_use(&path, global, vars);
    match command {
        Command::Set { key, value } if value == "-" => {
            let value = first_line(io::stdin().lock()).map_err(|e| {
                Error::Usage(format!(
                    "{}: nothing can be read from stdin: {e}",
                    key.name()
                ))
            })?;
            if value.is_empty() {
                let why = "stdin has nothing in its first line; to unset it give \"\"";
                return Err(Error::Usage(format!("{}: {why}", key.name())));
            }
            set(&path, context?.as_deref(), key, &value)
        }
        Command::Set { key, value } => {
            set(&path, context?.as_deref(), key, &value)?;
            if key == Key::Token && !value.is_empty() {
                note_seen("token");
            }
            Ok(())
        }
        Command::View => view(&path, global.output.unwrap_or_default()),
    }
}

/// Says what became of a secret that stood on the command line.
pub(super) fn note_seen(what: &str) {
    note(&format!(
        "other users of this machine could see the {what} while this command ran, and the shell may keep it in its history; give - and write it to stdin instead"
    ));
}

pub(super) fn no_home() -> Error {
    Error::Usage(
        "neither HOME nor IGNITE_CONFIG_DIR is set; name the file with --config".to_owned(),
    )
}

/// The context that a change is for: that of the command line, the environment or the file.
///
/// # Errors
/// When there is none of that name, or the file cannot be read.
pub(super) fn context_in_use(
    path: &Path,
    global: &Global,
    vars: &impl Source,
) -> Result<Option<String>, Error> {
    let file = read(path)?;
    let named = settings::context_named(global.context.as_deref(), vars);
    let used = named.or_else(|| settings::current(&file));
    let used = used.filter(|name| name != settings::DEFAULT_CONTEXT);
    match used {
        Some(name) if !settings::contexts(&file).contains_key(name.as_str()) => {
            Err(settings::no_context(&name, &file))
        }
        used => Ok(used),
    }
}

/// The name under which a key is written.
fn written(names: Names) -> &'static str {
    names.last().copied().unwrap_or_default()
}

/// The file's content; empty if it does not exist.
///
/// # Errors
/// When it cannot be understood.
pub(super) fn read(path: &Path) -> Result<Mapping, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::Other(anyhow!("cannot read {}: {e}", path.display()))),
    };
    let map: Option<Mapping> = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is not a YAML map", path.display()))?;
    Ok(map.unwrap_or_default())
}

fn set(path: &Path, context: Option<&str>, key: Key, value: &str) -> Result<(), Error> {
    let (value, done) = match value {
        "" => (None, "unset"),
        value => (Some(key.check(value)?), "set"),
    };
    let is_unset = value.is_none();
    let left = store(path, context, vec![(key.names(), value)])?;
    let of = context.map_or_else(String::new, |name| format!(" for the context {name}"));
    note(&format!(
        "{} is {done}{of} in {}",
        key.name(),
        path.display()
    ));
    if is_unset && left {
        note(&format!(
            "`{}.{}` there is for all clients, and holds for this one, too",
            settings::SHARED,
            key.name()
        ));
    }
    Ok(())
}

/// Writes values into this client's section of the file, or takes them out of it, under each of
/// their names and at the top level, too; for a context only into its section. Whether the section
/// for all clients has one that was taken out.
///
/// # Errors
/// When the file cannot be understood or written.
pub(super) fn store(
    path: &Path,
    context: Option<&str>,
    values: Vec<(Names, Option<Value>)>,
) -> Result<bool, Error> {
    let mut file = read(path)?;
    if let Some(context) = context {
        edit_contexts(&mut file, path, |all| {
            let mut keys = take_section(all, context, path)?;
            for (names, value) in values {
                replace(&mut keys, names, value);
            }
            all.insert(context.into(), keys.into());
            Ok(())
        })?;
        write(path, &file)?;
        return Ok(false);
    }
    let mut own = take_section(&mut file, settings::OWN, path)?;
    let mut left = false;
    for (names, value) in values {
        for name in names {
            file.shift_remove(name);
        }
        let is_unset = value.is_none();
        replace(&mut own, names, value);
        let shared = file.get(settings::SHARED);
        left |= is_unset
            && names
                .iter()
                .any(|name| shared.is_some_and(|s| s.get(*name).is_some()));
    }
    if !own.is_empty() {
        file.insert(settings::OWN.into(), own.into());
    }
    write(path, &file)?;
    Ok(left)
}

/// Sets a key under the name that is written, or takes it out.
fn replace(keys: &mut Mapping, names: Names, value: Option<Value>) {
    for name in names {
        keys.shift_remove(name);
    }
    if let Some(value) = value {
        keys.insert(written(names).into(), value);
    }
}

/// Takes a section out of the file, or a new one.
///
/// # Errors
/// When it is not a section.
fn take_section(of: &mut Mapping, name: &str, path: &Path) -> Result<Mapping, Error> {
    match of.shift_remove(name) {
        None | Some(Value::Null) => Ok(Mapping::new()),
        Some(Value::Mapping(own)) => Ok(own),
        Some(_) => Err(Error::Other(anyhow!(
            "`{name}` in {} is not a section with keys; mend it or remove it",
            path.display()
        ))),
    }
}

/// Changes the contexts in a file.
///
/// # Errors
/// Those of `edit`, and when the file is not as it should be.
pub(super) fn edit_contexts(
    file: &mut Mapping,
    path: &Path,
    edit: impl FnOnce(&mut Mapping) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut own = take_section(file, settings::OWN, path)?;
    let mut all = take_section(&mut own, settings::CONTEXTS, path)?;
    edit(&mut all)?;
    if !all.is_empty() {
        own.insert(settings::CONTEXTS.into(), all.into());
    }
    file.insert(settings::OWN.into(), own.into());
    Ok(())
}

/// Replaces the file whole.
///
/// # Errors
/// The file system's.
pub(super) fn write(path: &Path, file: &Mapping) -> Result<(), Error> {
    let text = serde_yaml_ng::to_string(file).context("cannot write YAML")?;
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let write = || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        // A temporary file has mode 0600 from its creation.
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|e| e.error)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn view(path: &Path, format: Format) -> Result<(), Error> {
    let mut map = read(path)?;
    hide_secrets(&mut map);
    note(&format!("from {}", path.display()));
    if matches!(format, Format::Json | Format::Yaml) {
        return format.print_value(&map);
    }
    let mut shown = table(&[]);
    add_rows(&mut shown, "", &map);
    if map.is_empty() {
        Ok(())
    } else {
        super::output::columns(shown)
    }
}

/// One row per key, with the names of the sections that it is in.
fn add_rows(shown: &mut Table, prefix: &str, keys: &Mapping) {
    let text = |v: &Value| serde_yaml_ng::to_string(v).map(|t| t.trim_end().to_owned());
    for (key, value) in keys {
        let key = format!("{prefix}{}", text(key).unwrap_or_default());
        match value {
            Value::Mapping(section) => add_rows(shown, &format!("{key}."), section),
            value => drop(shown.add_row([key, text(value).unwrap_or_default()])),
        }
    }
}

/// Shows a secret by its length alone, in every section.
fn hide_secrets(keys: &mut Mapping) {
    for (key, value) in keys {
        let name = key.as_str().unwrap_or_default();
        let is_secret = ["token", "secret", "password"]
            .iter()
            .any(|end| name.ends_with(end));
        match value {
            Value::Mapping(section) => hide_secrets(section),
            Value::String(text) if is_secret => *text = format!("({} characters)", text.len()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::settings::Settings;

    #[test]
    fn what_is_set_is_read_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/config.yaml");
        fs::create_dir(dir.path().join("deep")).expect("made");
        fs::write(&path, "theirs: 1\norg: old\n").expect("written");
        let set = |key, value| super::set(&path, None, key, value);
        set(Key::OrgId, "acme").unwrap_or_else(|e| panic!("{e:?}"));
        set(Key::Debug, "true").unwrap_or_else(|e| panic!("{e:?}"));
        set(Key::Token, "a.b.c").unwrap_or_else(|e| panic!("{e:?}"));
        let read = || {
            Settings::load(Some(&path), None, &|_: &str| None).unwrap_or_else(|e| panic!("{e:?}"))
        };
        assert_eq!(
            (read().org.as_deref(), read().debug),
            (Some("acme"), Some(true))
        );
        let text = fs::read_to_string(&path).expect("readable");
        let file: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        assert_eq!(file["theirs"], 1);
        // What was set on top before does not hold on.
        assert_eq!(
            (&file["ignite"]["org_id"], file.get("org")),
            (&"acme".into(), None)
        );
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "the file holds a token");
        set(Key::OrgId, "").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(read().org, None);
        for (key, wrong) in [
            (Key::OrgId, "A"),
            (Key::Output, "xml"),
            (Key::Timeout, "5"),
            (Key::Debug, "yes"),
            (Key::Token, "t"),
            (Key::ApiEndpoint, "ftp://h"),
        ] {
            assert!(set(key, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_shown_by_their_length_in_every_section() {
        let file =
            "ignite: { token: abc, service_account_secret: abcd, service_account_id: x }\ntoken: a";
        let mut file: Mapping = serde_yaml_ng::from_str(file).expect("YAML");
        hide_secrets(&mut file);
        let shown = serde_yaml_ng::to_string(&file).expect("YAML");
        for secret in ["abc", "abcd", "token: a"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("(4 characters)") && shown.contains("service_account_id: x"));
    }
}
