//! An asynchronous execution and how it may change: `PENDING → RUNNING → COMPLETED | FAILED |
//! TIMEOUT`.
//!
//! These are pure decisions. The store makes each change durable before any reader sees it; the
//! executor requests the changes. An end is final, and only the newest attempt may set it: the
//! attempt's number is its fencing token.

use std::time::Duration;

use super::{AppId, ExecutionId, Failure, OrgName, Reason, Tier};

/// How long an idempotency key holds, as the API promises.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest idempotency key in bytes, several times the length of a UUID or a hash.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Bodies of up to this many bytes live in the database, larger ones in files beside it.
pub const INLINE_BYTES: usize = 64 * 1024;

/// Causes of failure that are not in the platform's table of reasons.
pub mod cause {
    /// The app answered with 400 or above.
    pub const APP_ERROR: &str = "APP_ERROR";
    /// A caller cancelled it.
    pub const CANCELLED: &str = "CANCELLED";
    /// The response exceeded the configured limit.
    pub const RESULT_TOO_LARGE: &str = "RESULT_TOO_LARGE";
}

/// The status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Accepted, not started.
    Pending = 1,
    /// Started.
    Running = 2,
    /// The app answered with a status below 400.
    Completed = 3,
    /// The app answered with 400 or above, or could not be run, or it was cancelled.
    Failed = 4,
    /// The deadline passed.
    TimedOut = 5,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 5] = [
        Status::Pending,
        Status::Running,
        Status::Completed,
        Status::Failed,
        Status::TimedOut,
    ];

    /// The status in lower case, as a label of metrics.
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    /// The status with this number in the store.
    pub fn from_number(n: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u32 == n)
    }

    /// Whether the status is final.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::TimedOut)
    }
}

/// The part of an execution that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id; ids sort by the time of acceptance.
    pub id: ExecutionId,
    /// The app.
    pub app: AppId,
    /// The organizations of the submitter, which may read it besides the app's own.
    pub submitters: Vec<OrgName>,
}

impl Identity {
    /// When it was accepted, Unix milliseconds: the id's own time.
    pub fn created_at_ms(&self) -> i64 {
        self.id.0.timestamp_ms() as i64
    }
}

/// The current state of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its status.
    pub status: Status,
    /// The number of attempts so far, which is the newest attempt's token.
    pub attempt: u32,
    /// The version that ran it; 0 before it started.
    pub version: u32,
    /// The tier it ran with.
    pub tier: Tier,
    /// When the newest attempt started, Unix milliseconds; 0 before.
    pub started_at_ms: i64,
    /// When it ended, Unix milliseconds; 0 before.
    pub completed_at_ms: i64,
    /// The app's HTTP status; 0 when there is none.
    pub status_code: u16,
    /// Milliseconds from the first byte sent to the app to the end of its response; 0 when it never
    /// ran.
    pub execution_ms: i64,
    /// Size of the result in bytes.
    pub result_bytes: u64,
    /// Why it failed, for programs; empty when it did not.
    pub reason: String,
    /// Why it failed, in words for the app's own organization; empty when it did not.
    pub error: String,
    /// The same for other readers; empty in records of versions that stored one text for all.
    pub bare_error: String,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: Status::Pending,
            attempt: 0,
            version: 0,
            tier: Tier::Medium,
            started_at_ms: 0,
            completed_at_ms: 0,
            status_code: 0,
            execution_ms: 0,
            result_bytes: 0,
            reason: String::new(),
            error: String::new(),
            bare_error: String::new(),
        }
    }
}

/// How an execution ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// COMPLETED, FAILED or TIMEOUT.
    pub status: Status,
    /// The app's HTTP status; 0 when there is none.
    pub status_code: u16,
    /// From the first byte sent to the app to the end of its response.
    pub ran: Duration,
    /// Size of the result in bytes.
    pub result_bytes: u64,
    /// Why it failed, for programs.
    pub reason: String,
    /// Why it failed, in words for the app's own organization.
    pub error: String,
    /// The same for other readers: without the container's exit code and log lines.
    pub bare_error: String,
}

impl Completion {
    /// The app responded: a status below 400 is success.
    pub fn answered(status_code: u16, ran: Duration, result_bytes: u64) -> Self {
        let ok = status_code < 400;
        let error = if ok {
            String::new()
        } else {
            format!("the app answered with HTTP status {status_code}")
        };
        Self {
            status: if ok {
                Status::Completed
            } else {
                Status::Failed
            },
            status_code,
            ran,
            result_bytes,
            reason: if ok {
                String::new()
            } else {
                cause::APP_ERROR.to_owned()
            },
            bare_error: error.clone(),
            error,
        }
    }

    /// It failed for a reason that the app did not give.
    pub fn failed(reason: &str, error: impl Into<String>) -> Self {
        let error = error.into();
        Self {
            status: Status::Failed,
            status_code: 0,
            ran: Duration::ZERO,
            result_bytes: 0,
            reason: reason.to_owned(),
            bare_error: error.clone(),
            error,
        }
    }

    /// A failure of the platform ends it: a deadline is TIMEOUT, anything else FAILED.
    pub fn platform(failure: &Failure) -> Self {
        Self {
            status: if failure.reason.is_deadline() {
                Status::TimedOut
            } else {
                Status::Failed
            },
            bare_error: failure.text(false),
            ..Self::failed(failure.reason.as_str(), failure.text(true))
        }
    }

    /// The deadline passed after this many attempts without a response; `last` is the last failure.
    pub fn deadline_exceeded(attempts: u32, last: &Failure) -> Self {
        let words = |owner| {
            let last = last.text(owner);
            match attempts {
                0 => format!("the deadline passed before it could be run: {last}"),
                1 => format!(
                    "it was sent to the app once, without an answer, and the deadline left no time for another attempt: {last}"
                ),
                n => format!(
                    "it was sent to the app {n} times, without an answer, and the deadline left no time for another attempt: {last}"
                ),
            }
        };
        Self {
            status: Status::TimedOut,
            bare_error: words(false),
            ..Self::failed(last.reason.as_str(), words(true))
        }
    }

    /// A caller cancelled it.
    pub fn cancelled() -> Self {
        Self::failed(cause::CANCELLED, "it was cancelled")
    }
}

/// A requested change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new attempt begins.
    Begin {
        /// The version that will run it.
        version: u32,
        /// The app's tier at that time.
        tier: Tier,
    },
    /// An attempt has ended it.
    Finish {
        /// The attempt; only the newest one changes anything.
        attempt: u32,
        /// The end.
        completion: Completion,
    },
    /// Ends it whatever attempt runs.
    End(Completion),
}

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The execution had ended already.
    Ended,
    /// A newer attempt has begun.
    Outdated,
}

impl State {
    /// Why it failed, in words for a reader: only the owner may read what a container logged.
    pub fn error_for(&self, caller_owns_app: bool) -> &str {
        // Other texts of the platform contain nothing of the app's.
        let is_secret = || self.bare_error.is_empty() && Reason::parse(&self.reason).is_some();
        match caller_owns_app {
            false if is_secret() => "the app could not be run; its own organization is told why",
            false if !self.bare_error.is_empty() => &self.bare_error,
            _ => &self.error,
        }
    }

    /// The state after a change, at `now_ms`.
    ///
    /// # Errors
    /// When the change comes too late.
    pub fn after(&self, change: Change, now_ms: i64) -> Result<State, Refused> {
        if self.status.is_terminal() {
            return Err(Refused::Ended);
        }
        let completion = match change {
            Change::Begin { version, tier } => {
                return Ok(State {
                    status: Status::Running,
                    attempt: self.attempt + 1,
                    version,
                    tier,
                    started_at_ms: now_ms,
                    ..State::default()
                });
            }
            Change::Finish { attempt, .. } if attempt != self.attempt => {
                return Err(Refused::Outdated);
            }
            Change::Finish { completion, .. } | Change::End(completion) => completion,
        };
        Ok(State {
            status: completion.status,
            completed_at_ms: now_ms,
            status_code: completion.status_code,
            execution_ms: completion.ran.as_millis() as i64,
            result_bytes: completion.result_bytes,
            reason: completion.reason,
            error: completion.error,
            bare_error: completion.bare_error,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = Change> {
        let completion = prop_oneof![
            (100u16..600).prop_map(|s| Completion::answered(s, Duration::from_millis(3), 7)),
            Just(Completion::cancelled()),
            Just(Completion::platform(&Failure::new(
                Reason::RequestTimeout,
                "late"
            ))),
        ];
        prop_oneof![
            (1u32..9).prop_map(|version| Change::Begin {
                version,
                tier: Tier::Small
            }),
            (0u32..6, completion.clone()).prop_map(|(attempt, completion)| Change::Finish {
                attempt,
                completion
            }),
            completion.prop_map(Change::End),
        ]
    }

    proptest! {
        /// Whatever is requested in whatever order: an end never changes, attempts only increase,
        /// and only the newest attempt has an effect.
        #[test]
        fn ends_are_final_and_old_attempts_powerless(changes in prop::collection::vec(change(), 1..40)) {
            let mut state = State::default();
            for (at, change) in changes.into_iter().enumerate() {
                match state.after(change.clone(), at as i64 + 1) {
                    Err(Refused::Ended) => prop_assert!(state.status.is_terminal()),
                    Err(Refused::Outdated) => {
                        let stale = matches!(change, Change::Finish { attempt, .. } if attempt != state.attempt);
                        prop_assert!(stale);
                    }
                    Ok(next) => {
                        prop_assert!(!state.status.is_terminal());
                        prop_assert!(next.attempt >= state.attempt);
                        prop_assert_eq!(next.completed_at_ms > 0, next.status.is_terminal());
                        let failed = matches!(next.status, Status::Failed | Status::TimedOut);
                        prop_assert_eq!(failed, !next.reason.is_empty());
                        prop_assert!(next.status != Status::Pending);
                        state = next;
                    }
                }
            }
        }
    }

    #[test]
    fn a_status_below_400_is_success_and_the_deadlines_reasons_are_timeouts() {
        let of = |code| Completion::answered(code, Duration::ZERO, 0).status;
        assert_eq!((of(399), of(400)), (Status::Completed, Status::Failed));
        for reason in Reason::ALL {
            let completion = Completion::platform(&Failure::new(*reason, "x"));
            assert_eq!(completion.status == Status::TimedOut, reason.is_deadline());
            assert_eq!(completion.reason, reason.as_str());
        }
    }

    #[test]
    fn what_a_container_said_is_told_to_the_apps_own_organization_only() {
        let failure = Failure::new(Reason::ContainerExited, "it ended").with_detail("log: secret");
        for completion in [
            Completion::platform(&failure),
            Completion::deadline_exceeded(0, &failure),
            Completion::deadline_exceeded(2, &failure),
        ] {
            let state = State::default().after(Change::End(completion), 1);
            let mut state = state.expect("an end");
            assert!(state.error_for(true).ends_with("it ended: log: secret"));
            assert!(state.error_for(false).ends_with("it ended"));
            // As versions that stored one text for all wrote it.
            state.bare_error.clear();
            assert!(state.error_for(true).contains("secret"));
            assert!(!state.error_for(false).is_empty() && !state.error_for(false).contains("log"));
        }
        for completion in [
            Completion::answered(500, Duration::ZERO, 0),
            Completion::cancelled(),
        ] {
            let state = State::default().after(Change::End(completion), 1);
            let mut state = state.expect("an end");
            let told = state.error.clone();
            assert_eq!(state.error_for(false), told);
            state.bare_error.clear();
            assert_eq!(state.error_for(false), told);
        }
        assert_eq!(State::default().error_for(false), "");
    }

    #[test]
    fn an_end_for_want_of_time_says_whether_it_ever_ran() {
        let broke = Failure::new(Reason::ReplicaBroke, "the connection broke");
        let never = Completion::deadline_exceeded(0, &broke).error;
        assert!(never.contains("before it could be run"), "{never}");
        for (attempts, words) in [(1, "once"), (2, "2 times")] {
            let completion = Completion::deadline_exceeded(attempts, &broke);
            assert_eq!(completion.status, Status::TimedOut);
            assert!(completion.error.contains(words), "{}", completion.error);
            assert!(!completion.error.contains("before it could be run"));
            assert!(completion.error.ends_with("the connection broke"));
        }
    }

    #[test]
    fn numbers_of_statuses_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_number(status as u32), Some(status));
        }
        assert_eq!(Status::from_number(0), None);
    }
}
