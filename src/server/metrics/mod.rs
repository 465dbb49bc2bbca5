//! `/metrics`: what the process counts and what it is, for Prometheus.
//!
//! At the API's address a token is needed, and shows the apps of its organizations alone: the rest
//! is the machine's, which organizations share. A listener of its own (`metrics_addr`) shows all of
//! it to whoever reaches it, without a token.

mod gauges;
mod process;
mod state;

use std::{
    future::{self, Future},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body as ApiBody,
    extract::Request as ApiRequest,
    http::{HeaderMap, HeaderValue, Response, header},
    routing::get,
};
use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Incoming;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::Registry,
};

use self::state::{Sources, Visible};
use super::{base::Base, platform::Platform};
use crate::{
    api::status::to_response,
    gateway::{
        Gateway,
        body::Body,
        listener::Service,
        peer::{ClientAddress, Peer},
        refusal,
    },
    identity::{Caller, lacks_scope},
    model::{Failure, Reason, Scope},
};

/// Where it is.
const PATH: &str = "/metrics";

/// The format that Prometheus has read from its beginnings.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The format that it asks for since version 2.5; it alone has exemplars.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that `/metrics` shows; clones share it.
#[derive(Clone)]
pub(super) struct Exposition {
    sources: Arc<Sources>,
    gateway: Arc<Gateway>,
}

impl Exposition {
    pub(super) fn new(base: &Base, platform: &Platform) -> Self {
        Self {
            sources: Arc::new(Sources::new(base, platform)),
            gateway: platform.gateway.clone(),
        }
    }

    /// The route at the API's address.
    pub(super) fn router(&self) -> Router {
        let this = self.clone();
        let scrape = move |request: ApiRequest| future::ready(this.of_caller(&request));
        Router::new().route(PATH, get(scrape))
    }

    fn of_caller(&self, request: &ApiRequest) -> Response<ApiBody> {
        let from = request.extensions().get::<ClientAddress>();
        let from = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.0);
        let caller = self.gateway.caller(request.headers(), from);
        let caller = caller.and_then(|caller| {
            let may = caller.grants.everywhere.has(Scope::ListApps);
            may.then_some(caller)
                .ok_or_else(|| lacks_scope(Scope::ListApps, None))
        });
        match caller {
            Ok(caller) => self.scrape(request.headers(), Visible::Of(caller)),
            Err(failure) => to_response(&failure, false),
        }
    }

    fn scrape(&self, headers: &HeaderMap, visible: Visible<Arc<Caller>>) -> Response<ApiBody> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape {
            sources: self.sources.clone(),
            visible,
        }));
        let accepted = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let is_open = accepted.is_some_and(|types| types.contains("application/openmetrics-text"));
        let mut out = String::with_capacity(64 << 10);
        let (written, kind) = if is_open {
            (text::encode(&mut out, &registry), OPEN_METRICS)
        } else {
            (prometheus_text::encode(&mut out, &registry), PROMETHEUS)
        };
        if written.is_err() {
            let text = "the metrics could not be written; this is a bug in ignite";
            return to_response(&Failure::new(Reason::Internal, text), false);
        }
        let mut response = Response::new(ApiBody::from(out));
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// One scrape, as the crate for the formats takes it.
struct Scrape {
    sources: Arc<Sources>,
    visible: Visible<Arc<Caller>>,
}

impl std::fmt::Debug for Scrape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.sources.encode(&mut encoder, &self.visible)
    }
}

/// The listener that shows everything without a token.
pub(super) struct Open(pub(super) Exposition);

impl Open {
    fn respond(&self, request: &Request<Incoming>) -> Response<ApiBody> {
        let path = request.uri().path();
        if path != PATH {
            let text = format!("nothing is at {path}; this address has {PATH} alone");
            return to_response(&Failure::new(Reason::NotFound, text), false);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = format!(
                "{} is not allowed on {PATH}; allowed: GET, HEAD",
                request.method()
            );
            return to_response(&Failure::new(Reason::MethodNotAllowed, text), false);
        }
        self.0.scrape(request.headers(), Visible::All)
    }
}

impl Service for Open {
    fn answer(
        &self,
        request: Request<Incoming>,
        _: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        future::ready(self.respond(&request).map(Body::Api))
    }

    async fn refusal(&self, why: &Failure) -> Bytes {
        refusal::encode_http1(to_response(why, false)).await
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        self.0.gateway.failure(why, false, grpc)
    }
}
