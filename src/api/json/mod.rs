//! The JSON gateway: HTTP requests to gRPC methods by their `google.api.http` annotations.
//!
//! Routes are read from the contract's descriptors at start; there is no code per route. A request
//! becomes a dynamic message (`request`), is framed and handed in process to the same services that
//! gRPC calls (`call`), and the response is rendered (`respond`, or `invoke` for the one method
//! whose response is not JSON). Only the services hold the rules about apps; the gateway checks the
//! transport: JSON, field names, sizes, routes.
//!
//! The services authenticate. A layer that must see JSON calls too has to be inside the [`Routes`]
//! that are passed in, not around the gRPC listener.

mod call;
mod diagnose;
mod fields;
mod invoke;
mod offload;
mod openapi;
mod request;
mod respond;
mod route;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, Response, header, request::Parts},
    routing::any,
};
use tonic::service::Routes;

use self::{
    offload::Offload,
    route::{Binding, Render},
};
use super::{
    admission::is_counted,
    anonymous::AnonymousCalls,
    buffers::Buffers,
    elsewhere,
    limits::Limits,
    proto::pool,
    status::{http_response, to_response},
};
use crate::{
    gateway::peer::ClientAddress,
    identity::Caller,
    model::{Failure, Reason},
};

/// The routes of all annotated methods, served by `grpc`, their description, and JSON errors for all
/// other paths under `/v1`.
///
/// `admit` checks a request's headers before its body is read, so that callers without a token
/// cannot make the gateway buffer. The services decide what a caller may do, and check requests
/// without a body entirely. `anonymous` bounds the calls that need no token.
///
/// It has no fallback, so it can be merged with other routers.
pub fn router(
    grpc: Routes,
    limits: Limits,
    buffers: Buffers,
    admit: Admit,
    anonymous: Arc<AnonymousCalls>,
) -> Router {
    let gateway = Arc::new(Gateway {
        grpc: grpc.prepare(),
        limits,
        offload: Offload::new(limits.decode_concurrency),
        buffers,
        admit,
        anonymous,
    });
    let mut router = openapi::router();
    for (path, bindings) in route::by_path(pool()) {
        let (gateway, bindings) = (gateway.clone(), Arc::new(bindings));
        router = router.route(
            &path,
            any(move |request: Request| {
                let (gateway, bindings) = (gateway.clone(), bindings.clone());
                async move { gateway.serve(&bindings, request).await }
            }),
        );
    }
    for (path, refusal) in elsewhere::http_paths() {
        let refuse = any(move || std::future::ready(to_response(&refusal, false)));
        router = router
            .route(path, refuse.clone())
            .route(&format!("{path}/{{*rest}}"), refuse);
    }
    for path in ["/v1", "/v1/", "/v1/{*rest}"] {
        router = router.route(path, any(no_route));
    }
    router
}

/// Checks that a request's headers name a caller. May add the caller to the extensions, which the
/// services see.
pub type Admit = Arc<dyn Fn(&mut Parts) -> Result<(), Failure> + Send + Sync>;

struct Gateway {
    grpc: Routes,
    limits: Limits,
    offload: Offload,
    buffers: Buffers,
    admit: Admit,
    anonymous: Arc<AnonymousCalls>,
}

impl Gateway {
    /// Answers one request on a known path.
    async fn serve(&self, bindings: &[Binding], request: Request) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        // HTTP has HEAD wherever it has GET.
        let wanted = if head { &Method::GET } else { request.method() };
        let Some(binding) = bindings.iter().find(|b| b.method == *wanted) else {
            return wrong_method(bindings, request.method());
        };
        let response = if is_counted(binding.uri.path()) {
            self.anonymous(binding, request).await
        } else {
            self.answer(binding, request).await
        };
        if head {
            respond::without_body(response)
        } else {
            response
        }
    }

    /// Answers a call that needs no token, within the bounds of those.
    async fn anonymous(&self, binding: &Binding, request: Request) -> Response<Body> {
        let address = request.extensions().get::<ClientAddress>();
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        match self.anonymous.admit(address) {
            Ok(permit) => permit.bound_json(self.answer(binding, request)).await,
            Err(failure) => to_response(&failure, false),
        }
    }

    async fn answer(&self, binding: &Binding, request: Request) -> Response<Body> {
        let answer = self.try_answer(binding, request).await;
        answer.unwrap_or_else(|failure| to_response(&failure, false))
    }

    async fn try_answer(
        &self,
        binding: &Binding,
        request: Request,
    ) -> Result<Response<Body>, Failure> {
        let (mut parts, body) = request.into_parts();
        if binding.body {
            (self.admit)(&mut parts)?;
        }
        let caller = parts.extensions.get::<Arc<Caller>>();
        let org = caller.and_then(|caller| caller.orgs.first());
        // Kept until the call is answered.
        let reserved = self.buffers.reserve(org, 0)?;
        let read = request::Reading {
            limits: self.limits,
            reserved: &reserved,
            offload: &self.offload,
        };
        let message = read.message(binding, &mut parts, body).await?;
        let style = respond::Style::asked_by(&parts.headers);
        let messages = match call::start(&self.grpc, binding, parts, message).await {
            Ok(messages) => messages,
            Err(status) => return Ok(http_response(&binding.explain(status))),
        };
        let (output, offload) = (binding.rpc.output(), self.offload.clone());
        Ok(match binding.render {
            Render::Unary => respond::unary(messages, output, offload).await,
            Render::Stream => respond::stream(messages, output, style, offload).await,
            Render::Invoke => invoke::render(messages).await,
        })
    }
}

async fn no_route(request: Request) -> Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    let failure = Failure::new(
        Reason::NotFound,
        format!(
            "no API method has the route {method} {path}; names in a path are never empty and \
             no path ends in '/'"
        ),
    );
    to_response(&failure, false)
}

fn wrong_method(bindings: &[Binding], method: &Method) -> Response<Body> {
    let mut allowed: Vec<&str> = bindings.iter().map(|b| b.method.as_str()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let failure = Failure::new(
        Reason::MethodNotAllowed,
        format!("{method} is not allowed on this path; allowed: {allowed}"),
    );
    let mut response = to_response(&failure, false);
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
