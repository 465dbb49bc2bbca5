//! The steps at which a test can make a write fail, and what a user can do about a failed write.

use std::io;

/// A step of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Writing the rows that undo a change.
    UndoWrite,
    /// Syncing them.
    UndoSync,
    /// Applying a change to the database.
    Apply,
    /// Syncing the database.
    Flush,
    /// Marking a change as complete.
    Clear,
    /// Syncing that mark.
    ClearSync,
    /// Writing a frame to a journal.
    Append,
    /// Syncing it.
    AppendSync,
    /// Cutting a frame off again.
    Cut,
}

/// The faults that a test asked for; outside of tests there are none.
#[derive(Clone, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    script: Option<std::sync::Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>>,
}

impl Faults {
    /// Fails if the test asked for it.
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(super) fn at(&self, step: Step) -> io::Result<()> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return script(step);
        }
        let _ = step;
        Ok(())
    }

    /// Faults that follow a script.
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
