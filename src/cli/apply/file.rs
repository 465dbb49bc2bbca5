//! The file of `ignite apply`: each app's table becomes the command line of `ignite app deploy`.
//!
//! So a setting has one name, one check and one meaning, wherever it is written.

use std::path::Path;

use clap::{Args as _, FromArgMatches as _};
use toml::{Table, Value};

use super::super::{Error, deploy, id::AppArg, parse};

/// The keys whose values are paths.
const PATHS: [&str; 2] = ["code", "env-file"];
/// The keys whose values are JSON or paths.
const JSON_OR_PATHS: [&str; 2] = ["input-schema", "output-schema"];
/// Options of the command that say nothing of an app.
const NOT_HERE: [&str; 2] = ["follow", "no-wait"];

/// An app as the file has it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: AppArg,
    pub(super) args: deploy::Args,
}

/// Reads a file; paths in it count from `folder`.
///
/// # Errors
/// [`Error::Usage`] with the app and the key that is wrong, and what to write.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Vec<Wanted>, Error> {
    let file: Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::Usage(format!("the file is not TOML: {e}")))?;
    if let Some(key) = file.keys().find(|key| *key != "apps") {
        return Err(Error::Usage(format!(
            "there is no `{key}` in the file of apply; it has a table [apps.NAME] for each app"
        )));
    }
    let apps = match file.get("apps") {
        Some(Value::Table(apps)) if !apps.is_empty() => apps,
        _ => {
            return Err(Error::Usage(
                "the file has no app; write a table for each, such as [apps.hello] with code = \"./hello\"".to_owned(),
            ));
        }
    };
    apps.iter()
        .map(|(name, keys)| one(name, keys, folder))
        .collect()
}

fn one(name: &str, keys: &Value, folder: &Path) -> Result<Wanted, Error> {
    let wrong = |why: String| Error::Usage(format!("[apps.{name}]: {why}"));
    let id: AppArg = name.parse().map_err(&wrong)?;
    let Value::Table(keys) = keys else {
        return Err(wrong(
            "it is not a table; write its settings below it".to_owned(),
        ));
    };
    let command = deploy::Args::augment_args(clap::Command::new("apply").no_binary_name(true));
    let options: Vec<&str> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|long| !NOT_HERE.contains(long))
        .collect();
    let mut words = vec![name.to_owned()];
    for (key, value) in keys {
        let option = key.replace('_', "-");
        if !options.contains(&option.as_str()) {
            return Err(wrong(format!(
                "there is no setting `{key}`; there are {}",
                options.join(", ")
            )));
        }
        let values =
            values(&option, value, folder).map_err(|why| wrong(format!("{key}: {why}")))?;
        words.extend(
            values
                .into_iter()
                .map(|value| format!("--{option}={value}")),
        );
    }
    let matches = command
        .try_get_matches_from(words)
        .map_err(|error| wrong(parse::in_short(&parse::clarified(error))))?;
    let args =
        deploy::Args::from_arg_matches(&matches).map_err(|error| wrong(parse::in_short(&error)))?;
    Ok(Wanted { id, args })
}

/// The values of an option.
fn values(option: &str, value: &Value, folder: &Path) -> Result<Vec<String>, String> {
    Ok(match value {
        Value::Array(all) => {
            let all: Result<Vec<_>, _> = all.iter().map(|v| values(option, v, folder)).collect();
            all?.into_iter().flatten().collect()
        }
        Value::Table(pairs) => {
            let all = pairs.iter().map(|(name, value)| match value {
                Value::Table(_) | Value::Array(_) => Err(format!("`{name}` is not a text")),
                value => Ok(format!("{name}={}", text(value))),
            });
            all.collect::<Result<_, _>>()?
        }
        value => {
            let text = text(value);
            let is_path = PATHS.contains(&option)
                || JSON_OR_PATHS.contains(&option)
                    && !text.is_empty()
                    && !text.trim_start().starts_with('{');
            let text = if is_path {
                folder
                    .join(text.trim_start_matches('@'))
                    .to_string_lossy()
                    .into_owned()
            } else {
                text
            };
            vec![text]
        }
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_command_lines() {
        let text = "[apps.web]\ncode = \"w\"\nmax_replicas = 3\nport = [80, 81]\n\
                    allow-unauthenticated = true\nenv = { A = \"b=c\", N = 1 }\nhost = [\"a.example\"]\n\
                    [apps.\"acme:img\"]\nimage-ref = \"r:1\"\n";
        let all = parse(text, Path::new("/d")).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(all.len(), 2);
        let (img, web) = (&all[0], &all[1]);
        assert_eq!(
            img.id.org.as_ref().map(ToString::to_string).as_deref(),
            Some("acme")
        );
        assert_eq!(web.args.source.name(), "/d/w");
        assert_eq!(web.args.hosts, ["a.example"]);
        let app = "o/web".parse().expect("an id");
        let create = web
            .args
            .settings
            .create(&app)
            .unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(create.ports, [80, 81]);
        assert_eq!(create.env["A"], "b=c");
        assert_eq!(create.env["N"], "1");
        assert!(create.allow_unauthenticated);
        assert_eq!(create.scaling.expect("one").max_replicas, Some(3));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, words) in [
            ("x", &["not TOML", "line 1"][..]),
            ("", &["[apps.hello]"]),
            ("[app.a]\n", &["`app`", "[apps.NAME]"]),
            ("apps = 1", &["[apps.hello]"]),
            ("[apps.A]\ncode = \".\"", &["[apps.A]", "org:app"]),
            (
                "[apps.a]\nfolow = 1",
                &["[apps.a]", "`folow`", "max-replicas"],
            ),
            ("[apps.a]\nfollow = true", &["`follow`"]),
            ("[apps.a]\ntier = \"small\"", &["[apps.a]", "--code"]),
            (
                "[apps.a]\ncode = \".\"\nmemory = \"x\"",
                &["--memory", "whole number"],
            ),
            (
                "[apps.a]\ncode = \".\"\ntier = \"big\"",
                &["--tier", "small"],
            ),
            ("[apps.a]\ncode = \".\"\nenv = { A = [] }", &["env", "`A`"]),
            ("[apps]\na = 1", &["[apps.a]", "table"]),
        ] {
            match parse(text, Path::new("")) {
                Err(Error::Usage(why)) => {
                    for word in words {
                        assert!(why.contains(word), "{text:?}: no {word:?} in {why}");
                    }
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
