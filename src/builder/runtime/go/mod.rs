//! Go: a package with `func Handler(w http.ResponseWriter, r *http.Request)` and the platform's own
//! program (`main.go`) around it.
//!
//! The program is one more package of the code's own module, so the code's requirements resolve as
//! usual. Modules are fetched in a separate step, which runs again when `go.mod` or `go.sum` has
//! changed.

use super::{USER, failed, label_stage, place_all};
use crate::{
    builder::{Context, Source},
    model::Failure,
};

/// The program that a container runs.
const PROGRAM: &str = include_str!("main.go");
/// The packages of the standard library that the program needs: compiled once for all builds.
const STANDARD: &str = "encoding/json log net/http os/signal";
/// The folder of the program in the code's module.
const AT: &str = "ignite_server";
/// The file that describes the module.
const MODULE: &str = "go.mod";
/// The name of a module whose code has no `go.mod`.
const UNNAMED: &str = "handler";
/// Most bytes of a `go.mod`.
const MAX_MODULE: u64 = 1024 * 1024;

/// Settings of Go builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that compiles; it has `go` and a shell.
    pub builder: String,
    /// The image that the program is put into.
    pub image: String,
}

/// The context that builds a source.
///
/// # Errors
/// BUILD_FAILED without a Go file at the root, or with a `go.mod` that names no module.
pub fn context(source: Source, settings: &Settings) -> Result<Context, Failure> {
    let at_root = |path: &&String| path.ends_with(".go") && !path.contains('/');
    if !source.entries().keys().any(|path| at_root(&path)) {
        return Err(failed(
            "there is no Go file at the root of the code; add handler.go with `func Handler(w http.ResponseWriter, r *http.Request)`",
        ));
    }
    let module = match source.bounded(MODULE, MAX_MODULE).map_err(failed)? {
        Some(text) => module(&String::from_utf8_lossy(&text))
            .ok_or_else(|| failed("go.mod has no line `module NAME`"))?,
        None => UNNAMED.to_owned(),
    };
    let described = source.has_file(MODULE);
    let has_modules =
        described && source.has_file("go.sum") && !source.has_file("vendor/modules.txt");
    let mut context = Context::empty(source, "Dockerfile");
    context.has_stages = true;
    place_all(&mut context, "app");
    if has_modules {
        for list in [MODULE, "go.sum"] {
            context.place(list, &format!("lists/{list}"));
        }
    }
    let program = PROGRAM.replacen("\"MODULE\"", &format!("{module:?}"), 1);
    context.add("main.go", program, false);
    context.add(
        "Dockerfile",
        dockerfile(settings, described, has_modules),
        false,
    );
    Ok(context)
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

fn dockerfile(settings: &Settings, described: bool, has_modules: bool) -> String {
    let modules = if has_modules {
        "COPY lists/ /src/\nRUN go mod download\n"
    } else {
        ""
    };
    // The builder writes it, so that it has the builder's version of the language.
    let describe = if described {
        String::new()
    } else {
        format!("go mod init {UNNAMED} && ")
    };
    // Without cgo the program is linked statically, and runs on an empty image.
    format!(
        r#"FROM {builder} AS build
USER 0:0
ENV CGO_ENABLED=0
WORKDIR /src
RUN go build -trimpath {STANDARD}
{modules}{stage}
COPY app/ /src/
COPY main.go /src/{AT}/main.go
RUN {describe}go build -trimpath -ldflags=-s -o /out/handler ./{AT}
FROM {image}
COPY --from=build /out/handler /opt/ignite/handler
USER {USER}
ENTRYPOINT ["/opt/ignite/handler"]
CMD []
"#,
        builder = settings.builder,
        stage = label_stage(),
        image = settings.image,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
