//! How the first process of a replica is run.

/// Whether a small init, which reaps orphans and forwards signals, is the first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Init {
    /// If the image's program is not an init itself, and never on a strict platform.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: the image's program is the first process.
    Off,
}

impl Init {
    /// Whether a replica runs under an init. `brings_own` is whether its image's program is one;
    /// `None` when the image was not inspected, as for versions of earlier releases.
    pub fn applies(self, brings_own: Option<bool>, strict: bool) -> bool {
        match self {
            _ if strict => false,
            Init::Auto => brings_own == Some(false),
            Init::On => true,
            Init::Off => false,
        }
    }
}

/// Programs that are meant to be the first process, by file name.
const INITS: [&str; 14] = [
    "catatonit",
    "docker-init",
    "dumb-init",
    "init",
    "my_init",
    "openrc-init",
    "pid1",
    "podman-init",
    "runit-init",
    "runsvdir",
    "s6-svscan",
    "systemd",
    "tini",
    "tini-static",
];

/// Whether the program at this path is an init.
pub fn is_init(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    INITS.contains(&name)
}

/// Whether a log says that a process or thread could not be created.
pub fn speaks_of_pids_limit(log: &str) -> bool {
    let log = log.to_ascii_lowercase();
    [
        // The kernel's words, as most programs print them.
        "resource temporarily unavailable",
        "can't start new thread",
        "pthread_create failed",
        "unable to create native thread",
        "cannot fork",
        "can't fork",
    ]
    .iter()
    .any(|words| log.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_known_by_its_name_wherever_it_is() {
        for init in [
            "/init",
            "/sbin/init",
            "/usr/bin/tini",
            "tini",
            "/lib/systemd/systemd",
        ] {
            assert!(is_init(init), "{init}");
        }
        for other in ["", "/app/initialize", "/usr/bin/python3", "/init/app"] {
            assert!(!is_init(other), "{other}");
        }
    }

    #[test]
    fn an_init_is_for_programs_that_are_none_and_never_for_a_strict_platform() {
        for (init, brings_own, applies) in [
            (Init::Auto, Some(false), true),
            (Init::Auto, Some(true), false),
            (Init::Auto, None, false),
            (Init::On, Some(true), true),
            (Init::Off, Some(false), false),
        ] {
            assert_eq!(init.applies(brings_own, false), applies, "{init:?}");
            assert!(!init.applies(brings_own, true), "{init:?}");
        }
    }
}
