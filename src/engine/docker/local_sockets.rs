//! The sockets where engines usually listen, and which of them is alive.

use std::path::{Path, PathBuf};

/// The usual sockets of Docker and Podman: system-wide, rootless, and of desktops.
pub(super) fn usual_sockets(set: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let within = |variable: &str, path: &str| Some(Path::new(&set(variable)?).join(path));
    let config = within("XDG_CONFIG_HOME", "colima/default/docker.sock")
        .or_else(|| within("HOME", ".config/colima/default/docker.sock"));
    let sockets = [
        Some(PathBuf::from("/var/run/docker.sock")),
        within("XDG_RUNTIME_DIR", "docker.sock"),
        within("HOME", ".docker/run/docker.sock"),
        within("HOME", ".docker/desktop/docker.sock"),
        within("HOME", ".orbstack/run/docker.sock"),
        within("HOME", ".colima/default/docker.sock"),
        config,
        within("HOME", ".rd/docker.sock"),
        within("XDG_RUNTIME_DIR", "podman/podman.sock"),
        Some("/run/podman/podman.sock".into()),
        within("HOME", ".local/share/containers/podman/machine/podman.sock"),
    ];
    sockets.into_iter().flatten().collect()
}

/// The first socket that accepts a connection; else the first that exists, for its error. Engines
/// leave their sockets behind when they stop, and not every user may open every one.
pub(super) fn choose(sockets: &[PathBuf]) -> Option<&PathBuf> {
    let there = || sockets.iter().filter(|s| s.exists());
    there()
        .find(|s| takes_connections(s))
        .or_else(|| there().next())
}

/// Whether a program listens on a socket that this user may open. Never waits.
fn takes_connections(socket: &Path) -> bool {
    use rustix::{
        io::Errno,
        net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connected = SocketAddrUnix::new(socket).and_then(|address| {
        let end = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&end, &address)
    });
    // Its queue is full, so a program is listening.
    matches!(connected, Ok(()) | Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = ["none", "left", "live"].map(|name| dir.path().join(name));
        // A closed socket leaves its file.
        drop(std::os::unix::net::UnixListener::bind(&paths[1]).expect("bound"));
        assert_eq!(choose(&paths), Some(&paths[1]), "for its error");
        let _listener = std::os::unix::net::UnixListener::bind(&paths[2]).expect("bound");
        assert_eq!(choose(&paths), Some(&paths[2]));
        assert_eq!(choose(&paths[..1]), None);
    }
}
