//! Freezes containers through their cgroup, without the engine's round trip.
//!
//! The engine's pause and unpause do the same and record it, which takes most of their time. The
//! engine does not notice a direct write: it reports a frozen container as running. The
//! consequences are handled here and in the callers: our own stop and remove thaw first; after a
//! crash the next start thaws what it adopts and what it removes; on cgroup v1 a frozen process
//! does not even react to SIGKILL, so `docker stop` by hand hangs until it is thawed. Therefore
//! `auto` writes cgroups on v2 only.
//!
//! A cgroup is found through the container's first process. It is used only when its path ends in
//! the container's own id, so no mistake about namespaces can freeze anything else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::ContainerId;

/// What freezes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freezer {
    /// The cgroup where that is safe (version 2, writable), else the engine.
    #[default]
    Auto,
    /// The engine.
    Engine,
    /// The cgroup.
    Cgroup,
}

/// Longest time for all processes of a container to stop or to resume; usually under 1 ms.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Where cgroups are mounted; version 2 beside version 1 has a folder of its own.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The cgroup of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    dir: PathBuf,
    v2: bool,
}

/// The path of a container's own cgroup, when a process in the cgroup at `path` is of it.
pub(super) fn own_path<'a>(id: &ContainerId, path: &'a str) -> Option<&'a str> {
    // Below the scope that systemd makes for it, crun makes one more.
    let own = match path.strip_suffix("/container") {
        Some(scope) if scope.ends_with(".scope") => scope,
        _ => path,
    };
    let name = own.rsplit('/').next().unwrap_or_default();
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    let engine = bare.strip_suffix(id.0.as_str())?;
    let named = matches!(engine, "" | "docker-" | "libpod-");
    (named && !path.contains("..")).then_some(own)
}

impl Cgroup {
    /// The cgroup of a container whose first process is `pid`; `None` where it is not visible.
    pub(super) fn find(id: &ContainerId, pid: i64) -> Option<Self> {
        if pid <= 1 {
            return None;
        }
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        ROOTS.iter().find_map(|root| {
            Self::parse(id, &table, Path::new(root)).filter(|cgroup| cgroup.state_file().exists())
        })
    }

    /// From the lines of `/proc/<pid>/cgroup`: `number:controllers:path`.
    fn parse(id: &ContainerId, table: &str, root: &Path) -> Option<Self> {
        let lines = table.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers, path))
        });
        let mut found = None;
        for (controllers, path) in lines {
            let Some(own) = own_path(id, path) else {
                continue;
            };
            let below = own.trim_start_matches('/');
            if controllers.split(',').any(|c| c == "freezer") {
                return Some(Self {
                    dir: root.join("freezer").join(below),
                    v2: false,
                });
            }
            if controllers.is_empty() {
                found = Some(Self {
                    dir: root.join(below),
                    v2: true,
                });
            }
        }
        found
    }

    fn state_file(&self) -> PathBuf {
        self.dir.join(if self.v2 {
            "cgroup.freeze"
        } else {
            "freezer.state"
        })
    }

    /// Whether it still exists.
    pub(super) fn exists(&self) -> bool {
        self.state_file().exists()
    }

    /// Whether the setting and the permissions allow freezing it from here.
    pub(super) fn allowed(&self, freezer: Freezer) -> bool {
        let wanted = match freezer {
            Freezer::Engine => false,
            Freezer::Cgroup => true,
            Freezer::Auto => self.v2,
        };
        wanted
            && fs::OpenOptions::new()
                .write(true)
                .open(self.state_file())
                .is_ok()
    }

    /// Freezes all its processes, and returns once all stand still.
    pub(super) async fn freeze(&self) -> io::Result<()> {
        self.write(if self.v2 { "1" } else { "FROZEN" })?;
        let give_up = Instant::now() + PATIENCE;
        while !self.is_frozen()? {
            if Instant::now() >= give_up {
                self.thaw()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Thaws its processes. This write to the kernel is done inline: handing it to another thread
    /// would take longer than the write does.
    pub(super) fn thaw(&self) -> io::Result<()> {
        self.write(if self.v2 { "0" } else { "THAWED" })
    }

    fn write(&self, state: &str) -> io::Result<()> {
        fs::write(self.state_file(), state)
    }

    pub(super) fn is_frozen(&self) -> io::Result<bool> {
        if self.v2 {
            let events = fs::read_to_string(self.dir.join("cgroup.events"))?;
            return Ok(events.lines().any(|line| line == "frozen 1"));
        }
        Ok(fs::read_to_string(self.state_file())?.trim() == "FROZEN")
    }

    /// Thaws it when it is frozen or freezing.
    pub(super) fn thaw_if_frozen(&self) -> io::Result<()> {
        let state = fs::read_to_string(self.state_file())?;
        if matches!(state.trim(), "0" | "THAWED") {
            Ok(())
        } else {
            self.thaw()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_own_cgroup_is_taken() {
        let id = ContainerId("abc".into());
        let root = Path::new("/r");
        let of = |table: &str| Cgroup::parse(&id, table, root).map(|c| (c.dir, c.v2));
        let v1 = "9:memory:/docker/abc\n4:freezer:/docker/abc\n0::/docker/abc\n";
        assert_eq!(of(v1), Some(("/r/freezer/docker/abc".into(), false)));
        for (path, own) in [
            ("/docker/abc", "/docker/abc"),
            (
                "/system.slice/docker-abc.scope",
                "/system.slice/docker-abc.scope",
            ),
            ("/libpod_parent/libpod-abc", "/libpod_parent/libpod-abc"),
            (
                "/machine.slice/libpod-abc.scope/container",
                "/machine.slice/libpod-abc.scope",
            ),
        ] {
            let dir = PathBuf::from(format!("/r{own}"));
            assert_eq!(of(&format!("0::{path}\n")), Some((dir, true)), "{path}");
        }
        for other in [
            "0::/\n",
            "4:freezer:/\n",
            "4:freezer:/docker/abcd\n",
            "0::/libpod_parent/libpod-abc/sub\n",
            "0::/libpod_parent/libpod-conmon-abc\n",
            "0::/docker/abc/container\n",
            "0::/../abc\n",
            "",
        ] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
