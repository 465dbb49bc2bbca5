//! Rust: `#[ignite::main] async fn handler(req: Request, ctx: Context)` in a library or a program,
//! and the platform's own crate `ignite` that it is written with.
//!
//! The crate is part of the context and replaces any `ignite` in the code's `Cargo.toml`. A library
//! gets a program that calls it (`program.rs`). The code's dependencies are compiled in a separate
//! step, which runs again when `Cargo.toml` or `Cargo.lock` has changed.

use super::{USER, failed, label_stage, place_all};
use crate::{
    builder::{Context, Source},
    model::{Failure, code::check_toolchain},
};

mod manifest;

use manifest::{Manifest, PROGRAM_AT};

/// The crates that handlers are written with.
const CRATES: [(&str, &str); 10] = [
    ("ignite/Cargo.toml", include_str!("ignite/Cargo.toml")),
    ("ignite/src/answer.rs", include_str!("ignite/src/answer.rs")),
    (
        "ignite/src/context.rs",
        include_str!("ignite/src/context.rs"),
    ),
    ("ignite/src/lib.rs", include_str!("ignite/src/lib.rs")),
    (
        "ignite/src/prelude.rs",
        include_str!("ignite/src/prelude.rs"),
    ),
    (
        "ignite/src/request.rs",
        include_str!("ignite/src/request.rs"),
    ),
    ("ignite/src/server.rs", include_str!("ignite/src/server.rs")),
    ("ignite/src/stream.rs", include_str!("ignite/src/stream.rs")),
    ("macros/Cargo.toml", include_str!("macros/Cargo.toml")),
    ("macros/lib.rs", include_str!("macros/lib.rs")),
];
/// The code's manifest and lock file.
const LISTS: [&str; 2] = ["Cargo.toml", "Cargo.lock"];
/// Placeholders for the code while its dependencies are compiled.
const NO_PROGRAM: &str = "fn main() {}\n";
const NO_LIBRARY: &str =
    "pub fn main() -> std::process::ExitCode {\n    std::process::ExitCode::SUCCESS\n}\n";

/// Settings of Rust builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image that compiles; it has `cargo`, a linker and a shell, and `rustup` where another
    /// toolchain or target is requested.
    pub builder: String,
    /// The image that the program is put into; it has the C library that the program is linked to.
    pub image: String,
}

/// The context that builds a source for a target and with a toolchain; an empty name means the
/// builder's own.
///
/// # Errors
/// BUILD_FAILED for a source without a handler, and for names that no toolchain or target has.
pub fn context(
    source: Source,
    settings: &Settings,
    target: &str,
    toolchain: &str,
) -> Result<Context, Failure> {
    for name in [target, toolchain] {
        check_toolchain(name).map_err(failed)?;
    }
    let manifest = Manifest::of(&source)?;
    let mut context = Context::empty(source, "Dockerfile");
    context.has_stages = true;
    place_all(&mut context, "app");
    context.add("app/Cargo.toml", manifest.text.clone(), false);
    for (path, text) in CRATES {
        context.add(&format!("crates/{path}"), text, false);
    }
    if manifest.stands_alone {
        for list in LISTS {
            context.place(list, &format!("lists/{list}"));
        }
        context.add("lists/Cargo.toml", manifest.text.clone(), false);
        let placeholder = match manifest.calls {
            Some(_) => NO_LIBRARY,
            None => NO_PROGRAM,
        };
        context.add(&format!("lists/{}", manifest.begins), placeholder, false);
    }
    if let Some(program) = &manifest.calls {
        for place in ["app", "lists"] {
            context.add(&format!("{place}/{PROGRAM_AT}"), program.clone(), false);
        }
    }
    let text = dockerfile(settings, &manifest, target, toolchain);
    context.add("Dockerfile", text, false);
    Ok(context)
}

fn dockerfile(settings: &Settings, manifest: &Manifest, target: &str, toolchain: &str) -> String {
    let mut lines = vec![
        format!("FROM {} AS build", settings.builder),
        "USER 0:0".to_owned(),
        "ENV CARGO_TERM_COLOR=never CARGO_TARGET_DIR=/out CARGO_PROFILE_RELEASE_STRIP=symbols"
            .to_owned(),
        "WORKDIR /src".to_owned(),
    ];
    if !toolchain.is_empty() {
        lines.push(format!("ENV RUSTUP_TOOLCHAIN={toolchain}"));
        lines.push(format!(
            "RUN cargo --version || rustup toolchain install {toolchain} --profile minimal"
        ));
    }
    let mut made = "/out".to_owned();
    if !target.is_empty() {
        made = format!("/out/{target}");
        lines.push(format!("ENV CARGO_BUILD_TARGET={target}"));
        // The builder's own toolchain is installed, and perhaps not by rustup.
        lines.push(format!(
            r#"RUN [ -d "$(rustc --print sysroot)/lib/rustlib/{target}/lib" ] || rustup target add {target}"#
        ));
    }
    lines.push("COPY crates/ /opt/ignite/".to_owned());
    if manifest.stands_alone {
        lines.push("COPY lists/ /src/".to_owned());
        lines.push("RUN cargo build --release".to_owned());
    }
    let program = &manifest.program;
    lines.extend([
        label_stage(),
        "COPY app/ /src/".to_owned(),
        // Packed files are older than the placeholders compiled in their place.
        format!(
            "RUN touch {} && cargo build --release --bin {program} && cp {made}/release/{program} /out/handler",
            manifest.begins
        ),
        format!("FROM {}", settings.image),
        "COPY --from=build /out/handler /opt/ignite/handler".to_owned(),
        format!("USER {USER}"),
        r#"ENTRYPOINT ["/opt/ignite/handler"]"#.to_owned(),
        "CMD []".to_owned(),
    ]);
    lines.join("\n") + "\n"
}
