//! What apps in containers are served, on the instance's own bridge: the URLs of apps and tokens.
//! The API only where the app that asks was granted it.

use std::{future::Future, net::IpAddr, sync::Arc};

use axum::Router;
use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture, Either},
};
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Front, GrpcApi, body::Body, headers, listener, peer::Peer, request};
use crate::{
    identity::REALM,
    model::{AppId, Failure, Reason},
};

/// Finds the app whose container has an address, by asking the engine; `None` when no app has it.
pub type Grants =
    Arc<dyn Fn(IpAddr) -> BoxFuture<'static, Result<Option<AppId>, Failure>> + Send + Sync>;

/// What a listener for apps in containers serves.
#[derive(Clone)]
pub struct FromApps {
    /// For apps that were granted the API.
    full: Front,
    /// For all others.
    narrow: Front,
    grants: Grants,
}

impl FromApps {
    /// Serves app URLs as `full` does, and `tokens`; the rest of `full` to apps that were granted
    /// it.
    pub fn new(full: Front, tokens: Router, grants: Grants) -> Self {
        let render = full.gateway.render;
        let refuse = move || future::ready(render(&no_api(), false));
        Self {
            narrow: Front {
                gateway: full.gateway.clone(),
                api: tokens.fallback(refuse),
                grpc: Arc::new(NoGrpc(full.gateway.clone())),
            },
            full,
            grants,
        }
    }

    /// Whether only an app that was granted the API gets what a request asks for.
    fn needs_grant(&self, request: &Request<Incoming>) -> bool {
        let gateway = &self.full.gateway;
        let host = request::host_of(request);
        let is_apps = host.is_some_and(|host| {
            gateway.hosts.label(host).is_some() || gateway.routes.app_of(host).is_some()
        });
        let path = request.uri().path();
        !is_apps && !path.starts_with(request::BY_PATH) && !path.starts_with(REALM)
    }

    /// Whether the app at the other end was granted the API.
    async fn is_granted(&self, peer: &Peer) -> Result<bool, Failure> {
        let find = || (self.grants)(peer.address.ip().to_canonical());
        let app = peer.app.get_or_try_init(find).await?;
        let deployment = app
            .as_ref()
            .and_then(|app| self.full.gateway.fleet.get(app));
        Ok(deployment.is_some_and(|d| d.with_revision(|r| r.api_access)))
    }

    async fn answer_for_api(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let gateway = &self.full.gateway;
        match self.is_granted(peer).await {
            Ok(true) => listener::Service::answer(&self.full, request, peer).await,
            Ok(false) => listener::Service::answer(&self.narrow, request, peer).await,
            Err(failure) => gateway.failure(&failure, false, headers::is_grpc(request.headers())),
        }
    }
}

impl listener::Service for FromApps {
    const CLIENTS_ARE_APPS: bool = true;

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        if self.needs_grant(&request) {
            return Either::Left(Box::pin(self.answer_for_api(request, peer)));
        }
        Either::Right(listener::Service::answer(&self.narrow, request, peer))
    }

    async fn refusal(&self, why: &Failure) -> Bytes {
        self.full.refusal(why).await
    }

    fn failure(&self, why: &Failure, grpc: bool) -> Response<Body> {
        self.full.failure(why, grpc)
    }
}

/// The refusal of the API in gRPC.
struct NoGrpc(Arc<super::Gateway>);

impl GrpcApi for NoGrpc {
    fn call(self: Arc<Self>, _: Request<Incoming>, _: &Peer) -> BoxFuture<'_, Response<Body>> {
        future::ready(self.0.failure(&no_api(), false, true)).boxed()
    }
}

fn no_api() -> Failure {
    Failure::new(
        Reason::PermissionDenied,
        "apps reach the URLs of apps and the token endpoint here, and not the API; its owner grants an app the API with `ignite app update NAME --api-access`",
    )
}
