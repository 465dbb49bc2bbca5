//! Dockerfiles for folders without one: what the folder's files say it is, and a template for that.
//!
//! Detection reads names at the root of the folder and a few small files, and each finding says
//! why. The templates obey the container contract: a numeric user, `$PORT`, all addresses. A folder
//! that is a handler of a managed runtime is left to the server, which wraps one.
//!
//! | File | Holds |
//! | --- | --- |
//! | `mod.rs` | [`detect`]: which of the candidates a folder is |
//! | `folder.rs` | The view of a folder that detection reads |
//! | `python.rs` | Flask, FastAPI, Django |
//! | `web.rs` | Node, Deno, static files |
//! | `compiled.rs` | Go, Rust |

use std::path::Path;

use clap::ValueEnum;

use self::folder::Files;
use crate::model::code::DEFAULT_DOCKERFILE;

mod compiled;
mod folder;
mod python;
mod web;

/// The user of the container: numeric, and not root.
const USER: &str = "65532:65532";
/// What makes a folder a handler in Python, and where its image has the code.
pub(super) const PYTHON_HANDLER: &str = "handler.py";
pub(super) const HANDLER_CODE: Live = Live { path: "/app" };
/// What a template's image leaves out, where the folder does not say so itself.
pub(super) const IGNORED: &str = "Dockerfile\n.dockerignore\n";

/// What a folder can be without a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Flask,
    #[value(name = "fastapi")]
    FastApi,
    Django,
    Node,
    Deno,
    Go,
    Rust,
    Static,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Flask,
        Kind::FastApi,
        Kind::Django,
        Kind::Node,
        Kind::Deno,
        Kind::Go,
        Kind::Rust,
        Kind::Static,
    ];

    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Flask => "Flask",
            Kind::FastApi => "FastAPI",
            Kind::Django => "Django",
            Kind::Node => "Node",
            Kind::Deno => "Deno",
            Kind::Go => "Go",
            Kind::Rust => "Rust",
            Kind::Static => "static files",
        }
    }

    /// Its name as `--template` takes it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Kind::Flask => "flask",
            Kind::FastApi => "fastapi",
            Kind::Django => "django",
            Kind::Node => "node",
            Kind::Deno => "deno",
            Kind::Go => "go",
            Kind::Rust => "rust",
            Kind::Static => "static",
        }
    }

    /// What is looked for.
    fn signs(self) -> &'static str {
        match self {
            Kind::Flask => {
                "requirements.txt or pyproject.toml with flask, or `Flask(` in a .py file"
            }
            Kind::FastApi => {
                "requirements.txt or pyproject.toml with fastapi, or `FastAPI(` in a .py file"
            }
            Kind::Django => "manage.py",
            Kind::Node => "package.json",
            Kind::Deno => "deno.json, or main.ts",
            Kind::Go => "go.mod, or main.go",
            Kind::Rust => "Cargo.toml",
            Kind::Static => "index.html",
        }
    }

    /// What the folder has for this kind.
    fn find(self, files: &Files<'_>) -> Result<Option<Found>, String> {
        match self {
            Kind::Flask | Kind::FastApi | Kind::Django => python::find(self, files),
            Kind::Node => web::node(files),
            Kind::Deno => web::deno(files),
            Kind::Go => compiled::go(files),
            Kind::Rust => compiled::rust(files),
            // Anything may have a page of its own.
            Kind::Static => Ok(None),
        }
    }
}

/// Images to use instead of the templates' own.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Bases {
    /// What the folder is, where its files leave that open.
    #[arg(long, value_enum, ignore_case = true, value_name = "KIND")]
    template: Option<Kind>,
    /// The image that a template builds on, instead of its own such as python:3.12-slim.
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// The image that a compiled program is put into, instead of the template's own.
    #[arg(long, value_name = "IMAGE")]
    run_base: Option<String>,
}

impl Bases {
    /// Whether one was chosen.
    pub(super) fn are_given(&self) -> bool {
        self.template.is_some() || self.base.is_some() || self.run_base.is_some()
    }

    fn build<'a>(&'a self, own: &'a str) -> &'a str {
        self.base.as_deref().unwrap_or(own)
    }

    fn run<'a>(&'a self, own: &'a str) -> &'a str {
        self.run_base.as_deref().unwrap_or(own)
    }
}

/// What a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detected {
    /// It has a Dockerfile.
    Dockerfile,
    /// A handler, which the server wraps, and why.
    Handler(String),
    /// Something with a template.
    Template(Template),
}

/// A Dockerfile for a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    /// What the folder is.
    pub(super) kind: Kind,
    /// What says so.
    pub(super) why: String,
    /// The first image that it builds on.
    pub(super) base: String,
    /// The Dockerfile's text.
    pub(super) dockerfile: String,
    /// Where the code is, if an interpreter reads it there.
    pub(super) live: Option<Live>,
}

impl Template {
    /// What was found, and what is done about it.
    pub(super) fn sentence(&self) -> String {
        format!(
            "There is no Dockerfile; this is {} ({}). Building on {}; `ignite init --show` prints the Dockerfile, `--write` keeps it",
            self.kind.name(),
            self.why,
            self.base
        )
    }
}

/// Code that an interpreter reads, so that a changed file needs no build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    /// The directory of the image with the code.
    pub(super) path: &'static str,
}

impl Live {
    /// Whether the image is made from a file beyond a copy of it.
    pub(super) fn needs_build(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let lists = [
            "Dockerfile",
            ".dockerignore",
            "pyproject.toml",
            "setup.py",
            "setup.cfg",
            "package.json",
            "package-lock.json",
            "npm-shrinkwrap.json",
            "yarn.lock",
            "pnpm-lock.yaml",
        ];
        lists.contains(&&*name) || name.starts_with("requirements") && name.ends_with(".txt")
    }
}

/// A candidate.
#[derive(Debug)]
enum Found {
    /// A handler, and why.
    Handler(String),
    /// Something with a template, which is made once nothing else is found.
    Program(Program),
}

/// What a template is made of.
#[derive(Debug)]
struct Program {
    why: String,
    /// The image that it builds on.
    base: &'static str,
    /// The rest of the Dockerfile for these images.
    recipe: Recipe,
    live: Option<Live>,
}

#[derive(Debug)]
enum Recipe {
    /// Steps on the base.
    Steps(Vec<String>),
    /// Steps in a first stage, and in a second one on this image.
    Stages {
        build: Vec<String>,
        run: &'static str,
        steps: Vec<String>,
    },
}

impl Program {
    fn template(self, kind: Kind, bases: &Bases) -> Template {
        let base = bases.build(self.base).to_owned();
        let mut lines = vec![format!(
            "# {}: written by `ignite init`; the container contract asks for a numeric user and $PORT.",
            kind.name()
        )];
        let user = format!("USER {USER}");
        let end = |mut steps: Vec<String>| {
            // The command is last.
            steps.insert(steps.len().saturating_sub(1), user);
            steps
        };
        match self.recipe {
            Recipe::Steps(steps) => {
                lines.push(format!("FROM {base}"));
                lines.extend(end(steps));
            }
            Recipe::Stages { build, run, steps } => {
                lines.push(format!("FROM {base} AS build"));
                lines.extend(build);
                lines.push(String::new());
                lines.push(format!("FROM {}", bases.run(run)));
                lines.extend(end(steps));
            }
        }
        Template {
            kind,
            why: self.why,
            base,
            dockerfile: lines.join("\n") + "\n",
            live: self.live,
        }
    }
}

/// What the files of a folder make it.
///
/// # Errors
/// A sentence, when they say nothing or leave a choice: what was looked for, and what to do.
pub(super) fn detect(folder: &Path, bases: &Bases) -> Result<Detected, String> {
    let files = Files::of(folder)?;
    if files.has(DEFAULT_DOCKERFILE) && !bases.are_given() {
        return Ok(Detected::Dockerfile);
    }
    if let Some(kind) = bases.template {
        let found = match kind {
            Kind::Static => web::files(&files),
            kind => kind.find(&files)?,
        };
        return match found {
            Some(Found::Program(program)) => Ok(Detected::Template(program.template(kind, bases))),
            Some(Found::Handler(why)) => Ok(Detected::Handler(why)),
            None => Err(format!(
                "--template {}: {} has none of its signs: {}",
                kind.option(),
                folder.display(),
                kind.signs()
            )),
        };
    }
    if files.has(PYTHON_HANDLER) {
        return Ok(Detected::Handler(PYTHON_HANDLER.to_owned()));
    }
    let (mut found, mut wrong) = (Vec::new(), None);
    for kind in Kind::ALL {
        match kind.find(&files) {
            Ok(Some(candidate)) => found.push((kind, candidate)),
            Ok(None) => {}
            // A package.json for the pages of a project of Django, say.
            Err(why) => drop(wrong.get_or_insert(why)),
        }
    }
    if found.is_empty() && wrong.is_none() {
        let files = web::files(&files);
        found.extend(files.map(|candidate| (Kind::Static, candidate)));
    }
    match (found.len(), wrong) {
        (0, Some(why)) => Err(format!("{} has no Dockerfile; {why}", folder.display())),
        (0, None) => Err(nothing(&files)),
        (1, _) => Ok(match found.remove(0) {
            (_, Found::Handler(why)) => Detected::Handler(why),
            (kind, Found::Program(program)) => Detected::Template(program.template(kind, bases)),
        }),
        _ => Err(several(folder, &found)),
    }
}

fn nothing(files: &Files<'_>) -> String {
    let looked: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| format!("  {}: {}", kind.name(), kind.signs()))
        .collect();
    let below = files.dockerfiles();
    let below = match below.as_slice() {
        [] => String::new(),
        some => format!(
            "; it has {}, which --dockerfile-path names",
            some.join(", ")
        ),
    };
    format!(
        "{} has no Dockerfile, and no file that says what it is{below}. Add a Dockerfile, or name the runtime of a handler with --runtime. Looked for at its root:\n{}",
        files.root().display(),
        looked.join("\n")
    )
}

fn several(folder: &Path, found: &[(Kind, Found)]) -> String {
    let all: Vec<String> = found
        .iter()
        .map(|(kind, candidate)| {
            let (Found::Handler(why) | Found::Program(Program { why, .. })) = candidate;
            format!("{} ({why})", kind.name())
        })
        .collect();
    let options: Vec<&str> = found.iter().map(|(kind, _)| kind.option()).collect();
    format!(
        "{} has no Dockerfile and could be {}: say which with --template {}, or add a Dockerfile",
        folder.display(),
        all.join(" or "),
        options.join("|")
    )
}

/// Quotes a text as one string of JSON, as a command in a Dockerfile has it.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
