//! The lines of a Dockerfile as the engine joins them.
//!
//! Continuations, comments and directives are resolved here and not by the parser of instructions:
//! the engine's reading decides. Where engines differ, the file is refused, so that no file is
//! built that was checked under another reading.

/// Most bytes of a Dockerfile.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// Most instructions; engines end at 127 layers.
const MAX_LINES: usize = 2_000;
/// Longest instruction, in bytes.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// One instruction with its continuations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of its first line in the file, from 1.
    pub(super) number: usize,
    /// The instruction, trimmed of white space.
    pub(super) text: String,
}

/// A Dockerfile, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines {
    /// The value of `# syntax=`; empty for none.
    pub(super) syntax: String,
    /// The character that continues lines and escapes others.
    pub(super) escape: char,
    /// The instructions.
    pub(super) lines: Vec<Line>,
}

impl Lines {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// A sentence, for a file that is too large or that engines read differently.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!(
                "it is {} bytes long; the limit is {MAX_BYTES}",
                bytes.len()
            ));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        if text.contains('\0') {
            return Err("it has a NUL in it".to_owned());
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut read = Self {
            syntax: String::new(),
            escape: '\\',
            lines: Vec::new(),
        };
        read.directives(text)?;
        let mut all = (1..).zip(text.split('\n'));
        while let Some((number, first)) = all.next() {
            let first = first.trim_start();
            if first.starts_with('#') {
                continue;
            }
            let (part, mut continues) = read.cut(first, number)?;
            let mut line = part.to_owned();
            if line.is_empty() && !continues {
                continue;
            }
            while continues {
                let Some((number, next)) = all.next() else {
                    break;
                };
                if next.trim_start().starts_with('#') || next.trim().is_empty() {
                    continue;
                }
                let (part, more) = read.cut(next, number)?;
                line.push_str(part);
                continues = more;
                if line.len() > MAX_LINE_BYTES {
                    return Err(format!(
                        "the instruction at line {number} is longer than {MAX_LINE_BYTES} bytes"
                    ));
                }
            }
            let text = line.trim().to_owned();
            if text.ends_with(read.escape) {
                return Err(format!(
                    "the instruction at line {number} ends with {:?} and white space; remove both",
                    read.escape
                ));
            }
            if !text.is_empty() {
                read.lines.push(Line { number, text });
            }
            if read.lines.len() > MAX_LINES {
                return Err(format!("it has more than {MAX_LINES} instructions"));
            }
        }
        Ok(read)
    }

    /// Reads the directives, which are comments before everything else.
    fn directives(&mut self, text: &str) -> Result<(), String> {
        let mut others = false;
        for line in text.split('\n') {
            let Some((key, value)) = line
                .trim()
                .strip_prefix('#')
                .and_then(|rest| rest.split_once('='))
            else {
                break;
            };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            match key.as_str() {
                "syntax" if self.syntax.is_empty() => {
                    others = true;
                    self.syntax = value.to_owned();
                }
                "syntax" => return Err("it has `# syntax=` twice".to_owned()),
                "escape" if others => {
                    // Engines differ in the directives after which they still accept one.
                    return Err("`# escape=` has to be the first line".to_owned());
                }
                "escape" => {
                    self.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        _ => return Err("`# escape=` is neither \\ nor `".to_owned()),
                    }
                }
                key if key.bytes().all(|b| b.is_ascii_alphanumeric()) => others = true,
                _ => break,
            }
        }
        Ok(())
    }

    /// A line of the file without its continuation mark, and whether it has one.
    fn cut<'a>(&self, line: &'a str, number: usize) -> Result<(&'a str, bool), String> {
        let line = line.trim_end_matches('\r');
        if line.contains('\r') {
            return Err(format!("line {number} has a carriage return within it"));
        }
        let Some(rest) = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape) else {
            return Ok((line, false));
        };
        if rest.ends_with(self.escape) {
            // Some engines continue the line here, others do not.
            return Err(format!(
                "line {number} ends with {0}{0}, which engines read in different ways; end it with something else",
                self.escape
            ));
        }
        Ok((rest, true))
    }

    /// The file with one line per instruction, and nothing else but the directives that the engine
    /// needs to read them alike.
    pub(super) fn canonical(&self) -> String {
        let mut out = match self.escape {
            '\\' => String::new(),
            escape => format!("# escape={escape}\n"),
        };
        for line in &self.lines {
            out.push_str(&line.text);
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        let read = Lines::read(file.as_bytes()).expect("valid");
        read.lines.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn lines_are_put_together_as_the_engine_does() {
        let file = "\u{feff}# syntax=a/b:1\n# a comment\nFROM \\\n# between\n\n  x \\  \n  AS y\r\n\u{a0}RUN a\\b\n\nRUN `\n";
        assert_eq!(texts(file), ["FROM   x   AS y", "RUN a\\b", "RUN `"]);
        let read = Lines::read(file.as_bytes()).expect("valid");
        assert_eq!((read.syntax.as_str(), read.lines[1].number), ("a/b:1", 8));
        assert_eq!(
            texts("# escape=`\nFROM a `\n  AS b\nRUN c\\\nRUN d"),
            ["FROM a   AS b", "RUN c\\", "RUN d"]
        );
    }

    #[test]
    fn what_engines_read_in_different_ways_is_refused() {
        for bad in [
            "FROM a\nRUN b \\\\\nFROM c",
            "# check=skip=all\n# escape=`\nFROM a",
            "FROM a\rFROM b",
            "FROM a\0",
            "# syntax=a\n# escape=`\nFROM a",
            "FROM a\nRUN b \\\u{a0}\nFROM c",
            "# escape=x\nFROM a",
        ] {
            assert!(Lines::read(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Lines::read(b"FROM \xff").is_err());
        assert!(Lines::read(&vec![b'a'; MAX_BYTES + 1]).is_err());
        assert!(Lines::read("RUN a\n".repeat(MAX_LINES + 1).as_bytes()).is_err());
    }

    #[test]
    fn the_canonical_file_reads_as_the_same_lines() {
        for file in [
            "# escape=`\nFROM a `\n AS b\nRUN c",
            "FROM a\\\n:1\n#x\nRUN b\\c",
        ] {
            let read = Lines::read(file.as_bytes()).expect("valid");
            let again = Lines::read(read.canonical().as_bytes()).expect("valid");
            let texts = |lines: &Lines| -> Vec<String> {
                lines.lines.iter().map(|l| l.text.clone()).collect()
            };
            assert_eq!(texts(&again), texts(&read));
        }
    }
}
