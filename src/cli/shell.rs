//! `ignite completion` and `ignite man`: what a shell and a manual need to know of the commands.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_complete::Shell;

use super::{Cli, Error, failure::note, output, parse};

/// For which shell.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Where the pages go.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder for the pages, made if it does not exist.
    dir: PathBuf,
}

/// Prints the completions for a shell.
pub(super) fn complete(args: &CompletionArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut parse::spread::<Cli>(),
        "ignite",
        &mut script,
    );
    output::script(&script)
}

/// Writes a page for each command.
pub(super) fn man(args: &ManArgs) -> Result<(), Error> {
    let dir = &args.dir;
    let written = write_pages(dir)
        .with_context(|| format!("the pages cannot be written into {}", dir.display()))?;
    note(&format!(
        "{written} pages are in {}; `man {}/ignite.1` shows the first",
        dir.display(),
        dir.display()
    ));
    Ok(())
}

fn write_pages(dir: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(parse::spread::<Cli>(), dir)?;
    let is_page = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "1");
    Ok(std::fs::read_dir(dir)?.flatten().filter(is_page).count())
}
