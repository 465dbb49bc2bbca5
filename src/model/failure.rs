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

impl Code {
    /// The name in `google.rpc.Code`.
    pub const fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $wire:literal, $http:literal, $code:ident, $remedy:literal;)*) => {
        /// Why a request failed: the value of `x-ignite-error` and of `ErrorInfo.reason`.
        ///
        /// `src/docs/errors.md` is made of this table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name on the wire, in SCREAMING_SNAKE_CASE.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $wire,)* }
            }

            /// What happened, in a sentence of Markdown.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),*).trim(),)* }
            }

            /// What to do about it, in Markdown; links are those of the manual's pages.
            pub const fn remedy(self) -> &'static str {
                match self { $(Reason::$name => $remedy,)* }
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
    InvalidArgument = "INVALID_ARGUMENT", 400, InvalidArgument,
        "correct the fields that `details` names";
    /// The body is not the JSON, the HTTP or the protobuf that the method takes.
    MalformedRequest = "MALFORMED_REQUEST", 400, InvalidArgument,
        "the message says where the JSON or the request breaks";
    /// No such app, version, draft, execution or route.
    NotFound = "NOT_FOUND", 404, NotFound,
        "check name and organization; `ignite app list`";
    /// An app of this name, or an app with the same host label, exists.
    AlreadyExists = "ALREADY_EXISTS", 409, AlreadyExists,
        "take another name or port. Two apps cannot have one host label; one that reads as an \
         app of an organization with a longer name is kept for that, once it has apps";
    /// The app has no published version yet, or no draft to publish.
    NotPublished = "NOT_PUBLISHED", 400, FailedPrecondition,
        "publish a version";
    /// The state of the app does not allow the operation.
    FailedPrecondition = "FAILED_PRECONDITION", 400, FailedPrecondition,
        "first do what the message asks for";
    /// A newer operation on the app ended this one before it changed anything.
    Aborted = "ABORTED", 409, Aborted,
        "ask again if it is still wanted";
    /// The app is being deleted.
    AppDeleted = "APP_DELETED", 404, NotFound,
        "create it again, if it is still wanted";
    /// No bearer token, or a token that does not verify.
    Unauthenticated = "UNAUTHENTICATED", 401, Unauthenticated,
        "`ignite token create --org ORG`, or a fresh token; for a service account after \
         `rotate` or `delete`, its new secret";
    /// The token's organization may not do this.
    PermissionDenied = "PERMISSION_DENIED", 403, PermissionDenied,
        "use a token of the app's organization; where the message names a scope, one whose \
         account has [a role with it](identity.md#what-a-token-opens)";
    /// The server does not serve the host that the request names.
    MisdirectedRequest = "MISDIRECTED_REQUEST", 421, FailedPrecondition,
        "ask for an address, `localhost` or the base domain, or add the name to `api_hosts`";
    /// The route does not have the method of the request.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, Unimplemented,
        "use a method that `Allow` lists";
    /// The request's body exceeds its configured limit.
    BodyTooLarge = "BODY_TOO_LARGE", 413, ResourceExhausted,
        "send it to the app's URL, or raise `max_body_bytes`; at an app's URL \
         `max_request_body_bytes`, for code `max_code_bytes`";
    /// Too many requests are held for this app.
    HoldQueueFull = "HOLD_QUEUE_FULL", 429, ResourceExhausted,
        "try again after `Retry-After`; keep replicas up with `reserved_capacity`; raise the \
         setting that the message names (`hold_max_requests`, `hold_max_bytes`, or either \
         with `_per_org` or `_total`)";
    /// Too many requests of this app or organization are in flight.
    TooManyRequests = "TOO_MANY_REQUESTS", 429, ResourceExhausted,
        "try again after `Retry-After`; raise `max_in_flight_per_app` or `_per_org`, for \
         large messages `api_buffer_bytes` or `_per_org`. Where the message speaks of tokens, \
         keep one until it expires, and see `auth_failures_per_minute`";
    /// Too many connections are open.
    TooManyConnections = "TOO_MANY_CONNECTIONS", 503, Unavailable,
        "reuse connections; raise `max_connections` or `_per_ip`. For an app's URL on one of \
         the last connections, lower `reserved_connections`";
    /// The client did not send or receive in time.
    ClientTooSlow = "CLIENT_TOO_SLOW", 408, DeadlineExceeded,
        "send the body and read the answer without stalling; raise `client_stall_timeout`";
    /// Too many executions of this app have not ended.
    ExecutionQueueFull = "EXECUTION_QUEUE_FULL", 429, ResourceExhausted,
        "try again after `Retry-After`; raise `execution_queue_max`";
    /// The idempotency key was used with another request.
    IdempotencyConflict = "IDEMPOTENCY_CONFLICT", 409, AlreadyExists,
        "send the request as it was, or use a new key";
    /// The machine lacks the capacity for the replica that is needed.
    NoRoom = "NO_ROOM", 429, ResourceExhausted,
        "the message says what holds the capacity; use smaller limits, fewer reserved \
         replicas, or a larger `memory_budget` or `memory_budget_per_org`";
    /// The organization uses more of the disk than it may.
    DiskQuota = "DISK_QUOTA", 429, ResourceExhausted,
        "delete an app whose files are not needed, or ask the operator for more \
         (`disk_quota_per_org`, `inode_quota_per_org`)";
    /// The organization keeps as much in the store as it may.
    StoreQuota = "STORE_QUOTA", 429, ResourceExhausted,
        "the message names the bound: `apps_max_per_org`, `versions_max_per_app` or \
         `stored_bytes_per_org`. Delete apps or secrets that are not needed, wait until old \
         executions are dropped, or ask the operator for more";
    /// The request has passed through too many apps, one calling the next.
    LoopDetected = "LOOP_DETECTED", 508, FailedPrecondition,
        "break the circle, or raise `max_hops` for a chain that is meant to be so long";
    /// What the call waited for did not happen in time.
    WaitTimeout = "WAIT_TIMEOUT", 504, DeadlineExceeded,
        "the message gives the current state; `ignite app events` says why";
    /// No replica became free within the cold-start budget.
    ColdStartTimeout = "COLD_START_TIMEOUT", 504, DeadlineExceeded,
        "the message says what the replica was waiting for; fix that, make the app start \
         faster, or raise `max_concurrency` or the budget";
    /// The app did not respond within its timeout plus the cold-start budget.
    RequestTimeout = "REQUEST_TIMEOUT", 504, DeadlineExceeded,
        "raise the app's `limits.timeout_secs`";
    /// The container engine does not answer.
    EngineUnavailable = "ENGINE_UNAVAILABLE", 503, Unavailable,
        "start Docker, or set `DOCKER_HOST`; the message names a call that the engine refused \
         or did not finish. `ignite doctor` says more";
    /// The platform has no file descriptor left.
    NoDescriptors = "NO_DESCRIPTORS", 503, Unavailable,
        "raise the service's limit of open files (`LimitNOFILE=`, `ulimit -n`), or lower \
         `max_connections`";
    /// The image is not on this machine and cannot be pulled.
    ImageUnavailable = "IMAGE_UNAVAILABLE", 400, FailedPrecondition,
        "check the reference; `docker pull` says more";
    /// The code cannot be built into an image.
    BuildFailed = "BUILD_FAILED", 400, FailedPrecondition,
        "the message has the step and the log's last lines; fix the code and save it again";
    /// The build was cancelled, or its draft was replaced.
    BuildCancelled = "BUILD_CANCELLED", 400, FailedPrecondition,
        "build again";
    /// The build took longer than it may.
    BuildTimeout = "BUILD_TIMEOUT", 504, DeadlineExceeded,
        "make the build faster, or raise `build_timeout_secs`";
    /// Too many builds are waiting.
    BuildQueueFull = "BUILD_QUEUE_FULL", 429, ResourceExhausted,
        "try again after `Retry-After`, also when the build waited already and [made way for \
         another organization's](shares.md); raise `build_queue_max`";
    /// The container ended before it was ready.
    ContainerExited = "CONTAINER_EXITED", 503, Unavailable,
        "the message has exit code and log lines";
    /// The container runs, but its health path never returned a status that counts as ready.
    NotReady = "NOT_READY", 503, Unavailable,
        "listen on `0.0.0.0:$PORT`; answer the health path as the message says";
    /// The engine refused to create or start the container.
    StartFailed = "START_FAILED", 503, Unavailable,
        "the message has the engine's words";
    /// The replica refused the connection.
    ReplicaRefused = "REPLICA_REFUSED", 502, Unavailable,
        "find out why the app stopped listening on that port; how its container ended, if it \
         did, is in the message";
    /// The replica closed or broke the connection before its response was complete.
    ReplicaBroke = "REPLICA_BROKE", 502, Unavailable,
        "the app closed the connection, or did not wake from standby in time, and may have \
         seen the request. How its container ended, if it did, is in the message";
    /// The platform is stopping.
    ShuttingDown = "SHUTTING_DOWN", 503, Unavailable,
        "try again";
    /// The store cannot write the change.
    StoreUnavailable = "STORE_UNAVAILABLE", 503, Unavailable,
        "the answer names the cause: a full disk, the limit of open files, the disk itself. \
         The change was not made, and a restart does not bring it back";
    /// The method is part of the contract but not implemented.
    Unimplemented = "UNIMPLEMENTED", 501, Unimplemented,
        "the message says what to use instead";
    /// A bug in the platform; the log has the cause.
    Internal = "INTERNAL", 500, Internal,
        "report it, with the cause from the log";
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
