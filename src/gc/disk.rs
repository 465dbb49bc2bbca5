//! How much of the disk organizations use: when one exceeds its quota, its apps that write are
//! stopped.
//!
//! This watches and does not enforce: whatever is written between two checks may exceed the quota.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    engine::{DiskUse, Engine},
    fleet::Fleet,
    model::{AppId, Failure, OrgName, Reason},
};

/// The percentage of its quota from which an organization is warned.
const NEAR: u64 = 90;
/// An app that has grown by this since the last check is writing. Less growth can be a new replica,
/// or a few more lines of log.
const GROWN_BYTES: u64 = 1 << 20;
const GROWN_INODES: u64 = 100;

/// How much of the disk one organization may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes; 0 sets no bound.
    pub bytes: u64,
    /// Files, folders and links in volumes; 0 sets no bound.
    pub inodes: u64,
    /// Time between two checks.
    pub interval: Duration,
}

impl Quota {
    /// Whether it sets no bound.
    pub(super) fn is_none(&self) -> bool {
        self.bytes == 0 && self.inodes == 0
    }

    /// Whether this use exceeds the given percentage of the quota.
    fn is_over(&self, (bytes, inodes): (u64, u64), percent: u64) -> bool {
        let over = |value: u64, most: u64| {
            most > 0 && u128::from(value) * 100 > u128::from(most) * u128::from(percent)
        };
        over(bytes, self.bytes) || over(inodes, self.inodes)
    }
}

/// Checks the disk use until it is dropped.
pub(super) async fn watch<E: Engine>(quota: Quota, fleet: Fleet, engine: Arc<E>) {
    let mut tick = interval(quota.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = QuotaWatch::default();
    loop {
        tick.tick().await;
        let uses = match engine.disk_use().await {
            Ok(uses) => uses,
            Err(error) => {
                tracing::debug!(%error, "The disk use of organizations cannot be measured now");
                continue;
            }
        };
        for verdict in watch.check(&quota, &uses) {
            match verdict {
                Verdict::Warn(app, text) => {
                    tracing::warn!(%app, "{text}");
                    fleet.warn_of_disk(&app, &text);
                }
                Verdict::Stop(app, why) => {
                    tracing::warn!(%app, "{}", why.text(true));
                    fleet.stop_writing(&app, &why);
                }
                Verdict::Go(app) => {
                    tracing::info!(%app, "The app may run again: its organization is within its disk quota");
                    fleet.let_write(&app);
                }
            }
        }
    }
}

/// The verdict of a check.
#[derive(Debug)]
enum Verdict {
    /// The organization of this app, which is its largest, is near its quota.
    Warn(AppId, String),
    /// The app writes while its organization is over its quota.
    Stop(AppId, Failure),
    /// The organization is within its quota again.
    Go(AppId),
}

/// What is remembered between two checks.
#[derive(Debug, Default)]
struct QuotaWatch {
    /// Bytes and inodes of each app at the last check within the quota, or at the first check. They
    /// are not updated while the quota is exceeded, so that an app that writes slowly is found too.
    before: BTreeMap<AppId, (u64, u64)>,
    warned: BTreeSet<OrgName>,
    stopped: BTreeSet<AppId>,
    /// Apps that were reported as not completely counted.
    partial: BTreeSet<AppId>,
}

impl QuotaWatch {
    fn check(&mut self, quota: &Quota, uses: &[DiskUse]) -> Vec<Verdict> {
        let mut orgs = BTreeMap::<OrgName, Vec<&DiskUse>>::new();
        for one in uses {
            orgs.entry(one.app.org.clone()).or_default().push(one);
            if one.partial && self.partial.insert(one.app.clone()) {
                tracing::warn!(app = %one.app, "The app's disk use cannot be counted completely: it has too many files, too deep folders, or files that this process may not read (logged once)");
            }
        }
        // Organizations that no longer use anything are checked as well.
        let known = self.stopped.iter().map(|app| &app.org);
        for org in known.chain(&self.warned) {
            orgs.entry(org.clone()).or_default();
        }
        let mut verdicts = Vec::new();
        for (org, uses) in orgs {
            self.check_org(quota, &org, &uses, &mut verdicts);
        }
        self.partial
            .retain(|app| uses.iter().any(|u| u.app == *app));
        self.before
            .retain(|app, _| uses.iter().any(|u| u.app == *app));
        verdicts
    }

    fn check_org(
        &mut self,
        quota: &Quota,
        org: &OrgName,
        uses: &[&DiskUse],
        verdicts: &mut Vec<Verdict>,
    ) {
        let total = uses.iter().fold((0u64, 0u64), |(bytes, inodes), u| {
            (
                bytes.saturating_add(u.bytes.saturating_add(u.logs)),
                inodes.saturating_add(u.inodes),
            )
        });
        let takes = describe(quota, total);
        let largest = uses.iter().max_by_key(|u| (u.bytes, u.inodes));
        if !quota.is_over(total, NEAR) {
            self.warned.remove(org);
        } else if let Some(largest) = largest
            && self.warned.insert(org.clone())
        {
            let text = format!(
                "organization {org} takes {takes}; at its quota, the apps that write are stopped"
            );
            verdicts.push(Verdict::Warn(largest.app.clone(), text));
        }
        if !quota.is_over(total, 100) {
            let (go, stay) = std::mem::take(&mut self.stopped)
                .into_iter()
                .partition(|app| app.org == *org);
            self.stopped = stay;
            let go: BTreeSet<AppId> = go;
            verdicts.extend(go.into_iter().map(Verdict::Go));
            self.remember(uses);
            return;
        }
        if !self.before.keys().any(|app| app.org == *org) {
            // The first check of this organization: it is not known yet which app writes.
            self.remember(uses);
        }
        let mut writers: Vec<_> = uses.iter().filter(|u| self.has_grown(u)).collect();
        let nobody = writers.is_empty() && !self.stopped.iter().any(|app| app.org == *org);
        writers.extend(largest.filter(|_| nobody));
        for one in writers {
            if !self.stopped.insert(one.app.clone()) {
                continue;
            }
            let text = format!(
                "app {} is stopped, since its organization takes more of the disk than it may",
                one.app
            );
            let detail = format!(
                "organization {org} takes {takes}, of which this app {}; delete an app whose files are not needed, or ask for more. It may run again once it is less",
                describe(
                    &Quota {
                        bytes: 0,
                        inodes: 0,
                        ..*quota
                    },
                    (one.bytes.saturating_add(one.logs), one.inodes)
                )
            );
            let why = Failure::new(Reason::DiskQuota, text).with_detail(detail);
            verdicts.push(Verdict::Stop(
                one.app.clone(),
                why.with_retry_after(quota.interval),
            ));
        }
    }

    fn remember(&mut self, uses: &[&DiskUse]) {
        let now = uses.iter().map(|u| (u.app.clone(), (u.bytes, u.inodes)));
        self.before.extend(now);
    }

    /// Whether an app has written since its organization was within its quota.
    fn has_grown(&self, now: &DiskUse) -> bool {
        let (bytes, inodes) = self.before.get(&now.app).copied().unwrap_or_default();
        now.bytes.saturating_sub(bytes) >= GROWN_BYTES
            || now.inodes.saturating_sub(inodes) >= GROWN_INODES
    }
}

/// The use, with the quota where there is one.
fn describe(quota: &Quota, (bytes, inodes): (u64, u64)) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let of = |most: u64, shown: String| match most {
        0 => String::new(),
        _ => format!(" of {shown}"),
    };
    format!(
        "{}{} MiB of the disk and {inodes}{} files",
        mib(bytes),
        of(quota.bytes, mib(quota.bytes).to_string()),
        of(quota.inodes, quota.inodes.to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn one(app: &str, bytes: u64, inodes: u64) -> DiskUse {
        DiskUse {
            app: app.parse().expect("valid"),
            bytes,
            logs: MIB,
            inodes,
            partial: false,
        }
    }

    /// The verdicts as text.
    fn words(watch: &mut QuotaWatch, uses: &[DiskUse]) -> Vec<String> {
        let quota = Quota {
            bytes: 100 * MIB,
            inodes: 1000,
            interval: Duration::from_secs(30),
        };
        let verdicts = watch.check(&quota, uses).into_iter();
        let words = verdicts.map(|verdict| match verdict {
            Verdict::Warn(app, _) => format!("warn {app}"),
            Verdict::Stop(app, why) => {
                assert_eq!(why.reason, Reason::DiskQuota);
                assert!(!why.message.contains("MiB"), "figures are the owner's");
                format!("stop {app}")
            }
            Verdict::Go(app) => format!("go {app}"),
        });
        words.collect()
    }

    #[test]
    fn whoever_writes_is_stopped_until_there_is_room_and_nobody_else() {
        let mut watch = QuotaWatch::default();
        let still = one("acme/still", 60 * MIB, 10);
        let other = one("globex/a", 60 * MIB, 10);
        let check = |watch: &mut QuotaWatch, writer: u64| {
            words(
                watch,
                &[still.clone(), one("acme/writer", writer, 10), other.clone()],
            )
        };
        assert!(check(&mut watch, 10 * MIB).is_empty());
        assert_eq!(check(&mut watch, 32 * MIB), ["warn acme/still"]);
        assert!(check(&mut watch, 33 * MIB).is_empty(), "warned once");
        // With the logs it exceeds the quota; the larger app has written nothing.
        assert_eq!(check(&mut watch, 50 * MIB), ["stop acme/writer"]);
        assert!(check(&mut watch, 50 * MIB).is_empty());
        assert_eq!(check(&mut watch, 30 * MIB), ["go acme/writer"]);
        // Files count as well, and removed apps use nothing.
        let many = one("acme/writer", 30 * MIB, 991);
        assert_eq!(
            words(&mut watch, &[still.clone(), many]),
            ["stop acme/writer"]
        );
        assert_eq!(words(&mut watch, &[]), ["go acme/writer"]);
    }

    #[test]
    fn when_nobody_is_known_to_write_the_largest_is_stopped() {
        let mut watch = QuotaWatch::default();
        let uses = [one("acme/a", 60 * MIB, 1), one("acme/b", 50 * MIB, 1)];
        assert_eq!(words(&mut watch, &uses), ["warn acme/a", "stop acme/a"]);
        assert!(
            words(&mut watch, &uses).is_empty(),
            "the other one is still"
        );
        let grown = [one("acme/a", 60 * MIB, 1), one("acme/b", 52 * MIB, 1)];
        assert_eq!(words(&mut watch, &grown), ["stop acme/b"]);
    }
}
