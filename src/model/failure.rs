//! Every way a request can fail, with the one table that maps it to HTTP and gRPC.
//!
//! A [`Failure`] is created where the cause is known and carried unchanged to the edge. The edge
//! (`api/status.rs`, for gRPC, JSON and app URLs) only renders it, so the transports cannot drift
//! apart. Details for the app's owner (exit codes, log lines) travel in [`Failure::detail`] and are
//! dropped for every other caller.

use std::time::Duration;

/// A gRPC status code; the numbers are those of `google.rpc.Code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The request is wrong; no retry helps.
    InvalidArgument = 3,
    /// A deadline passed before the work was done.
    DeadlineExceeded = 4,
    /// The named thing does not exist, or not for this caller.
    NotFound = 5,
    /// The thing to create exists already.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// A limit or quota is reached.
    ResourceExhausted = 8,
    /// The current state of the thing does not allow the operation.
    FailedPrecondition = 9,
    /// A newer operation ended this one; the caller may try again.
    Aborted = 10,
    /// The operation is declared but not implemented.
    Unimplemented = 12,
    /// A bug in the platform.
    Internal = 13,
    /// Temporarily unavailable; a retry may help.
    Unavailable = 14,
    /// The caller is not known.
    Unauthenticated = 16,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $wire:literal, $http:literal, $code:ident;)*) => {
        /// Why a request failed: the value of `x-ignite-error` and of `ErrorInfo.reason`.
        ///
        /// `src/docs/errors.md` has a line of remedy for each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name on the wire, in SCREAMING_SNAKE_CASE.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $wire,)* }
            }

            /// The HTTP status of a response that fails for this reason.
            pub const fn http_status(self) -> u16 {
                match self { $(Reason::$name => $http,)* }
            }

            /// The gRPC status code of a response that fails for this reason.
            pub const fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// One or more fields are wrong; each is named in the violations.
    InvalidArgument = "INVALID_ARGUMENT", 400, InvalidArgument;
    /// The body is not the JSON, the HTTP or the protobuf that the method takes.
    MalformedRequest = "MALFORMED_REQUEST", 400, InvalidArgument;
    /// No such app, version, draft, execution or route.
    NotFound = "NOT_FOUND", 404, NotFound;
    /// An app of this name, or an app with the same host label, exists.
    AlreadyExists = "ALREADY_EXISTS", 409, AlreadyExists;
    /// The app has no published version yet, or no draft to publish.
    NotPublished = "NOT_PUBLISHED", 400, FailedPrecondition;
    /// The state of the app does not allow the operation.
    FailedPrecondition = "FAILED_PRECONDITION", 400, FailedPrecondition;
    /// A newer operation on the app ended this one before it changed anything.
    Aborted = "ABORTED", 409, Aborted;
    /// The app is being deleted.
    AppDeleted = "APP_DELETED", 404, NotFound;
    /// No bearer token, or a token that does not verify.
    Unauthenticated = "UNAUTHENTICATED", 401, Unauthenticated;
    /// The token's organization may not do this.
    PermissionDenied = "PERMISSION_DENIED", 403, PermissionDenied;
    /// The server does not serve the host that the request names.
    MisdirectedRequest = "MISDIRECTED_REQUEST", 421, FailedPrecondition;
    /// The route does not have the method of the request.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, Unimplemented;
    /// The request's body exceeds its configured limit.
    BodyTooLarge = "BODY_TOO_LARGE", 413, ResourceExhausted;
    /// Too many requests are held for this app.
    HoldQueueFull = "HOLD_QUEUE_FULL", 429, ResourceExhausted;
    /// Too many requests of this app or organization are in flight.
    TooManyRequests = "TOO_MANY_REQUESTS", 429, ResourceExhausted;
    /// Too many connections are open.
    TooManyConnections = "TOO_MANY_CONNECTIONS", 503, Unavailable;
    /// The client did not send or receive in time.
    ClientTooSlow = "CLIENT_TOO_SLOW", 408, DeadlineExceeded;
    /// Too many executions of this app have not ended.
    ExecutionQueueFull = "EXECUTION_QUEUE_FULL", 429, ResourceExhausted;
    /// The idempotency key was used with another request.
    IdempotencyConflict = "IDEMPOTENCY_CONFLICT", 409, AlreadyExists;
    /// The machine lacks the capacity for the replica that is needed.
    NoRoom = "NO_ROOM", 429, ResourceExhausted;
    /// The organization uses more of the disk than it may.
    DiskQuota = "DISK_QUOTA", 429, ResourceExhausted;
    /// The organization keeps as much in the store as it may.
    StoreQuota = "STORE_QUOTA", 429, ResourceExhausted;
    /// The request has passed through too many apps, one calling the next.
    LoopDetected = "LOOP_DETECTED", 508, FailedPrecondition;
    /// What the call waited for did not happen in time.
    WaitTimeout = "WAIT_TIMEOUT", 504, DeadlineExceeded;
    /// No replica became free within the cold-start budget.
    ColdStartTimeout = "COLD_START_TIMEOUT", 504, DeadlineExceeded;
    /// The app did not respond within its timeout plus the cold-start budget.
    RequestTimeout = "REQUEST_TIMEOUT", 504, DeadlineExceeded;
    /// The container engine does not answer.
    EngineUnavailable = "ENGINE_UNAVAILABLE", 503, Unavailable;
    /// The platform has no file descriptor left.
    NoDescriptors = "NO_DESCRIPTORS", 503, Unavailable;
    /// The image is not on this machine and cannot be pulled.
    ImageUnavailable = "IMAGE_UNAVAILABLE", 400, FailedPrecondition;
    /// The code cannot be built into an image.
    BuildFailed = "BUILD_FAILED", 400, FailedPrecondition;
    /// The build was cancelled, or its draft was replaced.
    BuildCancelled = "BUILD_CANCELLED", 400, FailedPrecondition;
    /// The build took longer than it may.
    BuildTimeout = "BUILD_TIMEOUT", 504, DeadlineExceeded;
    /// Too many builds are waiting.
    BuildQueueFull = "BUILD_QUEUE_FULL", 429, ResourceExhausted;
    /// The container ended before it was ready.
    ContainerExited = "CONTAINER_EXITED", 503, Unavailable;
    /// The container runs, but its health path never returned a status that counts as ready.
    NotReady = "NOT_READY", 503, Unavailable;
    /// The engine refused to create or start the container.
    StartFailed = "START_FAILED", 503, Unavailable;
    /// The replica refused the connection.
    ReplicaRefused = "REPLICA_REFUSED", 502, Unavailable;
    /// The replica closed or broke the connection before its response was complete.
    ReplicaBroke = "REPLICA_BROKE", 502, Unavailable;
    /// The platform is stopping.
    ShuttingDown = "SHUTTING_DOWN", 503, Unavailable;
    /// The store cannot write the change.
    StoreUnavailable = "STORE_UNAVAILABLE", 503, Unavailable;
    /// The method is part of the contract but not implemented.
    Unimplemented = "UNIMPLEMENTED", 501, Unimplemented;
    /// A bug in the platform; the log has the cause.
    Internal = "INTERNAL", 500, Internal;
}

impl Reason {
    /// Whether a deadline passed, as opposed to an error.
    pub fn is_deadline(self) -> bool {
        matches!(self, Reason::RequestTimeout | Reason::ColdStartTimeout)
    }

    /// The reason with this wire name, if there is one.
    pub fn parse(wire: &str) -> Option<Reason> {
        Self::ALL.iter().copied().find(|r| r.as_str() == wire)
    }
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field in proto spelling, such as `scaling.max_replicas`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub description: String,
}

/// Why a request failed, in words for the caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The machine-readable cause, which fixes both status codes.
    pub reason: Reason,
    /// What was wrong and what to do, for everyone who may see the response.
    pub message: String,
    /// What only the app's own organization may read (exit code, last log lines).
    pub detail: Option<String>,
    /// The wrong fields, when the reason is [`Reason::InvalidArgument`].
    pub fields: Vec<FieldViolation>,
    /// When a retry makes sense, for `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with only a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            detail: None,
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// One wrong field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::fields(vec![FieldViolation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// Several wrong fields; the message names them all.
    pub fn fields(fields: Vec<FieldViolation>) -> Self {
        let message = fields
            .iter()
            .map(|v| format!("{}: {}", v.field, v.description))
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            fields,
            ..Self::new(Reason::InvalidArgument, message)
        }
    }

    /// Adds text that only the app's own organization may read.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The text for one caller: with the detail for the owner, without for others.
    pub fn text(&self, caller_owns_app: bool) -> String {
        match (&self.detail, caller_owns_app) {
            (Some(detail), true) => format!("{}: {detail}", self.message),
            _ => self.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names_and_parse_back() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::parse(r.as_str()), Some(*r));
            assert!(Reason::ALL[..i].iter().all(|o| o.as_str() != r.as_str()));
        }
    }

    #[test]
    fn http_and_grpc_agree_with_the_google_mapping_or_are_listed() {
        // Listed are the reasons for which HTTP has a more precise status than the gRPC code's
        // mapping.
        let sharper = [
            Reason::BodyTooLarge,
            Reason::MethodNotAllowed,
            Reason::MisdirectedRequest,
            Reason::ReplicaRefused,
            Reason::ReplicaBroke,
            Reason::ClientTooSlow,
            Reason::LoopDetected,
        ];
        for r in Reason::ALL.iter().filter(|r| !sharper.contains(r)) {
            let usual = match r.code() {
                Code::InvalidArgument | Code::FailedPrecondition => 400,
                Code::DeadlineExceeded => 504,
                Code::NotFound => 404,
                Code::AlreadyExists | Code::Aborted => 409,
                Code::PermissionDenied => 403,
                Code::ResourceExhausted => 429,
                Code::Unimplemented => 501,
                Code::Internal => 500,
                Code::Unavailable => 503,
                Code::Unauthenticated => 401,
            };
            assert_eq!(r.http_status(), usual, "{r:?}");
        }
    }

    #[test]
    fn detail_is_for_the_owner_only() {
        let f = Failure::new(Reason::ContainerExited, "exited").with_detail("code 3");
        assert_eq!(f.text(true), "exited: code 3");
        assert_eq!(f.text(false), "exited");
    }
}
