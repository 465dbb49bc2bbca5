//! One pattern, matched in time proportional to its length times the path's.
//!
//! All positions that matching may have reached in the pattern are tracked at once, so there is no
//! backtracking. Nothing is compiled: a pattern is a list of pieces, one for each character.

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// This character.
    Char(char),
    /// `?`: any character except a slash.
    Any,
    /// `[a-z]`: one of these ranges, or none of them; never a slash.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// `*`: any characters except slashes.
    Star,
    /// The beginning of `**/`, which may match nothing.
    Folders,
    /// The rest of `**/`: anything up to a slash.
    InFolders,
    /// `**` at the end: anything.
    Rest,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// It begins with `**/` and may match from the start of any name in the path.
    anywhere: bool,
    pieces: Vec<Piece>,
}

/// The cost of matching, and buffers that are reused from path to path.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Steps so far, of some nanoseconds each: characters, and the positions in patterns they were
    /// compared with.
    pub(super) steps: u64,
    /// Where the names of the current path begin, except the first.
    names: Vec<usize>,
    now: Vec<usize>,
    next: Vec<usize>,
}

/// How many names of a path are compared with a pattern's first piece in the time of one step.
const NAMES_PER_STEP: u64 = 4;

impl Work {
    /// Starts the next path.
    pub(super) fn begin(&mut self, path: &str) {
        self.names.clear();
        self.names
            .extend(path.match_indices('/').map(|(at, _)| at + 1));
        self.steps += path.len() as u64;
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong in it.
    pub(super) fn new(text: &str) -> Result<Self, &'static str> {
        let (anywhere, text) = match text.strip_prefix("**/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut pieces = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.peek() == Some(&'*') => {
                    while chars.next_if_eq(&'*').is_some() {}
                    chars.next_if_eq(&'/');
                    match chars.peek() {
                        None => pieces.push(Piece::Rest),
                        Some(_) => pieces.extend([Piece::Folders, Piece::InFolders]),
                    }
                }
                '*' => pieces.push(Piece::Star),
                '?' => pieces.push(Piece::Any),
                '[' => pieces.push(class(&mut chars)?),
                '\\' => pieces.push(Piece::Char(escaped(&mut chars)?)),
                c => pieces.push(Piece::Char(c)),
            }
        }
        Ok(Self { anywhere, pieces })
    }

    /// Whether it matches the path that `work` has begun, or a folder above it.
    pub(super) fn matches(&self, path: &str, work: &mut Work) -> bool {
        work.steps += 1;
        if self.may_begin(path) && self.matches_here(path, work) {
            return true;
        }
        if !self.anywhere {
            return false;
        }
        work.steps += work.names.len() as u64 / NAMES_PER_STEP;
        for i in 0..work.names.len() {
            let rest = &path[work.names[i]..];
            if self.may_begin(rest) && self.matches_here(rest, work) {
                return true;
            }
        }
        false
    }

    /// Whether a path may match; this cheap check rules out most patterns for most paths.
    fn may_begin(&self, path: &str) -> bool {
        match self.pieces.first() {
            Some(Piece::Char(first)) => path.starts_with(*first),
            _ => true,
        }
    }

    fn matches_here(&self, path: &str, work: &mut Work) -> bool {
        let Work {
            steps, now, next, ..
        } = work;
        // Positions in the pattern that the path so far may have reached, in order.
        now.clear();
        next.clear();
        self.reach(0, now);
        for c in path.chars() {
            *steps += 1 + now.len() as u64;
            if c == '/' && self.ends(now) {
                return true;
            }
            for &at in now.iter() {
                match self.pieces.get(at) {
                    Some(Piece::Char(own)) if *own == c => self.reach(at + 1, next),
                    Some(Piece::Any) if c != '/' => self.reach(at + 1, next),
                    Some(Piece::Class { ranges, negated }) if c != '/' => {
                        *steps += ranges.len() as u64;
                        let is_in = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        if is_in != *negated {
                            self.reach(at + 1, next);
                        }
                    }
                    Some(Piece::Star) if c != '/' => self.reach(at, next),
                    Some(Piece::Rest) => self.reach(at, next),
                    Some(Piece::InFolders) => {
                        self.reach(at, next);
                        if c == '/' {
                            self.reach(at + 1, next);
                        }
                    }
                    _ => {}
                }
            }
            if next.is_empty() {
                return false;
            }
            std::mem::swap(now, next);
            next.clear();
        }
        self.ends(now)
    }

    /// Whether one of the positions is the end of the pattern, which is the greatest.
    fn ends(&self, places: &[usize]) -> bool {
        places.last() == Some(&self.pieces.len())
    }

    /// Adds a position, and those that can be reached from it without another character.
    fn reach(&self, at: usize, places: &mut Vec<usize>) {
        match places.last() {
            Some(last) if *last >= at => {
                let slot = places.partition_point(|place| *place < at);
                if places[slot] == at {
                    return;
                }
                places.insert(slot, at);
            }
            _ => places.push(at),
        }
        match self.pieces.get(at) {
            Some(Piece::Star | Piece::Rest) => self.reach(at + 1, places),
            Some(Piece::Folders) => {
                self.reach(at + 1, places);
                self.reach(at + 2, places);
            }
            _ => {}
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn escaped(chars: &mut Chars<'_>) -> Result<char, &'static str> {
    chars.next().ok_or("it ends with a backslash")
}

/// The rest of a class, after its opening bracket.
fn class(chars: &mut Chars<'_>) -> Result<Piece, &'static str> {
    let unclosed = "a [ has no ]";
    let negated = chars.next_if(|c| matches!(c, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match chars.next().ok_or(unclosed)? {
            // A class is never empty, as in Go.
            ']' if !ranges.is_empty() => break,
            '\\' => escaped(chars)?,
            c => c,
        };
        let mut to = from;
        if chars.next_if_eq(&'-').is_some() {
            to = match chars.next().ok_or(unclosed)? {
                // A dash at the end stands for itself.
                ']' => {
                    ranges.extend([(from, from), ('-', '-')]);
                    break;
                }
                '\\' => escaped(chars)?,
                c => c,
            };
        }
        if from > to {
            return Err("a range in it ends before it begins");
        }
        ranges.push((from, to));
    }
    Ok(Piece::Class { ranges, negated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let pattern = Pattern::new(pattern).expect("a pattern");
        let mut work = Work::default();
        work.begin(path);
        pattern.matches(path, &mut work)
    }

    #[test]
    fn wildcards_match_as_in_docker() {
        for (pattern, path) in [
            ("a", "a"),
            ("a", "a/b/c"),
            ("a*c", "ac"),
            ("a*c", "abbc/d"),
            ("*", "a"),
            ("*/*.md", "a/.md"),
            ("**", "a/b"),
            ("**/a", "a"),
            ("**/a", "x/y/a/z"),
            ("a/**", "a/b/c"),
            ("a/**/b", "a/b"),
            ("a/**/b", "a/x/y/b"),
            ("a**b", "ab"),
            ("a**b", "ax/b"),
            ("**/*.o", "x/.o"),
            ("a?c", "aéc"),
            ("[a-c]x", "bx"),
            ("[^a-c]x", "dx"),
            ("[!a]x", "bx"),
            ("[]a]x", "]x"),
            ("[a-]x", "-x"),
            ("\\*", "*"),
            ("{a,b}", "{a,b}"),
            ("a.b$", "a.b$"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("a", "ab"),
            ("a", "b/a"),
            ("a*c", "a/c"),
            ("*.md", "a/b.md"),
            ("**/a", "xa"),
            ("a/**/b", "a/xb"),
            ("a/**", "b"),
            ("?", "/"),
            ("a[^x]b", "a/b"),
            ("[a-c]x", "dx"),
            ("[^a-c]x", "ax"),
            ("a.b", "axb"),
            ("{a,b}", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        for bad in ["[", "a[b", "[]", "[^]", "a\\", "[a-", "[z-a]", "[\\"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_match_takes_no_more_steps_than_both_lengths_allow() {
        let (pattern, path) = ("a*".repeat(400) + "b", "a".repeat(1000));
        let pattern = Pattern::new(&pattern).expect("a pattern");
        let mut work = Work::default();
        work.begin(&path);
        assert!(!pattern.matches(&path, &mut work));
        assert!(work.steps <= 804 * 1001, "{} steps", work.steps);
    }
}
