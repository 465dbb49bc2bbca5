//! Sending a request to a replica that is being thawed.
//!
//! The kernel takes connections and data for a frozen process, so the request is on its way
//! before the engine has answered, and the app finds it when it goes on. Should the thaw fail, the
//! app never ran, so a request whose body is still at hand can safely be sent elsewhere; one whose
//! body streams is sent only once the replica is awake.

use std::{io, sync::Arc};

use http::{Request, Response};
use tokio::sync::watch;

use super::upstream::{Answer, Body, Error, Pool};

/// How a thaw stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thaw {
    Pending,
    Awake,
    Failed,
}

pub(super) async fn send(
    thaw: watch::Receiver<Thaw>,
    pool: &Arc<Pool>,
    request: Request<Body>,
) -> Result<Response<Answer>, Error> {
    let Some(copy) = copy(&request) else {
        return match awake(thaw).await {
            true => pool.send(request).await,
            false => Err(not_awake(pool, request)),
        };
    };
    let failed = async {
        if awake(thaw.clone()).await {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = pool.send(request) => match outcome {
            // It broke, perhaps because the thaw fails; then the app has not seen the request.
            Err(Error::Broke(cause)) => match awake(thaw).await {
                true => Err(Error::Broke(cause)),
                false => Err(not_awake(pool, copy)),
            },
            // Nobody listens: it has ended, which the thaw is about to find. Until then another
            // try would come back here.
            Err(refused @ Error::Connect { .. }) => {
                awake(thaw).await;
                Err(refused)
            }
            other => other,
        },
        () = failed => Err(not_awake(pool, copy)),
    }
}

async fn awake(mut thaw: watch::Receiver<Thaw>) -> bool {
    thaw.wait_for(|state| *state != Thaw::Pending)
        .await
        .is_ok_and(|state| *state == Thaw::Awake)
}

fn not_awake(pool: &Pool, unsent: Request<Body>) -> Error {
    Error::Connect {
        addr: pool.addr(),
        cause: io::Error::other("the replica did not wake from standby"),
        unsent: Some(Box::new(unsent)),
    }
}

fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let body = match request.body() {
        Body::Empty => Body::Empty,
        Body::Full(bytes) => Body::Full(bytes.clone()),
        Body::Streamed(_) => return None,
    };
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}
