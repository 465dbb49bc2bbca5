//! The front of the HTTP listener: where a request goes, by its host and its path.

use std::{
    future::{self, Future},
    sync::Arc,
};

use axum::Router;
use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderMap, Request, Response, Version, header};
use hyper::body::Incoming;
use tower::ServiceExt as _;

use super::{
    Gateway,
    admission::RequestedApp,
    body::Body,
    by_path::ByPath,
    close, headers, listener,
    peer::{ClientAddress, Peer},
    refusal, request,
    routes::Route,
};
use crate::model::{AppId, ExecutionId, Failure, Reason};

/// What the HTTP listener serves: app URLs, and the API on all others.
#[derive(Clone)]
pub struct Front {
    /// Where apps are found.
    pub gateway: Arc<Gateway>,
    /// The API.
    pub api: Router,
    /// The API in gRPC.
    pub grpc: Arc<dyn GrpcApi>,
}

/// Answers the gRPC calls to the API.
pub trait GrpcApi: Send + Sync {
    /// Answers a request with the content type of gRPC.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> BoxFuture<'_, Response<Body>>;
}

impl listener::Service for Front {
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        let version = request.version();
        let answer = self.gateway.handle(self, request, peer);
        answer.map(move |mut response| {
            if version == Version::HTTP_10 {
                end_with_connection(&mut response);
            }
            response
        })
    }

    async fn refusal(&self, why: &Failure) -> Bytes {
        refusal::encode_http1((self.gateway.render)(why, false)).await
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        self.gateway.failure(why, false, grpc)
    }
}

/// Where a request of the HTTP listener goes.
pub(super) enum Destination {
    App(Route, Option<ByPath>),
    Api,
    /// To the gRPC API, by its content type.
    Grpc,
    /// No further: this is the answer.
    Answered(Response<Body>),
}

impl Gateway {
    /// Answers one request of the HTTP listener. Whatever needs no waiting happens before there is
    /// a future, which then holds the request once, in its final form.
    pub(super) fn handle(
        &self,
        front: &Front,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        // Rare, so it has its room elsewhere.
        if let Some(awaited) = self.awaited_key(request.headers(), peer) {
            return Either::Left(Box::pin(async move {
                awaited.await;
                self.answer(front, request, peer).await
            }));
        }
        Either::Right(self.answer(front, request, peer))
    }

    fn answer(
        &self,
        front: &Front,
        mut request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        // gRPC calls come in HTTP/2, and their callers understand gRPC answers only.
        let grpc = request.version() == Version::HTTP_2 && headers::is_grpc(request.headers());
        match self.destination(&request, peer, grpc) {
            Destination::App(route, by_path) => {
                Either::Left(self.app(route, request, peer, by_path, grpc))
            }
            Destination::Api => {
                let client = ClientAddress(self.client(peer, request.headers()));
                request.extensions_mut().insert(client);
                let answer = front.api.clone().oneshot(request);
                let answer = answer.map(|Ok(response)| response.map(Body::Api));
                Either::Right(Either::Left(Either::Left(answer)))
            }
            Destination::Grpc => {
                let answer = front.grpc.clone().call(request, peer);
                Either::Right(Either::Left(Either::Right(answer)))
            }
            Destination::Answered(answer) => Either::Right(Either::Right(future::ready(answer))),
        }
    }

    pub(super) fn destination(
        &self,
        request: &Request<Incoming>,
        peer: &Peer,
        grpc: bool,
    ) -> Destination {
        if let Err(failure) = request::check(request) {
            return Destination::Answered(self.failure(&failure, false, grpc));
        }
        let host = request::host_of(request);
        let label = host.and_then(|h| self.hosts.label(h));
        let by_path = request.uri().path().strip_prefix(request::BY_PATH);
        if peer.reserved && (label.is_some() || by_path.is_some()) {
            return Destination::Answered(self.too_many_connections(grpc));
        }
        if let Some(label) = label {
            return match self.routes.find(label) {
                Some(route) => Destination::App(route, None),
                None => self.no_app(RequestedApp::Label(label), request.headers(), peer, grpc),
            };
        }
        if let Some(host) = host
            && let Some(id) = self.routes.app_of(host)
        {
            return self.by_custom_host(&id, host, request.headers(), peer, grpc);
        }
        if let Err(failure) = self.hosts.check(host) {
            return Destination::Answered(self.failure(&failure, false, grpc));
        }
        let Some(rest) = by_path else {
            return if headers::is_grpc(request.headers()) {
                Destination::Grpc
            } else {
                Destination::Api
            };
        };
        let (id, by_path) = match self.by_path(rest, host) {
            Ok(found) => found,
            Err(failure) => return Destination::Answered(self.failure(&failure, false, grpc)),
        };
        // Before the app is looked up, so that the answer does not say whether it exists.
        if let Some(redirect) = by_path.redirect_to_slash(request.uri().query()) {
            return Destination::Answered(redirect);
        }
        match self.fleet.get(&id) {
            Some(deployment) => {
                let port = None;
                Destination::App(Route { deployment, port }, Some(by_path))
            }
            None => self.no_app(RequestedApp::Path(&id), request.headers(), peer, grpc),
        }
    }

    pub(super) fn no_app(
        &self,
        requested: RequestedApp<'_>,
        headers: &HeaderMap,
        peer: &Peer,
        grpc: bool,
    ) -> Destination {
        let failure = self.not_found(requested, headers, peer);
        let execution = ExecutionId(ulid::Ulid::generate());
        Destination::Answered(self.refused(&failure, false, execution, grpc))
    }

    fn by_path(&self, rest: &str, host: Option<&str>) -> Result<(AppId, ByPath), Failure> {
        if !self.app_paths {
            return Err(Failure::new(
                Reason::NotFound,
                "apps are not served by path here (app_paths, IGNITE_APP_PATHS); each has a host of its own, which `ignite app list` shows",
            ));
        }
        let (id, path) = request::split_path(rest)?;
        let by_path = ByPath::new(&id, path, host);
        Ok((id, by_path))
    }
}

/// An answer without a length ends for a client of HTTP/1.0 with its connection, and has to say so:
/// one that asked to keep the connection would wait for the rest for ever.
fn end_with_connection(response: &mut Response<Body>) {
    let is_last = response.headers().contains_key(header::CONNECTION);
    let has_length = http_body::Body::size_hint(response.body())
        .exact()
        .is_some();
    if is_last || !has_length {
        close(response);
        // hyper promises to keep the connection in answers of a later version.
        *response.version_mut() = Version::HTTP_10;
    }
}
