//! `ignite config` and `ignite login`: the client's own configuration file.
//!
//! The file may be shared with another client, so unknown keys stay in it. It can hold a token, so
//! it is replaced whole and readable only by its owner.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Subcommand, ValueEnum};
use serde_yaml_ng::{Mapping, Value};

use super::{
    Error,
    context::{Global, check_endpoint, first_line},
    failure::note,
    output::{Format, table},
    settings,
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
    Org,
    /// How answers are printed.
    Output,
    /// The longest wait for an answer.
    Timeout,
    /// Connect without TLS.
    Debug,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Key::ApiEndpoint => "api_endpoint",
            Key::Token => "token",
            Key::Org => "org",
            Key::Output => "output",
            Key::Timeout => "timeout",
            Key::Debug => "debug",
        }
    }

    /// The value in the file's form; an error if the client could not use it.
    fn check(self, text: &str) -> Result<Value, Error> {
        let refuse = |why: String| Error::Usage(format!("{}: {why}", self.name()));
        match self {
            Key::ApiEndpoint => check_endpoint(text)?,
            Key::Token if text.split('.').count() == 3 => {}
            Key::Token => {
                return Err(refuse(
                    "a token has three parts separated by dots".to_owned(),
                ));
            }
            Key::Org => drop(text.parse::<OrgName>().map_err(|e| refuse(e.to_string()))?),
            Key::Output => drop(<Format as ValueEnum>::from_str(text, true).map_err(refuse)?),
            Key::Timeout => drop(parse_duration(text).map_err(refuse)?),
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
            set(&path, key, &value)
        }
        Command::Set { key, value } => {
            set(&path, key, &value)?;
            if key == Key::Token && !value.is_empty() {
                note(
                    "other users of this machine could see the token while this command ran, and the shell may keep it in its history; give - and write it to stdin instead",
                );
            }
            Ok(())
        }
        Command::View => view(&path, global.output.unwrap_or_default()),
    }
}

/// Stores the token given with `--token` for later commands.
pub(super) fn login(global: &Global, vars: &impl Source) -> Result<(), Error> {
    let token = global.given_token()?.ok_or_else(|| {
        Error::Usage("give the token to keep with --token or --token-file; `ignite token create` makes one on the machine that serves".to_owned())
    })?;
    set(
        &settings::path(global.config.as_deref(), vars).ok_or_else(no_home)?,
        Key::Token,
        &token,
    )
}

fn no_home() -> Error {
    Error::Usage(
        "neither HOME nor IGNITE_CONFIG_DIR is set; name the file with --config".to_owned(),
    )
}

fn read(path: &Path) -> Result<Mapping, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::Other(anyhow!("cannot read {}: {e}", path.display()))),
    };
    let map: Option<Mapping> = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is not a YAML map", path.display()))?;
    Ok(map.unwrap_or_default())
}

fn set(path: &Path, key: Key, value: &str) -> Result<(), Error> {
    let mut map = read(path)?;
    let done = if value.is_empty() {
        map.shift_remove(key.name());
        "unset"
    } else {
        map.insert(key.name().into(), key.check(value)?);
        "set"
    };
    let text = serde_yaml_ng::to_string(&map).context("cannot write YAML")?;
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
    note(&format!("{} is {done} in {}", key.name(), path.display()));
    Ok(())
}

fn view(path: &Path, format: Format) -> Result<(), Error> {
    let mut map = read(path)?;
    if let Some(Value::String(token)) = map.get_mut("token") {
        *token = format!("({} characters)", token.len());
    }
    note(&format!("from {}", path.display()));
    if matches!(format, Format::Json | Format::Yaml) {
        return format.print_value(&map);
    }
    let mut shown = table(&[]);
    for (key, value) in &map {
        let text = |v: &Value| serde_yaml_ng::to_string(v).map(|t| t.trim_end().to_owned());
        shown.add_row([
            text(key).unwrap_or_default(),
            text(value).unwrap_or_default(),
        ]);
    }
    if map.is_empty() {
        Ok(())
    } else {
        super::output::columns(shown)
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
        let set = |key, value| super::set(&path, key, value);
        set(Key::Org, "acme").unwrap_or_else(|e| panic!("{e:?}"));
        set(Key::Debug, "true").unwrap_or_else(|e| panic!("{e:?}"));
        set(Key::Token, "a.b.c").unwrap_or_else(|e| panic!("{e:?}"));
        let read =
            || Settings::load(Some(&path), &|_: &str| None).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(
            (read().org.as_deref(), read().debug),
            (Some("acme"), Some(true))
        );
        assert!(
            fs::read_to_string(&path)
                .expect("readable")
                .contains("theirs: 1")
        );
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "the file holds a token");
        set(Key::Org, "").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(read().org, None);
        for (key, wrong) in [
            (Key::Org, "A"),
            (Key::Output, "xml"),
            (Key::Timeout, "5"),
            (Key::Debug, "yes"),
            (Key::Token, "t"),
            (Key::ApiEndpoint, "ftp://h"),
        ] {
            assert!(set(key, wrong).is_err(), "{wrong}");
        }
    }
}
