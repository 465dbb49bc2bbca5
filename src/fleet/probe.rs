//! Outcomes of probes of a replica's health path, and the record of them while a replica starts.
//!
//! [`ProbeOutcome`] is a closed set of small facts with one rendering, so that the held caller's
//! 504, the app's state, its events, the log and `Server-Timing` cannot tell different stories. A
//! start keeps its newest outcome in a [`Progress`], which the slot shares with the task that
//! probes: the task alone writes it, callers read it at any time.

use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    events::{EventKind, Events},
    ports::WrongPort,
    upstream,
};
use crate::model::{AppId, HealthCheck, ReplicaId, Revision};

/// A start that takes longer than this is explained by events; most end before.
const QUIET: Duration = Duration::from_secs(3);
/// So many changes of the outcome are recorded at once. After that, a flapping app is recorded at
/// most every `FLAP_GAP`, since an app's record of events is bounded.
const PROMPT_EVENTS: u32 = 8;
const FLAP_GAP: Duration = Duration::from_secs(30);

/// Why a probe of the health path failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Nothing listens on the port.
    Refused,
    /// It answered with a status that does not count as ready.
    Status(u16),
    /// It accepted the connection, or did not even refuse it, and did not answer within this time.
    Timeout(Duration),
    /// It closed the connection without an answer.
    Closed,
    /// It reset the connection without an answer.
    Reset,
    /// It speaks HTTP/2, and reset the stream without an answer.
    StreamReset,
    /// Its answer is not in the version of HTTP that the probe used.
    NotHttp,
    /// The port cannot be reached for another reason.
    Unreachable(io::ErrorKind),
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nothing listens there (connection refused)"),
            Self::Status(code) => match StatusCode::from_u16(*code) {
                Ok(status) => write!(f, "answered {status}"),
                Err(_) => write!(f, "answered {code}"),
            },
            Self::Timeout(after) => {
                write!(f, "no answer within {}", humantime::format_duration(*after))
            }
            Self::Closed => f.write_str("the connection was closed without an answer"),
            Self::Reset => f.write_str("the connection was reset without an answer"),
            Self::StreamReset => f.write_str("the HTTP/2 stream was reset without an answer"),
            Self::NotHttp => f.write_str("the answer is not valid HTTP"),
            Self::Unreachable(kind) => write!(f, "the port cannot be reached ({kind})"),
        }
    }
}

impl ProbeOutcome {
    pub(super) fn of_error(error: &upstream::Error) -> Self {
        let of_io = |kind| match kind {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout(upstream::CONNECT_TIMEOUT),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Unreachable(kind),
        };
        match error {
            upstream::Error::Connect { cause, .. } => match cause.get_ref() {
                Some(inner) if inner.is::<hyper::Error>() => {
                    inner.downcast_ref().map_or(Self::Closed, Self::of_hyper)
                }
                _ => of_io(cause.kind()),
            },
            upstream::Error::Broke(e) => Self::of_hyper(e),
            upstream::Error::Body(_) | upstream::Error::Lost => Self::Closed,
        }
    }

    pub(super) fn of_hyper(e: &hyper::Error) -> Self {
        let mut cause = std::error::Error::source(e);
        while let Some(c) = cause {
            if let Some(e) = c.downcast_ref::<io::Error>() {
                return match e.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
                    _ => Self::Closed,
                };
            }
            if let Some(e) = c.downcast_ref::<h2::Error>() {
                return match e {
                    e if e.is_io() => Self::Closed,
                    e if e.is_reset() && e.is_remote() => Self::StreamReset,
                    _ => Self::NotHttp,
                };
            }
            cause = c.source();
        }
        if e.is_parse() {
            Self::NotHttp
        } else {
            Self::Closed
        }
    }
}

/// An answer on the health path that counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// An HTTP response with this status.
    Status(StatusCode),
    /// A reset of the HTTP/2 stream: gRPC servers based on the C core reset a request that is no
    /// gRPC call.
    Reset,
}

impl Answer {
    /// Whether the cloud platform would count it as ready, too.
    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Status(status) if status.is_success())
    }
}

/// Whether the answer on the health path means that the app is ready, or later that it is alive.
///
/// A default path need not exist, nor be open to strangers: an answer from an HTTP server without a
/// fault of its own is enough.
///
/// # Errors
/// Why the probe failed.
pub(super) fn judge(
    revision: &Revision,
    came: Result<StatusCode, ProbeOutcome>,
    over_http2: bool,
) -> Result<Answer, ProbeOutcome> {
    let anything = revision.health == HealthCheck::Default;
    match came {
        Ok(status) if status.is_success() || anything && status.as_u16() < 500 => {
            Ok(Answer::Status(status))
        }
        Ok(status) => Err(ProbeOutcome::Status(status.as_u16())),
        Err(ProbeOutcome::StreamReset) if anything && over_http2 => Ok(Answer::Reset),
        Err(outcome) => Err(outcome),
    }
}

/// The remedy for the last outcome of a start that took too long.
pub(super) fn remedy(revision: &Revision, port: u16, last: Option<ProbeOutcome>) -> String {
    match last {
        Some(ProbeOutcome::Status(code)) => {
            let wanted = match revision.health {
                HealthCheck::Default => "a status below 500",
                HealthCheck::Chosen | HealthCheck::Strict => "2xx",
            };
            format!(
                "make the app answer its health path {} with {wanted} instead of {code}, or set health_path (`--health-path`) to one that does",
                revision.health_path
            )
        }
        Some(ProbeOutcome::NotHttp) => format!(
            "make the app speak HTTP on port {port}, or set `ports` to where it does; `protocol` says which HTTP it is asked in"
        ),
        Some(ProbeOutcome::Refused | ProbeOutcome::Unreachable(_)) => format!(
            "make the app listen on 0.0.0.0:$PORT ({port}), or set `ports` to the port on which it does"
        ),
        Some(
            ProbeOutcome::Timeout(_)
            | ProbeOutcome::Closed
            | ProbeOutcome::Reset
            | ProbeOutcome::StreamReset,
        )
        | None => {
            format!(
                "make the app answer GET {} on 0.0.0.0:$PORT ({port})",
                revision.health_path
            )
        }
    }
}

/// How far a replica's start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The engine makes its container.
    Creating,
    /// The engine starts it.
    Starting,
    /// It runs, and is probed until it is ready.
    Asked {
        /// When the probes began.
        since: Instant,
        /// The outcome of the newest probe; `None` while the first is under way.
        last: Option<ProbeOutcome>,
    },
}

/// What distinguishes one explanation from the next.
type Seen = (Option<ProbeOutcome>, Option<WrongPort>);

/// How far a replica on its way up has come; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    app: AppId,
    replica: ReplicaId,
    version: u32,
    events: Events,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    stage: Stage,
    /// The probe in words: `GET /healthz on port 80`.
    question: String,
    /// The ports that the image exposes, if the probed one is not among them.
    exposed: Vec<u16>,
    /// The wrong port on which the app listens, if it does.
    wrong_port: Option<WrongPort>,
    /// What was recorded last, when, and how often something was.
    recorded: Option<(Seen, Instant)>,
    times: u32,
}

impl Progress {
    pub(super) fn new(app: AppId, replica: ReplicaId, version: u32, events: Events) -> Self {
        Self(Arc::new(Shared {
            app,
            replica,
            version,
            events,
            now: Mutex::new(Now {
                stage: Stage::Creating,
                question: String::new(),
                exposed: Vec::new(),
                wrong_port: None,
                recorded: None,
                times: 0,
            }),
        }))
    }

    /// Records that the engine starts the container.
    pub(super) fn starting(&self) {
        self.0.now.lock().stage = Stage::Starting;
    }

    /// Records that the container runs and is probed from now on.
    pub(super) fn running(&self, revision: &Revision, port: u16) {
        let mut now = self.0.now.lock();
        now.question = format!("GET {} on port {port}", revision.health_path);
        now.exposed = if revision.exposed_ports.contains(&port) {
            Vec::new()
        } else {
            revision.exposed_ports.clone()
        };
        now.wrong_port = None;
        now.stage = Stage::Asked {
            since: Instant::now(),
            last: None,
        };
    }

    /// Records the outcome of a failed probe.
    pub(super) fn outcome(&self, outcome: ProbeOutcome) {
        {
            let mut now = self.0.now.lock();
            if let Stage::Asked { last, .. } = &mut now.stage {
                *last = Some(outcome);
            }
        }
        self.record();
    }

    /// Records on which wrong port the app listens; `None` once it does not.
    pub(super) fn listens(&self, elsewhere: Option<WrongPort>) {
        self.0.now.lock().wrong_port = elsewhere;
        self.record();
    }

    /// Explains a start once it is slow, even if its first probe is still under way.
    pub(super) async fn record_when_slow(&self) -> Infallible {
        tokio::time::sleep(QUIET).await;
        self.record();
        std::future::pending().await
    }

    /// Records an outcome that differs from the last recorded one, once the start is slow.
    fn record(&self) {
        let mut now = self.0.now.lock();
        let Stage::Asked { since, last } = now.stage else {
            return;
        };
        let at = Instant::now();
        let seen = (last, now.wrong_port.clone());
        let recorded = now.recorded.as_ref();
        let known = recorded.is_some_and(|(recorded, _)| *recorded == seen);
        let flaps = now.times >= PROMPT_EVENTS
            && recorded.is_some_and(|(_, recorded)| at < *recorded + FLAP_GAP);
        if at < since + QUIET || known || flaps {
            return;
        }
        now.recorded = Some((seen, at));
        now.times += 1;
        let text = now.whole();
        drop(now);
        let Shared {
            app,
            replica,
            version,
            events,
            ..
        } = &*self.0;
        tracing::warn!(%app, %replica, "A replica is not ready yet: {text}");
        let kind = EventKind::ReplicaNotReady;
        events.push(kind, Some(replica), *version, text);
    }

    /// Records that the app counts as ready here with an answer on which the cloud platform would
    /// keep waiting.
    pub(super) fn tolerated(&self, revision: &Revision, answer: Answer) {
        let Shared {
            app,
            version,
            events,
            ..
        } = &*self.0;
        let answer = match answer {
            Answer::Status(status) => ProbeOutcome::Status(status.as_u16()),
            // gRPC has a health check of its own.
            Answer::Reset => return,
        };
        let text = format!(
            "GET {} {answer}; it runs here since nobody chose that path, the cloud platform would never call it ready: set health_path (`--health-path`) to one that answers 2xx",
            revision.health_path
        );
        if events.object_once(*version, &text) {
            tracing::warn!(%app, "{text}");
        }
    }

    /// The outcome of the last failed probe.
    pub(super) fn last(&self) -> Option<ProbeOutcome> {
        match self.0.now.lock().stage {
            Stage::Asked { last, .. } => last,
            Stage::Creating | Stage::Starting => None,
        }
    }

    /// The wrong port that was seen last.
    pub(super) fn wrong_port(&self) -> Option<WrongPort> {
        self.0.now.lock().wrong_port.clone()
    }

    /// The state of the start, in words for anybody.
    pub(super) fn text(&self) -> String {
        self.0.now.lock().render()
    }

    /// A hint for the owner in addition to that.
    pub(super) fn hint(&self) -> Option<String> {
        self.0.now.lock().hint()
    }

    /// The state of the start, in words for its owner.
    pub(super) fn whole_text(&self) -> String {
        self.0.now.lock().whole()
    }
}

impl Now {
    fn whole(&self) -> String {
        let hint = self.hint().map(|hint| format!("; {hint}"));
        format!("{}{}", self.render(), hint.unwrap_or_default())
    }

    fn hint(&self) -> Option<String> {
        if let Some(wrong) = &self.wrong_port {
            return Some(wrong.to_string());
        }
        let refused = matches!(
            self.stage,
            Stage::Asked {
                last: Some(ProbeOutcome::Refused),
                ..
            }
        );
        let exposed: Vec<_> = self.exposed.iter().map(u16::to_string).collect();
        (refused && !exposed.is_empty())
            .then(|| format!("the image exposes {}", exposed.join(", ")))
    }

    fn render(&self) -> String {
        match self.stage {
            Stage::Creating => "its container is being created".to_owned(),
            Stage::Starting => "the engine is starting its container".to_owned(),
            Stage::Asked {
                last: Some(outcome),
                ..
            } => format!("{}: {outcome}", self.question),
            Stage::Asked { since, last: None } => format!(
                "{}: no answer for {}",
                self.question,
                humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::revision;

    #[test]
    fn a_path_that_nobody_chose_is_good_below_500_and_a_chosen_one_with_2xx_alone() {
        let good = |health, code| {
            let mut r = revision(1);
            r.health = health;
            judge(&r, Ok(StatusCode::from_u16(code).expect("valid")), false).is_ok()
        };
        for code in [200, 204, 301, 400, 401, 403, 404, 405, 499] {
            assert!(good(HealthCheck::Default, code), "{code}");
        }
        for code in [500, 501, 503] {
            assert!(!good(HealthCheck::Default, code), "{code}");
        }
        for health in [HealthCheck::Chosen, HealthCheck::Strict] {
            assert!(good(health, 299) && !good(health, 301) && !good(health, 404));
        }
    }

    fn recorded(events: &Events) -> Vec<String> {
        events.newest(99).into_iter().map(|e| e.message).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_is_told_when_its_outcome_changes_and_a_flapping_one_seldom() {
        let (events, r) = (Events::new(Default::default()), revision(1));
        let id = ReplicaId::generate(ulid::Ulid::generate());
        let progress = Progress::new(r.app.clone(), id, 1, events.clone());
        progress.running(&r, 80);
        progress.outcome(ProbeOutcome::Refused);
        tokio::time::sleep(QUIET / 2).await;
        progress.outcome(ProbeOutcome::Status(503));
        assert!(recorded(&events).is_empty(), "most starts need no words");
        tokio::time::sleep(QUIET / 2).await;
        progress.record();
        progress.outcome(ProbeOutcome::Status(503));
        progress.outcome(ProbeOutcome::Status(401));
        assert_eq!(
            recorded(&events),
            [
                "GET / on port 80: answered 503 Service Unavailable",
                "GET / on port 80: answered 401 Unauthorized"
            ]
        );
        for n in 0..1000 {
            progress.outcome(ProbeOutcome::Status(500 + n % 2));
        }
        assert_eq!(recorded(&events).len(), PROMPT_EVENTS as usize);
        tokio::time::sleep(FLAP_GAP).await;
        progress.outcome(ProbeOutcome::Refused);
        assert_eq!(recorded(&events).len(), PROMPT_EVENTS as usize + 1);
    }
}
