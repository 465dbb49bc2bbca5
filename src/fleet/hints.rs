//! What the last lines of a replica's log suggest that its owner does.

use crate::model::process;

/// Lines about the likely remedies, each with a line break before it; empty where none is known.
pub(super) fn of(log: &str) -> String {
    let lower = log.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let known = [
        (
            has(&["read-only file system", "erofs"]),
            "the root file system is read-only, as in the cloud: write to $HOME or /tmp, or set writable_root_fs (`--writable-root`)",
        ),
        (
            has(&["operation not permitted", "eperm"]),
            "a replica has no capabilities, as in the cloud, not even as root: use an image that runs without root, or give it those that it needs (`--writable-root --cap CHOWN --cap SETUID --cap SETGID --cap DAC_OVERRIDE` for one such as stock nginx)",
        ),
        (
            has(&["only run as pid 1", "run as pid 1", "must be pid 1"]),
            "the program wants to be the first process and an init is in its place: set init to off (`--init=off`)",
        ),
        (
            process::speaks_of_pids_limit(log),
            "it could not make another process or thread: it may have reached its limit of them (pids_limit)",
        ),
    ];
    let fitting = known.into_iter().filter(|(fits, _)| *fits);
    fitting.map(|(_, remedy)| format!("\n{remedy}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_the_words() {
        for (log, remedy) in [
            ("open /x: Read-only file system", "--writable-root"),
            (
                "s6-overlay-suexec: fatal: can only run as pid 1",
                "--init=off",
            ),
            ("RuntimeError: can't start new thread", "pids_limit"),
            (
                "sh: fork: retry: Resource temporarily unavailable",
                "pids_limit",
            ),
        ] {
            assert!(of(log).contains(remedy), "{log}");
        }
        assert_eq!(of("it is broken"), "");
    }
}
