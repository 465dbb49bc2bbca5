//! The points at which a write can fail, for tests to fail it there; and what a user can do about it.

use std::io;

/// A step of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Writing what undoes a change.
    UndoWrite,
    /// Syncing it.
    UndoSync,
    /// Applying a change to the database.
    Apply,
    /// Syncing the database.
    Flush,
    /// Noting that a change is whole.
    Clear,
    /// Syncing that note.
    ClearSync,
    /// Writing a frame to a journal.
    Append,
    /// Syncing it.
    AppendSync,
    /// Taking a frame back.
    Cut,
}

/// Faults that a test has asked for; there are none outside of tests.
#[derive(Clone, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    script: Option<std::sync::Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>>,
}

impl Faults {
    /// Fails where a test wants it.
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(super) fn at(&self, step: Step) -> io::Result<()> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script(step);
        }
        let _ = step;
        Ok(())
    }

    /// Faults as the script says.
    #[cfg(test)]
    pub(super) fn scripted(
        script: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Some(std::sync::Arc::new(script)),
        }
    }
}

/// What a user can do about a failed write.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    match code {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            "raise the limit of open files (`ulimit -n`, or LimitNOFILE= of the service) and try again"
        }
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            "free disk space on the data directory's volume and try again"
        }
        Some(rustix::io::Errno::ROFS) => {
            "make the data directory's volume writable, then start ignite again"
        }
        _ => "see the log for the disk's error; when it stays, start ignite again",
    }
}
