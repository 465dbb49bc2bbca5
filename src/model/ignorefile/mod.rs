//! `.dockerignore`: which files of a folder are not part of the build context.
//!
//! The rules are Docker's: patterns are rooted at the context, `**` spans folders, a pattern that
//! matches a folder matches everything below it, `!` includes again, and the last matching pattern
//! decides.
//!
//! The file comes from the sender of the code. So it is bounded, a pattern takes no more memory
//! than its text (`pattern`), and [`Rules::kept`] limits the work of all patterns over all paths.

mod pattern;

use self::pattern::{Pattern, Work};
use super::work::{Cancelled, check_cancelled};

/// The file's name.
pub const NAME: &str = ".dockerignore";
/// The longest file in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most patterns of one file.
pub const MAX_PATTERNS: usize = 1000;
/// Longest pattern in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The most steps of all patterns over all paths of one folder, which take a second or two. A
/// thousand patterns that begin with `**` take as many for 50,000 files; the forty of an ordinary
/// file take next to none.
const MAX_STEPS: u64 = 1 << 27;

/// The rules of one `.dockerignore`.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    pattern: Pattern,
    negated: bool,
}

impl Rules {
    /// Reads the rules.
    ///
    /// # Errors
    /// The line that is no valid pattern, and why; or the bound that the file exceeds.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!(
                "{NAME} is {} bytes long; the limit is {MAX_BYTES}",
                text.len()
            ));
        }
        // Editors on Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (i, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (negated, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let at = format!("line {} of {NAME}", i + 1);
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(format!(
                    "{at} has a pattern of {} bytes; the limit is {MAX_PATTERN_BYTES}",
                    pattern.len()
                ));
            }
            let pattern = tidy(pattern);
            if pattern.is_empty() {
                continue;
            }
            if rules.len() == MAX_PATTERNS {
                return Err(format!(
                    "{at} has one pattern more than the limit of {MAX_PATTERNS}; name folders instead of the files in them"
                ));
            }
            let pattern = Pattern::new(&pattern)
                .map_err(|why| format!("{at}: {line:?} is no pattern: {why}"))?;
            rules.push(Rule { pattern, negated });
        }
        Ok(Self(rules))
    }

    /// Whether it has patterns with `!`, so that something below an ignored folder may be included.
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|rule| rule.negated)
    }

    /// Whether a path is left out.
    pub fn ignores(&self, path: &str) -> bool {
        self.ignored(path, &mut Work::default())
    }

    /// Of many paths, those that are not left out.
    ///
    /// # Errors
    /// When the patterns take too much work for so many paths, or the work was cancelled.
    pub fn kept<'p>(
        &self,
        paths: impl Iterator<Item = &'p str>,
        cancelled: Cancelled<'_>,
    ) -> Result<Vec<&'p str>, String> {
        self.kept_within(MAX_STEPS, paths, cancelled)
    }

    fn kept_within<'p>(
        &self,
        most: u64,
        paths: impl Iterator<Item = &'p str>,
        cancelled: Cancelled<'_>,
    ) -> Result<Vec<&'p str>, String> {
        let mut work = Work::default();
        let mut kept = Vec::new();
        for path in paths {
            check_cancelled(cancelled)?;
            if !self.ignored(path, &mut work) {
                kept.push(path);
            }
            if work.steps > most {
                return Err(format!(
                    "the {} patterns of {NAME} take too much work for so many files; use fewer patterns with wildcards",
                    self.0.len()
                ));
            }
        }
        Ok(kept)
    }

    fn ignored(&self, path: &str, work: &mut Work) -> bool {
        work.begin(path);
        let mut ignored = false;
        for rule in &self.0 {
            // Matched only when it can change the outcome.
            if ignored == rule.negated && rule.pattern.matches(path, work) {
                ignored = !rule.negated;
            }
        }
        ignored
    }
}

/// A pattern without slashes at its ends and without empty or `.` steps.
fn tidy(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::{super::work::NEVER, *};

    #[test]
    fn patterns_mean_what_docker_means() {
        let rules = Rules::parse(
            "# a comment\n\n/target/\n*.log\n**/cache\n!target/keep\nb?\n!*.md\nREADME.md\ndocs/*\n!docs/a*\n",
        );
        let rules = rules.expect("valid");
        for ignored in [
            "target",
            "target/x/y",
            "a.log",
            "cache",
            "a/b/cache/x",
            "b1",
            "README.md",
            "docs/b",
        ] {
            assert!(rules.ignores(ignored), "{ignored}");
        }
        for kept in [
            "a/target",
            "a/b.log",
            "target/keep/x",
            "c.md",
            "b",
            "docs/ab",
            "#a",
        ] {
            assert!(!rules.ignores(kept), "{kept}");
        }
        assert!(Rules::parse("[").is_err());
    }

    #[test]
    fn the_line_that_is_over_a_bound_is_named() {
        let many = "# first\n".to_owned() + &"*.o\n".repeat(MAX_PATTERNS + 1);
        let long = format!("a\n\n{}\n", "b".repeat(MAX_PATTERN_BYTES + 1));
        for (text, words) in [
            ("*\n".repeat(100_000), "200000 bytes long"),
            (many, "line 1002 of .dockerignore has one pattern more"),
            (long, "line 3 of .dockerignore has a pattern of 1025 bytes"),
            ("a\n[b\n".to_owned(), "line 2 of .dockerignore: \"[b\""),
        ] {
            let why = Rules::parse(&text).expect_err("refused");
            assert!(why.contains(words), "no {words:?} in {why:?}");
        }
    }

    #[test]
    fn what_all_patterns_cost_for_all_paths_is_bounded() {
        // Each of them is as slow on such paths as a pattern of its length can be.
        let slow = "**/*a*a*a*a*a*a*a*b\n".repeat(MAX_PATTERNS);
        let rules = Rules::parse(&slow).expect("valid");
        let path = ["a".repeat(200).as_str(); 5].join("/");
        let why = rules
            .kept_within(1 << 20, std::iter::repeat_n(&path[..], 50_000), NEVER)
            .expect_err("refused");
        assert!(why.contains("too much work"), "{why}");
        let called_off = rules.kept(std::iter::once("a"), &|| true);
        assert!(called_off.is_err());
        let few = Rules::parse("a\n").expect("valid");
        let kept = few.kept(["a", "a/b", "b"].into_iter(), NEVER);
        assert_eq!(kept.expect("kept"), ["b"]);
    }
}
