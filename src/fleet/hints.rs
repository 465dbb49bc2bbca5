//! What the last lines of a replica's log suggest that its owner does.

use crate::model::process;

/// A line about the most likely remedy, with a line break before it; empty where none is known.
pub(super) fn of(log: &str) -> &'static str {
    let lower = log.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    if has(&["read-only file system", "erofs"]) {
        "\nthe root file system is read-only, as in the cloud: write to $HOME or /tmp, or set writable_root_fs (`--writable-root`)"
    } else if has(&[
        "only run as pid 1",
        "run as pid 1",
        "must be pid 1",
        "must be the first process",
    ]) {
        "\nthe program wants to be the first process and an init is in its place: set init to off (`--init=off`)"
    } else if process::speaks_of_pids_limit(log) {
        "\nit could not make another process or thread: it may have reached its limit of them (pids_limit)"
    } else {
        ""
    }
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
