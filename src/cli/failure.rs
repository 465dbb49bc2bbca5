//! How a command can fail, and the exit code for each failure.

use std::{
    error::Error as _,
    fmt::Write as _,
    io,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use super::{spinner::beside, text};
use crate::api::proto::rpc;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Error {
    /// The command line is invalid.
    Usage(String),
    /// No server could be reached.
    Unreachable(String),
    /// The time given with `--timeout` has run out.
    TimedOut(Duration),
    /// The server answered with an error.
    Api {
        /// The status in the answer.
        status: Box<tonic::Status>,
        /// What the user can do about it, if known.
        hint: Option<String>,
    },
    /// The app answered with a status of 400 or above.
    AppFailed(u16),
    /// An execution failed; in words.
    ExecutionFailed(String),
    /// The draft could not be built; in words.
    BuildFailed(String),
    /// A version did not become active, according to an event of the app; in words.
    PublishFailed(String),
    /// A command in a replica ended with this code, and has said itself why.
    Exit(u8),
    /// The user interrupted the command; a note has already said what continues.
    Interrupted,
    /// The reader of stdout has closed it.
    Closed,
    /// Any other failure, on this machine.
    Other(anyhow::Error),
}

/// Whether errors are for programs: one line of JSON on stderr.
static FOR_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// Says whether answers are asked for in a format for programs; errors follow it.
pub(super) fn speak(to_programs: bool) {
    FOR_PROGRAMS.store(to_programs, Ordering::Relaxed);
}

/// Whether errors are for programs.
pub(super) fn is_for_programs() -> bool {
    FOR_PROGRAMS.load(Ordering::Relaxed)
}

/// Prints the error of a command that ends with this code.
pub(super) fn fatal(name: &str, code: u8, text: &str) -> ExitCode {
    if is_for_programs() {
        let error = json!({ "code": name, "message": text, "exitCode": code });
        note(&json!({ "error": error }).to_string());
    } else {
        note(text);
    }
    ExitCode::from(code)
}

/// The command line is invalid: clap's own code, and that of InvalidArgument.
const USAGE: u8 = 2;

/// The exit code that the contract gives a gRPC status; 1 for statuses it does not name.
fn exit_code(code: Code) -> u8 {
    match code {
        Code::Ok => 0,
        Code::InvalidArgument => 2,
        Code::Unauthenticated => 3,
        Code::PermissionDenied => 4,
        Code::NotFound => 5,
        Code::AlreadyExists => 6,
        Code::ResourceExhausted => 7,
        Code::DeadlineExceeded => 8,
        Code::Unavailable => 9,
        Code::Internal => 10,
        _ => 1,
    }
}

impl Error {
    /// The gRPC status, if the server answered with one.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Error::Api { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// Whether the server is away, or going, so that the same call may succeed later.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Error::Unreachable(_) => true,
            Error::Api { status, .. } => {
                !is_answer(status) || reason(status).as_deref() == Some("SHUTTING_DOWN")
            }
            _ => false,
        }
    }

    /// Adds a hint to a NotFound that has none.
    #[must_use]
    pub(super) fn or_hint(self, what: Option<String>) -> Self {
        match self {
            Error::Api { status, hint: None } if status.code() == Code::NotFound => {
                Error::Api { status, hint: what }
            }
            other => other,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => USAGE,
            Error::Unreachable(_) => exit_code(Code::Unavailable),
            Error::TimedOut(_) => exit_code(Code::DeadlineExceeded),
            Error::Api { status, .. } => exit_code(status.code()),
            Error::AppFailed(_)
            | Error::ExecutionFailed(_)
            | Error::BuildFailed(_)
            | Error::PublishFailed(_)
            | Error::Other(_) => 1,
            Error::Exit(code) => *code,
            // The code by which shells report death by SIGINT.
            Error::Interrupted => 130,
            // A reader that closes the pipe has seen enough; this is not a failure.
            Error::Closed => 0,
        }
    }

    /// What happened, for people.
    pub(super) fn message(&self) -> String {
        self.text().unwrap_or_default()
    }

    fn text(&self) -> Option<String> {
        Some(match self {
            Error::Usage(why) | Error::Unreachable(why) => why.clone(),
            // These contain text written by apps and builds.
            Error::ExecutionFailed(why) | Error::BuildFailed(why) | Error::PublishFailed(why) => {
                text::quoted(why)
            }
            Error::TimedOut(after) => format!(
                "no answer within {}; allow more time with --timeout",
                humantime::format_duration(*after)
            ),
            Error::Api { status, hint } => {
                let mut text = describe(status);
                if let Some(hint) = hint {
                    let _ = write!(text, "\n{hint}");
                }
                text
            }
            Error::AppFailed(status) => format!("the app answered with status {status}"),
            Error::Closed | Error::Interrupted | Error::Exit(_) => return None,
            Error::Other(e) => format!("{e:#}"),
        })
    }

    /// Says on stderr what happened.
    pub(super) fn print(&self) {
        match self.text() {
            Some(_) if is_for_programs() => {
                note(&json!({ "error": self.for_programs() }).to_string());
            }
            Some(text) => note(&format!("error: {text}")),
            None => {}
        }
    }

    /// What happened, for programs: the name of the gRPC status, or what comes nearest to it.
    fn for_programs(&self) -> Value {
        let code = match self {
            Error::Usage(_) => "INVALID_ARGUMENT",
            Error::Unreachable(_) => "UNAVAILABLE",
            Error::TimedOut(_) => "DEADLINE_EXCEEDED",
            Error::Api { status, .. } => code_name(status.code()),
            Error::AppFailed(_) => "APP_FAILED",
            Error::ExecutionFailed(_) => "EXECUTION_FAILED",
            Error::BuildFailed(_) => "BUILD_FAILED",
            Error::PublishFailed(_) => "PUBLISH_FAILED",
            Error::Exit(_) | Error::Interrupted | Error::Closed | Error::Other(_) => "FAILED",
        };
        let mut all = json!({
            "code": code,
            "message": self.message(),
            "exitCode": self.exit_code(),
        });
        match self {
            Error::AppFailed(status) => all["httpStatus"] = (*status).into(),
            Error::Api { status, hint } => {
                all["message"] = status.message().into();
                let details = Details::of(status);
                all["reason"] = details.reason.into();
                let field = |f: rpc::bad_request::FieldViolation| json!({ "field": f.field, "description": f.description });
                all["fields"] = details.fields.into_iter().map(field).collect();
                all["hint"] = hint.clone().unwrap_or_default().into();
            }
            _ => {}
        }
        all
    }

    /// Says on stderr what happened and returns the exit code.
    pub(super) fn report(self) -> ExitCode {
        self.print();
        ExitCode::from(self.exit_code())
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Other(e.into()),
        }
    }
}

impl From<anyhow::Error> for Error {
    fn from(e: anyhow::Error) -> Self {
        Error::Other(e)
    }
}

/// The error for a file that the command line names and that cannot be read.
pub(super) fn unreadable(what: &str, file: &Path, error: &io::Error) -> Error {
    let (shown, remedy) = (
        file.display(),
        match error.kind() {
            io::ErrorKind::NotFound => "there is no such file; check the path",
            io::ErrorKind::PermissionDenied => "permission denied; have it readable for you",
            io::ErrorKind::IsADirectory => "it is a folder; name a file in it",
            _ => return Error::Usage(format!("{what} {} cannot be read: {error}", file.display())),
        },
    );
    Error::Usage(format!("{what} {shown} cannot be read: {remedy}"))
}

/// Whether the server itself answered: an error that only reports a broken connection carries no
/// reason.
pub(super) fn is_answer(status: &tonic::Status) -> bool {
    let broken = [
        Code::Unavailable,
        Code::Unknown,
        Code::Internal,
        Code::Cancelled,
        Code::DeadlineExceeded,
    ];
    reason(status).is_some() || !broken.contains(&status.code())
}

/// The reason that the server gave for a failure.
fn reason(status: &tonic::Status) -> Option<String> {
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let mut details = details.into_iter();
    let info = details.find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    let info = rpc::ErrorInfo::decode(info.value.as_ref()).ok()?;
    Some(info.reason)
}

/// Prints a line for people on stderr, with hidden characters escaped. A closed stderr is ignored.
pub(super) fn note(line: &str) {
    use std::io::Write as _;
    let _ = beside(|| writeln!(io::stderr(), "{}", text::shown(line)));
}

/// Shows the warnings of an answer.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(&format!("warning: {}", text::quoted(warning)));
    }
}

/// The message, the reason, and the invalid fields unless the message already names them.
fn describe(status: &tonic::Status) -> String {
    let mut text = match status.message() {
        "" => format!("the server answered {:?}", status.code()),
        message => text::quoted(message),
    };
    // For a broken connection tonic's own message says only that the transport failed; the source
    // says why.
    let mut source = status.source();
    while let Some(cause) = source {
        if cause.source().is_none() && !text.contains(&cause.to_string()) {
            let _ = write!(text, ": {cause}");
        }
        source = cause.source();
    }
    let details = Details::of(status);
    if !details.reason.is_empty() {
        let _ = write!(text, " ({})", details.reason);
    }
    for wrong in details.fields {
        if !text.contains(&wrong.description) {
            let _ = write!(
                text,
                "\n  {}: {}",
                wrong.field,
                text::quoted(&wrong.description)
            );
        }
    }
    text
}

/// The details of a status.
#[derive(Default)]
struct Details {
    reason: String,
    fields: Vec<rpc::bad_request::FieldViolation>,
}

impl Details {
    fn of(status: &tonic::Status) -> Self {
        let mut all = Self::default();
        let Ok(details) = rpc::Status::decode(status.details()) else {
            return all;
        };
        for any in details.details {
            if any.type_url.ends_with("/google.rpc.ErrorInfo") {
                if let Ok(info) = rpc::ErrorInfo::decode(any.value.as_ref()) {
                    all.reason = info.reason;
                }
            } else if any.type_url.ends_with("/google.rpc.BadRequest")
                && let Ok(bad) = rpc::BadRequest::decode(any.value.as_ref())
            {
                all.fields.extend(bad.field_violations);
            }
        }
        all
    }
}

/// The name of a code, as JSON over HTTP has it.
fn code_name(code: Code) -> &'static str {
    rpc::Code::try_from(i32::from(code)).map_or("UNKNOWN", |code| code.as_str_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contracts() {
        let codes: Vec<u8> = [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::NotFound,
            Code::AlreadyExists,
            Code::ResourceExhausted,
            Code::DeadlineExceeded,
            Code::Unavailable,
            Code::Internal,
        ]
        .into_iter()
        .map(exit_code)
        .collect();
        assert_eq!(codes, [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(exit_code(Code::FailedPrecondition), 1);
        assert_eq!(Error::Unreachable(String::new()).exit_code(), 9);
        assert_eq!(Error::TimedOut(Duration::ZERO).exit_code(), 8);
        assert_eq!(
            Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(),
            0
        );
    }

    #[test]
    fn the_reason_and_the_fields_are_shown_once() {
        let any = |name: &str, value: Vec<u8>| prost_types::Any {
            type_url: format!("type.googleapis.com/google.rpc.{name}"),
            value,
        };
        let info = rpc::ErrorInfo {
            reason: "INVALID_ARGUMENT".to_owned(),
            ..Default::default()
        };
        let violation = |field: &str, description: &str| rpc::bad_request::FieldViolation {
            field: field.to_owned(),
            description: description.to_owned(),
        };
        let bad = rpc::BadRequest {
            field_violations: vec![violation("a", "is odd"), violation("b", "is long")],
        };
        let details = rpc::Status {
            code: 3,
            message: String::new(),
            details: vec![
                any("ErrorInfo", info.encode_to_vec()),
                any("BadRequest", bad.encode_to_vec()),
            ],
        };
        let status = tonic::Status::with_details(
            Code::InvalidArgument,
            "a: is odd",
            details.encode_to_vec().into(),
        );
        assert_eq!(
            describe(&status),
            "a: is odd (INVALID_ARGUMENT)\n  b: is long"
        );
        assert_eq!(
            describe(&tonic::Status::not_found("")),
            "the server answered NotFound"
        );
    }
}
