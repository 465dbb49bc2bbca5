//! Code, drafts and builds between the wire and the model.

use bytes::Bytes;

use super::super::proto::v1::{self, code_source::Source, image_source, runtime};
use crate::{
    apps::{Code, DraftView},
    model::{
        BuildArgs, CodeSource, Draft, Failure, ImageSource,
        code::{Compile, FromCode, FromGit, Runtime},
        secret::SecretName,
    },
};

/// Most build arguments of one image.
const MAX_BUILD_ARGS: usize = 128;
/// Most bytes in all names and values of build arguments; they travel in a URL to the engine.
const MAX_BUILD_ARG_BYTES: usize = 16 * 1024;
/// Longest path or reference.
const MAX_TEXT: usize = 512;

/// The code in a request.
///
/// # Errors
/// INVALID_ARGUMENT with the first wrong field.
pub(in crate::api) fn code(code: Option<v1::CodeSource>) -> Result<CodeSource<Bytes>, Failure> {
    match code.and_then(|c| c.source) {
        None => missing("code", "image, compile"),
        Some(Source::Compile(compile)) => Ok(CodeSource::Compile(self::compile(compile)?)),
        Some(Source::Image(image)) => {
            let registry_secret_ref = image.registry_secret_ref;
            secret("code.image.registry_secret_ref", &registry_secret_ref)?;
            Ok(match image.source {
                None => return missing("code.image", "prebuilt, from_code, from_git"),
                Some(image_source::Source::Prebuilt(p)) => {
                    check_reference(&p.image_ref)?;
                    CodeSource::Prebuilt(ImageSource {
                        image_ref: p.image_ref,
                        registry_secret_ref,
                    })
                }
                Some(image_source::Source::FromCode(c)) => {
                    CodeSource::FromCode(from_code(c, registry_secret_ref)?)
                }
                Some(image_source::Source::FromGit(g)) => {
                    CodeSource::FromGit(from_git(g, registry_secret_ref)?)
                }
            })
        }
    }
}

fn missing<T>(field: &str, one_of: &str) -> Result<T, Failure> {
    Err(Failure::field(
        field,
        format!("is missing; give one of {one_of}"),
    ))
}

fn secret(field: &str, name: &str) -> Result<(), Failure> {
    match name {
        "" => Ok(()),
        name => name
            .parse::<SecretName>()
            .map(drop)
            .map_err(|e| Failure::field(field, e.to_string())),
    }
}

fn from_code(
    code: v1::ImageFromCode,
    registry_secret_ref: String,
) -> Result<FromCode<Bytes>, Failure> {
    let at = |name: &str| format!("code.image.from_code.{name}");
    if code.archive.is_empty() {
        return Err(Failure::field(
            at("archive"),
            "is missing; give the folder with its Dockerfile as .zip or .tar.gz",
        ));
    }
    text(&at("dockerfile_path"), &code.dockerfile_path)?;
    let bytes: usize = code.build_args.iter().map(|(k, v)| k.len() + v.len()).sum();
    if code.build_args.len() > MAX_BUILD_ARGS || bytes > MAX_BUILD_ARG_BYTES {
        return Err(Failure::field(
            at("build_args"),
            format!(
                "has {} arguments of {bytes} bytes; the limits are {MAX_BUILD_ARGS} and {MAX_BUILD_ARG_BYTES}",
                code.build_args.len()
            ),
        ));
    }
    let wrong = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
    if let Some(name) = code.build_args.keys().find(wrong) {
        return Err(Failure::field(
            at("build_args"),
            format!(
                "{name:?} cannot be the name of an argument: it is empty, or has '=' or NUL in it"
            ),
        ));
    }
    Ok(FromCode {
        archive: code.archive,
        dockerfile_path: code.dockerfile_path,
        build_args: BuildArgs::Clear(code.build_args.into_iter().collect()),
        registry_secret_ref,
    })
}

fn from_git(git: v1::ImageFromGit, registry_secret_ref: String) -> Result<FromGit, Failure> {
    let at = |name: &str| format!("code.image.from_git.{name}");
    crate::model::code::check_git_url(&git.url).map_err(|why| Failure::field(at("url"), why))?;
    crate::model::code::check_git_ref(&git.r#ref).map_err(|why| Failure::field(at("ref"), why))?;
    text(&at("sub_path"), &git.sub_path)?;
    text(&at("dockerfile_path"), &git.dockerfile_path)?;
    secret(&at("secret_ref"), &git.secret_ref)?;
    Ok(FromGit {
        url: git.url,
        reference: git.r#ref,
        sub_path: git.sub_path,
        dockerfile_path: git.dockerfile_path,
        secret_ref: git.secret_ref,
        registry_secret_ref,
    })
}

fn compile(compile: v1::CompileSource) -> Result<Compile<Bytes>, Failure> {
    let runtime = match compile.runtime.and_then(|r| r.runtime) {
        None => return missing("code.compile.runtime", "python, rust, go, deno"),
        Some(runtime::Runtime::Python(_)) => Runtime::Python,
        Some(runtime::Runtime::Rust(rust)) => self::rust(rust)?,
        Some(runtime::Runtime::Go(_)) => Runtime::Go,
        Some(runtime::Runtime::Deno(_)) => Runtime::Deno,
    };
    if compile.source_code.is_empty() {
        return Err(Failure::field(
            "code.compile.source_code",
            "is missing; give one source file, a .zip or a .tar.gz",
        ));
    }
    Ok(Compile {
        runtime,
        source: compile.source_code,
    })
}

fn rust(rust: v1::RustRuntime) -> Result<Runtime, Failure> {
    use v1::RustCompilationTarget as Target;
    let at = |name: &str| format!("code.compile.runtime.rust.{name}");
    let why = match Target::try_from(rust.target) {
        Ok(Target::Unspecified | Target::Native) => None,
        Ok(Target::Wasm) => Some(
            "RUST_COMPILATION_TARGET_WASM makes a WebAssembly component, and there is nothing here to run one: apps are containers; compile to RUST_COMPILATION_TARGET_NATIVE"
                .to_owned(),
        ),
        Err(_) => Some(format!(
            "{} is no RustCompilationTarget; use RUST_COMPILATION_TARGET_NATIVE, and target_triple for a target of rustup",
            rust.target
        )),
    };
    if let Some(why) = why {
        return Err(Failure::field(at("target"), why));
    }
    for (name, value) in [
        ("target_triple", &rust.target_triple),
        ("toolchain_version", &rust.toolchain_version),
    ] {
        crate::model::code::check_toolchain(value).map_err(|why| Failure::field(at(name), why))?;
    }
    Ok(Runtime::Rust {
        target: rust.target_triple,
        toolchain: rust.toolchain_version,
    })
}

/// A path within a tree: short, relative, not leading up.
fn text(field: &str, path: &str) -> Result<(), Failure> {
    let why = if path.len() > MAX_TEXT {
        format!("is longer than {MAX_TEXT} characters")
    } else if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        format!("{path:?} must be relative to the root of the code and stay below it")
    } else if path.chars().any(char::is_control) {
        format!("{path:?} has control characters in it")
    } else {
        return Ok(());
    };
    Err(Failure::field(field, why))
}

/// Refuses text that cannot be an image reference; the engine and the registry judge the rest.
fn check_reference(reference: &str) -> Result<(), Failure> {
    let wrong = |why: &str| {
        Err(Failure::field(
            "code.image.prebuilt.image_ref",
            format!(
                "{reference:?} {why}; give a reference such as \"registry.example/team/app:1.2\""
            ),
        ))
    };
    if reference.is_empty() {
        return wrong("is empty");
    }
    if reference.len() > MAX_TEXT {
        return wrong("is longer than 512 characters");
    }
    if reference
        .chars()
        .any(|c| c.is_whitespace() || c.is_control())
    {
        return wrong("has white space in it");
    }
    Ok(())
}

/// The kind of this code.
pub(in crate::api) fn kind<B>(source: &CodeSource<B>) -> v1::CodeKind {
    match source {
        CodeSource::Prebuilt(_) => v1::CodeKind::Image,
        CodeSource::FromCode(_) => v1::CodeKind::ImageFromCode,
        CodeSource::FromGit(_) => v1::CodeKind::ImageFromGit,
        CodeSource::Compile(_) => v1::CodeKind::Sdk,
    }
}

/// A draft, with its build when one is running.
pub(in crate::api) fn view_to_wire(view: &DraftView) -> v1::DraftInfo {
    let mut out = draft_to_wire(&view.draft);
    if let Some(id) = view.building {
        out.status = v1::VersionStatus::Compiling.into();
        out.deploy_id = id.to_string();
        out.error.clear();
    }
    out
}

/// A draft as last saved.
pub(in crate::api) fn draft_to_wire(draft: &Draft) -> v1::DraftInfo {
    let mut out = v1::DraftInfo {
        status: v1::VersionStatus::Draft.into(),
        code_hash: draft.source.code_hash(),
        created_at_ms: draft.created_at_ms,
        code_kind: kind(&draft.source).into(),
        ..Default::default()
    };
    if let CodeSource::Prebuilt(image) = &draft.source {
        out.image_ref = image.image_ref.clone();
    }
    if let Some(built) = &draft.built {
        out.deploy_id = built.id.to_string();
        match &built.outcome {
            Ok(image) => {
                out.status = v1::VersionStatus::Ready.into();
                out.image_ref = image.image_ref.clone();
            }
            Err(error) => {
                out.status = v1::VersionStatus::Failed.into();
                out.error = error.message.clone();
            }
        }
    }
    out
}

/// The code as SaveDraft received it.
pub(in crate::api) fn code_to_wire(code: Code) -> v1::CodeSource {
    let image = |source, registry_secret_ref| {
        Source::Image(v1::ImageSource {
            source: Some(source),
            registry_secret_ref,
        })
    };
    let source = match code.source {
        CodeSource::Prebuilt(prebuilt) => image(
            image_source::Source::Prebuilt(v1::PrebuiltImage {
                image_ref: prebuilt.image_ref,
            }),
            prebuilt.registry_secret_ref,
        ),
        CodeSource::FromCode(code) => image(
            image_source::Source::FromCode(v1::ImageFromCode {
                archive: code.archive,
                dockerfile_path: code.dockerfile_path,
                // Sealed arguments are opened before they get here.
                build_args: match code.build_args {
                    BuildArgs::Clear(values) => values.into_iter().collect(),
                    BuildArgs::Sealed(_) => Default::default(),
                },
            }),
            code.registry_secret_ref,
        ),
        CodeSource::FromGit(git) => image(
            image_source::Source::FromGit(v1::ImageFromGit {
                url: git.url,
                r#ref: git.reference,
                sub_path: git.sub_path,
                dockerfile_path: git.dockerfile_path,
                secret_ref: git.secret_ref,
            }),
            git.registry_secret_ref,
        ),
        CodeSource::Compile(compile) => Source::Compile(v1::CompileSource {
            runtime: Some(runtime_to_wire(&compile.runtime)),
            source_code: compile.source,
        }),
    };
    v1::CodeSource {
        source: Some(source),
    }
}

/// A language as the contract has it.
pub(in crate::api) fn runtime_to_wire(runtime: &Runtime) -> v1::Runtime {
    let runtime = match runtime {
        Runtime::Python => runtime::Runtime::Python(v1::PythonRuntime {}),
        Runtime::Rust { target, toolchain } => runtime::Runtime::Rust(v1::RustRuntime {
            target: v1::RustCompilationTarget::Native.into(),
            toolchain_version: toolchain.clone(),
            target_triple: target.clone(),
        }),
        Runtime::Go => runtime::Runtime::Go(v1::GoRuntime {}),
        Runtime::Deno => runtime::Runtime::Deno(v1::DenoRuntime {}),
    };
    v1::Runtime {
        runtime: Some(runtime),
    }
}
