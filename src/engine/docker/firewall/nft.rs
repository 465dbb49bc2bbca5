//! Runs `nft`, which puts rules into the kernel.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command};

use super::Error;

/// A run takes some milliseconds; on a host with very many other rules, a second.
const LIMIT: Duration = Duration::from_secs(30);
/// Where it usually is when it is not on the path, which often has no `sbin` for users but root.
const USUAL: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// The alternative, for every refusal.
const OTHERWISE: &str = "with `--trust sandbox` apps may reach this host, and no rules are needed";

/// Runs a script as one transaction: all of it takes effect, or nothing. Returns its output.
///
/// # Errors
/// Why rules cannot be set, and the remedy.
pub(super) async fn run(script: &str) -> Result<String, Error> {
    let program = find().ok_or_else(|| {
        refused(format!(
            "the program `nft` is not on this machine; install nftables (Debian: `apt-get install nftables`), or {OTHERWISE}"
        ))
    })?;
    let outcome = tokio::time::timeout(LIMIT, feed(&program, script)).await;
    let output = match outcome {
        Ok(Ok(output)) => output,
        Ok(Err(cause)) => {
            return Err(refused(format!(
                "{} cannot be run: {cause}",
                program.display()
            )));
        }
        Err(_) => return Err(refused(format!("nft did not end within {LIMIT:?}"))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|l| !l.is_empty());
    let said = said.take(2).collect::<Vec<_>>().join(": ");
    Err(refused(if said.contains("not permitted") {
        format!(
            "this process may not set rules in the kernel ({said}); run it as root, or give it CAP_NET_ADMIN (AmbientCapabilities=CAP_NET_ADMIN of a systemd service), or {OTHERWISE}"
        )
    } else {
        format!("nft says: {said}")
    }))
}

/// The refusal where rules would not apply to what containers send.
pub(in super::super) fn out_of_reach(why: &str) -> Error {
    refused(format!("{why}; or {OTHERWISE}"))
}

fn refused(why: String) -> Error {
    Error::NotIsolated { why }
}

async fn feed(program: &Path, script: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        // Lists tables without the elements of sets.
        .args(["-t", "-f", "-"])
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it has ended, its exit says why.
        match stdin.write_all(script.as_bytes()).await {
            Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => return Err(cause),
            _ => {}
        }
    }
    child.wait_with_output().await
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = USUAL.map(PathBuf::from);
    let mut places = env::split_paths(&path).chain(usual);
    places.find_map(|dir| Some(dir.join("nft")).filter(|p| p.is_absolute() && p.is_file()))
}
