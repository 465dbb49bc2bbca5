//! A connection to the API as one caller.

use std::{io, time::Duration};

use futures_util::future::LocalBoxFuture;
use http::Uri;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{super::Error, place::uses_tls, roots::Roots};
use crate::{
    api::proto::{
        local::v1::{
            build_service_client::BuildServiceClient, dev_service_client::DevServiceClient,
            execution_service_client::ExecutionServiceClient,
            host_service_client::HostServiceClient, scaling_service_client::ScalingServiceClient,
            version_service_client::VersionServiceClient,
        },
        v1::{
            self, compute_service_client::ComputeServiceClient,
            secret_service_client::SecretServiceClient,
        },
    },
    model::AppId,
};

/// How long connecting may take: a server that has not accepted by then is treated as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Protobuf's own limit: the server bounds results, and lists and code can exceed tonic's default
/// of 4 MiB.
const MAX_ANSWER_BYTES: usize = i32::MAX as usize;
/// What is said of something that cannot be a token.
const NO_TOKEN: &str = "the token is empty or has characters that no token has: it is of letters, digits and -._~+/=; was something else copied with it?";
/// A followed execution may be silent for hours; keep-alive pings detect a lost connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The generated client with the caller's token.
pub(in crate::cli) type Client = ComputeServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of the calls for executions that this platform adds to the Ignite API.
pub(in crate::cli) type Executions = ExecutionServiceClient<InterceptedService<Channel, Bearer>>;

/// The client of the calls for replicas that this platform adds to the contract.
pub(in crate::cli) type Scaling = ScalingServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of the calls for builds that this platform adds to the contract.
pub(in crate::cli) type Builds = BuildServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of what this platform does for development sessions.
pub(in crate::cli) type Dev = DevServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of what this platform does with host names beyond the contract.
pub(in crate::cli) type Hosts = HostServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of what this platform does with versions beyond the contract.
pub(in crate::cli) type Versions = VersionServiceClient<InterceptedService<Channel, Bearer>>;
/// The client of the organization's secrets.
pub(in crate::cli) type Secrets = SecretServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts the token into each request.
#[derive(Clone)]
pub(in crate::cli) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// One connection, the timeout of its answers, and the hint for an unauthenticated caller.
pub(in crate::cli) struct Session {
    client: Client,
    executions: Executions,
    secrets: Secrets,
    scaling: Scaling,
    builds: Builds,
    dev: Dev,
    hosts: Hosts,
    versions: Versions,
    timeout: Duration,
    hint: Option<String>,
}

impl Session {
    pub(super) async fn open(
        endpoint: Uri,
        roots: &Roots,
        token: Option<String>,
        hint: Option<String>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let bearer = token.map(bearer).transpose()?;
        let mut target = Endpoint::from(endpoint.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Some(TCP_KEEPALIVE));
        if uses_tls(&endpoint) {
            target = target
                .tls_config(roots.config()?)
                .map_err(|e| Error::Other(anyhow::Error::new(e).context("cannot set TLS up")))?;
        }
        let channel = target
            .connect()
            .await
            .map_err(|e| unreachable_at(&endpoint, &e))?;
        let bearer = Bearer(bearer);
        let client = ComputeServiceClient::with_interceptor(channel.clone(), bearer.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let secrets = SecretServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let executions = ExecutionServiceClient::with_interceptor(channel.clone(), bearer.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let scaling = ScalingServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let builds = BuildServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let dev = DevServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let hosts = HostServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let versions = VersionServiceClient::with_interceptor(channel, bearer);
        Ok(Self {
            client,
            executions,
            secrets,
            scaling,
            builds,
            dev,
            hosts,
            versions,
            timeout,
            hint,
        })
    }

    /// A handle for calls; cheap.
    pub(in crate::cli) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A handle for calls of `dodil.ignite.local.v1`; cheap.
    pub(in crate::cli) fn executions(&self) -> Executions {
        self.executions.clone()
    }

    /// A handle for calls about secrets; cheap.
    pub(in crate::cli) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// A handle for calls about builds; cheap.
    pub(in crate::cli) fn builds(&self) -> Builds {
        self.builds.clone()
    }

    /// A handle for calls of development sessions; cheap.
    pub(in crate::cli) fn dev(&self) -> Dev {
        self.dev.clone()
    }

    /// A handle for calls about host names; cheap.
    pub(in crate::cli) fn hosts(&self) -> Hosts {
        self.hosts.clone()
    }

    /// A handle for calls about replicas; cheap.
    pub(in crate::cli) fn scaling(&self) -> Scaling {
        self.scaling.clone()
    }

    /// A handle for calls about versions beyond the contract; cheap.
    pub(in crate::cli) fn versions(&self) -> Versions {
        self.versions.clone()
    }

    /// Waits for one answer, at most `--timeout`.
    ///
    /// # Errors
    /// The status that the server answered, or [`Error::TimedOut`].
    pub(in crate::cli) fn answer<'a, T: 'a>(
        &'a self,
        call: impl Future<Output = Result<Response<T>, Status>> + 'a,
    ) -> LocalBoxFuture<'a, Result<T, Error>> {
        // Boxed here once: a generated call is 18 KB.
        let answer = async { Ok(call.await.map_err(|s| self.refused(s))?.into_inner()) };
        Box::pin(self.within(answer))
    }

    /// Fetches one app from the server.
    ///
    /// # Errors
    /// As [`Session::answer`].
    pub(in crate::cli) async fn app(&self, app: &AppId) -> Result<v1::GetAppResponse, Error> {
        let request = v1::GetAppRequest {
            organization_name: app.org.to_string(),
            app_name: app.name.to_string(),
        };
        self.answer(self.client().get_app(request)).await
    }

    /// Bounds any work by `--timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and those of the work.
    pub(in crate::cli) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or(Err(Error::TimedOut(self.timeout)))
    }

    /// The error for a status, with the hint if the caller is unauthenticated.
    pub(in crate::cli) fn refused(&self, status: Status) -> Error {
        let hint = self
            .hint
            .clone()
            .filter(|_| status.code() == Code::Unauthenticated);
        Error::Api {
            status: Box::new(status),
            hint,
        }
    }
}

fn bearer(token: String) -> Result<MetadataValue<Ascii>, Error> {
    check_token(&token)?;
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::Usage(NO_TOKEN.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Checks that a token is of the characters of one (RFC 6750, 2.1).
///
/// # Errors
/// [`Error::Usage`], without the token.
pub(in crate::cli) fn check_token(token: &str) -> Result<(), Error> {
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if !token.is_empty() && token.bytes().all(is_valid) {
        return Ok(());
    }
    Err(Error::Usage(NO_TOKEN.to_owned()))
}

/// Explains in plain words why the server could not be reached.
fn unreachable_at(endpoint: &Uri, error: &tonic::transport::Error) -> Error {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let refused = innermost
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    let at = endpoint
        .authority()
        .map_or_else(|| endpoint.to_string(), ToString::to_string);
    Error::Unreachable(if refused {
        format!(
            "`ignite serve` is not running at {at} (connection refused); start it there, or name another endpoint with --api-endpoint"
        )
    } else {
        format!("the API at {at} cannot be reached: {innermost}")
    })
}
