//! The lease that an instance holds on its engine: who owns the identity of a data directory, and
//! whether that process still lives. (A request's lease on a replica is in `fleet/lease.rs`.)
//!
//! A server keeps a *lease* on the engine, an object that it replaces at every beat; its expiry is
//! in the engine's time. So every client of the engine sees which instances live, whatever machine,
//! container or mount namespace they live in. Direct evidence about the holder (its process, its
//! directory's lock) decides sooner. The absence of evidence proves nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A process and the data directory it serves, identified in the kernel's terms.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holder {
    /// The random id of the machine's current boot.
    pub boot: String,
    /// The inode of its process namespace; process ids are meaningful only within it.
    pub pids: u64,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in ticks since boot: distinguishes it from a later process with
    /// the same id.
    pub started: u64,
    /// The device of its data directory.
    pub device: u64,
    /// The inode of its data directory.
    pub inode: u64,
    /// The path of its data directory, as it sees it; bytes that are not UTF-8 are replaced.
    pub path: String,
}

/// The content of a server's lease on the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Random, and different at each start.
    pub token: String,
    /// When it expires, Unix seconds of the engine's clock.
    pub expires_at: i64,
    /// Seconds between two renewals.
    pub beat_secs: u64,
    /// The server has stopped and left its containers running on purpose.
    #[serde(default)]
    pub left: bool,
    /// The server keeps nothing, so its directory is never used again.
    #[serde(default)]
    pub ephemeral: bool,
    /// The server.
    pub holder: Holder,
}

/// The last server of a data directory, as the directory itself remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The identity, for when its own file is damaged.
    pub instance: String,
    /// The token of its lease.
    pub token: String,
    /// The server.
    pub holder: Holder,
}

/// What this machine can see of a holder's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It runs.
    Runs,
    /// It was in this process namespace and has ended.
    Ended,
    /// It is or was invisible from here.
    Unknown,
}

/// What this machine can see of a holder's data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// It exists, and a process holds its lock.
    Held,
    /// It exists, is the one that was served, and its lock is free.
    Free,
    /// It cannot be read, or it may be a different one.
    Unknown,
}

/// Whether an instance lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// It runs.
    Runs(String),
    /// It does not run; its containers were left on purpose.
    Left,
    /// In doubt, for this reason.
    InDoubt(String),
    /// It no longer runs.
    Gone(Proof),
}

/// What proves that an instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its process or its directory was inspected.
    Ended,
    /// Its lease expired this long ago.
    Expired(Duration),
}

impl Holder {
    /// Whether two processes serve, or served, the same directory; a copy is a different one. A
    /// device number may change across a reboot, so then the path must be the same.
    pub fn same_directory(&self, other: &Holder) -> bool {
        let place = if self.boot == other.boot {
            self.device == other.device
        } else {
            self.path == other.path
        };
        place && self.inode == other.inode
    }
}

/// Judges an instance by its leases, each with what is known of its holder, or by its directory
/// when it has none. `now` is the engine's time. An expired lease proves the end only this long
/// `after` its expiry, since engines stop and clocks jump.
pub fn liveness(
    leases: &[(Lease, Process, Directory)],
    directory: Directory,
    now: Option<i64>,
    after: Duration,
) -> Liveness {
    let held = |(_, process, directory): &&(Lease, Process, Directory)| {
        *process == Process::Runs || *directory == Directory::Held
    };
    if let Some((lease, process, _)) = leases.iter().find(held) {
        return Liveness::Runs(match process {
            Process::Runs => format!("its process {} runs", lease.holder.pid),
            _ => "its data directory is in use".to_owned(),
        });
    }
    if directory == Directory::Held {
        return Liveness::Runs("its data directory is in use".to_owned());
    }
    if leases.iter().any(|(lease, ..)| lease.left) {
        return Liveness::Left;
    }
    if leases.is_empty() {
        return match directory {
            Directory::Free => Liveness::Gone(Proof::Ended),
            _ => Liveness::InDoubt(
                "it has no lease: it was stopped, it is of an older ignite, or somebody removed the lease"
                    .to_owned(),
            ),
        };
    }
    let mut proof = Proof::Ended;
    for (lease, process, directory) in leases {
        if *process == Process::Ended || *directory == Directory::Free {
            continue;
        }
        let Some(now) = now else {
            return Liveness::InDoubt("the engine does not say what time it is".to_owned());
        };
        let since = now.saturating_sub(lease.expires_at);
        let Ok(over) = u64::try_from(since).map(Duration::from_secs) else {
            return Liveness::Runs("its lease is valid".to_owned());
        };
        if over < after {
            return Liveness::InDoubt(format!(
                "its lease ran out {} ago",
                humantime::format_duration(over)
            ));
        }
        proof = Proof::Expired(over);
    }
    Liveness::Gone(proof)
}

/// Whether a server may use its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It may.
    Ours,
    /// Undecided: these leases are valid, and their holders are invisible. If one is renewed, its
    /// holder lives.
    Watch(Vec<Lease>),
    /// Another server holds it.
    Taken(Box<Lease>),
}

/// Whether a server that holds its directory's lock may use the identity found there. `record` is
/// the directory's record of the previous run.
pub fn claim(
    ours: &Holder,
    record: Option<&Record>,
    leases: &[(Lease, Process)],
    now: Option<i64>,
) -> Claim {
    let known = record.filter(|r| r.holder.same_directory(ours));
    let mut watch = Vec::new();
    for (lease, process) in leases {
        // The previous run in this very directory; its lock was free, so it has ended.
        let before = known.is_some_and(|r| r.token == lease.token);
        let expired = now.is_some_and(|now| lease.expires_at <= now);
        match process {
            _ if before || lease.left => {}
            Process::Runs => return Claim::Taken(Box::new(lease.clone())),
            Process::Ended => {}
            Process::Unknown if expired => {}
            Process::Unknown => watch.push(lease.clone()),
        }
    }
    if watch.is_empty() {
        Claim::Ours
    } else {
        Claim::Watch(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn holder(boot: &str, device: u64, inode: u64, path: &str) -> Holder {
        Holder {
            boot: boot.into(),
            device,
            inode,
            path: path.into(),
            pid: 7,
            ..Holder::default()
        }
    }

    fn lease(token: &str, expires_at: i64) -> Lease {
        Lease {
            token: token.into(),
            expires_at,
            beat_secs: 15,
            left: false,
            ephemeral: false,
            holder: holder("b", 1, 2, "/data"),
        }
    }

    #[test]
    fn only_what_is_seen_or_long_expired_is_gone() {
        use Directory as D;
        use Process as P;
        let fresh = NOW + 30;
        let stale = NOW - 60;
        let ancient = NOW - 24 * 3600;
        type Sights = [(i64, Process, Directory)];
        let judge = |seen: &Sights, directory, now| {
            let leases: Vec<_> = seen
                .iter()
                .map(|(at, p, d)| (lease("t", *at), *p, *d))
                .collect();
            match liveness(&leases, directory, now, DAY) {
                Liveness::Runs(_) => "runs",
                Liveness::Left => "left",
                Liveness::InDoubt(_) => "in doubt",
                Liveness::Gone(Proof::Ended) => "ended",
                Liveness::Gone(Proof::Expired(_)) => "expired",
            }
        };
        let table: &[(&Sights, Directory, Option<i64>, &str)] = &[
            // Invisible holder: the lease alone decides.
            (
                &[(fresh, P::Unknown, D::Unknown)],
                D::Unknown,
                Some(NOW),
                "runs",
            ),
            (
                &[(stale, P::Unknown, D::Unknown)],
                D::Unknown,
                Some(NOW),
                "in doubt",
            ),
            (
                &[(ancient, P::Unknown, D::Unknown)],
                D::Unknown,
                Some(NOW),
                "expired",
            ),
            (
                &[(ancient, P::Unknown, D::Unknown)],
                D::Unknown,
                None,
                "in doubt",
            ),
            // Visible holder: the evidence decides, whatever the clock says.
            (
                &[(ancient, P::Runs, D::Unknown)],
                D::Unknown,
                Some(NOW),
                "runs",
            ),
            (
                &[(ancient, P::Unknown, D::Held)],
                D::Unknown,
                Some(NOW),
                "runs",
            ),
            (
                &[(ancient, P::Ended, D::Held)],
                D::Unknown,
                Some(NOW),
                "runs",
            ),
            (
                &[(fresh, P::Ended, D::Unknown)],
                D::Unknown,
                Some(NOW),
                "ended",
            ),
            (
                &[(fresh, P::Unknown, D::Free)],
                D::Unknown,
                Some(NOW),
                "ended",
            ),
            (&[(fresh, P::Ended, D::Unknown)], D::Unknown, None, "ended"),
            // Every lease must be expired.
            (
                &[
                    (fresh, P::Ended, D::Unknown),
                    (fresh, P::Unknown, D::Unknown),
                ],
                D::Unknown,
                Some(NOW),
                "runs",
            ),
            (
                &[
                    (fresh, P::Ended, D::Unknown),
                    (stale, P::Unknown, D::Unknown),
                ],
                D::Unknown,
                Some(NOW),
                "in doubt",
            ),
            (
                &[
                    (fresh, P::Ended, D::Unknown),
                    (ancient, P::Unknown, D::Unknown),
                ],
                D::Unknown,
                Some(NOW),
                "expired",
            ),
            // No lease.
            (&[], D::Unknown, Some(NOW), "in doubt"),
            (&[], D::Held, Some(NOW), "runs"),
            (&[], D::Free, Some(NOW), "ended"),
        ];
        for (seen, directory, now, expected) in table {
            assert_eq!(
                judge(seen, *directory, *now),
                *expected,
                "{seen:?} {directory:?} {now:?}"
            );
        }
        let left = Lease {
            left: true,
            ..lease("t", ancient)
        };
        let seen = |process, directory| {
            let seen = [(left.clone(), process, directory)];
            liveness(&seen, D::Unknown, Some(NOW), DAY)
        };
        assert_eq!(seen(P::Ended, D::Free), Liveness::Left);
        assert_eq!(seen(P::Unknown, D::Unknown), Liveness::Left);
    }

    #[test]
    fn an_identity_is_held_by_one_directory_at_a_time() {
        let ours = holder("b", 1, 2, "/data");
        let record = |holder: Holder| Record {
            instance: "i".into(),
            token: "t".into(),
            holder,
        };
        let same = record(ours.clone());
        let moved = record(holder("b", 1, 2, "/before"));
        let copied = record(holder("b", 1, 9, "/original"));
        let rebooted = record(holder("a", 5, 2, "/data"));
        let elsewhere = record(holder("a", 1, 2, "/original"));
        let (fresh, stale) = (NOW + 30, NOW - 1);
        let decide = |record: Option<&Record>, token: &str, at, process, now| match claim(
            &ours,
            record,
            &[(lease(token, at), process)],
            now,
        ) {
            Claim::Ours => "ours",
            Claim::Watch(_) => "watch",
            Claim::Taken(_) => "taken",
        };
        use Process as P;
        type Case<'a> = (
            Option<&'a Record>,
            &'a str,
            i64,
            Process,
            Option<i64>,
            &'a str,
        );
        let table: &[Case<'_>] = &[
            // After a crash the same directory may be used at once, wherever it has moved.
            (Some(&same), "t", fresh, P::Unknown, Some(NOW), "ours"),
            (Some(&moved), "t", fresh, P::Unknown, Some(NOW), "ours"),
            (Some(&rebooted), "t", fresh, P::Unknown, Some(NOW), "ours"),
            (Some(&same), "t", fresh, P::Ended, None, "ours"),
            // A copy has the token of its original.
            (Some(&copied), "t", fresh, P::Unknown, Some(NOW), "watch"),
            (Some(&copied), "t", fresh, P::Runs, Some(NOW), "taken"),
            (Some(&copied), "t", fresh, P::Ended, Some(NOW), "ours"),
            (Some(&copied), "t", stale, P::Unknown, Some(NOW), "ours"),
            (Some(&copied), "t", stale, P::Unknown, None, "watch"),
            (Some(&elsewhere), "t", fresh, P::Unknown, Some(NOW), "watch"),
            // Another server has taken it since.
            (Some(&same), "u", fresh, P::Unknown, Some(NOW), "watch"),
            (Some(&same), "u", stale, P::Runs, Some(NOW), "taken"),
            (Some(&same), "u", stale, P::Unknown, Some(NOW), "ours"),
            // From an older ignite, which leaves no record.
            (None, "t", fresh, P::Unknown, Some(NOW), "watch"),
            (None, "t", fresh, P::Ended, Some(NOW), "ours"),
        ];
        for (record, token, at, process, now, expected) in table {
            let found = decide(*record, token, *at, *process, *now);
            assert_eq!(
                found, *expected,
                "{record:?} {token} {at} {process:?} {now:?}"
            );
        }
        assert_eq!(claim(&ours, None, &[], None), Claim::Ours);
        let left = Lease {
            left: true,
            ..lease("u", fresh)
        };
        let left = [(left, P::Unknown)];
        assert_eq!(claim(&ours, Some(&same), &left, Some(NOW)), Claim::Ours);
    }
}
