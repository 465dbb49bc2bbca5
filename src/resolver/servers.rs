//! The machine's name servers, read again when the file that names them has changed.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The files with this machine's name servers. The second one is of systemd's resolver, which is
/// what the first one then names.
const RESOLV_CONFS: [&str; 2] = [RESOLV_CONF, "/run/systemd/resolve/resolv.conf"];
/// The file that every program reads.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The port of name servers.
const DNS: u16 = 53;
/// As many as C libraries ask.
const MOST: usize = 3;
/// Longest time for which a change of the file goes unnoticed.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The servers.
pub(super) enum Servers {
    /// These, whatever the machine uses.
    Fixed(Arc<[SocketAddr]>),
    /// Those that a file names.
    OfFile(PathBuf, Mutex<Known>),
}

/// What was read of the file.
pub(super) struct Known {
    checked: Instant,
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
}

/// Shows whether a file has changed.
type Stamp = (SystemTime, u64);

impl Servers {
    pub(super) fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self::Fixed(servers.into())
    }

    pub(super) fn of_file(path: PathBuf) -> Self {
        let known = Known {
            checked: Instant::now(),
            stamp: stamp(&path),
            servers: read(&path).into(),
        };
        Self::OfFile(path, Mutex::new(known))
    }

    /// The servers as they are now. At most every few seconds this looks at the file.
    pub(super) fn now(&self) -> Arc<[SocketAddr]> {
        let (path, known) = match self {
            Self::Fixed(servers) => return servers.clone(),
            Self::OfFile(path, known) => (path, known),
        };
        let mut known = known.lock();
        if known.checked.elapsed() >= CHECK_EVERY {
            known.checked = Instant::now();
            let stamp = stamp(path);
            // A file that is being replaced leaves what it was.
            if stamp.is_some() && stamp != known.stamp {
                known.stamp = stamp;
                known.servers = read(path).into();
                tracing::info!(servers = ?known.servers, "The machine's name servers have changed");
            }
        }
        known.servers.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Vec<SocketAddr> {
    parse(&fs::read_to_string(path).unwrap_or_default())
}

/// The machine's servers that containers reach by themselves, as far as the kernel's rules let them:
/// those that are not on its loopback. Where a local resolver stands before them, it says in a file
/// of its own which they are.
pub fn beyond_loopback() -> Vec<Ipv4Addr> {
    let outer = |path: &str| {
        let servers = read(Path::new(path)).into_iter().map(|server| server.ip());
        let servers = servers.filter_map(|address| match address {
            IpAddr::V4(address) if !address.is_loopback() => Some(address),
            _ => None,
        });
        servers.collect::<Vec<_>>()
    };
    let found = RESOLV_CONFS
        .into_iter()
        .map(outer)
        .find(|all| !all.is_empty());
    found.unwrap_or_default()
}

/// The servers in the text of a `resolv.conf`; those with a zone are left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines();
    let addresses = lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        address.parse::<IpAddr>().ok()
    });
    let servers = addresses.map(|address| SocketAddr::new(address, DNS));
    servers.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# x\nnameserver 10.0.0.2\n nameserver\tfd00::1 # y\nsearch a.b\nnameserver fe80::1%eth0\nnameserver\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        let servers = parse(text);
        let shown: Vec<_> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.2:53", "[fd00::1]:53", "10.0.0.3:53"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_and_a_missing_one_changes_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "nameserver 10.0.0.2\n").expect("written");
        let servers = Servers::of_file(file.path().to_owned());
        let now = || {
            servers
                .now()
                .iter()
                .map(|s| s.ip().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(now(), ["10.0.0.2"]);
        fs::write(file.path(), "nameserver 10.0.0.3\nnameserver 10.0.0.4\n").expect("written");
        tokio::time::advance(CHECK_EVERY).await;
        assert_eq!(now(), ["10.0.0.3", "10.0.0.4"]);
        fs::remove_file(file.path()).expect("removed");
        tokio::time::advance(CHECK_EVERY).await;
        assert_eq!(now(), ["10.0.0.3", "10.0.0.4"]);
    }
}
