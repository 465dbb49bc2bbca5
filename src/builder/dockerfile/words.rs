//! Words with quotes and variables, expanded as the engine does.
//!
//! Used only for names of images, so anything unusual is refused instead of understood: a form that
//! older engines lack, a variable whose value only the engine knows, a value without end.

use std::collections::HashMap;

/// Longest value; no image reference is as long.
const MAX_VALUE: usize = 4096;
/// Longest variable; the kernel starts no process with a longer one.
const MAX_VARIABLE: usize = 128 * 1024;
/// Most bytes of all variables that a file sets.
const MAX_VARIABLES: usize = 1024 * 1024;
/// Assumed length of a base's variable of which nothing is known, such as its PATH.
const UNKNOWN_VARIABLE: usize = 4096;
/// Most levels of variables within variables.
const MAX_DEPTH: usize = 8;
/// Arguments that the engine, or the platform on its behalf, may set.
const GIVEN_ELSEWHERE: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The arguments that a Dockerfile declares before its first stage.
#[derive(Debug, Default)]
pub(super) struct Args {
    /// `None` means that the value cannot be known here.
    known: HashMap<String, Option<String>>,
}

impl Args {
    /// Declares the text after `ARG`; `given` are the values that the build is started with.
    pub(super) fn declare(
        &mut self,
        arguments: &str,
        escape: char,
        given: impl Fn(&str) -> Option<String>,
    ) {
        for word in split(arguments, escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default)),
                None => (word.as_str(), None),
            };
            let value = match (given(name), default) {
                (Some(value), _) => Some(value),
                (None, _) if is_given_elsewhere(name) => None,
                (None, Some(default)) => self.expand(default, escape).ok(),
                (None, None) => Some(String::new()),
            };
            self.known.insert(name.to_owned(), value);
        }
    }

    /// A word as the engine expands it.
    ///
    /// # Errors
    /// A phrase that says why the value cannot be known here.
    pub(super) fn expand(&self, word: &str, escape: char) -> Result<String, String> {
        let mut reader = Reader {
            args: self,
            escape,
            rest: word.chars().peekable(),
            depth: 0,
        };
        reader.until(None)
    }
}

fn is_given_elsewhere(name: &str) -> bool {
    GIVEN_ELSEWHERE.iter().any(|n| n.eq_ignore_ascii_case(name))
}

/// Splits into words, which keep their quotes.
fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = words.last_mut().expect("there is always one");
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if !last.is_empty() {
                    words.push(String::new());
                }
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None | Some('"'), c) if c == escape => {
                last.push(c);
                last.extend(chars.next());
                continue;
            }
            _ => {}
        }
        last.push(c);
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Bounds on the lengths of the variables of stages: the engine expands them in its own memory, and
/// a variable that names itself twice doubles with each line.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    known: HashMap<String, usize>,
    total: usize,
}

impl Sizes {
    /// Declares the text after `ENV` or `ARG`; `given` is the length of a value that the build is
    /// started with.
    ///
    /// # Errors
    /// A phrase, when the variables could exceed what any process can be started with.
    pub(super) fn declare(
        &mut self,
        arguments: &str,
        escape: char,
        given: impl Fn(&str) -> usize,
    ) -> Result<(), String> {
        let words = split(arguments, escape);
        let is_old = words.first().is_some_and(|word| !word.contains('='));
        // `ENV name all the rest`; `ARG name` has this form too.
        let pairs = match (is_old, arguments.trim().split_once(char::is_whitespace)) {
            (true, Some((name, value))) => vec![(name.to_owned(), value.to_owned())],
            _ => words
                .iter()
                .map(|word| word.split_once('=').unwrap_or((word, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        for (name, value) in pairs {
            let size = self.of(&value).max(given(&name));
            self.total = self.total.saturating_add(size);
            if size > MAX_VARIABLE || self.total > MAX_VARIABLES {
                return Err(format!(
                    "makes {name} or all variables longer than any process can be started with"
                ));
            }
            let known = self.known.entry(name).or_default();
            *known = size.max(*known);
        }
        Ok(())
    }

    /// The greatest length that a value may expand to.
    fn of(&self, value: &str) -> usize {
        let mut size = value.len();
        for part in value.split('$').skip(1) {
            let name = part.strip_prefix('{').unwrap_or(part);
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &name[..end.unwrap_or(name.len())];
            let known = self.known.get(name).copied();
            size = size.saturating_add(known.unwrap_or(UNKNOWN_VARIABLE));
        }
        size
    }
}

struct Reader<'a> {
    args: &'a Args,
    escape: char,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
}

impl Reader<'_> {
    /// Expands up to the character `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("has variables within variables".to_owned());
        }
        let mut out = String::new();
        loop {
            let Some(c) = self.rest.next() else {
                match stop {
                    None => break,
                    Some(_) => return Err("has a brace that is not closed".to_owned()),
                }
            };
            match c {
                c if Some(c) == stop => break,
                '\'' => loop {
                    match self.rest.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err("has a quote that is not closed".to_owned()),
                    }
                },
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                c if c == self.escape => out.extend(self.rest.next()),
                c => out.push(c),
            }
            if out.len() > MAX_VALUE {
                return Err(format!("comes to more than {MAX_VALUE} characters"));
            }
        }
        self.depth -= 1;
        Ok(out)
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.escape => match self.rest.next() {
                    Some(c) if c == '"' || c == '$' || c == self.escape => out.push(c),
                    other => {
                        out.push(self.escape);
                        out.extend(other);
                    }
                },
                Some(c) => out.push(c),
                None => return Err("has a quote that is not closed".to_owned()),
            }
            if out.len() > MAX_VALUE {
                return Err(format!("comes to more than {MAX_VALUE} characters"));
            }
        }
    }

    /// Expands a `$` and its name.
    fn variable(&mut self) -> Result<String, String> {
        let braced = self.rest.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = self
            .rest
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
        }
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("has a $ without the name of an argument".to_owned());
        }
        let value = match self.args.known.get(&name) {
            Some(Some(value)) => Some(value.clone()),
            Some(None) => {
                return Err(format!(
                    "has ${name}, whose value is not known before the build"
                ));
            }
            None => None,
        };
        if !braced {
            return Ok(value.unwrap_or_default());
        }
        match (self.rest.next(), self.rest.peek()) {
            (Some('}'), _) => Ok(value.unwrap_or_default()),
            (Some(':'), Some('-' | '+')) => {
                let plus = self.rest.next() == Some('+');
                let word = self.until(Some('}'))?;
                let value = value.filter(|v| !v.is_empty());
                Ok(match (plus, value) {
                    (true, Some(_)) => word,
                    (true, None) => String::new(),
                    (false, value) => value.unwrap_or(word),
                })
            }
            _ => Err(format!(
                "has ${{{name}…}} in a form that not every engine has; write it out"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(declared: &[&str], given: &[(&str, &str)]) -> Args {
        let mut args = Args::default();
        for line in declared {
            args.declare(line, '\\', |name| {
                let found = given.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            });
        }
        args
    }

    #[test]
    fn names_are_expanded_as_the_engine_expands_them() {
        let args = args(
            &["A=be", "B=${A}ef C=\"x y\"", "D", "E=default", "A=no$A"],
            &[("E", "given")],
        );
        for (word, value) in [
            ("${B}", "beef"),
            ("$B:$E", "beef:given"),
            ("\"$C\"", "x y"),
            ("'$B'", "$B"),
            ("b\\eef", "beef"),
            ("\"b\\eef\"", "b\\eef"),
            ("${D:-${B}}", "beef"),
            ("${B:+x}${D:+y}", "x"),
            ("[$D$NONE]", "[]"),
            ("$A", "nobe"),
        ] {
            assert_eq!(args.expand(word, '\\').as_deref(), Ok(value), "{word}");
        }
    }

    #[test]
    fn variables_that_double_are_stopped_and_those_that_grow_are_not() {
        let run = |line: &str, times: usize| {
            let mut sizes = Sizes::default();
            (0..times).try_for_each(|_| sizes.declare(line, '\\', |_| 0))
        };
        for line in [
            "A=$A$A",
            "A $A${A}",
            "A=x B=$A${A:-$A} A=$B$B",
            "A=$PATH$A$A",
        ] {
            assert!(run(line, 40).is_err(), "{line}");
        }
        for line in [
            "PATH=/opt/bin:$PATH",
            "A=1 B=\"two words\"",
            "GREETING hello you",
            "A",
        ] {
            assert_eq!(run(line, 20), Ok(()), "{line}");
        }
        let long = format!("A={}", "x".repeat(MAX_VARIABLE + 1));
        assert!(run(&long, 1).is_err());
        let mut sizes = Sizes::default();
        assert!(sizes.declare("A", '\\', |_| MAX_VARIABLE + 1).is_err());
    }

    #[test]
    fn what_only_the_engine_can_tell_is_refused() {
        let deep = format!("{}x{}", "${N:-".repeat(40), "}".repeat(40));
        let doubled: Vec<String> = (0..40).map(|n| format!("V{}=$V{n}$V{n}", n + 1)).collect();
        let mut lines = vec!["V0=xx", "http_proxy=a"];
        lines.extend(doubled.iter().map(String::as_str));
        let args = args(&lines, &[]);
        for word in [
            "${http_proxy:+beef}",
            "${A#x}",
            "${A-x}",
            "'a",
            "\"a",
            "${A",
            "$",
            "$V40",
            &deep,
        ] {
            assert!(args.expand(word, '\\').is_err(), "{word}");
        }
    }
}
