//! Programs that the platform runs, each killed together with those that it starts.

use std::io;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A program and those that it starts, unless they leave its process group. Dropping this before
/// the program has been waited for kills all of them.
#[derive(Debug)]
pub(crate) struct ProcessGroup(pub(crate) Child);

impl ProcessGroup {
    /// Starts a program in a new process group.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map(Self)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // A reaped program has no id any more, which may be another's by now.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // The group may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}
