//! App logs: the lines that an app's replicas wrote, the newest ones or as they arrive.
//!
//! Everything is read from the engine, which keeps a log as long as its container, and the lines of
//! several replicas are merged by time. A follower polls the list of replicas: it reads a replica
//! that starts later from its first line, and one whose log broke off (because the engine
//! restarted, say) from the last line that it delivered.
//!
//! | log | what it is | where |
//! |---|---|---|
//! | container log | what one container wrote | `engine` |
//! | app log | the container logs of an app, merged | here, `api::compute::logs`, `cli::logs` |
//! | build log | what a build printed | `builder` |
//! | execution log | the part of an app log while one execution ran | `cli::execution` |
//! | server log | the events of `ignite serve`, on its stderr | `cli::server_log` |

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::try_join_all,
    stream::{self, BoxStream, SelectAll},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::{
    apps::Apps,
    engine::{ContainerId, Engine, Error, LogLine, LogQuery},
    fleet::{Deployment, Fleet},
    model::{AppId, Failure, Reason, ReplicaId},
};

/// Time between two polls of the list of replicas; the lines of a new one are late by as much.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time to read the log of one container until now.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A log without a new line for this long counts as complete; and the longest wait for that.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_LIMIT: Duration = Duration::from_secs(1);

type Read =
    dyn Fn(&ContainerId, LogQuery) -> BoxStream<'static, Result<LogLine, Error>> + Send + Sync;

/// The logs of apps; clones share them. Hides the type of the engine from its users.
#[derive(Clone)]
pub struct Logs {
    apps: Apps,
    fleet: Fleet,
    /// Most bytes of lines in memory for one container, and in one response.
    max_bytes: usize,
    read: Arc<Read>,
}

/// One line of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The replica that wrote it.
    pub replica: ReplicaId,
    /// The version that the replica runs.
    pub version: u32,
    /// What it wrote.
    pub line: LogLine,
}

/// A container of an app.
#[derive(Clone)]
struct Origin {
    replica: ReplicaId,
    container: ContainerId,
    version: u32,
    /// Whether it has a process, so that its log can be followed.
    runs: bool,
}

/// The containers of a deployment, in any state.
fn origins(deployment: &Deployment) -> Vec<Origin> {
    let replicas = deployment.replicas().into_iter();
    let made = replicas.filter_map(|r| {
        Some(Origin {
            runs: r.has_process(),
            version: r.version,
            replica: r.id,
            container: r.container?,
        })
    });
    made.collect()
}

impl Logs {
    /// The logs that the engine keeps of a fleet's replicas. A response has at most `max_bytes` of
    /// lines, the newest ones.
    pub fn new<E: Engine>(apps: Apps, fleet: Fleet, engine: Arc<E>, max_bytes: usize) -> Self {
        Self {
            apps,
            fleet,
            max_bytes,
            read: Arc::new(move |id: &ContainerId, ask| engine.logs(id, ask)),
        }
    }

    /// The newest lines since `since_ms`, in order of time, of one replica or of all; at most
    /// `limit` of them, within the byte limit of [`Logs::new`].
    ///
    /// # Errors
    /// NOT_FOUND for the app or the replica; ENGINE_UNAVAILABLE.
    pub async fn newest(
        &self,
        app: &AppId,
        replica: Option<&ReplicaId>,
        since_ms: i64,
        limit: usize,
    ) -> Result<Vec<Entry>, Failure> {
        self.apps.get(app)?;
        let origins = self.required(app, replica)?;
        let ask = LogQuery {
            tail: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            since_ms,
            follow: false,
        };
        let all = try_join_all(origins.iter().map(|o| self.read_whole(o, ask))).await;
        Ok(merge(
            all.map_err(|e| e.to_failure())?,
            limit,
            self.max_bytes,
        ))
    }

    /// The newest `tail` lines, then new lines as they arrive: of one replica until it is gone, or
    /// of all, including those that start later, until the app is deleted.
    ///
    /// # Errors
    /// As [`Logs::newest`].
    pub async fn follow(
        &self,
        app: AppId,
        replica: Option<ReplicaId>,
        tail: usize,
    ) -> Result<Follow, Failure> {
        self.apps.get(&app)?;
        let origins = self.required(&app, replica.as_ref())?;
        // At least one line of each: its time is where following begins.
        let ask = LogQuery {
            tail: Some(u32::try_from(tail).unwrap_or(u32::MAX).max(1)),
            ..LogQuery::default()
        };
        let all = try_join_all(origins.iter().map(|o| self.read_whole(o, ask))).await;
        let all = all.map_err(|e| e.to_failure())?;
        let positions = std::iter::zip(origins, &all).map(|(origin, lines)| {
            let delivered_ns = lines.last().map_or(0, |entry| entry.line.at_ns);
            (
                origin.container,
                Position {
                    delivered_ns,
                    opened_after_ns: delivered_ns,
                },
            )
        });
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Follow {
            positions: positions.collect(),
            pending: merge(all, tail, self.max_bytes).into(),
            open: HashSet::new(),
            live: SelectAll::new(),
            logs: self.clone(),
            app,
            replica,
            poll,
        })
    }

    /// The newest `limit` lines of a deployment's containers, as far as they can be read. The
    /// engine may lag behind what was written before a response, so this waits until no more lines
    /// arrive, up to [`QUIET_LIMIT`].
    pub async fn of(&self, deployment: &Deployment, limit: usize) -> Vec<Entry> {
        let give_up = Instant::now() + QUIET_LIMIT;
        let mut lines = self.read_now(deployment, limit).await;
        loop {
            tokio::time::sleep(QUIET).await;
            let again = self.read_now(deployment, limit).await;
            if again == lines || Instant::now() >= give_up {
                return again;
            }
            lines = again;
        }
    }

    async fn read_now(&self, deployment: &Deployment, limit: usize) -> Vec<Entry> {
        let ask = LogQuery {
            tail: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            ..LogQuery::default()
        };
        let mut all = Vec::new();
        for origin in origins(deployment) {
            match self.read_whole(&origin, ask).await {
                Ok(lines) => all.push(lines),
                Err(error) => tracing::debug!(%error, "The log of a test run cannot be read"),
            }
        }
        merge(all, limit, self.max_bytes)
    }

    /// The app's containers, or that of one replica.
    fn origins(&self, app: &AppId, replica: Option<&ReplicaId>) -> Vec<Origin> {
        let deployment = self.fleet.find(app);
        let mut all = deployment.map(|d| origins(&d)).unwrap_or_default();
        all.retain(|o| replica.is_none_or(|wanted| *wanted == o.replica));
        all
    }

    fn required(&self, app: &AppId, replica: Option<&ReplicaId>) -> Result<Vec<Origin>, Failure> {
        let origins = self.origins(app, replica);
        match replica {
            Some(id) if origins.is_empty() => Err(Failure::new(
                Reason::NotFound,
                format!(
                    "app {app} has no replica {id} now, and a log goes with its replica; leave replica_id out for those that run"
                ),
            )),
            _ => Ok(origins),
        }
    }

    /// The newest lines that a container has written so far; none when it is gone.
    async fn read_whole(&self, origin: &Origin, ask: LogQuery) -> Result<Vec<Entry>, Error> {
        let mut read = (self.read)(&origin.container, ask);
        let lines = async {
            let mut newest = Newest::default();
            while let Some(line) = read.try_next().await? {
                newest.push(line, self.max_bytes);
            }
            Ok(newest.lines)
        };
        let lines = match tokio::time::timeout(READ_LIMIT, lines).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(Error::NoSuchContainer(_))) => return Ok(Vec::new()),
            Ok(Err(e)) => return Err(e),
            Err(_) => {
                return Err(Error::TimedOut {
                    call: "read the container's log",
                    after: READ_LIMIT,
                });
            }
        };
        let entry = |line| Entry {
            replica: origin.replica.clone(),
            version: origin.version,
            line,
        };
        Ok(lines.into_iter().map(entry).collect())
    }
}

/// The newest lines within a number of bytes.
#[derive(Default)]
struct Newest {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Newest {
    /// Adds a line, and drops the oldest while there are more than `most` bytes.
    fn push(&mut self, line: LogLine, most: usize) {
        self.bytes += size(&line);
        self.lines.push_back(line);
        while self.bytes > most && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |oldest| size(&oldest));
        }
    }
}

/// The bytes of a line in memory, and roughly in a response.
fn size(line: &LogLine) -> usize {
    size_of::<Entry>() + line.text.len()
}

/// The newest of all lines, in order of time: at most `limit`, and `most` bytes.
fn merge(all: Vec<Vec<Entry>>, limit: usize, most: usize) -> Vec<Entry> {
    let mut lines: Vec<Entry> = all.into_iter().flatten().collect();
    // Stable: lines of one container stay in their order.
    lines.sort_by_key(|entry| entry.line.at_ns);
    let mut bytes = 0;
    let newest = lines.iter().rev().take(limit);
    let fit = newest.take_while(|entry| {
        bytes += size(&entry.line);
        bytes <= most || bytes == size(&entry.line)
    });
    let surplus = lines.len() - fit.count();
    lines.drain(..surplus);
    lines
}

/// How far a container's log has been delivered.
struct Position {
    delivered_ns: i64,
    /// `delivered_ns` when its log was opened. Lines up to that time are repeats; others are new,
    /// even if the clock that stamps them went back meanwhile.
    opened_after_ns: i64,
}

/// One item of a container's log.
enum Piece {
    Line(LogLine),
    Ended,
}

/// A reader of lines as they arrive.
pub struct Follow {
    logs: Logs,
    app: AppId,
    replica: Option<ReplicaId>,
    /// By container; those that are gone are removed.
    positions: HashMap<ContainerId, Position>,
    /// Lines to deliver before any other.
    pending: VecDeque<Entry>,
    /// The containers whose logs are being read.
    open: HashSet<ContainerId>,
    live: SelectAll<BoxStream<'static, (Origin, Piece)>>,
    poll: Interval,
}

impl Follow {
    /// The next line; `None` when the one replica is gone.
    ///
    /// # Errors
    /// APP_DELETED.
    ///
    /// # Cancel safety
    /// No line is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Entry>, Failure> {
        loop {
            if let Some(entry) = self.pending.pop_front() {
                return Ok(Some(entry));
            }
            tokio::select! {
                Some((origin, piece)) = self.live.next(), if !self.live.is_empty() => {
                    self.accept(origin, piece);
                }
                _ = self.poll.tick() => {
                    if !self.open_new_logs()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn accept(&mut self, origin: Origin, piece: Piece) {
        let Some(position) = self.positions.get_mut(&origin.container) else {
            return;
        };
        match piece {
            Piece::Line(line) if line.at_ns > position.opened_after_ns => {
                position.delivered_ns = position.delivered_ns.max(line.at_ns);
                self.pending.push_back(Entry {
                    replica: origin.replica,
                    version: origin.version,
                    line,
                });
            }
            Piece::Line(_) => {}
            Piece::Ended => {
                self.open.remove(&origin.container);
            }
        }
    }

    /// Opens the logs that are not being read; `false` when there is nothing left to follow.
    fn open_new_logs(&mut self) -> Result<bool, Failure> {
        if self.logs.apps.get(&self.app).is_err() {
            return Err(Failure::new(
                Reason::AppDeleted,
                format!("app {} has been deleted, its log with it", self.app),
            ));
        }
        let origins = self.logs.origins(&self.app, self.replica.as_ref());
        let open = &self.open;
        self.positions
            .retain(|id, _| open.contains(id) || origins.iter().any(|o| o.container == *id));
        if self.replica.is_some() && origins.is_empty() && self.open.is_empty() {
            return Ok(false);
        }
        for origin in origins.into_iter().filter(|o| o.runs) {
            if self.open.insert(origin.container.clone()) {
                self.open(origin);
            }
        }
        Ok(true)
    }

    fn open(&mut self, origin: Origin) {
        let position = self
            .positions
            .entry(origin.container.clone())
            .or_insert(Position {
                delivered_ns: 0,
                opened_after_ns: 0,
            });
        position.opened_after_ns = position.delivered_ns;
        let ask = LogQuery {
            tail: None,
            since_ms: position.delivered_ns / 1_000_000,
            follow: true,
        };
        let lines = (self.logs.read)(&origin.container, ask);
        let lines = lines
            .take_while(|line| {
                if let Err(error) = line {
                    tracing::debug!(%error, "A log broke off; reading continues if its replica still exists");
                }
                std::future::ready(line.is_ok())
            })
            .filter_map(|line| std::future::ready(line.ok()))
            .map(Piece::Line);
        let ended = stream::once(std::future::ready(Piece::Ended));
        let pieces = lines.chain(ended).map(move |piece| (origin.clone(), piece));
        self.live.push(pieces.boxed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LogStream;

    fn line(at_ns: i64, len: usize) -> LogLine {
        LogLine {
            at_ns,
            stream: LogStream::Stdout,
            text: "x".repeat(len),
        }
    }

    #[test]
    fn of_many_or_long_lines_the_newest_are_kept() {
        let most = 10 * (size_of::<Entry>() + 1000);
        let mut newest = Newest::default();
        (0..100).for_each(|n| newest.push(line(n, 1000), most));
        assert_eq!(newest.lines.len(), 10);
        assert_eq!(newest.lines[0].at_ns, 90);
        // A single line over the bound is still kept, alone.
        newest.push(line(100, 2 * most), most);
        assert_eq!(newest.lines.len(), 1);

        let of = |replica: &str, first: i64| -> Vec<Entry> {
            let entry = |n: i64| Entry {
                replica: replica.parse().expect("an id"),
                version: 1,
                line: line(first + 2 * n, 1000),
            };
            (0..10).map(entry).collect()
        };
        let times = |limit, most| -> Vec<i64> {
            let merged = merge(vec![of("aaaaaaaaaa", 0), of("bbbbbbbbbb", 1)], limit, most);
            merged.iter().map(|entry| entry.line.at_ns).collect()
        };
        assert_eq!(times(100, usize::MAX), (0..20).collect::<Vec<_>>());
        assert_eq!(times(3, usize::MAX), [17, 18, 19]);
        assert_eq!(times(100, most), (10..20).collect::<Vec<_>>());
        assert_eq!(times(100, 1), [19]);
    }
}
