//! Go and Rust: compiled in a first stage, alone in a second one.

use toml::{Table, Value};

use super::{Found, Program, Recipe, folder::Files};

const GO: &str = "golang:1.25";
const RUST: &str = "rust:1-slim-bookworm";
/// The Debian that the image of Rust is made of, so that the C library is the same.
const RUST_RUN: &str = "debian:bookworm-slim";

pub(super) fn go(files: &Files<'_>) -> Result<Option<Found>, String> {
    let code: Vec<&str> = files
        .ending(".go")
        .filter(|file| !file.ends_with("_test.go"))
        .collect();
    let has_module = files.has("go.mod");
    if !has_module && code.is_empty() {
        return Ok(None);
    }
    let texts: Vec<String> = code.iter().map(|file| files.text(file)).collect();
    if texts.iter().any(|text| imports_ignite(text)) {
        return Ok(Some(Found::Handler(
            "a .go file imports \"ignite\"".to_owned(),
        )));
    }
    let main = std::iter::zip(&code, &texts).find(|(_, text)| is_main(text));
    let (why, package) = match main {
        Some((file, _)) => (format!("{file} has `func main()`"), ".".to_owned()),
        // `func Handler(w http.ResponseWriter, r *http.Request)`
        None if !code.is_empty() => {
            return Ok(Some(Found::Handler(format!("{} is a package", code[0]))));
        }
        None => {
            let programs = files.folders_in("cmd");
            match programs.as_slice() {
                [one] => (format!("go.mod, and cmd/{one}"), format!("./cmd/{one}")),
                [] => {
                    return Err(
                        "go.mod is there, and no program: neither a .go file beside it with `func main()`, nor a folder in cmd; send the folder with the program, or add a Dockerfile"
                            .to_owned(),
                    );
                }
                several => {
                    return Err(format!(
                        "cmd has the programs {}; add a Dockerfile that builds the right one",
                        several.join(", ")
                    ));
                }
            }
        }
    };
    let mut build = vec![
        // Linked statically, it runs on an empty image.
        "ENV CGO_ENABLED=0".to_owned(),
        "WORKDIR /src".to_owned(),
    ];
    if has_module && files.has("go.sum") {
        build.push("COPY go.mod go.sum ./".to_owned());
        build.push("RUN go mod download".to_owned());
    }
    build.push("COPY . .".to_owned());
    if !has_module {
        build.push("RUN go mod init app && go mod tidy".to_owned());
    }
    build.push(format!("RUN go build -trimpath -o /out/app {package}"));
    Ok(Some(Found::Program(Program {
        why,
        base: GO,
        recipe: Recipe::Stages {
            build,
            run: "scratch",
            steps: vec![
                "COPY --from=build /etc/ssl/certs /etc/ssl/certs".to_owned(),
                "COPY --from=build /out/app /app".to_owned(),
                r#"CMD ["/app"]"#.to_owned(),
            ],
        },
        live: None,
    })))
}

fn is_main(text: &str) -> bool {
    let line = |start: &str| text.lines().any(|line| line.trim_end().starts_with(start));
    line("package main") && line("func main()")
}

fn imports_ignite(text: &str) -> bool {
    let import = |line: &str| {
        let line = line.trim();
        line == "\"ignite\"" || line.starts_with("import") && line.ends_with("\"ignite\"")
    };
    text.lines().any(import)
}

pub(super) fn rust(files: &Files<'_>) -> Result<Option<Found>, String> {
    if !files.has("Cargo.toml") {
        return Ok(None);
    }
    let mains = ["src/main.rs", "main.rs", "src/lib.rs", "lib.rs"];
    if let Some(file) = mains
        .iter()
        .find(|file| files.text(file).contains("ignite::main"))
    {
        return Ok(Some(Found::Handler(format!("{file} has `ignite::main`"))));
    }
    let table: Table = files
        .text("Cargo.toml")
        .parse()
        .map_err(|e| format!("Cargo.toml is not valid: {e}"))?;
    let name = |of: Option<&Value>| {
        let name = of?.get("name")?.as_str()?;
        // It stands in a command of the shell.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        name.chars().all(is_name).then(|| name.to_owned())
    };
    let Some(package) = name(table.get("package")) else {
        return Err(
            "Cargo.toml has no [package]; send the folder of the package that serves, or add a Dockerfile"
                .to_owned(),
        );
    };
    let bins = table.get("bin").and_then(Value::as_array);
    let named: Vec<String> = bins
        .into_iter()
        .flatten()
        .filter_map(|b| name(Some(b)))
        .collect();
    let program = match named.as_slice() {
        [one] => one.clone(),
        [] if files.is_file("src/main.rs") => package,
        [] => {
            return Err(
                "Cargo.toml describes a library without a program; add src/main.rs, or mark a handler with #[ignite::main], or add a Dockerfile"
                    .to_owned(),
            );
        }
        several => {
            return Err(format!(
                "Cargo.toml has the programs {}; add a Dockerfile that builds the right one",
                several.join(", ")
            ));
        }
    };
    let mut build = vec!["WORKDIR /src".to_owned()];
    // Dependencies compile apart from code that is in no unusual place.
    let is_usual = !["bin", "lib", "workspace"]
        .iter()
        .any(|key| table.contains_key(*key))
        && !files.is_file("src/lib.rs")
        && !files.is_file("build.rs");
    if is_usual && files.has("Cargo.lock") {
        build.push("COPY Cargo.toml Cargo.lock ./".to_owned());
        build.push(
            "RUN mkdir src && echo 'fn main() {}' >src/main.rs && cargo build --release --locked && rm -r src"
                .to_owned(),
        );
    }
    build.push("COPY . .".to_owned());
    build.push(format!(
        "RUN touch src/*.rs && cargo build --release --bin {program} && mkdir /out && cp target/release/{program} /out/app"
    ));
    Ok(Some(Found::Program(Program {
        why: format!("Cargo.toml, whose program is {program}"),
        base: RUST,
        recipe: Recipe::Stages {
            build,
            run: RUST_RUN,
            steps: vec![
                "COPY --from=build /out/app /usr/local/bin/app".to_owned(),
                r#"CMD ["/usr/local/bin/app"]"#.to_owned(),
            ],
        },
        live: None,
    })))
}
