//! Managed runtimes: from a handler's source to a build context.
//!
//! Each has a builder image, a recipe that becomes a Dockerfile, and a server around the handler.
//! The Dockerfiles go from what never changes to what changes with every deploy, so that the engine
//! reuses all but the last steps when only code has changed.

pub mod deno;
pub mod go;
pub mod python;
pub mod rust;

use super::{Context, Entry, Source, context::STAGE_ARG, failure::failed};
use crate::{
    engine::STAGE,
    model::{Failure, code::Runtime},
};

/// The settings of each runtime's builds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Python.
    pub python: python::Settings,
    /// Deno.
    pub deno: deno::Settings,
    /// Rust.
    pub rust: rust::Settings,
    /// Go.
    pub go: go::Settings,
}

/// The user of the container: numeric, as the platform demands, and without an entry in the image.
const USER: &str = "65532:65532";

/// The steps that label everything after them in a stage. Steps before them stay in the cache
/// between builds.
fn label_stage() -> String {
    format!("ARG {STAGE_ARG}\nLABEL {STAGE}=${STAGE_ARG}")
}

/// The context that builds a handler into an image with an HTTP server around it.
///
/// # Errors
/// BUILD_FAILED when the source does not fit the runtime.
pub fn context(runtime: &Runtime, source: Source, settings: &Settings) -> Result<Context, Failure> {
    let mut context = match runtime {
        Runtime::Python => python::context(source, &settings.python),
        Runtime::Rust { target, toolchain } => {
            rust::context(source, &settings.rust, target, toolchain)
        }
        Runtime::Go => go::context(source, &settings.go),
        Runtime::Deno => deno::context(source, &settings.deno),
    }?;
    context.is_managed = true;
    Ok(context)
}

/// The first of these files that the source has at its root.
fn handler<'a>(source: &Source, names: &[&'a str], with: &str) -> Result<&'a str, Failure> {
    let entries = source.entries();
    let is_there = |name: &&&str| {
        matches!(
            entries.get(**name),
            Some(Entry::File { .. } | Entry::Link(_))
        )
    };
    if let Some(name) = names.iter().find(is_there) {
        return Ok(name);
    }
    let name = names.first().copied().unwrap_or_default();
    let below = format!("/{name}");
    let hint = match entries.keys().find(|path| path.ends_with(&below)) {
        Some(path) => format!(
            "there is {path}: send the folder {:?} as the code",
            path.trim_end_matches(&below)
        ),
        None => format!("add one with {with}"),
    };
    Err(failed(format!(
        "there is no {name} at the root of the code; {hint}"
    )))
}

/// Places the whole source below `to`.
fn place_all(context: &mut Context, to: &str) {
    let all: Vec<String> = context.source().entries().keys().cloned().collect();
    for path in &all {
        context.place(path, &format!("{to}/{path}"));
    }
}
