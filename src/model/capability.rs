//! The kernel capabilities that an app's processes may have, such as changing the owner of files.

use std::{fmt, str::FromStr};

/// Every capability in the order of the kernel's numbers, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// The capabilities that Docker gives a container by default.
const DOCKERS: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// The word for an empty set.
const NONE: &str = "none";

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The capabilities that Docker gives containers by default.
    pub fn of_docker() -> Self {
        DOCKERS
            .iter()
            .filter_map(|name| Self::named(name).ok())
            .fold(Self::default(), Self::with)
    }

    /// Capabilities that let processes send packets under another container's address, or change
    /// their own.
    pub fn of_links() -> Self {
        ["NET_ADMIN", "NET_RAW"]
            .iter()
            .filter_map(|name| Self::named(name).ok())
            .fold(Self::default(), Self::with)
    }

    /// The capability of this name, in any case, with or without `CAP_`.
    ///
    /// # Errors
    /// A sentence about a name that the kernel does not have.
    pub fn named(name: &str) -> Result<Self, String> {
        let upper = name.trim().to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == short);
        number.map(|number| Self(1 << number)).ok_or_else(|| match short {
            "ALL" => "ALL is not to be had; name those that the app needs, such as CHOWN".to_owned(),
            _ => {
                let shown: String = name.chars().take(40).collect();
                format!("{shown:?} is no capability; write such as CHOWN, SETUID, SETGID or DAC_OVERRIDE")
            }
        })
    }

    /// The union of both sets.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The intersection of both sets.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set without the capabilities of the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in the kernel's order, without `CAP_`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let has = move |number: usize| self.0 & (1 << number) != 0;
        NAMES
            .iter()
            .enumerate()
            .filter(move |(number, _)| has(*number))
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(NONE);
        }
        let names: Vec<_> = self.names().collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Capabilities {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == NONE {
            return Ok(Self::default());
        }
        text.split(',')
            .map(Self::named)
            .try_fold(Self::default(), |all, one| Ok(all.with(one?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_docker_takes_them_and_nothing_else_is() {
        for name in ["CHOWN", "chown", "CAP_CHOWN", " cap_chown "] {
            let found = Capabilities::named(name).expect(name);
            assert_eq!(found.names().collect::<Vec<_>>(), ["CHOWN"]);
        }
        assert!(
            Capabilities::named("ALL")
                .expect_err("all")
                .contains("not to be had")
        );
        for bad in ["", "CAP_", "ROOT", &"x".repeat(1000)] {
            assert!(Capabilities::named(bad).expect_err(bad).len() < 200);
        }
    }

    #[test]
    fn a_set_reads_as_it_is_written() {
        let docker = Capabilities::of_docker();
        assert_eq!(docker.names().count(), DOCKERS.len());
        assert_eq!(Capabilities::of_links().to_string(), "NET_ADMIN,NET_RAW");
        for set in [docker, Capabilities::default(), Capabilities(1 << 40)] {
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        let two: Capabilities = "SETUID,CHOWN".parse().expect("good");
        assert_eq!(two.to_string(), "CHOWN,SETUID");
        assert_eq!(two.without(docker), Capabilities::default());
        assert_eq!(two.within(Capabilities(1)).to_string(), "CHOWN");
        assert!("CHOWN,".parse::<Capabilities>().is_err());
    }
}
