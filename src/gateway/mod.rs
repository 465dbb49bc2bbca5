//! The HTTP listener: app URLs, by host or by path, and everything else to the API.
//!
//! | request | goes to |
//! |---|---|
//! | `Host: <label>.<base domain>` | the app's port with that label |
//! | `/_app/{org}/{app}/…` on any other host | the app's primary port, with the rest as path |
//! | anything else | the API's router |
//!
//! `routes.rs` knows the apps, `invoke.rs` carries one request out, `headers.rs` has the rules
//! for headers, `listener.rs` accepts and drains connections, `workers.rs` has the threads that
//! carry them, `client.rs` sees clients leave, `relay.rs` joins connections that have left HTTP.

pub mod body;
mod client;
mod cors;
pub mod headers;
pub mod invoke;
pub mod limits;
pub mod listener;
mod relay;
mod routes;
pub mod workers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, uri::PathAndQuery,
};
use hyper::{body::Incoming, upgrade};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::{
    body::Body,
    headers::Came,
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

/// What requests by path start with.
const BY_PATH: &str = "/_app/";

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

impl Gateway {
    /// Answers one request of the HTTP listener.
    pub async fn handle(
        &self,
        api: &Router,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Body> {
        // A gRPC call, which is understood in gRPC only, is HTTP/2.
        let grpc = request.version() == Version::HTTP_2 && headers::is_grpc(request.headers());
        if let Err(failure) = check(&request) {
            return self.failure(&failure, false, grpc);
        }
        let label = host_of(&request).and_then(|h| host::label_of_host(h, &self.base_domain));
        if let Some(label) = label {
            return match self.routes.find(label) {
                Some(route) => self.app(route, request, peer, None, grpc).await,
                None => self.failure(&unknown_host(label, &self.base_domain), false, grpc),
            };
        }
        if let Some(rest) = request.uri().path().strip_prefix(BY_PATH) {
            return match self.by_path(rest) {
                Ok((route, path)) => {
                    let path = path.to_owned();
                    self.app(route, request, peer, Some(path), grpc).await
                }
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

    fn by_path<'a>(&self, rest: &'a str) -> Result<(Route, &'a str), Failure> {
        let mut parts = rest.splitn(3, '/');
        let (org, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let path = parts
            .next()
            .map_or("", |_| &rest[org.len() + name.len() + 1..]);
        let id: AppId = format!("{org}/{name}").parse().map_err(|e| {
            Failure::new(
                Reason::NotFound,
                format!("{e}; app paths are /_app/{{org}}/{{app}}/…"),
            )
        })?;
        let deployment = self.fleet.get(&id).ok_or_else(|| unpublished(&id))?;
        let port = deployment.with_revision(|r| r.ports[0]);
        Ok((Route { deployment, port }, path))
    }

    /// Sends a request to an app as it came, but for what `headers` takes away and adds.
    async fn app(
        &self,
        route: Route,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        path: Option<String>,
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
            let client_upgrade = asks_upgrade(&request).then(|| upgrade::on(&mut request));
            let came = Came {
                peer: peer.ip(),
                trusted: self.trusted_proxies.contain(peer.ip()),
            };
            self.check_length(&request)?;
            let bounds = upstream::Bounds {
                bytes: self.max_request_body_bytes,
                pause: self.client_stall_timeout,
            };
            let mut request = outbound(
                request,
                came,
                bounds,
                path.as_deref(),
                client_upgrade.is_some(),
            )?;
            if !request.headers().contains_key(header::HOST) {
                // From an HTTP/1.0 client; the replica is asked in HTTP/1.1, which insists on one.
                let label = host::label(route.deployment.id(), route.port);
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
                },
                None,
            )
            .await
        };
        let mut response = match outcome.await {
            Ok(response) => response.map(Body::App),
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
    pub async fn invoke(
        &self,
        deployment: &Arc<Deployment>,
        port: u16,
        execution: ExecutionId,
        request: Request<upstream::Body>,
        client: Client,
        attempt: Option<invoke::Attempt>,
    ) -> Result<Response<body::AppBody>, Failure> {
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
            upgrades: &self.upgrades,
        };
        invoke::invoke(invocation, request, client).await
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

/// Refuses what proxies must not pass on: requests whose host is said twice or not at all
/// (RFC 9112, 3.2), since the app could take them for another host than this gateway did, and
/// tunnels.
fn check(request: &Request<Incoming>) -> Result<(), Failure> {
    let malformed = |what: &str| Err(Failure::new(Reason::MalformedRequest, what));
    if request.method() == Method::CONNECT {
        return Err(Failure::new(
            Reason::MethodNotAllowed,
            "CONNECT is not allowed: this is no proxy to other hosts",
        ));
    }
    // Without the codings that are undone here the app would take the body for what it is not, and
    // whoever reads a list of codings in another way sees another end of the request.
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return malformed("Transfer-Encoding has to be chunked, said once and alone");
    }
    match request.headers().get_all(header::HOST).iter().count() {
        0 if request.version() == Version::HTTP_11 => {
            malformed("the request has no Host header, which HTTP/1.1 demands")
        }
        0 | 1 => Ok(()),
        _ => malformed("the request has more than one Host header; send one"),
    }
}

/// Whether the request leaves HTTP; HTTP/1.0 cannot, and HTTP/2 does it in another way.
fn asks_upgrade(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11 && headers::asks_upgrade(request.headers())
}

fn host_of(request: &Request<Incoming>) -> Option<&str> {
    // HTTP/2 and absolute-form requests have it in the URI, which then counts.
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|h| h.to_str().ok()),
    }
}

/// The client's request in the form that a replica gets.
fn outbound(
    request: Request<Incoming>,
    came: Came,
    bounds: upstream::Bounds,
    path: Option<&str>,
    upgrade: bool,
) -> Result<Request<upstream::Body>, Failure> {
    let host = host_of(&request).and_then(|h| HeaderValue::from_str(h).ok());
    let (mut head, incoming) = request.into_parts();
    let protocol = head
        .headers
        .get(header::UPGRADE)
        .filter(|_| upgrade)
        .cloned();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::withhold_trailers(&mut head.headers);
    headers::join_cookies(&mut head.headers);
    headers::forwarded(&mut head.headers, came, host.as_ref());
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    let expects = headers::expects_continue(&head.headers);
    if expects && head.version == Version::HTTP_10 {
        // It has no interim answers (RFC 9110, 10.1.1).
        head.headers.remove(header::EXPECT);
    }
    let expects = expects && head.version != Version::HTTP_10;
    head.uri = match path {
        Some(path) => rebased(path, head.uri.query())?,
        None => head
            .uri
            .path_and_query()
            .cloned()
            .map_or_else(Uri::default, Uri::from),
    };
    // Replicas are spoken to in HTTP/1.1 whatever the client used.
    head.version = Version::HTTP_11;
    let body = if http_body::Body::is_end_stream(&incoming) {
        upstream::Body::Empty
    } else {
        if http_body::Body::size_hint(&incoming).exact().is_none() {
            // hyper sends a GET or HEAD without its body when nothing says that there is one.
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        upstream::Body::streamed(incoming, bounds, headers::withhold)
    };
    let mut request = Request::from_parts(head, body);
    if expects {
        upstream::let_the_app_ask(&mut request);
    }
    if let Some(protocol) = protocol {
        invoke::keep_upgrade(&mut request, protocol);
    }
    Ok(request)
}

fn rebased(path: &str, query: Option<&str>) -> Result<Uri, Failure> {
    let path = if path.is_empty() { "/" } else { path };
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    whole.parse::<PathAndQuery>().map(Uri::from).map_err(|e| {
        Failure::new(
            Reason::MalformedRequest,
            format!("the path {path:?} cannot be forwarded: {e}"),
        )
    })
}

fn log_failure(app: &AppId, execution: ExecutionId, failure: &Failure) {
    let reason = failure.reason.as_str();
    if failure.reason.http_status() >= 500 {
        tracing::error!(%app, %execution, reason, "A request failed: {}", failure.text(true));
    } else {
        tracing::debug!(%app, %execution, reason, "A request was refused: {}", failure.text(true));
    }
}
