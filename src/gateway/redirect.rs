//! Redirects plain HTTP to HTTPS.

use std::future::{self, Future};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use hyper::body::Incoming;

use super::{Front, body::Body, headers, listener, peer::Peer, request};
use crate::model::{Failure, Reason};

/// What probes of load balancers ask for, which seldom speak TLS.
const HEALTH_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// What the plain listener serves beside HTTPS: redirects (308, which keeps method and body) and the
/// health paths. Requests that a trusted proxy received over TLS are served.
pub struct Redirect {
    /// Serves what is not redirected.
    pub front: Front,
    /// HTTPS's port as clients see it; `None` for 443.
    pub port: Option<u16>,
}

impl listener::Service for Redirect {
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        match self.redirect(&request, peer) {
            Some(answer) => Either::Left(future::ready(answer)),
            None => Either::Right(self.front.answer(request, peer)),
        }
    }

    fn refusal(&self, why: &Failure) -> impl Future<Output = Bytes> + Send {
        self.front.refusal(why)
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        self.front.failure(why, grpc)
    }
}

impl Redirect {
    /// The redirect of a request; `None` for one that is served or refused here.
    fn redirect(&self, request: &Request<Incoming>, peer: &Peer) -> Option<Response<Body>> {
        let gateway = &self.front.gateway;
        if request::check(request).is_err() {
            return None;
        }
        let is_proxied = gateway.trusted_proxies.contain(peer.address.ip())
            && headers::says_https(request.headers());
        if is_proxied {
            return None;
        }
        let host = request::host_of(request);
        let is_apps = host.is_some_and(|host| {
            gateway.hosts.label(host).is_some() || gateway.routes.app_of(host).is_some()
        });
        if !is_apps {
            let is_probe = matches!(*request.method(), Method::GET | Method::HEAD)
                && HEALTH_PATHS.contains(&request.uri().path());
            // A host that is not the API's is refused as it is over TLS.
            if is_probe || gateway.hosts.check(host).is_err() {
                return None;
            }
        }
        let to = self.location(request, host);
        if request.version() == Version::HTTP_2 && headers::is_grpc(request.headers()) {
            let text = format!("this address only redirects; call {to}");
            let failure = Failure::new(Reason::MalformedRequest, text);
            return Some(gateway.failure(&failure, false, true));
        }
        let mut answer = Response::new(Body::default());
        *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
        let to = HeaderValue::try_from(to).ok()?;
        answer.headers_mut().insert(header::LOCATION, to);
        Some(answer)
    }

    fn location(&self, request: &Request<Incoming>, host: Option<&str>) -> String {
        let authority = host.and_then(|host| host.parse::<Authority>().ok());
        let name = authority.as_ref().map_or("", Authority::host);
        let name = match name {
            "" => self.front.gateway.hosts.base_domain.as_str(),
            name => name,
        };
        let port = self.port.map(|port| format!(":{port}"));
        let target = request.uri().path_and_query();
        let target = target.map_or("/", http::uri::PathAndQuery::as_str);
        format!("https://{name}{}{target}", port.unwrap_or_default())
    }
}
