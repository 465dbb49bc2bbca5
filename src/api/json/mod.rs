//! The JSON gateway: HTTP requests to gRPC methods by their `google.api.http` annotations.
//!
//! Routes are read from the contract's descriptors at start; there is no code per route.
//! A request becomes a dynamic message (`request`), is framed and handed to the same services
//! that gRPC calls, in process (`call`), and what comes back is rendered (`respond`; `invoke`
//! for the one method whose answer is not JSON). Rules about apps are the services' alone;
//! what is checked here is the transport: JSON, field names, sizes, routes.
//!
//! Authentication happens in the services. A layer that must see JSON calls too has to be
//! inside the [`Routes`] that are passed in, not around the gRPC listener.

mod call;
mod diagnose;
mod heavy;
mod invoke;
mod request;
mod respond;
mod route;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, Response, header, request::Parts},
    routing::any,
};
use prost_reflect::MessageDescriptor;
use tonic::service::Routes;

use self::{
    heavy::Heavy,
    route::{Binding, Render},
};
use super::{
    buffers::Buffers,
    proto::pool,
    status::{http_response, to_response},
};
use crate::{
    identity::Caller,
    model::{Failure, Reason},
};

/// What a JSON body may have beside the payload: names, settings, the environment (at most
/// 96 KiB, more when escaped).
const JSON_SLACK_BYTES: usize = 256 * 1024;

/// Size limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a payload after base64 is decoded (`IGNITE_MAX_BODY_BYTES`).
    pub max_body_bytes: usize,
    /// Most bytes of code, likewise (`IGNITE_MAX_CODE_BYTES`).
    pub max_code_bytes: usize,
    /// Most large messages that are read or written at a time (`IGNITE_DECODE_CONCURRENCY`).
    pub decode_concurrency: usize,
}

/// The bound on one method's requests.
#[derive(Debug, Clone, Copy)]
struct Bound {
    payload: usize,
    setting: &'static str,
}

impl Limits {
    /// Most bytes of a gRPC message, for `max_decoding_message_size` of the services: a lower
    /// figure there would refuse, with a worse message, what is allowed here.
    pub fn grpc_bytes(self) -> usize {
        let largest = self.max_body_bytes.max(self.max_code_bytes);
        largest.saturating_add(JSON_SLACK_BYTES)
    }

    /// Most bytes of any request in JSON.
    pub fn json_bytes(self) -> usize {
        let payload = self.max_body_bytes.max(self.max_code_bytes);
        let setting = "";
        Bound { payload, setting }.json_bytes()
    }

    /// Checks a payload's size; the same for gRPC and JSON.
    ///
    /// # Errors
    /// BODY_TOO_LARGE, with the limit and its setting.
    pub fn check_body(self, len: usize) -> Result<(), Failure> {
        if len <= self.max_body_bytes {
            return Ok(());
        }
        Err(Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the body has {len} bytes; the limit is {} (IGNITE_MAX_BODY_BYTES)",
                self.max_body_bytes
            ),
        ))
    }

    /// Checks the size of code; the same for gRPC and JSON.
    ///
    /// # Errors
    /// As [`Limits::check_body`].
    pub fn check_code(self, len: usize) -> Result<(), Failure> {
        if len <= self.max_code_bytes {
            return Ok(());
        }
        Err(Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the code has {len} bytes; leave out what the build does not need: the limit is {} (IGNITE_MAX_CODE_BYTES)",
                self.max_code_bytes
            ),
        ))
    }

    /// The answer to a gRPC message that is over [`Limits::grpc_bytes`].
    pub fn message_too_large(self) -> Failure {
        Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the message is over {} bytes; the limits are {} bytes for a payload \
                 (IGNITE_MAX_BODY_BYTES) and {} for code (IGNITE_MAX_CODE_BYTES)",
                self.grpc_bytes(),
                self.max_body_bytes,
                self.max_code_bytes
            ),
        )
    }

    /// The bound on requests of this kind.
    fn bound(self, input: &MessageDescriptor) -> Bound {
        match input.get_field_by_name("code") {
            Some(_) => Bound {
                payload: self.max_code_bytes,
                setting: "IGNITE_MAX_CODE_BYTES",
            },
            None => Bound {
                payload: self.max_body_bytes,
                setting: "IGNITE_MAX_BODY_BYTES",
            },
        }
    }
}

impl Bound {
    /// Most bytes of a JSON body: the payload grown by base64, and 256 KiB for the rest.
    fn json_bytes(self) -> usize {
        self.message_bytes()
            .saturating_add(self.payload.div_ceil(3))
    }

    /// Most bytes of the message that it becomes.
    fn message_bytes(self) -> usize {
        self.payload.saturating_add(JSON_SLACK_BYTES)
    }

    fn too_large(self) -> Failure {
        Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the JSON body is over {} bytes, which is what a payload of {} bytes ({}) takes in \
                 base64",
                self.json_bytes(),
                self.payload,
                self.setting
            ),
        )
    }
}

/// The routes of all annotated methods, served by `grpc`, and JSON errors for all other paths
/// under `/v1`.
///
/// `admit` looks at a request's headers before its body is read, so that strangers cannot make
/// the gateway buffer; what a caller may do is the services' to say. Methods without a body are
/// left to them altogether.
///
/// It has no fallback, so it can be merged with other routers.
pub fn router(grpc: Routes, limits: Limits, buffers: Buffers, admit: Admit) -> Router {
    let gateway = Arc::new(Gateway {
        grpc: grpc.prepare(),
        limits,
        heavy: Heavy::new(limits.decode_concurrency),
        buffers,
        admit,
    });
    let mut router = Router::new();
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
    for path in ["/v1", "/v1/", "/v1/{*rest}"] {
        router = router.route(path, any(no_route));
    }
    router
}

/// Whether a request's headers name a caller; who it is may go on in the extensions, which the
/// services see.
pub type Admit = Arc<dyn Fn(&mut Parts) -> Result<(), Failure> + Send + Sync>;

struct Gateway {
    grpc: Routes,
    limits: Limits,
    heavy: Heavy,
    buffers: Buffers,
    admit: Admit,
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
        let response = match self.answer(binding, request).await {
            Ok(response) => response,
            Err(failure) => to_response(&failure, false),
        };
        if head {
            respond::without_body(response)
        } else {
            response
        }
    }

    async fn answer(&self, binding: &Binding, request: Request) -> Result<Response<Body>, Failure> {
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
            heavy: &self.heavy,
        };
        let message = read.message(binding, &mut parts, body).await?;
        let style = respond::Style::asked_by(&parts.headers);
        let frames = match call::start(&self.grpc, binding, parts, message).await {
            Ok(frames) => frames,
            Err(status) => return Ok(http_response(&binding.explain(status))),
        };
        let (output, heavy) = (binding.rpc.output(), self.heavy.clone());
        Ok(match binding.render {
            Render::Unary => respond::unary(frames, output, heavy).await,
            Render::Stream => respond::stream(frames, output, style, heavy).await,
            Render::Invoke => invoke::render(frames).await,
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
