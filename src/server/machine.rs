//! What the kernel reports about this process, and whether another one still runs.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::process::{Pid, test_kill_process};

use crate::model::instance_lease::{Holder, Process};

/// This process as the holder of a data directory.
///
/// # Errors
/// When the directory's metadata cannot be read.
pub(super) fn here(data_dir: &Path) -> io::Result<Holder> {
    let directory = fs::metadata(data_dir)?;
    let pid = std::process::id();
    Ok(Holder {
        boot: boot(),
        pids: process_namespace(),
        pid,
        started: started(pid).unwrap_or(0),
        device: directory.dev(),
        inode: directory.ino(),
        path: data_dir.to_string_lossy().into_owned(),
    })
}

/// Whether a holder's process runs, as far as this process can see.
pub(super) fn process_of(holder: &Holder) -> Process {
    let here = (boot(), process_namespace());
    // Without a boot id or a namespace, the pid may belong to another machine or container.
    if here.0.is_empty() || here.1 == 0 || here != (holder.boot.clone(), holder.pids) {
        return Process::Unknown;
    }
    let Some(pid) = i32::try_from(holder.pid).ok().and_then(Pid::from_raw) else {
        return Process::Unknown;
    };
    // By a signal rather than through `/proc`, which may hide other users' processes (`hidepid`).
    if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return Process::Ended;
    }
    match started(holder.pid) {
        Some(at) if holder.started != 0 && at != holder.started => Process::Ended,
        Some(at) if at == holder.started => Process::Runs,
        // The pid is in use, perhaps by another process.
        _ => Process::Unknown,
    }
}

/// This machine's host name in lower case; empty where the kernel does not say.
pub(super) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim().to_ascii_lowercase()
}

/// The random id of this boot; empty where there is none.
pub(super) fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}

fn process_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino())
}

/// When a process was started, in ticks since the boot. A zombie has ended.
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may have anything in it.
    let mut rest = text.rsplit_once(')')?.1.split_ascii_whitespace();
    // The third field of all is the state, the 22nd the start.
    match rest.next()? {
        "Z" | "X" => Some(u64::MAX),
        _ => rest.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_id_and_from_one_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let us = here(dir.path()).expect("there");
        assert_eq!(process_of(&us), Process::Runs);
        let before = Holder {
            started: us.started + 1,
            ..us.clone()
        };
        assert_eq!(process_of(&before), Process::Ended);
        let rebooted = Holder {
            boot: "another".into(),
            ..us.clone()
        };
        assert_eq!(process_of(&rebooted), Process::Unknown);
        let contained = Holder {
            pids: us.pids + 1,
            ..us.clone()
        };
        assert_eq!(process_of(&contained), Process::Unknown);

        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .expect("it starts");
        let other = Holder {
            pid: child.id(),
            started: started(child.id()).expect("it runs"),
            ..us
        };
        assert_eq!(process_of(&other), Process::Runs);
        child.kill().expect("it runs");
        eventually_ended(&other);
        child.wait().expect("ours");
        assert_eq!(process_of(&other), Process::Ended);
    }

    /// A zombie, which has not been reaped, has ended too.
    fn eventually_ended(holder: &Holder) {
        while process_of(holder) != Process::Ended {
            std::thread::yield_now();
        }
    }
}
