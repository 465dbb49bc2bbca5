//! From the words of a command line to its commands, where clap alone does not do.
//!
//! `--token` and `--token-file` may stand anywhere, as global options do, but below `secret create`
//! the first is the token of a git server: clap would take the one for the other. So they are
//! arguments of each command. And the cloud's autonomous scaling has options (`--auto-…`) whose
//! names are not all known; they are taken out before the rest is read. `exec` is the contract's short
//! name for `execution`, and what users of containers call running a command in one: with `--` it is
//! the latter.

use std::ffi::OsString;

use clap::{
    ArgMatches, CommandFactory, FromArgMatches, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{context::Global, help, output::Format};

/// Arguments that are on every command without being global.
const EVERYWHERE: [&str; 2] = ["token", "token_file"];
/// What the options of autonomous scaling begin with.
const AUTONOMY: &str = "--auto-";

/// A whole command line.
pub(super) trait CommandLine: CommandFactory + FromArgMatches {
    /// Its global options.
    fn global(&mut self) -> &mut Global;
}

/// Reads a command line; the words that were left out are the second value.
///
/// # Errors
/// Clap's, which also stand for `--help` and `--version`.
pub(super) fn parse<T: CommandLine>(
    words: impl IntoIterator<Item = OsString>,
) -> Result<(T, Vec<String>), clap::Error> {
    let command = spread::<T>();
    let mut autonomy = Autonomy::of(with_meaning(words.into_iter().collect()));
    let mut matches = loop {
        match command.clone().try_get_matches_from(&autonomy.words) {
            Ok(matches) => break matches,
            Err(error) if autonomy.leave_out(&error) => {}
            Err(error) => return Err(clarified(error)),
        }
    };
    let token = last::<String>(&matches, "token");
    let token_file = last(&matches, "token_file");
    if token.is_some() && token_file.is_some() {
        let why = "--token and --token-file both say what the token is; give one of them";
        return Err(command.clone().error(ErrorKind::ArgumentConflict, why));
    }
    let mut line =
        T::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut spread::<T>()))?;
    let global = line.global();
    (global.token, global.token_file) = (token, token_file);
    Ok((line, autonomy.left_out))
}

/// The error with a sentence in place of the standard library's words for what a number, a switch or
/// an address should have been.
pub(super) fn clarified(error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let word = text(ContextKind::InvalidArg);
    // Clap takes it for an option, and its advice would make it the value of something else.
    if error.kind() == ErrorKind::UnknownArgument
        && word
            .strip_prefix('-')
            .is_some_and(|rest| rest.parse::<f64>().is_ok())
    {
        let why = format!("invalid value '{word}': write a whole number of 0 or more, such as 4");
        return sentence(&why);
    }
    let Some(cause) = std::error::Error::source(&error).map(ToString::to_string) else {
        return error;
    };
    let instead = match cause.as_str() {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "write a whole number, such as 4".to_owned()
        }
        "number too large to fit in target type" | "number too small to fit in target type" => {
            "the number is outside of what is possible".to_owned()
        }
        "invalid float literal" => "write a number, such as 0.5".to_owned(),
        cause if cause.contains("was not `true` or `false`") => "write true or false".to_owned(),
        "invalid socket address syntax" => "write ADDRESS:PORT, such as 127.0.0.1:8080".to_owned(),
        cause => match range(cause) {
            Some((from, to)) => format!("write a whole number from {from} to {to}"),
            None => return error,
        },
    };
    let why = format!(
        "invalid value '{}' for '{}': {instead}",
        text(ContextKind::InvalidValue),
        text(ContextKind::InvalidArg)
    );
    sentence(&why)
}

/// The bounds in clap's words for a number outside of them: "0 is not in 1..=9", or "1..9".
fn range(cause: &str) -> Option<(&str, &str)> {
    let (_, range) = cause.split_once(" is not in ")?;
    let (from, to) = range.split_once("..")?;
    Some((from, to.trim_start_matches('=')))
}

fn sentence(why: &str) -> clap::Error {
    clap::Error::raw(
        ErrorKind::ValueValidation,
        format!("{why}\n\nFor more information, try '--help'.\n"),
    )
}

/// What is wrong, without the usage of the command.
pub(super) fn in_short(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = text.find("\n\nUsage").or_else(|| text.find("\n\nFor more"));
    text[..end.unwrap_or(text.len())].trim_end().to_owned()
}

/// The format that the words ask for, for errors of reading them.
pub(super) fn format_in(words: &[OsString]) -> Option<Format> {
    let ours = words.iter().take_while(|word| *word != "--");
    let words: Vec<_> = ours.map(|word| word.to_string_lossy()).collect();
    let named = words.iter().enumerate().find_map(|(at, word)| {
        let next = || words.get(at + 1).map(|next| next.to_string());
        match word.as_ref() {
            "-o" | "--output" => next(),
            word => ["--output=", "-o=", "-o"]
                .iter()
                .find_map(|option| word.strip_prefix(option))
                .filter(|_| !word.starts_with("--") || word.starts_with("--output="))
                .map(str::to_owned),
        }
    });
    <Format as ValueEnum>::from_str(&named?, true).ok()
}

/// Makes `exec … --` into `app exec … --`, and puts `--` before what is curl's in `curl APP …`, some
/// of which has the names of options here.
fn with_meaning(mut words: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    if let Some(next) = next_word(&words, at)
        && words[next] == "ignite"
    {
        // Invoked as the cloud's client.
        at = next + 1;
    }
    let Some(command) = next_word(&words, at) else {
        return words;
    };
    if words[command] == "exec" && words[command..].iter().any(|word| word == "--") {
        words.insert(command, "app".into());
    } else if words[command] == "curl"
        && let Some(app) = next_word(&words, command + 1)
        && words.get(app + 1).is_some_and(|word| word != "--")
    {
        words.insert(app + 1, "--".into());
    }
    words
}

/// The first word from `at` on that is no global option, nor the value of one.
fn next_word(words: &[OsString], mut at: usize) -> Option<usize> {
    loop {
        let word = words.get(at)?.to_string_lossy();
        at += match word.as_ref() {
            "--debug" | "-h" | "--help" => 1,
            // The value is in the same word.
            word if word.starts_with("--") && word.contains('=') => 1,
            word if word.starts_with("-o") && word.len() > 2 => 1,
            word if word.starts_with('-') => 2,
            _ => return Some(at),
        };
    }
}

/// The command with the arguments of [`EVERYWHERE`] on each of its commands.
pub(super) fn spread<T: CommandFactory>() -> clap::Command {
    let command = T::command();
    let everywhere: Vec<_> = command
        .get_arguments()
        .filter(|arg| EVERYWHERE.contains(&arg.get_id().as_str()))
        .cloned()
        .collect();
    help::complete(spread_to_commands(command, &everywhere))
}

fn spread_to_commands(command: clap::Command, args: &[clap::Arg]) -> clap::Command {
    command.mut_subcommands(|mut sub| {
        for arg in args {
            if !sub
                .get_arguments()
                .any(|own| own.get_long() == arg.get_long())
            {
                sub = sub.arg(arg.clone());
            }
        }
        spread_to_commands(sub, args)
    })
}

/// The value that stands with the innermost command.
fn last<V: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<V> {
    let here = matches.try_get_one::<V>(id).ok().flatten().cloned();
    let inner = matches.subcommand().and_then(|(_, sub)| last(sub, id));
    inner.or(here)
}

/// The words that are still to be read, and what was taken out of them.
struct Autonomy {
    words: Vec<OsString>,
    /// Where the word after an option now is that was taken out: it may have been the option's value.
    after: Vec<usize>,
    left_out: Vec<String>,
}

impl Autonomy {
    fn of(words: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            words: words.into_iter().collect(),
            after: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Takes out what the error is about when it is an option of autonomous scaling, or the value
    /// of one; whether it was.
    fn leave_out(&mut self, error: &clap::Error) -> bool {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        match error.kind() {
            ErrorKind::UnknownArgument => match text(ContextKind::InvalidArg) {
                Some(option) if option.starts_with('-') => self.leave_option_out(option),
                // One word too many: an option's value was taken in its place.
                Some(_) => self.leave_value_out(|_| true),
                None => false,
            },
            ErrorKind::ValueValidation => {
                let wrong = text(ContextKind::InvalidValue);
                self.leave_value_out(|word| Some(word) == wrong)
            }
            _ => false,
        }
    }

    fn leave_option_out(&mut self, option: &str) -> bool {
        let of_an_app = |pair: &[OsString]| {
            ["app", "function", "fn"]
                .iter()
                .any(|name| pair[0] == **name)
                && ["create", "update"].iter().any(|name| pair[1] == **name)
        };
        let name = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
        let option = name(option);
        let is_it = |word: &OsString| name(&word.to_string_lossy()) == option;
        let at = self.words.iter().position(is_it);
        let (Some(at), true) = (at, option.starts_with(AUTONOMY)) else {
            return false;
        };
        if !self.words.windows(2).any(of_an_app) {
            return false;
        }
        let has_value = self.take_out(at).to_string_lossy().contains('=');
        let next = self.words.get(at);
        if !has_value && next.is_some_and(|n| !n.to_string_lossy().starts_with('-')) {
            self.after.push(at);
        }
        self.left_out.push(option);
        true
    }

    fn leave_value_out(&mut self, is_it: impl Fn(&str) -> bool) -> bool {
        let found = self
            .after
            .iter()
            .rposition(|&at| is_it(&self.words[at].to_string_lossy()));
        let Some(found) = found else { return false };
        let at = self.after.remove(found);
        self.take_out(at);
        true
    }

    fn take_out(&mut self, at: usize) -> OsString {
        // One that follows at once has been taken for the value of the option before it.
        self.after.retain(|&after| after != at);
        for after in &mut self.after {
            *after -= usize::from(*after > at);
        }
        self.words.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_get_the_meaning_that_users_of_other_programs_expect() {
        let read = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let words = with_meaning(words);
            words
                .join(std::ffi::OsStr::new(" "))
                .to_string_lossy()
                .into_owned()
        };
        for (line, meant) in [
            ("ignite exec a -- ls", "ignite app exec a -- ls"),
            (
                "ignite --org o --debug exec -it a -- ls",
                "ignite --org o --debug app exec -it a -- ls",
            ),
            ("dodil ignite exec a -- ls", "dodil ignite app exec a -- ls"),
            ("ignite exec get x", "ignite exec get x"),
            (
                "ignite app exec a -- exec -- b",
                "ignite app exec a -- exec -- b",
            ),
            ("ignite invoke exec", "ignite invoke exec"),
            ("ignite curl a -o f", "ignite curl a -- -o f"),
            (
                "ignite -ojson curl --org o a /x",
                "ignite -ojson curl --org o a -- /x",
            ),
            ("ignite curl a -- -o f", "ignite curl a -- -o f"),
            ("ignite curl a", "ignite curl a"),
            ("ignite", "ignite"),
        ] {
            assert_eq!(read(line), meant);
        }
    }

    #[test]
    fn the_format_is_known_before_the_rest_is_read() {
        let format = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            format_in(&words)
        };
        for line in [
            "ignite -o json x",
            "ignite x -ojson",
            "ignite --output=json",
            "i --output json",
        ] {
            assert_eq!(format(line), Some(Format::Json), "{line}");
        }
        for line in [
            "ignite app list",
            "ignite x -- -o json",
            "ignite --org json",
            "ignite -o xml",
        ] {
            assert_eq!(format(line), None, "{line}");
        }
    }
}
