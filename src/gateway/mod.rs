//! The HTTP listener: app URLs, by host or by path, and everything else to the API.
//!
//! | request | goes to |
//! |---|---|
//! | `Host: <label>.<base domain>` | the app's port with that label |
//! | `/_app/{org}/{app}/…` on a host of the API's | the app's primary port, with the rest as path |
//! | a host name that an app was given | its primary port |
//! | a gRPC call on a host of the API's | the gRPC API |
//! | anything else on such a host | the API's router |
//!
//! | file | subject |
//! |---|---|
//! | `listener.rs`, `limits.rs` | accepts, serves and drains connections, within bounds |
//! | `limiter.rs`, `refusal.rs` | limits open connections; refuses clients over the limit |
//! | `secure.rs`, `handshakes.rs`, `redirect.rs` | connections over TLS; how many handshakes; redirects to HTTPS |
//! | `workers.rs` | the threads that carry connections |
//! | `client.rs`, `peer.rs` | notices clients that leave; sends `103 Early Hints` |
//! | `front.rs` | where a request of the HTTP listener goes |
//! | `from_apps.rs` | what apps in containers are served |
//! | `hosts.rs`, `routes.rs` | which hosts are the API's; which labels are which app's |
//! | `admission.rs` | who may use an app |
//! | `request.rs`, `headers.rs`, `cookies.rs`, `cors.rs` | the rules for messages |
//! | `by_path.rs`, `custom_host.rs` | apps under a path, and at host names that they were given |
//! | `invoke.rs`, `body.rs` | one request to an app, and its answer |
//! | `relay.rs` | connections that have left HTTP |

mod admission;
pub mod body;
mod by_path;
mod client;
mod cookies;
mod cors;
mod custom_host;
mod from_apps;
mod front;
mod handshakes;
pub mod headers;
mod hosts;
pub mod invoke;
mod limiter;
pub mod limits;
pub mod listener;
pub mod peer;
pub mod redirect;
pub mod refusal;
mod relay;
pub mod request;
mod routes;
pub mod secure;
pub mod workers;

use std::{
    future::{self, Future},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, upgrade};
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::{
    body::Body,
    by_path::ByPath,
    headers::Origin,
    invoke::{Client, Invocation},
    peer::Peer,
    routes::Route,
};
use crate::{
    config::Proxies,
    fleet::{Deployment, Fleet, upstream},
    identity::Verifier,
    metrics::{Metrics, Surface},
    model::{AppId, ExecutionId, Failure, Reason, host},
    trace::{self, RequestTrace, Tracer},
};

pub use self::{
    admission::{may_not_invoke, unpublished},
    from_apps::{FromApps, Grants},
    front::{Front, GrpcApi},
    hosts::{Hosts, INTERNAL_DOMAIN},
    routes::Routes,
};

/// Everything that requests need, shared by all connections.
pub struct Gateway {
    /// The published apps.
    pub routes: Arc<Routes>,
    /// Their replicas.
    pub fleet: Fleet,
    /// Checks bearer tokens.
    pub verifier: Arc<Verifier>,
    /// The hosts that are the API's, and the domain under which apps have theirs.
    pub hosts: Hosts,
    /// Whether apps are served by path, too.
    pub app_paths: bool,
    /// Longest time for a request to wait for a replica.
    pub cold_start_budget: Duration,
    /// Most bytes of the body of a request to an app URL; 0 for no bound.
    pub max_request_body_bytes: u64,
    /// Longest time for a client to read nothing of an answer; 0 for no bound.
    pub client_stall_timeout: Duration,
    /// Longest silence of an upgraded connection once one side has ended; 0 for no bound.
    pub half_closed_timeout: Duration,
    /// Most apps that a request may pass through, one calling the next.
    pub max_hops: u32,
    /// Owns the tasks that carry upgraded connections.
    pub upgrades: TaskTracker,
    /// Proxies whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Proxies,
    /// Renders a failure as the API does; the flag is whether the caller owns the app.
    pub render: fn(&Failure, bool) -> Response<axum::body::Body>,
    /// Where traces go.
    pub tracer: Tracer,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// Renders a failure for gRPC callers.
    pub grpc_trailers: GrpcTrailers,
}

/// Renders a failure as the trailers that end a gRPC call; the flag is whether the caller owns the
/// app.
pub type GrpcTrailers = fn(&Failure, bool) -> HeaderMap;

/// The data about a request to an app that is kept until its answer begins.
struct Call {
    route: Route,
    by_path: Option<ByPath>,
    cors: Option<cors::Answer>,
    execution: ExecutionId,
    caller_owns_app: bool,
    grpc: bool,
    is_http1: bool,
    /// Its trace, if it is recorded.
    trace: Option<trace::Id>,
}

impl Gateway {
    /// The answer to a request to an app's URL on a reserved connection.
    fn too_many_connections(&self, grpc: bool) -> Response<Body> {
        let failure = Failure::new(
            Reason::TooManyConnections,
            "too many connections are open (IGNITE_MAX_CONNECTIONS), and the last ones serve the API alone (IGNITE_RESERVED_CONNECTIONS); reuse connections, or come back later",
        )
        .with_retry_after(refusal::RETRY_AFTER);
        let mut response = self.refused(&failure, false, ExecutionId(ulid::Ulid::generate()), grpc);
        if !grpc {
            close(&mut response);
        }
        response
    }

    /// The answer to a request that does not reach its app. Like every answer at an app's URL, it
    /// has an id.
    fn refused(
        &self,
        failure: &Failure,
        caller_owns_app: bool,
        execution: ExecutionId,
        grpc: bool,
    ) -> Response<Body> {
        let mut response = self.failure(failure, caller_owns_app, grpc);
        let id = headers::execution_value(execution);
        response.headers_mut().insert(headers::EXECUTION_ID, id);
        response
    }

    /// The answer to a request that fails, in gRPC's form if it is a call of that.
    pub fn failure(&self, failure: &Failure, caller_owns_app: bool, grpc: bool) -> Response<Body> {
        if grpc {
            // A "trailers-only" response: the trailers stand in the head.
            let mut response = Response::new(Body::default());
            *response.headers_mut() = (self.grpc_trailers)(failure, caller_owns_app);
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return response;
        }
        (self.render)(failure, caller_owns_app).map(Body::Api)
    }

    /// Refuses a body whose declared length is too large. Bodies without a length are cut off at
    /// the bound.
    fn check_length(&self, request: &Request<Incoming>) -> Result<(), Failure> {
        let most = self.max_request_body_bytes;
        let length = http_body::Body::size_hint(request.body()).lower();
        if most == 0 || length <= most {
            return Ok(());
        }
        Err(invoke::body_too_large(most))
    }

    /// Answers a request to an app: its preflight, its refusal, or what the app answers.
    fn app(
        &self,
        route: Route,
        request: Request<Incoming>,
        peer: &Peer,
        by_path: Option<ByPath>,
        grpc: bool,
    ) -> impl Future<Output = Response<Body>> + Send {
        let cors = route
            .deployment
            .with_revision(|r| cors::Answer::of(r, request.headers()));
        if let Some(cors) = &cors
            && let Some(answer) = cors.preflight(request.method(), request.headers())
        {
            return Either::Right(future::ready(answer));
        }
        let mut call = Call {
            route,
            by_path,
            cors,
            execution: ExecutionId(ulid::Ulid::generate()),
            caller_owns_app: false,
            grpc,
            is_http1: request.version() < Version::HTTP_2,
            trace: None,
        };
        let (request, client) = match self.outbound(&mut call, request, peer) {
            Ok(outbound) => outbound,
            Err(failure) => return Either::Right(future::ready(self.finish(&call, Err(failure)))),
        };
        Either::Left(async move {
            let (to, id) = (&call.route, call.execution);
            let outcome =
                pin!(self.invoke(&to.deployment, to.port, id, request, client, None)).await;
            self.finish(&call, outcome)
        })
    }

    /// Admits a request to its app, and gives it the form that apps get.
    fn outbound<'a>(
        &self,
        call: &mut Call,
        mut request: Request<Incoming>,
        peer: &'a Peer,
    ) -> Result<(Request<upstream::Body>, Client<'a>), Failure> {
        let arrived = self.tracer.is_on().then(Instant::now);
        let Call { route, by_path, .. } = call;
        let caller = self.admit(&route.deployment, &mut request, peer, by_path.is_some())?;
        call.caller_owns_app = caller.is_some_and(|c| c.owns(&route.deployment.id().org));
        let upgrade = request::asks_upgrade(&request).then(|| upgrade::on(&mut request));
        let origin = Origin {
            address: peer.forwarded_for(),
            secure: peer.secure,
            trusted: !peer.is_app && self.trusted_proxies.contain(peer.address.ip()),
        };
        self.check_length(&request)?;
        // No hints by path: the links in them would lead out of the app's prefix.
        let hints = request.version() == Version::HTTP_11 && by_path.is_none();
        let bounds = upstream::Bounds {
            bytes: self.max_request_body_bytes,
            pause: self.client_stall_timeout,
        };
        let mut request = request::outbound(
            request,
            origin,
            bounds,
            by_path.as_ref().map(|by| by.path.as_str()),
            upgrade.is_some(),
        )?;
        if let Some(by_path) = by_path {
            by_path.announce(request.headers_mut());
        }
        self.ensure_host(route, request.headers_mut());
        let trace = arrived.and_then(|arrived| {
            let trace = self.traced(route.deployment.id(), call.execution, &request, arrived)?;
            trace.part("authenticate", arrived, Instant::now());
            Some(trace)
        });
        call.trace = trace.as_ref().map(|trace| trace.id());
        let client = Client {
            upgrade,
            grpc: call.grpc.then_some(self.grpc_trailers),
            interim: hints.then_some(peer),
            surface: Surface::Url,
            trace,
        };
        Ok((request, client))
    }

    /// The answer that the client of a request to an app gets.
    fn finish(
        &self,
        call: &Call,
        outcome: Result<Response<body::AppBody>, Failure>,
    ) -> Response<Body> {
        let mut response = match outcome {
            Ok(mut response) => {
                match &call.by_path {
                    Some(by_path) => by_path.rewrite(response.headers_mut()),
                    None => cookies::confine(response.headers_mut(), &self.hosts.base_domain),
                }
                response.map(Body::App)
            }
            Err(failure) => {
                self.metrics.fleet.refused(failure.reason.as_str());
                log_failure(call, &failure);
                let mut response =
                    self.refused(&failure, call.caller_owns_app, call.execution, call.grpc);
                // Clients over their organization's share must not keep, idle, the connections that
                // the share leaves to others.
                let is_over_share = matches!(
                    failure.reason,
                    Reason::HoldQueueFull | Reason::TooManyRequests
                );
                if call.is_http1 && is_over_share {
                    close(&mut response);
                }
                response
            }
        };
        if let Some(cors) = &call.cors {
            cors.put(response.headers_mut());
        }
        response
    }

    /// Adds the `Host` that HTTP/1.0 clients may leave out: replicas are asked in HTTP/1.1, which
    /// insists on one.
    fn ensure_host(&self, route: &Route, headers: &mut HeaderMap) {
        if headers.contains_key(header::HOST) {
            return;
        }
        let deployment = &route.deployment;
        let primary = || deployment.with_revision(|r| r.ports[0]);
        let label = host::label(deployment.id(), route.port.unwrap_or_else(primary));
        if let Ok(host) = HeaderValue::from_str(&format!("{label}.{}", self.hosts.base_domain)) {
            headers.insert(header::HOST, host);
        }
    }

    /// The trace of a request to an app that arrived at `began`, if it is recorded.
    pub fn traced<B>(
        &self,
        app: &AppId,
        execution: ExecutionId,
        request: &Request<B>,
        began: Instant,
    ) -> Option<Box<RequestTrace>> {
        let mut trace = self.tracer.begin(request.headers(), execution)?;
        let method = request.method().as_str();
        let attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("url.path", request.uri().path().to_owned()),
            KeyValue::new("ignite.app", app.to_string()),
            KeyValue::new("ignite.execution.id", execution.to_string()),
        ];
        trace.describe(format!("{method} {app}"), began, attributes);
        Some(trace)
    }

    /// Sends a prepared request to an app; see [`invoke::invoke`].
    ///
    /// # Errors
    /// Why there was no answer.
    pub fn invoke<'a>(
        &'a self,
        deployment: &'a Arc<Deployment>,
        port: Option<u16>,
        execution: ExecutionId,
        request: Request<upstream::Body>,
        client: Client<'a>,
        attempt: Option<invoke::Attempt>,
    ) -> impl Future<Output = Result<Response<body::AppBody>, Failure>> + Send {
        let held_bytes = match request.body() {
            upstream::Body::Full(Some(bytes)) => bytes.len(),
            _ => 0,
        };
        let invocation = Invocation {
            deployment,
            port,
            execution,
            cold_start_budget: self.cold_start_budget,
            attempt,
            stall: self.client_stall_timeout,
            held_bytes,
            half_closed: self.half_closed_timeout,
            max_hops: self.max_hops,
            upgrades: &self.upgrades,
        };
        invoke::invoke(invocation, request, client)
    }
}

/// Has the listener close the HTTP/1.1 connection after this answer.
fn close(response: &mut Response<Body>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

fn log_failure(call: &Call, failure: &Failure) {
    let (app, execution) = (call.route.deployment.id(), call.execution);
    let trace = call.trace.map(|id| format!("{id:032x}"));
    let reason = failure.reason.as_str();
    if failure.reason.http_status() >= 500 {
        tracing::error!(%app, %execution, trace, reason, "A request failed: {}", failure.text(true));
    } else {
        tracing::debug!(%app, %execution, trace, reason, "A request was refused: {}", failure.text(true));
    }
}
