//! Go: a program that calls `ignite.Start(handler)`, or a package with
//! `func Handler(w http.ResponseWriter, r *http.Request)`.
//!
//! A program imports the platform's own module `ignite`, which comes with the context and takes its
//! place in `go.mod`. A package gets a program of the platform's (`program.go`) as one more package
//! of its module, so the code's requirements resolve as usual. Both have the same server
//! (`ignite/server.go`). Modules are fetched in a separate step, which runs again when `go.mod` or
//! `go.sum` has changed.

use super::{USER, failed, label_stage, place_all};
use crate::{
    builder::{Context, Entry, Source},
    model::Failure,
};

mod clause;

/// The module that programs import.
const SDK: [(&str, &str); 3] = [
    ("go.mod", include_str!("ignite/go.mod")),
    ("ignite.go", include_str!("ignite/ignite.go")),
    ("server.go", SERVER),
];
/// Its server, which a package gets, too.
const SERVER: &str = include_str!("ignite/server.go");
/// The program around a package.
const PROGRAM: &str = include_str!("program.go");
/// The folder of that program in the code's module.
const PROGRAM_AT: &str = "ignite_server";
/// Puts the module into `go.mod`, whatever that says of it.
const REQUIRE: &str =
    "go mod edit -droprequire=ignite -require=ignite@v0.0.0 -replace=ignite@v0.0.0=/opt/ignite/sdk";
/// The lines about the module in the list of vendored ones, as `go mod vendor` writes them.
const VENDORED: &str = "# ignite v0.0.0 => /opt/ignite/sdk\n## explicit; go 1.19\nignite\n";
/// The packages of the standard library that the server needs: compiled once for all builds.
const STANDARD: &str = "encoding/json log net/http os/signal";
/// The files that describe the code's module, its checksums, and the modules vendored with it.
const MODULE: &str = "go.mod";
const SUMS: &str = "go.sum";
const VENDOR: &str = "vendor/modules.txt";
/// The name of a module whose code has no `go.mod`.
const UNNAMED: &str = "handler";
/// Most bytes of a `go.mod`, and of the list of vendored modules.
const MAX_MODULE: u64 = 1024 * 1024;

/// Settings of Go builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that compiles; it has `go` and a shell.
    pub builder: String,
    /// The image that the program is put into.
    pub image: String,
}

/// How a module is built.
#[derive(Debug, Clone, Copy)]
struct Module {
    /// It is a program, and not a package to put one around.
    is_program: bool,
    /// It has a `go.mod`.
    described: bool,
    /// It has a `go.sum`.
    summed: bool,
    /// Its modules are vendored.
    vendored: bool,
}

/// The context that builds a source.
///
/// # Errors
/// BUILD_FAILED without a Go file at the root, or with a `go.mod` that names no module.
pub fn context(source: Source, settings: &Settings) -> Result<Context, Failure> {
    let files: Vec<&str> = code(&source).collect();
    if files.is_empty() {
        return Err(failed(
            "there is no Go file at the root of the code; add main.go with `package main` and `func main() { ignite.Start(handler) }`",
        ));
    }
    let name = match source.bounded(MODULE, MAX_MODULE).map_err(failed)? {
        Some(text) => module(&String::from_utf8_lossy(&text))
            .ok_or_else(|| failed("go.mod has no line `module NAME`"))?,
        None => UNNAMED.to_owned(),
    };
    let is_program = |file: &&str| {
        let text = source.begin(file, clause::MOST).unwrap_or_default();
        clause::is_program(&String::from_utf8_lossy(&text))
    };
    let module = Module {
        is_program: files.iter().any(is_program),
        described: source.has_file(MODULE),
        summed: source.has_file(SUMS),
        vendored: source.has_file(VENDOR),
    };
    if module.is_program && name == "ignite" {
        return Err(failed(
            "go.mod calls the code's module ignite, which is the platform's; give it another name",
        ));
    }
    let vendored = source.bounded(VENDOR, MAX_MODULE).map_err(failed)?;
    let mut context = Context::empty(source, "Dockerfile");
    context.has_stages = true;
    place_all(&mut context, "app");
    if module.fetches() {
        for list in [MODULE, SUMS] {
            context.place(list, &format!("lists/{list}"));
        }
    }
    if module.is_program {
        add_sdk(&mut context, vendored);
    } else {
        let program = PROGRAM.replacen("\"MODULE\"", &format!("{name:?}"), 1);
        let server = SERVER.replacen("package ignite", "package main", 1);
        context.add("program/main.go", program, false);
        context.add("program/server.go", server, false);
    }
    context.add("Dockerfile", dockerfile(settings, module), false);
    Ok(context)
}

/// The files at the root that are compiled into the module.
fn code(source: &Source) -> impl Iterator<Item = &str> {
    let is_code = |(path, entry): &(&String, &Entry)| {
        let is_go = path.ends_with(".go") && !path.ends_with("_test.go");
        is_go && !path.contains('/') && **entry != Entry::Dir
    };
    let entries = source.entries().iter().filter(is_code);
    entries.map(|(path, _)| path.as_str())
}

/// Adds the module that programs import, also to vendored ones.
fn add_sdk(context: &mut Context, vendored: Option<Vec<u8>>) {
    for (file, text) in SDK {
        context.add(&format!("sdk/{file}"), text, false);
    }
    if let Some(mut list) = vendored {
        if !list.ends_with(b"\n") {
            list.push(b'\n');
        }
        list.extend_from_slice(VENDORED.as_bytes());
        context.add(&format!("app/{VENDOR}"), list, false);
        for (file, text) in SDK.into_iter().filter(|(file, _)| file.ends_with(".go")) {
            context.add(&format!("app/vendor/ignite/{file}"), text, false);
        }
    }
}

impl Module {
    /// Whether its requirements are fetched in a separate step.
    fn fetches(self) -> bool {
        self.described && self.summed && !self.vendored
    }
}

/// The name in a `go.mod`.
fn module(text: &str) -> Option<String> {
    let name = text.lines().find_map(|line| {
        let name = line.trim().strip_prefix("module")?;
        name.starts_with([' ', '\t']).then_some(name)
    })?;
    let name = name.split("//").next()?.trim().trim_matches(['"', '`']);
    let is_path = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    (!name.is_empty() && name.chars().all(is_path)).then(|| name.to_owned())
}

fn dockerfile(settings: &Settings, module: Module) -> String {
    let mut lines = vec![
        format!("FROM {} AS build", settings.builder),
        "USER 0:0".to_owned(),
        // Without cgo the program is linked statically, and runs on an empty image.
        "ENV CGO_ENABLED=0".to_owned(),
        "WORKDIR /src".to_owned(),
        format!("RUN go build -trimpath {STANDARD}"),
    ];
    let require = if module.is_program {
        lines.push("COPY sdk/ /opt/ignite/sdk/".to_owned());
        format!("{REQUIRE} && ")
    } else {
        String::new()
    };
    if module.fetches() {
        lines.push("COPY lists/ /src/".to_owned());
        lines.push(format!("RUN {require}go mod download"));
    }
    lines.push(label_stage());
    lines.push("COPY app/ /src/".to_owned());
    let package = if module.is_program {
        ".".to_owned()
    } else {
        lines.push(format!("COPY program/ /src/{PROGRAM_AT}/"));
        format!("./{PROGRAM_AT}")
    };
    // The builder writes it, so that it has the builder's version of the language.
    let init = if module.described {
        String::new()
    } else {
        format!("go mod init {UNNAMED} && ")
    };
    // Requirements that are not written down are found now, as `go mod tidy` would find them.
    let find = if module.vendored || module.described && module.summed {
        ""
    } else {
        "-mod=mod "
    };
    lines.extend([
        format!(
            "RUN {init}{require}go build {find}-trimpath -ldflags=-s -o /out/handler {package}"
        ),
        format!("FROM {}", settings.image),
        "COPY --from=build /out/handler /opt/ignite/handler".to_owned(),
        format!("USER {USER}"),
        r#"ENTRYPOINT ["/opt/ignite/handler"]"#.to_owned(),
        "CMD []".to_owned(),
    ]);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builder::limits::tests::LIMITS, model::work::NEVER};

    #[test]
    fn a_modules_name_is_read_as_go_reads_it() {
        for (text, name) in [
            ("module example.com/a\n\ngo 1.22\n", "example.com/a"),
            ("// a comment\nmodule \"a\" // b\n", "a"),
            ("\tmodule\ta-b/v2", "a-b/v2"),
        ] {
            assert_eq!(module(text).as_deref(), Some(name), "{text}");
        }
        for none in ["", "go 1.22", "modules a", "module", "module a\"b"] {
            assert_eq!(module(none), None, "{none}");
        }
    }

    /// The Dockerfile for files, and how many files of the module `ignite` come with the code.
    fn made(files: &[(&str, &str)]) -> Result<(String, usize), Failure> {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let source = Source::scan(root, std::path::Path::new(""), LIMITS, NEVER).expect("a tree");
        let settings = Settings {
            builder: "builder:1".into(),
            image: "image:1".into(),
        };
        let mut packed = Vec::new();
        context(source, &settings)?
            .pack(&mut packed, NEVER)
            .expect("packed");
        let mut archive = tar::Archive::new(&packed[..]);
        let (mut dockerfile, mut vendored) = (String::new(), 0);
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            if path == "Dockerfile" {
                std::io::Read::read_to_string(&mut entry, &mut dockerfile).expect("text");
            }
            vendored += usize::from(path.starts_with("app/vendor/ignite/"));
        }
        Ok((dockerfile, vendored))
    }

    #[test]
    fn a_program_gets_the_module_and_a_package_gets_a_program() {
        let program = ("main.go", "package main\n");
        let package = ("handler.go", "package handler\n");
        let module = ("go.mod", "module a\n");
        for (files, requires, builds) in [
            (&[program][..], 1, "go mod init handler && go mod edit"),
            (
                &[program, module],
                1,
                "go build -mod=mod -trimpath -ldflags=-s -o /out/handler .",
            ),
            (&[program, module, ("go.sum", "")], 2, "go mod download"),
            (&[package], 0, "go mod init handler && go build"),
            (&[package, module], 0, "-o /out/handler ./ignite_server"),
            // A test of a program, or a tool beside the package, makes it none.
            (
                &[package, ("a_test.go", "package main\n")],
                0,
                "./ignite_server",
            ),
            (
                &[package, ("gen.go", "//go:build ignore\n\npackage main\n")],
                0,
                "./ignite_server",
            ),
        ] {
            let (dockerfile, vendored) = made(files).expect("made");
            assert_eq!(
                dockerfile.matches(REQUIRE).count(),
                requires,
                "{dockerfile}"
            );
            assert!(dockerfile.contains(builds), "no {builds:?} in {dockerfile}");
            assert_eq!(vendored, 0);
        }
        let vendor = ("vendor/modules.txt", "# x v1.0.0\n## explicit\nx");
        let (dockerfile, vendored) = made(&[program, module, vendor]).expect("made");
        assert_eq!(vendored, 2, "the module's two files");
        assert!(!dockerfile.contains("-mod=mod"), "{dockerfile}");
        for none in [
            &[][..],
            &[("more/main.go", "package main\n")],
            &[program, ("go.mod", "go 1.22\n")],
            &[program, ("go.mod", "module ignite\n")],
        ] {
            assert!(made(none).is_err(), "{none:?}");
        }
    }
}
