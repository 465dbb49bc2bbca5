//! Code without a Dockerfile, recognized as a handler of a runtime by the files at its root.

use std::fmt;

use super::{Entries, entries::Entry};
use crate::model::code::Runtime;

/// What makes code a handler of a runtime. The first that is there is named.
const SIGNS: [(Sign, &[&str]); 4] = [
    (Sign::Python, &["handler.py"]),
    (
        Sign::Deno,
        &["deno.json", "deno.jsonc", "main.ts", "main.js"],
    ),
    (Sign::Go, &["go.mod", "main.go"]),
    (Sign::Rust, &["Cargo.toml"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Python,
    Deno,
    Go,
    Rust,
}

/// A handler that was recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recognized {
    /// Its runtime, with the platform's own choices.
    pub(super) runtime: Runtime,
    /// The file that says so.
    file: &'static str,
}

/// What the files at the root make of code.
///
/// # Errors
/// A sentence, when they are those of no runtime or of several.
pub(super) fn recognize(entries: &Entries) -> Result<Recognized, String> {
    let is_file = |name: &&str| {
        matches!(
            entries.get(*name),
            Some(Entry::File { .. } | Entry::Link(_))
        )
    };
    let there = |(sign, files): &(Sign, &'static [&'static str])| {
        let file = files.iter().copied().find(is_file)?;
        Some(Recognized {
            runtime: sign.runtime(),
            file,
        })
    };
    let mut found: Vec<Recognized> = SIGNS.iter().filter_map(there).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let looked = SIGNS.map(|(sign, files)| {
                format!("{} ({})", files.join(", "), sign.runtime().language())
            });
            Err(format!(
                "no file at its root says that it is a handler: {} were looked for",
                looked.join("; ")
            ))
        }
        _ => {
            let all: Vec<String> = found
                .iter()
                .map(|f| format!("{} of {}", f.file, f.runtime.language()))
                .collect();
            Err(format!(
                "its root has files of several runtimes: {}",
                all.join(", ")
            ))
        }
    }
}

impl Sign {
    fn runtime(self) -> Runtime {
        match self {
            Sign::Python => Runtime::Python,
            Sign::Deno => Runtime::Deno,
            Sign::Go => Runtime::Go,
            Sign::Rust => Runtime::Rust {
                target: String::new(),
                toolchain: String::new(),
            },
        }
    }
}

impl fmt::Display for Recognized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "There is no Dockerfile; {} makes this a handler of the runtime {}",
            self.file,
            self.runtime.language()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Entries {
        let file = Entry::File {
            len: 1,
            executable: false,
        };
        let mut all: Entries = names
            .iter()
            .map(|n| ((*n).to_owned(), file.clone()))
            .collect();
        // A folder of that name says nothing.
        all.insert("Cargo.toml".to_owned(), Entry::Dir);
        all
    }

    #[test]
    fn each_runtime_is_known_by_its_files_at_the_root() {
        for (names, runtime, file) in [
            (
                &["handler.py", "requirements.txt"][..],
                "python",
                "handler.py",
            ),
            // As public samples have it.
            (
                &["deno.json", "handler.ts", "main.ts", "web/Dockerfile"],
                "deno",
                "deno.json",
            ),
            (&["main.js"], "deno", "main.js"),
            (&["main.go"], "go", "main.go"),
            (&["go.mod", "handler.go"], "go", "go.mod"),
            (&["handler.py", "sub/go.mod"], "python", "handler.py"),
        ] {
            let found = recognize(&entries(names)).expect("recognized");
            assert_eq!((found.runtime.language(), found.file), (runtime, file));
            assert!(found.to_string().contains(file), "{found}");
        }
        let mut rust = entries(&["src/lib.rs"]);
        rust.insert("Cargo.toml".to_owned(), Entry::Link("x".to_owned()));
        let found = recognize(&rust).expect("recognized");
        assert_eq!(found.runtime.language(), "rust");
    }

    #[test]
    fn nothing_and_more_than_one_runtime_are_refused_with_what_was_looked_for() {
        let why = recognize(&entries(&["index.js", "src/handler.py"])).expect_err("nothing");
        for file in [
            "handler.py (python)",
            "main.ts",
            "go.mod",
            "Cargo.toml (rust)",
        ] {
            assert!(why.contains(file), "no {file:?} in {why}");
        }
        let why = recognize(&entries(&["go.mod", "main.go", "main.ts"])).expect_err("two");
        assert!(why.contains("main.ts of deno, go.mod of go"), "{why}");
    }
}
