//! The gRPC API, on its own listener and on the HTTP listener, within the same bounds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{
    admission::{admit, bounded, is_counted},
    anonymous::AnonymousCalls,
    buffers::Buffers,
    elsewhere,
    limits::Limits,
    status::{explain_refusal, to_response, to_status},
};
use crate::{
    gateway::{
        Gateway, GrpcApi,
        body::Body,
        headers::is_grpc,
        listener,
        peer::{ClientAddress, Peer},
        refusal::goaway,
        request::host_of,
    },
    model::{Failure, Reason},
};

/// Longest number in `grpc-timeout`.
const TIMEOUT_DIGITS: usize = 8;

/// The gRPC API.
pub struct Grpc {
    services: Routes,
    limits: Limits,
    gateway: Arc<Gateway>,
    anonymous: Arc<AnonymousCalls>,
    buffers: Buffers,
}

impl Grpc {
    /// Serves these services to callers whom the gateway knows. `limits` are named when a message
    /// is refused as too large.
    pub fn new(
        services: Routes,
        limits: Limits,
        gateway: Arc<Gateway>,
        anonymous: Arc<AnonymousCalls>,
        buffers: Buffers,
    ) -> Self {
        Self {
            services: services.prepare(),
            limits,
            gateway,
            anonymous,
            buffers,
        }
    }

    /// Serves a call that needs no token, within the bounds on such calls.
    async fn anonymous(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<tonic::body::Body> {
        match self.anonymous.admit(peer.address.ip()) {
            Ok(permit) => permit.bound(self.call(request, peer)).await,
            Err(failure) => to_status(&failure, false).into_http(),
        }
    }

    async fn call(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<tonic::body::Body> {
        if let Some(awaited) = self.gateway.awaited_key(request.headers(), peer) {
            awaited.await;
        }
        let trusted = &self.gateway.trusted_proxies;
        let from = ClientAddress::of(peer, request.headers(), trusted);
        if let Err(failure) = admit(&self.gateway, &mut request, from) {
            return to_status(&failure, false).into_http();
        }
        let timeout = timeout(request.headers());
        let call = async {
            match bounded(request, &self.buffers).await {
                Ok((request, _reserved)) => self.services.clone().oneshot(request).await,
                Err(status) => Ok(status.into_http()),
            }
        };
        let outcome = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, call).await,
            None => Ok(call.await),
        };
        match outcome {
            Ok(Ok(response)) => explain_refusal(response, self.limits),
            Ok(Err(never)) => match never {},
            Err(_) => to_status(&too_late(), false).into_http(),
        }
    }
}

impl GrpcApi for Grpc {
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move { listener::Service::answer(&*self, request, peer).await })
    }
}

impl listener::Service for Grpc {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        if request.version() != Version::HTTP_2 {
            let why = if is_grpc(request.headers()) {
                not_http2()
            } else {
                no_grpc()
            };
            return to_response(&why, false).map(Body::Api);
        }
        let path = request.uri().path();
        let refusal = self.gateway.hosts.check(host_of(&request)).err();
        let response = match refusal.or_else(|| elsewhere::of_grpc(path)) {
            Some(failure) => to_status(&failure, false).into_http(),
            None if is_counted(path) => self.anonymous(request, peer).await,
            None => self.call(request, peer).await,
        };
        response.map(|body| Body::Api(axum::body::Body::new(body)))
    }

    async fn refusal(&self, why: &Failure) -> Bytes {
        goaway(&why.text(false))
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        self.gateway.failure(why, false, grpc)
    }
}

fn too_late() -> Failure {
    Failure::new(
        Reason::RequestTimeout,
        "the call took longer than its own deadline (grpc-timeout)",
    )
}

fn no_grpc() -> Failure {
    Failure::new(
        Reason::MalformedRequest,
        "this address speaks gRPC, which is HTTP/2; the JSON API and app URLs are at another (IGNITE_HTTP_ADDR)",
    )
}

fn not_http2() -> Failure {
    Failure::new(
        Reason::MalformedRequest,
        "the content type is gRPC's, which is HTTP/2, and the request is HTTP/1.1; connect in HTTP/2 without TLS by prior knowledge (h2c, \"plaintext\" in gRPC clients) and let no proxy in between turn it into HTTP/1.1, or call the JSON API with application/json",
    )
}

/// How long the caller waits for a response to begin, if its `grpc-timeout` is valid.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > TIMEOUT_DIGITS || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let of = |text: &str| {
            let value = text.parse().expect("a header");
            timeout(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                value,
            )]))
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1\u{e9}"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
