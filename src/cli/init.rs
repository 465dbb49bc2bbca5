//! `ignite init`: what a folder without a Dockerfile is, and a Dockerfile for it.
//!
//! Nothing has to be written: `deploy` and `dev` build from the same template. A written one is the
//! owner's from then on.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::{
    Error,
    context::Global,
    failure::note,
    output,
    template::{self, Bases, Detected, Template},
};
use crate::model::{code::DEFAULT_DOCKERFILE, ignorefile};

/// Which folder, and what to do.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Print the Dockerfile.
    #[arg(long)]
    show: bool,
    /// Write the Dockerfile, and a .dockerignore where there is none.
    #[arg(long, conflicts_with = "show")]
    write: bool,
    #[command(flatten)]
    bases: Bases,
}

/// Says what the folder is; shows or writes the Dockerfile.
pub(super) fn run(args: Args, global: &Global) -> Result<(), Error> {
    let format = global.output.unwrap_or_default();
    let folder = args.folder.display();
    let own = args.folder.join(DEFAULT_DOCKERFILE);
    // Also where the template is to be made on another base.
    if args.write && own.exists() {
        return Err(Error::Usage(format!(
            "{} exists and is not overwritten; remove it first, or see the template with --show",
            own.display()
        )));
    }
    let found = template::detect(&args.folder, &args.bases).map_err(Error::Usage)?;
    let made = match found {
        Detected::Template(made) => made,
        Detected::Dockerfile => {
            note(&format!(
                "{folder} has a Dockerfile, which `ignite app deploy` and `ignite dev` build"
            ));
            return printed(format, &json!({ "found": "dockerfile" }), "Dockerfile");
        }
        Detected::Handler(why) => {
            note(&format!(
                "{folder} is a handler ({why}): the server puts an HTTP server around it and needs no Dockerfile"
            ));
            return printed(
                format,
                &json!({ "found": "handler", "why": why }),
                "handler",
            );
        }
    };
    if args.write {
        write(&args, &made)?;
    }
    if format.is_structured() {
        return format.print_value(&json!({
            "found": made.kind.option(),
            "why": made.why,
            "base": made.base,
            "dockerfile": made.dockerfile,
        }));
    }
    if args.show {
        return output::line(made.dockerfile.trim_end());
    }
    output::columns(output::rows(&[
        ("found", made.kind.name().to_owned()),
        ("why", made.why.clone()),
        ("base", made.base.clone()),
    ]))?;
    note(if args.write {
        "Dockerfile is yours now; `ignite dev` builds it on each change"
    } else {
        "`ignite dev` builds it and keeps it live; --show prints its Dockerfile, --write writes it"
    });
    Ok(())
}

fn printed(format: output::Format, value: &serde_json::Value, word: &str) -> Result<(), Error> {
    if format.is_structured() {
        format.print_value(value)
    } else {
        output::line(word)
    }
}

fn write(args: &Args, made: &Template) -> Result<(), Error> {
    for (name, text) in [
        (DEFAULT_DOCKERFILE, made.dockerfile.as_str()),
        (ignorefile::NAME, template::IGNORED),
    ] {
        let path = args.folder.join(name);
        if name == ignorefile::NAME && path.exists() {
            continue;
        }
        // Another process may have made it meanwhile.
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        note(&format!("Wrote {}", path.display()));
    }
    Ok(())
}
