//! `.dockerignore`: what of a folder is no part of the build context.
//!
//! Docker's rules: patterns are rooted at the context, `**` spans folders, a pattern that matches
//! a folder matches all below it, `!` takes back, and the last pattern that matches decides.

use globset::{GlobBuilder, GlobMatcher};

/// The file's name.
pub const NAME: &str = ".dockerignore";

/// The rules of one `.dockerignore`.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    matcher: GlobMatcher,
    takes_back: bool,
}

impl Rules {
    /// Reads the rules.
    ///
    /// # Errors
    /// The line that is no pattern, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Editors on Windows begin a file with this mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (takes_back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = tidy(pattern);
            if pattern.is_empty() {
                continue;
            }
            // Braces are letters to Docker.
            let pattern = pattern.replace('{', "[{]").replace('}', "[}]");
            let glob = GlobBuilder::new(&pattern)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|e| format!("{NAME}: {line:?} is no pattern: {}", e.kind()))?;
            rules.push(Rule {
                matcher: glob.compile_matcher(),
                takes_back,
            });
        }
        Ok(Self(rules))
    }

    /// Whether something below an ignored folder may be wanted after all.
    pub fn take_back(&self) -> bool {
        self.0.iter().any(|rule| rule.takes_back)
    }

    /// Whether an entry is left out.
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.0 {
            // Asked only when it can change anything.
            if ignored == rule.takes_back && rule.matches(path) {
                ignored = !rule.takes_back;
            }
        }
        ignored
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
        ends.chain([path]).any(|part| self.matcher.is_match(part))
    }
}

/// A pattern without slashes at its ends and steps that lead nowhere.
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
    use super::*;

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
}
