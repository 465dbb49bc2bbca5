//! The variables of an app's environment on the command line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Error, failure::unreadable};

/// Longest file of variables.
const MAX_BYTES: u64 = 1 << 20;

/// What becomes of an environment.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Variables {
    /// Set a variable of the app's environment; repeatable. The others stay.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Set the variables of a file: KEY=VALUE on each line, taken as they stand, or KEY alone for its
    /// value here; # begins a comment. --env counts more.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Take a variable out of the environment; repeatable.
    #[arg(long, value_name = "KEY", value_parser = name)]
    unset_env: Vec<String>,
    /// Begin with an empty environment.
    #[arg(long)]
    clear_env: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as LOG_LEVEL=debug".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("write the name of a variable".to_owned()),
        text if text.contains('=') => Err("write only the name of the variable".to_owned()),
        text => Ok(text.to_owned()),
    }
}

impl Variables {
    /// Whether nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.env_file.is_empty()
            && self.unset_env.is_empty()
            && !self.clear_env
    }

    /// The environment that this makes of one; `None` when it changes nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file that cannot be read, or a variable that is both set and unset.
    pub(super) fn over(
        &self,
        before: &BTreeMap<String, String>,
    ) -> Result<Option<BTreeMap<String, String>>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut env = if self.clear_env {
            BTreeMap::new()
        } else {
            before.clone()
        };
        for file in &self.env_file {
            env.extend(read(file)?);
        }
        env.extend(self.env.iter().cloned());
        for key in &self.unset_env {
            if self.env.iter().any(|(set, _)| set == key) {
                return Err(Error::Usage(format!(
                    "{key} is given with --env and with --unset-env; leave one of them out"
                )));
            }
            env.remove(key);
        }
        Ok(Some(env).filter(|env| env != before))
    }
}

fn read(file: &Path) -> Result<Vec<(String, String)>, Error> {
    let shown = file.display();
    let cannot = |why: &dyn std::fmt::Display| Error::Usage(format!("--env-file {shown}: {why}"));
    let unreadable = |e: std::io::Error| unreadable("--env-file", file, &e);
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        return Err(cannot(&"it has more than 1 MiB; is it the right file?"));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let here = |name: &str| std::env::var(name).ok();
    parse(&text, here).map_err(|(line, why)| cannot(&format!("line {line}: {why}")))
}

/// The variables of a file, or the number of a line and what is wrong with it.
fn parse(
    text: &str,
    here: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, _)) if key.is_empty() || key.contains(char::is_whitespace) => {
                let why = "write KEY=VALUE, without spaces before the =".to_owned();
                return Err((at + 1, why));
            }
            Some((key, value)) => all.push((key.to_owned(), value.to_owned())),
            None => {
                let key = line.trim_end();
                if key.contains(char::is_whitespace) {
                    return Err((at + 1, "write KEY=VALUE, or KEY alone".to_owned()));
                }
                all.extend(here(key).map(|value| (key.to_owned(), value)));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(line: &str) -> Variables {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            variables: Variables,
        }
        let words = ["x"].into_iter().chain(line.split_whitespace());
        <Line as clap::Parser>::parse_from(words).variables
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect()
    }

    #[test]
    fn variables_are_added_taken_out_and_begun_anew() {
        let before = env(&[("A", "a"), ("B", "b")]);
        for (line, after) in [
            ("", None),
            ("--env A=a", None),
            (
                "--env C=c=d",
                Some(env(&[("A", "a"), ("B", "b"), ("C", "c=d")])),
            ),
            ("--env A= --unset-env B", Some(env(&[("A", "")]))),
            ("--clear-env -e C=c", Some(env(&[("C", "c")]))),
            ("--clear-env", Some(env(&[]))),
            ("--unset-env NONE", None),
        ] {
            let got = variables(line)
                .over(&before)
                .unwrap_or_else(|e| panic!("{e:?}"));
            assert_eq!(got, after, "{line}");
        }
        assert!(variables("--env A=b --unset-env A").over(&before).is_err());
    }

    #[test]
    fn a_file_has_a_variable_on_each_line() {
        let here = |name: &str| (name == "HERE").then(|| "there".to_owned());
        let text = "# comment\n\nA=a b \n  B=\"q\"\nHERE\nNOWHERE\nC=\n";
        let all = parse(text, here).expect("valid");
        let all: Vec<_> = all.iter().map(|(k, v)| format!("{k}:{v}")).collect();
        assert_eq!(all, ["A:a b ", "B:\"q\"", "HERE:there", "C:"]);
        assert_eq!(parse("A=a\n=b", here).expect_err("no name").0, 2);
        assert_eq!(parse("A B=b", here).expect_err("a space").0, 1);
    }
}
