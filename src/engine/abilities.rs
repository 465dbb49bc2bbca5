//! What an engine is able to do, as it describes itself.
//!
//! Read once per connection. It decides what is asked for: a limit that the engine cannot set is
//! left out of every request, and said once to the operator and with each deploy to the owner.

use std::fmt;

/// The abilities of an engine that differ between engines and machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// The limits that it sets.
    pub limits: Limits,
    /// Whether it freezes containers.
    pub freezes: bool,
    /// Whether it has an init to run before a container's program.
    pub has_init: bool,
    /// The version of control groups, 1 or 2; `None` where it does not say.
    pub cgroup_version: Option<u8>,
    /// What manages control groups, such as `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// Whether it runs as an ordinary user.
    pub rootless: bool,
    /// What keeps its images and the files of containers, such as `overlay2`.
    pub storage_driver: String,
    /// The names of its runtimes.
    pub runtimes: Vec<String>,
    /// The oldest and the newest version of its API.
    pub api: (String, String),
    /// The version of its API that is spoken with it.
    pub api_used: String,
}

/// The limits that an engine sets on containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of memory.
    pub memory: bool,
    /// Of memory and swap together.
    pub swap: bool,
    /// Of CPU time.
    pub cpu: bool,
    /// Of processes and threads.
    pub pids: bool,
}

impl Limits {
    /// All of them.
    pub const ALL: Self = Self {
        memory: true,
        swap: true,
        cpu: true,
        pids: true,
    };
}

/// An ability that an engine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It sets no limit of memory.
    MemoryLimit,
    /// It sets no limit of CPU time.
    CpuLimit,
    /// It sets no limit of processes and threads.
    PidsLimit,
    /// It freezes no containers.
    Freezer,
}

impl Abilities {
    /// An engine that lacks nothing.
    #[cfg(test)]
    pub fn all() -> Self {
        Self {
            limits: Limits::ALL,
            freezes: true,
            has_init: true,
            cgroup_version: Some(2),
            cgroup_driver: "systemd".into(),
            rootless: false,
            storage_driver: "overlay2".into(),
            runtimes: vec!["runc".into()],
            api: ("1.24".into(), "1.45".into()),
            api_used: "1.45".into(),
        }
    }

    /// What the engine lacks, the gravest first.
    pub fn lacks(&self) -> Vec<Lack> {
        let of = |has: bool, lack| (!has).then_some(lack);
        let all = [
            of(self.limits.memory, Lack::MemoryLimit),
            of(self.limits.pids, Lack::PidsLimit),
            of(self.limits.cpu, Lack::CpuLimit),
            of(self.freezes, Lack::Freezer),
        ];
        all.into_iter().flatten().collect()
    }

    /// What would let it do more.
    pub fn remedy(&self) -> &'static str {
        match (
            self.rootless,
            self.cgroup_driver.as_str(),
            self.cgroup_version,
        ) {
            (true, "none", _) => {
                "a rootless Docker sets limits only under systemd with cgroup version 2 (`docker info` has to say `Cgroup Driver: systemd`)"
            }
            (true, ..) => {
                "delegate the controllers to the user who runs the engine (`Delegate=cpu cpuset io memory pids` for user@.service of systemd) and restart it"
            }
            (false, _, Some(1)) => {
                "mount the controllers of cgroup version 1 (memory, cpu, pids, freezer), or boot with systemd.unified_cgroup_hierarchy=1, and restart the engine"
            }
            (false, ..) => {
                "enable the controllers cpu, memory and pids in the cgroup that the engine runs in (cgroup.subtree_control) and restart it"
            }
        }
    }
}

impl Lack {
    /// Whether organizations that do not trust each other can share an engine that lacks this.
    pub fn endangers_neighbours(self) -> bool {
        match self {
            Self::MemoryLimit | Self::CpuLimit | Self::PidsLimit => true,
            Self::Freezer => false,
        }
    }

    /// Whether it is a limit of an app, which its owner has to know of.
    pub fn is_of_apps(self) -> bool {
        self != Self::Freezer
    }

    /// What is limited or done, as the end of a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::MemoryLimit => "limit the memory of containers",
            Self::CpuLimit => "limit the CPU time of containers",
            Self::PidsLimit => "limit the processes of containers",
            Self::Freezer => "freeze containers",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryLimit => {
                "the container engine cannot limit the memory of containers here, so an app can use all of the machine's"
            }
            Self::CpuLimit => {
                "the container engine cannot limit the CPU time of containers here, so apps share all cores as they come"
            }
            Self::PidsLimit => {
                "the container engine cannot limit the processes of containers here, so an app can use up those of the machine"
            }
            Self::Freezer => {
                "the container engine cannot freeze containers here, so an idle replica is kept as prepared instead of paused, which wakes more slowly"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_said_with_its_remedy() {
        let mut able = Abilities::all();
        assert_eq!(able.lacks(), []);
        able.limits.cpu = false;
        able.limits.memory = false;
        assert_eq!(able.lacks(), [Lack::MemoryLimit, Lack::CpuLimit]);
        assert!(able.remedy().contains("subtree_control"));
        able.rootless = true;
        assert!(able.remedy().contains("Delegate="));
        able.cgroup_driver = "none".into();
        able.freezes = false;
        assert!(able.remedy().contains("systemd"));
        assert_eq!(able.lacks().last(), Some(&Lack::Freezer));
        assert!(!Lack::Freezer.endangers_neighbours() && Lack::PidsLimit.endangers_neighbours());
    }
}
