//! The checks of this machine: its ports, the data directory, and names.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::fs::{Access, access, statvfs};

use super::{Check, PATIENCE};
use crate::{
    config::{Config, Serving},
    server::data_dir as directory,
};

/// Less free disk than this soon runs out: a few images take as much.
const LITTLE_DISK: u64 = 2 << 30;

/// Whether the addresses of the listeners are free, or taken by a server of this data directory.
pub(super) async fn ports(config: &Config) -> Vec<Check> {
    let running = Serving::read(&config.data_dir);
    let ours = |addr: SocketAddr| {
        let urls = running.iter().flat_map(|at| [&at.http, &at.grpc]);
        urls.into_iter()
            .any(|url| url.ends_with(&format!(":{}", addr.port())))
    };
    let wanted = [
        ("http_addr", Some(config.http_addr)),
        ("grpc_addr", Some(config.grpc_addr)),
        ("https_addr", config.https_addr()),
    ];
    let wanted = wanted
        .into_iter()
        .filter_map(|(name, addr)| Some((name, addr?)));
    wanted
        .map(|(name, addr)| match TcpListener::bind(addr) {
            Ok(_) => Check::ok("ports", format!("{name} {addr} is free")),
            Err(e) if e.kind() == ErrorKind::AddrInUse && ours(addr) => {
                Check::ok("ports", format!("{name} {addr} is this server's own"))
            }
            Err(e) => Check::fail(
                "ports",
                format!("{name} {addr} cannot be listened on: {e}"),
                format!("end the program that has it (`ss -ltnp`), or give another {name}"),
            ),
        })
        .collect()
}

/// Whether the data directory can be used, and the space on its volume.
pub(super) fn data_dir(config: &Config) -> Vec<Check> {
    let dir = config.data_dir.as_path();
    let Some(there) = dir.ancestors().find(|path| path.exists()) else {
        let found = format!("{} has no parent that exists", dir.display());
        return vec![Check::fail("data_dir", found, "give another --data-dir")];
    };
    vec![permissions(dir, there), disk(config, there)]
}

fn permissions(dir: &Path, there: &Path) -> Check {
    if let Err(cause) = access(there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        return Check::fail(
            "data_dir",
            format!(
                "{} may not be written by this user: {cause}",
                there.display()
            ),
            "run as its owner, or give another --data-dir",
        );
    }
    if there != dir {
        let found = format!("{} is not there yet and can be made", dir.display());
        return Check::ok("data_dir", found);
    }
    let mode = fs::metadata(dir).map_or(0, |meta| meta.mode() & 0o777);
    if mode & 0o077 != 0 {
        return Check::warn(
            "data_dir",
            format!(
                "{} may be entered by others (mode {mode:o}), and it has the signing key",
                dir.display()
            ),
            format!("chmod 700 {}", dir.display()),
        );
    }
    let who = if directory::is_in_use(dir) {
        "in use by a server"
    } else {
        "not in use"
    };
    Check::ok("data_dir", format!("{} is {who}", dir.display()))
}

fn disk(config: &Config, there: &Path) -> Check {
    let free = match statvfs(there) {
        Ok(of) => of.f_bavail.saturating_mul(of.f_frsize),
        Err(cause) => {
            let found = format!("the free space of {} is unknown: {cause}", there.display());
            return Check::warn("disk", found, "look with `df`");
        }
    };
    let found = format!("{} MB are free at {}", free >> 20, there.display());
    let remedy = "make room; `docker system df` shows what images take";
    if free < config.min_free_disk_bytes {
        Check::fail("disk", found, remedy)
    } else if free < LITTLE_DISK {
        Check::warn("disk", found, remedy)
    } else {
        Check::ok("disk", found)
    }
}

/// Whether programs on this machine find apps by their hosts.
pub(super) async fn name_resolution(config: &Config) -> Check {
    let host = format!("doctor.{}", config.base_domain);
    let asked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), 0)));
    let why = match asked.await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.map(|addr| addr.ip()).collect();
            let local = !config.base_domain.ends_with("localhost");
            if local || found.iter().any(|ip| ip.is_loopback()) {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                let found = found.join(" ");
                return Check::ok("names", format!("{host} is {found}"));
            }
            format!("{host} is not an address of this machine: {found:?}")
        }
        Ok(Err(cause)) => format!("{host} is not resolved: {cause}"),
        Err(_) => format!("resolving {host} takes longer than {PATIENCE:?}"),
    };
    let remedy = if config.base_domain.ends_with("localhost") {
        "browsers and curl answer names below localhost themselves; for other programs use the app's path /_app/{org}/{app}/, send the Host header, or install libnss-myhostname or a resolver that answers *.localhost"
    } else {
        "add a wildcard record for the base domain to your DNS"
    };
    Check::warn("names", why, remedy)
}
