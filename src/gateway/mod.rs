//! The HTTP listener: app URLs, by host or by path, and everything else to the API.
//!
//! | request | goes to |
//! |---|---|
//! | `Host: <label>.<base domain>` | the app's port with that label |
//! | `/_app/{org}/{app}/…` on any other host | the app's primary port, with the rest as path |
//! | anything else | the API's router |
//!
//! `routes.rs` knows the apps, `request.rs` reads requests and readies them for an app,
//! `invoke.rs` carries one out, `headers.rs` has the rules for headers, `listener.rs` accepts and
//! drains connections, `workers.rs` has the threads that carry them, `client.rs` sees clients
//! leave and hints early, `relay.rs` joins connections that have left HTTP, `by_path.rs` has what
//! apps under a path need beside.

pub mod body;
mod by_path;
mod client;
mod cors;
pub mod headers;
pub mod invoke;
pub mod limits;
pub mod listener;
mod relay;
pub mod request;
mod routes;
pub mod workers;

use std::{future::Future, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, upgrade};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::{
    body::Body,
    by_path::ByPath,
    headers::{Came, Peer},
    invoke::{Client, Invocation},
    routes::Route,
};
use crate::{
    config::Proxies,
    fleet::{Deployment, Fleet, upstream},
    identity::{self, Caller, Verifier},
    model::{AppId, ExecutionId, Failure, Reason, host},
};

pub use self::routes::Routes;

/// Everything a request needs; shared by all connections.
pub struct Gateway {
    /// The published apps.
    pub routes: Arc<Routes>,
    /// Their replicas.
    pub fleet: Fleet,
    /// Checks bearer tokens.
    pub verifier: Arc<Verifier>,
    /// The domain under which apps have their hosts.
    pub base_domain: String,
    /// Longest wait for a replica.
    pub cold_start_budget: Duration,
    /// Largest body of a request to an app URL; 0 for no bound.
    pub max_request_body_bytes: u64,
    /// Longest time for a client to take nothing of an answer; 0 for no bound.
    pub client_stall_timeout: Duration,
    /// Longest silence of an upgraded connection of which one side has ended; 0 for no bound.
    pub half_closed_timeout: Duration,
    /// Owns the tasks that carry upgraded connections.
    pub upgrades: TaskTracker,
    /// Whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Proxies,
    /// Renders a failure as the API does; the flag says whether the caller owns the app.
    pub render: fn(&Failure, bool) -> Response<axum::body::Body>,
    /// The same for gRPC callers, as the trailers that end a call.
    pub grpc_trailers: GrpcTrailers,
}

/// Renders a failure as the trailers of a gRPC call.
pub type GrpcTrailers = fn(&Failure, bool) -> HeaderMap;

/// What the HTTP listener serves: app URLs, and the API on all others.
pub struct Front {
    /// Where apps are found.
    pub gateway: Arc<Gateway>,
    /// The API.
    pub api: Router,
}

impl listener::Service for Front {
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        self.gateway.handle(&self.api, request, peer)
    }

    async fn refusal(&self, why: &Failure) -> Bytes {
        limits::written((self.gateway.render)(why, false)).await
    }
}

impl Gateway {
    /// Answers one request of the HTTP listener.
    async fn handle(
        &self,
        api: &Router,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<Body> {
        // A gRPC call, which is understood in gRPC only, is HTTP/2.
        let grpc = request.version() == Version::HTTP_2 && headers::is_grpc(request.headers());
        if let Err(failure) = request::check(&request) {
            return self.failure(&failure, false, grpc);
        }
        let label =
            request::host_of(&request).and_then(|h| host::label_of_host(h, &self.base_domain));
        if let Some(label) = label {
            return match self.routes.find(label) {
                Some(route) => self.app(route, request, peer, None, grpc).await,
                None => self.failure(&unknown_host(label, &self.base_domain), false, grpc),
            };
        }
        if let Some(rest) = request.uri().path().strip_prefix(request::BY_PATH) {
            return match self.by_path(rest, request::host_of(&request)) {
                Ok((route, by_path)) => match by_path.with_slash(request.uri().query()) {
                    Some(redirect) => redirect,
                    None => self.app(route, request, peer, Some(by_path), grpc).await,
                },
                Err(failure) => self.failure(&failure, false, grpc),
            };
        }
        match api.clone().oneshot(request).await {
            Ok(response) => response.map(Body::Api),
            Err(never) => match never {},
        }
    }

    /// Whom a request's token speaks for.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what is missing or wrong.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Failure> {
        self.verifier
            .verify(identity::bearer(headers)?.ok_or_else(no_token)?)
    }

    fn failure(&self, failure: &Failure, caller_owns_app: bool, grpc: bool) -> Response<Body> {
        if grpc {
            // Nothing but the trailers, which then stand in the head.
            let mut response = Response::new(Body::default());
            *response.headers_mut() = (self.grpc_trailers)(failure, caller_owns_app);
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return response;
        }
        (self.render)(failure, caller_owns_app).map(Body::Api)
    }

    /// Refuses a body that says itself that it is too large; others are stopped when they are.
    fn check_length(&self, request: &Request<Incoming>) -> Result<(), Failure> {
        let most = self.max_request_body_bytes;
        let length = http_body::Body::size_hint(request.body()).lower();
        if most == 0 || length <= most {
            return Ok(());
        }
        Err(invoke::body_too_large(most))
    }

    fn by_path(&self, rest: &str, host: Option<&str>) -> Result<(Route, ByPath), Failure> {
        let (id, path) = request::split_path(rest)?;
        let deployment = self.fleet.get(&id).ok_or_else(|| unpublished(&id))?;
        let route = Route {
            deployment,
            port: None,
        };
        Ok((route, ByPath::new(&id, path, host)))
    }

    /// Sends a request to an app as it came, but for what `headers` takes away and adds.
    async fn app(
        &self,
        route: Route,
        mut request: Request<Incoming>,
        peer: &Peer,
        mut by_path: Option<ByPath>,
        grpc: bool,
    ) -> Response<Body> {
        let cors = route
            .deployment
            .with_revision(|r| cors::Answer::of(r, request.headers()));
        if let Some(cors) = &cors
            && let Some(answer) = cors.preflight(request.method(), request.headers())
        {
            return answer;
        }
        let execution = ExecutionId(ulid::Ulid::generate());
        let mut owner = false;
        let outcome = async {
            let caller = self.admit(&route.deployment, request.headers_mut())?;
            owner = caller.is_some_and(|c| c.owns(&route.deployment.id().org));
            let client_upgrade = request::asks_upgrade(&request).then(|| upgrade::on(&mut request));
            let came = Came {
                peer,
                trusted: self.trusted_proxies.contain(peer.address.ip()),
            };
            self.check_length(&request)?;
            // Links that are hinted at by path would lead out of it.
            let hints = request.version() == Version::HTTP_11 && by_path.is_none();
            let bounds = upstream::Bounds {
                bytes: self.max_request_body_bytes,
                pause: self.client_stall_timeout,
            };
            let mut request = request::outbound(
                request,
                came,
                bounds,
                by_path.as_ref().map(|by| by.path.as_str()),
                client_upgrade.is_some(),
            )?;
            if let Some(by_path) = &mut by_path {
                by_path.announce(request.headers_mut());
            }
            if !request.headers().contains_key(header::HOST) {
                // From an HTTP/1.0 client; the replica is asked in HTTP/1.1, which insists on one.
                let port = route.port;
                let port = port.unwrap_or_else(|| route.deployment.with_revision(|r| r.ports[0]));
                let label = host::label(route.deployment.id(), port);
                if let Ok(host) = HeaderValue::from_str(&format!("{label}.{}", self.base_domain)) {
                    request.headers_mut().insert(header::HOST, host);
                }
            }
            self.invoke(
                &route.deployment,
                route.port,
                execution,
                request,
                Client {
                    upgrade: client_upgrade,
                    grpc: grpc.then_some(self.grpc_trailers),
                    interim: hints.then_some(peer),
                },
                None,
            )
            .await
        };
        let mut response = match outcome.await {
            Ok(mut response) => {
                if let Some(by_path) = &by_path {
                    by_path.rewrite(response.headers_mut());
                }
                response.map(Body::App)
            }
            Err(failure) => {
                log_failure(route.deployment.id(), execution, &failure);
                let mut response = self.failure(&failure, owner, grpc);
                let id = headers::execution_value(execution);
                response.headers_mut().insert(headers::EXECUTION_ID, id);
                response
            }
        };
        if let Some(cors) = cors {
            cors.put(response.headers_mut());
        }
        response
    }

    /// Checks the token, and takes it out of the headers: apps never see the platform's tokens.
    fn admit(
        &self,
        deployment: &Deployment,
        headers: &mut HeaderMap,
    ) -> Result<Option<Arc<Caller>>, Failure> {
        let open = deployment.with_revision(|r| r.allow_unauthenticated);
        let verified = identity::bearer(headers)
            .and_then(|token| token.map(|t| self.verifier.verify(t)).transpose());
        match verified {
            Ok(Some(caller)) => {
                headers.remove(header::AUTHORIZATION);
                if !open && !caller.may_invoke(deployment.id()) {
                    return Err(not_yours(deployment.id()));
                }
                Ok(Some(caller))
            }
            // Here any other Authorization is between the client and the app.
            _ if open => Ok(None),
            Ok(None) => Err(no_token()),
            Err(failure) => Err(failure),
        }
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
            upgrades: &self.upgrades,
        };
        invoke::invoke(invocation, request, client)
    }
}

/// The answer to a request without a token.
fn no_token() -> Failure {
    Failure::new(
        Reason::Unauthenticated,
        "the request has no bearer token; send `Authorization: Bearer <token>` (on this machine: `ignite token create --org <org>`)",
    )
}

/// The answer to a token of another organization.
pub fn not_yours(id: &AppId) -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        format!(
            "the token's organization may not use app {id}; use a token of organization {}",
            id.org
        ),
    )
}

/// The answer for an app that has no URL yet, or does not exist.
pub fn unpublished(id: &AppId) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!(
            "app {id} does not exist or has no published version; publish one with `ignite app deploy`"
        ),
    )
}

fn unknown_host(label: &str, base_domain: &str) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!(
            "no published app has the host {label}.{base_domain}; `ignite app list` shows the URLs of apps"
        ),
    )
}

fn log_failure(app: &AppId, execution: ExecutionId, failure: &Failure) {
    let reason = failure.reason.as_str();
    if failure.reason.http_status() >= 500 {
        tracing::error!(%app, %execution, reason, "A request failed: {}", failure.text(true));
    } else {
        tracing::debug!(%app, %execution, reason, "A request was refused: {}", failure.text(true));
    }
}
