//! The `Cargo.toml` of a handler, with the platform's crate added.
//!
//! The handler is in a program (`src/main.rs`) or in a library (`src/lib.rs`). A library gets a
//! program of the platform that calls it.

use toml::{Table, Value};

use super::failed;
use crate::{builder::Source, model::Failure};

/// Its file.
const NAME: &str = "Cargo.toml";
/// The manifest of code without one.
const DEFAULT: &str = "[package]\nname = \"handler\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
/// The default file of a program, and the one in code without the folder `src`.
const MAINS: [&str; 2] = ["src/main.rs", "main.rs"];
/// The same for a library.
const LIBRARIES: [&str; 2] = ["src/lib.rs", "lib.rs"];
/// The text that marks the file of a handler.
const MARK: &str = "ignite::main";
/// The folder of the platform's crate while the code is compiled.
const CRATE: &str = "/opt/ignite/ignite";
/// The name of the platform's crate.
const CRATE_NAME: &str = "ignite";
/// The platform's program around a library: its name, its file and its text.
const PROGRAM: &str = "ignite-handler";
pub(super) const PROGRAM_AT: &str = ".ignite/main.rs";
const PROGRAM_TEXT: &str = include_str!("program.rs");
/// The dependencies that are added where they are absent.
const ABSENT: &str = include_str!("absent.toml");
/// Most bytes of a manifest, and of a file that is searched for [`MARK`].
const MAX: u64 = 1024 * 1024;

/// A manifest that can be built.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its text.
    pub(super) text: String,
    /// The program's name.
    pub(super) program: String,
    /// The root file of the handler's program or library.
    pub(super) begins: String,
    /// The platform's program, where that file is a library.
    pub(super) calls: Option<String>,
    /// Whether its dependencies compile without the rest of the code.
    pub(super) stands_alone: bool,
}

/// Where the handler is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In a program of this name.
    Program { name: String, path: String },
    /// In a library.
    Library { path: String },
}

impl Manifest {
    /// The manifest of a source; a default one for a source that has none.
    ///
    /// # Errors
    /// BUILD_FAILED when it is not a manifest of a package, or the handler's file is missing.
    pub(super) fn of(source: &Source) -> Result<Self, Failure> {
        let text = source.bounded(NAME, MAX).map_err(failed)?;
        let text = text.unwrap_or_else(|| DEFAULT.into());
        Self::read(&String::from_utf8_lossy(&text), source).map_err(failed)
    }

    fn read(text: &str, source: &Source) -> Result<Self, String> {
        let mut table: Table = text
            .parse()
            .map_err(|e| format!("{NAME} is not valid: {e}"))?;
        let package = part(&table, "package").ok_or_else(|| {
            format!("{NAME} has no [package]; send the folder of the handler's package")
        })?;
        let name = text_of(package, "name").ok_or_else(|| format!("{NAME} has no package.name"))?;
        let name = name.to_owned();
        if name == CRATE_NAME {
            return Err(format!(
                "package.name in {NAME} is {CRATE_NAME:?}, which is the platform's crate; give the package another name"
            ));
        }
        let has_script = package.contains_key("build");
        let place = place(&table, &name, source)?;
        let mut stands_alone = !has_script && !reaches_out(&table);
        for other in ["workspace", "bin", "patch", "bench", "test", "example"] {
            stands_alone &= !table.contains_key(other);
        }
        add_dependencies(&mut table)?;
        let (program, begins, calls) = match place {
            Place::Program { name, path } => {
                stands_alone &= !table.contains_key("lib");
                if !table.contains_key("bin") && path != MAINS[0] {
                    add_program(&mut table, &name, &path);
                }
                (name, path, None)
            }
            Place::Library { path } => {
                let library = library(&mut table, &name, &path)?;
                add_program(&mut table, PROGRAM, PROGRAM_AT);
                let calls = PROGRAM_TEXT.replacen("LIBRARY", &library, 1);
                (PROGRAM.to_owned(), path, Some(calls))
            }
        };
        Ok(Self {
            text: table.to_string(),
            program,
            begins,
            calls,
            stands_alone,
        })
    }
}

/// Finds the handler of a package: in the first program that the manifest names, else in the
/// default program, else in the library. A library takes precedence over a default program when it
/// alone has the handler.
fn place(table: &Table, package: &str, source: &Source) -> Result<Place, String> {
    let bins = table.get("bin").and_then(Value::as_array);
    let bin = bins.and_then(|all| all.first()).and_then(Value::as_table);
    let program = |path: &str| Place::Program {
        name: bin
            .and_then(|bin| text_of(bin, "name"))
            .unwrap_or(package)
            .to_owned(),
        path: path.to_owned(),
    };
    let has_handler = |path: &str| {
        let text = source.read(path, MAX);
        text.is_some_and(|text| String::from_utf8_lossy(&text).contains(MARK))
    };
    let library = part(table, "lib").and_then(|lib| text_of(lib, "path"));
    let [main, library] = if source.entries().contains_key("src") || library.is_some() {
        [MAINS[0], library.unwrap_or(LIBRARIES[0])]
    } else {
        [MAINS[1], LIBRARIES[1]]
    };
    let named = bin.map(|bin| text_of(bin, "path").unwrap_or(MAINS[0]));
    let found = match named {
        Some(path) => program(path),
        None if source.has_file(library)
            && (!source.has_file(main) || has_handler(library) && !has_handler(main)) =>
        {
            Place::Library {
                path: library.to_owned(),
            }
        }
        None => program(main),
    };
    let (Place::Program { path, .. } | Place::Library { path }) = &found;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let fits = !path.starts_with('-') && path.chars().all(fits);
    let is_plain = match &found {
        Place::Program { name, .. } => is_plain(name),
        Place::Library { .. } => true,
    };
    if !fits || !is_plain {
        return Err(format!(
            "the code at {path:?} of package {package:?} has characters in its names that are not taken here"
        ));
    }
    if !source.has_file(path) {
        let missing = match named {
            Some(path) => format!("{path}, which {NAME} names"),
            None => "src/lib.rs, nor src/main.rs".to_owned(),
        };
        return Err(format!(
            "there is no {missing} in the code; add it with `#[ignite::main] async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse>`"
        ));
    }
    Ok(found)
}

/// Makes the library one that a program can call, and returns its name in Rust.
fn library(table: &mut Table, package: &str, path: &str) -> Result<String, String> {
    let lib = table.entry("lib").or_insert_with(|| Table::new().into());
    let lib = lib
        .as_table_mut()
        .ok_or_else(|| format!("[lib] of {NAME} is not a table"))?;
    if lib.get("proc-macro").and_then(Value::as_bool) == Some(true) {
        return Err(format!(
            "[lib] of {NAME} is a procedural macro; a handler is in an ordinary library or program"
        ));
    }
    // Such as cdylib, which only other languages can call.
    for key in ["crate-type", "crate_type"] {
        lib.remove(key);
    }
    lib.insert("path".to_owned(), path.into());
    let name = text_of(lib, "name").unwrap_or(package).replace('-', "_");
    if !is_plain(&name) || name.is_empty() {
        return Err(format!(
            "the library {name:?} has characters in its name that are not taken here"
        ));
    }
    Ok(name)
}

fn add_program(table: &mut Table, name: &str, path: &str) {
    let program = Table::from_iter([
        ("name".to_owned(), Value::from(name)),
        ("path".to_owned(), Value::from(path)),
    ]);
    table.insert("bin".to_owned(), Value::Array(vec![program.into()]));
}

/// Adds the platform's crate in place of any other of that name, and dependencies that are absent.
fn add_dependencies(table: &mut Table) -> Result<(), String> {
    let dependencies = table
        .entry("dependencies")
        .or_insert_with(|| Table::new().into());
    let dependencies = dependencies
        .as_table_mut()
        .ok_or_else(|| format!("[dependencies] of {NAME} is not a table"))?;
    let ignite = Table::from_iter([("path".to_owned(), Value::from(CRATE))]);
    dependencies.insert(CRATE_NAME.to_owned(), ignite.into());
    let absent: Table = ABSENT.parse().map_err(|e| format!("absent.toml: {e}"))?;
    for (name, value) in part(&absent, "dependencies").into_iter().flatten() {
        dependencies
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    Ok(())
}

fn part<'a>(table: &'a Table, name: &str) -> Option<&'a Table> {
    table.get(name)?.as_table()
}

fn text_of<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    table.get(name)?.as_str()
}

fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !name.starts_with('-') && name.chars().all(fits)
}

/// Whether a dependency is a folder, or is defined elsewhere.
fn reaches_out(table: &Table) -> bool {
    table.iter().any(|(name, value)| {
        let Some(inner) = value.as_table() else {
            return false;
        };
        // A library's path is its own file.
        let is_dependency = name != CRATE_NAME && name != "lib";
        is_dependency && (inner.contains_key("path") || inner.contains_key("workspace"))
            || reaches_out(inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builder::limits::tests::LIMITS, model::work::NEVER};

    const HANDLER: &str = "#[ignite::main]\nasync fn handler() {}\n";

    fn read(manifest: &str, files: &[(&str, &str)]) -> Result<Manifest, String> {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let source = Source::scan(root, std::path::Path::new(""), LIMITS, NEVER).expect("a tree");
        Manifest::read(manifest, &source)
    }

    /// That of the package `a-b` with its handler in `file`.
    fn package(more: &str, file: &str) -> Manifest {
        let text = format!("[package]\nname = \"a-b\"\nversion = \"1.0.0\"\n{more}");
        read(&text, &[(file, HANDLER)]).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn table(manifest: &Manifest) -> Table {
        manifest.text.parse().expect("a manifest")
    }

    #[test]
    fn the_platforms_crate_takes_the_place_of_any_other_and_absent_crates_are_added() {
        for more in [
            "",
            "[dependencies]\nignite = \"3\"\nserde = \"1.0.1\"\n",
            "[dependencies.ignite]\ngit = \"https://h.example/x\"\n",
        ] {
            let manifest = package(more, "src/main.rs");
            let dependencies = &table(&manifest)["dependencies"];
            let ignite = &dependencies["ignite"];
            assert_eq!(ignite.to_string(), format!("{{ path = \"{CRATE}\" }}"));
            let serde = dependencies["serde"].to_string();
            if more.contains("serde") {
                assert_eq!(serde, "\"1.0.1\"", "what is there stays");
            } else {
                assert!(serde.contains("derive"), "{serde}");
            }
            for added in ["serde_json", "tokio"] {
                assert!(dependencies.get(added).is_some(), "{added}");
            }
            assert_eq!((&*manifest.program, &manifest.calls), ("a-b", &None));
            assert!(manifest.stands_alone, "{more}");
        }
    }

    #[test]
    fn a_handler_in_a_library_gets_a_program_that_calls_it() {
        let wasm = "[lib]\ncrate-type = [\"cdylib\"]\n";
        for (more, file, library) in [
            ("", "src/lib.rs", "a_b"),
            ("", "lib.rs", "a_b"),
            (wasm, "src/lib.rs", "a_b"),
            ("[lib]\nname = \"c\"\npath = \"x/y.rs\"\n", "x/y.rs", "c"),
        ] {
            let manifest = package(more, file);
            assert_eq!(manifest.begins, file);
            assert_eq!(manifest.program, PROGRAM);
            let calls = manifest.calls.as_deref().expect("a program");
            assert!(calls.contains(&format!("::{library}::main()")), "{calls}");
            let table = table(&manifest);
            assert_eq!(table["lib"]["path"].as_str(), Some(file));
            assert_eq!(table["lib"].get("crate-type"), None);
            assert_eq!(table["bin"][0]["path"].as_str(), Some(PROGRAM_AT));
            assert!(manifest.stands_alone, "{more}");
        }
    }

    #[test]
    fn of_a_program_and_a_library_the_one_with_the_handler_counts() {
        let text = "[package]\nname = \"a\"\nversion = \"1.0.0\"\n";
        let other = "fn other() {}\n";
        for (main, library, begins) in [
            (HANDLER, other, "src/main.rs"),
            (other, HANDLER, "src/lib.rs"),
            (HANDLER, HANDLER, "src/main.rs"),
            // A program with its own server.
            (other, other, "src/main.rs"),
        ] {
            let files = [("src/main.rs", main), ("src/lib.rs", library)];
            assert_eq!(read(text, &files).expect("read").begins, begins);
        }
        let manifest = package("", "main.rs");
        assert_eq!(table(&manifest)["bin"][0]["path"].as_str(), Some("main.rs"));
        // With the folder `src`, what lies beside it is none of the package's.
        let files = [("src/more.rs", HANDLER), ("lib.rs", HANDLER)];
        let why = read(text, &files).expect_err("no handler");
        assert!(why.contains("src/lib.rs, nor src/main.rs"), "{why}");
    }

    #[test]
    fn dependencies_come_first_only_where_they_need_nothing_of_the_code() {
        for more in [
            "build = \"b.rs\"\n",
            "[dependencies.x]\npath = \"x\"\n",
            "[target.'cfg(unix)'.dependencies]\nx = { workspace = true }\n",
            "[workspace]\n",
            "[lib]\n",
        ] {
            assert!(!package(more, "src/main.rs").stands_alone, "{more}");
        }
        let named = package("[[bin]]\nname = \"x\"\npath = \"x.rs\"\n", "x.rs");
        assert_eq!((&*named.program, &*named.begins), ("x", "x.rs"));
        assert!(!named.stands_alone);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for text in [
            "[workspace]\nmembers = []\n",
            "[package]\n",
            "[package]\nname = \"a b\"\n",
            "[package]\nname = \"ignite\"\n",
            "[package]\nname = \"a\"\n[[bin]]\npath = \"x; id\"\n",
            "[package]\nname = \"a\"\n[[bin]]\npath = \"none.rs\"\n",
            "not toml",
            // Nested deeper than a thread's stack allows.
            &format!("{}.a = 1\n", vec!["a"; 200_000].join(".")),
            &format!("[{}]\n", vec!["a"; 200_000].join(".")),
            &format!("a = {}", "[".repeat(500_000)),
            &format!("a = {}", "{a=".repeat(200_000)),
        ] {
            let read = read(text, &[("src/main.rs", HANDLER), ("x; id", HANDLER)]);
            assert!(read.is_err(), "{text:.100}");
        }
        let library = "[package]\nname = \"a\"\n[lib]\n";
        for more in ["proc-macro = true\n", "name = \"a b\"\n", "path = \"-x\"\n"] {
            let read = read(&format!("{library}{more}"), &[("src/lib.rs", HANDLER)]);
            assert!(read.is_err(), "{more}");
        }
    }
}
