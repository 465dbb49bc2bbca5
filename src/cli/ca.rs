//! `ignite ca`: the local certificate authority of a data directory.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;

use super::{Error, context, failure::note, output};
use crate::{
    config::process_env,
    tls::authority::{Authority, certificate_path},
};

/// The name of the certificate in the system's folder.
const INSTALLED: &str = "ignite-local-authority.crt";

/// Where systems keep the authorities that are added to theirs, and what takes them from there.
const STORES: [(&str, &[&str]); 3] = [
    // Debian, Ubuntu, Alpine.
    (
        "/usr/local/share/ca-certificates",
        &["update-ca-certificates"],
    ),
    // Fedora, Red Hat, SUSE's newer ones.
    (
        "/etc/pki/ca-trust/source/anchors",
        &["update-ca-trust", "extract"],
    ),
    // Arch.
    (
        "/etc/ca-certificates/trust-source/anchors",
        &["trust", "extract-compat"],
    ),
];

/// What to do with the authority, which is made when there is none yet.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Have this system trust the authority; where that needs root, fail with what to run.
    Trust(Args),
    /// Print its certificate, in PEM.
    Print(Args),
    /// Print the path of its certificate.
    Path(Args),
}

/// Whose authority.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server's data directory [env: IGNITE_DATA_DIR].
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl Args {
    /// The authority, and where its certificate is.
    fn open(self) -> Result<(Authority, PathBuf), Error> {
        if let Some(named) = &self.data_dir
            && !named.is_dir()
        {
            return Err(Error::Usage(format!(
                "--data-dir {} is no directory; `ignite serve` makes it",
                named.display()
            )));
        }
        let dir = self.data_dir.or_else(|| context::data_dir(&process_env));
        let dir = dir.ok_or_else(|| {
            Error::Usage(
                "neither HOME nor XDG_DATA_HOME is set; name the data directory with --data-dir"
                    .to_owned(),
            )
        })?;
        let authority = Authority::open_or_create(&dir).map_err(|e| Error::Other(e.into()))?;
        Ok((authority, certificate_path(&dir)))
    }
}

/// Runs the command; needs no server.
pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Print(args) => output::line(args.open()?.0.pem().trim_end()),
        Command::Path(args) => output::line(&args.open()?.1.display().to_string()),
        Command::Trust(args) => {
            let (authority, path) = args.open()?;
            trust(authority.pem(), &path).map_err(Error::Other)
        }
    }
}

fn trust(pem: &str, certificate: &Path) -> anyhow::Result<()> {
    let shown = certificate.display();
    if cfg!(target_os = "macos") {
        bail!(
            "only root may change the system's store; run: sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {shown}"
        );
    }
    let store = STORES.iter().find(|(folder, _)| Path::new(folder).is_dir());
    let Some((folder, update)) = store else {
        bail!(
            "this system's store is not known here; add {shown} to its trusted authorities (Debian and Alpine have a store once ca-certificates is installed), or name the file to each client (curl --cacert, SSL_CERT_FILE, NODE_EXTRA_CA_CERTS, REQUESTS_CA_BUNDLE)"
        );
    };
    let installed = Path::new(folder).join(INSTALLED);
    match install(pem, &installed) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => bail!(
            "only root may change the system's store; run: sudo cp {shown} {} && sudo {}",
            installed.display(),
            update.join(" ")
        ),
        Err(e) => return Err(e).with_context(|| format!("cannot write {}", installed.display())),
    }
    let (program, arguments) = update.split_first().context("no command")?;
    let output = Process::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!(
                "{} is written, and {program}, which takes it into the store, cannot be run",
                installed.display()
            )
        })?;
    ensure!(
        output.status.success(),
        "{} is written, and `{}` failed to take it into the store ({}): {}",
        installed.display(),
        update.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    note(&format!(
        "this system now trusts the authority ({}). Browsers and runtimes with a separate store (Firefox, Chromium on Linux, Java, Node, Python's certifi) need {shown} as well",
        installed.display()
    ));
    Ok(())
}

/// Writes a certificate that every user may read, whatever root's umask is.
fn install(pem: &str, at: &Path) -> io::Result<()> {
    fs::write(at, pem)?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o644))
}
