//! `/mcp`: the published apps of the caller's organizations as tools of the Model Context Protocol,
//! over its streamable HTTP.
//!
//! The crate `rmcp` implements the protocol. Each message is one request with one answer in JSON:
//! there are no sessions, which clients would leave behind, and no open streams. Callers send the
//! token that the API takes, and a tool is called as `Invoke` calls its app.

mod answer;
mod tools;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, Response, Uri, header},
    routing::any,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use tonic::Status;

use self::tools::Tools;
use super::{
    buffers::{Buffers, Metered, Reserved},
    compute::Compute,
    status::{ERROR_HEADER, http_response, to_response},
};
use crate::{
    gateway::peer::ClientAddress,
    model::{Failure, Reason},
};

/// Where it is.
pub const PATH: &str = "/mcp";

/// The endpoint for the apps that `compute` knows. A message has at most `max_bytes`.
pub fn router(compute: Compute, buffers: Buffers, max_bytes: usize) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(max_bytes)
        // The gateway has checked the host by the time that a request is here.
        .disable_allowed_hosts();
    let tools = Tools::new(compute.clone());
    let endpoint = Arc::new(Endpoint {
        compute,
        buffers,
        max_bytes,
        protocol: StreamableHttpService::new(move || Ok(tools.clone()), Arc::default(), config),
    });
    let serve = any(move |request: Request| {
        let endpoint = endpoint.clone();
        async move { endpoint.serve(request).await }
    });
    Router::new().route(PATH, serve)
}

struct Endpoint {
    compute: Compute,
    buffers: Buffers,
    max_bytes: usize,
    protocol: StreamableHttpService<Tools, NeverSessionManager>,
}

impl Endpoint {
    async fn serve(&self, request: Request) -> Response<Body> {
        if request.method() != Method::POST {
            return wrong_method(request.method());
        }
        let answer = self.answer(request).await;
        answer.unwrap_or_else(|status| http_response(&status))
    }

    async fn answer(&self, request: Request) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let gateway = &self.compute.gateway;
        let from = parts.extensions.get::<ClientAddress>();
        let from = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.0);
        let caller = gateway.caller(&parts.headers, from).map_err(refused)?;
        self.check_origin(&parts.headers).map_err(refused)?;
        // Counts the message and the app's answer until the call is answered.
        let reserved = self.buffers.reserve(caller.orgs.first(), 0);
        let reserved = Arc::new(reserved.map_err(refused)?);
        let message = self.read(body, &reserved).await?;
        check_json(&message).map_err(refused)?;
        // The library logs requests at its debug level.
        parts.headers.remove(header::AUTHORIZATION);
        parts.extensions.insert(caller);
        parts.extensions.insert(reserved);
        let request = Request::from_parts(parts, Full::new(message));
        let answer = self.protocol.handle(request).await;
        Ok(marked(answer.map(Body::new)))
    }

    /// Refuses web pages of other sites, as the protocol demands (DNS rebinding).
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let uri = origin.to_str().ok().and_then(|o| o.parse::<Uri>().ok());
        // `null`, the origin of a page in a sandbox, would be read as a host.
        let uri = uri.filter(|uri| uri.scheme().is_some());
        let host = uri.as_ref().and_then(Uri::authority);
        let is_ours = host.is_some_and(|host| {
            let hosts = &self.compute.gateway.hosts;
            hosts.check(Some(host.as_str())).is_ok()
        });
        if is_ours {
            return Ok(());
        }
        Err(Failure::new(
            Reason::PermissionDenied,
            format!(
                "pages of {origin:?} may not use this endpoint; add the host of pages that may to api_hosts (IGNITE_API_HOSTS)"
            ),
        ))
    }

    /// The whole message.
    async fn read(&self, body: Body, reserved: &Arc<Reserved>) -> Result<Bytes, Status> {
        let body = Metered::new(body, reserved.clone(), 0);
        let read = Limited::new(body, self.max_bytes).collect().await;
        let read = read.map_err(|e| {
            if e.is::<LengthLimitError>() {
                return refused(Failure::new(
                    Reason::BodyTooLarge,
                    format!(
                        "the message is over {} bytes (IGNITE_MCP_MESSAGE_BYTES); give tools large data by reference",
                        self.max_bytes
                    ),
                ));
            }
            Status::from_error(e)
        })?;
        Ok(read.to_bytes())
    }
}

/// Refuses a message that is not JSON with its syntax error; the library would answer with 415, as
/// if the content type were wrong.
fn check_json(message: &[u8]) -> Result<(), Failure> {
    let checked = serde_json::from_slice::<serde::de::IgnoredAny>(message);
    checked.map(drop).map_err(|e| {
        let why = format!("the message is not JSON: {e}; send one JSON-RPC message");
        Failure::new(Reason::MalformedRequest, why)
    })
}

fn refused(failure: Failure) -> Status {
    super::status::to_status(&failure, false)
}

/// Adds the header that every refusal has to refusals of the library.
fn marked(mut answer: Response<Body>) -> Response<Body> {
    let status = answer.status();
    let reason = if status.is_server_error() {
        Reason::Internal
    } else if status.is_client_error() {
        Reason::MalformedRequest
    } else {
        return answer;
    };
    let reason = HeaderValue::from_static(reason.as_str());
    answer.headers_mut().insert(ERROR_HEADER, reason);
    answer
}

fn wrong_method(method: &Method) -> Response<Body> {
    let failure = Failure::new(
        Reason::MethodNotAllowed,
        format!(
            "{method} is not allowed here: MCP messages are sent with POST, and this server has no sessions and no streams to GET"
        ),
    );
    let mut response = to_response(&failure, false);
    let post = HeaderValue::from_static("POST");
    response.headers_mut().insert(header::ALLOW, post);
    response
}
