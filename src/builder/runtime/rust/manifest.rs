//! The `Cargo.toml` of a handler, with the platform's crate added.

use toml::{Table, Value};

use super::failed;
use crate::{builder::Source, model::Failure};

/// Its file.
const NAME: &str = "Cargo.toml";
/// The file of a program's code by default.
const MAIN: &str = "src/main.rs";
/// The folder of the platform's crate while the code is compiled.
const CRATE: &str = "/opt/ignite/ignite";
/// Most bytes of a manifest.
const MAX: u64 = 1024 * 1024;

/// A manifest that can be built.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its text.
    pub(super) text: String,
    /// The program's name.
    pub(super) program: String,
    /// The file with the program's `main`.
    pub(super) main: String,
    /// Whether its dependencies compile without the rest of the code.
    pub(super) stands_alone: bool,
}

impl Manifest {
    /// The manifest of a source; a default one for a source that has none.
    ///
    /// # Errors
    /// BUILD_FAILED when it is not a manifest of a program, or the program's file is missing.
    pub(super) fn of(source: &Source) -> Result<Self, Failure> {
        let manifest = match source.bounded(NAME, MAX).map_err(failed)? {
            Some(text) => Self::read(&String::from_utf8_lossy(&text)).map_err(failed)?,
            None => Self::read(
                "[package]\nname = \"handler\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
            )
            .map_err(failed)?,
        };
        if !source.has_file(&manifest.main) {
            return Err(failed(format!(
                "there is no {} in the code; add it with `#[ignite::main] async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse>`",
                manifest.main
            )));
        }
        Ok(manifest)
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut table: Table = text
            .parse()
            .map_err(|e| format!("{NAME} is not valid: {e}"))?;
        let package = table
            .get("package")
            .and_then(Value::as_table)
            .ok_or_else(|| {
                format!("{NAME} has no [package]; send the folder of the handler's package")
            })?;
        let name_of = |table: &Table| table.get("name").and_then(Value::as_str).map(str::to_owned);
        let name = name_of(package).ok_or_else(|| format!("{NAME} has no package.name"))?;
        let is_plain = |name: &str| {
            !name.starts_with('-')
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        let bins = table.get("bin").and_then(Value::as_array);
        let bin = bins.and_then(|all| all.first()).and_then(Value::as_table);
        let program = bin.and_then(name_of).unwrap_or_else(|| name.clone());
        let main = bin.and_then(|bin| bin.get("path")).and_then(Value::as_str);
        let main = main.unwrap_or(MAIN).to_owned();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if !is_plain(&program) || main.starts_with('-') || !main.chars().all(fits) {
            return Err(format!(
                "the program {program:?} at {main:?} has characters in its names that are not taken here"
            ));
        }
        let stands_alone = [
            "workspace",
            "bin",
            "lib",
            "patch",
            "bench",
            "test",
            "example",
        ]
        .iter()
        .all(|part| !table.contains_key(*part))
            && !package.contains_key("build")
            && !reaches_out(&table);
        let ignite = Table::from_iter([("path".to_owned(), Value::from(CRATE))]);
        let dependencies = table
            .entry("dependencies")
            .or_insert_with(|| Table::new().into());
        let dependencies = dependencies
            .as_table_mut()
            .ok_or_else(|| format!("[dependencies] of {NAME} is not a table"))?;
        dependencies.insert("ignite".to_owned(), ignite.into());
        Ok(Self {
            text: table.to_string(),
            program,
            main,
            stands_alone,
        })
    }
}

/// Whether a dependency is a folder, or is defined elsewhere.
fn reaches_out(table: &Table) -> bool {
    table.iter().any(|(name, value)| {
        let Some(inner) = value.as_table() else {
            return false;
        };
        name != "ignite" && (inner.contains_key("path") || inner.contains_key("workspace"))
            || reaches_out(inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Manifest {
        let text = format!("[package]\nname = \"a-b\"\nversion = \"1.0.0\"\n{more}");
        Manifest::read(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn the_platforms_crate_takes_the_place_of_any_other() {
        for more in [
            "",
            "[dependencies]\nignite = \"3\"\nserde = \"1\"\n",
            "[dependencies.ignite]\ngit = \"https://h.example/x\"\n",
        ] {
            let manifest = read(more);
            let table: Table = manifest.text.parse().expect("a manifest");
            let ignite = &table["dependencies"]["ignite"];
            assert_eq!(ignite.to_string(), format!("{{ path = \"{CRATE}\" }}"));
            assert_eq!(manifest.program, "a-b");
            assert!(manifest.stands_alone, "{more}");
        }
    }

    #[test]
    fn dependencies_come_first_only_where_they_need_nothing_of_the_code() {
        for more in [
            "build = \"b.rs\"\n",
            "[dependencies.x]\npath = \"x\"\n",
            "[target.'cfg(unix)'.dependencies]\nx = { workspace = true }\n",
            "[[bin]]\nname = \"x\"\npath = \"x.rs\"\n",
            "[workspace]\n",
        ] {
            assert!(!read(more).stands_alone, "{more}");
        }
        let named = read("[[bin]]\nname = \"x\"\npath = \"x.rs\"\n");
        assert_eq!((&*named.program, &*named.main), ("x", "x.rs"));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for text in [
            "[workspace]\nmembers = []\n",
            "[package]\n",
            "[package]\nname = \"a b\"\n",
            "[package]\nname = \"a\"\n[[bin]]\npath = \"x; id\"\n",
            "not toml",
            // Nested deeper than a thread's stack allows.
            &format!("{}.a = 1\n", vec!["a"; 200_000].join(".")),
            &format!("[{}]\n", vec!["a"; 200_000].join(".")),
            &format!("a = {}", "[".repeat(500_000)),
            &format!("a = {}", "{a=".repeat(200_000)),
        ] {
            assert!(Manifest::read(text).is_err(), "{text:.100}");
        }
    }
}
