//! Why an engine call failed, and what that means for callers.

use std::time::Duration;

use super::ContainerId;
use crate::model::{Failure, Reason};

/// Why an engine call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the engine's address.
    #[error(
        "the container engine at {address} does not answer ({cause}); {}",
        remedy(cause)
    )]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// The transport's message.
        cause: String,
    },
    /// There is no file descriptor left to reach the engine with; the engine itself may be fine.
    #[error(
        "the platform has no file descriptors left, so it cannot reach the container engine; raise its limit (`LimitNOFILE=` of the service, `ulimit -n`), or lower IGNITE_MAX_CONNECTIONS"
    )]
    NoDescriptors,
    /// The image is not here and cannot be pulled.
    #[error("image {reference:?} is not on this machine and cannot be pulled: {cause}")]
    NoSuchImage {
        /// The reference as given.
        reference: String,
        /// What the engine or the registry said.
        cause: String,
    },
    /// The container is gone.
    #[error("container {0} is gone")]
    NoSuchContainer(ContainerId),
    /// The container ended before its address could be read; it can still be inspected and its log
    /// read.
    #[error("container {id} ended with exit code {code} as soon as it was started")]
    Ended {
        /// The container.
        id: ContainerId,
        /// The exit status of its first process.
        code: i64,
        /// Whether the kernel killed it for its memory limit.
        oom_killed: bool,
    },
    /// The engine's address, from the configuration or `DOCKER_HOST`, cannot be used.
    #[error("the engine address {value:?} cannot be used: {why}")]
    BadAddress {
        /// The value as given.
        value: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// The engine answered with an error.
    #[error("the container engine refused to {call}: {message}")]
    Refused {
        /// The call, as a verb.
        call: &'static str,
        /// HTTP status of the engine's response; 0 when there was none.
        status: u16,
        /// The engine's message.
        message: String,
    },
    /// Containers cannot be isolated from this host as configured, so none is started.
    #[error("apps cannot be kept from this host: {why}")]
    NotIsolated {
        /// What is in the way, and the remedy.
        why: String,
    },
    /// The engine took too long; whether the call took effect is unknown.
    #[error("the container engine did not {call} within {}", humantime::format_duration(*.after))]
    TimedOut {
        /// The call, as a verb.
        call: &'static str,
        /// How long the call was awaited.
        after: Duration,
    },
}

/// The remedy when nothing responds at the engine's address, by the transport's message.
fn remedy(cause: &str) -> &'static str {
    let lower = cause.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    if has(&["permission denied"]) {
        "this user may not open the socket: add it to the group that owns it, usually docker"
    } else if has(&["certificate", "tls", "handshake"]) {
        "check the certificates in DOCKER_CERT_PATH, and DOCKER_TLS_VERIFY"
    } else if has(&["cannot be resolved", "resolving the name"]) {
        "check the name in DOCKER_HOST"
    } else {
        "start it, or set DOCKER_HOST to where it listens"
    }
}

impl Error {
    /// The failure of a request that waits for a start: its reason, and a message that everyone may
    /// read. The engine's own words about a container are for the app's owner.
    pub fn to_start_failure(&self) -> Failure {
        match self {
            Error::NoSuchContainer(_)
            | Error::Ended { .. }
            | Error::Refused { .. }
            | Error::TimedOut { .. }
                if !self.is_pool_used_up() =>
            {
                Failure::new(Reason::StartFailed, "the container could not be started")
                    .with_detail(self.to_string())
            }
            _ => self.to_failure(),
        }
    }

    /// Whether the engine has no address range left for another network.
    pub(super) fn is_pool_used_up(&self) -> bool {
        let Error::Refused { message, .. } = self else {
            return false;
        };
        // Docker's words, which differ by version, and Podman's.
        message.contains("address pool") || message.contains("subnet pool")
    }

    /// The failure for callers: its reason, and a message that everyone may read. The engine's own
    /// words are for the app's owner.
    pub fn to_failure(&self) -> Failure {
        match self {
            Error::Unreachable { .. } => Failure::new(Reason::EngineUnavailable, self.to_string())
                .with_retry_after(Duration::from_secs(1)),
            Error::BadAddress { .. } => Failure::new(Reason::EngineUnavailable, self.to_string()),
            Error::NoDescriptors => Failure::new(Reason::NoDescriptors, self.to_string())
                .with_retry_after(Duration::from_secs(1)),
            Error::Refused { .. } if self.is_pool_used_up() => Failure::new(
                Reason::StartFailed,
                "the container engine has no address range left for a network; `ignite prune` removes those of instances that are gone, `docker network prune` others that are unused, and `default-address-pools` of the engine makes room for more",
            )
            .with_detail(self.to_string()),
            Error::NoSuchImage { .. } => Failure::new(Reason::ImageUnavailable, self.to_string()),
            Error::Refused { call, .. } => Failure::new(
                Reason::EngineUnavailable,
                format!("the container engine refused to {call}; its log may say more"),
            )
            .with_detail(self.to_string()),
            Error::TimedOut { .. } => Failure::new(
                Reason::EngineUnavailable,
                format!("{self}; try again, and see to the engine when it stays so slow"),
            )
            .with_retry_after(Duration::from_secs(1)),
            Error::NotIsolated { .. } => Failure::new(
                Reason::EngineUnavailable,
                "no app is started, since this server cannot keep apps from its host; its log has the cause",
            )
            .with_detail(self.to_string()),
            Error::NoSuchContainer(_) | Error::Ended { .. } => {
                Failure::new(Reason::ContainerExited, "the container is gone")
                    .with_detail(self.to_string())
            }
        }
    }

    /// Whether the same call may succeed later without a change of the configuration.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::NoDescriptors | Error::TimedOut { .. } => true,
            // In conflict with another operation, too many at once, or the engine's own trouble.
            Error::Refused { status, .. } => matches!(status, 408 | 409 | 429) || *status >= 500,
            Error::NoSuchImage { .. }
            | Error::NoSuchContainer(_)
            | Error::Ended { .. }
            | Error::NotIsolated { .. }
            | Error::BadAddress { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_what_the_transport_or_the_engine_says() {
        let unreachable = |cause: &str| {
            let address = "unix:///var/run/docker.sock".into();
            let cause = cause.into();
            Error::Unreachable { address, cause }.to_failure().message
        };
        for (cause, words) in [
            ("Permission denied (os error 13)", "group that owns it"),
            ("No such file or directory (os error 2)", "start it"),
            ("Connection refused (os error 111)", "start it"),
            (
                "invalid peer certificate: UnknownIssuer",
                "DOCKER_CERT_PATH",
            ),
        ] {
            let message = unreachable(cause);
            assert!(message.contains(words), "{message}");
        }
        let failure = Error::NoDescriptors.to_failure();
        assert_eq!(failure.reason, Reason::NoDescriptors);
        assert!(!failure.message.contains("DOCKER_HOST"), "{failure}");
        for message in [
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
            "all predefined address pools have been fully subnetted",
            "could not find free subnet from subnet pools",
        ] {
            let full = Error::Refused {
                call: "create the network",
                status: 404,
                message: message.into(),
            };
            let failure = full.to_start_failure();
            assert!(failure.message.contains("ignite prune"), "{failure}");
        }
        let slow = Error::TimedOut {
            call: "read the container's log",
            after: Duration::from_secs(30),
        };
        let failure = slow.to_failure();
        assert_eq!(failure.reason, Reason::EngineUnavailable);
        assert!(
            failure.message.contains("read the container's log"),
            "{failure}"
        );
        assert_eq!(slow.to_start_failure().reason, Reason::StartFailed);
    }
}
