//! Remedies that the last lines of a replica's log suggest to its owner.

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
        // Messages of the engine's init, which runs between the engine and the program.
        (
            init_says(&lower, "no such file or directory"),
            "the image has no such program (nor, for a script, its interpreter): set the entry point to one that it has, without a shell where it has none, or use a base image that has it",
        ),
        (
            init_says(&lower, "exec format error"),
            "the program is made for another processor, or is a script without `#!` in its first line",
        ),
        (
            init_says(&lower, "permission denied"),
            "the program may not be executed by the image's user: give it the execute bit (`chmod +x`)",
        ),
        (
            process::speaks_of_pids_limit(log),
            "it could not make another process or thread: it may have reached its limit of them (pids_limit)",
        ),
    ];
    let fitting = known.into_iter().filter(|(fits, _)| *fits);
    fitting.map(|(_, remedy)| format!("\n{remedy}")).collect()
}

/// Whether the engine's init reports that it could not execute the program for this reason.
fn init_says(lower: &str, why: &str) -> bool {
    let mut lines = lower.lines();
    lines.any(|l| l.contains("tini") && l.contains("exec ") && l.contains(why))
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
            (
                "[FATAL tini (7)] exec /bin/sh failed: No such file or directory",
                "has no such program",
            ),
            (
                "[FATAL tini (7)] exec /app failed: Exec format error",
                "another processor",
            ),
            (
                "[FATAL tini (7)] exec /app failed: Permission denied",
                "chmod +x",
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
        assert_eq!(of("open /etc/app.conf: No such file or directory"), "");
    }
}
