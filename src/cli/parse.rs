//! From the words of a command line to its commands, where clap alone does not do.
//!
//! `--token` and `--token-file` may stand anywhere, as global options do, but below `secret create`
//! the first is the token of a git server: clap would take the one for the other. So they are
//! arguments of each command. And the cloud's autonomous scaling has options (`--auto-…`) whose
//! names are not all known; they are taken out before the rest is read.

use std::ffi::OsString;

use clap::{
    ArgMatches, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::context::Global;

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
    let mut autonomy = Autonomy::of(words);
    let mut matches = loop {
        match command.clone().try_get_matches_from(&autonomy.words) {
            Ok(matches) => break matches,
            Err(error) if autonomy.leave_out(&error) => {}
            Err(error) => return Err(error),
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

/// The command with the arguments of [`EVERYWHERE`] on each of its commands.
pub(super) fn spread<T: CommandFactory>() -> clap::Command {
    let command = T::command();
    let everywhere: Vec<_> = command
        .get_arguments()
        .filter(|arg| EVERYWHERE.contains(&arg.get_id().as_str()))
        .cloned()
        .collect();
    spread_to_commands(command, &everywhere)
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
