//! One engine call: a client, a time limit, and errors in our terms.

use std::{sync::Arc, time::Duration};

use bollard::{errors::Error as ClientError, query_parameters::RemoveContainerOptions};

use tokio::time::Instant;

use super::{ContainerId, Error, connect::Connector};
use crate::metrics::{CallOutcome, Metrics};

/// What every part of the implementation makes its calls with. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    connector: Arc<Connector>,
    /// The limit of an ordinary call.
    limit: Duration,
    /// Where calls are counted.
    metrics: Arc<Metrics>,
}

impl Client {
    pub(super) fn new(connector: Connector, limit: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            connector: Arc::new(connector),
            limit,
            metrics,
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The limit of an ordinary call.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Makes an ordinary call. `call` names it in the error, as a verb.
    pub(super) async fn run<T, F>(
        &self,
        call: &'static str,
        f: impl FnOnce(bollard::Docker) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.run_within(call, self.limit, f).await
    }

    /// Makes a call that may take `limit`, including the body of its response.
    pub(super) async fn run_within<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        f: impl FnOnce(bollard::Docker) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let client = self.connector.client()?;
        let began = Instant::now();
        let outcome = match tokio::time::timeout(limit, f(client)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(self.translate(call, limit, cause)),
            Err(_) => Err(Error::TimedOut { call, after: limit }),
        };
        let ended = match &outcome {
            Ok(_) => CallOutcome::Ok,
            Err(Error::TimedOut { .. }) => CallOutcome::TimedOut,
            Err(Error::Unreachable { .. } | Error::NoDescriptors) => CallOutcome::Unreachable,
            Err(_) => CallOutcome::Refused,
        };
        self.metrics.engine.ended(call, ended, began.elapsed());
        outcome
    }

    /// Translates an error of the client into ours.
    pub(super) fn translate(
        &self,
        call: &'static str,
        limit: Duration,
        cause: ClientError,
    ) -> Error {
        match cause {
            ClientError::DockerResponseServerError {
                status_code,
                message,
            } => {
                if status_code == 400 && message.contains("client version") {
                    self.connector.forget_version();
                }
                Error::Refused {
                    call,
                    status: status_code,
                    message: message.trim().to_owned(),
                }
            }
            ClientError::DockerStreamError { error } => Error::Refused {
                call,
                status: 0,
                message: error.trim().to_owned(),
            },
            ClientError::RequestTimeoutError => Error::TimedOut { call, after: limit },
            // Every failure of the transport: refused, reset, closed before the response.
            cause @ (ClientError::HyperLegacyError { .. }
            | ClientError::HyperResponseError { .. }
            | ClientError::IOError { .. }
            | ClientError::SocketNotFoundError(_)) => {
                self.connector.forget();
                self.connector.unreachable(&cause)
            }
            other => Error::Refused {
                call,
                status: 0,
                message: other.to_string(),
            },
        }
    }
}

/// Whether the engine responded with this HTTP status.
pub(super) fn has_status(err: &Error, wanted: u16) -> bool {
    matches!(err, Error::Refused { status, .. } if *status == wanted)
}

/// Turns "not found" into success, for calls that only want the object gone.
pub(super) fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(err) if has_status(&err, 404) => Ok(()),
        other => other,
    }
}

/// Turns the engine's 404 into "this container is gone".
pub(super) fn or_gone<T>(result: Result<T, Error>, id: &ContainerId) -> Result<T, Error> {
    match result {
        Err(err) if has_status(&err, 404) => Err(Error::NoSuchContainer(id.clone())),
        other => other,
    }
}

/// Removes a container by force; one that is gone or being removed is a success.
pub(super) async fn remove_container(client: &Client, id: &ContainerId) -> Result<(), Error> {
    let options = RemoveContainerOptions {
        force: true,
        v: true,
        link: false,
    };
    let removed = client
        .run("remove the container", |docker| async move {
            docker.remove_container(&id.0, Some(options)).await
        })
        .await;
    match removed {
        Err(Error::Refused {
            status: 409,
            message,
            ..
        }) if message.contains("already in progress") => Ok(()),
        other => gone_is_fine(other),
    }
}
